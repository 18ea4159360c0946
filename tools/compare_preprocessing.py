#!/usr/bin/env python3
"""Compares what fovea makes of pictures with Pillow, torchvision, timm and transformers, byte by byte.

    compare_preprocessing.py PROGRAM [--files DIR]... [--cases N] [--seed S] [--out FIXTURES]

PROGRAM is build/*/tests/fovea_preprocess. Pictures are those below DIR that Pillow decodes (as a rule tests/fixtures/image/files
and a collection of odd ones) and some made here: long strips, single pixels, large photographs. N cases (default 2000) of picture x
resize x crop are drawn, each a real pipeline of one of the packages: torchvision's classification preset, timm's evaluation
transform in all crop modes, and the Hugging Face processors with their Pillow backend. Sizes, pixels and the normalised float32
tensors have to agree; those that do not are listed. --out writes the cases on the folders named by --files as
preprocess.tsv (the fixtures' own) and preprocess_robust.tsv for tests/image/transforms_test.cc.
Needs Pillow, numpy, torch, torchvision, timm and transformers.
"""
import argparse
import os
import random
import subprocess
import sys
import tempfile
import warnings
import zlib

import numpy as np
import PIL
import timm
import torch
import torchvision
import transformers
from PIL import Image, ImageOps
from timm.data import create_transform
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.deit.image_processing_pil_deit import DeiTImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

FILTERS = ("bicubic", "bicubic", "bilinear", "nearest", "lanczos", "box", "hamming")
CODES = {name: int(getattr(Image.Resampling, name.upper())) for name in FILTERS}
STATISTICS = (((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
              ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)), ((0.3, 0.1, 0.7), (0.25, 1.0, 0.33)))
DEFAULTS = ("mean=0.485,0.456,0.406", "std=0.229,0.224,0.225", "interpolation=bicubic", "resize=shorter", "crop=0.9", "height=224",
            "width=224")
MOST_PIXELS = 40_000_000  # of a whole picture after scaling, which only the reference computes


def crc(data):
    return f"{zlib.crc32(data):08x}"


def numbers(values):
    return ",".join(repr(v) for v in values)


class Case:
    """A pipeline: settings for fovea and a function from an RGB picture to (uint8 HWC array, float32 CHW array)."""

    def __init__(self, package, settings, run, scaled):
        self.package, self.settings, self.run, self.scaled = package, settings, run, scaled


def size_of(rng):
    """Height and width of a model's input."""
    square = rng.choice((224, 224, 224, 256, 384, 518, 96, 33, 7, 1, rng.randint(1, 600)))
    if rng.random() < 0.7:
        return square, square
    return square, rng.choice((square + 1, 320, 512, 5, rng.randint(1, 700)))


def torchvision_case(rng):
    crop = rng.choice((224, 224, 384, 480, 512, 75, rng.randint(1, 400)))
    resize = rng.choice((256, 232, 246, 238, 384, crop, crop + 1, crop + 33, max(1, crop - 10), rng.randint(1, 500)))
    name = rng.choice(FILTERS)
    mean, std = rng.choice(STATISTICS)
    preset = ImageClassification(crop_size=crop, resize_size=resize, mean=mean, std=std, interpolation=InterpolationMode(name))

    def run(image):
        fitted = torchvision.transforms.functional.resize(image, [resize], InterpolationMode(name))
        fitted = torchvision.transforms.functional.center_crop(fitted, [crop])
        return np.asarray(fitted), preset(image).numpy()

    settings = [f"height={crop}", f"width={crop}", f"resize_size={resize}", f"interpolation={name}", f"mean={numbers(mean)}",
                f"std={numbers(std)}"]
    return Case("torchvision", settings, run, lambda w, h: (resize * max(w, h) / min(w, h)) * resize)


