"""A model of a framework: its weights in some dialect and its answers, in float64 and in float32."""
import contextlib
import copy
import json
import pathlib

import numpy as np
import torch


def perturb(module, seed):
    """Random values where an initialisation is constant, so that swapping, losing or doubling any tensor shows."""
    g = torch.Generator().manual_seed(seed)
    draw = lambda p, scale, mean=0.0: mean + scale * torch.randn(p.shape, generator=g)
    with torch.no_grad():
        for name, p in module.named_parameters():
            leaf = name.rsplit(".", 1)[-1]
            if leaf in ("gamma", "lambda1", "gamma_1", "gamma_2") or "layer_scale" in leaf:
                p.copy_(draw(p, 0.1, 0.4))
            elif "position_bias_table" in name:
                p.copy_(draw(p, 0.5))
            elif leaf == "logit_scale":
                p.add_(draw(p, 0.3))
            elif "pos" in leaf or "token" in leaf:
                p.copy_(draw(p, 0.3))
            elif p.ndim == 1 and leaf == "weight":
                p.copy_(draw(p, 0.2, 1.0))
            elif p.ndim == 1:
                p.copy_(draw(p, 0.1))
            elif p.std() < 1e-3:
                p.copy_(draw(p, 0.02))


@contextlib.contextmanager
def resampling_in(dtype):
    """Frameworks bring tables to other sizes in float32 whatever the model's type is; in the float64 run that would be the only float32."""
    original = torch.nn.functional.interpolate
    if dtype == torch.float64:
        torch.nn.functional.interpolate = lambda x, *args, **kwargs: original(x.double(), *args, **kwargs).to(x.dtype)
    try:
        yield
    finally:
        torch.nn.functional.interpolate = original


class Subject:
    """One checkpoint. Subclasses set `module` (float32, eval mode) and `native`, and answer `outputs`."""

    container = "safetensors"  # or "pth", "legacy", "npz"

    def __init__(self, module, native, seed=0):
        self.module = module.eval()
        self.native = native
        perturb(self.module, seed)

    # -- the file -------------------------------------------------------------
    def state(self):
        """The state dict as the dialect's home writes it."""
        return {k: v.contiguous() for k, v in self.module.state_dict().items()}

    def beside(self):
        """Configuration files that the home writes beside it: name -> content."""
        return {}

    def wrap(self, state):
        """What a .pth file holds."""
        return {"model": state}

    def write(self, folder, name):
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for file, content in self.beside().items():
            (folder / file).write_text(json.dumps(content))
        state = self.state()
        if self.container == "npz":
            path = folder / f"{name}.npz"
            np.savez(path, **{k: v.numpy() for k, v in state.items()})
        elif self.container == "safetensors":
            from safetensors.torch import save_file
            path = folder / f"{name}.safetensors"
            save_file(state, path, metadata={"format": "pt"})
        else:
            path = folder / f"{name}.pth"
            torch.save(self.wrap(state), path, _use_new_zipfile_serialization=self.container != "legacy")
        return path

    # -- the answer -----------------------------------------------------------
    def outputs(self, module, x):
        """name -> tensor: tokens (B, N, C), stage1.. (B, C, H, W), logits (B, classes); those that the framework has."""
        raise NotImplementedError

    def at(self, size, dtype):
        """The module for images of `size`, in dtype; None where the framework has no way to run it."""
        return copy.deepcopy(self.module).to(dtype) if tuple(size) == tuple(self.native) else None

    def run(self, x, dtype):
        with torch.no_grad(), resampling_in(dtype):
            module = self.at(x.shape[-2:], dtype)
            return None if module is None else {k: v.double() for k, v in self.outputs(module, x.to(dtype)).items()}

    def transform(self):
        """PIL image -> normalised (C, H, W), as the home prepares images for this model; None: it does not say."""
        return None


def hooked(module, places, call):
    """Runs call() and returns (its result, what came out of each of `places`: name -> submodule)."""
    seen, handles = {}, []
    for name, sub in places.items():
        handles.append(sub.register_forward_hook(lambda _m, _i, out, name=name: seen.__setitem__(name, out[0] if isinstance(out, tuple) else out)))
    try:
        result = call()
    finally:
        for h in handles:
            h.remove()
    return result, seen


def channels_first(t, height=None, width=None):
    """(B, H, W, C) or (B, H W, C) -> (B, C, H, W)."""
    if t.ndim == 3:
        t = t.reshape(t.shape[0], height, width, t.shape[-1])
    return t.permute(0, 3, 1, 2)
