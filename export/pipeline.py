"""From a checkpoint pair to a bundle, in one call; an interrupted one goes on where it was."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_mtp.chat.chat_format import ChatFormat
from edge_mtp.chat.tokenizer import Tokenizer
from edge_mtp.errors import EdgeMtpError
from edge_mtp.export import download, recipes
from edge_mtp.export.checkpoint import Pair, open_pair, tokenizer_ids
from edge_mtp.export.unfinished import Parts
from edge_mtp.export.weights import groups
from edge_mtp.export.writer import STOPS, THINKING_TOKENS, TOOL_TOKENS, Chat, llm_metadata, write_bundle
from edge_mtp.formats.token_bytes import token_table
from edge_mtp.output_file import refuse_inputs
from edge_mtp.quiet import quiet

if TYPE_CHECKING:
    from edge_mtp.export.signatures import Graphs, Section
    from edge_mtp.export.stock_template import Trial
    from edge_mtp.export.store import Store

# Called as an export goes on: what it does, and the share of all the work that is done, 0 to 1.
Progress = Callable[[str, float], None]

VERIFY_WIDTHS = tuple(range(2, 9))
DEFAULT_CONTEXT = 4096
# A row of a mixture of experts chooses its own and is a graph of its own, so a pass has few.
PREFILL, PREFILL_OF_EXPERTS = (128,), (16,)

MANIFEST_VERSION = 1
SIGNATURES_VERSION = 1
# The stock engine that is known to pass the drafter P - 1 and to run these bundles.
MINIMUM_ENGINE = "litert-lm 0.18.1"

KV_TYPES = ("fp32", "int8")

# What work weighs: a traced piece as much as so many encoded weights (on the machine this was measured on).
WEIGHTS_PER_PIECE = 60_000_000
# What does not grow with the weights: libraries, tracing and object trees in memory; on disk graphs and their pieces,
# of which a layer of the tiny pair leaves 150 kB in all signatures together.
HEADER_BYTES = 1 << 20
WORKING_MEMORY = 3 << 29
WORKING_DISK = 1 << 22
WORKING_DISK_A_LAYER = 1 << 20


@dataclass(frozen=True)
class Summary:
    """What an export made: bytes of each section, seconds of each kind of work, what was not taken along, and what the
    chat templates were found to do with the battery."""

    path: Path
    sections: dict[str, int]
    seconds: dict[str, float]
    left_out: tuple[str, ...]
    templates: Trial
    int8_instead: tuple[str, ...]  # weights whose rows are too short for the recipe's blocks


@dataclass(frozen=True)
class Options:
    """C positions of KV cache, of type fp32 or int8; rows of each prefill signature; T of each `edge_verify_T`,
    none for a lean bundle; the recipe of the weights."""

    context: int
    prefill: tuple[int, ...]
    widths: tuple[int, ...]
    kv: str
    recipe: recipes.Recipe

    @property
    def lean(self) -> bool:
        return not self.widths


class Work:
    """How much of an export is done, and how long each kind of work took.

    `plan` has the amount of work of each section, of which `begin` and `add` tell `report` the share.
    """

    def __init__(self, report: Progress) -> None:
        self.seconds: dict[str, float] = {}
        self.plan: dict[str, float] = {}
        self._report = report
        self._done = self._planned = 0.0
        self._kind, self._what, self._since = "", "", time.monotonic()

    def begin(self, kind: str, what: str) -> None:
        now = time.monotonic()
        if self._kind:
            self.seconds[self._kind] = self.seconds.get(self._kind, 0.0) + now - self._since
        self._kind, self._what, self._since = kind, what, now
        self.add(0)

    def section(self, name: str) -> None:
        """Begin a section: what was planned before it is done, and no more than it plans will be added."""
        self._done = self._planned
        self._planned += self.plan[name]

    def add(self, amount: float) -> None:
        self._done = min(self._done + amount, self._planned)
        self._report(self._what, self._done / (sum(self.plan.values()) or 1.0))

    def end(self) -> None:
        self.begin("", self._what)
        self._report(self._what, 1.0)


def default_prefill(pair: Pair) -> tuple[int, ...]:
    """Rows of the prefill signatures that suit the target."""
    return PREFILL_OF_EXPERTS if getattr(pair.target.config, "enable_moe_block", False) else PREFILL


def export_bundle(
    target: Path | Pair,
    drafter: Path | None,
    output: Path,
    *,
    recipe: str = "fp32",
    context: int = 1024,
    prefill: Sequence[int] = PREFILL,
    kv: str = "fp32",
    lean: bool = False,
    widths: Sequence[int] = VERIFY_WIDTHS,
    origins: Mapping[str, str] | None = None,
    progress: Progress = lambda what, done: None,
) -> Summary:
    """Write the bundle `output` from a pair of checkpoints.

    Until it is whole it lies in a folder beside `output`, from which the same call goes on after an interruption
    (`Parts`). A refusal leaves nothing behind.

    Args:
        target: a Gemma 4 checkpoint with tokenizer.json and chat template, or an opened pair.
        drafter: the Gemma 4 assistant that was trained for it; None with an opened pair.
        recipe: how weights are stored: a name of `recipes`, or a TOML file.
        context: C, positions in the KV cache.
        prefill: rows of the prefill signatures.
        kv: type of the KV cache, `fp32` or `int8`.
        lean: leave out the `edge_*` signatures, so that only the stock runtime's graphs remain.
        widths: T of the `edge_verify_T` signatures; each comes with the draft of T - 1 tokens.
        origins: for the manifest, where target, drafter and adapter come from.
        progress: told how far it is, from 0 to 1.

    Raises:
        EdgeMtpError: the pair, an option, the machine or the place of the output does not allow it.
        KeyboardInterrupt: with a line for the user about what becomes of what was done.
    """
    chosen = () if lean else tuple(sorted(set(widths)))
    with quiet():
        pair = target if isinstance(target, Pair) else open_pair(target, drafter or Path())
    stored = recipes.load(recipe).keeping(pair.target.weights.encodings, pair.drafter.weights.encodings)
    options = Options(context, tuple(sorted(set(prefill))), chosen, kv, stored)
    refuse_inputs(
        [output],
        [
            pair.tokenizer.parent,
            *pair.target.files,
            *pair.drafter.files,
            pair.target.directory,
            pair.drafter.directory,
            recipe if recipe.endswith(".toml") else None,
        ],
    )
    _check(options, pair)
    sizes = options.recipe.sizes(pair.target.weights.names, pair.drafter.weights.names, lean=options.lean)
    chat, table = _chat(pair), token_table(pair.tokenizer, pair.target.config.vocab_size)
    templates = _tried_templates(pair, chat)
    _check_memory(pair, options)
    work = Work(progress)
    with Parts(output, _identity(pair, options), disk_room(pair, sum(sizes.values()))) as parts:
        hashes = pair.start_hashing()
        models = _write_models(pair, options, parts, work)
        work.begin("bundle", "write bundle")
        bundle = parts.scratch / "bundle"
        sections = write_bundle(
            bundle,
            metadata=llm_metadata(chat, templates.stock.template, options.context - max(VERIFY_WIDTHS)),
            tokenizer=pair.tokenizer,
            models=models,
            manifest=_manifest(pair, options, chat, hashes() | {"origins": dict(origins or {})}, templates),
            token_table=table,
            chat_template=pair.chat_template if templates.stock.template != pair.chat_template else None,
            scratch=parts.scratch,
        )
        parts.publish(bundle)
        work.end()
    instead = _int8_instead(pair, options)
    return Summary(output, sections, work.seconds, pair.target.weights.left_out, templates, instead)


def _tried_templates(pair: Pair, chat: Chat) -> Trial:
    with quiet():
        from edge_mtp.export.stock_template import tried

    tokenizer, special = Tokenizer.from_file(pair.tokenizer), pair.special_tokens
    bos = special.get("bos_token", ChatFormat.bos_token)
    stops = frozenset(chat.stop_tokens)
    return tried(ChatFormat(tokenizer, pair.chat_template, stops, bos, special_tokens=special))


def _check(options: Options, pair: Pair) -> None:
    config = pair.target.config
    least = max(*options.prefill, 2 * max(VERIFY_WIDTHS))
    if options.context < least:
        raise EdgeMtpError(
            f"context {options.context} is too small: the widest prefill and verify need at least {least}"
        )
    if options.context > config.max_position_embeddings:
        raise EdgeMtpError(
            f"context {options.context} is more than the target's {config.max_position_embeddings} positions:"
            " choose a smaller one"
        )
    if options.kv not in KV_TYPES:
        raise EdgeMtpError(f"KV type {options.kv!r} is unknown: choose {' or '.join(KV_TYPES)}")
    if options.widths and not set(options.widths) <= set(VERIFY_WIDTHS):
        raise EdgeMtpError(
            f"verify widths {','.join(map(str, options.widths))} are not all between {VERIFY_WIDTHS[0]} and"
            f" {VERIFY_WIDTHS[-1]}: choose among those"
        )


def disk_room(pair: Pair, weights: int) -> int:
    """Bytes that an export needs on disk. Each section lies there twice while the bundle is put together; `weights`
    bytes of them are weights.
    """
    configs = (pair.target.config, pair.drafter.config.get_text_config())
    layers: int = sum(config.num_hidden_layers for config in configs)
    return 2 * weights + WORKING_DISK + layers * WORKING_DISK_A_LAYER


def _check_memory(pair: Pair, options: Options) -> None:
    with quiet():
        from edge_mtp.export import store

    needed = WORKING_MEMORY + store.memory(
        (shape, options.recipe.encoding(section, name, shape))
        for section, weights in ((recipes.PREFILL_DECODE, pair.target.weights), (recipes.DRAFTER, pair.drafter.weights))
        for name, shape in weights.names.items()
        if name != recipes.PER_LAYER_TABLE  # is in a section of its own
    )
    available = available_memory()
    if available is not None and available < needed:
        raise EdgeMtpError(
            f"{available >> 20} MiB of memory are available, the export needs {needed >> 20} MiB: close other programs"
        )


def available_memory() -> int | None:
    """Bytes that can be had without swapping; None where the system does not tell."""
    try:
        found = re.search(r"^MemAvailable: *(\d+) kB$", Path("/proc/meminfo").read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) << 10 if found else None


def _identity(pair: Pair, options: Options) -> str:
    """What decides every byte that an export writes, as text.

    Without the places of files that are small enough to be known by their content, since random pairs lie elsewhere
    each time.
    """
    code = hashlib.sha256()
    for source in sorted([*Path(__file__).parent.glob("*.py"), *Path(__file__).parent.glob("*.jinja")]):
        code.update(source.read_bytes())
    return json.dumps(
        {
            "options": asdict(options),
            "files": [_stamp(path) for path in (pair.tokenizer, *pair.target.files, *pair.drafter.files)],
            "seeds": [pair.target.seed, pair.drafter.seed],
            "chat": [pair.chat_template, pair.generation, pair.special_tokens],
            "exporter": [_versions(), code.hexdigest()],
        }
    )


def _stamp(path: Path) -> list[str | int]:
    commit = download.commit(path.parent)
    if commit is not None:
        return [path.parents[2].name, commit, path.name]
    if path.suffix == ".safetensors":
        # Too large to be read for this. One that was replaced by another of its size and time has another time of
        # change, which no program can set back (POSIX, st_ctim); the header says what lies where.
        status = path.stat()
        with path.open("rb") as file:
            header = hashlib.sha256(file.read(HEADER_BYTES)).hexdigest()
        return [str(path.resolve()), status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, header]
    return [path.name, hashlib.sha256(path.read_bytes()).hexdigest()]


def _write_models(pair: Pair, options: Options, parts: Parts, work: Work) -> dict[str, Path]:
    """Trace, assemble and fill every model of the bundle; return their TFLite files by section name."""
    work.begin("trace", "load the converter")
    with quiet():
        from edge_mtp.export import layer_cache

        graphs = graphs_of(pair, options)
    sections = graphs.sections()
    traced = {name: section.traced() for name, section in sections.items()}
    for name in sections:
        work.plan[name] = WEIGHTS_PER_PIECE * len(traced[name]) + _parameters(pair, name, options.lean)
    models = {}
    for name, section in sections.items():
        work.section(name)
        models[name] = parts.folder / f"{name}.tflite"
        if not models[name].is_file():
            work.begin("trace", f"trace {name}")
            pieces = layer_cache.converted(
                name, graphs, traced[name], parts.scratch, lambda piece: work.add(WEIGHTS_PER_PIECE / 2)
            )
            _write_model(pair, options, name, section, pieces, parts, work)
    return models


def _write_model(
    pair: Pair, options: Options, name: str, section: Section, pieces: Any, parts: Parts, work: Work
) -> None:
    from edge_mtp.export import compact, ops
    from edge_mtp.export.store import Store

    work.begin("assemble", f"assemble {name}")
    assembly = section.assemble(pieces)
    compact.compact(assembly.model)
    ops.add_custom_codes(assembly.model)
    store = Store(assembly, parts.folder / f"{name}.tflite")
    bind(pair, options, name, store)
    work.begin("weights", f"weights of {name}")
    store.write(work.add)


def bind(pair: Pair, options: Options, section: str, store: Store) -> None:
    """Tell the store what each weight is and where it comes from."""
    from edge_mtp.export.calibration import cache_scales
    from edge_mtp.export.signatures import DRAFTER

    for qualified, shape in store.weights.items():
        owner, name = qualified.split("/", 1)
        weights = (pair.drafter if owner + "/" == DRAFTER else pair.target).weights
        if len(shape) != 2 or name.endswith("token_ordering"):
            store.constant(qualified, weights.read(name).reshape(shape))
            continue
        role = recipes.DRAFTER if owner + "/" == DRAFTER else section
        encoding = options.recipe.encoding(role, name, shape)
        kept = options.recipe.keeps(role, name)
        read = partial(weights.encoded, name) if kept else _reader(weights, name, shape)
        store.matrix(qualified, (shape[0], shape[1]), encoding, read)
    if options.kv == "int8":
        store.cache_scales(cache_scales(pair.target))


def _reader(weights: Any, name: str, shape: tuple[int, ...]) -> Callable[[int, int], Any]:
    """Rows of a weight as the matrix `shape`; experts' matrices lie on top of each other."""
    per_entry = shape[0] // weights.names[name][0]

    def read(start: int, stop: int) -> Any:
        first, last = start // per_entry, -(-stop // per_entry)
        rows = weights.read(name, first, last).reshape(-1, shape[1])
        return rows[start - first * per_entry : stop - first * per_entry]

    return read


