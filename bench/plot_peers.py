#!/usr/bin/env python3
"""Draw the table that compare_peers.py writes: the share of the processor's peak that each system reaches, row by row.

    .venv/bin/python bench/plot_peers.py [--csv bench/results/peers.csv] [--out bench/results/peers.svg] [--rows '*/t2'] [--value percent_of_peak]

Higher is better for percent_of_peak and images_per_s. A panel for each element type and kind of pass; rows without the value are left out.
"""

import argparse
import csv
import fnmatch
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
ORDER = ["fovea", "openvino", "onnxruntime", "pytorch-compile", "pytorch"]
COLOURS = {"fovea": "#d1495b", "openvino": "#30638e", "onnxruntime": "#66a182", "pytorch-compile": "#edae49", "pytorch": "#8d96a3"}
TITLES = {"percent_of_peak": "% of the measured peak", "images_per_s": "images a second", "ms_per_image": "ms an image",
          "peak_memory_mib": "peak memory, MiB", "cold_start_s": "start to first answer, s"}


def read(path, patterns, value):
    """{(dtype, pass): {row: {system: number}}} in the file's order."""
    panels = {}
    with path.open(newline="") as file:
        for line in csv.DictReader(file):
            if line["row"].startswith("attention/") or not line.get(value) or not any(fnmatch.fnmatch(line["row"], p) for p in patterns):
                continue
            rows = panels.setdefault((line["dtype"], line["pass"]), {})
            rows.setdefault(line["row"], {})[line["system"]] = float(line[value])
    return panels


def label_of(row):
    parts = [part for part in row.split("/") if part not in ("train", "f32", "bf16", "int8", "t1", "t2")]
    return "\n".join(parts) + (", 1 thread" if row.endswith("/t1") else "")


def draw(panels, value, path):
    import matplotlib
    matplotlib.use("svg" if path.suffix == ".svg" else "agg")
    import matplotlib.pyplot as plt
    plt.rcParams.update({"svg.hashsalt": "fovea", "font.size": 8})  # the same numbers, the same bytes
    widest = max(len(rows) for rows in panels.values())
    figure, axes = plt.subplots(len(panels), 1, figsize=(max(5.0, 1.1 * widest + 1), 2.1 * len(panels)), squeeze=False)
    for axis, ((dtype, passes), rows) in zip(axes[:, 0], panels.items()):
        systems = [system for system in ORDER if any(system in values for values in rows.values())]
        width = 0.85 / len(systems)
        for index, system in enumerate(systems):
            places = [at + (index - (len(systems) - 1) / 2) * width for at, values in enumerate(rows.values()) if system in values]
            heights = [values[system] for values in rows.values() if system in values]
            bars = axis.bar(places, heights, width, color=COLOURS[system], label=system)
            axis.bar_label(bars, fmt="%.3g", fontsize=5, padding=1)
        axis.set_xticks(range(len(rows)), [label_of(row) for row in rows])
        axis.set_xlim(-0.6, widest - 0.4)
        axis.set_title(f"{'training step' if passes == 'train' else 'inference'}, {dtype}", loc="left", fontsize=9)
        axis.set_ylabel(TITLES.get(value, value))
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(fontsize=6, frameon=False, ncols=len(systems), loc="upper right", bbox_to_anchor=(1, 1.18))
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--csv", type=pathlib.Path, default=ROOT / "bench/results/peers.csv")
    parser.add_argument("--out", type=pathlib.Path, help="SVG or PNG (default: beside the table, .svg)")
    parser.add_argument("--rows", default="*/t2", help="comma-separated patterns of row names (default: %(default)s)")
    parser.add_argument("--value", default="percent_of_peak", choices=sorted(TITLES), help="the column to draw (default: %(default)s)")
    options = parser.parse_args()
    if not options.csv.exists():
        sys.exit(f"plot_peers: there is no table {options.csv}; bench/compare_peers.py makes it")
    panels = read(options.csv, options.rows.split(","), options.value)
    if not panels:
        sys.exit(f"plot_peers: no row called {options.rows} has a value in the column {options.value}")
    draw(panels, options.value, options.out or options.csv.with_suffix(".svg"))


if __name__ == "__main__":
    main()
