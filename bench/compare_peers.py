#!/usr/bin/env python3
"""Time fovea beside PyTorch, ONNX Runtime and OpenVINO: same weights, same inputs, same threads, in alternating bursts.

    python3 -m venv .venv && .venv/bin/pip install -r bench/requirements.txt
    .venv/bin/python bench/compare_peers.py [--quick] [--rows 'swin_tiny/f32/*'] [--systems openvino] [--fovea PATH] [--out FILE.csv]

Each row first verifies that all systems give the same logits; one that does not is reported and left out. docs/benchmarks.md explains
the method and the columns. This process imports the standard library only and stays small; every peer runs in a child
process of its own that is stopped with SIGSTOP while another system is timed.
"""

import argparse
import csv
import dataclasses
import datetime
import fnmatch
import importlib.metadata
import math
import os
import pathlib
import platform
import shutil
import signal
import statistics
import subprocess
import sys

from peer_processes import Child, Fovea, FoveaAttention, Peer, disagreement
from peer_rows import LOOSER, TOLERANCE, BenchError, all_rows

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = {"pytorch": "torch", "pytorch-compile": "torch", "onnxruntime": "onnxruntime", "openvino": "openvino"}


def chosen(options, label):
    return any(fnmatch.fnmatch(label, pattern) for pattern in options.systems.split(","))


# ---- one row ------------------------------------------------------------------------------------------------------------


def export(row, directory, labels):
    """Makes the weights, images and graphs that the row needs."""
    want = [] if row.train else [f"{label}-int8" if row.dtype == "int8" else "graph" for label in labels if label in ("onnxruntime", "openvino")]
    maker = Child({"system": "export", "model": dataclasses.asdict(row.model), "directory": str(directory), "batch": row.batch,
                   "want": sorted(set(want))}, 2)
    maker.close()
    return maker.greeting["about"]


def job_of(row, directory, label, dtype):
    stem = f"{row.model.name}_b{row.batch}"
    return {"system": label + ("-train" if row.train else ""), "compile": label == "pytorch-compile", "model": dataclasses.asdict(row.model),
            "batch": row.batch, "threads": row.threads, "dtype": dtype, "inputs": str(directory / "input.npy"),
            "weights": str(directory / f"{row.model.name}.safetensors"), "graph": str(directory / f"{stem}.onnx"),
            "onnxruntime-int8": str(directory / f"{stem}_ort_int8.onnx"), "openvino-int8": str(directory / f"{stem}_ov_int8.xml")}


def reference_of(row, directory, options):
    """PyTorch's answers in f32, from a process that is gone when anything is timed."""
    peer = Peer("pytorch", "", job_of(dataclasses.replace(row, train=False), directory, "pytorch", "f32"), options)
    try:
        return peer.log_probabilities()
    finally:
        peer.close()


def measure(row, directory, options, complain):
    """Verifies, then times. Returns one result a system; a peer that fails or disagrees is complained about and left out."""
    labels = [label for label in row.peers if chosen(options, label)]
    export(row, directory, labels)
    reference = reference_of(row, directory, options)
    systems, errors = [], {}
    try:
        starts = [] if options.peers_only else [("fovea", lambda: Fovea(row, directory, options))]
        for label in labels:
            version = importlib.metadata.version(PACKAGE[label])
            starts.append((label, lambda label=label, version=version: Peer(label, version, job_of(row, directory, label, row.dtype), options)))
        for label, start in starts:
            try:
                system = start()
                systems.append(system)
                limit = LOOSER.get((label, row.dtype), TOLERANCE[row.dtype])
                errors[label] = disagreement(system.log_probabilities(), reference)
                if not errors[label] < limit:
                    raise BenchError(f"disagrees with PyTorch in f32 by {errors[label]:.2e} of the logits' range (limit {limit:.0e}): not timed.")
                system.burst()  # in fovea's case the first report; in a compiler's the passes that are still compiled
            except (BenchError, importlib.metadata.PackageNotFoundError) as error:
                complain(f"{row.name}: {label}: {error}")
                if systems and systems[-1].label == label:
                    systems.pop().close()
        return [summarise(row, system, systems[0], rounds, fastest, errors[system.label])
                for system, rounds, fastest in alternate(systems, options)]
    finally:
        for system in systems:
            system.close()


