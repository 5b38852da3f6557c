"""Builds each signature of a bundle from its pieces.

The stock runtime's signatures (`prefill_*`, `decode`, `verify`, the embedders' and the drafter's) and those for the
GPU (`gpu_*`) read the whole cache. Those for the CPU (`edge_*`) read what is used of it. Those for NPUs (`npu_*`) read
it whole and do not write it: they give out the new rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from edge_mtp.export import derive, half, layers, ops
from edge_mtp.export.assemble import Assembly, Graph
from edge_mtp.export.convert import Signature
from edge_mtp.export.decoder import SLIDING, Decoder, Layer
from edge_mtp.export.layers import SPLIT, USED, WHOLE
from edge_mtp.formats.accelerator import CPU, GPU, NPU
from edge_mtp.formats.bundle import GRAPHS_SECTIONS, PREFIXES

# The numbers of rows for which the verify graphs' pieces are traced; other widths are derived from these. Primes, so
# that neither equals a dimension of the model, for which the converter might take shortcuts.
TRACED_WIDTHS = (11, 13)
STOCK_VERIFY_WIDTH = 4  # rows; the stock runtime drafts one token fewer

# How the target's graphs for each accelerator read the caches. A folded draft writes none, so SPLIT is WHOLE there.
REACHES: dict[str, str] = {CPU: USED, GPU: WHOLE, NPU: SPLIT}

TARGET, DRAFTER = "target/", "drafter/"  # prefixes of a weight's name in the checkpoint, by owner


@dataclass(frozen=True)
class Rows:
    """The kind of a pass through the target: T rows, and how they read the caches (`layers.USED` and so on)."""

    count: int
    reach: str

    def __str__(self) -> str:
        return f"{self.reach}_{self.count}"


def _draft_reach(accelerator: str) -> str:
    return USED if REACHES[accelerator] == USED else WHOLE


@dataclass(frozen=True)
class Graphs:
    """The graphs of one pair.

    Whether the target's embedding is its head, too; C positions of KV cache, float32 or int8; rows of the prefill
    signatures; T of each `edge_verify_T` (none in a lean bundle); the accelerators that have graphs of their own; the
    number of centroids of the drafter's ordered embeddings and how many of them it searches (0 without).
    """

    target: Decoder
    drafter: Decoder
    tied: bool
    context: int
    prefill: tuple[int, ...]
    widths: tuple[int, ...]
    accelerators: tuple[str, ...]
    int8_kv: bool
    centroids: int
    nearest: int

    def sections(self) -> dict[str, Section]:
        """The sections in the order in which they are made: the last ones, our own, use the weights of those before."""
        sections: dict[str, Section] = {"embedder": EmbedderSection(self, "embedder")}
        if self.target.per_layer:
            sections["per_layer_embedder"] = EmbedderSection(self, "per_layer_embedder")
        sections |= {"prefill_decode": StockSection(self), "mtp_drafter": DrafterSection(self)}
        return sections | {GRAPHS_SECTIONS[name]: OwnSection(self, name) for name in self.accelerators}


class Section(ABC):
    """One TFLite model of a bundle, built from the pieces called `pieces`, which sections may share."""

    def __init__(self, graphs: Graphs, pieces: str) -> None:
        self.graphs = graphs
        self.pieces = pieces

    @abstractmethod
    def traced(self) -> list[Signature]:
        """The pieces to convert; equal for sections that share them."""

    @abstractmethod
    def assemble(self, pieces: Any) -> Assembly:
        """Builds the section's signatures from the converted `pieces`, an object tree that it changes."""


def _trace(name: str, piece: layers.Piece) -> Signature:
    return Signature(name, piece, piece.sample())


class EmbedderSection(Section):
    """Looks up one token in the embedding table or in the per-layer table."""

    def __init__(self, graphs: Graphs, name: str) -> None:
        super().__init__(graphs, name)
        self.name = name

    def traced(self) -> list[Signature]:
        target = self.graphs.target
        if self.name == "embedder":
            piece = layers.Embedder(layers.EMBEDDING, target.vocabulary, (target.hidden,))
        else:
            shape = (len(target.layers), target.per_layer)
            piece = layers.Embedder(layers.PER_LAYER_EMBEDDING, target.per_layer_vocabulary, shape)
        return [_trace(self.name, piece)]

    def assemble(self, pieces: Any) -> Assembly:
        assembly = Assembly(pieces)
        graph = assembly.graph(self.name)
        graph.finish(graph.place(self.name, {"token_ids": "token_ids"}, TARGET))
        return assembly


