"""Builds each signature of a bundle from its pieces.

The stock runtime's signatures (`prefill_*`, `decode`, `verify`, the embedders' and the drafter's) read the whole
cache, which every accelerator can do. Ours (`edge_*`), for the CPU, cut windows out of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from edge_mtp.export import derive, layers
from edge_mtp.export.assemble import Assembly, Graph
from edge_mtp.export.convert import Signature
from edge_mtp.export.decoder import SLIDING, Decoder

# The numbers of rows for which the verify graphs' pieces are traced; other widths are derived from these. Primes, so
# that neither equals a dimension of the model, for which the converter might take shortcuts.
TRACED_WIDTHS = (11, 13)
STOCK_VERIFY_WIDTH = 4  # rows; the stock runtime drafts one token fewer

TARGET, DRAFTER = "target/", "drafter/"  # prefixes of a weight's name in the checkpoint, by owner


@dataclass(frozen=True)
class Rows:
    """The kind of a pass through the target: T rows, over cut windows or the whole cache."""

    count: int
    cut: bool

    def __str__(self) -> str:
        return f"{'cut' if self.cut else 'whole'}_{self.count}"


@dataclass(frozen=True)
class Graphs:
    """The graphs of one pair.

    Whether the target's embedding is its head, too; C positions of KV cache, float32 or int8; rows of the prefill
    signatures; T of each `edge_verify_T` (none in a lean bundle); the number of centroids of the drafter's ordered
    embeddings and how many of them it searches (0 without).
    """

    target: Decoder
    drafter: Decoder
    tied: bool
    context: int
    prefill: tuple[int, ...]
    widths: tuple[int, ...]
    int8_kv: bool
    centroids: int
    nearest: int

    def sections(self) -> dict[str, Section]:
        sections: dict[str, Section] = {"embedder": EmbedderSection(self, "embedder")}
        if self.target.per_layer:
            sections["per_layer_embedder"] = EmbedderSection(self, "per_layer_embedder")
        return sections | {"prefill_decode": DecoderSection(self), "mtp_drafter": DrafterSection(self)}


class Section(ABC):
    """One TFLite model of a bundle."""

    def __init__(self, graphs: Graphs) -> None:
        self.graphs = graphs

    @abstractmethod
    def traced(self) -> list[Signature]:
        """The pieces to convert."""

    @abstractmethod
    def assemble(self, pieces: Any) -> Assembly:
        """Builds the section's signatures from the converted `pieces`, an object tree that it changes."""


def _trace(name: str, piece: layers.Piece) -> Signature:
    return Signature(name, piece, piece.sample())


