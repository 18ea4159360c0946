#!/usr/bin/env python3
"""Writes tests/fixtures/dialects/NAME/: tiny ViTs with random weights in the dialects of the code bases, and what they make of images.

    pip install torch torchvision timm transformers safetensors numpy
    tools/make_dialect_fixtures.py tests/fixtures/dialects

A folder holds the checkpoint (model.safetensors or model.npz), config.json where the home writes one, and expected.safetensors: for
each size an image x.HxW, tokens.HxW after the last norm, pooled.HxW (attention pooling) and logits.HxW of the home's float64 run; metadata "settings" has what
fovea must be told, as key=value. Models of timm stand in for code bases that are no packages (facebookresearch, OpenMMLab, JAX),
renamed; their position tables are resampled here by the rule of the home.
"""
import copy
import json
import pathlib
import re
import sys
import tempfile

import numpy as np
import timm
import torch
import torch.nn.functional as F
import torchvision
import transformers
from safetensors.torch import load_file, save_file
from timm.layers import GluMlp
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer

SIZES = [(16, 16), (24, 12), (18, 23)]
SMALL = dict(img_size=16, patch_size=4, embed_dim=8, depth=2, num_heads=2, mlp_ratio=2, num_classes=3)


def perturbed(model, seed=0):
    """Random weights of which every one matters."""
    g = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        p.data = torch.randn(p.shape, generator=g) * (0.3 if p.dim() > 1 else 0.1) + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
    for name, p in model.named_parameters():
        if p.dim() == 1 and ("ls" in name or "layer_scale" in name or "lambda1" in name):
            p.data = 0.5 + 0.2 * torch.randn(p.shape, generator=g)
    return model.eval()


def image(size, channels=3):
    return torch.randn((1, channels, *size), generator=torch.Generator().manual_seed(size[0] * 100 + size[1])).double()