class DraftPieces:
    """The drafter's pieces, and one step built from them."""

    def __init__(self, graphs: Graphs, reach: str, folded: bool) -> None:
        self.graphs, self.reach, self.folded = graphs, reach, folded
        self.shown = "seen" if reach == USED else "mask"  # what tells a layer which positions it sees
        self.begin_name = f"draft_begin_{reach}"
        self.kinds = list(dict.fromkeys(graphs.drafter.layers))

    def traced(self) -> list[Signature]:
        graphs, drafter = self.graphs, self.graphs.drafter
        steps = max(graphs.widths) - 1 if self.folded else 0
        begin = layers.DraftBegin(drafter, graphs.context, self.reach, graphs.int8_kv, steps)
        traced = [_trace(self.begin_name, begin)]
        traced.append(_trace("draft_in", layers.DraftIn(drafter, graphs.target, self.folded)))
        for layer in self.kinds:
            span = drafter.window + 1 if layer.attention == SLIDING else None
            piece = layers.DecoderLayer(drafter, layer, 1, graphs.context, self.reach, graphs.int8_kv, span)
            traced.append(_trace(self._name(layer), piece))
        out = layers.DraftOut(drafter, graphs.target, graphs.centroids, graphs.nearest, self.folded)
        return [*traced, _trace("draft_out", out)]

    def begin(self, graph: Graph) -> dict[str, int | str]:
        inputs = {name: name for name in ("input_pos", "mask", "control")}
        scales = {}
        caches: dict[str, int | str] = {}
        for attention in self.graphs.drafter.attentions:
            layer = self.graphs.target.kv_source(attention)
            for kind, port in (("k", "keys"), ("v", "values")):
                inputs[f"{kind}_{attention}"] = caches[f"{port}_{attention}"] = f"kv_cache_{kind}_{layer}"
                scales[f"{kind}_{attention}"] = f"{layer}.{kind}"
        return caches | graph.place(self.begin_name, inputs, scales=scales)

    def step(
        self, graph: Graph, shared: dict[str, int | str], inputs: dict[str, int | str], request: dict[str, int | str]
    ) -> dict[str, int]:
        """One drafter step. `inputs` are DraftIn's, `request` are DraftOut's besides the hidden state."""
        target_table = {layers.TARGET_EMBEDDING: TARGET + layers.EMBEDDING}
        own = {"pre_projection.weight": f"{DRAFTER}pre_projection.weight"}
        hidden = graph.place("draft_in", inputs, own | target_table)["hidden"]
        for index, layer in enumerate(self.graphs.drafter.layers):
            hidden = graph.place(
                self._name(layer),
                {"hidden": hidden}
                | {port: shared[f"{port}_{layer.attention}"] for port in ("cos", "sin", self.shown, "keys", "values")},
                f"{DRAFTER}model.layers.{index}.",
                f"{self.graphs.target.kv_source(layer.attention)}.",
            )["hidden"]
        return graph.place("draft_out", {"hidden": hidden, **request}, DRAFTER)

    def fold(self, assembly: Assembly, name: str, length: int) -> None:
        """Add the signature `name`: `length` steps, each with the token that the one before has drafted."""
        graph = assembly.graph(name)
        shared = self.begin(graph)
        inputs: dict[str, int | str] = {"token": "token", "activations": "activations"}
        columns: dict[str, int | str] = {}
        for step in range(length):
            request: dict[str, int | str] = {"control": "control", "scalars": "scalars"}
            outputs = self.step(graph, shared, inputs, request | {"offset": shared[f"offset_{step}"]})
            inputs = {"token": outputs["token"], "activations": outputs["projected_activations"]}
            columns |= {f"{name}_{step}": outputs[name] for name in ("token", "confidence")}
        graph.finish(graph.place(f"columns_{length}", columns))

    def _name(self, layer: Layer) -> str:
        return f"draft_layer_{self.kinds.index(layer)}_{self.reach}"


class DrafterSection(Section):
    """One drafter step, as the stock runtime calls it."""

    def __init__(self, graphs: Graphs) -> None:
        super().__init__(graphs, "mtp_drafter")
        self.draft = DraftPieces(graphs, WHOLE, folded=False)

    def traced(self) -> list[Signature]:
        return self.draft.traced()

    def assemble(self, pieces: Any) -> Assembly:
        assembly = Assembly(pieces)
        graph = assembly.graph("mtp_drafter")
        graph.finish(self.draft.step(graph, self.draft.begin(graph), {"activations": "activations"}, {}))
        return assembly


