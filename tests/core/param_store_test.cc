#include "core/param_store.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "core/convert.h"
#include "core/thread_pool.h"

namespace fovea {
namespace {

void add_some(ParamStore& store) {
  const Scope blocks = Scope(store) / "blocks" / int64_t{0};
  (blocks / "norm1").param("weight", Shape{5}, Init::ones(), Decay::kNo);
  (blocks / "attn" / "qkv").param("weight", Shape{9, 5}, Init::truncated_normal(0.02), Decay::kYes);
  (blocks / "attn" / "qkv").param("bias", Shape{9}, Init::constant(0.25), Decay::kNo);
  (blocks / "mlp").param("weight", Shape{3, 7}, Init::uniform(0.5), Decay::kYes);
  Scope(store).param("pos_embed", Shape{1, 4, 5}, Init::normal(1), Decay::kNo);
}

TEST(ParamStore, ScopesGiveDottedNames) {
  ParamStore store;
  add_some(store);
  EXPECT_NE(store.find("blocks.0.attn.qkv.weight"), nullptr);
  EXPECT_NE(store.find("pos_embed"), nullptr);
  EXPECT_EQ(store.find("blocks.0"), nullptr);
  EXPECT_EQ(store.count(), 5 + 45 + 9 + 21 + 20);
}

TEST(ParamStore, SlabsPutDecayFirstAlignedWithoutOverlap) {
  for (const DType dtype : {DType::kF32, DType::kF64, DType::kDual}) {
    ParamStore store;
    add_some(store);
    store.allocate(dtype, ParamStore::Gradients::kYes);
    int64_t last_of_decay = 0, last = 0;
    for (const Param& p : store.params()) {
      ASSERT_EQ(reinterpret_cast<uintptr_t>(p.value.data) % 64, 0u) << p.name;
      ASSERT_EQ(reinterpret_cast<uintptr_t>(p.grad.data) % 64, 0u) << p.name;
      ASSERT_EQ(p.value.dtype, dtype);
      const int64_t begin = store.slab_offset(p), end = begin + p.shape.elements();
      if (p.decay == Decay::kYes) {
        EXPECT_LE(end, store.decay_elements()) << p.name;
        EXPECT_GE(begin, last_of_decay) << "parameters keep their order";
        last_of_decay = end;
      } else {
        EXPECT_GE(begin, store.decay_elements()) << p.name;
        EXPECT_LE(end, store.slab_elements()) << p.name;
        EXPECT_GE(begin, last) << "parameters keep their order";
        last = end;
      }
      const auto offset = static_cast<const char*>(p.grad.data) - static_cast<const char*>(store.grads().data);
      EXPECT_EQ(offset, begin * static_cast<int64_t>(size_of(dtype))) << "gradients mirror values";
    }
  }
}

TEST(ParamStore, GapsStayZero) {
  ParamStore store;
  add_some(store);
  store.allocate(DType::kF32, ParamStore::Gradients::kNo);
  store.initialise(Rng(1));
  double in_parameters = 0, in_slab = 0;
  for (const Param& p : store.params())
    for (int64_t i = 0; i < p.value.elements(); ++i) in_parameters += std::abs(load_scalar(p.value, i));
  for (int64_t i = 0; i < store.slab_elements(); ++i) in_slab += std::abs(load_scalar(store.values(), i));
  EXPECT_NEAR(in_slab, in_parameters, 1e-9 * in_parameters);
  EXPECT_GT(in_parameters, 0);
}

TEST(ParamStore, InitialNumbersDependOnNameAndSeedOnly) {
  ParamStore single, wide, reversed;
  add_some(single);
  add_some(wide);
  for (auto it = single.params().rbegin(); it != single.params().rend(); ++it)
    reversed.add(it->name, it->shape, it->init, it->decay);
  single.allocate(DType::kF32, ParamStore::Gradients::kNo);
  wide.allocate(DType::kF64, ParamStore::Gradients::kYes);
  reversed.allocate(DType::kDual, ParamStore::Gradients::kNo);
  single.initialise(Rng(5));
  wide.initialise(Rng(5));
  reversed.initialise(Rng(5));
  for (const Param& p : single.params())
    for (int64_t i = 0; i < p.value.elements(); ++i) {
      ASSERT_EQ(load_scalar(p.value, i), load_scalar(wide.find(p.name)->value, i)) << p.name;
      ASSERT_EQ(load_scalar(p.value, i), load_scalar(reversed.find(p.name)->value, i)) << p.name;
    }
  wide.initialise(Rng(6));
  EXPECT_NE(load_scalar(single.find("pos_embed")->value, 0), load_scalar(wide.find("pos_embed")->value, 0));
}

TEST(ParamStore, InitialDistributions) {
  ParamStore store;
  Param* truncated = store.add("truncated", Shape{20000}, Init::truncated_normal(0.02), Decay::kYes);
  Param* uniform = store.add("uniform", Shape{20000}, Init::uniform(0.5), Decay::kYes);
  Param* constant = store.add("constant", Shape{3}, Init::constant(0.25), Decay::kNo);
  Param* ones = store.add("ones", Shape{3}, Init::ones(), Decay::kNo);
  store.allocate(DType::kF32, ParamStore::Gradients::kNo);
  store.initialise(Rng(1));
  double largest_truncated = 0, square = 0, low = 0, high = 0;
  for (int64_t i = 0; i < 20000; ++i) {
    const double t = load_scalar(truncated->value, i), u = load_scalar(uniform->value, i);
    largest_truncated = std::max(largest_truncated, std::abs(t));
    square += t * t / 20000;
    low = std::min(low, u);
    high = std::max(high, u);
  }
  EXPECT_LE(largest_truncated, 0.04 * (1 + 1e-6));
  EXPECT_GT(largest_truncated, 0.039);
  EXPECT_NEAR(std::sqrt(square), 0.02 * 0.8796, 0.0003);  // the deviation of N(0, 1) cut at two
  EXPECT_GE(low, -0.5);
  EXPECT_LT(low, -0.499);
  EXPECT_LE(high, 0.5);
  EXPECT_GT(high, 0.499);
  EXPECT_EQ(load_scalar(constant->value, 2), 0.25);
  EXPECT_EQ(load_scalar(ones->value, 2), 1);
}

TEST(ParamStore, ThreadsDrawTheSameNumbers) {
  ParamStore store;
  const Param* p = Scope(store).param("weight", Shape{97, 101}, Init::truncated_normal(0.02), Decay::kYes);
  store.allocate(DType::kF32, ParamStore::Gradients::kNo);
  store.initialise(Rng(5));
  ThreadPool pool(3);
  std::vector<float> drawn(97 * 101);
  ParamStore::draw(*p, Rng(5), Tensor(drawn.data(), p->shape, DType::kF32), &pool);
  EXPECT_EQ(std::memcmp(drawn.data(), p->value.data, p->value.bytes()), 0);
}

TEST(ParamStore, AnInferenceHasNoPlainValuesOfWhatIsPacked) {
  ParamStore store;
  add_some(store);
  store.find("blocks.0.attn.qkv.weight")->packable = true;
  Param* both = store.find("blocks.0.mlp.weight");
  both->packable = both->read_plain = true;
  store.allocate_for_inference(DType::kF32);
  EXPECT_TRUE(store.find("blocks.0.attn.qkv.weight")->value.empty());
  EXPECT_EQ(store.find("blocks.0.attn.qkv.weight")->value.shape, (Shape{9, 5}));
  for (const char* name : {"blocks.0.norm1.weight", "blocks.0.attn.qkv.bias", "blocks.0.mlp.weight", "pos_embed"})
    EXPECT_FALSE(store.find(name)->value.empty()) << name;
  EXPECT_EQ(store.count(), 5 + 45 + 9 + 21 + 20);
  EXPECT_THROW(store.values(), InternalError);
  EXPECT_THROW(store.add_gradients(), InternalError);
  EXPECT_THROW(store.initialise(Rng(1)), InternalError);
}

TEST(ParamStore, GradientsComeWhenAsked) {
  ParamStore store;
  add_some(store);
  store.allocate(DType::kF32, ParamStore::Gradients::kNo);
  EXPECT_TRUE(store.grads().empty());
  EXPECT_TRUE(store.params().front().grad.empty());
  store.add_gradients();
  Param& p = store.params().front();
  ASSERT_FALSE(p.grad.empty());
  p.grad.as<float>()[1] = 3;
  store.add_gradients();
  EXPECT_EQ(p.grad.as<float>()[1], 3) << "asking again changes nothing";
  store.zero_grads();
  EXPECT_EQ(p.grad.as<float>()[1], 0);
}

TEST(ParamStore, RefusesDoubleNamesAndLateParameters) {
  ParamStore store;
  add_some(store);
  EXPECT_THROW(store.add("pos_embed", Shape{1}, Init::zeros(), Decay::kNo), InternalError);
  store.allocate(DType::kF32, ParamStore::Gradients::kNo);
  EXPECT_THROW(store.add("late", Shape{1}, Init::zeros(), Decay::kNo), InternalError);
  EXPECT_THROW(store.allocate(DType::kF32, ParamStore::Gradients::kNo), InternalError);
}

TEST(ParamStore, NewValuesDropPackedForms) {
  ParamStore store;
  add_some(store);
  store.allocate(DType::kF32, ParamStore::Gradients::kNo);
  store.packed_buffer() = Buffer(4096);
  store.params().front().packed = store.packed_buffer().data();
  store.initialise(Rng(1));
  EXPECT_EQ(store.params().front().packed, nullptr);
  EXPECT_EQ(store.packed_buffer().data(), nullptr);
}

TEST(ParamStore, ATensorMayBeFilledAsAWhole) {
  ParamStore store;
  Param* a = store.add_buffer("a.w", Shape{3}, Init::zeros());
  Param* b = store.add_buffer("b.w", Shape{3}, Init::zeros());
  for (Param* p : {a, b})
    p->fill = [](const Rng& rng, const Tensor& value) {
      for (int64_t i = 0; i < 3; ++i) store_scalar(value, i, rng.uniform(0) + static_cast<double>(i));
    };
  store.allocate(DType::kF64, ParamStore::Gradients::kYes);
  store.initialise(Rng(5));
  const double first = Rng(5).fork(ParamStore::name_tag("a.w")).uniform(0);
  for (int64_t i = 0; i < 3; ++i) EXPECT_EQ(load_scalar(a->value, i), first + static_cast<double>(i));
  EXPECT_NE(load_scalar(b->value, 0), first) << "each tensor has numbers of its own";
}

}  // namespace
}  // namespace fovea
