"""What is checked: one line a checkpoint. `sizes` of a family: a rectangle and an odd size besides the native one."""
import dataclasses
from typing import Callable

from . import renaming
from .derived_models import CSwin, Renamed, microsoft_detection_swin, microsoft_swin, mmdet_swin, mmpretrain_swin, mmpretrain_swinv2
from .huggingface_models import HuggingFaceSwin, HuggingFaceTower, HuggingFaceViT
from .subject import Subject
from .timm_models import TimmSwin, TimmViT
from .torchvision_models import TorchvisionSwin, TorchvisionViT


@dataclasses.dataclass(frozen=True)
class Case:
    family: str
    dialect: str
    file: str                       # the name of the file that is written, without its ending
    make: Callable[[], Subject]
    sizes: tuple                    # besides the native size
    options: tuple = ()             # of fovea: what the file cannot tell
    big: bool = False               # left out unless asked for (--big)


VIT_SIZES = ((160, 288), (250, 199))
PATCH32_SIZES = ((160, 288), (250, 199))
DINOV2_SIZES = ((224, 224), (154, 266), (250, 199))
SWIN_SIZES = ((192, 288), (250, 199))
HF_SWIN_SIZES = ((256, 320), (250, 230))  # transformers fails where a window would be smaller than its table
HF_TOWER_SIZES = ((160, 288), (250, 199))
SQUARE = ((288, 288),)  # torchvision's ViT has no others


def timm_vit(name, **kwargs):
    model = kwargs.pop("model", {})
    file = name + "".join(f", {k}={v}" for k, v in model.items())
    return Case(kwargs.pop("family", "ViT"), kwargs.pop("dialect", "timm"), file, lambda: TimmViT(name, **model), kwargs.pop("sizes", VIT_SIZES), **kwargs)


def timm_swin(name, family="Swin", **kwargs):
    model = kwargs.pop("model", {})
    # Windows of another size are not those of the model that a file's name would name.
    file = (name.partition("_patch")[0] if model else name) + "".join(f", {k}={v}" for k, v in model.items())
    return Case(family, kwargs.pop("dialect", "timm"), file, lambda: TimmSwin(name, **model), kwargs.pop("sizes", SWIN_SIZES), **kwargs)


def projecting(subject):
    """timm's reader of OpenAI's weights gives their projection a bias of zeros."""
    subject.module.head.bias.data.zero_()
    return subject


VITS = dict(hidden_size=384, num_hidden_layers=12, num_attention_heads=6, intermediate_size=1536)
VITB = dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072)
VITL = dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)
SO400M = dict(hidden_size=1152, num_hidden_layers=27, num_attention_heads=16, intermediate_size=4304)
DINOS = dict(hidden_size=384, num_hidden_layers=12, num_attention_heads=6, mlp_ratio=4, image_size=518, patch_size=14)
SWINT = dict(embed_dim=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24])
SWINB = dict(embed_dim=128, depths=[2, 2, 18, 2], num_heads=[4, 8, 16, 32])
SWINL = dict(embed_dim=192, depths=[2, 2, 18, 2], num_heads=[6, 12, 24, 48])
DINOB = dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, mlp_ratio=4, image_size=518, patch_size=14)

