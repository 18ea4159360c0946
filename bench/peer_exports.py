"""What all systems of a row start from: weights, images, graphs. Made once and kept; a child process of compare_peers.py runs this."""

import importlib.metadata
import json
import math
import pathlib
import shutil

from peer_rows import BenchError, Model

RECIPE = 2  # raise when the exported weights, inputs or graphs change: older exports are then made anew
PACKAGES = {"pytorch": "torch", "onnxruntime": "onnxruntime", "timm": "timm", "onnx": "onnx", "openvino": "openvino", "nncf": "nncf"}


def version_of(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def model_of(job):
    return Model(**{**job["model"], "vit": tuple(tuple(pair) for pair in job["model"]["vit"])})


def timm_model(model):
    import timm
    if model.vit:
        return timm.models.VisionTransformer(img_size=model.height, in_chans=model.channels, num_classes=model.classes, **dict(model.vit))
    size = {"img_size": (model.height, model.width)} if "swin" in model.name and model.height != model.width else {}
    return timm.create_model(model.name, pretrained=False, num_classes=model.classes, **size)


def make_weights(model, directory):
    import safetensors.torch
    import torch
    network = timm_model(model).eval()
    # Larger than the usual initial weights: with those the logits hardly depend on the image and any answer would pass.
    generator = torch.Generator().manual_seed(20)
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in key and key.endswith("weight"):
                parameter.copy_(1 + 0.1 * noise)
            elif "logit_scale" in key:
                parameter.copy_(math.log(10) + 0.1 * noise)
            elif parameter.ndim == 1 or key.endswith(("pos_embed", "cls_token", "relative_position_bias_table")):
                parameter.copy_(0.1 * noise)
            else:
                parameter.copy_(noise * math.prod(parameter.shape[1:]) ** -0.5)
    parameters = {key: value.contiguous() for key, value in network.named_parameters()}
    safetensors.torch.save_file(parameters, directory / f"{model.name}.safetensors", metadata={"format": "pt"})


def make_images(model, directory):
    """Pictures as large as the model's input, used whole: the comparison then rests on the model, not on anybody's resampling."""
    import numpy as np
    import PIL.Image
    colour = model.channels == 3
    usual = not model.name.startswith("vit")
    mean, std = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)) if usual and colour else ((0.5,) * model.channels,) * 2
    mean, std = (np.array(value, np.float32).reshape(-1, 1, 1) for value in (mean, std))
    rng = np.random.Generator(np.random.PCG64(21))
    side = 8 if model.height > 64 else 4
    inputs = np.empty((model.images, model.channels, model.height, model.width), np.float32)
    for index in range(model.images):
        blocks = rng.integers(0, 256, (model.height // side, model.width // side, model.channels)).repeat(side, axis=0).repeat(side, axis=1)
        pixels = np.clip(blocks + rng.integers(-20, 21, blocks.shape), 0, 255).astype(np.uint8)
        PIL.Image.fromarray(pixels if colour else pixels[..., 0]).save(directory / f"image_{index}.png")
        inputs[index] = (pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(255) - mean) / std
    np.save(directory / "input.npy", inputs)


def load_network(model, weights):
    import safetensors.torch
    network = timm_model(model).eval()
    missing = network.load_state_dict(safetensors.torch.load_file(weights), strict=False)
    if missing.unexpected_keys or set(missing.missing_keys) & {k for k, _ in network.named_parameters()}:
        raise BenchError(f"The exported weights do not fit {model.name}: {missing}.")
    return network


def make_graph(model, directory, batch, path):
    import numpy as np
    import torch
    inputs = torch.from_numpy(np.load(directory / "input.npy")[:batch])
    torch.onnx.export(load_network(model, directory / f"{model.name}.safetensors"), (inputs,), str(path), dynamo=False, opset_version=17,
                      input_names=["images"], output_names=["logits"])


def make_onnxruntime_int8(graph, path):
    import onnxruntime.quantization
    import onnxruntime.quantization.shape_inference
    prepared = path.with_suffix(".prepared.onnx")
    onnxruntime.quantization.shape_inference.quant_pre_process(str(graph), str(prepared), skip_symbolic_shape=True)
    onnxruntime.quantization.quantize_dynamic(str(prepared), str(path), weight_type=onnxruntime.quantization.QuantType.QInt8)
    prepared.unlink()


def make_openvino_int8(directory, graph, batch, path):
    import nncf
    import numpy as np
    import openvino
    inputs = np.load(directory / "input.npy")
    batches = [inputs[begin:begin + batch] for begin in range(0, len(inputs) - batch + 1, batch)]
    quantised = nncf.quantize(openvino.Core().read_model(str(graph)), nncf.Dataset(batches), model_type=nncf.ModelType.TRANSFORMER,
                              preset=nncf.QuantizationPreset.MIXED, subset_size=len(batches))
    openvino.save_model(quantised, str(path), compress_to_fp16=False)


def graph_names(model, batch):
    stem = f"{model.name}_b{batch}"
    return {"graph": f"{stem}.onnx", "onnxruntime-int8": f"{stem}_ort_int8.onnx", "openvino-int8": f"{stem}_ov_int8.xml"}


def export(job):
    """Makes what is not there yet: NAME.safetensors, image_K.png, input.npy and the graphs named in job["want"]. Returns about.json."""
    model, directory = model_of(job), pathlib.Path(job["directory"])
    about = {"recipe": RECIPE, "versions": {key: version_of(value) for key, value in PACKAGES.items()}}
    about_file = directory / "about.json"
    if not about_file.exists() or json.loads(about_file.read_text()) != about:
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        make_weights(model, directory)
        make_images(model, directory)
        about_file.write_text(json.dumps(about))
    names = graph_names(model, job["batch"])
    for what in job["want"]:
        path = directory / names[what]
        if path.exists():
            continue
        graph = directory / names["graph"]
        if what != "graph" and not graph.exists():
            make_graph(model, directory, job["batch"], graph)
        if what == "graph":
            make_graph(model, directory, job["batch"], path)
        elif what == "onnxruntime-int8":
            make_onnxruntime_int8(graph, path)
        else:
            make_openvino_int8(directory, graph, job["batch"], path)
    return about
