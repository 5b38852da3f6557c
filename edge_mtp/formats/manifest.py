"""The manifest of a bundle: how `edge-mtp export` made it, and how it wants to be run.

A JSON object in a section of its own. A bundle that something else made has none, and a bundle of an older edge-mtp can
lack some of the keys.
"""

from __future__ import annotations

import json
from typing import Any, Final, TypedDict, cast

from edge_mtp.formats.wire import MalformedError, json_value

# Names our own sections in the bundle's header, and the manifest's version in the manifest.
EDGE_KEY: Final = "edge_mtp"
# In the header beside graphs that a vendor's compiler has compiled: the SoC that they are for, by LiteRT's name for it.
SOC_KEY: Final = "edge_mtp_soc"
MANIFEST_VERSION = 1

# The packages that wrote the bundle, and what its graphs adhere to. `ops`: version of each custom operator.
Versions = TypedDict(
    "Versions", {"edge-mtp": str, "ops": dict[str, int], "signatures": int, "converters": dict[str, str]}
)


class _AnyRecipe(TypedDict):
    name: str
    roles: dict[str, str]
    overrides: dict[str, str]
    kv: str
    int8_instead: list[str]


class Recipe(_AnyRecipe, total=False):
    """How weights are stored. `roles` and `overrides` name encodings; `kv` is the type of the KV cache.

    `int8_instead` lists the weights whose rows are too short for the recipe's blocks. `kept` lists, by encoding, the
    weights that are the checkpoint's own integers; layers stand together.
    """

    kept: dict[str, list[str]]


class Chat(TypedDict):
    """Token ids that begin, pad and end a text, and whether the vocabulary has thinking and tool calls."""

    format: str
    start_token: int
    pad_token: int | None
    stop_tokens: list[int]
    thinking: bool
    tools: bool


class StockTemplate(TypedDict):
    """What the chat template in the metadata is (`edge_mtp.export.stock_template`), and why."""

    kind: str
    reason: str


class Model(TypedDict):
    """Sizes of the target."""

    hidden_size: int
    layers: int
    kv_layers: int
    per_layer_width: int
    vocab_size: int
    sliding_window: int


class Manifest(TypedDict, total=False):
    """The keys in the order in which they are written.

    `source` has the hashes of both checkpoints, and in `origins` where they come from. `context` counts positions of
    the KV cache, `prefill_lengths` and `verify_widths` rows of the graphs, `draft_lengths` tokens. `accelerators` have
    signatures of their own. `drafter_kv` names the target's caches that the drafter reads. The drafter's graphs take
    position P - 1 and add `drafter_position_offset`. `special_tokens` are variables of the chat template.
    `activation_ranges` has, by module, the scales of input and output of the static 8-bit ranges that the checkpoint
    was trained with; 0 is none.
    """

    edge_mtp: int
    versions: Versions
    minimum_engine: str
    source: dict[str, Any]
    recipe: Recipe
    context: int
    prefill_lengths: list[int]
    verify_widths: list[int]
    draft_lengths: list[int]
    lean: bool
    accelerators: list[str]
    drafter_kv: list[str]
    drafter_position_offset: int
    chat: Chat
    stock_template: StockTemplate
    special_tokens: dict[str, str]
    model: Model
    activation_ranges: dict[str, list[float]]


def read_manifest(data: bytes) -> Manifest:
    """The manifest in the bytes of its section, of any version. Raises MalformedError for bytes that hold none."""
    value = json_value(data)
    if not isinstance(value, dict) or not isinstance(value.get(EDGE_KEY), int):
        raise MalformedError(f"the manifest states no {EDGE_KEY} version")
    return cast(Manifest, value)


def write_manifest(manifest: Manifest) -> bytes:
    """The bytes of the section."""
    return json.dumps(manifest, ensure_ascii=False, indent=1).encode()
