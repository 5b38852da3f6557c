"""Bundles made to harm: what they hold never steers a terminal, and work and memory are bounded by their size."""

from __future__ import annotations

import json
import random
import resource
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import flatbuffers
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic_bundle import Graph, Parts

from edge_mtp.cli import main
from edge_mtp.formats.bundle import Bundle
from edge_mtp.formats.metadata import MOST_STOPS, LlmMetadata
from edge_mtp.formats.wire import MalformedError

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp\r"
STEERS = set("\x1b\x07\x9b\u202e\r")


def inspected(path: Path, *options: str) -> str:
    result = CliRunner().invoke(main, ["inspect", str(path), *options])
    assert isinstance(result.exception, SystemExit | None), result.exception
    return result.output + result.stderr


# -- terminal -------------------------------------------------------------------------------------------------------


def test_names_and_metadata_cannot_steer_the_terminal(tmp_path: Path) -> None:
    parts = Parts(chat_template=EVIL, manifest=json.dumps({"edge_mtp": 1, EVIL: EVIL}, ensure_ascii=False).encode())
    parts.prefill_decode[EVIL] = Graph({EVIL: "f32[1]"}, {f"{EVIL}out": "f32[1]"}, [EVIL])
    path = parts.write(tmp_path / "evil.litertlm")
    for options in ((), ("--json",)):
        text = inspected(path, *options)
        assert "owned" in text
        assert not STEERS & set(text)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(number=st.integers(0, 1 << 40))
def test_a_damaged_bundle_is_one_line_without_controls(number: int, synthetic_bundle: Path, tmp_path: Path) -> None:
    """Bytes that steer terminals, and others, anywhere in a bundle."""
    rng = random.Random(number)
    data = bytearray(synthetic_bundle.read_bytes())
    used = [at for at, byte in enumerate(data) if byte]
    for _ in range(rng.choice([1, 4, 40])):
        data[rng.choice(used)] = rng.choice([0x1B, 0x9B, 0x07, 0xFF, rng.randrange(256)])
    path = tmp_path / "damaged.litertlm"
    path.write_bytes(data)
    for options in ((), ("--json",)):
        result = CliRunner().invoke(main, ["inspect", str(path), *options])
        assert isinstance(result.exception, SystemExit | None), result.exception
        assert result.exit_code in (0, 1)
        assert not STEERS & set(result.output)
        if result.exit_code:
            assert result.stderr.count("\n") == 1


# -- work and memory ------------------------------------------------------------------------------------------------


def header(build: Callable[[flatbuffers.Builder], int]) -> bytes:
    builder = flatbuffers.Builder(0)
    builder.Finish(build(builder))
    data = bytes(builder.Output())
    return b"LITERTLM" + struct.pack("<IIIIQ", 1, 7, 0, 0, 32 + len(data)) + data


def of_many(sections: int, items: int, text: int) -> bytes:
    """A header whose sections all are one section, of items that all are one item, with one long key."""

    def table(builder: flatbuffers.Builder, slots: dict[int, int], at: int = 0) -> int:
        builder.StartObject(4)
        builder.PrependUint64Slot(1, at, 0) if at else None
        builder.PrependUint64Slot(2, at, 0) if at else None
        for slot, offset in slots.items():
            builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
        return builder.EndObject()

    def vector(builder: flatbuffers.Builder, offset: int, count: int) -> int:
        builder.StartVector(4, count, 4)
        for _ in range(count):
            builder.PrependUOffsetTRelative(offset)
        return builder.EndVector()

    def build(builder: flatbuffers.Builder) -> int:
        pair = table(builder, {0: builder.CreateString("k" * text)})
        section = table(builder, {0: vector(builder, pair, items)}, at=32)
        return table(builder, {1: table(builder, {0: vector(builder, section, sections)})})

    return header(build)