class EmbedderSection(Section):
    """Looks up one token in the embedding table or in the per-layer table."""

    def __init__(self, graphs: Graphs, name: str) -> None:
        super().__init__(graphs)
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

    def __init__(self, graphs: Graphs, cut: bool, folded: bool) -> None:
        self.graphs, self.cut, self.folded = graphs, cut, folded
        self.prefix = "draft" if folded else "stock"

    def traced(self) -> list[Signature]:
        graphs, drafter = self.graphs, self.graphs.drafter
        steps = max(graphs.widths) - 1 if self.folded else 0
        begin = layers.DraftBegin(drafter, graphs.context, self.cut, graphs.int8_kv, steps)
        traced = [_trace(f"{self.prefix}_begin", begin)]
        traced.append(_trace(f"{self.prefix}_in", layers.DraftIn(drafter, graphs.target, self.folded)))
        for kind, layer in enumerate(dict.fromkeys(drafter.layers)):
            length = graphs.context
            if self.cut and layer.attention == SLIDING:
                length = layers.window_length(drafter.window + 1, 0, length)
            piece = layers.DecoderLayer(drafter, layer, 1, graphs.context, length, graphs.int8_kv)
            traced.append(_trace(f"{self.prefix}_layer_{kind}", piece))
        out = layers.DraftOut(drafter, graphs.target, graphs.centroids, graphs.nearest, self.folded)
        return [*traced, _trace(f"{self.prefix}_out", out)]

    def begin(self, graph: Graph) -> dict[str, int]:
        inputs = {name: name for name in ("input_pos", "mask", "control")}
        scales = {}
        for attention in self.graphs.drafter.attentions:
            layer = self.graphs.target.kv_source(attention)
            for kind in "kv":
                inputs[f"{kind}_{attention}"] = f"kv_cache_{kind}_{layer}"
                scales[f"{kind}_{attention}"] = f"{layer}.{kind}"
        return graph.place(f"{self.prefix}_begin", inputs, scales=scales)

    def step(
        self, graph: Graph, shared: dict[str, int], inputs: dict[str, int | str], request: dict[str, int | str]
    ) -> dict[str, int]:
        """One drafter step. `inputs` are DraftIn's, `request` are DraftOut's besides the hidden state."""
        target_table = {layers.TARGET_EMBEDDING: TARGET + layers.EMBEDDING}
        own = {"pre_projection.weight": f"{DRAFTER}pre_projection.weight"}
        hidden = graph.place(f"{self.prefix}_in", inputs, own | target_table)["hidden"]
        drafter = self.graphs.drafter
        kinds = list(dict.fromkeys(drafter.layers))
        for index, layer in enumerate(drafter.layers):
            hidden = graph.place(
                f"{self.prefix}_layer_{kinds.index(layer)}",
                {"hidden": hidden}
                | {port: shared[f"{port}_{layer.attention}"] for port in ("cos", "sin", "mask", "keys", "values")},
                f"{DRAFTER}model.layers.{index}.",
            )["hidden"]
        return graph.place(f"{self.prefix}_out", {"hidden": hidden, **request}, DRAFTER)


class DrafterSection(Section):
    """One drafter step, as the stock runtime calls it."""

    def __init__(self, graphs: Graphs) -> None:
        super().__init__(graphs)
        self.pieces = DraftPieces(graphs, cut=False, folded=False)

    def traced(self) -> list[Signature]:
        return self.pieces.traced()

    def assemble(self, pieces: Any) -> Assembly:
        assembly = Assembly(pieces)
        graph = assembly.graph("mtp_drafter")
        graph.finish(self.pieces.step(graph, self.pieces.begin(graph), {"activations": "activations"}, {}))
        return assembly