def timm_case(rng):
    height, width = size_of(rng)
    crop_pct = rng.choice((0.875, 0.9, 0.95, 1.0, 0.96, 0.888, 0.4, round(rng.uniform(0.3, 1), 3)))
    mode = rng.choice(("center", "center", "squash", "border"))
    name = rng.choice(FILTERS)
    mean, std = rng.choice(STATISTICS)
    pipeline = create_transform((3, height, width), interpolation=name, mean=mean, std=std, crop_pct=crop_pct, crop_mode=mode)

    def run(image):
        fitted = image
        for step in pipeline.transforms[:-2]:
            fitted = step(fitted)
        return np.asarray(fitted), pipeline(image).numpy()

    settings = [f"height={height}", f"width={width}", f"crop={crop_pct!r}", f"interpolation={name}", f"mean={numbers(mean)}",
                f"std={numbers(std)}", f"resize={dict(center='shorter').get(mode, mode)}"]
    side = max(height, width) / crop_pct
    return Case("timm", settings, run, lambda w, h: side * side * (max(w, h) / min(w, h) if mode == "center" else 1))


def transformers_case(rng):
    kind = rng.choice((ViTImageProcessorPil, DeiTImageProcessorPil, BitImageProcessorPil))
    height, width = size_of(rng)
    name = rng.choice(FILTERS)
    mean, std = rng.choice(STATISTICS)
    options = dict(resample=CODES[name], image_mean=list(mean), image_std=list(std))
    settings = [f"height={height}", f"width={width}", "crop=1", f"interpolation={name}", f"mean={numbers(mean)}",
                f"std={numbers(std)}", "crop_rounding=down"]
    aspect = 0
    if kind is ViTImageProcessorPil:
        options["size"] = {"height": height, "width": width}
        settings.append("resize=squash")
        scaled = (height, width)
    else:
        options["crop_size"] = {"height": height, "width": width}
        if kind is DeiTImageProcessorPil:
            scaled = (height + rng.randint(-5, 40), width + rng.randint(-5, 40)) if min(height, width) > 5 else (256, 256)
            options["size"] = dict(zip(("height", "width"), scaled))
            settings += ["resize=squash", f"resize_size={scaled[0]},{scaled[1]}"]
        else:
            side = rng.choice((256, min(height, width), min(height, width) + 31, rng.randint(1, 400)))
            scaled, aspect = (side, side), 1
            options["size"] = {"shortest_edge": side}
            settings.append(f"resize_size={side}")
    processor = kind(**options)
    plain = kind(**options, do_rescale=False, do_normalize=False)

    def run(image):
        return (np.asarray(plain(image, return_tensors="np")["pixel_values"][0]).transpose(1, 2, 0),
                np.asarray(processor(image, return_tensors="np")["pixel_values"][0]))

    return Case("transformers", settings, run,
                lambda w, h: scaled[0] * scaled[1] * (max(w, h) / min(w, h) if aspect else 1))


def made_pictures(folder):
    """Shapes that no collection has."""
    rng = np.random.default_rng(1)
    for width, height in ((1, 1), (2, 1), (1, 3), (3000, 2), (1, 700), (5, 4000), (4032, 3024), (640, 480), (481, 641), (333, 500)):
        y, x = np.mgrid[0:height, 0:width].astype(np.float64)
        base = np.stack([127 + 120 * np.sin(x / 19 + y / 90), 127 + 120 * np.cos(y / 27), 255 * (x + y) / (width + height)], -1)
        pixels = np.clip(base + rng.normal(0, 20, base.shape), 0, 255).astype(np.uint8)
        if width * height > 1_000_000:
            Image.fromarray(pixels).save(os.path.join(folder, f"made_{width}x{height}.jpg"), quality=90)
        else:
            Image.fromarray(pixels).save(os.path.join(folder, f"made_{width}x{height}.png"))
    return [os.path.join(folder, name) for name in sorted(os.listdir(folder))]


