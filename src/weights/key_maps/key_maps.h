// The dialects that dialects() lists, one function each; see key_map.h.
#pragma once

#include "weights/key_map.h"

namespace fovea {

Dialect timm_dialect();                        // timm >= 0.9: ViT, DeiT, Swin, Swin V2; also fovea's own names
Dialect microsoft_swin_dialect();              // github.com/microsoft/Swin-Transformer and timm < 0.9
Dialect microsoft_cswin_dialect();             // github.com/microsoft/CSWin-Transformer, classification; its names are ours
Dialect lucidrains_vit_dialect();              // github.com/lucidrains/vit-pytorch, patches not normalised
Dialect lucidrains_vit_patch_norm_dialect();   // the same with patches normalised before and after the projection

// Recognises Swin, of either version, by its blocks, and the names of what it stores besides parameters; shared by its two layouts.
std::optional<RecognisedModel> recognise_swin(const WeightFile& file, std::string_view head);
std::vector<std::string_view> swin_buffers();

}  // namespace fovea