CASES = [
    # ViT
    timm_vit("vit_tiny_patch16_224"),
    timm_vit("vit_small_patch16_224"),
    timm_vit("vit_base_patch16_224"),
    timm_vit("vit_base_patch32_224", sizes=PATCH32_SIZES),
    timm_vit("vit_base_patch16_384", sizes=((256, 416),)),
    timm_vit("vit_base_patch8_224", sizes=((160, 96),), big=True),
    timm_vit("vit_large_patch16_224", big=True),
    timm_vit("vit_large_patch32_384", sizes=((256, 416),), big=True),
    timm_vit("vit_huge_patch14_224", sizes=((154, 266),), big=True),
    timm_vit("vit_giant_patch14_224", sizes=(), model=dict(depth=4), big=True),
    timm_vit("vit_gigantic_patch14_224", sizes=(), model=dict(depth=2), big=True),
    timm_vit("vit_base_patch16_224.augreg_in21k", big=True),
    timm_vit("vit_tiny_patch16_224", model=dict(img_size=(160, 288)), sizes=((224, 224), (250, 199)), options=("--set", "position_grid=10,18"), big=True),
    timm_vit("vit_tiny_patch16_224", model=dict(patch_size=8, img_size=96), sizes=((64, 120), (90, 67)), big=True),
    timm_vit("vit_tiny_patch16_224", model=dict(patch_size=14, img_size=154), sizes=((154, 266), (250, 199)), big=True),
    timm_vit("vit_tiny_patch16_224", model=dict(patch_size=32, img_size=256), big=True),
    timm_vit("vit_tiny_patch16_224", model=dict(num_classes=0), big=True),
    timm_vit("vit_tiny_patch16_224", model=dict(global_pool="avg"), big=True),
    timm_vit("vit_tiny_patch16_224", model=dict(class_token=False, global_pool="avg"), big=True),
    timm_vit("vit_tiny_patch16_224", model=dict(reg_tokens=4, no_embed_class=True, init_values=0.1), big=True),
    timm_vit("vit_tiny_patch16_224", model=dict(qkv_bias=False, qk_norm=True), big=True),
    timm_vit("vit_small_patch16_224", dialect="timm .pth"),
    timm_vit("vit_small_patch16_18x2_224"),
    timm_vit("vit_base_patch16_rpn_224"),
    Case("ViT", "torchvision", "vit_b_16-c867db91", lambda: TorchvisionViT("vit_b_16"), SQUARE),
    Case("ViT", "torchvision", "vit_b_32-d86f8d99", lambda: TorchvisionViT("vit_b_32"), SQUARE),
    Case("ViT", "torchvision", "vit_l_16-852ce7e3", lambda: TorchvisionViT("vit_l_16"), SQUARE, big=True),
    Case("ViT", "torchvision", "vit_l_32-c7638314", lambda: TorchvisionViT("vit_l_32"), SQUARE, big=True),
    Case("ViT", "torchvision", "vit_b_16_swag-9ac1b537", lambda: TorchvisionViT("vit_b_16", 384, "IMAGENET1K_SWAG_E2E_V1"), SQUARE, big=True),
    Case("ViT", "torchvision", "vit_h_14_lc_swag-c1eb923e", lambda: TorchvisionViT("vit_h_14", 224, "IMAGENET1K_SWAG_LINEAR_V1"), ((280, 280),), big=True),
    Case("ViT", "huggingface", "model", lambda: HuggingFaceViT("ViT", **VITB), VIT_SIZES),
    Case("ViT", "huggingface, large", "model", lambda: HuggingFaceViT("ViT", patch_size=32, image_size=384, **VITL), ((256, 416),), big=True),
    Case("ViT", "huggingface, no head", "model", lambda: HuggingFaceViT("ViT", head="Model", **VITS), VIT_SIZES),
    Case("ViT", "jax", "S_16-i21k-300ep-lr_0.001-aug_light1-wd_0.03-do_0.0-sd_0.0--imagenet2012-steps_20k-lr_0.03-res_224",
         lambda: Renamed(TimmViT("vit_small_patch16_224"), lambda s: renaming.jax_vit(s, 6), container="npz"), VIT_SIZES),
    Case("ViT", "mmpretrain", "vit-base-p16",
         lambda: Renamed(TimmViT("vit_base_patch16_224"), renaming.mm_vit, wrap=lambda s: {"state_dict": s}, native_only=True), ()),
    # DeiT
    timm_vit("deit_tiny_patch16_224", family="DeiT"),
    timm_vit("deit_small_distilled_patch16_224", family="DeiT"),
    timm_vit("deit_base_distilled_patch16_384", family="DeiT", sizes=((256, 416),)),
    Case("DeiT", "deit", "deit_small_patch16_224-cd65a155", lambda: Renamed(TimmViT("deit_small_patch16_224"), dict), VIT_SIZES),
    Case("DeiT", "deit", "deit_tiny_distilled_patch16_224-b40b3cf7", lambda: Renamed(TimmViT("deit_tiny_distilled_patch16_224"), dict), VIT_SIZES),
    Case("DeiT", "huggingface", "model", lambda: HuggingFaceViT("DeiT", head="ForImageClassificationWithTeacher", **VITS), VIT_SIZES),
    Case("DeiT", "huggingface, plain", "model", lambda: HuggingFaceViT("ViT", **VITS), VIT_SIZES),
    # DeiT III
    timm_vit("deit3_small_patch16_224", family="DeiT III"),
    timm_vit("deit3_base_patch16_384", family="DeiT III", sizes=((256, 416),)),
    timm_vit("deit3_medium_patch16_224", family="DeiT III", big=True),
    timm_vit("deit3_large_patch16_384", family="DeiT III", sizes=((256, 416),), big=True),
    timm_vit("deit3_huge_patch14_224", family="DeiT III", sizes=((154, 266),), big=True),
    Case("DeiT III", "deit", "deit_3_small_224_1k", lambda: Renamed(TimmViT("deit3_small_patch16_224"), renaming.deit3), VIT_SIZES),
    # DINOv2
    timm_vit("vit_small_patch14_dinov2", family="DINOv2", sizes=DINOV2_SIZES),
    timm_vit("vit_small_patch14_reg4_dinov2", family="DINOv2", sizes=DINOV2_SIZES),
    timm_vit("vit_large_patch14_reg4_dinov2", family="DINOv2", sizes=((154, 266),), model=dict(img_size=224), big=True),
    timm_vit("vit_giant_patch14_dinov2", family="DINOv2", sizes=((154, 266),), model=dict(img_size=224, depth=6), big=True),
    timm_vit("vit_giant_patch14_reg4_dinov2", family="DINOv2", sizes=((154, 266),), model=dict(img_size=224, depth=6), big=True),
    Case("DINOv2", "huggingface", "model", lambda: HuggingFaceViT("Dinov2", **DINOS), DINOV2_SIZES),
    Case("DINOv2", "huggingface, SwiGLU", "model", lambda: HuggingFaceViT("Dinov2", head="Model", use_swiglu_ffn=True, **DINOS | {"num_hidden_layers": 4}), DINOV2_SIZES),
    Case("DINOv2", "huggingface, no head", "model", lambda: HuggingFaceViT("Dinov2", head="Model", **DINOS), DINOV2_SIZES),
    Case("DINOv2", "huggingface, registers", "model", lambda: HuggingFaceViT("Dinov2WithRegisters", num_register_tokens=4, **DINOS), DINOV2_SIZES),
    Case("DINOv2", "huggingface, base", "model", lambda: HuggingFaceViT("Dinov2", **DINOB), ((154, 266),), big=True),
    Case("DINOv2", "huggingface, giant", "model",
         lambda: HuggingFaceViT("Dinov2", head="Model", use_swiglu_ffn=True, hidden_size=1536, num_hidden_layers=4, num_attention_heads=24, mlp_ratio=4,
                                image_size=518, patch_size=14), ((154, 266),), big=True),
    Case("DINOv2", "huggingface, 0 registers", "model", lambda: HuggingFaceViT("Dinov2WithRegisters", num_register_tokens=0, **DINOS), DINOV2_SIZES),
    Case("DINOv2", "dinov2", "dinov2_vitg14_reg4_pretrain",
         lambda: Renamed(TimmViT("vit_giant_patch14_reg4_dinov2", depth=4), renaming.facebook_dinov2, native_only=True, wrap=lambda s: s), (), big=True),
    Case("DINOv2", "dinov2", "dinov2_vits14_pretrain",
         lambda: Renamed(TimmViT("vit_small_patch14_dinov2"), renaming.facebook_dinov2, native_only=True, wrap=lambda s: s), ()),
    Case("DINOv2", "dinov2", "dinov2_vits14_reg4_pretrain",
         lambda: Renamed(TimmViT("vit_small_patch14_reg4_dinov2"), renaming.facebook_dinov2, native_only=True, wrap=lambda s: s), ()),
    # SigLIP and CLIP
    timm_vit("vit_base_patch16_siglip_224", family="SigLIP"),
    timm_vit("vit_base_patch16_siglip_gap_224", family="SigLIP"),
    timm_vit("vit_base_patch32_siglip_256", family="SigLIP"),
    timm_vit("vit_so150m_patch16_reg4_map_256", family="SigLIP"),
    timm_vit("test_vit3", family="SigLIP"),
    timm_vit("vit_so400m_patch14_siglip_224", family="SigLIP", sizes=((154, 266), (250, 199)), big=True),
    timm_vit("vit_large_patch16_siglip_384", family="SigLIP", sizes=((256, 416),), big=True),
    Case("SigLIP", "huggingface", "model", lambda: HuggingFaceTower("Siglip", "Model", image_size=224, patch_size=16, **VITB), HF_TOWER_SIZES),
    Case("SigLIP", "huggingface, tower", "model", lambda: HuggingFaceTower("Siglip", "VisionModel", image_size=224, patch_size=14, **SO400M), HF_TOWER_SIZES),
    Case("SigLIP", "huggingface, classifier", "model", lambda: HuggingFaceTower("Siglip", "ForImageClassification", image_size=256, patch_size=16, **VITB), HF_TOWER_SIZES),
    timm_vit("vit_base_patch16_clip_224", family="CLIP"),
    timm_vit("vit_base_patch32_clip_quickgelu_224", family="CLIP"),
    timm_vit("vit_large_patch14_clip_quickgelu_224", family="CLIP", sizes=((154, 266),), big=True),
    timm_vit("vit_large_patch14_clip_224", family="CLIP", sizes=((154, 266),), big=True),
    timm_vit("vit_huge_patch14_clip_224", family="CLIP", sizes=(), big=True),
    Case("CLIP", "huggingface", "model", lambda: HuggingFaceTower("CLIP", "Model", image_size=224, patch_size=32, projection_dim=512, **VITB), HF_TOWER_SIZES),
    Case("CLIP", "huggingface, tower", "model", lambda: HuggingFaceTower("CLIP", "VisionModel", image_size=224, patch_size=16, **VITB), HF_TOWER_SIZES),
    Case("CLIP", "huggingface, projection", "model",
         lambda: HuggingFaceTower("CLIP", "VisionModelWithProjection", image_size=224, patch_size=14, projection_dim=768, **VITL), HF_TOWER_SIZES, big=True),
    Case("CLIP", "huggingface, classifier", "model", lambda: HuggingFaceTower("CLIP", "ForImageClassification", image_size=224, patch_size=16, **VITB), HF_TOWER_SIZES),
    Case("CLIP", "openclip", "open_clip_pytorch_model", lambda: Renamed(projecting(TimmViT("vit_base_patch16_clip_224")), renaming.openclip, wrap=lambda s: s), VIT_SIZES),
    # Swin
    timm_swin("swin_tiny_patch4_window7_224"),
    timm_swin("swin_small_patch4_window7_224", big=True),
    timm_swin("swin_base_patch4_window7_224", big=True),
    timm_swin("swin_base_patch4_window7_224.ms_in22k", big=True, sizes=()),
    timm_swin("swin_large_patch4_window7_224", big=True),
    timm_swin("swin_large_patch4_window12_384", big=True, sizes=((192, 288),)),
    timm_swin("swin_s3_tiny_224", big=True),
    timm_swin("swin_s3_small_224", big=True),
    timm_swin("swin_s3_base_224", big=True),
    timm_swin("swin_tiny_patch4_window7_224", model=dict(img_size=(224, 448)), sizes=((224, 224), (250, 199)), big=True),
    timm_swin("swin_tiny_patch4_window7_224", model=dict(img_size=256, window_size=8), big=True),
    timm_swin("swin_tiny_patch4_window7_224", model=dict(img_size=(192, 320), window_size=(6, 10)), sizes=(), options=("--set", "attention=window:size=6x10"), big=True),
    timm_swin("swin_base_patch4_window12_384", big=True),
    Case("Swin", "timm before 0.9", "swin_tiny_patch4_window7_224_old", lambda: Renamed(TimmSwin("swin_tiny_patch4_window7_224"), renaming.timm_before_09, native_only=True), ()),
    Case("Swin", "torchvision", "swin_t-704ceda3", lambda: TorchvisionSwin("swin_t"), SWIN_SIZES),
    Case("Swin", "torchvision", "swin_s-5e29d889", lambda: TorchvisionSwin("swin_s"), SWIN_SIZES, big=True),
    Case("Swin", "torchvision", "swin_b-68c6b09e", lambda: TorchvisionSwin("swin_b"), SWIN_SIZES, big=True),
    Case("Swin", "huggingface", "model", lambda: HuggingFaceSwin("Swin", **SWINT), HF_SWIN_SIZES),
    Case("Swin", "huggingface, base", "model", lambda: HuggingFaceSwin("Swin", image_size=384, window_size=12, **SWINB), ((192, 288),), big=True),
    Case("Swin", "huggingface, large", "model", lambda: HuggingFaceSwin("Swin", **SWINL), HF_SWIN_SIZES, big=True),
    Case("Swin", "huggingface, epsilon", "model", lambda: HuggingFaceSwin("Swin", layer_norm_eps=1e-3, **SWINT), HF_SWIN_SIZES),
    Case("Swin", "microsoft", "swin_tiny_patch4_window7_224", lambda: microsoft_swin("swin_tiny_patch4_window7_224"), SWIN_SIZES),
    Case("Swin", "microsoft", "swin_small_patch4_window7_224", lambda: microsoft_swin("swin_small_patch4_window7_224"), SWIN_SIZES, big=True),
    Case("Swin", "microsoft", "swin_base_patch4_window12_384_22kto1k", lambda: microsoft_swin("swin_base_patch4_window12_384"), ((192, 288),), big=True),
    Case("Swin", "microsoft", "swin_large_patch4_window7_224_22k", lambda: microsoft_swin("swin_large_patch4_window7_224.ms_in22k"), SWIN_SIZES, big=True),
    Case("Swin", "mmdet", "mask_rcnn_swin-s-p4-w7_fpn_fp16_ms-crop-3x_coco", lambda: mmdet_swin("swin_small_patch4_window7_224"), SWIN_SIZES, big=True),
    Case("Swin", "mmpretrain", "swin_large_patch4_window12_384_22kto1k", lambda: mmpretrain_swin("swin_large_patch4_window12_384"), (), big=True),
    Case("Swin", "mmdet", "mask_rcnn_swin-t-p4-w7_fpn_1x_coco", lambda: mmdet_swin("swin_tiny_patch4_window7_224"), SWIN_SIZES),
    Case("Swin", "microsoft, detection", "mask_rcnn_swin_tiny_patch4_window7_1x",
         lambda: microsoft_detection_swin("swin_tiny_patch4_window7_224"), SWIN_SIZES),
    Case("Swin", "mmpretrain", "swin_tiny_224_b16x64_300e_imagenet", lambda: mmpretrain_swin("swin_tiny_patch4_window7_224"), SWIN_SIZES),
    # Swin V2
    timm_swin("swinv2_tiny_window8_256", "Swin V2"),
    timm_swin("swinv2_tiny_window16_256", "Swin V2"),
    timm_swin("swinv2_small_window8_256", "Swin V2", big=True),
    timm_swin("swinv2_base_window16_256", "Swin V2", big=True),
    timm_swin("swinv2_base_window12_192", "Swin V2", big=True),
    timm_swin("swinv2_large_window12_192.ms_in22k", "Swin V2", big=True, sizes=()),
    timm_swin("swinv2_base_window12to16_192to256", "Swin V2", big=True),
    timm_swin("swinv2_large_window12to16_192to256", "Swin V2", big=True, sizes=((192, 288),)),
    timm_swin("swinv2_base_window12to24_192to384", "Swin V2", big=True, sizes=((192, 288),)),
    Case("Swin V2", "torchvision", "swin_v2_t-b137f0e2", lambda: TorchvisionSwin("swin_v2_t", 256), SWIN_SIZES),
    Case("Swin V2", "torchvision", "swin_v2_s-637d8ceb", lambda: TorchvisionSwin("swin_v2_s", 256), SWIN_SIZES, big=True),
    Case("Swin V2", "torchvision", "swin_v2_b-781e5279", lambda: TorchvisionSwin("swin_v2_b", 256), SWIN_SIZES, big=True),
    Case("Swin V2", "huggingface, epsilon", "model", lambda: HuggingFaceSwin("Swinv2", image_size=256, window_size=8, layer_norm_eps=1e-3, **SWINT), HF_SWIN_SIZES),
    Case("Swin V2", "huggingface, base 192", "model", lambda: HuggingFaceSwin("Swinv2", image_size=192, window_size=12, **SWINB), HF_SWIN_SIZES, big=True),
    Case("Swin V2", "huggingface, base 192 to 256", "model",
         lambda: HuggingFaceSwin("Swinv2", image_size=256, window_size=16, pretrained_window_sizes=[12, 12, 12, 6], **SWINB), HF_SWIN_SIZES, big=True),
    Case("Swin V2", "huggingface, large 192 to 384", "model",
         lambda: HuggingFaceSwin("Swinv2", image_size=384, window_size=24, pretrained_window_sizes=[12, 12, 12, 6], **SWINL), (), big=True),
    Case("Swin V2", "huggingface", "model", lambda: HuggingFaceSwin("Swinv2", image_size=256, window_size=8, **SWINT), HF_SWIN_SIZES),
    Case("Swin V2", "microsoft", "swinv2_tiny_patch4_window8_256", lambda: microsoft_swin("swinv2_tiny_window8_256", second=True), ()),
    Case("Swin V2", "microsoft", "swinv2_base_patch4_window12to16_192to256_22kto1k_ft", lambda: microsoft_swin("swinv2_base_window12to16_192to256", second=True), (), big=True),
    Case("Swin V2", "microsoft", "swinv2_tiny_patch4_window16_256", lambda: microsoft_swin("swinv2_tiny_window16_256", second=True), (), big=True),
    Case("Swin V2", "microsoft", "swinv2_small_patch4_window8_256", lambda: microsoft_swin("swinv2_small_window8_256", second=True), (), big=True),
    Case("Swin V2", "microsoft", "swinv2_base_patch4_window12_192_22k", lambda: microsoft_swin("swinv2_base_window12_192", second=True), (), big=True),
    Case("Swin V2", "microsoft", "swinv2_base_patch4_window12to24_192to384_22kto1k_ft", lambda: microsoft_swin("swinv2_base_window12to24_192to384", second=True), (), big=True),
    Case("Swin V2", "microsoft", "swinv2_large_patch4_window12to16_192to256_22kto1k_ft", lambda: microsoft_swin("swinv2_large_window12to16_192to256", second=True), (), big=True),
    Case("Swin V2", "mmpretrain", "swinv2-tiny-w8_3rdparty_in1k-256px", lambda: mmpretrain_swinv2("swinv2_tiny_window8_256"), ()),
    Case("Swin V2", "mmpretrain", "swinv2-base-w16_in21k-pre_3rdparty_in1k-256px", lambda: mmpretrain_swinv2("swinv2_base_window12to16_192to256"), (), big=True),
    # CSWin
    Case("CSWin", "cswin", "cswin_tiny_224", lambda: CSwin(64, [1, 2, 21, 1], [2, 4, 8, 16], 224), SWIN_SIZES),
    Case("CSWin", "cswin", "cswin_small_224", lambda: CSwin(64, [2, 4, 32, 2], [2, 4, 8, 16], 224), ((192, 288),), big=True),
    Case("CSWin", "cswin", "cswin_base_224", lambda: CSwin(96, [2, 4, 32, 2], [4, 8, 16, 32], 224), ((192, 288),), big=True),
    Case("CSWin", "cswin", "cswin_large_224", lambda: CSwin(144, [2, 4, 32, 2], [6, 12, 24, 24], 224), ((192, 288),), big=True),
    Case("CSWin", "cswin", "cswin_large_384", lambda: CSwin(144, [2, 4, 32, 2], [6, 12, 24, 24], 384), (), big=True),
    Case("CSWin", "cswin", "cswin_base_22k_224", lambda: CSwin(96, [2, 4, 32, 2], [4, 8, 16, 32], 224, classes=21841), (), big=True),
    Case("CSWin", "cswin", "cswin_base_384", lambda: CSwin(96, [2, 4, 32, 2], [4, 8, 16, 32], 384), ((192, 288),), big=True),
]
