"""Runs fovea on a checkpoint and holds it against its framework."""
import dataclasses
import json
import pathlib
import subprocess

import numpy as np
import torch

FACTOR = 2.0      # our f32 error may be this much of the framework's own f32 error
IMAGES = 2        # at once: the largest error of a single image depends much on chance
PICTURES = 3      # likewise
FLOOR = 2.0**-23  # of the largest value: what f32 cannot tell from zero


class FoveaError(Exception):
    pass


@dataclasses.dataclass
class Row:
    case: object
    size: tuple
    output: str = ""     # the worst one
    ours: float = 0.0    # largest difference from the float64 run over its largest value
    theirs: float = 0.0  # likewise of the framework's float32 run
    note: str = ""

    @property
    def ratio(self):
        return self.ours / max(self.theirs, FLOOR)

    @property
    def good(self):
        return not self.note and self.ratio <= FACTOR


def fovea(program, *arguments):
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        raise FoveaError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit status {done.returncode}")
    return done.stdout


def relative(a, exact):
    if tuple(a.shape) != tuple(exact.shape):
        return float("inf")
    return ((a.double() - exact).abs().max() / exact.abs().max()).item()


def check_features(program, case, subject, weights, size, folder, report=lambda text: None):
    """One row: the worst output of `fovea features` at this size. report: told of every output."""
    row = Row(case, tuple(size))
    g = torch.Generator().manual_seed(7)
    x = torch.randn((IMAGES, 3, *size), generator=g)
    try:
        exact = subject.run(x, torch.float64)
    except RuntimeError as e:
        if tuple(size) == tuple(subject.native):
            raise
        print(f"     {size[0]}x{size[1]}: the framework fails: {e}")
        return None
    if exact is None:
        return None  # the framework has no way to run this size
    single = subject.run(x, torch.float32)
    np.save(pathlib.Path(folder) / "x.npy", x.numpy())
    out = pathlib.Path(folder) / "features.npz"
    try:
        fovea(program, "features", weights, pathlib.Path(folder) / "x.npy", "--out", out, "--size", f"{size[0]}x{size[1]}", *case.options)
    except FoveaError as e:
        row.note = str(e)
        return row
    ours = np.load(out)
    for name, value in exact.items():
        if name not in ours:
            row.note = f"fovea gives no {name}"
            return row
        mine, theirs = relative(torch.from_numpy(ours[name]), value), relative(single[name], value)
        report(f"       {size[0]}x{size[1]} {name:8} {mine:.2e}  framework {theirs:.2e}")
        if not row.output or mine / max(theirs, FLOOR) > row.ratio:
            row.output, row.ours, row.theirs = name, mine, theirs
    return row


def check_classify(program, case, subject, weights, images, folder):
    """The five most probable classes of pictures, prepared by the home framework on one side and by fovea on the other."""
    transform = subject.transform()
    if transform is None:
        return None
    from PIL import Image
    x = torch.stack([torch.as_tensor(transform(Image.open(image).convert("RGB"))) for image in images])
    row = Row(case, tuple(x.shape[-2:]), output="classify")
    exact = subject.run(x, torch.float64)
    if exact is None or "logits" not in exact:
        return None
    single = subject.run(x, torch.float32)
    try:
        answers = json.loads(fovea(program, "classify", weights, *images, "--json", *case.options))
    except FoveaError as e:
        row.note = str(e)
        return row
    for answer, p, q in zip(answers, exact["logits"].softmax(-1), single["logits"].softmax(-1)):
        top = answer["top"]
        theirs = p.topk(len(top)).indices.tolist()
        if [t["index"] for t in top] != theirs:
            row.note = f"classes {[t['index'] for t in top]} instead of {theirs}"
        row.ours = max(row.ours, max(abs(t["probability"] - p[t["index"]].item()) for t in top) / p.max().item())
        row.theirs = max(row.theirs, ((p - q).abs().max() / p.max()).item())
    return row


def markdown(rows):
    """One line a checkpoint: the sizes, and the worst ratio of fovea's error to the framework's own with these two."""
    groups = {}
    for r in rows:
        groups.setdefault((r.case.family, r.case.dialect, r.case.file), []).append(r)
    lines = ["| family | dialect | checkpoint | features at | classify | worst: error / the framework's own |", "|---|---|---|---|---|---|"]
    for (family, dialect, file), group in groups.items():
        sizes = ", ".join(f"{r.size[0]}x{r.size[1]}" for r in group if r.output != "classify" and not r.note)
        notes = "; ".join(f"{r.size[0]}x{r.size[1]}: {r.note}" for r in group if r.note)
        classify = next((f"{r.ratio:.2f}" if not r.note else "differs" for r in group if r.output == "classify"), "")
        worst = max((r for r in group if not r.note), key=lambda r: r.ratio, default=None)
        numbers = f"{worst.ratio:.2f} ({worst.ours:.1e} / {worst.theirs:.1e}, {worst.output})" if worst else ""
        lines.append(f"| {family} | {dialect} | {file} | {sizes} | {classify} | {numbers}{' ' + notes if notes else ''} |")
    return "\n".join(lines) + "\n"
