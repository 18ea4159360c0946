// Which attention predicts the next byte best? Trains the same small causal model with one mechanism after the other, each for
// the same number of steps, and prints what it needs on bytes that it has not seen.
//   Usage: train_bytes FILE|DIR [STEPS [SPEC ...]]     without a SPEC: every mechanism that has a causal order
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <numeric>
#include <thread>

#include "blocks/transformer_block.h"
#include "train/optimizer.h"
#include "train/schedule.h"

using namespace fovea;  // NOLINT: a program of one file

namespace {

constexpr int64_t kLength = 256, kBatch = 8, kDim = 64, kHeads = 4, kBlocks = 2, kBytes = 256, kTestBatches = 8;

std::vector<int32_t> read_bytes(const std::filesystem::path& path) {
  std::vector<std::filesystem::path> files;
  if (std::filesystem::is_directory(path)) {
    for (const auto& entry : std::filesystem::recursive_directory_iterator(path))
      if (entry.is_regular_file()) files.push_back(entry.path());
    std::sort(files.begin(), files.end());
  } else {
    files.push_back(path);
  }
  std::vector<int32_t> bytes;
  for (const auto& file : files) {
    std::ifstream in(file, std::ios::binary);
    require(in.good(), "cannot read {}", file.string());
    std::transform(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>(), std::back_inserter(bytes),
                   [](char c) { return static_cast<int32_t>(static_cast<unsigned char>(c)); });
  }
  require(bytes.size() > 20 * kLength, "{} holds {} bytes, which is too little to learn from", path.string(), bytes.size());
  return bytes;
}

// Bytes and places to vectors, blocks, norm, and a score for each next byte.
class ByteModel {
 public:
  ByteModel(const AttentionSpec& attention, Context& ctx) : ctx_(ctx) {
    const Scope scope(params);
    bytes_ = scope.param("bytes", Shape{kBytes, kDim}, Init::truncated_normal(0.02), Decay::kNo);
    places_ = scope.param("places", Shape{kLength, kDim}, Init::truncated_normal(0.02), Decay::kNo);
    for (int64_t i = 0; i < kBlocks; ++i) {
      BlockConfig c;
      c.attention = attention;
      c.heads.dim = kDim;
      c.heads.heads = kHeads;
      c.heads.block = i;
      c.heads.max_tokens = kLength;
      c.mlp_hidden = 4 * kDim;
      c.tag = static_cast<uint64_t>(i);
      blocks_.push_back(std::make_unique<TransformerBlock>(scope / "blocks" / i, c));
    }
    norm_.emplace(scope / "norm", kDim, 1e-6);
    head_.emplace(scope / "head", kDim, kBytes, Bias::kYes);
    params.allocate(ctx.dtype(), ParamStore::Gradients::kYes);
    params.initialise(Rng(1));
    for (int64_t i = 0; i < kBatch * kLength; ++i) place_of_.push_back(static_cast<int32_t>(i % kLength));
  }

  // Mean loss in bits of predicting `next` (B N) from `bytes` (B N); with `learn` the gradients are added.
  double run(const int32_t* bytes, const int32_t* next, bool learn) {
    const KernelTable& k = ctx_.kernels();
    const int64_t rows = kBatch * kLength;
    ArenaScope scope(ctx_.scratch());
    Tape* tape = learn ? &tape_ : nullptr;
    const Shape shape{kBatch, kLength, kDim};
    Tensor x = ctx_.activation(shape, tape);
    const Tensor places = ctx_.scratch().take(shape, ctx_.dtype());
    k.gather_rows(rows, kDim, bytes_->value.data, bytes, x.data, ctx_);
    k.gather_rows(rows, kDim, places_->value.data, place_of_.data(), places.data, ctx_);
    k.add(rows * kDim, x.data, places.data, x.data, ctx_);
    for (const auto& block : blocks_) {
      AttentionInputs in;
      in.x = x;
      in.grid = {kBatch, 0, 1, kLength};
      in.causal = true;
      x = ctx_.activation(shape, tape);
      block->forward(in, x, tape, ctx_);
    }
    const Tensor normed = ctx_.activation(shape, tape), logits = ctx_.activation(Shape{rows, kBytes}, tape);
    norm_->forward(x, normed, tape, ctx_);
    head_->forward(normed.reshaped(Shape{rows, kDim}), logits, tape, ctx_);

    const Tensor losses = ctx_.scratch().take(Shape{rows}, ctx_.dtype()), dlogits = ctx_.scratch().take(logits.shape, ctx_.dtype());
    CrossEntropyArgs loss;
    loss.rows = rows;
    loss.classes = kBytes;
    loss.logits = logits.data;
    loss.labels = next;
    loss.loss = losses.data;
    loss.dloss = 1.0 / static_cast<double>(rows);
    loss.dlogits = dlogits.data;
    k.cross_entropy(loss, ctx_);
    const auto* each = losses.as<float>();
    const double bits = std::accumulate(each, each + rows, 0.0) / static_cast<double>(rows) / std::log(2.0);
    if (!learn) return bits;

    k.cross_entropy_backward(loss, ctx_);
    const Tensor gradient = ctx_.scratch().take(shape, ctx_.dtype());
    head_->backward(dlogits, gradient.reshaped(Shape{rows, kDim}), Accumulate::kNo, tape_, ctx_);
    norm_->backward(gradient, gradient, Accumulate::kNo, tape_, ctx_);
    for (auto block = blocks_.rbegin(); block != blocks_.rend(); ++block) (*block)->backward(gradient, tape_, ctx_);
    k.scatter_add_rows(rows, kDim, gradient.data, bytes, bytes_->grad.data, ctx_);
    k.scatter_add_rows(rows, kDim, gradient.data, place_of_.data(), places_->grad.data, ctx_);
    tape_.clear();
    return bits;
  }

