"""Converted pieces that are kept: when they are used again, and that nobody can tell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("litert_torch")

from edge_mtp.export import convert, flatbuffer, layer_cache, models
from edge_mtp.export.checkpoint import open_pair, tiny_pair
from edge_mtp.export.convert import Signature
from edge_mtp.export.layers import Columns, Embedder, Piece
from edge_mtp.export.options import Options
from edge_mtp.export.recipes import RECIPES


def signature(name: str, piece: Piece) -> Signature:
    return Signature(name, piece, piece.sample())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "edge-mtp" / "pieces"


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The classes of the pieces that were converted, in order."""
    seen: list[str] = []
    original = convert.conversion

    @contextmanager
    def counted(report: Callable[[], None]) -> Iterator[Callable[[Signature], bytes]]:
        with original(report) as one:

            def convert(signature: Signature) -> bytes:
                seen.append(type(signature.module).__name__)
                return one(signature)

            yield convert

    monkeypatch.setattr(convert, "conversion", counted)
    return seen


def joined(*traced: Signature) -> bytes:
    reports: list[None] = []
    model = layer_cache.converted(traced, lambda: reports.append(None)).model()
    assert len(reports) == 2 * len(traced)
    assert [each.signatureKey.decode() for each in model.signatureDefs] == [each.name for each in traced]
    return flatbuffer.serialize(model)


def test_a_kept_piece_is_the_converted_one(folder: Path, conversions: list[str]) -> None:
    pieces = [signature("a", Columns(2)), signature("b", Embedder("w", 32, (8,))), signature("c", Columns(2))]
    first = joined(*pieces)
    assert conversions == ["Columns", "Embedder"]  # of the same piece under two names one
    assert joined(*pieces) == first
    assert len(conversions) == 2
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("harm", [lambda path: path.write_bytes(b"x"), lambda path: path.write_bytes(b"")])
def test_a_damaged_piece_is_converted_anew(
    folder: Path, conversions: list[str], harm: Callable[[Path], object]
) -> None:
    first = joined(signature("a", Columns(1)))
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    harm(path)
    assert joined(signature("a", Columns(1))) == first
    assert conversions == ["Columns"] * 2
    assert path.read_bytes() == whole


def test_what_was_converted_before_an_interrupt_is_kept(
    folder: Path, conversions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = [signature("a", Columns(1)), signature("b", Columns(2))]
    reports = 0

    def report() -> None:
        nonlocal reports
        reports += 1
        if reports == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        layer_cache.converted(pieces, report)
    assert len(list(folder.iterdir())) == 1
    joined(*pieces)
    assert len(conversions) == 3


def test_the_oldest_are_dropped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_cache, "KEPT", 1)
    joined(signature("a", Columns(1)))
    (first,) = folder.iterdir()
    joined(signature("a", Columns(2)))
    assert list(folder.iterdir()) != [first]
    assert len(list(folder.iterdir())) == 1


def descriptions(context: int = 512, kv: str = "int8") -> dict[str, str]:
    """By name those of the tiny pair's pieces."""
    options = Options(context, (16, 128), (2, 5), ("cpu",), kv, RECIPES["fp32"])
    sections = models.graphs_of(open_pair(*tiny_pair()), options).sections()
    return {each.name: layer_cache.described(each) for section in sections.values() for each in section.traced()}


def test_a_description_tells_pieces_apart() -> None:
    found = descriptions()
    assert len(set(found.values())) == len(found)
    for changed in (descriptions(context=513), descriptions(kv="fp32")):
        same = {name for name, text in found.items() if changed.get(name) == text}
        assert {"embedder", "head_1", "select_11", "columns_4", "draft_out"} <= same
        other = {"layer_0_used_1", "layer_0_used_11", "layer_0_whole_1", "draft_begin_whole"}
        assert other <= found.keys() - same


def test_constants_of_a_module_within_are_described() -> None:
    """Rotations are tables of as many rows as the context needs, in a module of their own."""
    found, longer = descriptions(kv="fp32"), descriptions(context=1024, kv="fp32")
    assert found["begin_used_1"] != longer["begin_used_1"]
    assert "far_swapped" in found["begin_used_1"]


def test_a_description_is_the_same_in_every_process() -> None:
    text = "".join(descriptions().values())
    assert "frozenset" not in text  # its order is that of a process's own hashes
    assert " at 0x" not in text
