"""Dialects whose code is not on PyPI, made from timm's models by renaming and permuting, independently of fovea's tables."""
import re

import numpy as np
import torch


def substituted(state, *rules):
    """Every name after all rules (pattern, replacement) in order."""
    out = {}
    for name, value in state.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        out[name] = value
    return out


def relative_position_index(window):
    """(w w, w w): (dy + w - 1) (2 w - 1) + dx + w - 1, query minus key."""
    y, x = np.divmod(np.arange(window * window), window)
    dy, dx = y[:, None] - y[None], x[:, None] - x[None]
    return torch.from_numpy(((dy + window - 1) * (2 * window - 1) + dx + window - 1).astype(np.int64))


def shift_mask(side, window):
    """(windows, w w, w w): -100 where two tokens of a shifted map lie in different regions."""
    shift = window // 2
    region = np.digitize(np.arange(side), [side - window, side - shift])
    label = (3 * region[:, None] + region[None]).reshape(side // window, window, side // window, window).transpose(0, 2, 1, 3).reshape(-1, window * window)
    return torch.from_numpy(np.where(label[:, :, None] != label[:, None, :], -100.0, 0.0).astype(np.float32))


def coordinates_table(window, reference):
    """(1, 2 w - 1, 2 w - 1, 2): log-spaced offsets of Swin V2."""
    u = 8 * np.arange(1 - window, window, dtype=np.float32) / (reference - 1)
    t = (np.sign(u) * np.log2(np.abs(u) + 1) / np.log2(8)).astype(np.float32)
    return torch.from_numpy(np.stack(np.meshgrid(t, t, indexing="ij"), -1)[None].copy())


def swin_windows(state, side, window):
    """The window and whether it shifts, of every block: (stage, block) -> (side of its map, window, shifted)."""
    blocks = sorted({tuple(map(int, m.groups())) for m in (re.match(r"layers\.(\d+)\.blocks\.(\d+)\.", k) for k in state) if m})
    out = {}
    for stage, block in blocks:
        map_side = side >> stage
        fits = map_side > window
        out[stage, block] = (map_side, window if fits else map_side, fits and block % 2 == 1)
    return out


def microsoft_swin(state, side, window, pretrained=None):
    """timm's Swin V1 or V2 as microsoft/Swin-Transformer saves it, buffers included. side: of the first map, in patches."""
    out = substituted(state, (r"^layers\.(\d+)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample"), (r"^head\.fc\.", "head."))
    for (stage, block), (map_side, w, shifted) in swin_windows(state, side, window).items():
        at = f"layers.{stage}.blocks.{block}."
        out[at + "attn.relative_position_index"] = relative_position_index(w)
        if pretrained is not None:
            out[at + "attn.relative_coords_table"] = coordinates_table(w, (pretrained[stage] or w))
        if shifted:
            out[at + "attn_mask"] = shift_mask(map_side, w)
    return out


def unfolded(t):
    """Merging's 4 C inputs from (x0, x1, x2, x3 side by side) to nn.Unfold's order: channels outermost, rows before columns."""
    *outer, width = t.shape
    blocks = t.reshape(*outer, 4, width // 4)[..., [0, 2, 1, 3], :]  # (0,0) (1,0) (0,1) (1,1) -> (0,0) (0,1) (1,0) (1,1)
    return blocks.transpose(-1, -2).reshape(t.shape).contiguous()


def mm_names(state):
    """What OpenMMLab calls the parts of a Swin otherwise than timm, in both versions."""
    last = max(int(m[1]) for m in (re.match(r"layers\.(\d+)\.", k) for k in state) if m)
    return (
        (r"^layers\.", "stages."),
        (r"\.attn\.", ".attn.w_msa."),
        (r"\.mlp\.fc1\.", ".ffn.layers.0.0."),
        (r"\.mlp\.fc2\.", ".ffn.layers.1."),
        (r"^patch_embed\.proj\.", "patch_embed.projection."),
        (r"^norm\.", f"norm{last}."),
    )


def mm_swin(state, window, prefix, head):
    """timm's Swin V1 as mmdet (prefix "", head None) and mmpretrain ("backbone.", "head.fc.") save it."""
    out = {}
    for name, value in substituted(
        state,
        (r"^layers\.(\d+)\.downsample", lambda m: f"stages.{int(m[1]) - 1}.downsample"),
        *mm_names(state),
    ).items():
        if name.startswith("head."):
            if head is not None:
                out[head + name.split(".")[-1]] = value
            continue
        if ".downsample." in name:
            value = unfolded(value)
        out[prefix + name] = value
        if name.endswith("relative_position_bias_table"):
            w = (int(round(value.shape[0] ** 0.5)) + 1) // 2
            out[prefix + name.replace("bias_table", "index")] = relative_position_index(w)
    return out


def mm_swin_v2(state, side, window, pretrained):
    """timm's Swin V2 as mmpretrain saves it: stages begin with their merges, as timm's do, and the norm after them has the usual order."""
    out = {}
    for name, value in substituted(
        state,
        *mm_names(state),
    ).items():
        if name.startswith("head."):
            out["head.fc." + name.split(".")[-1]] = value
        else:
            out["backbone." + name] = unfolded(value) if name.endswith("downsample.reduction.weight") else value
    for (stage, block), (_, w, _) in swin_windows(state, side, window).items():
        at = f"backbone.stages.{stage}.blocks.{block}.attn.w_msa."
        out[at + "relative_position_index"] = relative_position_index(w)
        out[at + "relative_coords_table"] = coordinates_table(w, (pretrained[stage] or w))
    return out


def mm_vit(state, head="head.layers.head."):
    """timm's ViT as mmpretrain saves it."""
    return substituted(
        state,
        (r"^(?!head)", "backbone."),
        (r"backbone\.blocks\.", "backbone.layers."),
        (r"patch_embed\.proj\.", "patch_embed.projection."),
        (r"(layers\.\d+)\.norm([12])\.", r"\1.ln\2."),
        (r"\.mlp\.fc1\.", ".ffn.layers.0.0."),
        (r"\.mlp\.fc2\.", ".ffn.layers.1."),
        (r"backbone\.norm\.", "backbone.ln1."),
        (r"^head\.", head),
    )


def facebook_dinov2(state):
    """timm's DINOv2 ViT as facebookresearch/dinov2 saves it: a mask token, a row of positions for the class token alone."""
    out = substituted(state, (r"^reg_token$", "register_tokens"), (r"\.mlp\.fc1\.", ".mlp.w12." if ("blocks.0.mlp.fc1.weight" in state and
                      state["blocks.0.mlp.fc1.weight"].shape[0] != state["blocks.0.mlp.fc2.weight"].shape[1]) else ".mlp.fc1."))
    if "blocks.0.mlp.w12.weight" in out:
        out = substituted(out, (r"\.mlp\.fc2\.", ".mlp.w3."))
    patches = out["pos_embed"]
    if "register_tokens" in out:  # timm has added the class token's position to the token
        row = torch.full_like(patches[:, :1], 0.25)
        out["cls_token"] = out["cls_token"] - row
        out["pos_embed"] = torch.cat([row, patches], 1)
    out["mask_token"] = torch.zeros(1, out["cls_token"].shape[-1])
    return out


def deit3(state):
    """timm's DeiT III as facebookresearch/deit saves it."""
    return substituted(state, (r"\.ls([12])\.gamma$", r".gamma_\1"))


def jax_vit(state, heads):
    """timm's ViT as google-research/vision_transformer saves it in a .npz: kernels (in, out), convolutions (h, w, in, out)."""
    out = {}
    dim = state["cls_token"].shape[-1]
    kernel = lambda w: w.t().contiguous()
    for name, value in state.items():
        m = re.match(r"blocks\.(\d+)\.(.*)\.(weight|bias)$", name)
        if not m:
            continue
        at, part, leaf = f"Transformer/encoderblock_{m[1]}/", m[2], m[3]
        if part == "attn.qkv":
            for share, which in zip(value.chunk(3), ("query", "key", "value")):
                place = at + f"MultiHeadDotProductAttention_1/{which}/"
                if leaf == "weight":
                    out[place + "kernel"] = kernel(share).reshape(dim, heads, -1)
                else:
                    out[place + "bias"] = share.reshape(heads, -1)
        elif part == "attn.proj":
            place = at + "MultiHeadDotProductAttention_1/out/"
            if leaf == "weight":
                out[place + "kernel"] = kernel(value).reshape(heads, -1, dim)
            else:
                out[place + "bias"] = value
        elif part.startswith("norm"):
            out[at + ("LayerNorm_0/" if part == "norm1" else "LayerNorm_2/") + ("scale" if leaf == "weight" else "bias")] = value
        else:
            out[at + ("MlpBlock_3/Dense_0/" if part == "mlp.fc1" else "MlpBlock_3/Dense_1/") + ("kernel" if leaf == "weight" else "bias")] = (
                kernel(value) if leaf == "weight" else value)
    out["Transformer/encoder_norm/scale"] = state["norm.weight"]
    out["Transformer/encoder_norm/bias"] = state["norm.bias"]
    out["Transformer/posembed_input/pos_embedding"] = state["pos_embed"]
    out["cls"] = state["cls_token"]
    out["embedding/kernel"] = state["patch_embed.proj.weight"].permute(2, 3, 1, 0).contiguous()
    out["embedding/bias"] = state["patch_embed.proj.bias"]
    out["head/kernel"] = kernel(state["head.weight"])
    out["head/bias"] = state["head.bias"]
    return out


def timm_before_09(state):
    """timm's Swin before 0.9: a stage ended with its merging, and the head was one layer; buffers were saved by the caller's choice."""
    return substituted(state, (r"^layers\.(\d+)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample"), (r"^head\.fc\.", "head."))


def openclip(s):
    """The image tower of a whole model; its head is a projection without bias."""
    s = {k: v for k, v in s.items() if k != "head.bias"}
    out = substituted(s, ("^cls_token", "class_embedding"), ("^pos_embed", "positional_embedding"), (r"^patch_embed\.proj", "conv1"), ("^norm_pre", "ln_pre"),
                      ("^blocks", "transformer.resblocks"), (r"\.norm(\d)", r".ln_\1"), (r"attn\.qkv\.", "attn.in_proj_"), (r"attn\.proj", "attn.out_proj"),
                      (r"mlp\.fc1", "mlp.c_fc"), (r"mlp\.fc2", "mlp.c_proj"), ("^norm", "ln_post"), (r"^head\.weight", "proj"))
    out |= {"class_embedding": out["class_embedding"][0, 0], "positional_embedding": out["positional_embedding"][0], "proj": out["proj"].T}
    return {"visual." + k: v for k, v in out.items()} | {"logit_scale": torch.ones(1), "token_embedding.weight": torch.ones(2, 2)}
