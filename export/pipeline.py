"""From a checkpoint pair to a bundle, in one call."""

from __future__ import annotations

import importlib.metadata
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_mtp.errors import EdgeMtpError
from edge_mtp.export.checkpoint import Pair, load_drafter, load_target, open_pair, tokenizer_ids
from edge_mtp.export.quiet import quiet
from edge_mtp.export.token_bytes import token_table
from edge_mtp.export.writer import STOPS, THINKING_TOKENS, TOOL_TOKENS, Chat, llm_metadata, write_bundle

if TYPE_CHECKING:
    from edge_mtp.export.convert import Signature

# Called when a stage begins: its name, stages done before it, stages in all.
Progress = Callable[[str, int, int], None]

VERIFY_WIDTHS = range(2, 9)
DRAFT_LENGTHS = range(1, 8)
# Rows of the verify graphs that are traced; those of VERIFY_WIDTHS follow from them. Primes, and so neither is
# some dimension of the model as well, for which the converter might find shortcuts.
TRACED_WIDTHS = (11, 13)
STOCK_VERIFY_WIDTH = 4  # the stock runtime drafts one token fewer than its verify has rows

MANIFEST_VERSION = 1
SIGNATURES_VERSION = 1
# The stock engine that is known to pass the drafter P - 1 and to run these bundles.
MINIMUM_ENGINE = "litert-lm 0.18.1"


@dataclass(frozen=True)
class Summary:
    """What an export made: bytes of each section, seconds of each kind of stage."""

    path: Path
    sections: dict[str, int]
    seconds: dict[str, float]


@dataclass(frozen=True)
class Options:
    """C positions of KV cache; rows of each prefill signature; name of a quantization recipe; whether to leave
    out the `edge_*` signatures."""

    context: int
    prefill: tuple[int, ...]
    quantization: str
    lean: bool


