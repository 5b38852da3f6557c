"""LiteRT's C API through ctypes: compile a model with kernels for custom operators, run a signature.

The Python package offers no kernels; the struct layouts are those of device/native/litert_api.h.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from ctypes import POINTER, byref, c_char_p, c_int, c_int32, c_size_t, c_uint32, c_void_p
from pathlib import Path
from typing import Any

import ai_edge_litert
import numpy as np
from numpy.typing import NDArray

CPU, GPU, NPU = 1, 2, 4
Array = NDArray[Any]
Kernel = Callable[[list[Array], list[Array]], None]

PACKAGE = Path(ai_edge_litert.__file__).parent
_TYPES = {1: np.float32, 2: np.int32, 9: np.int8}
# Tags of options of an environment, and the type of a text.
_COMPILER_LIBRARY_DIR, _DISPATCH_LIBRARY_DIR, _RUNTIME_LIBRARY_DIR, _STRING = 0, 1, 22, 8


class _Layout(ctypes.Structure):
    _fields_ = (("rank", c_uint32), ("dimensions", c_int32 * 8), ("strides", c_uint32 * 8))

    def shape(self) -> tuple[int, ...]:
        return tuple(self.dimensions[: self.rank & 127])


class _RankedType(ctypes.Structure):
    _fields_ = (("element", c_int), ("layout", _Layout))


class _Value(ctypes.Structure):
    _fields_ = (("type", c_int), ("text", c_char_p))


class _Option(ctypes.Structure):
    _fields_ = (("tag", c_int), ("value", _Value))


_Init = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t)
_Layouts = ctypes.CFUNCTYPE(c_int, c_void_p, c_size_t, POINTER(_Layout), c_size_t, POINTER(_Layout))
_Run = ctypes.CFUNCTYPE(c_int, c_void_p, c_size_t, POINTER(c_void_p), c_size_t, POINTER(c_void_p))
_Destroy = ctypes.CFUNCTYPE(c_int, c_void_p)
_Free = ctypes.CFUNCTYPE(None, c_void_p)


class _KernelTable(ctypes.Structure):
    _fields_ = (("init", _Init), ("layouts", _Layouts), ("run", _Run), ("destroy", _Destroy))


class LiteRtError(Exception):
    """A call of the C API that did not answer 0."""


class Graph:
    """A compiled model.

    `kernels` maps an operator's name to (function of input and output arrays, output shapes); `options` has TOML by the
    identifiers of LiteRT's opaque options; `vendor` is the folder with an NPU's libraries, below the package's vendors.
    """

    def __init__(
        self,
        model: bytes,
        accelerators: int = CPU,
        kernels: Mapping[str, tuple[Kernel, Callable[[list[tuple[int, ...]]], list[tuple[int, ...]]]]] | None = None,
        options: Mapping[str, str] | None = None,
        vendor: str | None = None,
    ) -> None:
        self._library = ctypes.CDLL(str(PACKAGE / "libLiteRt.so"))
        self._keep: list[Any] = [ctypes.create_string_buffer(model, len(model))]
        chosen = c_void_p()
        self._environment, self._model, self._compiled = c_void_p(), c_void_p(), c_void_p()
        folders = {_RUNTIME_LIBRARY_DIR: PACKAGE}
        if vendor is not None:
            libraries = PACKAGE / "vendors" / vendor
            folders |= {_DISPATCH_LIBRARY_DIR: libraries / "dispatch", _COMPILER_LIBRARY_DIR: libraries / "compiler"}
        where = [_Option(tag, _Value(_STRING, str(folder).encode())) for tag, folder in folders.items()]
        self._call("CreateEnvironment", len(where), (_Option * len(where))(*where), byref(self._environment))
        self._call("CreateModelFromBuffer", self._environment, self._keep[0], c_size_t(len(model)), byref(self._model))
        self._call("CreateOptions", byref(chosen))
        self._call("SetOptionsHardwareAccelerators", chosen, accelerators)
        for identifier, toml in (options or {}).items():
            text, free, opaque = ctypes.create_string_buffer(toml.encode()), _Free(lambda _: None), c_void_p()
            self._keep += text, free
            self._call("CreateOpaqueOptions", identifier.encode(), text, free, byref(opaque))
            self._call("AddOpaqueOptions", chosen, opaque)
        for name, (kernel, shapes) in (kernels or {}).items():
            table = self._table(kernel, shapes)
            self._keep.append(table)
            self._call("AddCustomOpKernelOption", chosen, name.encode(), 1, byref(table), None)
        self._call("CreateCompiledModel", self._environment, self._model, chosen, byref(self._compiled))

    def is_fully_accelerated(self) -> bool:
        answer = ctypes.c_bool()
        self._call("CompiledModelIsNonCpuFullyAccelerated", self._compiled, byref(answer))
        return answer.value

    def index(self, name: str) -> int:
        """The number of a signature. For an NPU the model is compiled to another one, which has only those selected."""
        for index in range(self._number("ModelSignatures", self._model)):
            handle, key = c_void_p(), c_char_p()
            self._call("GetModelSignature", self._model, c_size_t(index), byref(handle))
            self._call("GetSignatureKey", handle, byref(key))
            if key.value == name.encode():
                return index
        raise LiteRtError(f"no signature {name}")

    def shapes(self, signature: int, kind: str) -> dict[str, tuple[int, ...]]:
        """The shapes of a signature's "Input" or "Output" ports by name."""
        handle = c_void_p()
        self._call("GetModelSignature", self._model, c_size_t(signature), byref(handle))
        return {name: array.shape for name, (array, _) in self._ports(handle, kind).items()}

    def run(self, signature: int, inputs: Mapping[str, Array]) -> dict[str, Array]:
        handle = c_void_p()
        self._call("GetModelSignature", self._model, c_size_t(signature), byref(handle))
        sources = self._ports(handle, "Input")
        results = self._ports(handle, "Output")
        for name, (array, _) in sources.items():
            array[...] = inputs[name]
        lists = [(c_void_p * len(p))(*(buffer for _, buffer in p.values())) for p in (sources, results)]
        counted = [item for buffers in lists for item in (c_size_t(len(buffers)), buffers)]
        self._call("RunCompiledModel", self._compiled, c_size_t(signature), *counted)
        for _, buffer in [*sources.values(), *results.values()]:
            self._library.LiteRtDestroyTensorBuffer(buffer)
        return {name: array for name, (array, _) in results.items()}

    def run_there(self, signature: int, inputs: Mapping[str, Array], *, in_place: bool) -> dict[str, Array]:
        """As `run`, on buffers of the accelerator. `in_place`: a cache is written where it is read."""
        handle = c_void_p()
        self._call("GetModelSignature", self._model, c_size_t(signature), byref(handle))
        shapes = {kind: self._ports(handle, kind) for kind in ("Input", "Output")}
        buffers: dict[str, dict[str, c_void_p]] = {"Input": {}, "Output": {}}
        for kind, ports in shapes.items():
            for index, (name, (array, host)) in enumerate(ports.items()):
                if kind == "Output" and in_place and name in buffers["Input"]:
                    buffers[kind][name] = buffers["Input"][name]
                    continue
                buffers[kind][name] = self._managed(signature, kind, index, host)
                if kind == "Input":
                    array[...] = inputs[name]
                    self._copy(buffers[kind][name], array, write=True)
        lists = [(c_void_p * len(each))(*each.values()) for each in buffers.values()]
        counted = [item for each in lists for item in (c_size_t(len(each)), each)]
        self._call("RunCompiledModel", self._compiled, c_size_t(signature), *counted)
        for name, (array, _) in shapes["Output"].items():
            self._copy(buffers["Output"][name], array, write=False)
        return {name: array for name, (array, _) in shapes["Output"].items()}

    def _managed(self, signature: int, kind: str, index: int, host: c_void_p) -> c_void_p:
        """A buffer of the type that the accelerator asks for, in the shape of `host`."""
        requirements, type_, size, buffer, ranked = c_void_p(), c_int(), c_size_t(), c_void_p(), _RankedType()
        where = c_size_t(signature), c_size_t(index)
        self._call(f"GetCompiledModel{kind}BufferRequirements", self._compiled, *where, byref(requirements))
        self._call("GetTensorBufferRequirementsSupportedTensorBufferType", requirements, 0, byref(type_))
        self._call("GetTensorBufferRequirementsBufferSize", requirements, byref(size))
        self._call("GetTensorBufferTensorType", host, byref(ranked))
        self._call("CreateManagedTensorBuffer", self._environment, type_, byref(ranked), size, byref(buffer))
        return buffer

    def _copy(self, buffer: c_void_p, array: Array, *, write: bool) -> None:
        memory = c_void_p()
        self._call("LockTensorBuffer", buffer, byref(memory), int(write))
        ends = (memory, c_void_p(array.ctypes.data)) if write else (c_void_p(array.ctypes.data), memory)
        ctypes.memmove(*ends, array.nbytes)
        self._call("UnlockTensorBuffer", buffer)

    def _ports(self, signature: c_void_p, kind: str) -> dict[str, tuple[Array, c_void_p]]:
        ports = {}
        for index in range(self._number(f"Signature{kind}s", signature)):
            name, tensor, buffer, ranked = c_char_p(), c_void_p(), c_void_p(), _RankedType()
            self._call(f"GetSignature{kind}Name", signature, c_size_t(index), byref(name))
            self._call(f"GetSignature{kind}TensorByIndex", signature, c_size_t(index), byref(tensor))
            self._call("GetRankedTensorType", tensor, byref(ranked))
            array = _aligned(ranked.layout.shape(), _TYPES[ranked.element])
            size = c_size_t(array.nbytes)
            memory = c_void_p(array.ctypes.data)
            self._call("CreateTensorBufferFromHostMemory", byref(ranked), memory, size, None, byref(buffer))
            assert name.value is not None
            ports[name.value.decode()] = (array, buffer)
        return ports

    def _table(self, kernel: Kernel, shapes: Callable[[list[tuple[int, ...]]], list[tuple[int, ...]]]) -> _KernelTable:
        def layouts(_user: Any, n_in: int, given: Any, n_out: int, answer: Any) -> int:
            for index, shape in enumerate(shapes([given[i].shape() for i in range(n_in)])[:n_out]):
                answer[index].rank = len(shape)
                answer[index].dimensions[: len(shape)] = shape
            return 0

        def run(_user: Any, n_in: int, sources: Any, n_out: int, results: Any) -> int:
            buffers = [(sources[i], 0) for i in range(n_in)] + [(results[i], 1) for i in range(n_out)]
            arrays = [self._lock(buffer, mode) for buffer, mode in buffers]
            kernel(arrays[:n_in], arrays[n_in:])
            for buffer, _ in buffers:
                self._library.LiteRtUnlockTensorBuffer(c_void_p(buffer))
            return 0

        return _KernelTable(_Init(lambda *_: 0), _Layouts(layouts), _Run(run), _Destroy(lambda *_: 0))

    def _lock(self, buffer: int, mode: int) -> Array:
        ranked, memory = _RankedType(), c_void_p()
        self._call("GetTensorBufferTensorType", c_void_p(buffer), byref(ranked))
        self._call("LockTensorBuffer", c_void_p(buffer), byref(memory), mode)
        assert memory.value is not None
        shape, dtype = ranked.layout.shape(), _TYPES[ranked.element]
        raw = (ctypes.c_char * (int(np.prod(shape)) * 4)).from_address(memory.value)
        return np.frombuffer(raw, dtype).reshape(shape)

    def _number(self, what: str, of: c_void_p) -> int:
        count = c_size_t()
        self._call(f"GetNum{what}", of, byref(count))
        return count.value

    def _call(self, function: str, *arguments: Any) -> None:
        status = getattr(self._library, f"LiteRt{function}")(*arguments)
        if status != 0:
            raise LiteRtError(f"{function}: status {status}")


def _aligned(shape: tuple[int, ...], dtype: type) -> Array:
    """Zeros that LiteRt accepts as a buffer: at a multiple of 64 bytes."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.zeros(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(dtype).reshape(shape)
