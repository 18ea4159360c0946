// ViT, DeiT, DeiT III and DINOv2 as published, under timm's names, with the preprocessing of their weights; torchvision's beside them.
#include <algorithm>

#include "core/check.h"
#include "models/presets.h"

namespace fovea {

namespace {

struct Size {
  int64_t dim, depth, heads;
  double mlp_ratio = 4;
};
constexpr Size kTiny{192, 12, 3};
constexpr Size kSmall{384, 12, 6};
constexpr Size kSmallDeep{384, 36, 6};
constexpr Size kSmall18{384, 18, 6};
constexpr Size kMedium{512, 12, 8};
constexpr Size kMediumDeep{512, 20, 8};
constexpr Size kBetwixt{640, 12, 10};
constexpr Size kBase{768, 12, 12};
constexpr Size kBase16Heads{768, 12, 16};
constexpr Size kBase18{768, 18, 12};
constexpr Size kBasePlus{896, 12, 14};
constexpr Size kLarge{1024, 24, 16};
constexpr Size kHuge{1280, 32, 16};
constexpr Size kGiant{1408, 40, 16, 48.0 / 11};
constexpr Size kGiantOpt{1536, 40, 16};
constexpr Size kGiantGated{1536, 40, 24, 5.33334};
constexpr Size kGiant24Heads{1536, 40, 24};
constexpr Size kGigantic{1664, 48, 16, 64.0 / 13};
constexpr Size kLittle{320, 14, 5, 5.6};
constexpr Size kWee{256, 14, 4, 5};
constexpr Size kExtraSmall{256, 10, 4};
constexpr Size kSo150m{896, 18, 14, 2.572};
constexpr Size kSo150m2{832, 21, 13, 34.0 / 13};
constexpr Size kSo400m{1152, 27, 16, 3.7362};
constexpr Size kTest{64, 6, 2, 3};
constexpr Size kTestDeep{64, 8, 2, 3};
constexpr Size kTestWide{96, 9, 3, 2};

// What models of one size differ in.
struct Recipe {
  const char* what;
  double layer_scale = 0;
  bool class_token = true;
  int64_t registers = 0;
  bool positions_of_all = true;       // the position table has rows for class and registers, too
  const char* pool = "token";
  const char* last_norm = "auto";
  const char* activation = "gelu";
  bool qkv_bias = true, pre_norm = false, distilled = false;
  bool pool_prefix = false;
  const char* block_norm = "pre";
  int64_t parallel = 1;
};
constexpr Recipe kPlain{.what = "ViT"};
constexpr Recipe kScaled{.what = "ViT with LayerScale", .layer_scale = 1e-5};
constexpr Recipe kParallel{.what = "ViT with LayerScale and two of each branch side by side", .layer_scale = 1e-5, .parallel = 2};
constexpr Recipe kResPost{.what = "ViT without class token, norms at the end of branches", .class_token = false, .pool = "avg", .qkv_bias = false, .block_norm = "res_post"};
constexpr Recipe kNoQkvBias{.what = "ViT without bias of q, k and v", .qkv_bias = false};
constexpr Recipe kPatchPositions{.what = "ViT with positions for patches alone", .positions_of_all = false};
constexpr Recipe kDistilled{.what = "DeiT with a distillation token: two heads, averaged in evaluation", .distilled = true};
constexpr Recipe kDeit3{.what = "DeiT III", .layer_scale = 1e-6, .positions_of_all = false};
constexpr Recipe kRegisters4{.what = "ViT with LayerScale and registers", .layer_scale = 1e-5, .registers = 4, .positions_of_all = false};
constexpr Recipe kGated{.what = "ViT with LayerScale and gated perceptrons", .layer_scale = 1e-5, .activation = "swiglu"};
constexpr Recipe kRegisters4Gated{
    .what = "ViT with LayerScale, registers and gated perceptrons", .layer_scale = 1e-5, .registers = 4, .positions_of_all = false, .activation = "swiglu"};
constexpr Recipe kTips{.what = "TIPS", .layer_scale = 1, .registers = 1, .positions_of_all = false};
constexpr Recipe kTipsGated{.what = "TIPS with gated perceptrons", .layer_scale = 1, .registers = 1, .positions_of_all = false, .activation = "swiglu"};
constexpr Recipe kRadio7{.what = "RADIO", .registers = 7, .positions_of_all = false, .last_norm = "none"};
constexpr Recipe kRadio9{.what = "RADIO", .registers = 9, .positions_of_all = false, .last_norm = "none"};
constexpr Recipe kRadio7Scaled{.what = "RADIO with LayerScale", .layer_scale = 1e-5, .registers = 7, .positions_of_all = false, .last_norm = "none"};
constexpr Recipe kIntern{.what = "InternViT", .layer_scale = 0.1, .last_norm = "none"};
constexpr Recipe kClip{.what = "image tower of CLIP", .pre_norm = true};
constexpr Recipe kClipQuick{.what = "image tower of CLIP with its first GELU", .activation = "quick_gelu", .pre_norm = true};
constexpr Recipe kMean{.what = "ViT without class token", .class_token = false, .pool = "avg", .last_norm = "tokens"};
constexpr Recipe kMeanTanh{.what = "ViT without class token", .class_token = false, .pool = "avg", .last_norm = "tokens", .activation = "gelu_tanh"};
constexpr Recipe kMeanNoQkvBias{
    .what = "ViT without class token", .layer_scale = 1e-6, .class_token = false, .pool = "avg", .last_norm = "tokens", .qkv_bias = false};
constexpr Recipe kMap{.what = "image tower of SigLIP with attention pooling", .class_token = false, .pool = "map"};
constexpr Recipe kMapTanh{.what = "image tower of SigLIP with attention pooling", .class_token = false, .pool = "map", .activation = "gelu_tanh"};
constexpr Recipe kMap4{.what = "ViT with registers and attention pooling", .class_token = false, .registers = 4, .pool = "map"};
constexpr Recipe kTestMap{.what = "ViT with a register and attention pooling", .layer_scale = 1e-5, .class_token = false, .registers = 1, .pool = "map", .pool_prefix = true};
constexpr Recipe kMean4{.what = "ViT with registers in place of the class token", .class_token = false, .registers = 4, .positions_of_all = false, .pool = "avg"};
constexpr Recipe kMean1Scaled{
    .what = "ViT with a register in place of the class token", .layer_scale = 1e-5, .class_token = false, .registers = 1, .positions_of_all = false, .pool = "avg"};
constexpr Recipe kMean4Scaled{
    .what = "ViT with registers in place of the class token", .layer_scale = 1e-5, .class_token = false, .registers = 4, .positions_of_all = false, .pool = "avg"};
constexpr Recipe kSo150mRecipe{
    .what = "ViT with registers in place of the class token", .class_token = false, .registers = 4, .pool = "avg", .last_norm = "tokens"};
constexpr Recipe kSo150m2Recipe{
    .what = "ViT with a register in place of the class token", .layer_scale = 1e-5, .class_token = false, .registers = 1, .pool = "avg", .qkv_bias = false};
constexpr Recipe kTestRegister{.what = "ViT with a register in place of the class token", .layer_scale = 1e-5, .class_token = false, .registers = 1, .pool = "avg"};

struct Statistics {
  double mean[3], std[3];
};
constexpr Statistics kHalf{{0.5, 0.5, 0.5}, {0.5, 0.5, 0.5}}, kImageNet{{0.485, 0.456, 0.406}, {0.229, 0.224, 0.225}},
    kClipStatistics{{0.48145466, 0.4578275, 0.40821073}, {0.26862954, 0.26130258, 0.27577711}}, kRaw{{0, 0, 0}, {1, 1, 1}};

struct Fitting {
  double crop;
  const Statistics& statistics;
  const char* resize = "shorter";
  const char* interpolation = "bicubic";
};

struct Row {
  const char* name;
  const Size& size;
  int64_t patch, image;
  const Recipe& recipe;
  Fitting fitting;
  int64_t classes = 1000;  // 0: published without a head
};

const Row kRows[] = {
    {"vit_base_patch16_rpn_224", kBase, 16, 224, kResPost, {0.9, kHalf}},
    {"vit_base_patch16_siglip_224", kBase, 16, 224, kMap, {0.9, kHalf}, 0},
    {"vit_base_patch16_siglip_256", kBase, 16, 256, kMap, {0.9, kHalf}, 0},
    {"vit_base_patch16_siglip_384", kBase, 16, 384, kMap, {0.9, kHalf}, 0},
    {"vit_base_patch16_siglip_512", kBase, 16, 512, kMap, {0.9, kHalf}, 0},
    {"vit_base_patch32_siglip_256", kBase, 32, 256, kMapTanh, {0.9, kHalf}, 0},
    {"vit_base_patch8_224", kBase, 8, 224, kPlain, {0.9, kHalf}},
    {"vit_base_patch14_dinov2", kBase, 14, 518, kScaled, {1, kImageNet}, 0},
    {"vit_base_patch14_reg1_tipsv2", kBase, 14, 448, kTips, {1, kRaw}, 0},
    {"vit_base_patch14_reg4_dinov2", kBase, 14, 518, kRegisters4, {1, kImageNet}, 0},
    {"vit_base_patch16_18x2_224", kBase18, 16, 224, kParallel, {0.9, kHalf}},
    {"vit_base_patch16_224", kBase, 16, 224, kPlain, {0.9, kHalf}},
    {"vit_base_patch16_224_miil", kBase, 16, 224, kNoQkvBias, {0.875, kRaw, "shorter", "bilinear"}},
    {"vit_base_patch16_384", kBase, 16, 384, kPlain, {1, kHalf}},
    {"vit_base_patch16_clip_224", kBase, 16, 224, kClip, {0.95, kClipStatistics}},
    {"vit_base_patch16_clip_384", kBase, 16, 384, kClip, {1, kClipStatistics, "squash"}},
    {"vit_base_patch16_clip_quickgelu_224", kBase, 16, 224, kClipQuick, {1, kClipStatistics}},
    {"vit_base_patch16_gap_224", kBase16Heads, 16, 224, kMean, {0.9, kHalf}},
    {"vit_base_patch16_plus_240", kBasePlus, 16, 240, kScaled, {0.95, kHalf}},
    {"vit_base_patch16_plus_clip_240", kBasePlus, 16, 240, kClip, {1, kClipStatistics}},
    {"vit_base_patch16_radio_v3", kBase, 16, 512, kRadio7Scaled, {1, kClipStatistics}, 0},
    {"vit_base_patch16_reg4_gap_256", kBase, 16, 256, kMean4, {0.9, kHalf}},
    {"vit_base_patch16_siglip_gap_224", kBase, 16, 224, kMean, {0.9, kHalf}, 0},
    {"vit_base_patch16_siglip_gap_256", kBase, 16, 256, kMean, {0.9, kHalf}, 0},
    {"vit_base_patch16_siglip_gap_384", kBase, 16, 384, kMean, {0.9, kHalf}, 0},
    {"vit_base_patch16_siglip_gap_512", kBase, 16, 512, kMean, {0.9, kHalf}, 0},
    {"vit_base_patch32_224", kBase, 32, 224, kPlain, {0.9, kHalf}},
    {"vit_base_patch32_384", kBase, 32, 384, kPlain, {1, kHalf}},
    {"vit_base_patch32_clip_224", kBase, 32, 224, kClip, {0.9, kClipStatistics}},
    {"vit_base_patch32_clip_256", kBase, 32, 256, kClip, {1, kClipStatistics}},
    {"vit_base_patch32_clip_384", kBase, 32, 384, kClip, {1, kClipStatistics}},
    {"vit_base_patch32_clip_448", kBase, 32, 448, kClip, {1, kClipStatistics}},
    {"vit_base_patch32_clip_quickgelu_224", kBase, 32, 224, kClipQuick, {0.9, kClipStatistics}},
    {"vit_base_patch32_plus_256", kBasePlus, 32, 256, kScaled, {0.95, kHalf}},
    {"vit_base_patch32_siglip_gap_256", kBase, 32, 256, kMeanTanh, {0.9, kHalf}, 0},
    {"vit_betwixt_patch16_gap_256", kBetwixt, 16, 256, kMeanNoQkvBias, {0.95, kHalf}},
    {"vit_betwixt_patch16_reg1_gap_256", kBetwixt, 16, 256, kMean1Scaled, {0.95, kHalf}},
    {"vit_betwixt_patch16_reg4_gap_256", kBetwixt, 16, 256, kMean4Scaled, {0.95, kHalf}},
    {"vit_betwixt_patch16_reg4_gap_384", kBetwixt, 16, 384, kMean4Scaled, {1, kHalf}},
    {"vit_betwixt_patch32_clip_224", kBetwixt, 32, 224, kClip, {0.9, kClipStatistics}},
    {"vit_giant_patch14_224", kGiant, 14, 224, kPlain, {0.9, kHalf}},
    {"vit_giant_patch14_clip_224", kGiant, 14, 224, kClip, {1, kClipStatistics}},
    {"vit_giant_patch14_dinov2", kGiantGated, 14, 518, kGated, {1, kImageNet}, 0},
    {"vit_giant_patch14_reg1_tipsv2", kGiantGated, 14, 448, kTipsGated, {1, kRaw}, 0},
    {"vit_giant_patch14_reg4_dinov2", kGiantGated, 14, 518, kRegisters4Gated, {1, kImageNet}, 0},
    {"vit_giant_patch16_gap_224", kGiant, 16, 224, kMean, {0.9, kImageNet}, 0},
    {"vit_giant_patch16_radio_v3", kGiant24Heads, 16, 512, kRadio7, {1, kClipStatistics}, 0},
    {"vit_giantopt_patch16_siglip_256", kGiantOpt, 16, 256, kMapTanh, {0.9, kHalf}, 0},
    {"vit_giantopt_patch16_siglip_384", kGiantOpt, 16, 384, kMapTanh, {0.9, kHalf}, 0},
    {"vit_giantopt_patch16_siglip_gap_256", kGiantOpt, 16, 256, kMeanTanh, {0.9, kHalf}, 0},
    {"vit_giantopt_patch16_siglip_gap_384", kGiantOpt, 16, 384, kMeanTanh, {0.9, kHalf}, 0},
    {"vit_gigantic_patch14_224", kGigantic, 14, 224, kPlain, {0.9, kHalf}},
    {"vit_gigantic_patch14_clip_224", kGigantic, 14, 224, kClip, {1, kClipStatistics}},
    {"vit_gigantic_patch14_clip_378", kGigantic, 14, 378, kClip, {1, kClipStatistics, "squash"}},
    {"vit_gigantic_patch14_clip_quickgelu_224", kGigantic, 14, 224, kClipQuick, {1, kClipStatistics}},
    {"vit_huge_patch14_224", kHuge, 14, 224, kPlain, {0.9, kHalf}, 0},
    {"vit_huge_patch14_clip_224", kHuge, 14, 224, kClip, {1, kClipStatistics}},
    {"vit_huge_patch14_clip_336", kHuge, 14, 336, kClip, {1, kClipStatistics, "squash"}},
    {"vit_huge_patch14_clip_378", kHuge, 14, 378, kClip, {1, kClipStatistics}},
    {"vit_huge_patch14_clip_quickgelu_224", kHuge, 14, 224, kClipQuick, {1, kClipStatistics}},
    {"vit_huge_patch14_clip_quickgelu_378", kHuge, 14, 378, kClipQuick, {1, kClipStatistics}},
    {"vit_huge_patch14_gap_224", kHuge, 14, 224, kMean, {0.9, kImageNet}, 0},
    {"vit_huge_patch16_gap_448", kHuge, 16, 448, kMean, {1, kImageNet}, 0},
    {"vit_huge_patch16_radio_v3", kHuge, 16, 512, kRadio7, {1, kClipStatistics}, 0},
    {"vit_huge_patch16_radio_v4", kHuge, 16, 512, kRadio9, {1, kClipStatistics}, 0},
    {"vit_intern300m_patch14_448", kLarge, 14, 448, kIntern, {1, kImageNet}, 0},
    {"vit_large_patch14_224", kLarge, 14, 224, kPlain, {0.9, kHalf}},
    {"vit_large_patch14_clip_224", kLarge, 14, 224, kClip, {1, kHalf}},
    {"vit_large_patch14_clip_336", kLarge, 14, 336, kClip, {1, kHalf, "squash"}},
    {"vit_large_patch14_clip_quickgelu_224", kLarge, 14, 224, kClipQuick, {1, kClipStatistics}},
    {"vit_large_patch14_clip_quickgelu_336", kLarge, 14, 336, kClipQuick, {1, kClipStatistics}},
    {"vit_large_patch14_dinov2", kLarge, 14, 518, kScaled, {1, kImageNet}, 0},
    {"vit_large_patch14_reg1_tipsv2", kLarge, 14, 448, kTips, {1, kRaw}, 0},
    {"vit_large_patch14_reg4_dinov2", kLarge, 14, 518, kRegisters4, {1, kImageNet}, 0},
    {"vit_large_patch16_224", kLarge, 16, 224, kPlain, {0.9, kHalf}},
    {"vit_large_patch16_384", kLarge, 16, 384, kPlain, {1, kHalf}},
    {"vit_large_patch16_radio_v3", kLarge, 16, 512, kRadio7Scaled, {1, kClipStatistics}, 0},
    {"vit_large_patch16_siglip_256", kLarge, 16, 256, kMap, {0.9, kHalf}, 0},
    {"vit_large_patch16_siglip_384", kLarge, 16, 384, kMap, {0.9, kHalf}, 0},
    {"vit_large_patch16_siglip_512", kLarge, 16, 512, kMapTanh, {0.9, kHalf}, 0},
    {"vit_large_patch16_siglip_gap_256", kLarge, 16, 256, kMean, {0.9, kHalf}, 0},
    {"vit_large_patch16_siglip_gap_384", kLarge, 16, 384, kMean, {0.9, kHalf}, 0},
    {"vit_large_patch16_siglip_gap_512", kLarge, 16, 512, kMeanTanh, {0.9, kHalf}, 0},
    {"vit_large_patch32_224", kLarge, 32, 224, kPlain, {0.9, kHalf}, 0},
    {"vit_large_patch32_384", kLarge, 32, 384, kPlain, {1, kHalf}},
    {"vit_little_patch16_reg1_gap_256", kLittle, 16, 256, kMean1Scaled, {0.95, kHalf}},
    {"vit_little_patch16_reg4_gap_256", kLittle, 16, 256, kMean4Scaled, {0.95, kHalf}},
    {"vit_medium_patch16_clip_224", kMedium, 16, 224, kClip, {0.9, kClipStatistics}},
    {"vit_medium_patch16_gap_240", kMedium, 16, 240, kMeanNoQkvBias, {0.95, kHalf}},
    {"vit_medium_patch16_gap_256", kMedium, 16, 256, kMeanNoQkvBias, {0.95, kHalf}},
    {"vit_medium_patch16_gap_384", kMedium, 16, 384, kMeanNoQkvBias, {0.95, kHalf, "squash"}},
    {"vit_medium_patch16_reg1_gap_256", kMedium, 16, 256, kMean1Scaled, {0.95, kHalf}},
    {"vit_medium_patch16_reg4_gap_256", kMedium, 16, 256, kMean4Scaled, {0.95, kHalf}},
    {"vit_medium_patch32_clip_224", kMedium, 32, 224, kClip, {0.9, kClipStatistics}},
    {"vit_mediumd_patch16_reg4_gap_256", kMediumDeep, 16, 256, kMean4Scaled, {0.95, kHalf}},
    {"vit_mediumd_patch16_reg4_gap_384", kMediumDeep, 16, 384, kMean4Scaled, {1, kHalf}},
    {"vit_small_patch8_224", kSmall, 8, 224, kPlain, {0.9, kImageNet}, 0},
    {"vit_small_patch14_dinov2", kSmall, 14, 518, kScaled, {1, kImageNet}, 0},
    {"vit_small_patch14_reg4_dinov2", kSmall, 14, 518, kRegisters4, {1, kImageNet}, 0},
    {"vit_small_patch16_36x1_224", kSmallDeep, 16, 224, kScaled, {0.9, kHalf}},
    {"vit_small_patch16_18x2_224", kSmall18, 16, 224, kParallel, {0.9, kHalf}},
    {"vit_small_patch16_224", kSmall, 16, 224, kPlain, {0.9, kHalf}},
    {"vit_small_patch16_384", kSmall, 16, 384, kPlain, {1, kHalf}},
    {"vit_small_patch32_224", kSmall, 32, 224, kPlain, {0.9, kHalf}},
    {"vit_small_patch32_384", kSmall, 32, 384, kPlain, {1, kHalf}},
    {"vit_so150m2_patch16_reg1_gap_256", kSo150m2, 16, 256, kSo150m2Recipe, {1, kHalf}},
    {"vit_so150m2_patch16_reg1_gap_384", kSo150m2, 16, 384, kSo150m2Recipe, {1, kHalf}},
    {"vit_so150m2_patch16_reg1_gap_448", kSo150m2, 16, 448, kSo150m2Recipe, {1, kHalf, "squash"}},
    {"vit_so150m_patch16_reg4_gap_256", kSo150m, 16, 256, kSo150mRecipe, {0.95, kHalf}},
    {"vit_so150m_patch16_reg4_gap_384", kSo150m, 16, 384, kSo150mRecipe, {1, kHalf}},
    {"vit_so150m_patch16_reg4_map_256", kSo150m, 16, 256, kMap4, {0.9, kHalf}},
    {"vit_so400m_patch14_reg1_tipsv2", kSo400m, 14, 448, kTips, {1, kRaw}, 0},
    {"vit_so400m_patch14_siglip_224", kSo400m, 14, 224, kMap, {0.9, kHalf}, 0},
    {"vit_so400m_patch14_siglip_378", kSo400m, 14, 378, kMap, {0.9, kHalf}, 0},
    {"vit_so400m_patch14_siglip_384", kSo400m, 14, 384, kMap, {0.9, kHalf}, 0},
    {"vit_so400m_patch14_siglip_gap_224", kSo400m, 14, 224, kMean, {0.9, kHalf}, 0},
    {"vit_so400m_patch14_siglip_gap_378", kSo400m, 14, 378, kMean, {0.9, kHalf}, 0},
    {"vit_so400m_patch14_siglip_gap_384", kSo400m, 14, 384, kMean, {1, kHalf}, 0},
    {"vit_so400m_patch14_siglip_gap_448", kSo400m, 14, 448, kMean, {1, kHalf}, 0},
    {"vit_so400m_patch14_siglip_gap_896", kSo400m, 14, 896, kMean, {1, kHalf}, 0},
    {"vit_so400m_patch16_radio_v4", kSo400m, 16, 512, kRadio9, {1, kClipStatistics}, 0},
    {"vit_so400m_patch16_siglip_256", kSo400m, 16, 256, kMapTanh, {0.9, kHalf}, 0},
    {"vit_so400m_patch16_siglip_384", kSo400m, 16, 384, kMapTanh, {0.9, kHalf}, 0},
    {"vit_so400m_patch16_siglip_512", kSo400m, 16, 512, kMapTanh, {0.9, kHalf}, 0},
    {"vit_so400m_patch16_siglip_gap_256", kSo400m, 16, 256, kMeanTanh, {0.9, kHalf}, 0},
    {"vit_so400m_patch16_siglip_gap_384", kSo400m, 16, 384, kMeanTanh, {0.9, kHalf}, 0},
    {"vit_so400m_patch16_siglip_gap_512", kSo400m, 16, 512, kMeanTanh, {0.9, kHalf}, 0},
    {"vit_tiny_patch16_224", kTiny, 16, 224, kPlain, {0.9, kHalf}},
    {"vit_tiny_patch16_384", kTiny, 16, 384, kPlain, {1, kHalf}},
    {"vit_wee_patch16_reg1_gap_256", kWee, 16, 256, kMean1Scaled, {0.95, kHalf}},
    {"vit_xsmall_patch16_clip_224", kExtraSmall, 16, 224, kClip, {0.9, kClipStatistics}},
    {"deit3_base_patch16_224", kBase, 16, 224, kDeit3, {0.9, kImageNet}},
    {"deit3_base_patch16_384", kBase, 16, 384, kDeit3, {1, kImageNet}},
    {"deit3_huge_patch14_224", kHuge, 14, 224, kDeit3, {0.9, kImageNet}},
    {"deit3_large_patch16_224", kLarge, 16, 224, kDeit3, {0.9, kImageNet}},
    {"deit3_large_patch16_384", kLarge, 16, 384, kDeit3, {1, kImageNet}},
    {"deit3_medium_patch16_224", kMedium, 16, 224, kDeit3, {0.9, kImageNet}},
    {"deit3_small_patch16_224", kSmall, 16, 224, kDeit3, {0.9, kImageNet}},
    {"deit3_small_patch16_384", kSmall, 16, 384, kDeit3, {1, kImageNet}},
    {"deit_base_distilled_patch16_224", kBase, 16, 224, kDistilled, {0.9, kImageNet}},
    {"deit_base_distilled_patch16_384", kBase, 16, 384, kDistilled, {1, kImageNet}},
    {"deit_base_patch16_224", kBase, 16, 224, kPlain, {0.9, kImageNet}},
    {"deit_base_patch16_384", kBase, 16, 384, kPlain, {1, kImageNet}},
    {"deit_small_distilled_patch16_224", kSmall, 16, 224, kDistilled, {0.9, kImageNet}},
    {"deit_small_patch16_224", kSmall, 16, 224, kPlain, {0.9, kImageNet}},
    {"deit_tiny_distilled_patch16_224", kTiny, 16, 224, kDistilled, {0.9, kImageNet}},
    {"deit_tiny_patch16_224", kTiny, 16, 224, kPlain, {0.9, kImageNet}},
    {"test_vit", kTest, 16, 160, kPlain, {0.95, kHalf}},
    {"test_vit2", kTestDeep, 16, 160, kTestRegister, {0.95, kHalf}},
    {"test_vit3", kTestWide, 16, 160, kTestMap, {0.95, kHalf}},
    {"flexivit_base", kBase, 16, 240, kPatchPositions, {0.95, kHalf}},
    {"flexivit_small", kSmall, 16, 240, kPatchPositions, {0.95, kHalf}},
    {"flexivit_large", kLarge, 16, 240, kPatchPositions, {0.95, kHalf}},
    // torchvision
    {"vit_b_16", kBase, 16, 224, kPlain, {224.0 / 256, kImageNet, "shorter", "bilinear"}},
    {"vit_b_32", kBase, 32, 224, kPlain, {224.0 / 256, kImageNet, "shorter", "bilinear"}},
    {"vit_l_16", kLarge, 16, 224, kPlain, {224.0 / 242, kImageNet, "shorter", "bilinear"}},
    {"vit_l_32", kLarge, 32, 224, kPlain, {224.0 / 256, kImageNet, "shorter", "bilinear"}},
    {"vit_b_16_swag", kBase, 16, 384, kPlain, {1, kImageNet}},
    {"vit_l_16_swag", kLarge, 16, 512, kPlain, {1, kImageNet}},
    {"vit_h_14_swag", kHuge, 14, 518, kPlain, {1, kImageNet}},
    {"vit_b_16_lc_swag", kBase, 16, 224, kPlain, {1, kImageNet}},
    {"vit_l_16_lc_swag", kLarge, 16, 224, kPlain, {1, kImageNet}},
    {"vit_h_14_lc_swag", kHuge, 14, 224, kPlain, {1, kImageNet}},
};

// Weights whose preprocessing is not that of the others of their architecture.
struct Tagged {
  const char* name;  // of the row, a dot, and timm's name of the weights
  Fitting fitting;
};
const Tagged kTagged[] = {
    {"vit_base_patch8_224.dino", {0.9, kImageNet}},
    {"vit_base_patch16_224.bamboo", {1, kClipStatistics}},
    {"vit_base_patch16_224.dino", {0.9, kImageNet}},
    {"vit_base_patch16_224.mae", {0.9, kImageNet}},
    {"vit_base_patch16_clip_224.datacompxl", {1, kClipStatistics}},
    {"vit_base_patch16_clip_224.dfn2b", {1, kClipStatistics}},
    {"vit_base_patch16_clip_224.laion2b", {1, kClipStatistics}},
    {"vit_base_patch16_clip_224.laion2b_ft_in1k", {1, kClipStatistics}},
    {"vit_base_patch16_clip_224.laion2b_ft_in12k", {0.9, kClipStatistics}},
    {"vit_base_patch16_clip_224.laion400m_e32", {1, kClipStatistics}},
    {"vit_base_patch16_clip_224.metaclip_2pt5b", {1, kClipStatistics}},
    {"vit_base_patch16_clip_224.metaclip_400m", {1, kClipStatistics}},
    {"vit_base_patch16_clip_224.openai", {0.9, kClipStatistics}},
    {"vit_base_patch16_clip_224.openai_ft_in1k", {0.9, kClipStatistics}},
    {"vit_base_patch16_clip_224.openai_ft_in12k", {0.9, kClipStatistics}},
    {"vit_base_patch16_clip_384.openai_ft_in12k_in1k", {0.95, kClipStatistics, "squash"}},
    {"vit_base_patch16_clip_quickgelu_224.openai", {0.9, kClipStatistics}},
    {"vit_base_patch32_clip_224.datacompxl", {1, kClipStatistics}},
    {"vit_base_patch32_clip_224.metaclip_2pt5b", {1, kClipStatistics}},
    {"vit_base_patch32_clip_224.metaclip_400m", {1, kClipStatistics}},
    {"vit_base_patch32_clip_384.openai_ft_in12k_in1k", {0.95, kClipStatistics, "squash"}},
    {"vit_base_patch32_clip_quickgelu_224.metaclip_2pt5b", {1, kClipStatistics}},
    {"vit_base_patch32_clip_quickgelu_224.metaclip_400m", {1, kClipStatistics}},
    {"vit_huge_patch14_224.mae", {0.9, kImageNet}},
    {"vit_huge_patch14_clip_378.metaclip2_worldwide", {1, kClipStatistics, "squash"}},
    {"vit_large_patch14_clip_224.apple_mclip2_dfndr2b", {1, kClipStatistics}},
    {"vit_large_patch14_clip_224.datacompxl", {1, kClipStatistics}},
    {"vit_large_patch14_clip_224.dfn2b", {1, kClipStatistics}},
    {"vit_large_patch14_clip_224.dfn2b_s39b", {1, kClipStatistics}},
    {"vit_large_patch14_clip_224.laion400m_e32", {1, kClipStatistics}},
    {"vit_large_patch14_clip_224.metaclip_2pt5b", {1, kClipStatistics}},
    {"vit_large_patch14_clip_224.metaclip_400m", {1, kClipStatistics}},
    {"vit_large_patch14_clip_224.openai", {1, kClipStatistics}},
    {"vit_large_patch14_clip_224.openai_ft_in1k", {1, kClipStatistics}},
    {"vit_large_patch14_clip_224.openai_ft_in12k", {1, kClipStatistics}},
    {"vit_large_patch14_clip_224.openai_ft_in12k_in1k", {1, kClipStatistics}},
    {"vit_large_patch14_clip_336.openai", {1, kClipStatistics}},
    {"vit_large_patch14_clip_336.openai_ft_in12k_in1k", {1, kClipStatistics, "squash"}},
    {"vit_large_patch16_224.mae", {0.9, kImageNet}},
    {"vit_small_patch16_224.dino", {0.9, kImageNet}},
    {"vit_so400m_patch14_siglip_378.webli_ft_in1k", {1, kHalf, "squash"}},
    {"vit_so400m_patch14_siglip_gap_378.webli", {1, kHalf}},
    {"vit_so400m_patch14_siglip_gap_378.webli_ft_in1k", {1, kHalf, "squash"}},
    {"deit3_base_patch16_224.fb_in22k_ft_in1k", {1, kImageNet}},
    {"deit3_huge_patch14_224.fb_in22k_ft_in1k", {1, kImageNet}},
    {"deit3_large_patch16_224.fb_in22k_ft_in1k", {1, kImageNet}},
    {"deit3_medium_patch16_224.fb_in22k_ft_in1k", {1, kImageNet}},
    {"deit3_small_patch16_224.fb_in22k_ft_in1k", {1, kImageNet}},
};

// As the authors call them in their files' names.
struct Alias {
  const char *official, *name;
};
const Alias kAliases[] = {
    {"dinov2_vits14", "vit_small_patch14_dinov2"},           {"dinov2_vitb14", "vit_base_patch14_dinov2"},
    {"dinov2_vitl14", "vit_large_patch14_dinov2"},           {"dinov2_vitg14", "vit_giant_patch14_dinov2"},
    {"dinov2_vits14_reg4", "vit_small_patch14_reg4_dinov2"}, {"dinov2_vitb14_reg4", "vit_base_patch14_reg4_dinov2"},
    {"dinov2_vitl14_reg4", "vit_large_patch14_reg4_dinov2"}, {"dinov2_vitg14_reg4", "vit_giant_patch14_reg4_dinov2"},
    {"deit_3_small_224_1k", "deit3_small_patch16_224"},      {"deit_3_small_384_1k", "deit3_small_patch16_384"},
    {"deit_3_medium_224_1k", "deit3_medium_patch16_224"},    {"deit_3_base_224_1k", "deit3_base_patch16_224"},
    {"deit_3_base_384_1k", "deit3_base_patch16_384"},        {"deit_3_large_224_1k", "deit3_large_patch16_224"},
    {"deit_3_large_384_1k", "deit3_large_patch16_384"},      {"deit_3_huge_224_1k", "deit3_huge_patch14_224"},
    {"deit_3_small_224_21k", "deit3_small_patch16_224.fb_in22k_ft_in1k"},   {"deit_3_medium_224_21k", "deit3_medium_patch16_224.fb_in22k_ft_in1k"},
    {"deit_3_base_224_21k", "deit3_base_patch16_224.fb_in22k_ft_in1k"},     {"deit_3_large_224_21k", "deit3_large_patch16_224.fb_in22k_ft_in1k"},
    {"deit_3_huge_224_21k", "deit3_huge_patch14_224.fb_in22k_ft_in1k"},     {"deit_3_small_384_21k", "deit3_small_patch16_384"},
    {"deit_3_base_384_21k", "deit3_base_patch16_384"},       {"deit_3_large_384_21k", "deit3_large_patch16_384"},
};

void set_fitting(InputConfig& input, const Fitting& f) {
  input.crop_pct = f.crop;
  input.resize = f.resize;
  input.interpolation = f.interpolation;
  input.mean.assign(std::begin(f.statistics.mean), std::end(f.statistics.mean));
  input.std.assign(std::begin(f.statistics.std), std::end(f.statistics.std));
}

ModelPreset preset(const Row& row) {
  const Recipe& r = row.recipe;
  ModelConfig c;
  c.name = row.name;
  c.classes = row.classes;
  c.patch = row.patch;
  c.dim = row.size.dim;
  c.depth = row.size.depth;
  c.heads = row.size.heads;
  c.mlp_ratio = row.size.mlp_ratio;
  c.qkv_bias = r.qkv_bias;
  c.activation = r.activation;
  c.norm_epsilon = r.pre_norm ? 1e-5 : 1e-6;
  c.layer_scale = r.layer_scale;
  c.class_token = r.class_token;
  c.distillation_token = r.distilled;
  c.register_tokens = r.registers;
  c.pre_norm = r.pre_norm;
  c.pool = r.pool;
  c.pool_prefix = r.pool_prefix;
  c.block_norm = r.block_norm;
  c.parallel = r.parallel;
  c.last_norm = r.last_norm;
  c.prefix_positions = r.positions_of_all;
  if (c.name.starts_with("deit_")) c.drop_path = 0.1;
  if (c.name.starts_with("vit_b_") || c.name.starts_with("vit_l_") || c.name.starts_with("vit_h_")) c.position_resampling = "bicubic_corners";
  set_input_size(c, row.image, row.fitting.crop);
  set_fitting(c.input, row.fitting);
  return {c, fmt::format("{}, patch {}, {} channels, {} blocks", r.what, c.patch, c.dim, c.depth), {}};
}

ModelPreset vit_mini() {
  ModelConfig c;
  c.name = "vit_mini";
  c.convolutional_stem = true;
  c.patch = 4;
  c.dim = 128;
  c.depth = 6;
  c.heads = 4;
  c.mlp_ratio = 2;
  c.drop_path = 0.05;
  c.input.mean = c.input.std = {0.5, 0.5, 0.5};
  set_input_size(c, 32, 1.0);
  return {c, "ViT for images of 28 to 64 pixels; early-convolution stem, which learns faster from few images"};
}

}  // namespace

std::vector<ModelPreset> vit_presets() {
  std::vector<ModelPreset> p = {vit_mini()};
  for (const Row& row : kRows) p.push_back(preset(row));
  const auto named = [&p](std::string_view name) -> ModelPreset& {
    const auto at = std::ranges::find_if(p, [&](const ModelPreset& preset) { return preset.config.name == name; });
    check(at != p.end(), "there is no row '{}'", name);
    return *at;
  };
  for (const Tagged& t : kTagged) {
    ModelPreset tagged = named(std::string_view(t.name).substr(0, std::string_view(t.name).find('.')));
    tagged.config.name = t.name;
    set_fitting(tagged.config.input, t.fitting);
    p.push_back(std::move(tagged));
  }
  for (const Alias& a : kAliases) named(a.name).aliases.push_back(a.official);
  return p;
}

}  // namespace fovea
