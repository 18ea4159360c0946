#!/usr/bin/env python3
"""Writes tests/fixtures/swin: a tiny Swin, Swin V2 or CSWin in every dialect, and what its home answers at several sizes.

Each folder holds the weights as the dialect names them (in f16, to be small; the home computes with the rounded values, in f64), a
config.json where the home writes one, and answers.safetensors: for each size "HxW" the logits, or the last map of a model without a
head. Images are sin(0.37 i) over all of their values. Needs torch, torchvision, timm, transformers, safetensors.

    python3 tools/make_swin_fixtures.py
"""
import json
import os
import pathlib

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import numpy as np
import timm
import torch
import transformers
from safetensors.torch import save_file
from timm.models.swin_transformer import SwinTransformer, checkpoint_filter_fn
from timm.models.swin_transformer_v2 import SwinTransformerV2
from torchvision.models import swin_transformer as tv

from parity import renaming, windows
from parity.derived_models import CSwinWeights
from parity.subject import perturb

OUT = pathlib.Path(__file__).parent.parent / "tests/fixtures/swin"
SIZES = ((32, 32), (40, 56), (45, 27), (12, 20))
TINY = dict(embed_dim=4, depths=(2, 2), num_heads=(1, 2))


def image(size):
    n = 3 * size[0] * size[1]
    return torch.from_numpy(np.sin(np.float32(0.37) * np.arange(n, dtype=np.float32))).reshape(1, 3, *size).double()


def rounded(module, seed):
    perturb(module, seed)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(p.half().to(p.dtype))
    return module.eval().double()