def write(folder, name, tensors, results, settings=(), config=None, channels=3):
    to = pathlib.Path(folder) / name
    to.mkdir(parents=True, exist_ok=True)
    if isinstance(tensors, dict) and all(isinstance(t, np.ndarray) for t in tensors.values()):
        np.savez(to / "model.npz", **tensors)
    else:
        save_file({k: v.detach().float().contiguous().clone() for k, v in tensors.items()}, to / "model.safetensors")
    if config:
        (to / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    expected = {}
    for size, (tokens, logits, *pooled) in results.items():
        key = f"{size[0]}x{size[1]}"
        expected["x." + key] = image(size, channels).float()
        expected["tokens." + key] = tokens.detach().float().contiguous()
        if logits is not None:
            expected["logits." + key] = logits.detach().float().contiguous()
        for p in pooled:
            expected["pooled." + key] = p.detach().float().contiguous()
    save_file(expected, to / "expected.safetensors", metadata={"settings": " ".join(settings)})


# ---- timm and what has its architecture ------------------------------------------------------------------------------


def resampled(table, prefix, old, new, **how):
    if old == new:
        return table
    head, grid = table[:, :prefix], table[:, prefix:]
    grid = grid.reshape(1, *old, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=new, mode="bicubic", **how)
    return torch.cat([head, grid.permute(0, 2, 3, 1).flatten(1, 2)], 1)


def run_timm(model, size, how):
    """At any size: the table by the rule `how`, the image padded to whole patches."""
    m = copy.deepcopy(model).double()
    patch = m.patch_embed.patch_size[0]
    x = image(size, m.patch_embed.proj.in_channels)
    x = F.pad(x, (0, -size[1] % patch, 0, -size[0] % patch))
    new = (x.shape[2] // patch, x.shape[3] // patch)
    prefix = 0 if m.no_embed_class else m.num_prefix_tokens
    old = m.patch_embed.grid_size
    if m.pos_embed is not None:
        m.pos_embed = torch.nn.Parameter(resampled(m.pos_embed.data, prefix, old, new, **how))
    m.patch_embed.strict_img_size = False
    m.patch_embed.grid_size = new
    with torch.no_grad():
        tokens = m.forward_features(x)
        logits = m.forward_head(tokens) if m.num_classes else None
        if m.attn_pool is not None:
            return tokens, logits, m.forward_head(tokens, pre_logits=True)
    return tokens, logits


def timm_results(model, how):
    return {size: run_timm(model, size, how) for size in SIZES}


ANTIALIASED, PLAIN = dict(antialias=True), dict(align_corners=False)
GATED = dict(mlp_layer=lambda *a, **k: GluMlp(*a, **{**k, "act_layer": torch.nn.SiLU, "gate_last": False}), mlp_ratio=3)


def timm_cases(folder):
    for name, options, settings in [
        ("timm_vit", {}, []),
        ("timm_registers", dict(reg_tokens=3, no_embed_class=True, init_values=0.1), []),
        ("timm_registers_with_positions", dict(reg_tokens=2, class_token=False, global_pool="avg", fc_norm=False, qkv_bias=False), []),
        ("timm_mean", dict(class_token=False, global_pool="avg"), []),
        ("timm_clip", dict(pre_norm=True, norm_layer=lambda c, **k: torch.nn.LayerNorm(c, eps=1e-5), act_layer=timm.layers.get_act_layer("quick_gelu")),
         ["activation=quick_gelu"]),
        ("timm_parallel", dict(block_fn=timm.models.vision_transformer.ParallelThingsBlock, init_values=0.1), []),
        ("timm_res_post", dict(block_fn=timm.models.vision_transformer.ResPostBlock, class_token=False, global_pool="avg", qkv_bias=False), ["block_norm=res_post"]),
        ("timm_attention_pool", dict(class_token=False, global_pool="map", num_classes=0, act_layer=timm.layers.get_act_layer("gelu_tanh")), ["activation=gelu_tanh"]),
        ("timm_attention_pool_registers", dict(class_token=False, reg_tokens=2, global_pool="map", init_values=0.1), []),
        ("timm_attention_pool_prefix", dict(class_token=False, reg_tokens=2, global_pool="map", pool_include_prefix=True), ["pool_prefix=true"]),
        ("timm_gated", dict(init_values=0.1, num_classes=0, **GATED), []),
        ("timm_no_last_norm", dict(final_norm=False, num_classes=0, reg_tokens=2, no_embed_class=True), []),
    ]:
        model = perturbed(VisionTransformer(**{**SMALL, **options}))
        write(folder, name, model.state_dict(), timm_results(model, ANTIALIASED), ["heads=2", *settings])
    model = perturbed(VisionTransformerDistilled(**SMALL))
    write(folder, "timm_deit_distilled", model.state_dict(), timm_results(model, ANTIALIASED), ["heads=2"])


def renamed(state, *rules):
    out = {}
    for k, v in state.items():
        for pattern, to in rules:
            k = re.sub(pattern, to, k)
        out[k] = v
    return out


def facebook_cases(folder):
    model = perturbed(VisionTransformer(**SMALL, no_embed_class=True, init_values=0.1))
    state = renamed(model.state_dict(), (r"ls(\d)\.gamma", r"gamma_\1"))
    write(folder, "facebook_deit3", state, timm_results(model, ANTIALIASED), ["heads=2"])
    headless = {**SMALL, "num_classes": 0}
    model = perturbed(VisionTransformer(**headless, init_values=0.1))
    state = renamed(model.state_dict(), (r"^blocks\.", "blocks.0."))
    write(folder, "facebook_dinov2_chunks", {"mask_token": torch.randn(1, 8), **state}, timm_results(model, PLAIN), ["heads=2"])
    # The class token has a position, registers have none: for timm that is one more token without positions.
    model = perturbed(VisionTransformer(**{**headless, "reg_tokens": 2, "no_embed_class": True, "init_values": 0.1, **GATED}))
    position = torch.randn(1, 1, 8)
    state = renamed(model.state_dict(), ("reg_token", "register_tokens"), (r"mlp\.fc1", "mlp.w12"), (r"mlp\.fc2", "mlp.w3"))
    state["pos_embed"] = torch.cat([position, state["pos_embed"]], 1)
    model.cls_token.data = model.cls_token.data + position
    write(folder, "facebook_dinov2_registers_gated", {"mask_token": torch.randn(1, 8), **state}, timm_results(model, ANTIALIASED), ["heads=2"])


def mmpretrain_cases(folder):
    rules = [("^head", "head.layers.head"), ("^(cls_token|dist_token|pos_embed|patch_embed|norm)", r"backbone.\1"), ("^blocks", "backbone.layers"),
             (r"patch_embed\.proj", "patch_embed.projection"), (r"backbone\.norm", "backbone.ln1"), (r"\.norm(\d)\.", r".ln\1."),
             (r"mlp\.fc1", "ffn.layers.0.0"), (r"mlp\.fc2", "ffn.layers.1"), (r"ls1\.gamma", "attn.gamma1.weight"), (r"ls2\.gamma", "ffn.gamma2.weight"),
             (r"head\.layers\.head_dist", "head.layers.head_dist")]
    model = perturbed(VisionTransformer(**SMALL, init_values=0.1))
    write(folder, "mmpretrain_vit", renamed(model.state_dict(), *rules), timm_results(model, PLAIN), ["heads=2"])


def jax_cases(folder):
    """timm's own reader of these files says what they mean."""
    g = np.random.default_rng(0)
    draw = lambda *shape: (0.3 * g.standard_normal(shape)).astype("float32")
    t = {"cls": draw(1, 1, 8), "embedding/kernel": draw(4, 4, 3, 8), "embedding/bias": draw(8), "head/kernel": draw(8, 3), "head/bias": draw(3),
         "Transformer/posembed_input/pos_embedding": draw(1, 17, 8), "Transformer/encoder_norm/scale": 1 + draw(8), "Transformer/encoder_norm/bias": draw(8)}
    for i in range(2):
        b = f"Transformer/encoderblock_{i}/"
        for n in (0, 2):
            t[f"{b}LayerNorm_{n}/scale"], t[f"{b}LayerNorm_{n}/bias"] = 1 + draw(8), draw(8)
        for n in ("query", "key", "value"):
            t[f"{b}MultiHeadDotProductAttention_1/{n}/kernel"], t[f"{b}MultiHeadDotProductAttention_1/{n}/bias"] = draw(8, 2, 4), draw(2, 4)
        t[b + "MultiHeadDotProductAttention_1/out/kernel"], t[b + "MultiHeadDotProductAttention_1/out/bias"] = draw(2, 4, 8), draw(8)
        t[b + "MlpBlock_3/Dense_0/kernel"], t[b + "MlpBlock_3/Dense_0/bias"] = draw(8, 16), draw(16)
        t[b + "MlpBlock_3/Dense_1/kernel"], t[b + "MlpBlock_3/Dense_1/bias"] = draw(16, 8), draw(8)
    with tempfile.TemporaryDirectory() as scratch:
        file = f"{scratch}/jax_vit.npz"
        np.savez(file, **t)
        model = VisionTransformer(**SMALL).eval()
        model.load_pretrained(file)
    assert torch.equal(model.head.weight.data, torch.from_numpy(t["head/kernel"].T))
    write(folder, "jax_vit", t, timm_results(model, ANTIALIASED))


def big_vision_cases(folder):
    g = np.random.default_rng(1)
    draw = lambda *shape: (0.3 * g.standard_normal(shape)).astype("float32")
    t = {"embedding/kernel": draw(4, 4, 3, 8), "embedding/bias": draw(8), "pos_embedding": draw(1, 16, 8), "Transformer/encoder_norm/scale": 1 + draw(8),
         "Transformer/encoder_norm/bias": draw(8), "MAPHead_0/probe": draw(1, 1, 8)}
    for b, norms in [("Transformer/encoderblock_0/", 2), ("Transformer/encoderblock_1/", 2), ("MAPHead_0/", 1)]:
        for n in range(norms):
            t[f"{b}LayerNorm_{n}/scale"], t[f"{b}LayerNorm_{n}/bias"] = 1 + draw(8), draw(8)
        for n in ("query", "key", "value"):
            t[f"{b}MultiHeadDotProductAttention_0/{n}/kernel"], t[f"{b}MultiHeadDotProductAttention_0/{n}/bias"] = draw(8, 2, 4), draw(2, 4)
        t[b + "MultiHeadDotProductAttention_0/out/kernel"], t[b + "MultiHeadDotProductAttention_0/out/bias"] = draw(2, 4, 8), draw(8)
        t[b + "MlpBlock_0/Dense_0/kernel"], t[b + "MlpBlock_0/Dense_0/bias"] = draw(8, 16), draw(16)
        t[b + "MlpBlock_0/Dense_1/kernel"], t[b + "MlpBlock_0/Dense_1/bias"] = draw(16, 8), draw(8)
    t = {"params/img/" + k: v for k, v in t.items()}
    with tempfile.TemporaryDirectory() as scratch:
        file = f"{scratch}/siglip.npz"
        np.savez(file, **t)
        model = VisionTransformer(**{**SMALL, "num_classes": 0}, class_token=False, global_pool="map").eval()
        model.load_pretrained(file)
    write(folder, "jax_big_vision", t, timm_results(model, ANTIALIASED))


def openclip_cases(folder):
    """timm's own reader of OpenAI's names says what they mean; its head has a bias of zeros."""
    from timm.models.vision_transformer import checkpoint_filter_fn
    model = perturbed(VisionTransformer(**SMALL, pre_norm=True, norm_layer=lambda c, **k: torch.nn.LayerNorm(c, eps=1e-5), act_layer=timm.layers.get_act_layer("quick_gelu")))
    model.head.bias.data.zero_()
    state = renamed(model.state_dict(), ("^cls_token", "class_embedding"), ("^pos_embed", "positional_embedding"), (r"^patch_embed\.proj", "conv1"), ("^norm_pre", "ln_pre"),
                    (r"^blocks", "transformer.resblocks"), (r"\.norm(\d)", r".ln_\1"), (r"attn\.qkv\.", "attn.in_proj_"), (r"attn\.proj", "attn.out_proj"), (r"mlp\.fc1", "mlp.c_fc"),
                    (r"mlp\.fc2", "mlp.c_proj"), ("^norm", "ln_post"), (r"^head\.weight", "proj"))
    del state["head.bias"]
    state |= {"class_embedding": state["class_embedding"][0, 0], "positional_embedding": state["positional_embedding"][0], "proj": state["proj"].T}
    whole = {"visual." + k: v.contiguous() for k, v in state.items()}
    again = VisionTransformer(**SMALL, pre_norm=True)
    again.load_state_dict(checkpoint_filter_fn(dict(whole), again), strict=True)
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), model.state_dict().values()))
    results = timm_results(model, ANTIALIASED)
    write(folder, "openclip_vit", state, results, ["heads=2", "activation=quick_gelu"])
    text = {"positional_embedding": torch.randn(3, 8), "transformer.resblocks.0.attn.in_proj_weight": torch.randn(24, 8), "ln_final.weight": torch.ones(8), "logit_scale": torch.ones(1)}
    write(folder, "openclip_whole", whole | text, results, ["heads=2", "activation=quick_gelu"])


