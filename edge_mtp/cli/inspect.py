"""`edge-mtp inspect`: what a bundle holds."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from edge_mtp.acceptance import recall, unfit, warning
from edge_mtp.cli.inventory_lines import inventory_lines
from edge_mtp.formats.bundle import Bundle, Section
from edge_mtp.formats.inventory import inventory_of
from edge_mtp.formats.manifest import SOC_KEY
from edge_mtp.formats.metadata import LlmMetadata
from edge_mtp.formats.tflite import Model, Signature, Tensor
from edge_mtp.harness.stats.figures import ranges, size
from edge_mtp.safe_text import shown

WIDTH = 110


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON object.")
def inspect(file: Path, as_json: bool) -> None:
    """Show what the .litertlm bundle FILE holds.

    The command prints sections, signatures with shapes and types, the weights by role with their encodings and origins,
    the bytes that a step reads, the tokenizer and the metadata. It says whether the Multi-Token Prediction path is
    complete, or why not. Signatures that differ only in a number share an entry: `edge_verify_n, n = 2..8` has one
    shape for each n.
    """
    bundle = Bundle(file)
    # Compose first: a damaged bundle is refused before anything is printed.
    text = json.dumps(as_dict(bundle), indent=2) if as_json else "\n".join(map(shown, report(bundle)))
    click.echo(text)


def as_dict(bundle: Bundle) -> dict[str, Any]:
    """All that `inspect` shows, as JSON types."""
    known = recall(Path(bundle.path))
    has_metadata = bundle.section("LlmMetadata") is not None
    return {
        "file": bundle.path,
        "size": bundle.size,
        "version": ".".join(map(str, bundle.version)),
        "system_metadata": bundle.system_metadata,
        "sections": [
            {
                "index": section.index,
                "type": section.type,
                "model_type": section.model_type,
                "offset": section.begin,
                "size": section.size,
                "items": section.items,
            }
            for section in bundle.sections
        ],
        "models": {name: _model_dict(model) for name, model in bundle.models.items()},
        "weights": asdict(inventory_of(bundle)),
        "tokenizer": {"kind": bundle.tokenizer_kind, "vocab_size": bundle.vocab_size},
        "metadata": asdict(bundle.metadata) if has_metadata else None,
        "chat_template": bundle.chat_template if has_metadata else None,
        "mtp": asdict(bundle.mtp) | {"complete": bundle.mtp.complete, "edge_complete": bundle.mtp.edge_complete},
        "accelerators": bundle.accelerators,
        "drafter": {"first_drafts": known[0], "accepted": known[1], "unfit": unfit(*known)} if known else None,
        "manifest": bundle.manifest,
        "token_bytes": len(bundle.token_bytes) if bundle.token_bytes else None,
    }


def _model_dict(model: Model) -> dict[str, Any]:
    return {
        "subgraphs": len(model.subgraph_ops),
        "ops": sum(model.subgraph_ops),
        "signatures": {
            signature.name: {
                "inputs": {name: asdict(tensor) for name, tensor in signature.inputs.items()},
                "outputs": {name: asdict(tensor) for name, tensor in signature.outputs.items()},
                "ops": model.subgraph_ops[signature.subgraph],
                "custom_ops": signature.custom_ops,
            }
            for signature in model.signatures.values()
        },
    }


def report(bundle: Bundle) -> Iterator[str]:
    """The lines of the readable form."""
    version = ".".join(map(str, bundle.version))
    yield f"{bundle.path}: .litertlm {version}, {size(bundle.size)}, {len(bundle.sections)} sections"
    yield ""
    yield from _sections(bundle.sections)
    for name, model in bundle.models.items():
        yield ""
        ops, subgraphs = _count(sum(model.subgraph_ops), "op"), _count(len(model.subgraph_ops), "subgraph")
        yield f"{name or 'unnamed model'}: {_count(len(model.signatures), 'signature')}, {ops} in {subgraphs}"
        for group in _groups(model.signatures.values()):
            yield from _signatures(group)
    yield ""
    if weights := list(inventory_lines(inventory_of(bundle))):
        yield from (*weights, "")
    yield f"tokenizer: {bundle.tokenizer_kind or 'none'}" + (
        f", {bundle.vocab_size} tokens" if bundle.vocab_size is not None else ""
    )
    if bundle.section("LlmMetadata"):
        yield from _metadata(bundle.metadata)
        yield from _templates(bundle)
    if bundle.manifest is not None:
        yield "manifest:"
        yield from (f"  {key}: {json.dumps(value)}" for key, value in bundle.manifest.items())
    yield ""
    yield from _mtp(bundle)


def _sections(sections: Iterable[Section]) -> Iterator[str]:
    yield f"{'#':>3}  {'section':<18} {'model or item':<20} {'offset':>12} {'size':>10}"
    for s in sections:
        label = s.model_type or ", ".join(f"{key}={value}" for key, value in s.items.items())
        yield f"{s.index:>3}  {s.type:<18} {label:<20} {s.begin:>12} {size(s.size):>10}"


def _mtp(bundle: Bundle) -> Iterator[str]:
    mtp = bundle.mtp
    if not mtp.present:
        yield "MTP: absent"
    else:
        length = f", draft length {mtp.draft_length}" if mtp.draft_length is not None else ""
        yield f"MTP: present, {'complete' if mtp.complete else 'incomplete'}{length}"
    yield from (f"  {reason}" for reason in mtp.missing)
    if (known := recall(Path(bundle.path))) is not None and known[0] > 0:
        drafted, accepted = known
        yield f"  first drafts that were right in runs so far: {accepted:,} of {drafted:,}"
        if (said := warning(drafted, accepted)) is not None:
            yield f"  {said}"
    if mtp.edge_complete:
        yield f"edge signatures: complete, verify widths {ranges(mtp.edge_widths)}"
    else:
        yield f"edge signatures: {'incomplete' if mtp.edge_widths else 'absent'}"
        yield from (f"  {reason}" for reason in mtp.edge_missing)
    served = ", ".join(_accelerator(bundle, name) for name in bundle.accelerators)
    yield f"accelerators: {served or 'none has signatures of its own'}"


def _accelerator(bundle: Bundle, name: str) -> str:
    section = bundle.own_graphs(name)
    soc = section.items.get(SOC_KEY) if section is not None else None
    return name if soc is None else f"{name} (compiled for {soc})"


def _templates(bundle: Bundle) -> Iterator[str]:
    """The chat template of each runtime; nothing if the bundle has only the metadata's."""
    if bundle.chat_template in (None, bundle.metadata.chat_template):
        return
    yield f"chat template: the checkpoint's own, {len(bundle.chat_template or '')} characters"
    told = (bundle.manifest or {}).get("stock_template")
    kind = told.get("kind") if isinstance(told, dict) else None
    known = kind in ("own", "translated", "general", "refused")
    yield f"  the stock engine has the metadata's{f' ({kind})' if known else ''}"