def write(name, state, answers, config=None):
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in state.items()}, folder / "model.safetensors", {"format": "pt"})
    save_file({k: v.float().contiguous() for k, v in answers.items()}, folder / "answers.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def answers_of(run, sizes=SIZES):
    out = {}
    with torch.no_grad():
        for size in sizes:
            out[f"{size[0]}x{size[1]}"] = run(image(size))
    return out


def timm_model(second, **options):
    kind = SwinTransformerV2 if second else SwinTransformer
    return kind(**{**dict(img_size=32, patch_size=4, window_size=3, mlp_ratio=2, num_classes=3, **TINY), **options})


def timm_case(second):
    model = rounded(timm_model(second), 1)
    options = {"pretrained_window_sizes": (5, 2)} if second else {}
    model = rounded(timm_model(second, **options), 1)

    def run(x):
        other = timm_model(second, **options, img_size=tuple(x.shape[-2:])).double().eval()
        module = __import__(type(other).__module__, fromlist=["checkpoint_filter_fn"])
        other.load_state_dict(module.checkpoint_filter_fn(dict(model.state_dict()), other))
        return other(x)

    config = None
    if second:
        config = {"architecture": "swinv2_custom", "num_classes": 3, "model_args": {"img_size": 32, "window_size": 3, "pretrained_window_sizes": [5, 2]}}
    write("timm_v2" if second else "timm", model.state_dict(), answers_of(run), config)


def timm_fixed_case():
    """Windows and shifts as they are at the model's size, whatever the image's: timm's strict_img_size=False; and always_partition."""
    model = rounded(timm_model(False), 2)
    for name, options in (("timm_dynamic", dict(strict_img_size=False)), ("timm_partition", dict(strict_img_size=False, always_partition=True))):
        other = timm_model(False, **options).double().eval()
        other.load_state_dict(model.state_dict())
        write(name, model.state_dict(), answers_of(other, ((32, 32), (40, 56), (44, 24))))


def torchvision_case(second):
    more = dict(block=tv.SwinTransformerBlockV2, downsample_layer=tv.PatchMergingV2) if second else {}
    model = rounded(tv.SwinTransformer([4, 4], 4, [2, 2], [1, 2], [3, 3], mlp_ratio=2, stochastic_depth_prob=0, num_classes=3, **more), 3)
    write("torchvision_v2" if second else "torchvision", model.state_dict(), answers_of(model))


def hugging_face(kind, head, **options):
    labels = {"num_labels": 3} if head == "ForImageClassification" else {}
    config = getattr(transformers, kind + "Config")(**{**dict(image_size=32, window_size=3, mlp_ratio=2.0, drop_path_rate=0.0, attn_implementation="eager",
                                                                **TINY), **labels, **options})
    config.depths, config.num_heads = list(config.depths), list(config.num_heads)
    model = rounded(getattr(transformers, kind + head)(config), 4)
    model.config.save_pretrained(OUT / "tmp")
    state = json.loads((OUT / "tmp/config.json").read_text())
    return model, state


def saved(model):
    """Under the names that transformers writes."""
    from safetensors.torch import load_file
    model.float().save_pretrained(OUT / "tmp")
    model.double()
    return load_file(OUT / "tmp/model.safetensors")


def hugging_face_cases():
    # A map smaller than the window has no answer there: its table has other offsets.
    model, config = hugging_face("Swin", "ForImageClassification")
    run = lambda x: model(x).logits
    large = SIZES[:3]
    fresh = answers_of(lambda x: hugging_face_copy(model)(x).logits, large)
    state = saved(model)
    write("huggingface", state, fresh, config)
    # Microsoft's code (both axes of a small map share one window) and mmpretrain's have the same answers.
    ours = timm_names(state)
    write("microsoft", renaming.microsoft_swin(ours, 6, 3), fresh)
    write("mmpretrain", renaming.mm_swin(ours, 3, "backbone.", "head.fc."), fresh)

    model, config = hugging_face("Swinv2", "ForImageClassification", pretrained_window_sizes=[5, 2], window_size=5)
    state = saved(model)
    write("huggingface_v2", state, answers_of(lambda x: model(x).logits), config)

    # A backbone keeps its windows and shifts, as mmdet's and Microsoft's code for detection do.
    model, config = hugging_face("Swin", "Backbone", out_features=["stage1", "stage2"])
    state = saved(model)
    dense = answers_of(lambda x: model(x).feature_maps[-1])
    write("huggingface_backbone", state, dense, config)
    ours = timm_names(state)
    ours = {k: v for k, v in ours.items() if not k.startswith("norm.")}
    mm = renaming.mm_swin(ours, 3, "backbone.", None)
    mm = {k: v for k, v in mm.items() if not k.startswith("backbone.norm")} | {f"backbone.{k}": v for k, v in ours.items() if k.startswith("norm")}
    write("mmdet", mm | {"rpn_head.rpn_conv.weight": torch.zeros(2, 2, 1, 1)}, dense)
    write("microsoft_detection", {"backbone." + k: v for k, v in renaming.microsoft_swin(ours, 6, 3).items()}, dense)


def absolute_position_cases():
    """Positions of patches besides: transformers and mmpretrain resample them, Microsoft's classifiers have them for one size, and its detectors keep them as a map."""
    sizes = ((32, 32), (40, 56))
    model, config = hugging_face("Swin", "ForImageClassification", use_absolute_embeddings=True)
    run = lambda x: hugging_face_copy(model)(x, interpolate_pos_encoding=True).logits
    answers = answers_of(run, sizes)
    state = saved(model)
    write("huggingface_absolute", state, answers, config)
    ours = timm_names(state)
    write("microsoft_absolute", renaming.microsoft_swin(ours, 6, 3), {"32x32": answers["32x32"]})
    write("mmpretrain_absolute", renaming.mm_swin(ours, 3, "backbone.", "head.fc."), answers)

    model, config = hugging_face("Swin", "Backbone", use_absolute_embeddings=True, out_features=["stage1", "stage2"])
    embeddings = next(m for m in model.modules() if type(m).__name__ == "SwinEmbeddings")
    embed = embeddings.forward
    embeddings.forward = lambda pixels, *args, **kwargs: embed(pixels, interpolate_pos_encoding=True)
    dense = answers_of(lambda x: model(x).feature_maps[-1], sizes)
    del embeddings.forward
    ours = {k: v for k, v in timm_names(saved(model)).items() if not k.startswith("norm.")}
    table = ours["absolute_pos_embed"]
    ours["absolute_pos_embed"] = table.reshape(1, 8, 8, -1).permute(0, 3, 1, 2)
    write("microsoft_detection_absolute", {"backbone." + k: v for k, v in renaming.microsoft_swin(ours, 6, 3).items()}, dense)


def epsilon_cases():
    """Norms in blocks, and the last one, take their epsilon from the configuration; those between blocks do not."""
    for name, kind, options in (("huggingface_epsilon", "Swin", {}), ("huggingface_v2_epsilon", "Swinv2", {})):
        model, config = hugging_face(kind, "ForImageClassification", layer_norm_eps=0.1, **options)
        write(name, saved(model), answers_of(lambda x: hugging_face_copy(model)(x).logits, SIZES[:2]), config)
    model, config = hugging_face("Swin", "Backbone", layer_norm_eps=0.1, out_features=["stage1", "stage2"])
    write("huggingface_backbone_epsilon", saved(model), answers_of(lambda x: model(x).feature_maps[-1], SIZES[:2]), config)


def hugging_face_copy(model):
    """transformers' Swin keeps the windows of the smallest map that it has seen."""
    import copy
    return copy.deepcopy(model)


def timm_names(state):
    """transformers' names as timm's."""
    import re
    out = {}
    for name, value in state.items():
        name = re.sub(r"^swin\.", "", name)
        name = re.sub(r"^encoder\.layers\.(\d+)\.downsample", lambda m: f"layers.{int(m[1]) + 1}.downsample", name)
        for old, new in ((r"^encoder\.", ""), (r"attention\.self\.relative", "attn.relative"), (r"attention\.output\.dense", "attn.proj"),
                         (r"intermediate\.dense", "mlp.fc1"), (r"(\d)\.output\.dense", r"\1.mlp.fc2"), (r"layernorm_before", "norm1"),
                         (r"layernorm_after", "norm2"), (r"^layernorm", "norm"), (r"^classifier", "head.fc"), (r"^embeddings\.norm", "patch_embed.norm"),
                         (r"^embeddings\.patch_embeddings\.projection", "patch_embed.proj"), (r"^embeddings\.position_embeddings", "absolute_pos_embed"), (r"attention\.self\.(query|key|value)", r"attn.\1")):
            name = re.sub(old, new, name)
        name = re.sub(r"^hidden_states_norms\.stage(\d)", lambda m: f"norm{int(m[1]) - 1}", name)
        out[name] = value
    for name in [n for n in out if ".query." in n]:
        out[name.replace("query", "qkv")] = torch.cat([out.pop(name.replace("query", part)) for part in ("query", "key", "value")])
    return out


def cswin_case():
    model = CSwinWeights(8, [1, 2, 1], [2, 2, 1], classes=3)
    model = rounded(DottedNames(model), 5)
    state = {k.replace("/", ".").removeprefix("inner."): v for k, v in model.state_dict().items()}
    run = lambda x: windows.cswin(state, x, [2, 4, 4], [1, 2, 2])["logits"]
    write("cswin", {"module." + k: v for k, v in state.items()}, answers_of(run))


class DottedNames(torch.nn.Module):
    """So that perturb() sees names with dots."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def named_parameters(self, *args, **kwargs):
        return ((n.replace("/", "."), p) for n, p in super().named_parameters(*args, **kwargs))


if __name__ == "__main__":
    torch.manual_seed(0)
    for second in (False, True):
        timm_case(second)
        torchvision_case(second)
    timm_fixed_case()
    hugging_face_cases()
    cswin_case()
    absolute_position_cases()
    epsilon_cases()
    import shutil
    shutil.rmtree(OUT / "tmp", ignore_errors=True)
