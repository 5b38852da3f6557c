"""device/native/constraint.h through ctypes: a test library that is built with the grammar engine."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from native_build import BUILD, NATIVE, ROOT, built
from numpy.typing import NDArray


class RefusalError(Exception):
    """An `Error` of the native code."""


@cache
def library() -> Native:
    """The test library.

    Its grammar engine is that of the package's own build, where this checkout has one. Else it is built, which takes a
    minute or two and the network.
    """
    options = ["-DCMAKE_BUILD_TYPE=Release", "-DEDGE_MTP_TESTS=ON", *engine_of_the_package()]
    return Native(built(ROOT, BUILD / "constraint", "edge_mtp_constraint_test_lib", *options))


def engine_of_the_package() -> list[str]:
    """CMake's options for the engine that `pip install` has built, unless that is older than what it is made by."""
    for engine in ROOT.glob("build/cp*/device/native/libxgrammar.a"):
        sources = [*engine.parents[2].glob("_deps/xgrammar/xgrammar-*/.unpacked")]
        if sources and engine.stat().st_mtime > (NATIVE / "xgrammar.cmake").stat().st_mtime:
            return [f"-DXGRAMMAR_LIBRARY={engine}", f"-DXGRAMMAR_SOURCE_DIR={sources[0].parent}"]
    return ["-DXGRAMMAR_LIBRARY=", "-DXGRAMMAR_SOURCE_DIR="]


class Native:
    """The loaded library."""

    def __init__(self, path: Path) -> None:
        library = ctypes.CDLL(str(path))
        library.edge_test_error.restype = ctypes.c_char_p
        for name in ("tokens", "compiler", "constraint"):
            getattr(library, f"edge_test_{name}").restype = ctypes.c_void_p
        library.edge_test_tokens_text.restype = ctypes.c_size_t
        self.library = library

    def tokens(self, table: bytes) -> Tokens:
        return Tokens(self, table)

    def checked(self, result: Any, failed: Any) -> Any:
        if result == failed:
            raise RefusalError(self.library.edge_test_error().decode())
        return result


class Tokens:
    """A token-bytes table as the native code reads it."""

    def __init__(self, native: Native, table: bytes) -> None:
        self.native = native
        self.pointer = native.checked(native.library.edge_test_tokens(table, ctypes.c_size_t(len(table))), None)
        self.vocabulary = int(native.library.edge_test_tokens_vocabulary(ctypes.c_void_p(self.pointer)))

    def __del__(self) -> None:
        if hasattr(self, "pointer"):
            self.native.library.edge_test_tokens_free(ctypes.c_void_p(self.pointer))

    def compiler(self, stop: Sequence[int]) -> Compiler:
        return Compiler(self, stop)

    def text(self, token: int) -> bytes:
        text = ctypes.c_void_p()
        size = self.native.library.edge_test_tokens_text(ctypes.c_void_p(self.pointer), token, ctypes.byref(text))
        return ctypes.string_at(text, size) if size else b""

    def special(self, token: int) -> bool:
        return bool(self.native.library.edge_test_tokens_special(ctypes.c_void_p(self.pointer), token))


class Compiler:
    """A GrammarCompiler."""

    def __init__(self, tokens: Tokens, stop: Sequence[int]) -> None:
        self.tokens = tokens
        self.native = tokens.native
        ids = (ctypes.c_int32 * len(stop))(*stop)
        pointer = self.native.library.edge_test_compiler(
            ctypes.c_void_p(tokens.pointer), ids, ctypes.c_size_t(len(stop))
        )
        self.pointer = self.native.checked(pointer, None)

    def __del__(self) -> None:
        if hasattr(self, "pointer"):
            self.native.library.edge_test_compiler_free(ctypes.c_void_p(self.pointer))

    def constraint(self, grammar: str | bytes) -> Constraint:
        return Constraint(self, grammar.encode() if isinstance(grammar, str) else grammar)


class Constraint:
    """A Constraint."""

    def __init__(self, compiler: Compiler, grammar: bytes) -> None:
        self.native = compiler.native
        self.vocabulary = compiler.tokens.vocabulary
        pointer = self.native.library.edge_test_constraint(
            ctypes.c_void_p(compiler.pointer), grammar, ctypes.c_size_t(len(grammar))
        )
        self.pointer = self.native.checked(pointer, None)

    def __del__(self) -> None:
        if hasattr(self, "pointer"):
            self.native.library.edge_test_constraint_free(ctypes.c_void_p(self.pointer))

    def _call(self, name: str, *arguments: Any) -> int:
        function = getattr(self.native.library, f"edge_test_{name}")
        return int(self.native.checked(function(ctypes.c_void_p(self.pointer), *arguments), -1))

    def mask(self) -> NDArray[np.bool_]:
        """Whether each token is allowed, bool [vocabulary]; the bits behind the last token are checked to be 0."""
        words = np.full((self.vocabulary + 31) // 32, -1, np.int32)
        self._call("mask", ctypes.c_void_p(words.ctypes.data))
        bits = np.unpackbits(words.view(np.uint8), bitorder="little").astype(bool)
        assert not bits[self.vocabulary :].any()
        return bits[: self.vocabulary]

    def allowed(self) -> list[int]:
        return [int(token) for token in np.flatnonzero(self.mask())]

    def accept(self, token: int) -> bool:
        return bool(self._call("accept", token))

    def rollback(self, count: int) -> None:
        self._call("rollback", count)

    def forced(self, most: int = 64) -> list[int]:
        tokens = (ctypes.c_int32 * max(most, 1))()
        return list(tokens[: self._call("forced", most, tokens)])

    @property
    def finished(self) -> bool:
        return bool(self._call("finished"))
