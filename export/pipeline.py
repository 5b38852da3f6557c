"""From a checkpoint pair to a bundle, in one call; an interrupted export goes on where it was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge_mtp.chat.chat_format import ChatFormat
from edge_mtp.chat.tokenizer import Tokenizer
from edge_mtp.export import defaults, recipes
from edge_mtp.export.accelerators import chosen
from edge_mtp.export.adapter import AdaptedWeights
from edge_mtp.export.chat import Chat, chat_of, llm_metadata
from edge_mtp.export.checkpoint import Pair, open_pair
from edge_mtp.export.encodings import Encoding
from edge_mtp.export.identity import identity
from edge_mtp.export.manifest import manifest_of
from edge_mtp.export.models import write_models
from edge_mtp.export.options import Options, check
from edge_mtp.export.resources import check_memory, disk_room
from edge_mtp.export.unfinished import Parts
from edge_mtp.export.work import Work
from edge_mtp.export.writer import write_bundle
from edge_mtp.formats.token_bytes import token_table
from edge_mtp.output_file import refuse_inputs
from edge_mtp.progress import Progress
from edge_mtp.quiet import quiet

if TYPE_CHECKING:
    from edge_mtp.export.stock_template import Trial


@dataclass(frozen=True)
class Summary:
    """An export that is done: bytes of each section, seconds of each kind of work, the tensors that it left out, and
    what the chat templates did with the battery."""

    path: Path
    sections: dict[str, int]
    seconds: dict[str, float]
    left_out: tuple[str, ...]
    templates: Trial
    int8_instead: tuple[str, ...]  # weights whose rows are too short for the recipe's blocks
    kept: dict[str, int]  # by encoding, how many tensors are the checkpoint's own integers
    nearly: dict[str, int]  # the same of those that are so but for a few integers (`Weights.nearly`)
    anew: dict[str, int]  # by the checkpoint's form, how many quantized tensors were rounded again
    notes: tuple[str, ...]  # what a user should know of the checkpoints
    accelerators: tuple[str, ...]  # that have graphs of their own
    context: int  # positions of the KV cache
    kv_bytes: int  # of the whole KV cache


def export_bundle(
    target: Path | Pair,
    drafter: Path | None,
    output: Path,
    *,
    recipe: str = defaults.RECIPE,
    context: int | None = None,
    prefill: Sequence[int] | None = None,
    kv: str = defaults.KV,
    lean: bool = False,
    widths: Sequence[int] = defaults.WIDTHS,
    accelerators: Sequence[str] = defaults.ACCELERATORS,
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
        context: C, positions in the KV cache; None for the model's own (`defaults.context`).
        prefill: rows of the prefill signatures; None for the model's own (`defaults.prefill`).
        kv: type of the KV cache, `fp32` or `int8`.
        lean: leave out our own signatures, so that only the stock runtime's graphs remain.
        widths: T of our own verify signatures; each comes with the draft of T - 1 tokens.
        accelerators: whose signatures to write, of `formats.accelerator.ACCELERATORS`.
        origins: for the manifest, where target, drafter and adapter come from.
        progress: told how far it is, from 0 to 1.

    Raises:
        EdgeMtpError: the pair, an option, the machine or the place of the output does not allow it.
        KeyboardInterrupt: with a line for the user about what becomes of what was done.
    """
    loaded = recipes.load(recipe)
    with quiet():
        pair = target if isinstance(target, Pair) else open_pair(target, drafter or Path())
    stored = loaded.keeping(pair.target.weights.encodings, pair.drafter.weights.encodings, grids_of(pair))
    served = () if lean else chosen(accelerators, pair, stored, kv)
    options = Options(
        context=defaults.context(pair.target.directory) if context is None else context,
        prefill=tuple(sorted(set(prefill or defaults.prefill(pair)))),
        widths=() if lean else tuple(sorted(set(widths))),
        accelerators=served,
        kv=kv,
        recipe=stored,
    )
    own_recipe = Path(recipe) if recipe.endswith(".toml") else None
    files = (*pair.target.files, *pair.drafter.files)
    refuse_inputs([output], [pair.tokenizer.parent, *files, pair.target.directory, pair.drafter.directory, own_recipe])
    check(options, pair)
    return _export(pair, options, output, origins or {}, Work(progress))