# What reads a bundle, in a process of its own, with so much memory and so much time of a processor.
BOUNDED = """
import resource, sys
from edge_mtp.cli import main
main(["inspect", sys.argv[1]])
"""


def bounded(path: Path, seconds: int, megabytes: int) -> subprocess.CompletedProcess[str]:
    def limits() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))

    return subprocess.run(
        [sys.executable, "-c", BOUNDED, str(path)], preexec_fn=limits, capture_output=True, text=True, timeout=600
    )


@pytest.mark.parametrize(
    ("sections", "items", "text"), [(6_000, 6_000, 1), (20_000, 20_000, 1), (300, 300, 40_000), (120_000, 120_000, 9)]
)
def test_a_header_that_lists_more_than_it_holds_is_refused(
    sections: int, items: int, text: int, tmp_path: Path
) -> None:
    path = tmp_path / "many.litertlm"
    path.write_bytes(of_many(sections, items, text))
    done = bounded(path, 30, 700)
    assert done.returncode == 1
    assert "more than they can hold" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_header_may_share_what_writers_share(tmp_path: Path) -> None:
    path = tmp_path / "few.litertlm"
    path.write_bytes(of_many(2, 3, 12))
    assert len(Bundle(path).sections) == 2


def test_a_tokenizer_that_inflates_without_end_is_refused(tmp_path: Path) -> None:
    text = b" " * (256 << 20)
    packed = struct.pack("<Q", len(text)) + zlib.compress(text, 9)
    assert len(packed) < 300_000
    path = with_tokenizer(tmp_path, packed)
    done = bounded(path, 30, 700)
    assert done.returncode == 1
    assert f"tokenizer.json of {len(text)} bytes" in done.stderr


def test_a_tokenizer_that_states_less_than_it_inflates_to_is_refused(tmp_path: Path) -> None:
    text = b" " * (256 << 20)
    done = bounded(with_tokenizer(tmp_path, struct.pack("<Q", 1000) + zlib.compress(text, 9)), 30, 700)
    assert done.returncode == 1
    assert "is not the 1000 bytes that it states" in done.stderr


def with_tokenizer(folder: Path, packed: bytes) -> Path:
    """A bundle with this tokenizer section in the place of its own, and room for it."""
    path = Parts(chat_template="x" * len(packed)).write(folder / "bomb.litertlm")
    bundle = Bundle(path)
    metadata, tokenizer = bundle.section("LlmMetadata"), bundle.section("HF_Tokenizer")
    assert metadata is not None
    assert tokenizer is not None
    data = bytearray(path.read_bytes())
    # The header's entries of the two, by what they hold.
    for old, new in (((tokenizer.begin, tokenizer.end), (metadata.begin, metadata.begin + len(packed))),):
        at = data.index(struct.pack("<Q", old[1]))
        data[at : at + 8] = struct.pack("<Q", new[1])
        at = data.index(struct.pack("<Q", old[0]), 32)
        data[at : at + 8] = struct.pack("<Q", new[0])
    data[metadata.begin : metadata.begin + len(packed)] = packed
    path.write_bytes(data)
    return path


def test_stop_tokens_without_end_are_refused() -> None:
    with pytest.raises(MalformedError, match="stop tokens are more than"):
        LlmMetadata.parse(b"\x12\x00" * (MOST_STOPS + 1))
    assert len(LlmMetadata.parse(b"\x12\x00" * MOST_STOPS).stop_tokens) == MOST_STOPS


def test_a_token_id_is_no_more_than_an_int32() -> None:
    for number in (1 << 31, (1 << 64) - 1):
        varint = bytearray()
        while number >= 0x80:
            varint.append(number & 0x7F | 0x80)
            number >>= 7
        varint.append(number)
        ids = b"\x08" + bytes(varint)
        union = b"\x0a" + bytes([len(ids)]) + ids
        with pytest.raises(MalformedError, match="is no token id"):
            LlmMetadata.parse(b"\x0a" + bytes([len(union)]) + union)
