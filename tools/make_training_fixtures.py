#!/usr/bin/env python3
"""Write tests/fixtures/training/*.safetensors: short training runs of small models in PyTorch float64.

    python3 tools/make_training_fixtures.py [--out DIR] [--check]

Needs torch, timm, numpy and safetensors (bench/requirements.txt). Images and initial weights are drawn in float32 and
widened, so a reader starts from exactly the same numbers; everything after that is float64. The arithmetic of a step:

    loss   = mean over the batch of cross_entropy(logits, label), label smoothing 0.1: target = 0.9 onehot + 0.1 / classes
    norm   = sqrt(sum of squares of all gradients);  g *= min(1, max_norm / (norm + 1e-6))
    AdamW  : p *= 1 - lr * decay (decayed parameters only);  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2
             p -= lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps),  t = 1, 2, ...

--check writes nothing: it reads the files, repeats each run from the stored bytes with the three formulas above written
out by hand, compares the step-0 gradient with a central difference, and exits 1 on any disagreement.
"""

import argparse
import json
import pathlib
import sys

import numpy as np
import safetensors
import safetensors.numpy
import timm
import torch
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer

BATCH = 8
CLASSES = 5
LABEL_SMOOTHING = 0.1
LR = 1e-3
BETAS = (0.9, 0.999)
EPS = 1e-8
WEIGHT_DECAY = 0.05
MAX_NORM = 1.0
# Next to every parameter with fewer than two dimensions; the names timm exempts for these models.
NO_DECAY_NAMES = ("pos_embed", "cls_token", "reg_token", "relative_position_bias_table")

VIT = dict(patch_size=4, embed_dim=32, depth=2, num_heads=4, mlp_ratio=4, qkv_bias=True, num_classes=CLASSES)
SWIN = dict(patch_size=4, embed_dim=16, depths=(2, 2), num_heads=(2, 4), window_size=4, mlp_ratio=4, num_classes=CLASSES)

CASES = {
    "train_vit": dict(
        family="vit", steps=10, feature_scale=0.25, seed=3101,
        model=dict(VIT, img_size=(16, 16), class_token=True, global_pool="token", reg_tokens=0)),
    "train_vit_avgpool_reg": dict(
        family="vit", steps=3, feature_scale=0.18, seed=3102,
        model=dict(VIT, img_size=(16, 16), class_token=True, global_pool="avg", reg_tokens=2)),
    "train_swin": dict(family="swin", steps=10, feature_scale=0.2, seed=3103, model=dict(SWIN, img_size=(32, 32))),
    "train_swin_odd": dict(family="swin", steps=3, feature_scale=0.2, seed=3104, model=dict(SWIN, img_size=(36, 44))),
}


def build(family, arguments):
    """The float64 model in training mode; no dropout and no stochastic depth, so that mode changes nothing else."""
    if family == "vit":
        model = VisionTransformer(**arguments)
    else:
        model = SwinTransformer(**arguments, drop_path_rate=0.0)
    return model.double().train()


def draw_weights(model, rng, feature_scale):
    """Float32 weights of a size at which every part matters: no layer starts near zero or near the identity.

    feature_scale, the size of the last norm's output, sets the size of the gradients, so that a run has steps on both
    sides of the clipping norm.
    """
    weights = {}
    for name, parameter in model.named_parameters():
        shape = tuple(parameter.shape)
        noise = rng.standard_normal(shape, dtype=np.float32)
        if "norm" in name and name.endswith("weight"):
            weights[name] = np.float32(1) + np.float32(0.1) * noise
        elif parameter.ndim == 1:
            weights[name] = np.float32(0.1) * noise
        elif name.endswith(NO_DECAY_NAMES):
            weights[name] = np.float32(0.3) * noise
        else:
            weights[name] = np.float32(np.prod(shape[1:]) ** -0.5) * noise
        if name.split(".")[0] in ("norm", "fc_norm"):
            weights[name] *= np.float32(feature_scale)
    return weights


def load_weights(model, weights):
    parameters = dict(model.named_parameters())
    if parameters.keys() != weights.keys():
        raise SystemExit(f"the model's parameters differ from the file's: {sorted(parameters.keys() ^ weights.keys())}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(torch.from_numpy(weights[name]))


def is_decayed(name, parameter):
    return parameter.ndim >= 2 and not name.endswith(NO_DECAY_NAMES)


def train(model, images, labels):
    """Runs one step a batch with PyTorch's own parts; returns losses, norms, step-0 logits and unclipped gradients."""
    named = list(model.named_parameters())
    optimizer = torch.optim.AdamW(
        [{"params": [p for n, p in named if is_decayed(n, p)], "weight_decay": WEIGHT_DECAY},
         {"params": [p for n, p in named if not is_decayed(n, p)], "weight_decay": 0.0}],
        lr=LR, betas=BETAS, eps=EPS, foreach=False)
    losses, norms, logits0, grads0 = [], [], None, None
    for step in range(len(images)):
        optimizer.zero_grad(set_to_none=True)
        logits = model(torch.from_numpy(images[step]).double())
        loss = torch.nn.functional.cross_entropy(
            logits, torch.from_numpy(labels[step]).long(), label_smoothing=LABEL_SMOOTHING)
        loss.backward()
        if step == 0:
            logits0 = logits.detach().numpy().copy()
            grads0 = {n: p.grad.numpy().copy() for n, p in named}
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM).item())
        optimizer.step()
        losses.append(loss.item())
    return np.array(losses), np.array(norms), logits0, grads0


