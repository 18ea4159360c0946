// Models of a few thousand parameters, one of each family.
#pragma once

#include "models/config.h"

namespace fovea {

inline ModelConfig small_vit() {
  ModelConfig c;
  c.name = "small";
  c.input.height = 8;
  c.input.width = 12;
  c.classes = 3;
  c.patch = 4;
  c.dim = 8;
  c.depth = 2;
  c.heads = 2;
  c.mlp_ratio = 2;
  return c;
}

inline ModelConfig small_swin() {
  ModelConfig c = small_vit();
  c.family = "swin";
  c.attention = "window:size=3";
  c.patch = 2;
  c.depths = {2, 1, 1};
  c.stage_heads = {1, 2, 2};
  c.norm_epsilon = 1e-5;
  return c;
}

inline ModelConfig small_cswin() {
  ModelConfig c = small_vit();
  c.family = "cswin";
  c.attention = "cross_shaped:stripe=1/cross_shaped:stripe=2/cross_shaped:branches=1";
  c.depths = {2, 1, 1};
  c.stage_heads = {2, 2, 4};
  c.norm_epsilon = 1e-5;
  return c;
}

inline ModelConfig small_swin_v2() {
  ModelConfig c = small_swin();
  c.swin_version = 2;
  c.attention = "window_v2:size=3";
  return c;
}

}  // namespace fovea