def _metadata(metadata: LlmMetadata) -> Iterator[str]:
    yield "metadata:"
    for name, value in asdict(metadata).items():
        if name == "chat_template" and value is not None:
            yield f"  chat_template: {len(value)} characters"
        elif value not in (None, (), {}):
            yield f"  {name}: {json.dumps(value, ensure_ascii=False)}"


def _groups(signatures: Iterable[Signature]) -> Iterable[list[Signature]]:
    """Groups of signatures that differ only in the last number of their names and in the sizes of their tensors."""
    groups: dict[Hashable, list[Signature]] = {}
    for signature in signatures:
        tensors = [*signature.inputs.items(), *signature.outputs.items()]
        kinds = tuple((name, tensor.dtype, len(tensor.shape)) for name, tensor in tensors)
        stem, number = _split(signature.name)
        groups.setdefault((stem, number is None, len(signature.inputs), kinds), []).append(signature)
    return groups.values()


def _signatures(group: list[Signature]) -> Iterator[str]:
    """A head line, then inputs and outputs."""
    first = group[0]
    numbers = [_split(signature.name)[1] or 0 for signature in group]
    # LiteRT knows odml.* composites; what needs naming is the rest.
    notable = [op for op in first.custom_ops if not op.startswith("odml.")]
    ops = f"  [{', '.join(notable)}]" if notable else ""
    if len(group) == 1:
        yield f"  {first.name}{ops}"
    else:
        yield f"  {_split(first.name)[0]}n, n = {ranges(numbers)}{ops}"
    inputs = _merged([signature.inputs for signature in group], numbers)
    outputs = _merged([signature.outputs for signature in group], numbers)
    yield from _wrapped("    in   ", _named(inputs))
    yield from _wrapped("    out  ", _named(outputs, inputs))


def _merged(parts: list[dict[str, Tensor]], numbers: list[int]) -> dict[str, str]:
    """Name -> type and shape over all signatures of a group, in terms of n where the shapes differ."""
    merged = {}
    for name, first in parts[0].items():
        sizes = zip(*(part[name].shape for part in parts), strict=True)
        merged[name] = f"{first.dtype}[{','.join(_dimension(size, numbers) for size in sizes)}]"
    return merged


def _dimension(sizes: tuple[int, ...], numbers: list[int]) -> str:
    if len(set(sizes)) == 1:
        return str(sizes[0])
    offsets = {size - number for size, number in zip(sizes, numbers, strict=True)}
    if len(offsets) > 1:
        return "|".join(map(str, sizes))
    return f"n{offset:+d}" if (offset := offsets.pop()) else "n"


def _named(tensors: dict[str, str], already: dict[str, str] | None = None) -> Iterator[str]:
    """`name type[shape]`; numbered names of one type as a range, e.g. `kv_cache_k_0..14`.

    Tensors that stand in `already` (outputs that update an input) come without their shape.
    """
    numbers_of: dict[tuple[str, str], list[int]] = {}
    for name, shape in tensors.items():
        kind = "" if already and already.get(name) == shape else f" {shape}"
        stem, number = _split(name)
        numbers = numbers_of.setdefault((stem, kind), [])
        if number is not None:
            numbers.append(number)
    for (stem, kind), numbers in numbers_of.items():
        yield f"{stem}{ranges(numbers)}{kind}"


def _split(name: str) -> tuple[str, int | None]:
    """(`edge_verify_`, 4) of `edge_verify_4`; None for a name without a number at its end."""
    match = re.fullmatch(r"(.*_)(0|[1-9]\d{0,8})", name, re.DOTALL)
    return (match[1], int(match[2])) if match else (name, None)


def _wrapped(head: str, words: Iterable[str]) -> Iterator[str]:
    """Words separated by two spaces in lines of at most WIDTH, under a head."""
    line = head
    for word in words:
        if len(line) + len(word) > WIDTH and line.strip():
            yield line.rstrip()
            line = " " * len(head)
        line += word + "  "
    if line.strip():
        yield line.rstrip()


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
