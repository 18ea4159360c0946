"""Checkpoints in dialects whose code is not on PyPI: weights of timm's models under those names, and who answers for them."""
import torch
from torch import nn

from . import renaming, windows
from .subject import Subject
from .timm_models import TimmSwin


class Renamed(Subject):
    """timm's model under other names; timm answers, at the sizes where the dialect's home would do the same."""

    def __init__(self, source, rename, container="pth", wrap=lambda s: {"model": s}, native_only=False, beside=None):
        self.source, self.rename, self.container, self.wrap_with, self.native_only = source, rename, container, wrap, native_only
        self.module, self.native = source.module, source.native
        self.files = beside or {}

    def state(self):
        return {k: v.contiguous() for k, v in self.rename(self.source.state()).items()}

    def wrap(self, state):
        return self.wrap_with(state)

    def beside(self):
        return self.files

    def at(self, size, dtype):
        return None if self.native_only and tuple(size) != self.native else self.source.at(size, dtype)

    def outputs(self, module, x):
        return self.source.outputs(module, x)


class WindowedSwin(Renamed):
    """Swin V1 answered by windows.py under a rule that timm has not."""

    def __init__(self, source, rename, rule, native_by_timm, **kwargs):
        super().__init__(source, rename, **kwargs)
        self.rule, self.native_by_timm = rule, native_by_timm

    def at(self, size, dtype):
        if self.native_by_timm and tuple(size) == self.native:
            return self.source.at(size, dtype)
        return {k: v.to(dtype) for k, v in self.timm_names().items()}

    def timm_names(self):
        return self.source.state()

    def outputs(self, module, x):
        if isinstance(module, nn.Module):
            return self.source.outputs(module, x)
        layers = self.source.module.layers
        heads = [layer.blocks[0].attn.num_heads for layer in layers]
        return windows.swin(module, x, heads, layers[0].blocks[0].window_size[0], self.rule)


class DetectorSwin(WindowedSwin):
    """A detector's backbone: a norm for each map, and no head."""

    def __init__(self, source, rename, **kwargs):
        super().__init__(source, rename, "mmdet", native_by_timm=False, **kwargs)

    def timm_names(self):
        g = torch.Generator().manual_seed(11)
        state = {k: v for k, v in self.source.state().items() if not k.startswith(("norm.", "head."))}
        for i, layer in enumerate(self.source.module.layers):
            c = layer.blocks[0].norm1.weight.shape[0]
            state |= {f"norm{i}.weight": 1 + 0.2 * torch.randn(c, generator=g), f"norm{i}.bias": 0.1 * torch.randn(c, generator=g)}
        return state

    def state(self):
        return {k: v.contiguous() for k, v in self.rename(self.timm_names()).items()}


