#include "core/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "fovea/error.h"

namespace fovea {
namespace {

const int kThreadCounts[] = {1, 2, 3, 7, 16};
const int64_t kSizes[] = {0, 1, 2, 3, 7, 8, 31, 1000};

TEST(ThreadPool, EveryIndexRunsOnce) {
  for (const int threads : kThreadCounts) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    for (const int64_t n : kSizes) {
      std::vector<std::atomic<int>> count(static_cast<size_t>(n));
      pool.for_each(n, [&](int64_t i) { ++count[static_cast<size_t>(i)]; });
      for (int64_t i = 0; i < n; ++i) ASSERT_EQ(count[static_cast<size_t>(i)], 1) << threads << " threads, index " << i;
    }
  }
}

TEST(ThreadPool, RangesAreContiguousAndFixed) {
  for (const int threads : kThreadCounts) {
    ThreadPool pool(threads);
    for (const int64_t n : kSizes) {
      std::vector<std::pair<int64_t, int64_t>> first(static_cast<size_t>(threads)), second = first;
      for (auto* ranges : {&first, &second})
        pool.for_ranges(n, [&](int64_t b, int64_t e, int t) { (*ranges)[static_cast<size_t>(t)] = {b, e}; });
      EXPECT_EQ(first, second);
      int64_t next = 0;
      for (const auto& [begin, end] : first) {
        if (begin == end) continue;
        ASSERT_EQ(begin, next);
        next = end;
      }
      EXPECT_EQ(next, n);
    }
  }
}

TEST(ThreadPool, UsesItsThreads) {
  ThreadPool pool(4);
  std::vector<std::thread::id> ids(4);
  pool.for_ranges(4, [&](int64_t b, int64_t, int) { ids[static_cast<size_t>(b)] = std::this_thread::get_id(); });
  EXPECT_EQ(std::set<std::thread::id>(ids.begin(), ids.end()).size(), 4u);
  EXPECT_EQ(ids[0], std::this_thread::get_id()) << "the caller is thread 0";
}

TEST(ThreadPool, IsReusedManyTimes) {
  ThreadPool pool(3);
  int64_t total = 0;
  for (int round = 0; round < 5000; ++round) {
    int64_t part[3] = {0, 0, 0};
    pool.for_ranges(10, [&](int64_t b, int64_t e, int t) {
      for (int64_t i = b; i < e; ++i) part[t] += i;
    });
    total += part[0] + part[1] + part[2];
  }
  EXPECT_EQ(total, 5000 * 45);
}

TEST(ThreadPool, WorksAfterItsThreadsFellAsleep) {
  ThreadPool pool(3);
  for (int round = 0; round < 3; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    std::atomic<int> count{0};
    pool.for_each(100, [&](int64_t) { ++count; });
    EXPECT_EQ(count, 100);
  }
}

TEST(ThreadPool, RethrowsTheLowestThreadsExceptionAndGoesOn) {
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    for (int round = 0; round < 20; ++round) {
      std::string message;
      try {
        pool.for_ranges(100, [&](int64_t, int64_t, int t) { throw Error("thread " + std::to_string(t)); });
      } catch (const Error& e) {
        message = e.what();
      }
      EXPECT_EQ(message, "thread 0");
    }
    if (threads > 1) {
      EXPECT_THROW(pool.for_ranges(100, [&](int64_t, int64_t, int t) {
        if (t == threads - 1) throw Error("the last");
      }),
                   Error);
    }
    std::atomic<int> count{0};
    pool.for_each(100, [&](int64_t) { ++count; });
    EXPECT_EQ(count, 100) << "no exception is left over";
  }
}

TEST(ThreadPool, EnteringItFromInsideIsAnError) {
  ThreadPool pool(2);
  EXPECT_THROW(pool.for_each(2, [&](int64_t) { pool.for_each(2, [](int64_t) {}); }), InternalError);
}

TEST(ThreadPool, RefusesAbsurdCounts) {
  EXPECT_THROW(ThreadPool(-1), Error);
  EXPECT_THROW(ThreadPool(100000), Error);
  EXPECT_GE(ThreadPool(0).threads(), 1);
}

TEST(ThreadPool, PoolsOfDifferentCallersAreIndependent) {
  std::atomic<int64_t> total{0};
  std::vector<std::thread> callers;
  for (int c = 0; c < 4; ++c)
    callers.emplace_back([&] {
      ThreadPool pool(2);
      for (int round = 0; round < 200; ++round) pool.for_each(10, [&](int64_t i) { total += i; });
    });
  for (auto& t : callers) t.join();
  EXPECT_EQ(total, 4 * 200 * 45);
}

}  // namespace
}  // namespace fovea
