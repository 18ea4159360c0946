"""The systems as compare_peers.py sees them: peers in child processes, fovea through its command line. Imports the standard library only."""

import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

from peer_rows import BenchError

WORKER = pathlib.Path(__file__).resolve().parent / "peer_systems.py"


class Child:
    """A peer in a process of its own, stopped except while it answers."""

    def __init__(self, job, threads=1):
        count = str(threads)
        environment = dict(os.environ, OMP_NUM_THREADS=count, MKL_NUM_THREADS=count, TORCHINDUCTOR_COMPILE_THREADS="1", PYTHONWARNINGS="ignore")
        self.log = tempfile.TemporaryFile("w+")
        self.system = job["system"]
        start = time.perf_counter()
        self.process = subprocess.Popen([sys.executable, str(WORKER), json.dumps(job)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=self.log, text=True, env=environment)
        self.greeting = self.answer()
        self.start_s = time.perf_counter() - start

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


class Peer:
    def __init__(self, label, version, job, options):
        self.label, self.version, self.options = label, version, options
        self.child = Child(job, job["threads"])
        self.extra, self.cold_start_s = {}, None

    def log_probabilities(self):
        start = time.perf_counter()
        logits = self.child.ask(do="logits")["logits"]
        if self.cold_start_s is None:
            self.cold_start_s = self.child.start_s + time.perf_counter() - start
        return [log_softmax(row) for row in logits]

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
        self.row, self.directory, self.program, self.options = row, directory, options.fovea, options
        self.version = self.text(["--version"]).splitlines()[0].strip().removeprefix("fovea ")
        self.classify_options, self.bench_options = options.classify_options.split(), options.bench_options.split()
        self.peak_mib, self.peaks_gflops, self.extra, self.cold_start_s = 0.0, [], {}, None

    def text(self, arguments):
        """Runs the program; returns its stdout and keeps its time and its largest resident size."""
        environment = dict(os.environ, OMP_NUM_THREADS=str(self.row.threads))
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as log:
            start = time.perf_counter()
            process = subprocess.Popen([self.program, *arguments], stdin=subprocess.DEVNULL, stdout=out, stderr=log, env=environment)
            _, status, usage = os.wait4(process.pid, 0)
            self.last_s = time.perf_counter() - start
            process.returncode = os.waitstatus_to_exitcode(status)
            out.seek(0)
            log.seek(0)
            if process.returncode != 0:
                why = (log.read().strip().splitlines() or ["no message"])[-1]
                raise BenchError(f"`fovea {' '.join(arguments[:2])} ...` ended with status {process.returncode}: {why}")
            self.last_peak_mib = usage.ru_maxrss / 1024
            return out.read()

    def log_probabilities(self):
        model = self.row.model
        images = [str(self.directory / f"image_{index}.png") for index in range(self.row.batch)]
        # A training step has no answers of its own: its forward is that of an inference in f32.
        dtype = "f32" if self.row.train else self.row.dtype
        answers = json.loads(self.text(["classify", str(self.directory / f"{model.name}.safetensors"), *images, "--topk", str(model.classes),
                                        "--json", "--size", self.row.size, "--set", "crop=1", "--dtype", dtype, "--threads",
                                        str(self.row.threads), *self.classify_options]))
        self.cold_start_s = self.last_s
        rows = []
        for answer in answers:
            if answer.get("error"):
                raise BenchError(f"fovea classify: {answer['file']}: {answer['error']}")
            row = [None] * model.classes
            for entry in answer["top"]:
                row[entry["index"]] = math.log(entry["probability"]) if entry["probability"] > 0 else -math.inf
            if None in row:
                raise BenchError(f"fovea classify gave {len(answer['top'])} of {model.classes} classes for {answer['file']}.")
            rows.append(row)
        return rows

    def burst(self):
        arguments = ["bench", "model", str(self.directory / f"{self.row.model.name}.safetensors"), "--batch", str(self.row.batch), "--threads",
                     str(self.row.threads), "--size", self.row.size, "--dtype", self.row.dtype, "--seconds", str(self.options.burst_seconds),
                     "--json", *(["--train"] if self.row.train else []), *self.bench_options]
        return self.measured(json.loads(self.text(arguments)))

    def measured(self, answer):
        asked = {"batch": self.row.batch, "threads": self.row.threads, "dtype": self.row.dtype, "pass": self.row.passes}
        for key, value in asked.items():
            if answer[key] != value:
                raise BenchError(f"fovea bench was asked for {key} {value} and measured {answer[key]}.")
        self.peak_mib = max(self.peak_mib, answer["peak_memory_mib"])
        if answer["peak_gflops"] > 0:
            self.peaks_gflops.append(answer["peak_gflops"])
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
        self.tensors, self.answer_file = str(tensors), str(directory / "fovea_answer.safetensors")

    def burst(self):
        import attention_peers
        arguments = ["bench", "attention", attention_peers.spec_of(self.row.attention, self.row.tokens), "--size", f"1x{self.row.tokens}",
                     "--heads", str(attention_peers.HEADS), "--head-dim", str(attention_peers.HEAD_DIM), "--threads", str(self.row.threads),
                     "--tensors", self.tensors, "--write", self.answer_file, "--seconds", str(self.options.burst_seconds), "--json",
                     *(["--backward"] if self.row.backward else []), *self.bench_options]
        return self.measured(json.loads(self.text(arguments)))


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