class CSwinWeights(nn.Module):
    """The parameters of CSWin under its authors' names; windows.cswin() computes with them."""

    def __init__(self, dim, depths, branches, classes=1000):
        super().__init__()
        shapes = {"stage1_conv_embed.0.weight": (dim, 3, 7, 7), "stage1_conv_embed.0.bias": (dim,),
                  "stage1_conv_embed.2.weight": (dim,), "stage1_conv_embed.2.bias": (dim,)}
        for s, depth in enumerate(depths):
            c = dim << s
            if s > 0:
                m = f"merge{s}."
                shapes |= {m + "conv.weight": (c, c // 2, 3, 3), m + "conv.bias": (c,), m + "norm.weight": (c,), m + "norm.bias": (c,)}
            for i in range(depth):
                b = f"stage{s + 1}.{i}."
                for n in ("norm1", "norm2"):
                    shapes |= {f"{b}{n}.weight": (c,), f"{b}{n}.bias": (c,)}
                shapes |= {b + "qkv.weight": (3 * c, c), b + "qkv.bias": (3 * c,), b + "proj.weight": (c, c), b + "proj.bias": (c,),
                           b + "mlp.fc1.weight": (4 * c, c), b + "mlp.fc1.bias": (4 * c,), b + "mlp.fc2.weight": (c, 4 * c), b + "mlp.fc2.bias": (c,)}
                for k in range(branches[s]):
                    shapes |= {f"{b}attns.{k}.get_v.weight": (c // branches[s], 1, 3, 3), f"{b}attns.{k}.get_v.bias": (c // branches[s],)}
        last = dim << (len(depths) - 1)
        shapes |= {"norm.weight": (last,), "norm.bias": (last,), "head.weight": (classes, last), "head.bias": (classes,)}
        self.names = list(shapes)
        for name, shape in shapes.items():
            p = nn.Parameter(torch.ones(shape) if len(shape) == 1 and name.endswith("weight") else torch.zeros(shape))
            if len(shape) > 1:
                nn.init.trunc_normal_(p, std=0.02 if len(shape) == 2 else (1 / (shape[1] * shape[2] * shape[3])) ** 0.5)
            self.register_parameter(name.replace(".", "/"), p)


class CSwin(Subject):
    container = "pth"

    def __init__(self, dim, depths, heads, size, seed=0, classes=1000):
        torch.manual_seed(seed)
        self.heads, self.stripes = heads, [1, 2, size // 32, size // 32]
        super().__init__(_DottedPerturb(CSwinWeights(dim, depths, [2, 2, 2, 1], classes)), (size, size), seed)

    def state(self):
        return {k.replace("/", ".").removeprefix("inner."): v.contiguous() for k, v in self.module.state_dict().items()}

    def wrap(self, state):
        return {"state_dict_ema": {"module." + k: v for k, v in state.items()}}

    def at(self, size, dtype):
        return {k: v.to(dtype) for k, v in self.state().items()}

    def outputs(self, state, x):
        return windows.cswin(state, x, self.heads, self.stripes)


class _DottedPerturb(nn.Module):
    """So that perturb() sees names with dots."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def named_parameters(self, *args, **kwargs):
        return ((n.replace("/", "."), p) for n, p in super().named_parameters(*args, **kwargs))


def swin_pretrained_windows(source):
    return [int(layer.blocks[0].attn.pretrained_window_size[0]) for layer in source.module.layers]


def microsoft_swin(name, second=False):
    source = TimmSwin(name)
    grid, window = source.native[0] // 4, source.module.layers[0].blocks[0].window_size[0]
    pretrained = swin_pretrained_windows(source) if second else None
    rename = lambda s: renaming.microsoft_swin(s, grid, window, pretrained)
    if second:
        return Renamed(source, rename)
    return WindowedSwin(source, rename, "microsoft", native_by_timm=True)


def mmdet_swin(name):
    source = TimmSwin(name)
    window = source.module.layers[0].blocks[0].window_size[0]
    return DetectorSwin(source, lambda state: renaming.mm_swin(state, window, "backbone.", None), wrap=lambda state: {"state_dict": state, "meta": {}})


def microsoft_detection_swin(name):
    source = TimmSwin(name)
    grid, window = source.native[0] // 4, source.module.layers[0].blocks[0].window_size[0]
    return DetectorSwin(source, lambda state: {"backbone." + k: v for k, v in renaming.microsoft_swin(state, grid, window).items()},
                        wrap=lambda state: {"state_dict": state, "meta": {}})


def mmpretrain_swin(name):
    source = TimmSwin(name)
    window = source.module.layers[0].blocks[0].window_size[0]
    return WindowedSwin(source, lambda state: renaming.mm_swin(state, window, "backbone.", "head.fc."), "microsoft", native_by_timm=True,
                        wrap=lambda state: {"state_dict": state, "meta": {}})


def mmpretrain_swinv2(name):
    source = TimmSwin(name)
    return Renamed(source, lambda state: renaming.mm_swin_v2(state, source.native[0] // 4, source.module.layers[0].blocks[0].window_size[0], swin_pretrained_windows(source)),
                   wrap=lambda state: {"state_dict": state, "meta": {}}, native_only=True)
