#!/usr/bin/env python3
"""Time fovea beside PyTorch and ONNX Runtime: same weights, same inputs, same threads, in alternating bursts.

    python3 -m venv .venv && .venv/bin/pip install -r bench/requirements.txt
    .venv/bin/python bench/compare_peers.py [--quick] [--rows 'swin_tiny/*'] [--fovea PATH] [--out FILE.csv]

Each row first verifies that all systems give the same logits and is not timed if they do not. docs/benchmarks.md explains
the method and the columns. This process imports the standard library only and stays small; every peer runs in a child
process of its own (this file with --worker) that is stopped with SIGSTOP while another system is timed.
"""

import argparse
import csv
import ctypes
import dataclasses
import datetime
import fnmatch
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOLERANCE = 1e-4  # largest difference of a logit, as a share of the logits' range
RECIPE = 1  # raise when the exported weights, inputs or graphs change: older exports are then made anew
IMAGE_SIZE, CROP_SIZE, CLASSES, IMAGES = 248, 224, 1000, 8
ATTENTION_PEERS = {"global": "torch", "performer": "performer-pytorch", "linformer": "linformer", "longformer": "transformers",
                   "routing": "routing-transformer", "sliding": "torch"}  # kind: the package it is compared with
SWIN, VIT = "swin_tiny_patch4_window7_224", "vit_small_patch16_224"


class BenchError(Exception):
    """Something the reader must act on, said in one sentence."""


@dataclasses.dataclass(frozen=True)
class Row:
    name: str
    model: str
    batch: int
    threads: int
    train: bool = False
    attention: str = ""  # a kind of attention_peers.py: one layer on a sequence of `tokens`; model is its peer then
    tokens: int = 0
    backward: bool = False

    @property
    def passes(self):
        return "train" if self.train else "forward+backward" if self.backward else "forward"


def all_rows():
    rows = [Row(f"{short}/b{batch}/t{threads}", model, batch, threads)
            for short, model in (("swin_tiny", SWIN), ("vit_small", VIT)) for batch in (1, 8) for threads in (1, 2)]
    rows.append(Row("train/swin_tiny/b8/t2", SWIN, 8, 2, train=True))
    for kind, peer in ATTENTION_PEERS.items():
        rows += [Row(f"attention/{kind}/n{tokens}/t2", peer, 1, 2, attention=kind, tokens=tokens, backward=kind != "sliding")
                 for tokens in (1024, 4096, 16384)]
    return rows


# ---- children ---------------------------------------------------------------------------------------------------------


def resident_high_water_mib():
    """VmHWM of this process. (ru_maxrss would include what the parent held when it started this process.)"""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    raise BenchError("/proc/self/status has no VmHWM line; peak memory needs Linux.")