# ---- torchvision -----------------------------------------------------------------------------------------------------


def torchvision_cases(folder):
    make = lambda side: torchvision.models.VisionTransformer(image_size=side, patch_size=4, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=3)
    model = perturbed(make(16))
    results = {}
    for side in (16, 24):
        m = make(side)
        m.load_state_dict(torchvision.models.vision_transformer.interpolate_embeddings(side, 4, copy.deepcopy(model.state_dict())))
        m = m.double().eval()
        with torch.no_grad():
            x = m._process_input(image((side, side)))
            tokens = m.encoder(torch.cat([m.class_token, x], 1))
            results[side, side] = tokens, m(image((side, side)))
    write(folder, "torchvision_vit", model.state_dict(), results, ["heads=2"])
    state = renamed(model.state_dict(), (r"mlp\.0", "mlp.linear_1"), (r"mlp\.3", "mlp.linear_2"))
    write(folder, "torchvision_vit_legacy", state, results, ["heads=2"])


# ---- Hugging Face ----------------------------------------------------------------------------------------------------


def run_huggingface(model, size, interpolates):
    m = copy.deepcopy(model).double()
    options = {"interpolate_pos_encoding": True} if interpolates else {}
    with torch.no_grad():
        base = getattr(m, m.base_model_prefix, m)
        tokens = base(image(size), **options).last_hidden_state
        logits = m(image(size), **options).logits if base is not m else None
    return tokens, logits


