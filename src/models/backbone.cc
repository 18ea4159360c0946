#include "models/backbone.h"

#include "models/cswin.h"
#include "models/swin.h"
#include "models/vit.h"

namespace fovea {

std::unique_ptr<Backbone> make_backbone(const ModelConfig& config, const Scope& scope) {
  validate(config);
  if (config.family == "vit") return std::make_unique<VisionTransformer>(scope, config);
  if (config.family == "cswin") return std::make_unique<CSwinTransformer>(scope, config);
  return std::make_unique<SwinTransformer>(scope, config);
}

}  // namespace fovea