def export(job):
    """Writes DIR/MODEL.safetensors, MODEL_bN.onnx, image_K.png, input.npy and about.json."""
    directory, name = pathlib.Path(job["directory"]), job["model"]
    packages = {"pytorch": "torch", "onnxruntime": "onnxruntime", "timm": "timm", "onnx": "onnx"}
    about = {"recipe": RECIPE, "versions": {key: importlib.metadata.version(value) for key, value in packages.items()}}
    about_file = directory / "about.json"
    if about_file.exists():
        old = json.loads(about_file.read_text())
        if all(old.get(key) == value for key, value in about.items()):
            return old
    import numpy as np
    import PIL.Image
    import safetensors.torch
    import timm
    import torch

    directory.mkdir(parents=True, exist_ok=True)
    model = timm.create_model(name, pretrained=False, num_classes=CLASSES).eval()
    # Larger than the usual initial weights: with those the logits hardly depend on the image and any answer would pass.
    generator = torch.Generator().manual_seed(20)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in key and key.endswith("weight"):
                parameter.copy_(1 + 0.1 * noise)
            elif parameter.ndim == 1 or key.endswith(("pos_embed", "cls_token", "relative_position_bias_table")):
                parameter.copy_(0.1 * noise)
            else:
                parameter.copy_(noise * math.prod(parameter.shape[1:]) ** -0.5)
    parameters = {key: value.contiguous() for key, value in model.named_parameters()}
    safetensors.torch.save_file(parameters, directory / f"{name}.safetensors", metadata={"format": "pt"})

    # Images are already as large as the evaluation transform makes them, so resizing changes nothing and the centre crop
    # is all that is left of it: the comparison then rests on the model, not on anybody's resampling.
    config = model.pretrained_cfg
    if math.floor(CROP_SIZE / config["crop_pct"]) != IMAGE_SIZE:
        raise BenchError(f"{name} has crop_pct {config['crop_pct']}: an image of {IMAGE_SIZE} pixels would be resized.")
    rng = np.random.Generator(np.random.PCG64(21))
    mean, std = (np.array(config[key], np.float32).reshape(3, 1, 1) for key in ("mean", "std"))
    inputs = np.empty((IMAGES, 3, CROP_SIZE, CROP_SIZE), np.float32)
    margin = (IMAGE_SIZE - CROP_SIZE) // 2
    for index in range(IMAGES):
        blocks = rng.integers(0, 256, (IMAGE_SIZE // 8, IMAGE_SIZE // 8, 3)).repeat(8, axis=0).repeat(8, axis=1)
        pixels = np.clip(blocks + rng.integers(-20, 21, blocks.shape), 0, 255).astype(np.uint8)
        PIL.Image.fromarray(pixels).save(directory / f"image_{index}.png")
        crop = pixels[margin:margin + CROP_SIZE, margin:margin + CROP_SIZE].transpose(2, 0, 1)
        inputs[index] = (crop.astype(np.float32) / np.float32(255) - mean) / std
    np.save(directory / "input.npy", inputs)

    for batch in job["batches"]:
        torch.onnx.export(model, (torch.from_numpy(inputs[:batch]),), str(directory / f"{name}_b{batch}.onnx"),
                          dynamo=False, opset_version=17, input_names=["images"], output_names=["logits"])
    about_file.write_text(json.dumps(about))
    return about


class PyTorchForward:
    def __init__(self, job, inputs):
        import safetensors.torch
        import timm
        import torch
        self.torch = torch
        torch.set_num_threads(job["threads"])
        torch.set_num_interop_threads(1)
        self.model = timm.create_model(job["model"], pretrained=False, num_classes=CLASSES, drop_path_rate=0.0).eval()
        missing = self.model.load_state_dict(safetensors.torch.load_file(job["weights"]), strict=False)
        if missing.unexpected_keys or set(missing.missing_keys) & {k for k, _ in self.model.named_parameters()}:
            raise BenchError(f"The exported weights do not fit {job['model']}: {missing}.")
        self.inputs = torch.from_numpy(inputs)

    def logits(self):
        with self.torch.inference_mode():
            return self.model(self.inputs).tolist()

    def run(self):
        with self.torch.inference_mode():
            self.model(self.inputs)


class PyTorchTrain(PyTorchForward):
    """Forward, cross-entropy, backward, fused AdamW; nothing else, so the peer does no more than it must."""

    def __init__(self, job, inputs):
        super().__init__(job, inputs)
        self.labels = self.torch.arange(len(inputs)) * 97 % CLASSES
        self.optimizer = self.torch.optim.AdamW(self.model.parameters(), lr=1e-6, weight_decay=0.05, fused=True)

    def run(self):
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.torch.nn.functional.cross_entropy(self.model(self.inputs), self.labels, label_smoothing=0.1)
        loss.backward()
        self.optimizer.step()
        if not math.isfinite(loss.item()):
            raise BenchError("PyTorch's training loss is not finite.")


class OnnxRuntimeForward:
    def __init__(self, job, inputs):
        import onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = job["threads"]
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        self.session = onnxruntime.InferenceSession(job["graph"], options, providers=["CPUExecutionProvider"])
        self.feeds = {"images": inputs}

    def logits(self):
        return self.session.run(None, self.feeds)[0].tolist()

    def run(self):
        self.session.run(None, self.feeds)


SYSTEMS = {"pytorch": PyTorchForward, "pytorch-train": PyTorchTrain, "onnxruntime": OnnxRuntimeForward}


def burst(system, seconds, min_runs, warmup):
    for _ in range(warmup):
        system.run()
    times, end = [], time.perf_counter() + seconds
    while len(times) < min_runs or time.perf_counter() < end:
        start = time.perf_counter()
        system.run()
        times.append(1e3 * (time.perf_counter() - start))
    return times


def serve(job):
    """The child's loop: one JSON request a line on stdin, one JSON answer a line on stdout."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: a stopped child must not outlive the parent
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to stderr
    try:
        if job["system"] == "export":
            answer = {"about": export(job)}
            system = None
        else:
            if job["system"] == "attention":
                import attention_peers
                system = attention_peers.AttentionPeer(job, None)
                system.save(job["tensors"])
            else:
                import numpy as np
                system = SYSTEMS[job["system"]](job, np.load(job["inputs"])[:job["batch"]])
            answer = {"ready": True}
        while True:
            print(json.dumps(answer), file=answers, flush=True)
            line = sys.stdin.readline()
            if not line:
                return
            request = json.loads(line)
            if request["do"] == "logits":
                answer = {"logits": system.logits()}
            elif request["do"] == "errors":
                answer = {"errors": system.errors(request["file"])}
            elif request["do"] == "burst":
                answer = {"ms": burst(system, request["seconds"], request["min_runs"], request["warmup"])}
            else:
                answer = {"memory_mib": resident_high_water_mib()}
    except (BenchError, ImportError) as error:
        print(json.dumps({"error": str(error)}), file=answers, flush=True)


class Child:
    """A peer in a process of its own, stopped except while it answers."""

    def __init__(self, job, threads=1):
        count = str(threads)
        environment = dict(os.environ, OMP_NUM_THREADS=count, MKL_NUM_THREADS=count, PYTHONWARNINGS="ignore")
        self.log = tempfile.TemporaryFile("w+")
        self.system = job["system"]
        self.process = subprocess.Popen(
            [sys.executable, str(pathlib.Path(__file__).resolve()), "--worker", json.dumps(job)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True, env=environment)
        self.greeting = self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            last = (self.log.read().strip().splitlines() or ["no message"])[-1]
            raise BenchError(f"The {self.system} process ended early: {last}")
        answer = json.loads(line)
        if "error" in answer:
            raise BenchError(f"{self.system}: {answer['error']} (install what bench/requirements.txt lists)")
        self.process.send_signal(signal.SIGSTOP)
        return answer

    def ask(self, **request):
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        self.log.close()


# ---- the systems as the parent sees them --------------------------------------------------------------------------------


class Peer:
    def __init__(self, label, version, job, options):
        self.label, self.version, self.options = label, version, options
        self.child = Child(job, job["threads"])
        self.extra = {}

    def log_probabilities(self):
        return [log_softmax(row) for row in self.child.ask(do="logits")["logits"]]

    def burst(self):
        return self.child.ask(do="burst", seconds=self.options.burst_seconds, min_runs=3, warmup=self.options.warmup)["ms"]

    def memory_mib(self):
        return self.child.ask(do="memory")["memory_mib"]

    def close(self):
        self.child.close()


class Fovea:
    """fovea through its command line; every burst is one process."""

    label = "fovea"

    def __init__(self, row, directory, options):
        self.row, self.directory, self.program = row, directory, options.fovea
        self.weights = str(directory / f"{row.model}.safetensors")
        self.version = self.text(["--version"]).splitlines()[0].strip().removeprefix("fovea ")
        self.classify_options, self.bench_options = options.classify_options.split(), options.bench_options.split()
        self.peak_mib, self.extra = 0.0, {}

    def text(self, arguments):
        """Runs the program; returns its stdout and keeps the largest resident size seen in self.peak_mib."""
        environment = dict(os.environ, OMP_NUM_THREADS=str(self.row.threads))
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as log:
            process = subprocess.Popen([self.program, *arguments], stdin=subprocess.DEVNULL, stdout=out, stderr=log,
                                       env=environment)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            out.seek(0)
            log.seek(0)
            if process.returncode != 0:
                why = (log.read().strip().splitlines() or ["no message"])[-1]
                raise BenchError(f"`fovea {' '.join(arguments)}` ended with status {process.returncode}: {why}")
            self.last_peak_mib = usage.ru_maxrss / 1024
            return out.read()

    def log_probabilities(self):
        images = [str(self.directory / f"image_{index}.png") for index in range(self.row.batch)]
        answers = json.loads(self.text(["classify", self.weights, *images, "--topk", str(CLASSES), "--json", "--threads",
                                        str(self.row.threads), *self.classify_options]))
        rows = []
        for answer in answers:
            if answer.get("error"):
                raise BenchError(f"fovea classify: {answer['file']}: {answer['error']}")
            row = [None] * CLASSES
            for entry in answer["top"]:
                row[entry["index"]] = math.log(entry["probability"]) if entry["probability"] > 0 else -math.inf
            if None in row:
                raise BenchError(f"fovea classify gave {len(answer['top'])} of {CLASSES} classes for {answer['file']}.")
            rows.append(row)
        return rows

    def burst(self):
        arguments = ["bench", "model", self.weights, "--batch", str(self.row.batch), "--threads", str(self.row.threads),
                     "--json", *(["--train"] if self.row.train else []), *self.bench_options]
        answer = json.loads(self.text(arguments))
        return self.measured(answer)

    def measured(self, answer):
        asked = {"batch": self.row.batch, "threads": self.row.threads, "dtype": "f32", "pass": self.row.passes}
        for key, value in asked.items():
            if answer[key] != value:
                raise BenchError(f"fovea bench was asked for {key} {value} and measured {answer[key]}.")
        self.peak_mib = max(self.peak_mib, self.last_peak_mib)
        self.extra = answer
        return [answer["ms_median"]]

    def memory_mib(self):
        return self.peak_mib

    def close(self):
        pass


class FoveaAttention(Fovea):
    """`fovea bench attention` with the peer's weights and input; its answer of one pass is kept for the check."""

    def __init__(self, row, directory, options, tensors):
        super().__init__(row, directory, options)
        self.options = options
        self.tensors, self.answer_file = str(tensors), str(directory / "fovea_answer.safetensors")

    def burst(self):
        import attention_peers
        arguments = ["bench", "attention", attention_peers.spec_of(self.row.attention, self.row.tokens), "--size", f"1x{self.row.tokens}",
                     "--heads", str(attention_peers.HEADS), "--head-dim", str(attention_peers.HEAD_DIM), "--threads", str(self.row.threads),
                     "--tensors", self.tensors, "--write", self.answer_file, "--seconds", str(self.options.burst_seconds), "--json",
                     *(["--backward"] if self.row.backward else []), *self.bench_options]
        return self.measured(json.loads(self.text(arguments)))


# ---- one row ------------------------------------------------------------------------------------------------------------


def log_softmax(logits):
    largest = max(logits)
    total = math.log(sum(math.exp(value - largest) for value in logits)) + largest
    return [value - total for value in logits]


def disagreement(candidate, reference):
    """Largest difference of two sets of log-probabilities, as a share of each image's range (that of its logits)."""
    if len(candidate) != len(reference):
        raise BenchError(f"{len(candidate)} answers came back for {len(reference)} images.")
    worst = 0.0
    for a, b in zip(candidate, reference):
        largest = max(abs(x - y) for x, y in zip(a, b, strict=True))
        if not math.isfinite(largest):
            return math.inf
        worst = max(worst, largest / (max(b) - min(b)))
    return worst


def measure(row, about, directory, options):
    """Verifies, then times. Returns one result a system; raises BenchError if the systems disagree."""
    job = {"model": row.model, "batch": row.batch, "threads": row.threads, "inputs": str(directory / "input.npy"),
           "weights": str(directory / f"{row.model}.safetensors"),
           "graph": str(directory / f"{row.model}_b{row.batch}.onnx")}
    systems = []
    try:
        versions = about["versions"]
        systems.append(Peer("pytorch", versions["pytorch"],
                            job | {"system": "pytorch-train" if row.train else "pytorch"}, options))
        if not row.train:
            systems.append(Peer("onnxruntime", versions["onnxruntime"], job | {"system": "onnxruntime"}, options))
        reference = systems[0].log_probabilities()
        if not options.peers_only:
            systems.insert(0, Fovea(row, directory, options))
        errors = {}
        for system in systems:
            errors[system.label] = disagreement(system.log_probabilities(), reference)
            if not errors[system.label] < TOLERANCE:
                raise BenchError(f"{system.label} disagrees with pytorch by {errors[system.label]:.2e} of the logits' range "
                                 f"(limit {TOLERANCE:.0e}): not timed.")

        rounds, fastest = alternate(systems, options)
        return [summarise(row, system, systems[0], rounds, fastest[system.label], errors[system.label]) for system in systems]
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
        rounds, fastest = alternate(systems, options)
        return [summarise(row, system, systems[0], rounds, fastest[system.label], errors[system.label]) for system in systems]
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
    return rounds, fastest


def summarise(row, system, base, rounds, fastest, error):
    own = rounds[system.label]
    ratios = [mine / its for mine, its in zip(own, rounds[base.label])]
    median = statistics.median(own)
    result = {
        "row": row.name, "model": row.model, "batch": row.batch, "size": f"1x{row.tokens}" if row.attention else f"{CROP_SIZE}x{CROP_SIZE}", "threads": row.threads,
        "dtype": "f32", "pass": row.passes, "system": system.label, "version": system.version,
        "kernels": system.extra.get("kernels", ""), "rounds": len(own), "ms_median": round(median, 3),
        "ms_min": round(fastest, 3), "ms_per_image": round(median / row.batch, 3),
        "images_per_s": round(1e3 * row.batch / median, 3), "spread": round((max(own) - min(own)) / median, 3),
        "percent_of_peak": "", "peak_memory_mib": round(system.memory_mib(), 1), "logit_error": f"{error:.2e}",
        "compared_with": base.label, "ratio_median": round(statistics.median(ratios), 3),
        "ratios": " ".join(f"{ratio:.3f}" for ratio in ratios)}
    if base.label == "fovea" and base.extra.get("gflops"):
        # The same work and the same measured peak for everybody: only the time differs.
        peak = 100 * base.extra["gflops"] / base.extra["percent_of_peak"]
        result["percent_of_peak"] = round(100 * base.extra["gflop"] / (median * 1e-3) / peak, 1)
    return result


# ---- reports --------------------------------------------------------------------------------------------------------------


def printable(results):
    columns = ["row", "system", "ms_median", "ms_min", "ms_per_image", "spread", "percent_of_peak", "peak_memory_mib",
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


def context_of_run(about):
    def git(*arguments):
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    processor = platform.processor() or platform.machine()
    with open("/proc/cpuinfo") as file:
        processor = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), processor)
    commit = git("rev-parse", "--short=12", "HEAD") or "unknown"
    if git("status", "--porcelain", "--untracked-files=no"):
        commit += "-modified"
    return {"commit": commit, "date": datetime.date.today().isoformat(), "processor": processor,
            "cores": len(os.sched_getaffinity(0)), "timm": about["versions"]["timm"]}


def find_fovea(given):
    for candidate in [given] if given else [os.environ.get("FOVEA"), ROOT / "build/release/cli/fovea",
                                            ROOT / "build/cli/fovea", ROOT / "build/fovea", shutil.which("fovea")]:
        if candidate and os.access(candidate, os.X_OK) and pathlib.Path(candidate).is_file():
            return str(candidate)
    raise BenchError(f"No fovea program at {given or 'the usual places'}: build it, or name it with --fovea (or use --peers-only).")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog="Rows: " + ", ".join(r.name for r in all_rows()))
    parser.add_argument("--rows", default="*", help="comma-separated patterns of row names (default: all)")
    parser.add_argument("--quick", action="store_true", help="2 rounds of short bursts; nothing is written unless --out is given")
    parser.add_argument("--rounds", type=int, help="alternating rounds (default 6, quick 2)")
    parser.add_argument("--burst-seconds", type=float, help="time of a peer's burst, at least 3 runs (default 1, quick 0.3)")
    parser.add_argument("--peers-only", action="store_true", help="leave fovea out; nothing is written unless --out is given")
    parser.add_argument("--prepare", action="store_true", help="only export weights, graphs and inputs")
    parser.add_argument("--fovea", metavar="PATH", help="the fovea program (default: $FOVEA, build/, then the search path)")
    parser.add_argument("--classify-options", default="", help="further options for `fovea classify`, in one string")
    parser.add_argument("--bench-options", default="", help="further options for `fovea bench model`, in one string")
    parser.add_argument("--cache", type=pathlib.Path, default=ROOT / "out/peers", help="exports (default: %(default)s)")
    parser.add_argument("--out", type=pathlib.Path, help="CSV file (default: bench/results/peers.csv)")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.rounds = options.rounds or (2 if options.quick else 6)
    options.burst_seconds = options.burst_seconds or (0.3 if options.quick else 1.0)
    options.warmup = 1 if options.quick else 2
    if not options.out and not options.quick and not options.peers_only:
        options.out = ROOT / "bench/results/peers.csv"
    return options


