"""Chooses the encoding of each weight: by its role in the model, or by name if the recipe says so."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Any

from edge_mtp.errors import EdgeMtpError
from edge_mtp.export.encodings import ENCODINGS, Encoding, fit, storage_bytes
from edge_mtp.export.shapes import HEAD
from edge_mtp.export.weights import groups

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

EMBEDDER, PER_LAYER_EMBEDDER, PREFILL_DECODE, DRAFTER = (
    "embedder",
    "per_layer_embedder",
    "prefill_decode",
    "mtp_drafter",
)
TABLE, PER_LAYER_TABLE = "model.embed_tokens.weight", "model.embed_tokens_per_layer.weight"

SMALLEST_BLOCK = 32

ROLES = (
    "embedder",
    "per_layer_embedder",
    "head",
    "attention",
    "mlp",
    "experts",
    "router",
    "per_layer",
    "drafter",
    "drafter_head",
)

# The end of a weight's name in a state_dict, and its role in the target. None: too small to be worth the loss of
# precision, so it is not encoded.
_SUFFIXES = (
    (re.compile(r"\.self_attn\.[qkvo]_proj\.weight$"), "attention"),
    (re.compile(r"\.mlp\.(gate|up|down)_proj\.weight$"), "mlp"),
    (re.compile(r"\.experts\.(gate_up_proj|down_proj)$"), "experts"),
    (re.compile(r"\.router\.proj\.weight$"), "router"),
    (re.compile(r"\.per_layer_(input_gate|projection|model_projection)\.weight$"), "per_layer"),
    (re.compile(r"norm(_\d)?\.weight$|\.layer_scalar$|\.router\.(scale|per_expert_scale)$|\.token_ordering$"), None),
)
_DRAFTER_SUFFIXES = (
    (re.compile(r"(^|\.)(pre_projection|post_projection|centroids)\.weight$"), "drafter"),
    *((suffix, role and "drafter") for suffix, role in _SUFFIXES),
)


def role(section: str, name: str) -> str | None:
    """The role of a weight by its name in transformers' state_dict; None: it stays float32 (or int32).

    `section` is the weight's section in the stock bundle.

    Raises:
        EdgeMtpError: no role is known for the weight.
    """
    if name == TABLE:
        return {EMBEDDER: "embedder", DRAFTER: "drafter_head"}.get(section, "head")
    if name == PER_LAYER_TABLE:
        return "per_layer_embedder"
    if name == HEAD:
        return "head"
    for suffix, found in _DRAFTER_SUFFIXES if section == DRAFTER else _SUFFIXES:
        if suffix.search(name):
            return found
    raise EdgeMtpError(f"{section} has a weight {name} that no recipe knows: export a Gemma 4 checkpoint")


def section_of(name: str) -> str:
    """The section that a weight of the target is in; of the embedding, the one where it is looked up."""
    return {TABLE: EMBEDDER, PER_LAYER_TABLE: PER_LAYER_EMBEDDER}.get(name, PREFILL_DECODE)


@dataclass(frozen=True)
class Recipe:
    """`roles` has an encoding for each of `ROLES`; the last of the `overrides` whose pattern matches takes precedence.

    A pattern is a glob (`*` also crosses dots) over the name of a weight; a drafter's name has `drafter.` before it.
    `kept` has the encodings of weights that the checkpoint stores as integers already, by the names that patterns have:
    roles do not apply to them, and a pattern that matches one encodes it anew. `grids` has the encodings that the
    checkpoint had for weights which an adapter changed: where the recipe has as many bits for one, it is rounded to
    what the checkpoint had.
    """

    name: str
    roles: Mapping[str, Encoding]
    overrides: tuple[tuple[str, Encoding], ...] = ()
    kept: Mapping[str, Encoding] = field(default_factory=dict)
    grids: Mapping[str, Encoding] = field(default_factory=dict)

    def keeping(
        self,
        target: Mapping[str, Encoding],
        drafter: Mapping[str, Encoding],
        grids: Mapping[str, Encoding] = MappingProxyType({}),
    ) -> Recipe:
        """This recipe for what is left of checkpoints that store these weights as integers already; `grids` are of the
        target's weights that an adapter changed.

        A recipe of floating point alone stays as it is: it widens those weights, and loses nothing.
        """
        if not any(encoding.is_integer for encoding in self.roles.values()):
            return self
        kept = {**target, **{_qualified(DRAFTER, name): of for name, of in drafter.items()}}
        return replace(self, kept=kept, grids=dict(grids))

    def kept_groups(self) -> dict[str, list[str]]:
        """The names in `kept` by encoding; layers stand together."""
        names: dict[str, list[str]] = {}
        for name, encoding in sorted(self.kept.items()):
            names.setdefault(encoding.name, []).append(name)
        return {encoding: list(groups(of)) for encoding, of in sorted(names.items())}

    def keeps(self, section: str, name: str) -> bool:
        """Whether a weight's integers are taken from the checkpoint as they are."""
        qualified = _qualified(section, name)
        return qualified in self.kept and not any(fnmatchcase(qualified, pattern) for pattern, _ in self.overrides)

    def is_on_grid(self, section: str, name: str) -> bool:
        """Whether a weight that an adapter changed is rounded to the steps that the checkpoint had for it."""
        found = role(section, name)
        if section == DRAFTER or found is None or name not in self.grids:
            return False
        named = any(fnmatchcase(name, pattern) for pattern, _ in self.overrides)
        return not named and self.roles[found].bits == self.grids[name].bits

    def encoding(self, section: str, name: str, shape: Sequence[int]) -> Encoding:
        """The encoding of one weight of `shape` [..., k]; `section` and `name` as in `role`.

        Rows too short for the smallest block get 8 bits and a scale per row, since such weights are few.

        Raises:
            EdgeMtpError: no role is known for the weight, or the encoding cannot store its rows.
        """
        found = role(section, name)
        if found is None:
            return ENCODINGS["fp32"]
        if self.keeps(section, name):
            return self.kept[_qualified(section, name)]
        chosen = self._chosen(section, name, found)
        if self.is_on_grid(section, name):
            return self.grids[name]
        if _is_too_short(chosen, shape):
            chosen = ENCODINGS["int8"]
        try:
            return fit(chosen, shape[-1])
        except EdgeMtpError as error:
            raise EdgeMtpError(f"{_qualified(section, name)}, role {found}, recipe {self.name}: {error}") from None

    def int8_instead(
        self, target: Mapping[str, Sequence[int]], drafter: Mapping[str, Sequence[int]]
    ) -> tuple[str, ...]:
        """The weights that should be in blocks but whose rows are too short; those of all layers are one entry."""
        return groups(
            _qualified(section, name)
            for section, name, shape in _weights(target, drafter)
            if (found := role(section, name))
            and not self.keeps(section, name)
            and _is_too_short(self._chosen(section, name, found), shape)
        )

    def _chosen(self, section: str, name: str, role: str) -> Encoding:
        """The recipe's encoding, whether or not it can store the weight's rows."""
        chosen = self.roles[role]
        for pattern, encoding in self.overrides:
            if fnmatchcase(_qualified(section, name), pattern):
                chosen = encoding
        return chosen

    def sizes(self, target: Mapping[str, Sequence[int]], drafter: Mapping[str, Sequence[int]]) -> dict[str, int]:
        """Bytes of weights by section, from the two models' shapes by name.

        Raises:
            EdgeMtpError: as in `encoding`, or a pattern that matches no weight.
        """
        self._refuse_idle_patterns(target, drafter)
        sizes = dict.fromkeys((PREFILL_DECODE, EMBEDDER, PER_LAYER_EMBEDDER, DRAFTER), 0)
        for section, name, shape in _weights(target, drafter):
            sizes[section] += storage_bytes(shape, self.encoding(section, name, shape))
        return {section: size for section, size in sizes.items() if size}

    def _refuse_idle_patterns(self, target: Mapping[str, Sequence[int]], drafter: Mapping[str, Sequence[int]]) -> None:
        names = {_qualified(section, name) for section, name, _ in _weights(target, drafter) if role(section, name)}
        for pattern, _ in self.overrides:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise EdgeMtpError(
                    f"recipe {self.name}: no weight matches {pattern!r}; they are called like {min(names)},"
                    " a drafter's with `drafter.` before it"
                )


