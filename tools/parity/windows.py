"""Swin and CSWin written down from their papers and the rules of the code bases that are not on PyPI, to run their checkpoints with.

Swin V1 under timm's names with the windows of mmdet and Microsoft's detection code, where timm and torchvision have others;
CSWin under its authors' names, with the padding of their segmentation code. Sources: arXiv 2103.14030, 2107.00652; the rules that
differ are checked against timm and torchvision where those agree (make_parity.py --self-test)."""
import torch
import torch.nn.functional as F


def _linear(state, name, x):
    return F.linear(x, state[name + ".weight"], state.get(name + ".bias"))


def _norm(state, name, x, eps=1e-5):
    return F.layer_norm(x, x.shape[-1:], state[name + ".weight"], state[name + ".bias"], eps)


def _blocks_of(state, prefix):
    n = 0
    while f"{prefix}{n}.norm1.weight" in state:
        n += 1
    return n


def _resampled(table, window):
    """A bias table for windows of another size, as Microsoft's and mmdet's code load it."""
    side = round(table.shape[0] ** 0.5)
    if side == 2 * window - 1:
        return table
    maps = table.t().reshape(1, -1, side, side)
    return F.interpolate(maps, size=(2 * window - 1, 2 * window - 1), mode="bicubic").flatten(2)[0].t()


def _bias(table, window):
    table = _resampled(table, window)
    ys, xs = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    y, x = ys.flatten(), xs.flatten()
    index = (y[:, None] - y[None] + window - 1) * (2 * window - 1) + x[:, None] - x[None] + window - 1
    return table[index].permute(2, 0, 1)


