// The dialects that dialects() lists, one function each; see key_map.h.
#pragma once

#include "weights/key_map.h"

namespace fovea {

Dialect timm_dialect();                        // timm >= 0.9: ViT, DeiT, Swin, Swin V2; also fovea's own names
Dialect microsoft_swin_dialect();              // github.com/microsoft/Swin-Transformer and timm < 0.9
Dialect huggingface_swin_dialect();            // transformers' Swin, with a head or as a bare model
Dialect huggingface_swin_backbone_dialect();   // its SwinBackbone: a norm for each stage
Dialect huggingface_swinv2_dialect();
Dialect torchvision_swin_dialect();
Dialect torchvision_swinv2_dialect();
Dialect mmdet_swin_dialect();                  // backbones of mmdet and mmseg: a norm for each stage
Dialect mmpretrain_swin_dialect();             // classifiers
Dialect mmpretrain_swinv2_dialect();
Dialect microsoft_cswin_dialect();             // github.com/microsoft/CSWin-Transformer, classification; its names are ours
Dialect torchvision_vit_dialect();             // torchvision.models.vision_transformer, before and since 0.13
Dialect huggingface_vit_dialect();             // transformers: ViT
Dialect huggingface_deit_dialect();            // DeiT with one head, beside which the distillation token stays
Dialect huggingface_deit_teacher_dialect();    // DeiT with two heads
Dialect huggingface_dinov2_dialect();          // DINOv2, with and without registers and gated perceptrons
Dialect huggingface_dinov2_gated_dialect();
Dialect huggingface_dinov2_registers_dialect();
Dialect huggingface_dinov2_registers_gated_dialect();
Dialect huggingface_clip_dialect();            // its image towers: CLIP, alone or with a projection
Dialect huggingface_clip_classifier_dialect();
Dialect huggingface_siglip_dialect();          // SigLIP
Dialect huggingface_siglip_classifier_dialect();
Dialect openclip_vit_dialect();                // image towers of OpenAI's CLIP and of OpenCLIP
Dialect facebook_deit3_dialect();              // github.com/facebookresearch/deit, DeiT III
Dialect facebook_dinov2_dialect();             // github.com/facebookresearch/dinov2, with and without registers
Dialect facebook_dinov2_gated_dialect();       // its giant model
Dialect mmpretrain_vit_dialect();              // github.com/open-mmlab/mmpretrain: ViT, DeiT, DeiT III
Dialect jax_vit_dialect();                     // github.com/google-research/vision_transformer, .npz
Dialect lucidrains_vit_dialect();              // github.com/lucidrains/vit-pytorch, patches not normalised
Dialect lucidrains_vit_patch_norm_dialect();   // the same with patches normalised before and after the projection

// Names of what a Swin under our names or Microsoft's stores besides parameters.
std::vector<std::string_view> swin_buffers();

}  // namespace fovea
