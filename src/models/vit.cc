#include "models/vit.h"

#include "blocks/forward_blocks.h"

namespace fovea {

namespace {

struct VitRecord {
  TokenGrid grid;
};

PatchEmbedConfig vit_embed_config(const ModelConfig& c) {
  PatchEmbedConfig p;
  p.in_channels = c.input.channels;
  p.dim = c.dim;
  p.patch = c.patch;
  p.convolutional_stem = c.convolutional_stem;
  p.bias = !c.pre_norm;
  p.drop_rest = c.patch_rest == "drop";
  return p;
}

}  // namespace

TokenEmbedConfig vit_tokens(const ModelConfig& c) {
  const auto patches = [&c](int64_t pixels) { return (pixels + (c.patch_rest == "drop" ? 0 : c.patch - 1)) / c.patch; };
  TokenEmbedConfig t;
  t.dim = c.dim;
  t.class_token = c.class_token;
  t.distillation_token = c.distillation_token;
  t.register_tokens = c.register_tokens;
  t.positions = c.positions;
  t.grid_height = c.position_grid.empty() ? patches(c.input.height) : c.position_grid[0];
  t.grid_width = c.position_grid.empty() ? patches(c.input.width) : c.position_grid[1];
  t.prefix_positions = c.prefix_positions;
  t.register_positions = c.register_positions;
  t.resampling = cubic_rule_named(c.position_resampling);
  return t;
}

VisionTransformer::VisionTransformer(const Scope& scope, const ModelConfig& c)
    : config_(c), patch_embed_(scope / "patch_embed", vit_embed_config(c)), tokens_(scope, vit_tokens(c)) {
  if (c.pre_norm) norm_pre_.emplace(scope / "norm_pre", c.dim, c.norm_epsilon);
  const auto stages = parse_attention_stages(c.attention);
  require(stages.size() == 1, "attention '{}' names {} stages; a ViT has one", c.attention, stages.size());
  for (int64_t i = 0; i < c.depth; ++i) {
    BlockConfig b;
    b.attention = stages[0];
    b.heads.dim = c.dim;
    b.heads.heads = c.heads;
    b.heads.head_dim = c.head_dim;
    b.heads.qkv_bias = c.qkv_bias;
    b.heads.qk_norm = c.qk_norm;
    b.heads.norm_epsilon = c.norm_epsilon;
    b.heads.block = i;
    b.heads.max_tokens = grid_of(1, c.input.height, c.input.width).tokens();
    b.gated = gated(c.activation);
    b.mlp_hidden = mlp_width(c) / (b.gated ? 2 : 1);
    b.activation = activation_named(c.activation);
    b.norm = c.block_norm == "res_post" ? NormPlacement::kResPost : NormPlacement::kPre;
    b.parallel = c.parallel;
    b.norm_epsilon = c.norm_epsilon;
    b.layer_scale = c.layer_scale;
    b.dropout = c.dropout;
    b.drop_path = c.depth > 1 ? c.drop_path * static_cast<double>(i) / static_cast<double>(c.depth - 1) : 0;
    b.tag = static_cast<uint64_t>(i);
    blocks_.emplace_back(scope / "blocks" / i, b);
  }
  if (c.norms_tokens()) norm_.emplace(scope / "norm", c.dim, c.norm_epsilon);
}

TokenGrid VisionTransformer::grid_of(int64_t batch, int64_t height, int64_t width) const {
  return {batch, tokens_.config().prefix(), patch_embed_.out_height(height), patch_embed_.out_width(width)};
}

BackboneOutput VisionTransformer::forward(ConstTensor images, Tape* tape, Context& ctx) const {
  require(images.shape.rank() == 4, "images: got shape {}, expected [batch, channels, height, width]", images.shape);
  const TokenGrid grid = grid_of(images.dim(0), images.dim(2), images.dim(3));
  const Shape shape{grid.batch, grid.tokens(), config_.dim};
  BackboneOutput out;
  out.grid = grid;
  out.features = ctx.activation(shape, tape);
  ArenaScope scope(ctx.scratch());
  Tensor x = ctx.activation(shape, tape);
  {
    ArenaScope embedding(ctx.scratch());
    const Tensor patches = ctx.activation(Shape{grid.batch, grid.height * grid.width, config_.dim}, tape);
    patch_embed_.forward(images, patches, tape, ctx);
    tokens_.forward(patches, grid, x, tape, ctx);
  }
  if (norm_pre_) {
    const Tensor normed = tape ? ctx.activation(shape, tape) : x;
    norm_pre_->forward(x, normed, tape, ctx);
    x = normed;
  }
  x = forward_blocks(blocks_, x, grid, tape, ctx);
  if (norm_)
    norm_->forward(x, out.features, tape, ctx);
  else
    std::memcpy(out.features.data, x.data, x.bytes());
  if (tape) tape->push(VitRecord{grid});
  return out;
}

void VisionTransformer::backward(ConstTensor dfeatures, const std::vector<Tensor>& dpyramid, Tensor dimages, Tape& tape,
                                 Context& ctx) const {
  require(dpyramid.empty(), "a ViT has no feature pyramid");
  const TokenGrid grid = tape.pop<VitRecord>().grid;
  ArenaScope scope(ctx.scratch());
  const Tensor gradient = ctx.scratch().take(dfeatures.shape, dfeatures.dtype);
  if (norm_)
    norm_->backward(dfeatures, gradient, Accumulate::kNo, tape, ctx);
  else
    std::memcpy(gradient.data, dfeatures.data, dfeatures.bytes());
  for (size_t i = blocks_.size(); i-- > 0;) blocks_[i].backward(gradient, tape, ctx);
  if (norm_pre_) norm_pre_->backward(gradient, gradient, Accumulate::kNo, tape, ctx);
  const Tensor dpatches = ctx.scratch().take(Shape{grid.batch, grid.height * grid.width, config_.dim}, ctx.dtype());
  tokens_.backward(gradient, dpatches, tape, ctx);
  patch_embed_.backward(dpatches, dimages, tape, ctx);
}

std::vector<std::string> VisionTransformer::unsupported(int64_t height, int64_t width) const {
  if (config_.patch_rest == "drop" && (height < config_.patch || width < config_.patch))
    return {fmt::format("images of {}x{} pixels have no whole patch of {}", height, width, config_.patch)};
  if (height < 1 || width < 1) return {fmt::format("images of {}x{} pixels are empty", height, width)};
  return blocks_.empty() ? std::vector<std::string>() : blocks_[0].attention().unsupported(grid_of(1, height, width));
}

double VisionTransformer::flops(int64_t batch, int64_t height, int64_t width) const {
  return patch_embed_.flops(batch, height, width) + flops_of(blocks_, grid_of(batch, height, width));
}

void VisionTransformer::end_step(Context& ctx) {
  for (TransformerBlock& block : blocks_) block.end_step(ctx);
}

}  // namespace fovea
