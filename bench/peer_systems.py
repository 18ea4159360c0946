"""The peers, each in a child process of compare_peers.py: PyTorch (eager, compiled), ONNX Runtime, OpenVINO."""

import contextlib
import ctypes
import json
import math
import os
import signal
import sys
import time

import peer_exports
from peer_rows import BenchError


def resident_high_water_mib():
    """VmHWM of this process. (ru_maxrss would include what the parent held when it started this process.)"""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    raise BenchError("/proc/self/status has no VmHWM line; peak memory needs Linux.")


class PyTorchForward:
    """Eager, under autocast in bf16; with "compile" through torch.compile with frozen weights."""

    def __init__(self, job, inputs):
        import torch
        self.torch, self.compile, self.bf16 = torch, job["compile"], job["dtype"] == "bf16"
        torch.set_num_threads(job["threads"])
        torch.set_num_interop_threads(1)
        self.network = peer_exports.load_network(peer_exports.model_of(job), job["weights"])
        self.call = self.network
        if self.compile:
            self.freeze()
            self.call = torch.compile(self.network)
        self.inputs = torch.from_numpy(inputs)

    def freeze(self):
        import torch._inductor.config
        torch._inductor.config.freezing = True

    def precision(self):
        return self.torch.autocast("cpu", dtype=self.torch.bfloat16) if self.bf16 else contextlib.nullcontext()

    def forward(self):
        with self.torch.no_grad() if self.compile else self.torch.inference_mode(), self.precision():
            return self.call(self.inputs)

    def logits(self):
        return self.forward().float().tolist()

    def run(self):
        self.forward()


class PyTorchTrain(PyTorchForward):
    """Forward, cross-entropy, backward, fused AdamW; nothing else, so the peer does no more than it must."""

    def __init__(self, job, inputs):
        super().__init__(job, inputs)
        outputs = self.network.num_classes
        self.labels = self.torch.arange(len(inputs)) * 97 % outputs
        self.optimizer = self.torch.optim.AdamW(self.network.parameters(), lr=1e-6, weight_decay=0.05, fused=True)

    def freeze(self):
        pass

    def logits(self):
        self.network.eval()
        with self.torch.inference_mode(), self.precision():
            return self.network(self.inputs).float().tolist()

    def run(self):
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        with self.precision():
            loss = self.torch.nn.functional.cross_entropy(self.call(self.inputs), self.labels, label_smoothing=0.1)
        loss.backward()
        self.optimizer.step()
        if not math.isfinite(loss.item()):
            raise BenchError("PyTorch's training loss is not finite.")


class OnnxRuntimeForward:
    """All graph optimisations; in int8 a graph that quantize_dynamic made: activations are quantised while it runs."""

    def __init__(self, job, inputs):
        import onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = job["threads"]
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        graph = job["onnxruntime-int8" if job["dtype"] == "int8" else "graph"]
        self.session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.feeds = {"images": inputs}

    def logits(self):
        return self.session.run(None, self.feeds)[0].tolist()

    def run(self):
        self.session.run(None, self.feeds)


class OpenVinoForward:
    """Latency mode, one stream; bf16 by the inference precision hint, int8 from a graph that NNCF quantised after training."""

    def __init__(self, job, inputs):
        import openvino
        graph = job["openvino-int8" if job["dtype"] == "int8" else "graph"]
        # int8 graphs keep their other operations in f32, as fovea does.
        settings = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": str(job["threads"]),
                    "INFERENCE_PRECISION_HINT": "bf16" if job["dtype"] == "bf16" else "f32"}
        core = openvino.Core()
        self.request = core.compile_model(core.read_model(graph), "CPU", settings).create_infer_request()
        self.inputs = inputs  # which the tensor shares
        self.request.set_input_tensor(openvino.Tensor(self.inputs, shared_memory=True))

    def logits(self):
        self.request.infer()
        return self.request.get_output_tensor(0).data.astype("float32").tolist()

    def run(self):
        self.request.infer()


SYSTEMS = {"pytorch": PyTorchForward, "pytorch-compile": PyTorchForward, "pytorch-train": PyTorchTrain, "pytorch-compile-train": PyTorchTrain,
           "onnxruntime": OnnxRuntimeForward, "openvino": OpenVinoForward}


def burst(system, seconds, min_runs, warmup):
    for _ in range(warmup):
        system.run()
    times, end = [], time.perf_counter() + seconds
    while len(times) < min_runs or time.perf_counter() < end:
        start = time.perf_counter()
        system.run()
        times.append(1e3 * (time.perf_counter() - start))
    return times


def make_system(job):
    if job["system"] == "attention":
        import attention_peers
        system = attention_peers.AttentionPeer(job, None)
        system.save(job["tensors"])
        return system
    import numpy as np
    return SYSTEMS[job["system"]](job, np.array(np.load(job["inputs"], mmap_mode="r")[:job["batch"]]))


def serve(job):
    """The child's loop: one JSON request a line on stdin, one JSON answer a line on stdout."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: a stopped child must not outlive the parent
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to stderr
    try:
        if job["system"] == "export":
            system, answer = None, {"about": peer_exports.export(job)}
        else:
            system, answer = make_system(job), {"ready": True}
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


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))