def graphs_of(pair: Pair, options: Options) -> Graphs:
    """The graphs of a bundle; imports torch."""
    from edge_mtp.export.decoder import Decoder
    from edge_mtp.export.shapes import drafters_allowed
    from edge_mtp.export.signatures import Graphs

    assistant = pair.drafter.config
    with drafters_allowed():
        drafter = Decoder.of(assistant.get_text_config())
    return Graphs(
        target=Decoder.of(pair.target.config),
        drafter=drafter,
        context=options.context,
        prefill=options.prefill,
        widths=options.widths,
        int8_kv=options.kv == "int8",
        centroids=assistant.num_centroids if assistant.use_ordered_embeddings else 0,
        nearest=assistant.centroid_intermediate_top_k,
    )


def _parameters(pair: Pair, section: str, lean: bool) -> int:
    """Weights that go into a section."""
    target = pair.target.weights.names
    tables = {recipes.EMBEDDER: recipes.TABLE, recipes.PER_LAYER_EMBEDDER: recipes.PER_LAYER_TABLE}
    if section in tables:
        return math.prod(target[tables[section]])
    if section == recipes.DRAFTER:
        return pair.drafter.parameters
    decoder = sum(math.prod(shape) for name, shape in target.items() if name != recipes.PER_LAYER_TABLE)
    return decoder + (0 if lean else pair.drafter.parameters)


