"""A bundle: one `.litertlm` file, mapped into memory and read on demand.

Container: 8 bytes `LITERTLM`, three u32 of version, 4 of padding, u64 end of header, then a FlatBuffers
header from byte 32 that lists the sections, each aligned to 16 KiB (LiteRT-LM `litertlm_header_schema.fbs`).
"""

from __future__ import annotations

import mmap
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike, fspath

from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.manifest import EDGE_KEY, MANIFEST_VERSION, Manifest, read_manifest
from edge_mtp.formats.metadata import LlmMetadata
from edge_mtp.formats.tflite import Model, Signature
from edge_mtp.formats.token_bytes import TokenBytes
from edge_mtp.formats.wire import MalformedError, Table, json_value, protobuf_fields

MAGIC = b"LITERTLM"
MAJOR_VERSION = 1
HEADER_BEGIN = 32

SECTION_TYPES = {
    1: "GenericBinaryData", 3: "TFLiteModel", 4: "SP_Tokenizer", 5: "LlmMetadata", 6: "HF_Tokenizer",
    7: "TFLiteWeights", 8: "EmbeddingMetadata", 9: "ExecutorMetadata", 10: "TtsMetadata", 11: "AsrMetadata",
}  # fmt: skip

# Union member of a header value -> `struct` character; 9 is a string.
VALUE_CODES = {1: "B", 2: "b", 3: "H", 4: "h", 5: "I", 6: "i", 7: "f", 8: "?", 10: "Q", 11: "q", 12: "d"}
STRING_VALUE = 9


# Bytes of tokenizer.json for each one stored. Gemma's of 33 MB has 7, a text of zeros 1,000; parsing takes ten more.
MOST_INFLATED = 32

# Our own signatures are in a section for each accelerator, so that a runner loads those that it runs. An item names the
# accelerator: others use sections of these types for their own purposes, and the stock engine reads none of them for a
# language model on CPU or GPU. They have no weights: their buffers point into the TFLite sections that follow them. In
# older bundles one section, marked `GRAPHS`, has the signatures for all; in still older ones prefill_decode has them.
GRAPHS_SECTIONS = {"cpu": "aux", "gpu": "mtp_aux", "npu": "text_encoder"}
GRAPHS = "graphs"
# Accelerators, and how the names of signatures for them begin.
PREFIXES = {"cpu": "edge_", "gpu": "gpu_", "npu": "npu_"}

Value = int | float | str | None


@dataclass(frozen=True)
class Section:
    """Bytes `begin`..`end` of the file. `model_type` is without its `tf_lite_` prefix."""

    index: int
    type: str
    model_type: str | None
    begin: int
    end: int
    items: dict[str, Value]
    data: memoryview = field(repr=False, compare=False)

    @property
    def size(self) -> int:
        return self.end - self.begin

    def __str__(self) -> str:
        return f"section {self.index} ({self.model_type or self.type})"


@dataclass(frozen=True)
class Mtp:
    """Whether the bundle can decode speculatively, and if not, why.

    `missing` lists the reasons why the stock LiteRT-LM runtime cannot draft with it, `edge_missing` the reasons why our
    runner cannot use its own signatures; each is one line, and an empty list means complete. `draft_length` is the
    stock K (verify width - 1), `edge_widths` the T of each `edge_verify_T`.
    """

    present: bool
    draft_length: int | None
    edge_widths: tuple[int, ...]
    missing: tuple[str, ...]
    edge_missing: tuple[str, ...]

    @property
    def complete(self) -> bool:
        return not self.missing

    @property
    def edge_complete(self) -> bool:
        return not self.missing and not self.edge_missing