def swin_windows(model):
    """(window, shift) of every block: what timm made of the window at this map size."""
    return [[[list(map(int, block.window_size)), list(map(int, block.shift_size))] for block in layer.blocks]
            for layer in model.layers]


def make_config(name, case, model):
    named = list(model.named_parameters())
    arguments = case["model"]
    config = {
        "case": name,
        "mechanism": f"training_{case['family']}",
        "source": f"timm {timm.__version__}",
        "libs": {"numpy": np.__version__, "timm": timm.__version__, "torch": torch.__version__},
        "compute_dtype": "float64",
        "stored_dtype": "float32; out.losses and out.grad_norms float64",
        "seed": case["seed"],
        "steps": case["steps"],
        "B": BATCH,
        **{key: list(value) if isinstance(value, tuple) else value for key, value in arguments.items()},
        "n_params": sum(p.numel() for _, p in named),
        "act": "gelu_erf",
        "ln_eps": 1e-6 if case["family"] == "vit" else 1e-5,
        "drop_rate": 0.0,
        "drop_path_rate": 0.0,
        "loss": "mean cross-entropy, target = (1 - label_smoothing) onehot + label_smoothing / num_classes",
        "label_smoothing": LABEL_SMOOTHING,
        "optimizer": "AdamW, decoupled decay: p *= 1 - lr * weight_decay before the update",
        "lr": LR,
        "lr_schedule": "constant",
        "betas": list(BETAS),
        "eps": EPS,
        "weight_decay": WEIGHT_DECAY,
        "weight_decay_rule": "parameters with at least 2 dimensions, except " + ", ".join(NO_DECAY_NAMES),
        "decayed_params": [n for n, p in named if is_decayed(n, p)],
        "not_decayed_params": [n for n, p in named if not is_decayed(n, p)],
        "clip_max_norm": MAX_NORM,
        "clip_rule": "g *= min(1, clip_max_norm / (norm + 1e-6)), norm over all parameters together",
        "note": f"grad0 is before clipping; out.grad_norms is before clipping; w{case['steps']} are the weights after the last "
                "step. A key bias shifts all scores of a row alike, so its gradient is zero up to rounding: AdamW divides "
                "rounding noise by itself there, and the key third of qkv.bias after the run may differ by up to lr a step "
                "in float32 without any effect on the losses.",
    }
    if case["family"] == "swin":
        config["pad_order"] = "roll_then_pad"
        config["patch_merging"] = "downsample at the START of stage i>0, odd H/W padded with zeros"
        config["windows_used"] = swin_windows(model)
    else:
        config["note"] += " fc_norm replaces norm when global_pool=avg; avg is over the patch tokens only."
    return config


def make(name, case, directory):
    rng = np.random.Generator(np.random.PCG64(case["seed"]))
    model = build(case["family"], case["model"])
    weights = draw_weights(model, rng, case["feature_scale"])
    load_weights(model, weights)
    height, width = case["model"]["img_size"]
    images = rng.standard_normal((case["steps"], BATCH, 3, height, width), dtype=np.float32)
    labels = rng.integers(0, CLASSES, (case["steps"], BATCH)).astype(np.int32)

    losses, norms, logits0, grads0 = train(model, images, labels)
    if not ((norms > MAX_NORM).any() and (norms < MAX_NORM).any()):
        raise SystemExit(f"{name}: gradient norms {norms} are all on one side of {MAX_NORM}; change feature_scale")
    tensors = {"in.images": images, "in.labels": labels, "out.losses": losses, "out.grad_norms": norms,
               "aux.logits0": logits0.astype(np.float32)}
    for key, value in weights.items():
        tensors[f"w.{key}"] = value
        tensors[f"grad0.{key}"] = grads0[key].astype(np.float32)
    for key, parameter in model.named_parameters():
        tensors[f"w{case['steps']}.{key}"] = parameter.detach().numpy().astype(np.float32)

    path = directory / f"{name}.safetensors"
    config = json.dumps(make_config(name, case, model), sort_keys=True)
    safetensors.numpy.save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, path, metadata={"config": config})
    print(f"{path}: {path.stat().st_size} bytes, loss {losses[0]:.6f} -> {losses[-1]:.6f}, "
          f"gradient norm {norms.min():.3f} .. {norms.max():.3f}, {int((norms > MAX_NORM).sum())} of {len(norms)} steps clipped")