def measure_attention(row, directory, options):
    """As measure(), for one attention layer: the peer's y and dx are the reference."""
    import attention_peers
    directory.mkdir(parents=True, exist_ok=True)
    tensors = directory / "tensors.safetensors"
    version = importlib.metadata.version(row.model)
    job = {"system": "attention", "kind": row.attention, "tokens": row.tokens, "threads": row.threads, "backward": row.backward,
           "tensors": str(tensors)}
    systems = [Peer(row.model, version, job, options)]
    try:
        errors = {row.model: 0.0, "fovea": 0.0}
        if not options.peers_only:
            fovea = FoveaAttention(row, directory, options, tensors)
            fovea.burst()
            worst = max(systems[0].child.ask(do="errors", file=fovea.answer_file)["errors"].values())
            limit = attention_peers.TOLERANCE
            if not worst < limit:
                raise BenchError(f"fovea disagrees with {row.model} by {worst:.2e} of the largest entry (limit {limit:.0e}): not timed.")
            errors["fovea"] = worst
            systems.insert(0, fovea)
        return [summarise(row, system, systems[0], rounds, fastest, errors[system.label])
                for system, rounds, fastest in alternate(systems, options)]
    finally:
        for system in systems:
            system.close()
        for file in directory.glob("*.safetensors"):
            file.unlink()


def alternate(systems, options):
    """Bursts of all systems, there and back again, so that a machine that slows down slows everybody alike."""
    rounds = {system.label: [] for system in systems}
    fastest = dict.fromkeys(rounds, math.inf)
    for index in range(options.rounds):
        for system in systems if index % 2 == 0 else reversed(systems):
            times = system.burst()
            rounds[system.label].append(statistics.median(times))
            fastest[system.label] = min(fastest[system.label], *times, system.extra.get("ms_min", math.inf))
    return [(system, rounds, fastest[system.label]) for system in systems]


def summarise(row, system, base, rounds, fastest, error):
    own = rounds[system.label]
    ratios = [mine / its for mine, its in zip(own, rounds[base.label])]
    median = statistics.median(own)
    cold = system.cold_start_s
    result = {
        "row": row.name, "model": row.label, "batch": row.batch, "size": row.size, "threads": row.threads,
        "dtype": row.dtype, "pass": row.passes, "system": system.label, "version": system.version,
        "kernels": system.extra.get("kernels", ""), "rounds": len(own), "ms_median": round(median, 3),
        "ms_min": round(fastest, 3), "ms_per_image": round(median / row.batch, 3),
        "images_per_s": round(1e3 * row.batch / median, 3), "spread": round((max(own) - min(own)) / median, 3),
        "percent_of_peak": "", "cold_start_s": "" if cold is None or row.train else round(cold, 3),
        "peak_memory_mib": round(system.memory_mib(), 1), "logit_error": f"{error:.2e}",
        "compared_with": base.label, "ratio_median": round(statistics.median(ratios), 3),
        "ratios": " ".join(f"{ratio:.3f}" for ratio in ratios)}
    if base.label == "fovea" and base.peaks_gflops:
        # The same work and the same peak of the element type for everybody, measured in turn with fovea's runs: only the time differs.
        result["percent_of_peak"] = round(100 * base.extra["gflop"] / (median * 1e-3) / statistics.median(base.peaks_gflops), 1)
    return result


# ---- reports --------------------------------------------------------------------------------------------------------------


def printable(results):
    columns = ["row", "system", "ms_median", "ms_min", "ms_per_image", "spread", "percent_of_peak", "cold_start_s", "peak_memory_mib",
               "logit_error", "ratio_median", "ratios"]
    table = [columns] + [[str(result[column]) for column in columns] for result in results]
    widths = [max(len(line[index]) for line in table) for index in range(len(columns))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in table)


def write_csv(path, results, context):
    """Rows measured now replace the same rows of an existing file; others stay, each with the commit it came from."""
    lines = [context | result for result in results]
    fields = list(lines[0])
    done = {(line["row"], line["system"]) for line in lines}
    kept = []
    if path.exists():
        with path.open(newline="") as file:
            kept = [line for line in csv.DictReader(file) if (line.get("row"), line.get("system")) not in done]
    order = {row.name: index for index, row in enumerate(all_rows())}
    merged = sorted(kept + lines, key=lambda line: order.get(line["row"], len(order)))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    with temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, fields, restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(merged)
    temporary.replace(path)


