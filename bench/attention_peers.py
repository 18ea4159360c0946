"""One attention layer of each mechanism beside the implementation people use: projections included, x (1, N, 512), 8 heads x 64.

compare_peers.py runs these rows; this module is imported by its child processes only. A peer holds torch modules with random
weights and gives them to fovea under fovea's names, so that both compute the same function of the same input.
"""

import math

HEADS, HEAD_DIM = 8, 64
DIM = HEADS * HEAD_DIM
# Largest difference of y and dx as a share of their largest entry.
TOLERANCE = 1e-4
# performer-pytorch holds the stabiliser of the feature maps constant in its backward; fovea's dx is the derivative of what it
# computes. Where features are as small as epsilon the two differ, so that y alone is compared.
DIFFERENT_GRADIENT = {"performer"}


def spec_of(kind, tokens):
    root = 2 ** round(math.log2(tokens) / 2)
    return {"global": "global", "performer": "performer", "linformer": "linformer:slots=256",
            "longformer": "longformer:window=256", "sliding": "longformer:window=256",
            "routing": f"routing:clusters={root}:window={tokens // root}"}[kind]


class AttentionPeer:
    """Base: subclasses set self.module (x -> y) and name its weights as fovea's."""

    def __init__(self, job, _inputs):
        import torch
        self.torch, self.kind, self.backward = torch, job["kind"], job["backward"]
        torch.set_num_threads(job["threads"])
        torch.set_num_interop_threads(1)
        torch.manual_seed(7)
        self.tokens = job["tokens"]
        self.x = torch.randn(1, self.tokens, DIM).requires_grad_(self.backward)
        self.dy = torch.randn(1, self.tokens, DIM)
        self.tensors = {}
        self.module = getattr(self, "make_" + self.kind)()
        self.y = self.dx = self.auxiliary = None

    # ---- implementations ------------------------------------------------------------------------------------------

    def linear(self, out, bias=True, scale=1.0):
        layer = self.torch.nn.Linear(DIM, out, bias=bias)
        with self.torch.no_grad():
            layer.weight.mul_(scale * 3 ** 0.5)
        return layer

    def give(self, name, tensor):
        self.tensors[name] = tensor.detach().float().contiguous().clone()

    def give_qkv(self, q, k, v):
        torch = self.torch
        self.give("qkv.weight", torch.cat([layer.weight for layer in (q, k, v)]))
        zero = torch.zeros(DIM)
        self.give("qkv.bias", torch.cat([zero if layer.bias is None else layer.bias for layer in (q, k, v)]))

    def give_proj(self, layer):
        self.give("proj.weight", layer.weight)
        self.give("proj.bias", self.torch.zeros(DIM) if layer.bias is None else layer.bias)

    def split(self, t):
        return t.view(1, self.tokens, HEADS, HEAD_DIM).transpose(1, 2)

    def make_global(self):
        torch = self.torch
        qkv, proj = self.linear(3 * DIM), self.linear(DIM)
        self.modules = torch.nn.ModuleList([qkv, proj])
        for name, layer in (("qkv", qkv), ("proj", proj)):
            self.give(f"{name}.weight", layer.weight)
            self.give(f"{name}.bias", layer.bias)

        def run(x):
            q, k, v = (self.split(t) for t in qkv(x).chunk(3, dim=-1))
            y = torch.nn.functional.scaled_dot_product_attention(q, k, v)
            return proj(y.transpose(1, 2).reshape(1, self.tokens, DIM))
        return run

    def make_performer(self):
        from performer_pytorch import SelfAttention
        module = SelfAttention(dim=DIM, heads=HEADS, dim_head=HEAD_DIM, causal=False)
        self.modules = module
        self.give_qkv(module.to_q, module.to_k, module.to_v)
        self.give_proj(module.to_out)
        self.give("projection_matrix", module.fast_attention.projection_matrix)
        return module

    def make_linformer(self):
        from linformer import LinformerSelfAttention
        module = LinformerSelfAttention(DIM, self.tokens, k=256, heads=HEADS)
        self.modules = module
        for name, layer in (("q", module.to_q), ("k", module.to_k), ("v", module.to_v)):
            self.give(f"{name}.weight", layer.weight)
            self.give(f"{name}.bias", self.torch.zeros(DIM))
        self.give_proj(module.to_out)
        self.give("proj_k", module.proj_k)
        self.give("proj_v", module.proj_v)
        return module

    def make_longformer(self):
        from transformers import LongformerConfig
        from transformers.models.longformer.modeling_longformer import LongformerSelfAttention
        torch = self.torch
        config = LongformerConfig(hidden_size=DIM, num_attention_heads=HEADS, attention_window=[512], attention_probs_dropout_prob=0.0)
        module, proj = LongformerSelfAttention(config, 0), self.linear(DIM)
        self.modules = torch.nn.ModuleList([module, proj])
        self.give_qkv(module.query, module.key, module.value)
        self.give("q_global.weight", module.query_global.weight)
        self.give("q_global.bias", module.query_global.bias)
        self.give("kv_global.weight", torch.cat([module.key_global.weight, module.value_global.weight]))
        self.give("kv_global.bias", torch.cat([module.key_global.bias, module.value_global.bias]))
        self.give_proj(proj)
        mask = torch.zeros(1, self.tokens)
        nobody = torch.zeros(1, self.tokens, dtype=torch.bool)

        def run(x):
            y = module(x, attention_mask=mask, is_index_masked=nobody, is_index_global_attn=nobody, is_global_attn=False)[0]
            return proj(y)
        return run

    def make_sliding(self):
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention
        torch = self.torch
        qkv, proj = self.linear(3 * DIM), self.linear(DIM)
        self.modules = torch.nn.ModuleList([qkv, proj])
        for name, layer in (("qkv", qkv), ("proj", proj)):
            self.give(f"{name}.weight", layer.weight)
            self.give(f"{name}.bias", layer.bias)
        for name, width in (("q_global", DIM), ("kv_global", 2 * DIM)):  # without global tokens they play no part
            self.give(f"{name}.weight", torch.zeros(width, DIM))
            self.give(f"{name}.bias", torch.zeros(width))
        mask = create_block_mask(lambda b, h, i, j: (i - j).abs() <= 256, None, None, self.tokens, self.tokens, device="cpu")
        attend = torch.compile(flex_attention)

        def run(x):
            q, k, v = (self.split(t) for t in qkv(x).chunk(3, dim=-1))
            y = attend(q, k, v, block_mask=mask)
            return proj(y.transpose(1, 2).reshape(1, self.tokens, DIM))
        return run

    def make_routing(self):
        from routing_transformer.routing_transformer import SelfAttention
        root = 2 ** round(math.log2(self.tokens) / 2)
        module = SelfAttention(DIM, 1, self.tokens, HEADS, 0, self.tokens // root)
        self.modules = module
        module.eval()  # centroids stay; the first call draws them from the input
        with self.torch.no_grad():
            module(self.x)
        self.give_qkv(module.to_q, module.to_k, module.to_v)
        self.give_proj(module.to_out)
        self.give("means", module.global_attn.kmeans.means)
        self.give("means_ready", self.torch.ones(1))

        def run(x):
            y, self.auxiliary = module(x)  # the commitment loss, whose gradient fovea adds in its backward
            return y
        return run

    # ---- what compare_peers asks for --------------------------------------------------------------------------------

    def run(self):
        if not self.backward:
            with self.torch.inference_mode():
                self.y = self.module(self.x)
            return
        self.modules.zero_grad(set_to_none=True)
        self.x.grad = None
        self.y = self.module(self.x)
        if self.auxiliary is None:
            self.y.backward(self.dy)
        else:
            self.torch.autograd.backward([self.y, self.auxiliary], [self.dy, None])
        self.dx = self.x.grad

    def save(self, path):
        import safetensors.torch
        tensors = dict(self.tensors, x=self.x.detach().contiguous())
        if self.backward:
            tensors["dy"] = self.dy
        safetensors.torch.save_file(tensors, path)

    def errors(self, path):
        """Largest differences of fovea's y and dx from this peer's, as shares of the largest entry."""
        import safetensors.torch
        theirs = safetensors.torch.load_file(path)
        self.run()
        mine = {"y": self.y.detach()}
        if self.backward and self.kind not in DIFFERENT_GRADIENT:
            mine["dx"] = self.dx
        return {name: ((theirs[name] - t).abs().max() / t.abs().max()).item() for name, t in mine.items()}