class DecoderSection(Section):
    """The target's passes and, unless lean, the folded drafter."""

    def __init__(self, graphs: Graphs) -> None:
        super().__init__(graphs)
        self.kinds = list(dict.fromkeys(graphs.target.layers))
        self.draft = DraftPieces(graphs, cut=True, folded=True)

    def traced(self) -> list[Signature]:
        graphs, target = self.graphs, self.graphs.target
        passes = [Rows(count, False) for count in (*graphs.prefill, 1, STOCK_VERIFY_WIDTH)]
        if graphs.widths:
            passes += [Rows(count, True) for count in (1, *self.samples)]
        traced = []
        for rows in dict.fromkeys(passes):
            traced.append(_trace(f"begin_{rows}", layers.Begin(target, rows.count, graphs.context, rows.cut)))
            for kind, layer in enumerate(self.kinds):
                keys = self._keys(rows, layer.attention)
                piece = layers.DecoderLayer(target, layer, rows.count, graphs.context, keys, graphs.int8_kv)
                traced.append(_trace(f"layer_{kind}_{rows}", piece))
        for count in (1, STOCK_VERIFY_WIDTH):
            traced.append(_trace(f"head_{count}", layers.Head(target, count, graphs.tied)))
        if graphs.widths:
            for count in self.samples:
                traced.append(_trace(f"edge_head_{count}", layers.Head(target, count, graphs.tied)))
                traced.append(_trace(f"edge_verify_{count}", layers.Verify(target, count)))
            traced += self.draft.traced()
            traced += [_trace(f"columns_{width - 1}", layers.Columns(width - 1)) for width in graphs.widths]
        return traced

    @property
    def samples(self) -> tuple[int, ...]:
        """The widths to trace: two, or all if each row has its own operators (because it chooses its experts)."""
        return self.graphs.widths if self.graphs.target.experts else TRACED_WIDTHS

    def _derive(self, model: Any) -> None:
        """Derive the pieces of the other widths from the traced ones."""
        layers = [f"layer_{kind}_cut" for kind in range(len(self.kinds))]
        for name in ("begin_cut", *layers, "edge_head", "edge_verify"):
            samples = {rows: f"{name}_{rows}" for rows in self.samples}
            for rows in set(self.graphs.widths) - set(self.samples):
                derive.add_width(model, samples, f"{name}_{rows}", rows)

    def assemble(self, pieces: Any) -> Assembly:
        self._derive(pieces)
        assembly = Assembly(pieces)
        for count in self.graphs.prefill:
            graph = assembly.graph(f"prefill_{count}")
            graph.finish(self._layers(graph, Rows(count, False))[1])
        self._decode(assembly, "decode", Rows(1, False))
        self._decode(assembly, "verify", Rows(STOCK_VERIFY_WIDTH, False))
        if self.graphs.widths:
            self._decode(assembly, "edge_decode", Rows(1, True))
        for count in self.graphs.widths:
            self._decode(assembly, f"edge_verify_{count}", Rows(count, True), verify=True)
            self._fold(assembly, count - 1)
        return assembly

    def _decode(self, assembly: Assembly, name: str, rows: Rows, *, verify: bool = False) -> None:
        graph = assembly.graph(name)
        hidden, caches = self._layers(graph, rows)
        head = f"edge_head_{rows.count}" if verify else f"head_{rows.count}"
        outputs = caches | graph.place(head, {"hidden": hidden}, TARGET)
        if verify:
            request: dict[str, int | str] = {name: name for name in ("draft", "control", "scalars", "token_mask")}
            outputs |= graph.place(f"edge_verify_{rows.count}", {"logits": outputs["logits"]} | request)
        graph.finish(outputs)

    def _layers(self, graph: Graph, rows: Rows) -> tuple[int, dict[str, int]]:
        """All layers; return the last one's hidden state and the written caches."""
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
            inputs |= {port: shared[f"{port}_{layer.attention}"] for port in ("cos", "sin", "mask")}
            if target.per_layer:
                inputs["per_layer"] = shared[f"per_layer_{index}"]
            if layer.own_kv:
                inputs |= {"start": shared["start"]}
                inputs |= {f"{kind}_cache": f"kv_cache_{kind}_{index}" for kind in "kv"}
                if "window" in shared:
                    inputs["window"] = shared["window"]
            else:
                inputs |= seen[layer.attention]
            outputs = graph.place(
                f"layer_{self.kinds.index(layer)}_{rows}", inputs, f"{TARGET}model.layers.{index}.", f"{index}."
            )
            hidden = outputs["hidden"]
            if layer.own_kv:
                caches |= {f"kv_cache_{kind}_{index}": outputs[f"{kind}_cache"] for kind in "kv"}
                seen[layer.attention] = {port: outputs[port] for port in ("keys", "values")}
        assert isinstance(hidden, int)
        return hidden, caches

    def _fold(self, assembly: Assembly, length: int) -> None:
        graph = assembly.graph(f"edge_draft_{length}")
        shared = self.draft.begin(graph)
        inputs: dict[str, int | str] = {"token": "token", "activations": "activations"}
        columns: dict[str, int | str] = {}
        for step in range(length):
            request: dict[str, int | str] = {"control": "control", "scalars": "scalars"}
            outputs = self.draft.step(graph, shared, inputs, request | {"offset": shared[f"offset_{step}"]})
            inputs = {"token": outputs["token"], "activations": outputs["projected_activations"]}
            columns |= {f"{name}_{step}": outputs[name] for name in ("token", "confidence")}
        graph.finish(graph.place(f"columns_{length}", columns))

    def _keys(self, rows: Rows, attention: str) -> int:
        graphs = self.graphs
        if not rows.cut or attention != SLIDING:
            return graphs.context
        return layers.window_length(graphs.target.window - 1, max(rows.count, layers.MANY_ROWS), graphs.context)
