"""Models of transformers, under its names, with the config.json and the processor's configuration that it writes."""
import copy
import json
import pathlib

import torch
import transformers

from .subject import Subject, channels_first, hooked


class HuggingFace(Subject):
    """`base`: the prefix of transformers' classes ("ViT", "Swinv2"); config: its configuration's options."""

    processor = {}

    def __init__(self, base, seed=0, head="ForImageClassification", **config):
        labels = config.pop("num_labels", 1000)
        self.base, self.head = base, head
        self.config = getattr(transformers, base + "Config")(**config, num_labels=labels, attn_implementation="eager")
        module = getattr(transformers, base + head)(self.config)
        size = self.config.image_size
        super().__init__(module, (size, size) if isinstance(size, int) else tuple(size), seed)

    def write(self, folder, name):
        # Names in a file are not always those of state_dict(): what transformers saves is what circulates.
        self.module.save_pretrained(folder)
        if self.processor:
            (pathlib.Path(folder) / "preprocessor_config.json").write_text(json.dumps(self.beside()["preprocessor_config.json"]))
        return pathlib.Path(folder) / "model.safetensors"

    def beside(self):
        config = json.loads(self.config.to_json_string(use_diff=False))
        config["architectures"] = [self.base + self.head]
        out = {"config.json": config}
        if self.processor:
            out["preprocessor_config.json"] = self.processor | {"size": {"height": self.native[0], "width": self.native[1]}}
        return out

    def body(self, m):
        return m if self.head == "Model" else getattr(m, m.base_model_prefix)


class HuggingFaceViT(HuggingFace):
    processor = {"image_processor_type": "ViTImageProcessor", "do_resize": True, "resample": 2, "do_rescale": True, "rescale_factor": 1 / 255,
                 "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}

    def at(self, size, dtype):
        patch = self.config.patch_size
        if self.base not in ("Dinov2", "Dinov2WithRegisters") and any(s % patch for s in size):
            return None
        return copy.deepcopy(self.module).to(dtype)

    def outputs(self, m, x):
        body = self.body(m)
        # DINOv2's models bring their table to every size; the others only where they are asked to.
        more = {} if self.base.startswith("Dinov2") else {"interpolate_pos_encoding": True}
        result, seen = hooked(m, {"tokens": body.layernorm}, lambda: m(x, **more))
        out = {"tokens": seen["tokens"]}
        if hasattr(result, "logits"):
            out["logits"] = result.logits
        return out

    def transform(self):
        if not self.processor:
            return None
        # The backend that resizes pictures; the other one resizes tensors, to slightly different values.
        from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil
        p = ViTImageProcessorPil(**{k: v for k, v in self.beside()["preprocessor_config.json"].items() if k != "image_processor_type"})
        return lambda image: p(image, return_tensors="pt")["pixel_values"][0]


class HuggingFaceTower(Subject):
    """Image towers of CLIP and SigLIP. `head`: Model (beside a small tower of text), VisionModel, VisionModelWithProjection or ForImageClassification."""

    def __init__(self, base, head, seed=0, **vision):
        self.base, self.head = base, head
        make = lambda kind, **options: getattr(transformers, base + kind)(**options)
        config = make("VisionConfig", **vision)
        if not head.startswith("Vision"):
            text = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, vocab_size=64, bos_token_id=0, eos_token_id=1)
            config = make("Config", vision_config=config.to_dict(), text_config=text, num_labels=1000)
        config._attn_implementation = "eager"
        self.patch, side = vision["patch_size"], vision["image_size"]
        super().__init__(getattr(transformers, base + head)(config), (side, side), seed)

    def write(self, folder, name):
        self.module.save_pretrained(folder)
        return pathlib.Path(folder) / "model.safetensors"

    def at(self, size, dtype):
        return copy.deepcopy(self.module).to(dtype)

    def outputs(self, m, x):
        body = getattr(m, "vision_model", m)
        result = body(x, interpolate_pos_encoding=True)
        tokens = result.last_hidden_state
        out = {"tokens": tokens if self.base == "Siglip" or self.head == "ForImageClassification" else body.post_layernorm(tokens)}
        if self.head == "ForImageClassification":
            out["logits"] = m(x, interpolate_pos_encoding=True).logits
        elif self.base == "Siglip":
            out["pooled"] = result.pooler_output
        elif hasattr(m, "visual_projection"):
            out["logits"] = m.visual_projection(result.pooler_output)
        return out

    def transform(self):
        # The processor's defaults; Pillow resizes pictures in the backend that is named so.
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
        from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
        side = self.native[0]
        if self.base == "CLIP":
            p = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
        else:
            p = SiglipImageProcessorPil(size={"height": side, "width": side})
        return lambda image: p(image, return_tensors="pt")["pixel_values"][0]


class HuggingFaceSwin(HuggingFace):
    processor = {"image_processor_type": "ViTImageProcessor", "do_resize": True, "resample": 3, "do_rescale": True, "rescale_factor": 1 / 255,
                 "do_normalize": True, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    transform = HuggingFaceViT.transform

    def at(self, size, dtype):
        return copy.deepcopy(self.module).to(dtype)  # pads and windows any size

    def outputs(self, m, x):
        body = self.body(m)
        layers = body.encoder.layers
        places = {f"stage{i + 1}": layer.blocks[-1] for i, layer in enumerate(layers)} | {"norm": body.layernorm}
        result, seen = hooked(m, places, lambda: m(x))
        out = {"tokens": seen.pop("norm")}
        side = lambda n, i: -(-(-(-n // self.config.patch_size)) // 2**i)  # rounded up at the patches and at every merge
        for i, layer in enumerate(layers):
            out[f"stage{i + 1}"] = channels_first(seen[f"stage{i + 1}"], side(x.shape[-2], i), side(x.shape[-1], i))
        if hasattr(result, "logits"):
            out["logits"] = result.logits
        return out