def decoded(path):
    """The RGB picture, or None where Pillow gives none. Opened as torchvision's pil_loader does: by name, Pillow maps the file into
    memory, and turned uncompressed TIFFs come out wrong."""
    try:
        with open(path, "rb") as file, Image.open(file) as image:
            rgb = ImageOps.exif_transpose(image).convert("RGB")
            rgb.info.clear()  # a transparent colour would have transformers 5 blend a picture that has no alpha any more
            return rgb
    except Exception:  # Pillow reports broken files by many types
        return None


def expected_line(case, image):
    pixels, tensor = case.run(image)
    return "\t".join(str(v) for v in (pixels.shape[1], pixels.shape[0], 3, crc(np.ascontiguousarray(pixels, dtype=np.uint8).tobytes()),
                                      crc(np.ascontiguousarray(tensor, dtype=np.float32).tobytes())))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--files", action="append", default=[])
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        paths = [os.path.join(base, name) for top in args.files for base, _, names in sorted(os.walk(top)) for name in sorted(names)]
        paths = [p for p in paths if "\t" not in p and "\n" not in p] + made_pictures(folder)
        pictures = {}
        fovea = subprocess.Popen([args.program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

        def answer(path, settings):
            fovea.stdin.write("\t".join([path] + settings) + "\n")
            fovea.stdin.flush()
            return fovea.stdout.readline().rstrip("\n")

        decode_errors, unreadable = [], 0
        for path in paths:
            image = decoded(path)
            if image is None:
                unreadable += 1
                continue
            want = f"{image.width}\t{image.height}\t3\t{crc(image.tobytes())}\t{crc(b'')}"
            got = answer(path, [])
            if got == want:
                pictures[path] = image.size
            else:
                decode_errors.append(f"{path}\n    fovea  {got}\n    Pillow {want}")
        print(f"decoding: {len(pictures)} of {len(pictures) + len(decode_errors)} pictures that Pillow reads agree; "
              f"{unreadable} files that it does not read left out")
        for line in decode_errors:
            print("  " + line)

        kinds = (torchvision_case, timm_case, transformers_case)
        order, done, differ, chosen = [], {}, [], {top: [] for top in args.files}
        while sum(done.values()) < args.cases:
            if not order:
                order = sorted(pictures)
                rng.shuffle(order)
            path = order.pop()
            case = rng.choice(kinds)(rng)
            if case.scaled(*pictures[path]) > MOST_PIXELS:
                continue
            try:
                want = expected_line(case, decoded(path))
            except ValueError as error:  # nothing is left of a side
                want = f"error ({error})"
            got = answer(path, case.settings)
            done[case.package] = done.get(case.package, 0) + 1
            if got != want and not (got.startswith("error") and want.startswith("error")):
                differ.append(f"{path} {case.package} {' '.join(case.settings)}\n    fovea  {got}\n    wanted {want}")
            for top in args.files:
                if path.startswith(top + os.sep):
                    chosen[top].append("\t".join([os.path.relpath(path, top), ",".join(want.split("\t")) if want[0] != "e" else "error"] +
                                                 [x for x in case.settings if x not in DEFAULTS]))
        fovea.stdin.close()
        fovea.wait()
    counts = ", ".join(f"{n} of {package}" for package, n in sorted(done.items()))
    print(f"preprocessing: {sum(done.values()) - len(differ)} of {sum(done.values())} cases agree ({counts})")
    for line in differ:
        print("  " + line)
    for top, lines in chosen.items() if args.out else ():
        own = os.path.abspath(top) == os.path.abspath(os.path.join(args.out, "files"))
        with open(os.path.join(args.out, "preprocess.tsv" if own else "preprocess_robust.tsv"), "w") as f:
            f.write(f"# Made by tools/compare_preprocessing.py with Pillow {PIL.__version__}, torchvision {torchvision.__version__}, "
                    f"timm {timm.__version__} and transformers {transformers.__version__}.\n")
            f.write("".join(line + "\n" for line in sorted(lines)))
    return 1 if decode_errors or differ else 0


if __name__ == "__main__":
    sys.exit(main())
