#!/usr/bin/env python3
"""Writes tests/fixtures/weights/*: tiny files laid out as torch.save lays them out, made without PyTorch, and NumPy's own .npz.

Values are simple on purpose: element i of a storage is i (booleans: i odd), so that the tests can say what they expect.

    tools/make_weight_fixtures.py tests/fixtures/weights
"""
import collections
import io
import pathlib
import pickle
import struct
import sys
import tarfile
import types
import zipfile

FORMATS = {"FloatStorage": "f", "DoubleStorage": "d", "HalfStorage": "e", "LongStorage": "q", "IntStorage": "i",
           "ShortStorage": "h", "CharStorage": "b", "ByteStorage": "B", "BoolStorage": "?"}


def stub(module, name):
    """A class that pickles as module.name; the module need not exist."""
    cls = type(name, (), {"__module__": module})
    parts = module.split(".")
    for n in range(1, len(parts) + 1):
        sys.modules.setdefault(".".join(parts[:n]), types.ModuleType(".".join(parts[:n])))
    setattr(sys.modules[module], name, cls)
    return cls


STORAGES = {name: stub("torch", name) for name in [*FORMATS, "BFloat16Storage"]}
UNTYPED = stub("torch.storage", "UntypedStorage")
UINT16 = stub("torch", "uint16")
REBUILD = stub("torch._utils", "_rebuild_tensor_v2")
REBUILD_V3 = stub("torch._utils", "_rebuild_tensor_v3")
REBUILD_V1 = stub("torch._utils", "_rebuild_tensor")
REBUILD_FROM_TYPE = stub("torch._tensor", "_rebuild_from_type_v2")
PARAMETER = stub("torch.nn.parameter", "Parameter")
REBUILD_PARAMETER = stub("torch._utils", "_rebuild_parameter")
SIZE = stub("torch", "Size")
CONFIG = stub("yacs.config", "CfgNode")
LINEAR = stub("torch.nn.modules.linear", "Linear")
SEQUENTIAL = stub("torch.nn.modules.container", "Sequential")