class Bundle:
    """A `.litertlm` file. Opening it reads the header; everything else is read on first use.

    Args:
        path: the file; it stays mapped while the bundle or any of its memoryviews lives.

    Raises:
        EdgeMtpError: here and from every property, if the file is missing, not a bundle, truncated or damaged.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = fspath(path)
        try:
            with open(self.path, "rb") as file:
                self._data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except ValueError:
            raise EdgeMtpError(f"{self.path}: the file is empty, not a bundle; copy or export it again") from None
        except OSError as error:
            raise EdgeMtpError(f"{self.path}: {error.strerror}; give the path of a .litertlm bundle") from error
        if bytes(self._data[:8]) != MAGIC:
            start = bytes(self._data[:8])
            raise EdgeMtpError(f"{self.path}: not a .litertlm bundle, it starts with {start!r}; check the path")
        if len(self._data) < HEADER_BEGIN:
            raise self._truncated("its fixed header", HEADER_BEGIN)
        self.version: tuple[int, int, int] = struct.unpack_from("<III", self._data, 8)
        if self.version[0] != MAJOR_VERSION:
            version = ".".join(map(str, self.version))
            raise EdgeMtpError(
                f"{self.path}: bundle format {version} is not {MAJOR_VERSION}.x;"
                " update edge-mtp or export the bundle again"
            )
        (header_end,) = struct.unpack_from("<Q", self._data, 24)
        if header_end > len(self._data):
            raise self._truncated("its header", header_end)
        with self.reading("the header"):
            header = Table.root(self._data[HEADER_BEGIN:header_end])
            system, listing = header.table(0), header.table(1)
            self.system_metadata = dict(map(_item, system.tables(0))) if system else {}
            self.sections = tuple(self._sections(listing)) if listing else ()

    def _sections(self, listing: Table) -> Iterator[Section]:
        for index, entry in enumerate(listing.tables(0)):
            items = dict(map(_item, entry.tables(0)))
            begin, end, number = entry.scalar(1, "Q"), entry.scalar(2, "Q"), entry.scalar(3, "B")
            kind = SECTION_TYPES.get(number, f"type {number}")
            model_type = items.get("model_type")
            name = str(model_type).lower().removeprefix("tf_lite_") if model_type else None
            if not HEADER_BEGIN <= begin <= end:
                raise MalformedError(f"section {index} goes from byte {begin} to {end}")
            if end > len(self._data):
                raise self._truncated(f"section {index} ({name or kind})", end)
            yield Section(index, kind, name, begin, end, items, self._data[begin:end])

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return len(self._data)

    def content(self, section: Section) -> memoryview:
        """What a runtime must be given to run a TFLite section: its bytes, and after our own graphs the weights."""
        if section not in self._own_graphs.values():
            return section.data
        end = max(each.end for each in self.sections if each.type == "TFLiteModel")
        return self._data[section.begin : end]

    def section(self, type: str, model_type: str | None = None) -> Section | None:
        """The first section of this type (and model type, if given)."""
        matches = (s for s in self.sections if s.type == type and model_type in (None, s.model_type))
        return next(matches, None)

    @cached_property
    def models(self) -> dict[str, Model]:
        """The TFLite sections by model type, e.g. `prefill_decode`; the first of each type."""
        models: dict[str, Model] = {}
        for section in self.sections:
            if section.type == "TFLiteModel" and (section.model_type or "") not in models:
                with self.reading(section):
                    models[section.model_type or ""] = Model.read(section.data)
        return models

    @cached_property
    def metadata(self) -> LlmMetadata:
        section = self.section("LlmMetadata")
        if section is None:
            raise EdgeMtpError(f"{self.path}: the bundle has no LlmMetadata section; export it again")
        with self.reading(section):
            return LlmMetadata.parse(bytes(section.data))

    @cached_property
    def tokenizer_json(self) -> bytes | None:
        """The Hugging Face `tokenizer.json`; None if the bundle has none (perhaps a SentencePiece model)."""
        section = self.section("HF_Tokenizer")
        if section is None:
            return None
        with self.reading(section):
            size = int.from_bytes(section.data[:8], "little")
            if size > MOST_INFLATED * section.size:
                raise MalformedError(f"tokenizer.json of {size} bytes in {section.size}")
            inflate = zlib.decompressobj()
            try:
                text = inflate.decompress(section.data[8:], size + 1)
            except zlib.error as error:
                raise MalformedError(str(error)) from error
            if not inflate.eof or len(text) != size:
                raise MalformedError(f"tokenizer.json is not the {size} bytes that it states")
            return text

    @cached_property
    def tokenizer_kind(self) -> str | None:
        """`HF`, `SentencePiece` or None."""
        if self.section("HF_Tokenizer"):
            return "HF"
        return "SentencePiece" if self.section("SP_Tokenizer") else None

    @cached_property
    def vocab_size(self) -> int | None:
        """The number of tokens in the tokenizer, including added ones; the logits may be wider."""
        section = self.section("HF_Tokenizer") or self.section("SP_Tokenizer")
        if section is None:
            return None
        with self.reading(section):
            if self.tokenizer_json is None:
                return sum(number == 1 for number, _ in protobuf_fields(bytes(section.data)))
            return _hf_vocab_size(self.tokenizer_json)

    @cached_property
    def manifest(self) -> Manifest | None:
        """What `edge-mtp export` recorded; None if something else made the bundle."""
        section = self._edge_section("manifest")
        if section is None:
            return None
        with self.reading(section):
            manifest = read_manifest(bytes(section.data))
        if manifest[EDGE_KEY] != MANIFEST_VERSION:
            raise EdgeMtpError(
                f"{self.path}: manifest version {manifest[EDGE_KEY]} is not {MANIFEST_VERSION}; update edge-mtp"
            )
        return manifest

    @cached_property
    def token_bytes(self) -> TokenBytes | None:
        """The bytes of each token; None if the bundle has no such table."""
        section = self._edge_section("token_bytes")
        if section is None:
            return None
        with self.reading(section):
            return TokenBytes(section.data)

    @cached_property
    def chat_template(self) -> str | None:
        """The checkpoint's own chat template. The metadata may have another one for the stock engine; it counts only
        where the bundle has no section for the checkpoint's own."""
        section = self._edge_section("chat_template")
        if section is None:
            return self.metadata.chat_template
        with self.reading(section):
            try:
                return bytes(section.data).decode()
            except UnicodeDecodeError as error:
                raise MalformedError(f"the chat template is not UTF-8: {error.reason}") from error

    @cached_property
    def mtp(self) -> Mtp:
        """Whether MTP is present and complete, and if not, why."""
        signatures = self._signatures("prefill_decode")
        verify = signatures.get("verify")
        positions = verify.inputs.get("input_pos") if verify else None
        own = self.own_signatures
        widths = _widths(own, PREFIXES["cpu"])
        return Mtp(
            present="mtp_drafter" in self.models,
            draft_length=positions.shape[0] - 1 if positions and positions.shape else None,
            edge_widths=tuple(widths),
            missing=tuple(self._mtp_missing(signatures)),
            edge_missing=tuple(self._edge_missing(own, widths)),
        )

    @cached_property
    def own_signatures(self) -> dict[str, Signature]:
        """The signatures for all accelerators by name; the stock ones among them in older bundles."""
        if not self._own_graphs:
            return self._signatures("prefill_decode")
        found: dict[str, Signature] = {}
        for section in self._own_graphs.values():
            found |= self._signatures(section.model_type or "")
        return found

    def own_graphs(self, accelerator: str) -> Section | None:
        """The section with the signatures for an accelerator; None in a bundle that has them elsewhere, or has none."""
        return self._own_graphs.get(accelerator)

    @cached_property
    def accelerators(self) -> tuple[str, ...]:
        """The accelerators for which the bundle has signatures of its own, from prefill to draft."""
        if self.mtp.missing:
            return ()
        own = self.own_signatures
        return tuple(name for name, prefix in PREFIXES.items() if not any(_own_missing(own, prefix)))

    @cached_property
    def _own_graphs(self) -> dict[str, Section]:
        """Our own sections by accelerator; one that is for all stands there for each."""
        marked = {s.items.get(EDGE_KEY): s for s in reversed(self.sections) if s.type == "TFLiteModel"}
        found = {name: marked.get(name, marked.get(GRAPHS)) for name in PREFIXES}
        return {name: section for name, section in found.items() if section is not None}

    def _signatures(self, section: str) -> dict[str, Signature]:
        return self.models[section].signatures if section in self.models else {}

    def _mtp_missing(self, signatures: dict[str, Signature]) -> Iterator[str]:
        for name in ("prefill_decode", "embedder", "mtp_drafter"):
            if name not in self.models:
                yield f"no {name} section"
        for name in ("decode", "verify"):
            if name not in signatures:
                yield f"prefill_decode has no `{name}` signature"
            elif "activations" not in signatures[name].outputs:
                yield f"`{name}` has no `activations` output"
        verify = signatures.get("verify")
        if verify and "per_layer_embeddings" in verify.inputs and "per_layer_embedder" not in self.models:
            yield "no per_layer_embedder section"
        section = self.models.get("mtp_drafter")
        drafter = next(iter(section.signatures.values()), None) if section else None
        if section and drafter is None:
            yield "mtp_drafter has no signature"
        if verify is None or drafter is None:
            return
        hidden, wanted = verify.outputs.get("activations"), drafter.inputs.get("activations")
        if wanted is None:
            yield "mtp_drafter has no `activations` input"
        elif hidden and wanted.shape[-1:] != tuple(2 * size for size in hidden.shape[-1:]):
            yield f"mtp_drafter takes activations {wanted}, not twice the width of the target's {hidden}"
        for name in ("logits", "projected_activations"):
            if name not in drafter.outputs:
                yield f"mtp_drafter has no `{name}` output"
        for name, cache in drafter.inputs.items():
            if name.startswith("kv_cache_") and verify.inputs.get(name) != cache:
                there = verify.inputs.get(name, "nothing of that name")
                yield f"mtp_drafter reads {name} as {cache}, the target has {there}"

    def _edge_missing(self, signatures: dict[str, Signature], widths: list[int]) -> Iterator[str]:
        for name in ("manifest", "token_bytes"):
            if self._edge_section(name) is None:
                yield f"no {name} section"
        yield from _own_missing(signatures, PREFIXES["cpu"])
        for width in widths:
            if "edge_mtp.verify" not in signatures[f"edge_verify_{width}"].custom_ops:
                yield f"`edge_verify_{width}` does not hold the edge_mtp.verify op"

    def _edge_section(self, name: str) -> Section | None:
        return next((s for s in self.sections if s.items.get(EDGE_KEY) == name), None)

    @contextmanager
    def reading(self, what: Section | str) -> Iterator[None]:
        """Turn a MalformedError into an EdgeMtpError that names this file and `what` was being read."""
        try:
            yield
        except MalformedError as error:
            raise EdgeMtpError(f"{self.path}: {what} is damaged ({error}); copy or export the bundle again") from error

    def _truncated(self, what: str, end: int) -> EdgeMtpError:
        return EdgeMtpError(
            f"{self.path}: the bundle is truncated: {what} ends at byte {end}, the file at {len(self._data)};"
            " copy or export it again"
        )


