"""What a bundle stores: by role, in which encoding, how many bytes, and where it comes from; and what a step reads.

From the graphs' tensors (`formats.graph`, `formats.roles`) and the manifest, without which no origin is known.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from edge_mtp.formats.bundle import Bundle
from edge_mtp.formats.graph import Graph, bytes_of, graphs_of
from edge_mtp.formats.roles import Role, Use, uses
from edge_mtp.formats.tflite import Signature

EMBEDDER, PER_LAYER_EMBEDDER, PREFILL_DECODE, DRAFTER = (
    "embedder",
    "per_layer_embedder",
    "prefill_decode",
    "mtp_drafter",
)
CHECKPOINT, UNKNOWN, NEVER_ENCODED = "checkpoint", "unknown", "-"

# A group of weights in the manifest (`export.weights.groups`): `model.layers.*.mlp.up_proj.weight (15 tensors)`.
_GROUP = re.compile(r"(?:model\.(?=drafter\.))?(?P<name>\S+) \((?P<count>\d{1,6}) tensors?\)")
_TABLE, _PER_LAYER_TABLE, _HEAD = "model.embed_tokens.weight", "model.embed_tokens_per_layer.weight", "lm_head.weight"


@dataclass(frozen=True)
class Holding:
    """Weights of one role and encoding in one section, the target's or the drafter's; of MLPs also in which layers.

    `origin`: `checkpoint` (the integers are the checkpoint's own), `recipe NAME`, `override PATTERN`, `unknown`, or `-`
    for what no recipe encodes. `bytes` counts scales; `read` is what one step of the section's graph reads of it.
    """

    section: str
    is_drafters: bool
    role: Role
    encoding: str
    origin: str
    layers: tuple[int, ...]
    count: int
    bytes: int
    read: int


@dataclass(frozen=True)
class Caches:
    """The target's KV caches: `bytes` in memory, none in the file."""

    encoding: str
    count: int
    bytes: int


@dataclass(frozen=True)
class Inventory:
    """`file` is all bytes, `weights` those of the holdings. A decode step reads `decode_read` of them, a step of the
    drafter `draft_read` (0 without a drafter). Of `mapped` a step reads a few rows only: tables, experts."""

    holdings: tuple[Holding, ...]
    caches: Caches | None
    file: int
    weights: int
    decode_read: int
    draft_read: int
    mapped: int


def inventory_of(bundle: Bundle) -> Inventory:
    """The inventory of a bundle. Raises EdgeMtpError where a section is damaged."""
    origins = _Origins(bundle.manifest)
    holdings: list[Holding] = []
    decode_read = draft_read = mapped = 0
    for section in bundle.sections:
        name = section.model_type or ""
        if section.type != "TFLiteModel" or name not in (EMBEDDER, PER_LAYER_EMBEDDER, PREFILL_DECODE, DRAFTER):
            continue
        with bundle.reading(section):
            graphs, _ = graphs_of(section.data)
            found = {key: _of_section(name, uses(graph), key) for key, graph in _chosen(name, graphs).items()}
        seen: set[int] = set()
        for is_drafters, named in found.items():
            mine = [each for each in named if each.use.constant.buffer not in seen]
            seen |= {each.use.constant.buffer for each in mine}
            holdings += _grouped(name, is_drafters, mine, origins)
            read = sum(each.use.read for each in named)
            if is_drafters and (name == DRAFTER or not draft_read):
                draft_read = read
            elif not is_drafters:
                decode_read += read
            mapped += sum(each.use.constant.bytes for each in mine if each.use.read < each.use.constant.bytes)
    return Inventory(
        holdings=tuple(holdings),
        caches=_caches(bundle),
        file=bundle.size,
        weights=sum(each.bytes for each in holdings),
        decode_read=decode_read,
        draft_read=draft_read,
        mapped=mapped,
    )


@dataclass(frozen=True)
class _Named:
    """A use with the weight's name as recipes' patterns have it, a drafter's with `drafter.` before it; or ``."""

    use: Use
    names: tuple[str, ...]


def _chosen(section: str, graphs: Mapping[str, Graph]) -> dict[bool, Graph]:
    """The graphs that say what a section's weights are for, by whether they are the drafter's."""
    if section != PREFILL_DECODE:
        first = next(iter(graphs.values()), None)
        return {} if first is None else {section == DRAFTER: first}
    chosen = {}
    for name in ("decode", "edge_decode"):
        if name in graphs:
            chosen[False] = graphs[name]
            break
    drafts = sorted((len(name), name) for name in graphs if re.fullmatch(r"edge_draft_\d{1,3}", name))
    if drafts:
        chosen[True] = graphs[drafts[0][1]]
    return chosen


def _of_section(section: str, found: Sequence[Use], is_drafters: bool) -> list[_Named]:
    if section in (EMBEDDER, PER_LAYER_EMBEDDER):
        role: Role = "embedder" if section == EMBEDDER else "per_layer_embedder"
        name = _TABLE if section == EMBEDDER else _PER_LAYER_TABLE
        return [_Named(replace(use, role=role), (name,)) for use in found if use.role != "norms"]
    return [_Named(use, _names(use, is_drafters)) for use in found]


def _names(use: Use, is_drafters: bool) -> tuple[str, ...]:
    """What a checkpoint may call a weight."""
    if use.role == "embedder":  # the target's, even in a drafter's graph
        return (_TABLE,)
    owner = "drafter." if is_drafters else ""
    if use.role == "head" and not use.part:
        return (f"{owner}{_TABLE}",) if is_drafters else (_HEAD, _TABLE)
    if not use.part:
        return ()
    if use.layer is not None:
        return (f"{owner}model.layers.{use.layer}.{use.part}",)
    inner = use.part.startswith(("pre_", "post_", "masked_"))
    return (owner + ("" if inner else "model.") + use.part,)


def _grouped(section: str, is_drafters: bool, found: Sequence[_Named], origins: _Origins) -> Iterator[Holding]:
    groups: dict[tuple[Any, ...], list[_Named]] = {}
    for each, origin in zip(found, origins.of(section, found), strict=True):
        owned = is_drafters and each.use.role != "embedder"
        groups.setdefault((owned, each.use.role, each.use.constant.encoding, origin), []).append(each)
    for (owned, role, encoding, origin), members in groups.items():
        layers = {each.use.layer for each in members if each.use.layer is not None} if role == "mlp" else set()
        yield Holding(
            section=section,
            is_drafters=owned,
            role=role,
            encoding=encoding,
            origin=origin,
            layers=tuple(sorted(layers)),
            count=len(members),
            bytes=sum(each.use.constant.bytes for each in members),
            read=sum(each.use.read for each in members),
        )


class _Origins:
    """Where encodings come from, by the manifest."""

    def __init__(self, manifest: Any) -> None:
        recipe = manifest.get("recipe") if isinstance(manifest, dict) else None
        recipe = recipe if isinstance(recipe, dict) else {}
        self.recipe = recipe.get("name") if isinstance(recipe.get("name"), str) else None
        self.roles = _texts(recipe.get("roles"))
        self.overrides = _texts(recipe.get("overrides"))
        self.short = {name for name, _ in _groups(recipe.get("int8_instead"))}
        kept = recipe.get("kept")
        kept = kept if isinstance(kept, dict) else {}
        self.kept = {(encoding, name): count for encoding, of in kept.items() for name, count in _groups(of)}

    def of(self, section: str, found: Sequence[_Named]) -> list[str]:
        told = [self._told(section, each) for each in found]
        # A group counts its tensors: where some were encoded anew, which ones is not said.
        taken = Counter(group for _, group in told if group is not None)
        return [
            origin if group is None or taken[group] <= self.kept[group] else f"{origin}, {self.kept[group]} of them"
            for origin, group in told
        ]

    def _told(self, section: str, each: _Named) -> tuple[str, tuple[str, str] | None]:
        use, encoding = each.use, each.use.constant.encoding
        if use.role in ("norms", "rotations") or (use.role == "other" and not each.names):
            return NEVER_ENCODED, None
        if self.recipe is None:
            return UNKNOWN, None
        for pattern, wanted in reversed(self.overrides.items()):
            if any(fnmatchcase(name, pattern) for name in each.names):
                return (f"override {pattern}" if _is_of(encoding, wanted) else UNKNOWN), None
        for name in each.names:
            group = encoding, re.sub(r"\.\d+\.", ".*.", name)
            if group in self.kept:
                return CHECKPOINT, group
        is_short = any(re.sub(r"\.\d+\.", ".*.", name) in self.short for name in each.names)
        if _is_of(encoding, self.roles.get(_recipe_role(section, each), "")) or (is_short and encoding == "int8"):
            return f"recipe {self.recipe}", None
        return UNKNOWN, None


def _recipe_role(section: str, each: _Named) -> str:
    """The role by which recipes choose (docs/recipes.md)."""
    if each.use.role == "embedder" and section == PREFILL_DECODE:
        return "head"
    if section == DRAFTER or any(name.startswith("drafter.") for name in each.names):
        return "drafter_head" if each.use.role == "head" else "drafter"
    return each.use.role


def _is_of(encoding: str, wanted: str) -> bool:
    """Whether a recipe's encoding gives this one: a block that does not divide a row is halved until it does."""
    if encoding == wanted:
        return True
    stem, _, block = wanted.partition("b")
    found, _, smaller = encoding.partition("b")
    return stem == found and block.isdigit() and smaller.isdigit() and int(smaller) < int(block)


def _texts(value: Any) -> dict[str, str]:
    found = value if isinstance(value, dict) else {}
    return {key: text for key, text in found.items() if isinstance(text, str)}


def _groups(value: Any) -> Iterator[tuple[str, int]]:
    for each in value if isinstance(value, list) else ():
        if isinstance(each, str) and (match := _GROUP.fullmatch(each)):
            yield match["name"], int(match["count"])


def _caches(bundle: Bundle) -> Caches | None:
    signatures: Mapping[str, Signature] = (
        bundle.models[PREFILL_DECODE].signatures if PREFILL_DECODE in bundle.models else {}
    )
    decode = signatures.get("decode") or signatures.get("edge_decode")
    found = [each for name, each in decode.inputs.items() if name.startswith("kv_cache_")] if decode else []
    if not found:
        return None
    kinds = sorted({each.dtype for each in found})
    names = ["fp" + kind[1:] if kind.startswith("f") else "int" + kind[1:] for kind in kinds]
    sizes = [bytes_of(each.dtype, each.shape) for each in found]
    return Caches(", ".join(names), len(found), max(0, sum(sizes)))