@dataclass
class Family:
    """Pieces that differ in their number of rows alone, and the numbers that the signatures have."""

    piece: Callable[[int], layers.Piece]
    rows: set[int] = field(default_factory=set)


class TargetSection(Section):
    """A section with passes through the target; all such sections share their pieces."""

    def __init__(self, graphs: Graphs) -> None:
        super().__init__(graphs, "target")
        self.kinds = list(dict.fromkeys(graphs.target.layers))
        reaches = dict.fromkeys(_draft_reach(name) for name in graphs.accelerators)
        self.drafts = {reach: DraftPieces(graphs, reach, folded=True) for reach in reaches}

    def traced(self) -> list[Signature]:
        traced = [
            _trace(f"{name}_{rows}", family.piece(rows))
            for name, family in self._families().items()
            for rows in sorted(self._traced_rows(family))
        ]
        for draft in self.drafts.values():
            traced += draft.traced()
        traced += [_trace(f"columns_{width - 1}", layers.Columns(width - 1)) for width in self.graphs.widths]
        # Two drafters may share their last pieces.
        return list({signature.name: signature for signature in traced}.values())

    def _families(self) -> dict[str, Family]:
        """The pieces that all signatures of these sections need, by name without the number of rows."""
        graphs, target = self.graphs, self.graphs.target
        families: dict[str, Family] = {}

        def need(name: str, rows: int, piece: Callable[[int], layers.Piece]) -> None:
            families.setdefault(name, Family(piece)).rows.add(rows)

        for rows in self._passes():
            need(
                f"begin_{rows.reach}",
                rows.count,
                partial(layers.Begin, target, context=graphs.context, reach=rows.reach),
            )
            for layer in self.kinds:
                piece = partial(
                    layers.DecoderLayer,
                    target,
                    layer,
                    context=graphs.context,
                    reach=rows.reach,
                    int8_kv=graphs.int8_kv,
                    span=target.window if layer.attention == SLIDING else None,
                )
                need(self._name(rows, layer), rows.count, piece)
        for count in (1, STOCK_VERIFY_WIDTH, *graphs.widths):
            need("head", count, partial(layers.Head, target, tied=graphs.tied))
        for count in graphs.widths:
            need("select", count, partial(layers.Verify, target))
            if graphs.accelerators != (CPU,):
                need("next_hidden", count, partial(layers.NextHidden, target))
        if graphs.accelerators != (CPU,):
            need("likeliest", 1, partial(layers.Likeliest, target))
        return families

    def _passes(self) -> list[Rows]:
        graphs = self.graphs
        passes = [Rows(count, WHOLE) for count in (*graphs.prefill, 1, STOCK_VERIFY_WIDTH)]
        for accelerator in graphs.accelerators:
            passes += [Rows(count, REACHES[accelerator]) for count in (1, *graphs.widths, *graphs.prefill)]
        return passes

    def _traced_rows(self, family: Family) -> set[int]:
        """The numbers of rows to trace: two for all that can be derived from these.

        Where each row has its own operators, because it chooses its experts, that is none.
        """
        derived = {rows for rows in family.rows if 1 < rows < min(TRACED_WIDTHS)}
        if self.graphs.target.experts or len(derived) < 2:
            return family.rows
        return family.rows - derived | set(TRACED_WIDTHS)

    def _assembly(self, pieces: Any) -> Assembly:
        """An assembly of the pieces, traced and derived."""
        for name, family in self._families().items():
            samples = {rows: f"{name}_{rows}" for rows in TRACED_WIDTHS}
            for rows in sorted(family.rows - self._traced_rows(family)):
                derive.add_width(pieces, samples, f"{name}_{rows}", rows)
        return Assembly(pieces)

    def _prefill(self, assembly: Assembly, prefix: str = "", reach: str = WHOLE) -> None:
        for count in self.graphs.prefill:
            graph = assembly.graph(f"{prefix}prefill_{count}")
            graph.finish(self._layers(graph, Rows(count, reach))[1])

    def _decode(
        self,
        assembly: Assembly,
        name: str,
        rows: Rows,
        *,
        select: bool = False,
        likeliest: bool = False,
        next_hidden: bool = False,
    ) -> None:
        """Add the signature `name`: layers and head; then select tokens, and the hidden state for the next draft."""
        graph = assembly.graph(name)
        hidden, caches = self._layers(graph, rows)
        outputs = caches | graph.place(f"head_{rows.count}", {"hidden": hidden}, TARGET)
        if select:
            request: dict[str, int | str] = {name: name for name in ("draft", "control", "scalars", "token_mask")}
            outputs |= graph.place(f"select_{rows.count}", {"logits": outputs["logits"]} | request)
        if likeliest:
            outputs |= graph.place(f"likeliest_{rows.count}", {"logits": outputs["logits"]})
        if next_hidden:
            chosen = {name: outputs[name] for name in ("n_accepted", "activations")}
            outputs |= graph.place(f"next_hidden_{rows.count}", chosen)
        if rows.reach != USED:
            outputs["activations"] = graph.apart(outputs["activations"])
        graph.finish(outputs)

    def _layers(self, graph: Graph, rows: Rows) -> tuple[int, dict[str, int]]:
        """All layers; return the last one's hidden state and the written caches, or the rows to write."""
        target = self.graphs.target
        begin: dict[str, int | str] = {"input_pos": "input_pos", "mask": "mask"}
        if target.per_layer:
            begin |= {"embeddings": "embeddings", "per_layer_embeddings": "per_layer_embeddings"}
        shared = graph.place(f"begin_{rows}", begin, TARGET)
        hidden: int | str = "embeddings"
        caches: dict[str, int] = {}
        seen: dict[str, dict[str, int]] = {}
        for index, layer in enumerate(target.layers):
            inputs: dict[str, int | str] = {"hidden": hidden}
            shown = "seen" if rows.reach == USED else "mask"
            inputs |= {port: shared[f"{port}_{layer.attention}"] for port in ("cos", "sin", shown)}
            if target.per_layer:
                inputs["per_layer"] = shared[f"per_layer_{index}"]
            if layer.own_kv:
                inputs |= {f"{kind}_cache": f"kv_cache_{kind}_{index}" for kind in "kv"}
                if rows.reach != SPLIT:
                    inputs["start"] = shared["start"]
            else:
                inputs |= seen[layer.attention]
            piece = f"{self._name(rows, layer)}_{rows.count}"
            source = index if layer.own_kv else target.kv_source(layer.attention)
            outputs = graph.place(piece, inputs, f"{TARGET}model.layers.{index}.", f"{source}.")
            hidden = outputs["hidden"]
            if layer.own_kv:
                what = "new" if rows.reach == SPLIT else "cache"
                caches |= {f"kv_{what}_{kind}_{index}": outputs[f"{kind}_{what}"] for kind in "kv"}
                seen[layer.attention] = {port: outputs[port] for port in ("keys", "values")}
        assert isinstance(hidden, int)
        return hidden, caches

    def _name(self, rows: Rows, layer: Layer) -> str:
        return f"layer_{self.kinds.index(layer)}_{rows.reach}"