def main():
    options = parse_arguments()
    if options.worker:
        serve(json.loads(options.worker))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that children are ended on the way out
    patterns = options.rows.split(",")
    rows = [row for row in all_rows() if any(fnmatch.fnmatch(row.name, pattern) for pattern in patterns)]
    if not rows:
        raise BenchError(f"No row is called {options.rows}; --help lists them.")
    if not options.peers_only and not options.prepare:
        options.fovea = find_fovea(options.fovea)

    results, failures = [], []
    about = {"versions": {"timm": ""}}
    for row in rows:
        directory = options.cache / (row.name.replace("/", "-") if row.attention else row.model)
        if row.attention:
            if options.prepare:
                continue
            try:
                results_of_row = measure_attention(row, directory, options)
            except (BenchError, importlib.metadata.PackageNotFoundError) as error:
                failures.append(f"{row.name}: {error}")
                print(failures[-1], file=sys.stderr)
                continue
            print(printable(results_of_row) + "\n", flush=True)
            results += results_of_row
            if options.out:
                write_csv(options.out, results_of_row, context_of_run(about))
            continue
        maker = Child({"system": "export", "model": row.model, "directory": str(directory), "batches": [1, 8]}, 2)
        maker.close()
        about = maker.greeting["about"]
        if options.prepare:
            continue
        try:
            measured = measure(row, about, directory, options)
        except BenchError as error:
            failures.append(f"{row.name}: {error}")
            print(failures[-1], file=sys.stderr)
            continue
        print(printable(measured) + "\n", flush=True)
        results += measured
        if options.out:
            write_csv(options.out, measured, context_of_run(about))
    return 1 if failures else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as failure:
        sys.exit(f"compare_peers: {failure}")
