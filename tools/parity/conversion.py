"""`fovea convert` between homes: each one's own loader must take the file without a complaint and answer as the first home did."""
import pathlib
import re
import shutil

import torch

from . import compare
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
    return bad
