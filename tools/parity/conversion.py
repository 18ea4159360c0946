"""`fovea convert` between homes: each one's own loader must take the file without a complaint and answer as the first home did. Where the home is no
package, what is written must be, bit by bit, what renaming.py makes of the same weights."""
import pathlib
import re
import shutil

import torch

from . import compare, renaming
from .derived_models import CSwin, Renamed, microsoft_detection_swin, microsoft_swin, mmdet_swin, mmpretrain_swin, mmpretrain_swinv2
from .timm_models import TimmSwin, TimmViT


def load_in_timm(folder, source):
    import timm
    from safetensors.torch import load_file
    module = timm.create_model(source.name, pretrained=False, **source.options).eval()
    module.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    return (lambda x: module.double()(x)) if module.num_classes > 0 else (lambda x: module.double().forward_features(x))


def load_in_torchvision(folder, source, name):
    import torchvision
    from safetensors.torch import load_file
    module = torchvision.models.get_model(name, weights=None).eval()
    module.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    return lambda x: module.double()(x)


def load_in_transformers(folder, source):
    import json
    import transformers
    architecture = json.loads((folder / "config.json").read_text())["architectures"][0]
    module, report = getattr(transformers, architecture).from_pretrained(folder, output_loading_info=True, attn_implementation="eager")
    bad = {k: v for k, v in report.items() if v and k in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    # A mask token is for pre-training; transformers makes one where a file has none.
    bad = {k: [n for n in v if "mask_token" not in str(n)] for k, v in bad.items()}
    if any(bad.values()):
        raise ValueError(f"transformers says {bad}")
    module = module.double().eval()

    def answer(x):
        out = module(x)
        return out.logits if hasattr(out, "logits") else out.last_hidden_state
    return answer


# timm's model, and where its weights go: home -> how that home loads them.
PATHS = [
    (lambda: TimmViT("vit_small_patch16_224"), {"timm": load_in_timm, "huggingface": load_in_transformers}),
    (lambda: TimmViT("vit_base_patch16_224"), {"torchvision": lambda f, s: load_in_torchvision(f, s, "vit_b_16")}),
    (lambda: TimmViT("deit_tiny_patch16_224"), {"huggingface": load_in_transformers}),
    (lambda: TimmViT("deit_tiny_distilled_patch16_224"), {"huggingface": load_in_transformers, "timm": load_in_timm}),
    (lambda: TimmViT("deit3_small_patch16_224"), {"timm": load_in_timm}),
    (lambda: TimmViT("vit_small_patch14_dinov2"), {"huggingface": load_in_transformers, "timm": load_in_timm}),
    (lambda: TimmViT("vit_base_patch16_siglip_224"), {"huggingface": load_in_transformers, "timm": load_in_timm}),
    (lambda: TimmSwin("swin_tiny_patch4_window7_224"), {"timm": load_in_timm, "huggingface": load_in_transformers,
                                                       "torchvision": lambda f, s: load_in_torchvision(f, s, "swin_t")}),
    (lambda: TimmSwin("swinv2_tiny_window8_256"), {"timm": load_in_timm, "huggingface": load_in_transformers,
                                                  "torchvision": lambda f, s: load_in_torchvision(f, s, "swin_v2_t")}),
]


# The same weights in two dialects: the file's name, one of them, the other one, and what it is called. Their seeds are equal.
TWINS = [
    ("mask_rcnn_swin_tiny", lambda: microsoft_detection_swin("swin_tiny_patch4_window7_224"), lambda: mmdet_swin("swin_tiny_patch4_window7_224"), "mmdet"),
    ("mask_rcnn_swin_tiny", lambda: mmdet_swin("swin_tiny_patch4_window7_224"), lambda: microsoft_detection_swin("swin_tiny_patch4_window7_224"), "microsoft"),
    ("swin_tiny_patch4_window7_224", lambda: microsoft_swin("swin_tiny_patch4_window7_224"), lambda: mmpretrain_swin("swin_tiny_patch4_window7_224"), "mmpretrain"),
    ("swin_tiny_patch4_window7_224", lambda: TimmSwin("swin_tiny_patch4_window7_224"), lambda: microsoft_swin("swin_tiny_patch4_window7_224"), "microsoft"),
    ("swinv2_tiny_window8_256", lambda: TimmSwin("swinv2_tiny_window8_256"), lambda: microsoft_swin("swinv2_tiny_window8_256", second=True), "microsoft"),
    ("swinv2_tiny_window8_256", lambda: microsoft_swin("swinv2_tiny_window8_256", second=True), lambda: mmpretrain_swinv2("swinv2_tiny_window8_256"), "mmpretrain"),
    ("vit_base_patch16_224", lambda: TimmViT("vit_base_patch16_224"), lambda: Renamed(TimmViT("vit_base_patch16_224"), renaming.mm_vit), "mmpretrain"),
    ("deit3_small_patch16_224", lambda: TimmViT("deit3_small_patch16_224"), lambda: Renamed(TimmViT("deit3_small_patch16_224"), renaming.deit3), "facebook"),
    ("vit_small_patch14_dinov2", lambda: TimmViT("vit_small_patch14_dinov2"), lambda: Renamed(TimmViT("vit_small_patch14_dinov2"), renaming.facebook_dinov2), "facebook-dinov2"),
    ("cswin_tiny_224", lambda: CSwin(64, [1, 2, 21, 1], [2, 4, 8, 16], 224), lambda: CSwin(64, [1, 2, 21, 1], [2, 4, 8, 16], 224), "microsoft"),
]


def check_twin(program, name, make, make_other, dialect, folder):
    """A complaint, or "": fovea's own names between the two, so that a model of one dialect is written anew, too."""
    from safetensors.torch import load_file
    torch.manual_seed(0)
    original = make().write(folder, name)
    torch.manual_seed(0)
    expected = make_other().state()
    own, written = pathlib.Path(folder) / "own.safetensors", pathlib.Path(folder) / "written.safetensors"
    compare.fovea(program, "convert", original, own)
    compare.fovea(program, "convert", own, written, "--to", dialect)
    got = load_file(written)
    if not any(k in got for k in expected):  # backbones alone have no prefix
        expected = {k.removeprefix("backbone."): v for k, v in expected.items()}
    buffers = ("attn_mask",)  # which homes compute anew
    lost = [k for k in expected if k not in got and not k.endswith(buffers)]
    more = [k for k in got if k not in expected]
    other = [k for k in expected if k in got and not torch.equal(got[k], expected[k].to(got[k].dtype).reshape(got[k].shape) if got[k].numel() == expected[k].numel() else expected[k])]
    # Buffers of logarithms are those of another library to a bit or so.
    other = [k for k in other if not (k.endswith("relative_coords_table") and torch.allclose(got[k], expected[k], atol=1e-6))]
    return "".join(f"{len(names)} {what} ({names[0]}); " for what, names in (("missing", lost), ("too many", more), ("different", other)) if names)


def same_file(a, b):
    from safetensors.torch import load_file
    x, y = load_file(a), load_file(b)
    return x.keys() == y.keys() and all(x[k].dtype == y[k].dtype and torch.equal(x[k], y[k]) for k in x)


def check(program, only, folder):
    """Prints a line a path; the number of those that do not hold."""
    bad = 0
    for make, homes in PATHS:
        torch.manual_seed(0)
        source = make()
        if not re.search(only, source.name):
            continue
        original = source.write(folder, source.name)
        x = torch.randn((1, 3, *source.native), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        exact = source.run(x, torch.float64)
        for home, load in homes.items():
            there = pathlib.Path(folder) / f"{source.name}-{home}"
            shutil.rmtree(there, ignore_errors=True)
            there.mkdir()
            try:
                compare.fovea(program, "convert", original, there / "model.safetensors", "--to", home)
                compare.fovea(program, "convert", there / "model.safetensors", pathlib.Path(folder) / "back.safetensors", "--to", "timm")
                with torch.no_grad():
                    answer = load(there, source)(x)
                expected = exact["logits"] if exact.get("logits") is not None and answer.ndim == 2 else exact["tokens"]
                if not isinstance(answer, torch.Tensor):
                    answer = answer[0]
                error = compare.relative(answer, expected)
                back = same_file(original, pathlib.Path(folder) / "back.safetensors")
                good, text = error < 1e-6 and back, f"differs by {error:.1e}, {'same bits on the way back' if back else 'OTHER BITS ON THE WAY BACK'}"
            except Exception as e:
                good, text = False, f"{type(e).__name__}: {str(e)[:300]}"
            bad += not good
            print(f"{'ok  ' if good else 'FAIL'} {source.name} -> {home}: {text}", flush=True)
            (pathlib.Path(folder) / "config.json").unlink(missing_ok=True)
    for name, make, make_other, dialect in TWINS:
        if not re.search(only, name):
            continue
        try:
            complaint = check_twin(program, name, make, make_other, dialect, folder)
        except Exception as e:
            complaint = f"{type(e).__name__}: {str(e)[:300]}"
        bad += complaint != ""
        print(f"{'FAIL' if complaint else 'ok  '} {name} -> {dialect}: {complaint or 'what its home writes, bit by bit'}", flush=True)
    return bad