def _widths(signatures: Mapping[str, Signature], prefix: str) -> list[int]:
    """The T of each `<prefix>verify_T`."""
    found = (re.fullmatch(rf"{prefix}verify_(\d{{1,3}})", name) for name in signatures)
    return sorted(int(match[1]) for match in found if match)


def _own_missing(signatures: Mapping[str, Signature], prefix: str) -> Iterator[str]:
    """Why the signatures that begin with `prefix` are incomplete."""
    # In older bundles, where the stock decode is beside ours, its prefill is ours, too.
    if "decode" not in signatures and not any(name.startswith(f"{prefix}prefill_") for name in signatures):
        yield f"no `{prefix}prefill_T` signature"
    if f"{prefix}decode" not in signatures:
        yield f"no `{prefix}decode` signature"
    widths = _widths(signatures, prefix)
    if not widths:
        yield f"no `{prefix}verify_T` signature"
    for width in widths:
        if f"{prefix}draft_{width - 1}" not in signatures:
            yield f"no `{prefix}draft_{width - 1}` signature beside `{prefix}verify_{width}`"


def _item(pair: Table) -> tuple[str, Value]:
    """A key and value of the header; None for a value of an unknown type."""
    kind, value = pair.scalar(1, "B"), pair.table(2)
    if value is None:
        return pair.string(0), None
    if kind == STRING_VALUE:
        return pair.string(0), value.string(0)
    return pair.string(0), value.scalar(0, VALUE_CODES[kind]) if kind in VALUE_CODES else None


def _hf_vocab_size(tokenizer_json: bytes) -> int:
    """Distinct ids in the vocabulary (a mapping, or for Unigram a list) and the added tokens."""
    tokenizer = json_value(tokenizer_json)
    try:
        vocab = tokenizer["model"]["vocab"]
        ids = set(vocab.values() if isinstance(vocab, dict) else range(len(vocab)))
        return len(ids | {token["id"] for token in tokenizer.get("added_tokens", ())})
    except (AttributeError, KeyError, TypeError) as error:
        raise MalformedError(f"tokenizer.json has no vocabulary: {error!r}") from error