HUGGINGFACE_BASE = dict(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=4, num_labels=3,
                        attn_implementation="sdpa")  # its softmax is in float64, too


def write_huggingface(folder, name, cls, config):
    stated = ("architectures", "model_type", "num_attention_heads", "layer_norm_eps", "hidden_act", "image_size", "hidden_size")
    model = perturbed(cls(config))
    results = {size: run_huggingface(model, size, "dinov2" not in name) for size in SIZES}
    to = pathlib.Path(folder) / name
    model.save_pretrained(to)
    state = load_file(to / "model.safetensors")
    config = json.loads((to / "config.json").read_text())
    write(folder, name, state, results, config={k: config[k] for k in stated if k in config})
    for extra in to.glob("*"):
        if extra.name not in ("model.safetensors", "config.json", "expected.safetensors"):
            extra.unlink()


def huggingface_cases(folder):
    vit, dino = dict(HUGGINGFACE_BASE, intermediate_size=16), dict(HUGGINGFACE_BASE, mlp_ratio=2)
    T = transformers
    for name, cls, config in [
        ("huggingface_vit", T.ViTForImageClassification, T.ViTConfig(**vit)),
        ("huggingface_vit_bare", T.ViTModel, T.ViTConfig(**vit)),
        ("huggingface_deit", T.DeiTForImageClassification, T.DeiTConfig(**vit)),
        ("huggingface_deit_distilled", T.DeiTForImageClassificationWithTeacher, T.DeiTConfig(**vit)),
        ("huggingface_dinov2", T.Dinov2ForImageClassification, T.Dinov2Config(**dino)),
        ("huggingface_dinov2_gated", T.Dinov2Model, T.Dinov2Config(**dino, use_swiglu_ffn=True)),
        ("huggingface_dinov2_registers", T.Dinov2WithRegistersForImageClassification, T.Dinov2WithRegistersConfig(**dino, num_register_tokens=3)),
    ]:
        write_huggingface(folder, name, cls, config)