class StockSection(TargetSection):
    """The target's passes as the stock runtime calls them."""

    def assemble(self, pieces: Any) -> Assembly:
        assembly = self._assembly(pieces)
        self._prefill(assembly)
        self._decode(assembly, "decode", Rows(1, WHOLE))
        self._decode(assembly, "verify", Rows(STOCK_VERIFY_WIDTH, WHOLE))
        if GPU in self.graphs.accelerators:  # the stock engine's GPU backend computes these graphs in half precision
            half.shrink_norms(assembly.model)
        return assembly


class OwnSection(TargetSection):
    """Our own signatures for one accelerator: prefill, decode, verify and folded draft."""

    def __init__(self, graphs: Graphs, accelerator: str) -> None:
        super().__init__(graphs)
        self.accelerator = accelerator

    def assemble(self, pieces: Any) -> Assembly:
        assembly = self._assembly(pieces)
        reach, prefix, is_cpu = REACHES[self.accelerator], PREFIXES[self.accelerator], self.accelerator == CPU
        self._prefill(assembly, prefix, reach)
        self._decode(assembly, f"{prefix}decode", Rows(1, reach), likeliest=not is_cpu)
        draft = self.drafts[_draft_reach(self.accelerator)]
        for count in self.graphs.widths:
            rows = Rows(count, reach)
            self._decode(assembly, f"{prefix}verify_{count}", rows, select=True, next_hidden=not is_cpu)
            draft.fold(assembly, f"{prefix}draft_{count - 1}", count - 1)
        if not is_cpu:
            ops.inline_composites(assembly.model)
            half.shrink_norms(assembly.model)
        return assembly
