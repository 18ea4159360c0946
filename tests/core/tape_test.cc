#include "core/tape.h"

#include <gtest/gtest.h>

namespace fovea {
namespace {

struct First {
  ConstTensor x;
  int64_t rows = 0;
};
struct Second {
  double scale = 0;
};

TEST(Tape, PopsInReverseOrder) {
  Tape tape;
  EXPECT_TRUE(tape.empty());
  tape.push(First{{}, 7});
  tape.push(Second{0.5});
  tape.push(Second{0.25});
  EXPECT_EQ(tape.size(), 3u);
  EXPECT_EQ(tape.pop<Second>().scale, 0.25);
  EXPECT_EQ(tape.pop<Second>().scale, 0.5);
  EXPECT_EQ(tape.pop<First>().rows, 7);
  EXPECT_TRUE(tape.empty());
}

TEST(Tape, PoppingAnotherTypeThrowsAndKeepsTheRecord) {
  Tape tape;
  tape.push(First{{}, 7});
  EXPECT_THROW(tape.pop<Second>(), InternalError);
  EXPECT_EQ(tape.pop<First>().rows, 7);
}

TEST(Tape, PoppingFromAnEmptyTapeThrows) {
  Tape tape;
  EXPECT_THROW(tape.pop<First>(), InternalError);
  tape.push(Second{1});
  tape.pop<Second>();
  EXPECT_THROW(tape.pop<Second>(), InternalError);
}

TEST(Tape, TensorsOutliveTheirRecordUntilClear) {
  Tape tape;
  const Tensor kept = tape.arena().take(Shape{100}, DType::kF32);
  for (int i = 0; i < 100; ++i) kept.as<float>()[i] = static_cast<float>(i);
  tape.push(First{kept, 1});
  const First r = tape.pop<First>();
  tape.arena().take(Shape{1000}, DType::kF32).zero();
  for (int i = 0; i < 100; ++i) ASSERT_EQ(r.x.as<float>()[i], static_cast<float>(i));
  tape.clear();
  EXPECT_EQ(tape.arena().used(), 0u);
  EXPECT_TRUE(tape.empty());
}

TEST(Tape, RepeatedStepsAllocateNothing) {
  Tape tape;
  const auto step = [&] {
    for (int layer = 0; layer < 50; ++layer) {
      tape.push(First{tape.arena().take(Shape{200000}, DType::kF32), layer});
    }
    for (int layer = 49; layer >= 0; --layer) ASSERT_EQ(tape.pop<First>().rows, layer);
    tape.clear();
  };
  step();
  const int64_t after_first = tape.arena().system_allocations();
  for (int i = 0; i < 3; ++i) step();
  EXPECT_EQ(tape.arena().system_allocations(), after_first);
}

}  // namespace
}  // namespace fovea