  void end_step() {
    for (const auto& block : blocks_) block->end_step(ctx_);
  }

  ParamStore params;

 private:
  Context& ctx_;
  Tape tape_;
  Param *bytes_, *places_;
  std::vector<std::unique_ptr<TransformerBlock>> blocks_;
  std::optional<LayerNorm> norm_;
  std::optional<Linear> head_;
  std::vector<int32_t> place_of_;
};

// A batch of stretches that begin where `rng` says within [begin, end).
void draw(const std::vector<int32_t>& text, int64_t begin, int64_t end, Rng& rng, std::vector<int32_t>& bytes, std::vector<int32_t>& next) {
  bytes.clear();
  next.clear();
  for (int64_t b = 0; b < kBatch; ++b) {
    const auto at = text.begin() + begin + static_cast<int64_t>(rng.next_below(static_cast<uint64_t>(end - begin - kLength)));
    bytes.insert(bytes.end(), at, at + kLength);
    next.insert(next.end(), at + 1, at + 1 + kLength);
  }
}

void train(const std::string& spec, const std::vector<int32_t>& text, int64_t steps) {
  const KernelTable& table = kernel_table("auto");
  Context ctx(table, table.dtype, static_cast<int>(std::max(1u, std::thread::hardware_concurrency())));
  ByteModel model(parse_attention(spec), ctx);
  AdamW optimizer(model.params, {});
  const Schedule schedule{.peak = 3e-3, .warmup_steps = steps / 10, .total_steps = steps};
  // The last tenth is for the test, the same stretches for every mechanism; so are those of the training.
  const auto all = static_cast<int64_t>(text.size()), held = all - all / 10;
  Rng train_rng(2), test_rng(3);
  std::vector<int32_t> bytes, next;
  for (int64_t step = 0; step < steps; ++step) {
    draw(text, 0, held, train_rng, bytes, next);
    ctx.set_training(true, Rng(4, static_cast<uint64_t>(step)));
    model.run(bytes.data(), next.data(), true);
    optimizer.step(schedule.lr(step), clip_scale(gradient_norm(model.params, ctx), 1.0), ctx);
    model.params.zero_grads();
    model.end_step();
  }
  ctx.set_training(false);
  double bits = 0;
  for (int64_t i = 0; i < kTestBatches; ++i) {
    draw(text, held, all, test_rng, bytes, next);
    bits += model.run(bytes.data(), next.data(), false) / static_cast<double>(kTestBatches);
  }
  std::printf("%8.3f  %s\n", bits, spec.c_str());
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return std::fprintf(stderr, "usage: train_bytes FILE|DIR [STEPS [SPEC ...]]\n"), 2;
  try {
    const std::vector<int32_t> text = read_bytes(argv[1]);
    const int64_t steps = argc > 2 ? std::max(1, std::atoi(argv[2])) : 200;
    std::vector<std::string> specs(argv + std::min(argc, 3), argv + argc);
    if (specs.empty())
      for (const AttentionKind& kind : attention_kinds())
        if (kind.traits.causal) specs.push_back(kind.name);
    std::printf("%zu bytes, %lld steps of %lld x %lld bytes\nbits per byte, attention\n", text.size(), static_cast<long long>(steps),
                static_cast<long long>(kBatch), static_cast<long long>(kLength));
    for (const std::string& spec : specs) train(spec, text, steps);
  } catch (const std::exception& e) {
    return std::fprintf(stderr, "%s\n", e.what()), 2;
  }
}