def smoothed_cross_entropy(logits, labels, smoothing):
    shifted = logits - logits.max(dim=1, keepdim=True).values
    log_p = shifted - shifted.exp().sum(dim=1, keepdim=True).log()
    target = torch.full_like(log_p, smoothing / logits.shape[1])
    target[torch.arange(len(labels)), labels] += 1 - smoothing
    return -(target * log_p).sum(dim=1).mean()


def relative(a, b):
    return float(np.abs(a - b).max() / (1e-6 + np.abs(b).max()))


def check(path):
    """Repeats one file's run by hand; returns the list of disagreements."""
    tensors = safetensors.numpy.load_file(path)
    with safetensors.safe_open(path, "numpy") as file:
        config = json.loads(file.metadata()["config"])
    case = CASES[config["case"]]
    model = build(case["family"], case["model"])
    start = {k[2:]: v for k, v in tensors.items() if k.startswith("w.")}
    load_weights(model, start)
    named = dict(model.named_parameters())
    decayed = set(config["decayed_params"])
    first = {k: torch.zeros_like(p) for k, p in named.items()}
    second = {k: torch.zeros_like(p) for k, p in named.items()}
    lr, (b1, b2), errors = config["lr"], config["betas"], {}

    def loss_of(step):
        logits = model(torch.from_numpy(tensors["in.images"][step]).double())
        labels = torch.from_numpy(tensors["in.labels"][step]).long()
        return smoothed_cross_entropy(logits, labels, config["label_smoothing"])

    # A directional derivative of the loss, to check the stored gradient without automatic differentiation.
    rng = np.random.Generator(np.random.PCG64(7))
    direction = {k: torch.from_numpy(rng.standard_normal(p.shape)) for k, p in named.items()}
    ends = []
    with torch.no_grad():
        for sign in (+1, -2, +1):
            for k, p in named.items():
                p += sign * 1e-5 * direction[k]
            ends.append(loss_of(0).item())
    predicted = sum(float((direction[k].numpy() * tensors[f"grad0.{k}"]).sum()) for k in named)
    errors["directional derivative"] = (abs((ends[0] - ends[1]) / 2e-5 - predicted) / abs(predicted), 1e-5)
    load_weights(model, start)

    losses, norms = [], []
    for step in range(config["steps"]):
        model.zero_grad(set_to_none=True)
        loss = loss_of(step)
        loss.backward()
        if step == 0:
            for k, p in named.items():
                scale = np.abs(tensors[f"grad0.{k}"]).max()
                if scale > 1e-9:
                    errors[f"grad0.{k}"] = (relative(p.grad.numpy(), tensors[f"grad0.{k}"]), 2e-7)
        norm = sum(float((p.grad ** 2).sum()) for p in named.values()) ** 0.5
        factor = min(1.0, config["clip_max_norm"] / (norm + 1e-6))
        t = step + 1
        with torch.no_grad():
            for k, p in named.items():
                g = p.grad * factor
                if k in decayed:
                    p *= 1 - lr * config["weight_decay"]
                first[k] = b1 * first[k] + (1 - b1) * g
                second[k] = b2 * second[k] + (1 - b2) * g * g
                p -= lr / (1 - b1 ** t) * first[k] / (second[k].sqrt() / (1 - b2 ** t) ** 0.5 + config["eps"])
        losses.append(loss.item())
        norms.append(norm)
    errors["out.losses"] = (relative(np.array(losses), tensors["out.losses"]), 1e-12)
    errors["out.grad_norms"] = (relative(np.array(norms), tensors["out.grad_norms"]), 1e-11)
    for k, p in named.items():
        final = f"w{config['steps']}.{k}"
        errors[final] = (relative(p.detach().numpy(), tensors[final]), 2e-7)
    worst = max(errors.items(), key=lambda item: item[1][0] / item[1][1])
    print(f"{path}: losses {errors['out.losses'][0]:.1e}, norms {errors['out.grad_norms'][0]:.1e}, "
          f"nearest to its limit: {worst[0]} {worst[1][0]:.1e} of {worst[1][1]:.0e}")
    return [f"{path}: {k} differs by {e:.2e} (limit {limit:.0e})" for k, (e, limit) in errors.items() if not e <= limit]


def main():
    root = pathlib.Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=root / "tests/fixtures/training", help="folder (default: %(default)s)")
    parser.add_argument("--check", action="store_true", help="verify the files instead of writing them")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    if options.check:
        problems = [problem for name in CASES for problem in check(options.out / f"{name}.safetensors")]
        sys.exit("\n".join(problems) if problems else 0)
    options.out.mkdir(parents=True, exist_ok=True)
    for name, case in CASES.items():
        make(name, case, options.out)


if __name__ == "__main__":
    main()
