"""What compare_peers.py measures: models, rows, and which systems take part in a row. Imports the standard library only."""

import dataclasses

# Largest difference of a logit from PyTorch's in float32, as a share of the logits' range, by element type.
TOLERANCE = {"f32": 1e-4, "bf16": 4e-2, "int8": 5e-2}
# NNCF's scales are found beforehand, for whole tensors, and products inside attention are in int8 too: with random weights that costs more
# than what is rounded token by token. Answers that have nothing to do with each other differ by 1 and more.
LOOSER = {("openvino", "int8"): 4e-1}
ATTENTION_PEERS = {"global": "torch", "performer": "performer-pytorch", "linformer": "linformer", "longformer": "transformers",
                   "routing": "routing-transformer", "sliding": "torch"}  # kind: the package it is compared with

FORWARD = {"f32": ("pytorch", "pytorch-compile", "onnxruntime", "openvino"), "bf16": ("pytorch", "pytorch-compile", "openvino"),
           "int8": ("onnxruntime", "openvino")}
TRAIN = {"f32": ("pytorch", "pytorch-compile"), "bf16": ("pytorch", "pytorch-compile")}


class BenchError(Exception):
    """Something the reader must act on, said in one sentence."""


@dataclasses.dataclass(frozen=True)
class Model:
    name: str               # timm's, or of the weights file
    height: int = 224
    width: int = 224
    channels: int = 3
    classes: int = 1000
    images: int = 32        # that are made: at least the largest batch
    vit: tuple = ()         # arguments of timm's VisionTransformer, for a model that has no name there

    @property
    def key(self):
        return f"{self.name}_{self.height}x{self.width}"


SWIN, SWIN_LARGE = Model("swin_tiny_patch4_window7_224"), Model("swin_tiny_patch4_window7_224", 800, 1216)
VIT_S, VIT_B = Model("vit_small_patch16_224"), Model("vit_base_patch16_224")
SWIN_V2 = Model("swinv2_tiny_window8_256", 256, 256)
VIT_28 = Model("vit_28", 28, 28, 1, 10, 128, (("patch_size", 4), ("embed_dim", 192), ("depth", 6), ("num_heads", 3)))


@dataclasses.dataclass(frozen=True)
class Row:
    name: str
    model: Model | str      # the package of an attention's peer
    batch: int
    threads: int
    dtype: str = "f32"
    train: bool = False
    attention: str = ""     # a kind of attention_peers.py: one layer on a sequence of `tokens`
    tokens: int = 0
    backward: bool = False

    @property
    def passes(self):
        return "train" if self.train else "forward+backward" if self.backward else "forward"

    @property
    def peers(self):
        return (TRAIN if self.train else FORWARD)[self.dtype]

    @property
    def folder(self):
        return self.name.replace("/", "-") if self.attention else self.model.key

    @property
    def size(self):
        return f"1x{self.tokens}" if self.attention else f"{self.model.height}x{self.model.width}"

    @property
    def label(self):  # of the model, in reports
        return self.model if self.attention else self.model.name


def all_rows():
    rows = []

    def forward(short, model, batches, threads=(1, 2), dtypes=("f32", "bf16", "int8")):
        rows.extend(Row(f"{short}/{dtype}/b{batch}/t{count}", model, batch, count, dtype)
                    for dtype in dtypes for batch in batches for count in threads)

    forward("swin_tiny", SWIN, (1, 8))
    forward("swin_tiny", SWIN, (32,), (2,))
    forward("swin_tiny_800x1216", SWIN_LARGE, (1,), (2,), ("f32", "bf16"))
    forward("vit_small", VIT_S, (1, 8))
    forward("vit_small", VIT_S, (32,), (2,))
    forward("vit_base", VIT_B, (1, 8))
    forward("swinv2_tiny", SWIN_V2, (1, 8), (2,))
    for short, model, batch in (("swin_tiny", SWIN, 8), ("vit_small", VIT_S, 8), ("vit_28", VIT_28, 128)):
        rows += [Row(f"train/{short}/{dtype}/b{batch}/t2", model, batch, 2, dtype, train=True) for dtype in TRAIN]
    for kind, peer in ATTENTION_PEERS.items():
        rows += [Row(f"attention/{kind}/n{tokens}/t2", peer, 1, 2, attention=kind, tokens=tokens, backward=kind != "sliding")
                 for tokens in (1024, 4096, 16384)]
    rows += [Row(f"attention/global/forward/n{tokens}/t2", "torch", 1, 2, attention="global", tokens=tokens) for tokens in (1024, 4096, 16384)]
    return rows