class Storage:
    def __init__(self, kind, count):
        self.kind, self.count = kind, count

    def data(self):
        if self.kind == "BFloat16Storage":
            return b"".join(struct.pack("<f", i)[2:] for i in range(self.count))
        if self.kind == "UntypedStorage":
            return struct.pack(f"<{self.count // 2}H", *range(self.count // 2))
        values = [i % 2 == 1 for i in range(self.count)] if self.kind == "BoolStorage" else range(self.count)
        return struct.pack(f"<{self.count}{FORMATS[self.kind]}", *values)


class Call:
    """Pickles as a call of `function` with `arguments`."""
    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


def contiguous(shape):
    strides, step = [], 1
    for d in reversed(shape):
        strides.insert(0, step)
        step *= d
    return tuple(strides)


def tensor(shape, kind="FloatStorage", storage=None, offset=0, strides=None):
    count = 1
    for d in shape:
        count *= d
    return Call(REBUILD, storage or Storage(kind, count), offset, tuple(shape),
                contiguous(shape) if strides is None else strides, False, collections.OrderedDict())


def save(path, content, protocol=2, compression=zipfile.ZIP_STORED, byteorder=b"little"):
    storages = []

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            if not isinstance(obj, Storage):
                return None
            if obj not in storages:
                storages.append(obj)
            cls = UNTYPED if obj.kind == "UntypedStorage" else STORAGES[obj.kind]
            return ("storage", cls, str(storages.index(obj)), "cuda:0", obj.count)

    stream = io.BytesIO()
    Pickler(stream, protocol).dump(content)
    with zipfile.ZipFile(path, "w") as archive:
        def add(name, data):
            info = zipfile.ZipInfo(f"{path.stem}/{name}")
            info.compress_type = compression
            archive.writestr(info, data)
        add("data.pkl", stream.getvalue())
        add("byteorder", byteorder)
        for key, storage in enumerate(storages):
            add(f"data/{key}", storage.data())
        add("version", b"3\n")


def save_legacy(path, content, protocol=2, little_endian=True):
    """As torch.save wrote before PyTorch 1.6 (torch/serialization.py, _legacy_save)."""
    storages, classes = {}, []

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            if isinstance(obj, type) and obj in (LINEAR, SEQUENTIAL) and obj not in classes:
                classes.append(obj)
                return ("module", obj, "file.py", "the source")
            if isinstance(obj, View):
                return self.persistent_id(obj.root)[:5] + ((f"{id(obj)}", obj.first, obj.count),)
            if not isinstance(obj, Storage):
                return None
            key = next((k for k, s in storages.items() if s is obj), None) or str(94000000000000 + 16 * len(storages))
            storages[key] = obj
            cls = UNTYPED if obj.kind == "UntypedStorage" else STORAGES[obj.kind]
            return ("storage", cls, key, "cpu", obj.count, None)

    with open(path, "wb") as file:
        pickle.dump(0x1950a86a20f9469cfc6c, file, protocol)
        pickle.dump(1001, file, protocol)
        pickle.dump({"protocol_version": 1001, "little_endian": little_endian, "type_sizes": {"short": 2, "int": 4, "long": 4}}, file, protocol)
        Pickler(file, protocol).dump(content)
        keys = sorted(storages)
        pickle.dump(keys, file, protocol)
        for key in keys:
            file.write(struct.pack("<q", storages[key].count) + storages[key].data())


class View:
    """A view of a storage, as PyTorch before 0.4 saved them."""
    def __init__(self, root, first, count):
        self.root, self.first, self.count = root, first, count


def save_tar(path, entries):
    """As torch.save wrote in PyTorch 0.1, without the content."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name in entries:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = 3, 0.5
            archive.addfile(info, io.BytesIO(b"abc"))
    path.write_bytes(path.read_bytes().rstrip(b"\0"))


def module(cls, parameters=(), modules=()):
    obj = cls()
    obj.training = False
    obj._parameters = collections.OrderedDict(parameters)
    obj._buffers = collections.OrderedDict()
    obj._modules = collections.OrderedDict(modules)
    return obj


def main(folder):
    state = collections.OrderedDict
    shapes = {"FloatStorage": (2, 3), "DoubleStorage": (4,), "HalfStorage": (3, 1), "BFloat16Storage": (5,), "LongStorage": (2, 2),
              "IntStorage": (3,), "ShortStorage": (3,), "CharStorage": (3,), "ByteStorage": (3,), "BoolStorage": (4,)}
    every_type = state((kind, tensor(shape, kind)) for kind, shape in shapes.items())
    save(folder / "every_type.pt", every_type)
    save(folder / "every_type_protocol4.pt", every_type, protocol=4)
    save(folder / "deflated.pt", every_type, compression=zipfile.ZIP_DEFLATED)
    save(folder / "big_endian.pt", state(a=tensor((2,))), byteorder=b"big")

    save_legacy(folder / "legacy_every_type.pt", every_type)
    save_legacy(folder / "legacy_protocol4.pt", every_type, protocol=4)
    save_legacy(folder / "legacy_protocol1.pt", every_type, protocol=1)
    save_legacy(folder / "legacy_big_endian.pt", every_type, little_endian=False)
    save_tar(folder / "torch_tar.pt", ["sys_info", "storages", "tensors", "pickle"])

    shared = Storage("FloatStorage", 24)
    views = state([
        ("whole", tensor((2, 3, 4), storage=shared)),
        ("permuted", tensor((4, 2, 3), storage=shared, strides=(1, 12, 4))),
        ("tail", tensor((2, 2), storage=shared, offset=20)),
        ("every_other", tensor((3,), storage=shared, offset=1, strides=(2,))),
        ("expanded", tensor((2, 3), storage=shared, offset=5, strides=(0, 0))),
        ("scalar", tensor((), storage=shared, offset=7)),
        ("column", tensor((3, 1), storage=shared, strides=(8, 99))),
        ("empty", tensor((0, 5))),
        ("sized", Call(REBUILD, shared, 0, Call(SIZE, (2, 2)), (2, 1), False, state())),
        ("parameter", Call(REBUILD_PARAMETER, tensor((2,)), True, state())),
        ("untyped", Call(REBUILD_V3, Storage("UntypedStorage", 6), 0, (3,), (1,), False, state(), UINT16, state())),
        ("parameter_of_old", Call(PARAMETER, tensor((2,)))),
        ("parameter_subclass", Call(REBUILD_FROM_TYPE, REBUILD, PARAMETER, (shared, 3, (2,), (1,), False, state()), {})),
        ("version1", Call(REBUILD_V1, shared, 4, (2,), (1,))),
    ])
    save(folder / "views.pt", views)
    save_legacy(folder / "legacy_views.pt", state([*views.items(), ("storage_view", tensor((2, 2), storage=View(shared, 4, 6), offset=1))]))

    config = CONFIG()
    config.lr = 0.1
    weights = state([("module.head.weight", tensor((2, 3))), ("module.head.bias", tensor((2,)))])
    save(folder / "wrapped.pt", {"model": weights, "optimizer": {"state": {0: {"exp_avg": tensor((2, 3))}}, "param_groups": [{"lr": 1e-3}]},
                                 "epoch": 7, "arch": "vit_tiny", "best": 0.5, "config": config})
    save(folder / "averaged.pt", {"state_dict": state(w=tensor((2,))), "state_dict_ema": state(w=tensor((3,)))})
    save(folder / "nested.pt", {"encoder": {"layer": {0: tensor((2,)), 1: {"bias": tensor((1,))}}}, "parts": [tensor((3,)), None]})
    whole = module(SEQUENTIAL, modules=[
        ("0", module(LINEAR, parameters=[("weight", tensor((2, 3))), ("bias", None)])), ("1", module(LINEAR, parameters=[("weight", tensor((1, 2)))]))])
    save(folder / "module.pt", whole)
    save_legacy(folder / "legacy_module.pt", whole)

    def network(prefix, size):
        return state([(f"{prefix}backbone.w", tensor((size,))), (f"{prefix}head.w", tensor((1,)))])

    save(folder / "distilled.pt", {"student": network("module.", 2), "teacher": network("", 3), "optimizer": {"m": tensor((2,))}, "epoch": 9})
    save_legacy(folder / "legacy_student.pt", {"student": network("module.", 2), "epoch": 9})
    save(folder / "both.pt", {"epoch": tensor(()), "model": state(w=tensor((2,))), "model_ema": {"module": state(w=tensor((3,)))},
                              "state_dict": state(w=tensor((4,)))})
    save(folder / "swa.pt", state([("n_averaged", tensor((), "LongStorage")), ("module._orig_mod.w", tensor((2,)))]))
    save(folder / "lightning.pt", {"state_dict": state([("model.w", tensor((2,))), ("model.b", tensor((1,)))]), "global_step": 3})

    numpy_arrays(folder)


def numpy_arrays(folder):
    import numpy

    def counting(shape, dtype="<f4"):
        return numpy.arange(numpy.prod(shape, dtype=int)).reshape(shape).astype(dtype)

    every_type = {dtype[1:]: counting((2, 3), dtype) for dtype in
                  ["<f2", "<f4", "<f8", "<i1", "<i2", "<i4", "<i8", "<u1", "<u2", "<u4", "<u8"]}
    every_type["b1"] = counting((2, 3)) % 2 == 1
    every_type["V2"] = (counting((2, 3)).view("<u4") >> 16).astype("<u2").view("V2")  # bfloat16, as JAX leaves it to NumPy
    arrays = {
        "Transformer/encoderblock_0/MlpBlock_3/Dense_0/kernel": counting((2, 3, 4)),
        "fortran": numpy.asfortranarray(counting((2, 3, 4))),
        "large": counting((40, 30)),  # stays where it lies in the file
        "large_fortran": numpy.asfortranarray(counting((40, 30))),
        "scalar": numpy.float32(7),
        "empty": numpy.zeros((0, 5), "<f4"),
        "empty_fortran": numpy.zeros((5, 0), "<f4", order="F"),
    }
    numpy.savez(folder / "every_type.npz", **every_type)
    numpy.savez(folder / "arrays.npz", **arrays)
    numpy.savez_compressed(folder / "arrays_deflated.npz", **arrays)
    numpy.savez(folder / "big_endian.npz", big=counting((3,), ">f4"))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