def _export(pair: Pair, options: Options, output: Path, origins: Mapping[str, str], work: Work) -> Summary:
    """Write the bundle, in a folder that an interrupted export finds again."""
    from edge_mtp.export.decoder import Decoder  # reads what transformers knows

    names = pair.target.weights.names, pair.drafter.weights.names
    chat, table = chat_of(pair), token_table(pair.tokenizer, pair.target.config.vocab_size)
    templates = _tried_templates(pair, chat)
    check_memory(pair, options)
    weights = sum(options.recipe.sizes(*names).values())
    with Parts(output, identity(pair, options), disk_room(pair, weights)) as parts:
        hashes = pair.start_hashing()
        models = write_models(pair, options, parts, work)
        work.begin("bundle", "write bundle")
        bundle = parts.scratch / "bundle"
        sections = write_bundle(
            bundle,
            metadata=llm_metadata(chat, templates.stock.template, options.context - max(defaults.VERIFY_WIDTHS)),
            tokenizer=pair.tokenizer,
            models=models,
            manifest=manifest_of(pair, options, chat, hashes() | {"origins": dict(origins)}, templates),
            token_table=table,
            chat_template=pair.chat_template if templates.stock.template != pair.chat_template else None,
            scratch=parts.scratch,
        )
        parts.publish(bundle)
        work.end()
    instead = options.recipe.int8_instead(*names)
    kept = Counter(encoding.name for encoding in options.recipe.kept.values())
    nearly, anew = _foreign(pair, options)
    return Summary(
        output,
        sections,
        work.seconds,
        pair.target.weights.left_out,
        templates,
        instead,
        dict(kept),
        nearly,
        anew,
        _notes(pair, options),
        options.accelerators,
        options.context,
        options.context * Decoder.of(pair.target.config).kv_bytes(options.kv),
    )


def _foreign(pair: Pair, options: Options) -> tuple[dict[str, int], dict[str, int]]:
    """Of the tensors in a form that no encoding holds, those that were nearly kept, and those that were rounded again;
    a table that is embedding and head counts once."""
    nearly: Counter[str] = Counter()
    anew: Counter[str] = Counter()
    for section, weights in ((recipes.PREFILL_DECODE, pair.target.weights), (recipes.DRAFTER, pair.drafter.weights)):
        for name, form in weights.foreign.items():
            encoding = options.recipe.encoding(section, name, weights.names[name])
            if weights.nearly.get(name) == encoding:
                nearly[encoding.name] += 1
            elif encoding.is_integer:
                anew[form] += 1
    return dict(nearly), dict(anew)


def _notes(pair: Pair, options: Options) -> tuple[str, ...]:
    target, drafter = pair.target.weights, pair.drafter
    notes = [*target.notes, *(f"drafter: {note}" for note in drafter.weights.notes)]
    if isinstance(target, AdaptedWeights):
        notes.append(target.rounding(options.recipe))
    if drafter.directory.is_file() and not drafter.config.use_ordered_embeddings:
        notes.append(
            f"{drafter.directory.name} has no centroids, so a draft compares all {pair.target.config.vocab_size}"
            " tokens; a drafter in safetensors that has them drafts faster"
        )
    return tuple(notes)


def grids_of(pair: Pair) -> Mapping[str, Encoding]:
    """The encodings that the checkpoint had for the matrices that an adapter changed."""
    weights = pair.target.weights
    return weights.grids if isinstance(weights, AdaptedWeights) else {}


def _tried_templates(pair: Pair, chat: Chat) -> Trial:
    with quiet():
        from edge_mtp.export.stock_template import tried

    tokenizer, special = Tokenizer.from_file(pair.tokenizer), pair.special_tokens
    bos = special.get("bos_token", ChatFormat.bos_token)
    stops = frozenset(chat.stop_tokens)
    return tried(ChatFormat(tokenizer, pair.chat_template, stops, bos, special_tokens=special))