def _windows(x, w):
    b, h, width, c = x.shape
    return x.reshape(b, h // w, w, width // w, w, c).transpose(2, 3).reshape(-1, w * w, c)


def _regions(height, width, w, shift):
    """Labels of a shifted map: an axis without shift has one region."""
    def axis(n, s):
        label = torch.zeros(n, dtype=torch.long)
        if s > 0:
            label[n - w:] = 1
            label[n - s:] = 2
        return label
    return 3 * axis(height, shift[0])[:, None] + axis(width, shift[1])[None]


def swin_attention(state, at, x, heads, window, shift):
    """mm's and torchvision's order: pad the normed map at the right and bottom, then roll. Padding is not masked."""
    b, h, w, c = x.shape
    x = F.pad(x, (0, 0, 0, -w % window, 0, -h % window))
    height, width = x.shape[1:3]
    x = torch.roll(x, (-shift[0], -shift[1]), (1, 2))
    q, k, v = _linear(state, at + "qkv", _windows(x, window)).reshape(-1, window * window, 3, heads, c // heads).permute(2, 0, 3, 1, 4)
    s = q @ k.transpose(-1, -2) * (c // heads) ** -0.5 + _bias(state[at + "relative_position_bias_table"], window)
    if any(shift):
        labels = _windows(_regions(height, width, window, shift)[None, :, :, None], window)[..., 0]
        apart = (labels[:, None, :] != labels[:, :, None]).to(s.dtype) * -100
        s = (s.reshape(b, -1, *s.shape[1:]) + apart[None, :, None]).reshape(s.shape)
    y = _linear(state, at + "proj", (s.softmax(-1) @ v).transpose(1, 2).reshape(-1, window * window, c))
    y = y.reshape(b, height // window, width // window, window, window, c).transpose(2, 3).reshape(b, height, width, c)
    return torch.roll(y, shift, (1, 2))[:, :h, :w]


def _window_and_shift(rule, height, width, window, odd):
    """mmdet's blocks shift whatever the map's size. Microsoft's windows shrink to a small map, on both axes, and do not shift then."""
    if rule == "microsoft" and min(height, width) <= window:
        return min(height, width), (0, 0)
    shift = window // 2 if odd else 0
    return window, (shift, shift)


def swin(state, x, heads, window, rule):
    """rule: "mmdet" or "microsoft". state: timm's names; with norm0, ... each map has a norm, and the last one are the tokens.
    Returns stage1.., tokens and, with a head, logits."""
    x = F.pad(x, (0, -x.shape[-1] % 4, 0, -x.shape[-2] % 4))
    x = F.conv2d(x, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=4).permute(0, 2, 3, 1)
    x = _norm(state, "patch_embed.norm", x)
    out, stage = {}, 0
    while f"layers.{stage}.blocks.0.norm1.weight" in state:
        if stage > 0:
            x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
            x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1)
            x = _linear(state, f"layers.{stage}.downsample.reduction", _norm(state, f"layers.{stage}.downsample.norm", x))
        for i in range(_blocks_of(state, f"layers.{stage}.blocks.")):
            at = f"layers.{stage}.blocks.{i}."
            own, shift = _window_and_shift(rule, *x.shape[1:3], window, i % 2)
            x = x + swin_attention(state, at + "attn.", _norm(state, at + "norm1", x), heads[stage], own, shift)
            x = x + _linear(state, at + "mlp.fc2", F.gelu(_linear(state, at + "mlp.fc1", _norm(state, at + "norm2", x))))
        name = f"norm{stage}"
        out[f"stage{stage + 1}"] = (_norm(state, name, x) if name + ".weight" in state else x).permute(0, 3, 1, 2)
        stage += 1
    x = _norm(state, name if name + ".weight" in state else "norm", x)
    out["tokens"] = x.flatten(1, 2)
    if "head.fc.weight" in state:
        out["logits"] = _linear(state, "head.fc", x.mean((1, 2)))
    return out


def _stripe_attention(state, at, q, k, v, heads, sh, sw):
    """Attention inside stripes of sh x sw of maps (B, H, W, C), padded in their middle; LePE sees one stripe at a time."""
    b, h, w, c = q.shape
    dh, dw = -h % sh, -w % sw
    pad = (0, 0, dw // 2, dw - dw // 2, dh // 2, dh - dh // 2)
    q, k, v = (F.pad(t, pad) for t in (q, k, v))
    height, width = q.shape[1:3]
    stripes = lambda t: t.reshape(b, height // sh, sh, width // sw, sw, c).transpose(2, 3).reshape(-1, sh, sw, c)
    q, k, v = stripes(q), stripes(k), stripes(v)
    lepe = F.conv2d(v.permute(0, 3, 1, 2), state[at + "get_v.weight"], state[at + "get_v.bias"], padding=1, groups=c).permute(0, 2, 3, 1)
    split = lambda t: t.reshape(-1, sh * sw, heads, c // heads).transpose(1, 2)
    s = (split(q) * (c // heads) ** -0.5) @ split(k).transpose(-1, -2)
    y = (s.softmax(-1) @ split(v)).transpose(1, 2).reshape(-1, sh, sw, c) + lepe
    y = y.reshape(b, height // sh, width // sw, sh, sw, c).transpose(2, 3).reshape(b, height, width, c)
    return y[:, dh // 2:dh // 2 + h, dw // 2:dw // 2 + w]


def cswin(state, x, heads, stripes):
    """stripes: tokens across, a stage. The number of branches shows in the tensors. state: its authors' names."""
    x = F.conv2d(x, state["stage1_conv_embed.0.weight"], state["stage1_conv_embed.0.bias"], stride=4, padding=2).permute(0, 2, 3, 1)
    x = _norm(state, "stage1_conv_embed.2", x)
    out, stage = {}, 1
    while f"stage{stage}.0.qkv.weight" in state:
        if stage > 1:
            merge = f"merge{stage - 1}."
            x = F.conv2d(x.permute(0, 3, 1, 2), state[merge + "conv.weight"], state[merge + "conv.bias"], stride=2, padding=1).permute(0, 2, 3, 1)
            x = _norm(state, merge + "norm", x)
        h, w = x.shape[1:3]
        for i in range(_blocks_of(state, f"stage{stage}.")):
            at = f"stage{stage}.{i}."
            q, k, v = _linear(state, at + "qkv", _norm(state, at + "norm1", x)).chunk(3, -1)
            n = heads[stage - 1]
            if at + "attns.1.get_v.weight" not in state:
                y = _stripe_attention(state, at + "attns.0.", q, k, v, n, h, w)
            else:
                half = x.shape[-1] // 2
                sw = stripes[stage - 1]
                y = torch.cat([_stripe_attention(state, at + "attns.0.", q[..., :half], k[..., :half], v[..., :half], n // 2, h, sw),
                               _stripe_attention(state, at + "attns.1.", q[..., half:], k[..., half:], v[..., half:], n // 2, sw, w)], -1)
            x = x + _linear(state, at + "proj", y)
            x = x + _linear(state, at + "mlp.fc2", F.gelu(_linear(state, at + "mlp.fc1", _norm(state, at + "norm2", x))))
        out[f"stage{stage}"] = x.permute(0, 3, 1, 2)
        stage += 1
    x = _norm(state, "norm", x)
    out["tokens"] = x.flatten(1, 2)
    out["logits"] = _linear(state, "head", x.mean((1, 2)))
    return out