def load(recipe: str) -> Recipe:
    """The predefined recipe of that name, or the one in a TOML file (docs/recipes.md).

    Raises:
        EdgeMtpError: there is no such recipe or file, or the file says something unknown.
    """
    if recipe in RECIPES:
        return RECIPES[recipe]
    if not recipe.endswith(".toml"):
        raise EdgeMtpError(f"no recipe {recipe!r}: take one of {', '.join(RECIPES)}, or a FILE.toml")
    try:
        table = tomllib.loads(Path(recipe).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise EdgeMtpError(f"recipe {recipe} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise EdgeMtpError(f"recipe {recipe} is not TOML: {error}") from None
    return _parse(recipe, table)


def _parse(source: str, table: dict[str, Any]) -> Recipe:
    _refuse_unknown(source, "key", table, ("base", "roles", "overrides"))
    base = table.get("base")
    if base is not None and (not isinstance(base, str) or base not in RECIPES):
        raise EdgeMtpError(f"recipe {source}: no base {base!r}: take one of {', '.join(RECIPES)}")
    roles = _encodings(source, table, "roles")
    _refuse_unknown(source, "role", roles, ROLES)
    if base is None and (missing := [each for each in ROLES if each not in roles]):
        raise EdgeMtpError(f"recipe {source}: no encoding for {', '.join(missing)}: name it or a base")
    inherited = RECIPES[base].roles if base else {}
    # Only the file name goes into bundles, so that they do not contain paths of the exporting machine.
    return Recipe(Path(source).name, {**inherited, **roles}, tuple(_encodings(source, table, "overrides").items()))


def _encodings(source: str, table: dict[str, Any], key: str) -> dict[str, Encoding]:
    values = table.get(key, {})
    if not isinstance(values, dict):
        raise EdgeMtpError(f"recipe {source}: {key} is a table, [{key}]")
    for name, value in values.items():
        if not isinstance(value, str) or value not in ENCODINGS:
            raise EdgeMtpError(f"recipe {source}: {name} cannot be {value!r}: take one of {', '.join(ENCODINGS)}")
    return {name: ENCODINGS[value] for name, value in values.items()}


def _refuse_unknown(source: str, what: str, found: Iterable[str], known: Sequence[str]) -> None:
    for name in found:
        if name not in known:
            raise EdgeMtpError(f"recipe {source}: no {what} {name!r}: take one of {', '.join(known)}")


def _weights(
    target: Mapping[str, Sequence[int]], drafter: Mapping[str, Sequence[int]]
) -> Iterator[tuple[str, str, Sequence[int]]]:
    """Section, name and shape of every weight. The embedding is in the embedder and, as the head, in prefill_decode."""
    for name, shape in target.items():
        yield PER_LAYER_EMBEDDER if name == PER_LAYER_TABLE else PREFILL_DECODE, name, shape
        if name == TABLE:
            yield EMBEDDER, name, shape
    for name, shape in drafter.items():
        yield DRAFTER, name, shape


def _qualified(section: str, name: str) -> str:
    return f"drafter.{name}" if section == DRAFTER else name


def _is_too_short(encoding: Encoding, shape: Sequence[int]) -> bool:
    return bool(encoding.block) and shape[-1] % SMALLEST_BLOCK != 0


def _uniform(name: str, encoding: str, **others: str) -> Recipe:
    return Recipe(name, {each: ENCODINGS[others.get(each, encoding)] for each in ROLES})


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        _uniform("fp32", "fp32"),
        _uniform("fp16", "fp16"),
        _uniform("int8", "int8"),
        # A router is tiny, and a wrong expert costs more than a rounded weight.
        _uniform("int4", "int4", router="int8"),
        _uniform("int4-block", "int4b32", router="int8"),
        _uniform(
            "mixed",
            # Blocks of 128 need a quarter of the scales that blocks of 32 need, and LiteRT multiplies them faster. The
            # largest part has blocks of 256, which brings E2B with its tokenizer under 2.7 GB.
            "int4b128",
            mlp="int4b256",
            router="int8",
            # One block is one layer's vector.
            per_layer_embedder="int4b256",
            # 2 % of the decoder, and every layer adds their output to its own.
            per_layer="int8",
            # The drafter is small, and its errors cost accepted tokens.
            drafter="int8",
        ),
    )
}