def _chat(pair: Pair) -> Chat:
    """What a runtime must know to hold a conversation: tokens by the text that gives them their role."""
    config, ids = pair.target.config, tokenizer_ids(pair.tokenizer)

    def token(name: str, value: Any) -> int:
        if type(value) is not int or not 0 <= value < config.vocab_size:
            raise EdgeMtpError(
                f"{pair.target.directory} has {name} {value!r}, which is no id from 0 to {config.vocab_size - 1}:"
                " correct generation_config.json or config.json"
            )
        return value

    def given(name: str) -> Any:
        return pair.generation.get(name, getattr(config, name))

    eos, start, pad = given("eos_token_id"), given("bos_token_id"), given("pad_token_id")
    stops = {token("eos_token_id", each) for each in (eos if isinstance(eos, list) else [] if eos is None else [eos])}
    stops |= {ids[text] for text in STOPS if text in ids}
    if start is None or not stops:
        raise EdgeMtpError(f"{pair.target.directory} names no start or stop token: add generation_config.json")
    return Chat(
        start_token=token("bos_token_id", start),
        pad_token=None if pad is None else token("pad_token_id", pad),
        stop_tokens=sorted(stops),
        thinking=ids.keys() >= THINKING_TOKENS,
        tools=ids.keys() >= TOOL_TOKENS,
    )


