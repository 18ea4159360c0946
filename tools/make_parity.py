#!/usr/bin/env python3
"""Holds fovea against the frameworks that checkpoints come from.

Writes full-size checkpoints with random weights as timm, torchvision and transformers write them (and, by renaming, as
Microsoft, mmdet, facebookresearch and CSWin do), runs the framework in float64 and in float32, and compares what `fovea
features` and `fovea classify` give: stage by stage, at the native size, at a rectangle and at an odd size where the framework
runs those by an option of its own. fovea's error against the float64 run may be twice the framework's own float32 error.

    pip install torch torchvision timm transformers safetensors numpy pillow
    python3 tools/make_parity.py --list
    python3 tools/make_parity.py --only 'Swin.*torchvision' --fovea build/release/cli/fovea
    python3 tools/make_parity.py --write checkpoints       # only writes the files
"""
import argparse
import os
import pathlib
import re
import sys
import tempfile
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")


def picture(folder, number):
    """A smooth picture with some detail, of no model's size; another one for each number."""
    import numpy as np
    from PIL import Image
    y, x = np.mgrid[0:301, 0:417] / 60.0
    rgb = np.stack([np.sin(3 * x + y + number), np.sin(x * y + 2 * number), np.cos(2 * y - x)], -1) * 100 + 128
    rgb += np.random.default_rng(3 + number).normal(0, 12, rgb.shape)
    path = pathlib.Path(folder) / f"picture{number}.png"
    Image.fromarray(rgb.clip(0, 255).astype("uint8")).save(path)
    return path


def selected(cases, options):
    for case in cases:
        if (case.big and not options.big) or not re.search(options.only, f"{case.family} {case.dialect} {case.file}"):
            continue
        yield case


def check(case, options, folder):
    """The rows of one checkpoint, which is removed again."""
    import torch
    from parity import compare
    torch.manual_seed(0)
    subject = case.make()
    weights = subject.write(folder, case.file)
    rows = []
    for size in [subject.native, *case.sizes][: options.sizes]:
        rows.append(compare.check_features(options.fovea, case, subject, weights, size, folder, print if options.all else lambda text: None))
    rows.append(compare.check_classify(options.fovea, case, subject, weights, [picture(folder, n) for n in range(compare.PICTURES)], folder))
    return [r for r in rows if r is not None]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fovea", default="build/release/cli/fovea", help="the program (default: %(default)s)")
    parser.add_argument("--only", default="", help="a regular expression on 'family dialect file'")
    parser.add_argument("--big", action="store_true", help="large models, too")
    parser.add_argument("--sizes", type=int, default=9, help="how many sizes of each, the native one first")
    parser.add_argument("--all", action="store_true", help="print every output, not only the worst of each size")
    parser.add_argument("--list", action="store_true", help="name the checkpoints")
    parser.add_argument("--write", metavar="DIR", help="write the checkpoints to DIR/N-DIALECT and compare nothing")
    parser.add_argument("--convert", action="store_true", help="instead: convert timm's weights to other homes, load them there, and come back")
    parser.add_argument("--markdown", metavar="FILE", help="write the table there")
    options = parser.parse_args()
    sys.path.insert(0, str(pathlib.Path(__file__).parent))
    from parity import cases, compare

    if options.convert:
        from parity import conversion
        with tempfile.TemporaryDirectory() as folder:
            return 1 if conversion.check(options.fovea, options.only, folder) else 0
    chosen = list(selected(cases.CASES, options))
    if options.list:
        for case in chosen:
            print(f"{case.family:9} {case.dialect:24} {case.file}")
        return 0
    if options.write:
        for i, case in enumerate(chosen):
            print(case.make().write(pathlib.Path(options.write) / f"{i:02}-{re.sub('[^a-z0-9]+', '-', case.dialect)}", case.file))
        return 0
    rows = []
    for case in chosen:
        begin = time.time()
        with tempfile.TemporaryDirectory() as folder:
            new = check(case, options, folder)
        for r in new:
            verdict = r.note or f"{r.output:9} {r.ours:.2e}  framework {r.theirs:.2e}  ratio {r.ratio:.2f}"
            print(f"{'ok  ' if r.good else 'FAIL'} {case.family:9} {case.dialect:22} {case.file[:40]:40} {r.size[0]}x{r.size[1]:<4} {verdict}", flush=True)
        print(f"     {time.time() - begin:.0f} s", flush=True)
        rows += new
    if options.markdown:
        pathlib.Path(options.markdown).write_text(compare.markdown(rows))
    bad = sum(not r.good for r in rows)
    print(f"{len(rows) - bad} of {len(rows)} comparisons hold")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