class Stages:
    """Counts stages, times them, and tells the caller when each begins."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.seconds: dict[str, float] = {}
        self._progress = progress
        self._total = total
        self._done = -1
        self._begun = ("", 0.0)

    def __call__(self, name: str) -> None:
        self.close()
        self._done += 1
        self._progress(name, self._done, self._total)
        self._begun = (name, time.monotonic())

    def close(self) -> None:
        name, since = self._begun
        if name:
            kind = name.split()[0]
            self.seconds[kind] = self.seconds.get(kind, 0.0) + time.monotonic() - since
        self._begun = ("", 0.0)


def export_bundle(
    target: Path,
    drafter: Path,
    output: Path,
    *,
    quantization: str = "fp32",
    context: int = 1024,
    prefill: Sequence[int] = (128,),
    lean: bool = False,
    progress: Progress = lambda stage, done, total: None,
) -> Summary:
    """Write the bundle `output` from two checkpoint directories; a failure leaves nothing behind.

    Args:
        target: a Gemma 4 checkpoint with tokenizer.json and chat template.
        drafter: the Gemma 4 assistant that was trained for it.
        quantization: `fp32`, or `int8` for int8 weights with float32 activations and KV.
        context: C, positions in the KV cache.
        prefill: rows of the prefill signatures.
        lean: leave out the `edge_*` signatures, so that only the stock runtime's graphs remain.
        progress: told when each stage begins.

    Raises:
        EdgeMtpError: the pair, an option, or the place of the output does not allow it.
    """
    options = Options(context, tuple(sorted(set(prefill))), quantization, lean)
    with quiet():
        pair = open_pair(target, drafter)
    _check(options, pair)
    chat, table = _chat(pair), token_table(pair.tokenizer, pair.target.config.vocab_size)
    with _scratch(output, pair) as scratch:
        stages = Stages(progress, _stage_count(options, pair))
        models = _convert_models(pair, options, scratch, stages)
        stages("write bundle")
        bundle = scratch / "bundle"
        sections = write_bundle(
            bundle,
            metadata=llm_metadata(chat, pair.chat_template, options.context - VERIFY_WIDTHS[-1]),
            tokenizer=pair.tokenizer,
            models=models,
            manifest=_manifest(pair, options, chat),
            token_table=table,
            scratch=scratch,
        )
        stages.close()
        bundle.replace(output)
    return Summary(output, sections, stages.seconds)


def _check(options: Options, pair: Pair) -> None:
    config = pair.target.config
    least = max(*options.prefill, 2 * VERIFY_WIDTHS[-1])
    if options.context < least:
        raise EdgeMtpError(
            f"context {options.context} is too small: the widest prefill and verify need at least {least}"
        )
    if options.context > config.max_position_embeddings:
        raise EdgeMtpError(
            f"context {options.context} is more than the target's {config.max_position_embeddings} positions:"
            " choose a smaller one"
        )


@contextmanager
def _scratch(output: Path, pair: Pair) -> Iterator[Path]:
    """A directory beside `output`, so that the finished bundle can be renamed into place; gone afterwards."""
    if output.is_dir():
        raise EdgeMtpError(f"output {output} is a directory: give the name of a file in it")
    folder = output.parent
    # At most three float32 copies exist at a time: converted, quantized, in the bundle.
    needed = 3 * 4 * (pair.target.parameters + pair.drafter.parameters)
    try:
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise EdgeMtpError(
                f"{folder} has {free >> 20} MiB free, the export needs {needed >> 20} MiB: write elsewhere"
            )
        with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=folder) as scratch:
            yield Path(scratch)
    except OSError as error:
        raise EdgeMtpError(
            f"output {output} cannot be written ({error.strerror}): choose a directory you may write to"
        ) from error


def _stage_count(options: Options, pair: Pair) -> int:
    """Two stages a traced signature, one a model, one for the weights and one for the bundle."""
    embedders = 1 + bool(pair.target.config.hidden_size_per_layer_input)
    stock = len(options.prefill) + 3  # decode, verify and the drafter's
    traced = embedders + stock + (0 if options.lean else len(TRACED_WIDTHS) + 2)
    return 2 * traced + (embedders + 2) + 2


def _convert_models(pair: Pair, options: Options, scratch: Path, stages: Stages) -> dict[str, Path]:
    """Convert and quantize every model of the bundle; return their TFLite files by section name."""
    stages("load weights")
    with quiet():
        from edge_mtp.export import flatbuffer, graphs, ops
        from edge_mtp.export.convert import convert
        from edge_mtp.export.quantize import quantize
    last_stage = "store" if options.quantization == "fp32" else "quantize"
    models = {}
    with graphs.patched():
        with quiet():
            target, drafter = load_target(pair.target), load_drafter(pair.drafter)
        for name, signatures in _models(pair, target, drafter, options).items():
            converted, models[name] = scratch / f"{name}.converted", scratch / f"{name}.tflite"
            convert(signatures, converted, stages)
            stages(f"{last_stage} {name}")
            _finish(converted, derived=name == "prefill_decode" and not options.lean)
            quantize(converted, models[name], options.quantization)
            claimable = ops.add_custom_codes(models[name].read_bytes())
            models[name].write_bytes(flatbuffer.serialize(flatbuffer.parse(claimable)))
    return models


def _models(pair: Pair, target: Any, assistant: Any, options: Options) -> dict[str, list[Signature]]:
    """The signatures to trace, by section; `_finish` derives the others."""
    from edge_mtp.export import graphs
    from edge_mtp.export.convert import Signature

    target, assistant = graphs.prepare(target), graphs.prepare(assistant)
    decoder, context = target.model, options.context
    models = {}

    embedder = graphs.Embedder(decoder.embed_tokens)
    models["embedder"] = [Signature("embedder", embedder, embedder.sample())]
    if decoder.config.hidden_size_per_layer_input:
        per_layer = graphs.PerLayerEmbedder(decoder.embed_tokens_per_layer, decoder.config.num_hidden_layers)
        models["per_layer_embedder"] = [Signature("per_layer_embedder", per_layer, per_layer.sample())]

    prefill, decode = graphs.Prefill(target, context), graphs.Decode(target, context)
    drafter = graphs.Drafter(assistant, decoder.config, pair.kv_layers, context)
    signatures = [Signature(f"prefill_{rows}", prefill, prefill.sample(rows)) for rows in options.prefill]
    signatures.append(Signature("decode", decode, decode.sample(1)))
    signatures.append(Signature("verify", decode, decode.sample(STOCK_VERIFY_WIDTH)))
    if not options.lean:
        # The stock signatures read the whole cache, as any accelerator can; ours, for the CPU, cut their windows.
        cut_decode, cut_verify = graphs.Decode(target, context, cut=True), graphs.Verify(target, context, cut=True)
        folded = graphs.FoldedDrafter(drafter, target.lm_head.weight, DRAFT_LENGTHS[-1], cut=True)
        signatures.append(Signature("edge_decode", cut_decode, cut_decode.sample(1)))
        signatures += [Signature(f"edge_verify_{t}", cut_verify, cut_verify.sample(t)) for t in TRACED_WIDTHS]
        signatures.append(Signature(f"edge_draft_{DRAFT_LENGTHS[-1]}", folded, folded.sample()))
    models["prefill_decode"] = signatures
    models["mtp_drafter"] = [Signature("mtp_drafter", drafter, drafter.sample())]
    return models


def _finish(path: Path, *, derived: bool) -> None:
    """Add the signatures that follow from converted ones, and make the file small."""
    from edge_mtp.export import compact, derive, flatbuffer

    model = flatbuffer.parse(path.read_bytes())
    if derived:
        traced = {rows: f"edge_verify_{rows}" for rows in TRACED_WIDTHS}
        for rows in VERIFY_WIDTHS:
            derive.add_width(model, traced, f"edge_verify_{rows}", rows)
        for name in traced.values():
            derive.remove(model, name)
        for length in DRAFT_LENGTHS[:-1]:
            derive.add_beginning(model, f"edge_draft_{DRAFT_LENGTHS[-1]}", f"edge_draft_{length}", length)
    compact.compact(model)
    path.write_bytes(flatbuffer.serialize(model))


def _chat(pair: Pair) -> Chat:
    """What a runtime must know to hold a conversation: tokens by the text that gives them their role."""
    config, ids = pair.target.config, tokenizer_ids(pair.tokenizer)
    eos = pair.generation.get("eos_token_id", config.eos_token_id)
    stops = set(eos if isinstance(eos, list) else [] if eos is None else [eos])
    stops |= {ids[text] for text in STOPS if text in ids}
    start = pair.generation.get("bos_token_id", config.bos_token_id)
    if start is None or not stops:
        raise EdgeMtpError(f"{pair.target.directory} names no start or stop token: add generation_config.json")
    return Chat(
        start_token=start,
        pad_token=pair.generation.get("pad_token_id", config.pad_token_id),
        stop_tokens=sorted(stops),
        thinking=ids.keys() >= THINKING_TOKENS,
        tools=ids.keys() >= TOOL_TOKENS,
    )


def _manifest(pair: Pair, options: Options, chat: Chat) -> dict[str, Any]:
    """The record of how the bundle was made and how it wants to be run."""
    from edge_mtp.export import graphs, ops
    from edge_mtp.export.quantize import RECIPES

    config = pair.target.config
    version = importlib.metadata.version
    return {
        "edge_mtp": MANIFEST_VERSION,
        "versions": {
            "edge-mtp": version("edge-mtp"),
            "ops": {ops.VERIFY: ops.VERSION, ops.DRAFT: ops.VERSION},
            "signatures": SIGNATURES_VERSION,
            "converters": {
                name: version(name) for name in ("litert-torch", "litert-converter", "ai-edge-quantizer", "torch")
            },
        },
        "minimum_engine": MINIMUM_ENGINE,
        "source": {
            "target": pair.target.hashes(),
            "drafter": pair.drafter.hashes(),
        },
        "quantization": {"name": options.quantization, "recipe": RECIPES[options.quantization][0]},
        "context": options.context,
        "prefill_lengths": list(options.prefill),
        "verify_widths": [] if options.lean else list(VERIFY_WIDTHS),
        "draft_lengths": [] if options.lean else list(DRAFT_LENGTHS),
        "lean": options.lean,
        "drafter_kv": [f"kv_cache_{kind}_{layer}" for layer in pair.kv_layers.values() for kind in "kv"],
        # The drafter's graphs take input_pos = P - 1 and add this: transformers' position of a draft is P.
        "drafter_position_offset": graphs.DRAFTER_POSITION_OFFSET,
        "chat": {"format": "gemma4", **asdict(chat)},
        "model": {
            "hidden_size": config.hidden_size,
            "layers": config.num_hidden_layers,
            "kv_layers": config.num_hidden_layers - config.num_kv_shared_layers,
            "per_layer_width": config.hidden_size_per_layer_input,
            "vocab_size": config.vocab_size,
            "sliding_window": config.sliding_window,
        },
    }