def context_of_run():
    def git(*arguments):
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    processor = platform.processor() or platform.machine()
    with open("/proc/cpuinfo") as file:
        processor = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), processor)
    commit = git("rev-parse", "--short=12", "HEAD") or "unknown"
    if git("status", "--porcelain", "--untracked-files=no"):
        commit += "-modified"
    try:
        timm = importlib.metadata.version("timm")
    except importlib.metadata.PackageNotFoundError:
        timm = ""
    return {"commit": commit, "date": datetime.date.today().isoformat(), "processor": processor,
            "cores": len(os.sched_getaffinity(0)), "timm": timm}


def find_fovea(given):
    for candidate in [given] if given else [os.environ.get("FOVEA"), ROOT / "build/release/cli/fovea",
                                            ROOT / "build/cli/fovea", ROOT / "build/fovea", shutil.which("fovea")]:
        if candidate and os.access(candidate, os.X_OK) and pathlib.Path(candidate).is_file():
            return str(candidate)
    raise BenchError(f"No fovea program at {given or 'the usual places'}: build it, or name it with --fovea (or use --peers-only).")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog="Rows: " + ", ".join(r.name for r in all_rows()))
    parser.add_argument("--rows", default="*", help="comma-separated patterns of row names (default: all)")
    parser.add_argument("--systems", default="*", help="comma-separated patterns of the peers of models (default: all of a row)")
    parser.add_argument("--quick", action="store_true", help="2 rounds of short bursts; nothing is written unless --out is given")
    parser.add_argument("--rounds", type=int, help="alternating rounds (default 6, quick 2)")
    parser.add_argument("--burst-seconds", type=float, help="time of a burst, at least 3 runs (default 1, quick 0.3)")
    parser.add_argument("--peers-only", action="store_true", help="leave fovea out; nothing is written unless --out is given")
    parser.add_argument("--prepare", action="store_true", help="only export weights, graphs and inputs")
    parser.add_argument("--fovea", metavar="PATH", help="the fovea program (default: $FOVEA, build/, then the search path)")
    parser.add_argument("--classify-options", default="", help="further options for `fovea classify`, in one string")
    parser.add_argument("--bench-options", default="", help="further options for `fovea bench model`, in one string")
    parser.add_argument("--cache", type=pathlib.Path, default=ROOT / "out/peers", help="exports (default: %(default)s)")
    parser.add_argument("--out", type=pathlib.Path, help="CSV file (default: bench/results/peers.csv)")
    options = parser.parse_args()
    options.rounds = options.rounds or (2 if options.quick else 6)
    options.burst_seconds = options.burst_seconds or (0.3 if options.quick else 1.0)
    options.warmup = 1 if options.quick else 2
    if not options.out and not options.quick and not options.peers_only:
        options.out = ROOT / "bench/results/peers.csv"
    return options


def main():
    options = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that children are ended on the way out
    patterns = options.rows.split(",")
    rows = [row for row in all_rows() if any(fnmatch.fnmatch(row.name, pattern) for pattern in patterns)]
    if not rows:
        raise BenchError(f"No row is called {options.rows}; --help lists them.")
    if not options.peers_only and not options.prepare:
        options.fovea = find_fovea(options.fovea)
    failures = []

    def complain(text):
        failures.append(text)
        print(text, file=sys.stderr, flush=True)

    for row in rows:
        directory = options.cache / row.folder
        try:
            if options.prepare:
                if not row.attention:
                    export(row, directory, [label for label in row.peers if chosen(options, label)])
                continue
            results = measure_attention(row, directory, options) if row.attention else measure(row, directory, options, complain)
        except (BenchError, importlib.metadata.PackageNotFoundError) as error:
            complain(f"{row.name}: {error}")
            continue
        if not results:
            continue
        print(printable(results) + "\n", flush=True)
        if options.out:
            write_csv(options.out, results, context_of_run())
    return 1 if failures else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as failure:
        sys.exit(f"compare_peers: {failure}")
