"""Models of timm, at any size by timm's own options."""
import copy

import timm
import torch

from .subject import Subject, channels_first, hooked


def _pretrained_cfg(model):
    return {k: v for k, v in model.pretrained_cfg.items() if k in ("input_size", "crop_pct", "interpolation", "mean", "std", "crop_mode")}


class Timm(Subject):
    def __init__(self, name, seed=0, **options):
        self.name, self.options = name, options
        module = timm.create_model(name, pretrained=False, **options)
        side = options.get("img_size")
        native = module.pretrained_cfg["input_size"][1:] if side is None else (side, side) if isinstance(side, int) else side
        super().__init__(module, tuple(native), seed)

    def resized(self, size, **options):
        """A fresh model for another size with this one's weights, brought there by timm's own filter."""
        other = timm.create_model(self.name, pretrained=False, **{**self.options, **options}).eval()
        filter_fn = __import__(type(other).__module__, fromlist=["checkpoint_filter_fn"]).checkpoint_filter_fn
        other.load_state_dict(filter_fn(copy.deepcopy(self.module.state_dict()), other), strict=True)
        return other

    def transform(self):
        if self.native[0] != self.native[1] or "patch_size" in self.options:
            return None  # of a model that is like no published one a file does not tell it
        return timm.data.create_transform(**timm.data.resolve_data_config({"input_size": (3, *self.native)}, model=self.module))


class TimmViT(Timm):
    def at(self, size, dtype):
        if tuple(size) == self.native:
            return copy.deepcopy(self.module).to(dtype)
        patch = self.module.patch_embed.patch_size
        whole = all(s % p == 0 for s, p in zip(size, patch))
        # The position table keeps its size and is brought to each image's; images that are no whole number of patches are padded.
        other = timm.create_model(self.name, pretrained=False, **self.options, dynamic_img_size=True, dynamic_img_pad=not whole).eval()
        other.load_state_dict(self.module.state_dict(), strict=True)
        return other.to(dtype)

    def outputs(self, m, x):
        tokens = m.forward_features(x)
        out = {"tokens": tokens}
        if m.attn_pool is not None:
            out["pooled"] = m.forward_head(tokens, pre_logits=True)
        if m.num_classes > 0:
            logits = m.forward_head(tokens)
            out["logits"] = logits
        return out


class TimmSwin(Timm):
    def at(self, size, dtype):
        if tuple(size) == self.native:
            return copy.deepcopy(self.module).to(dtype)
        return self.resized(size, img_size=tuple(size)).to(dtype)

    def outputs(self, m, x):
        places = {f"stage{i + 1}": layer.blocks[-1] for i, layer in enumerate(m.layers)} | {"norm": m.norm}
        logits, seen = hooked(m, places, lambda: m(x))
        out = {k: channels_first(v) for k, v in seen.items() if k != "norm"}
        out["tokens"] = seen["norm"].flatten(1, 2)
        if m.num_classes > 0:
            out["logits"] = logits
        return out
