#include "core/arena.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <vector>

namespace fovea {
namespace {

TEST(Arena, TakesAlignedDisjointMemory) {
  Arena arena;
  std::vector<char*> taken;
  const std::vector<size_t> sizes = {1, 63, 64, 65, 0, 1000, size_t{3} << 20, 7};
  for (size_t i = 0; i < sizes.size(); ++i) {
    char* p = static_cast<char*>(arena.take(sizes[i]));
    ASSERT_EQ(reinterpret_cast<uintptr_t>(p) % 64, 0u);
    std::memset(p, static_cast<int>(i + 1), sizes[i]);
    taken.push_back(p);
  }
  for (size_t i = 0; i < sizes.size(); ++i)
    for (size_t b = 0; b < sizes[i]; ++b) ASSERT_EQ(taken[i][b], static_cast<char>(i + 1)) << "block " << i << ", byte " << b;
}

TEST(Arena, EmptyTakesAreDistinct) {
  Arena arena;
  EXPECT_NE(arena.take(size_t{0}), arena.take(size_t{0}));
}

TEST(Arena, ReleaseGivesTheSameMemoryAgain) {
  Arena arena;
  arena.take(100);
  const Arena::Mark mark = arena.mark();
  const size_t used = arena.used();
  void* first = arena.take(1000);
  arena.take(5000);
  EXPECT_GT(arena.used(), used + 5999);
  arena.release(mark);
  EXPECT_EQ(arena.used(), used);
  EXPECT_EQ(arena.take(10), first);
}

TEST(Arena, ScopesNest) {
  Arena arena;
  const void* outer;
  {
    ArenaScope a(arena);
    arena.take(64);
    {
      ArenaScope b(arena);
      outer = arena.take(64);
    }
    EXPECT_EQ(arena.take(64), outer);
    EXPECT_EQ(arena.used(), 128u);
  }
  EXPECT_EQ(arena.used(), 0u);
}

TEST(Arena, PeakIsTheLargestUse) {
  Arena arena;
  {
    ArenaScope scope(arena);
    arena.take(6400);
  }
  arena.take(64);
  EXPECT_EQ(arena.peak(), 6400u);
  arena.reset_peak();
  EXPECT_EQ(arena.peak(), 64u);
}

// What a training step does: the first one grows block by block, the following ones ask the system for nothing.
TEST(Arena, ARepeatedPatternAllocatesNothing) {
  Arena arena;
  const auto step = [&] {
    for (int i = 0; i < 40; ++i) {
      ArenaScope scope(arena);
      arena.take(size_t{1} << 20);
      arena.take(1000);
    }
    for (int i = 0; i < 40; ++i) arena.take(size_t{700} << 10);
    arena.reset();
  };
  step();
  const int64_t after_first = arena.system_allocations();
  EXPECT_GE(after_first, 2) << "the pattern should need several blocks at first";
  for (int i = 0; i < 5; ++i) step();
  EXPECT_EQ(arena.system_allocations(), after_first);
  EXPECT_GE(arena.reserved(), arena.peak());
  EXPECT_LT(arena.reserved(), 2 * arena.peak()) << "the blocks are merged into one of the peak's size";
}

// The same with a scope instead of reset().
TEST(Arena, AScopeAroundEverythingMergesToo) {
  Arena arena;
  const auto step = [&] {
    ArenaScope scope(arena);
    for (int i = 0; i < 40; ++i) arena.take(size_t{700} << 10);
  };
  step();
  step();
  const int64_t steady = arena.system_allocations();
  for (int i = 0; i < 5; ++i) step();
  EXPECT_EQ(arena.system_allocations(), steady);
}

TEST(Arena, GrowingInsideAScopeKeepsWhatWasTakenBefore) {
  Arena arena;
  auto* before = arena.take<int32_t>(1000);
  for (int i = 0; i < 1000; ++i) before[i] = i;
  {
    ArenaScope scope(arena);
    for (int i = 0; i < 10; ++i) std::memset(arena.take(size_t{2} << 20), 0xff, size_t{2} << 20);
  }
  for (int i = 0; i < 1000; ++i) ASSERT_EQ(before[i], i);
}

TEST(Arena, ATensorTooLargeForMemoryIsAnError) {
  Arena arena;
  EXPECT_THROW(arena.take(Shape{int64_t{1} << 40, int64_t{1} << 22}, DType::kF32), Error);  // the bytes overflow
  EXPECT_THROW(arena.take(Shape{int64_t{1} << 56}, DType::kF32), Error);                    // the system refuses
  EXPECT_EQ(arena.used(), 0u);
  EXPECT_EQ(arena.take(Shape{2, 3}, DType::kF32).bytes(), 24u);
}

TEST(Buffer, IsZeroAlignedAndMoves) {
  Buffer a(size_t{3} << 20);
  ASSERT_GE(a.size(), size_t{3} << 20);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(a.data()) % 4096, 0u);
  const char* bytes = static_cast<const char*>(a.data());
  for (size_t i = 0; i < a.size(); i += 4096) ASSERT_EQ(bytes[i], 0);
  Buffer b(std::move(a));
  EXPECT_EQ(b.data(), bytes);
  Buffer c;
  EXPECT_EQ(c.data(), nullptr);
  c = std::move(b);
  EXPECT_EQ(c.data(), bytes);
  EXPECT_EQ(Buffer(0).data(), nullptr);
}

}  // namespace
}  // namespace fovea
