"""Models of torchvision, under torchvision's names."""
import copy

import torch
import torchvision

from .subject import Subject, channels_first, hooked


class Torchvision(Subject):
    container = "pth"

    def __init__(self, name, size=224, weights="IMAGENET1K_V1", seed=0):
        self.name, self.weights = name, weights
        super().__init__(torchvision.models.get_model(name, weights=None), (size, size), seed)

    def wrap(self, state):
        return state  # torchvision's files are bare state dicts

    def transform(self):
        return torchvision.models.get_model_weights(self.name)[self.weights].transforms()


class TorchvisionViT(Torchvision):
    def at(self, size, dtype):
        if tuple(size) == self.native:
            return copy.deepcopy(self.module).to(dtype)
        height, width = size
        if height != width or height % self.module.patch_size:
            return None  # its models are for square images of whole patches
        # Its own way to another size: a table brought there, and a model built for it.
        state = torchvision.models.vision_transformer.interpolate_embeddings(height, self.module.patch_size, copy.deepcopy(self.module.state_dict()))
        other = torchvision.models.get_model(self.name, weights=None, image_size=height).eval()
        other.load_state_dict(state, strict=True)
        return other.to(dtype)

    def outputs(self, m, x):
        logits, seen = hooked(m, {"tokens": m.encoder.ln}, lambda: m(x))
        return {"tokens": seen["tokens"], "logits": logits}


class TorchvisionSwin(Torchvision):
    def at(self, size, dtype):
        return copy.deepcopy(self.module).to(dtype)  # takes any size

    def outputs(self, m, x):
        places = {f"stage{i + 1}": m.features[2 * i + 1] for i in range(4)} | {"norm": m.norm}
        logits, seen = hooked(m, places, lambda: m(x))
        out = {k: channels_first(v) for k, v in seen.items() if k != "norm"}
        return out | {"tokens": seen["norm"].flatten(1, 2), "logits": logits}