def huggingface_tower_cases(folder):
    """Image towers: alone, beside a tower of text, with a projection, with a classifier."""
    T = transformers
    tower = dict(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, image_size=16, patch_size=4)
    text = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=4, max_position_embeddings=3, bos_token_id=0, eos_token_id=1, pad_token_id=2)
    siglip, clip = T.SiglipVisionConfig(**tower), T.CLIPVisionConfig(**tower, projection_dim=5)
    both = lambda cls, vision, **more: cls(vision_config=vision.to_dict(), text_config=text, attn_implementation="sdpa", **more)
    stated = ("architectures", "model_type", "vision_config", "num_attention_heads", "layer_norm_eps", "hidden_act", "image_size", "hidden_size")

    def run(model, size):
        m = copy.deepcopy(model).double()
        with torch.no_grad():
            body = getattr(m, "vision_model", m)
            out = body(image(size), interpolate_pos_encoding=True)
            tokens = out.last_hidden_state
            if hasattr(m, "classifier"):
                return tokens, m(image(size), interpolate_pos_encoding=True).logits
            if "Siglip" in type(m).__name__:
                return tokens, None, out.pooler_output
            tokens = body.post_layernorm(tokens)
            return tokens, m(image(size), interpolate_pos_encoding=True).image_embeds if hasattr(m, "visual_projection") else None

    for name, model in [
        ("huggingface_siglip", T.SiglipModel(both(T.SiglipConfig, siglip))),
        ("huggingface_siglip_bare", T.SiglipVisionModel(siglip)),
        ("huggingface_siglip_classifier", T.SiglipForImageClassification(both(T.SiglipConfig, siglip, num_labels=3))),
        ("huggingface_clip", T.CLIPVisionModelWithProjection(clip)),
        ("huggingface_clip_bare", T.CLIPVisionModel(clip)),
        ("huggingface_clip_classifier", T.CLIPForImageClassification(both(T.CLIPConfig, clip, num_labels=3))),
    ]:
        perturbed(model)
        results = {size: run(model, size) for size in SIZES}
        with tempfile.TemporaryDirectory() as scratch:
            model.save_pretrained(scratch)
            state, config = load_file(f"{scratch}/model.safetensors"), json.loads(pathlib.Path(f"{scratch}/config.json").read_text())
        if "vision_config" in config:
            config["vision_config"] = {k: v for k, v in config["vision_config"].items() if k in stated}
        write(folder, name, state, results, config={k: config[k] for k in stated if k in config})


# ---- settings that few use -------------------------------------------------------------------------------------------


def unusual_cases(folder):
    for name, options, settings in [
        ("timm_no_positions", dict(pos_embed="none", reg_tokens=2), ["positions=false"]),
        ("timm_six_channels", dict(in_chans=6), []),
    ]:
        model = perturbed(VisionTransformer(**{**SMALL, **options}))
        write(folder, name, model.state_dict(), timm_results(model, ANTIALIASED), ["heads=2", *settings], channels=options.get("in_chans", 3))
    write_huggingface(folder, "huggingface_dinov2_no_registers", transformers.Dinov2WithRegistersForImageClassification,
                      transformers.Dinov2WithRegistersConfig(**HUGGINGFACE_BASE, mlp_ratio=2, num_register_tokens=0))


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for cases in (timm_cases, facebook_cases, mmpretrain_cases, jax_cases, big_vision_cases, openclip_cases, torchvision_cases, huggingface_cases, huggingface_tower_cases, unusual_cases):
        cases(sys.argv[1])