def _manifest(pair: Pair, options: Options, chat: Chat, hashes: dict[str, Any], templates: Trial) -> dict[str, Any]:
    """The record of how the bundle was made and how it wants to be run."""
    from edge_mtp.export import layers, ops

    config = pair.target.config
    versions = _versions()
    return {
        "edge_mtp": MANIFEST_VERSION,
        "versions": {
            "edge-mtp": versions.pop("edge-mtp"),
            "ops": {ops.VERIFY: ops.VERSION, ops.DRAFT: ops.VERSION},
            "signatures": SIGNATURES_VERSION,
            "converters": versions,
        },
        "minimum_engine": MINIMUM_ENGINE,
        "source": hashes,
        "recipe": {
            "name": options.recipe.name,
            "roles": {role: encoding.name for role, encoding in options.recipe.roles.items()},
            "overrides": {pattern: encoding.name for pattern, encoding in options.recipe.overrides},
            **_kept(options.recipe),
            "kv": options.kv,
            "int8_instead": list(_int8_instead(pair, options)),
        },
        "context": options.context,
        "prefill_lengths": list(options.prefill),
        "verify_widths": list(options.widths),
        "draft_lengths": [width - 1 for width in options.widths],
        "lean": options.lean,
        "drafter_kv": [f"kv_cache_{kind}_{layer}" for layer in pair.kv_layers.values() for kind in "kv"],
        # The drafter's graphs take input_pos = P - 1 and add this: transformers' position of a draft is P.
        "drafter_position_offset": layers.DRAFTER_POSITION_OFFSET,
        "chat": {"format": "gemma4", **asdict(chat)},
        # What the metadata's template is: see `export.stock_template`. The checkpoint's own has a section.
        "stock_template": {"kind": templates.stock.kind, "reason": templates.stock.reason},
        # Variables of the chat template, which nothing else in the bundle names.
        "special_tokens": pair.special_tokens,
        "model": {
            "hidden_size": config.hidden_size,
            "layers": config.num_hidden_layers,
            "kv_layers": config.num_hidden_layers - config.num_kv_shared_layers,
            "per_layer_width": getattr(config, "hidden_size_per_layer_input", 0) or 0,
            "vocab_size": config.vocab_size,
            "sliding_window": config.sliding_window,
        },
    }


def _kept(recipe: recipes.Recipe) -> dict[str, Any]:
    """For the manifest: the weights that are the checkpoint's own integers, in groups by encoding; layers together."""
    names: dict[str, list[str]] = {}
    for name, encoding in recipe.kept.items():
        names.setdefault(encoding.name, []).append(name)
    kept = {encoding: list(groups(of)) for encoding, of in sorted(names.items())}
    return {"kept": kept} if kept else {}


def _int8_instead(pair: Pair, options: Options) -> tuple[str, ...]:
    return options.recipe.int8_instead(pair.target.weights.names, pair.drafter.weights.names)


def _versions() -> dict[str, str]:
    return {
        name: importlib.metadata.version(name) for name in ("edge-mtp", "litert-torch", "litert-converter", "torch")
    }
