"""Gemma 4 in pieces: small torch modules that `signatures` joins into whole graphs.

A decoder has dozens of layers of a few kinds. Each kind is traced once per number of rows, with its weights as inputs,
and placed once for each layer of that kind. All shapes are static.

T rows, H hidden size, V vocabulary, L layers, P per-layer width, C cache length, N query heads, h KV heads, G = N / h,
D head size, S keys that attention sees. K [1,h,C,D] and V [1,h,D,C] are the caches. transformers'
`modeling_gemma4.py` and `modeling_gemma4_assistant.py` define the computation; `tests/oracle/test_parity.py` compares.
"""

from __future__ import annotations

from typing import Any

import torch
from litert_torch.generative.custom_ops.bmm_4d import bmm_4d
from litert_torch.generative.custom_ops.dynamic_update_slice import dynamic_update_slice
from torch import Tensor, nn

from edge_mtp.export import ops
from edge_mtp.export.attention import HIDDEN, K_AXIS, V_AXIS, attention
from edge_mtp.export.candidates import candidates, looked_up_candidates
from edge_mtp.export.decoder import SLIDING, Decoder, Experts, Layer
from edge_mtp.export.placeholders import dequantize, gather, linear, lookup, quantize, scaled
from edge_mtp.export.shapes import HEAD

# The stock runtime gives the drafter the position P - 1. transformers' SinglePositionMultiTokenCandidateGenerator gives
# it P = len - 1, the position of the last token, which has no KV yet. The graphs add the difference.
DRAFTER_POSITION_OFFSET = 1

ROTATION_STEP = 128  # positions that two tables of cosines and sines cover together: this many, and multiples of it

# How attention reads the caches. USED: the positions that a row sees, by the op of `attention`. WHOLE: all of them, and
# masks hide the rest. SPLIT: the same, but the call's rows are read beside the caches, and the runtime appends them
# afterwards: NPUs cannot write at a place that is computed.
USED, WHOLE, SPLIT = "used", "whole", "split"

EMBEDDING = "model.embed_tokens.weight"  # the head, too, where it is tied
TARGET_EMBEDDING = "target"  # the one weight of a drafter's piece that is not the drafter's
PER_LAYER_EMBEDDING = "model.embed_tokens_per_layer.weight"

Shape = tuple[int, ...]


class Piece(nn.Module):
    """A part of a graph. `inputs` and `weights` are the shapes (and types) of its arguments, by name.

    `forward` gets the inputs by name and the weights as the dict `weights`; it returns a dict. Inputs are float32,
    except those named in `integers` and those in `bytes`, which are int8.
    """

    inputs: dict[str, Shape]
    weights: dict[str, Shape]
    integers: frozenset[str] = frozenset()
    bytes: frozenset[str] = frozenset()

    def sample(self) -> dict[str, Any]:
        """Inputs for tracing, which take no memory, however large."""

        def zeros(name: str, shape: Shape) -> Tensor:
            integer = torch.int32 if name in self.integers else torch.int8
            dtype = integer if name in self.integers | self.bytes else torch.float32
            return torch.zeros((), dtype=dtype).expand(shape)

        sample: dict[str, Any] = {name: zeros(name, shape) for name, shape in self.inputs.items()}
        if self.weights:
            sample["weights"] = {name: zeros(name, shape) for name, shape in self.weights.items()}
        return sample


def rms_norm(x: Tensor, weight: Tensor | None, epsilon: float) -> Tensor:
    """x / rms(x) over the last axis, times `weight`.

    It is no composite `odml.rms_norm`: LiteRT's GPU accelerator claims that one and crashes. `half` changes its form.
    """
    normed = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + epsilon)
    return normed if weight is None else normed * weight


def gelu(x: Tensor) -> Tensor:
    return nn.functional.gelu(x, approximate="tanh")


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding: x [1,T,N,D], cos and sin [1,T,1,D]; the first half of the sines has the other sign."""
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat((right, left), dim=-1) * sin


class Rotation(nn.Module):
    """position i32 [T], up to `context` -> cos_* and sin_* for each type of attention, [1,T,1,D] each.

    They are looked up: half precision cannot hold an angle of thousands. For p = a + b with a multiple a of
    `ROTATION_STEP`, cos p = cos a cos b - sin a sin b and sin p = sin a cos b + cos a sin b. A row of a table has all D
    for the cosines and then for the sines. The sines of the first half are negated, as `rotate` wants them.
    """

    def __init__(self, decoder: Decoder, context: int) -> None:
        super().__init__()
        self.attentions = decoder.attentions
        halves = {attention: decoder.frequencies[attention].double() for attention in self.attentions}
        self.sizes = [2 * len(half) for half in halves.values()] * 2
        frequencies = torch.cat([half.repeat(2) for half in halves.values()])
        scaling = torch.cat([half.new_full((2 * len(half),), decoder.scaling[a]) for a, half in halves.items()])
        sign = torch.cat([torch.ones_like(half) * side for half in halves.values() for side in (-1, 1)])
        far = torch.arange(0, context + 1, ROTATION_STEP).view(-1, 1) * frequencies
        near = torch.arange(ROTATION_STEP).view(-1, 1) * frequencies
        self.far = nn.Buffer(_row(far.cos() * scaling, far.sin() * scaling * sign))
        self.far_swapped = nn.Buffer(_row(far.sin() * scaling, far.cos() * scaling))
        self.near_cos = nn.Buffer(_row(near.cos(), near.cos()))
        self.near_sin = nn.Buffer(_row(-near.sin(), near.sin() * sign))

    def forward(self, position: Tensor) -> dict[str, Tensor]:
        a, b = position // ROTATION_STEP, position % ROTATION_STEP
        turned = gather(a, self.far) * gather(b, self.near_cos) + gather(a, self.far_swapped) * gather(b, self.near_sin)
        parts = turned.view(1, len(position), 1, -1).split(self.sizes, dim=-1)
        names = [f"{name}_{attention}" for name in ("cos", "sin") for attention in self.attentions]
        return dict(zip(names, parts, strict=True))


def _row(cosines: Tensor, sines: Tensor) -> Tensor:
    return torch.cat((cosines, sines), dim=1).float()


class Masks:
    """The attention masks, f32 [1,1,G*T,S] for each type.

    Args:
        mask: additive, f32 [1,1,T,C].
        position: i32 [T], consecutive; sliding layers do not see keys before `position` - `oldest`.
        beside: where the caches are split from the rows, what hides the T rows of the call from one another,
            f32 [1,1,T,T]: in full layers and in sliding ones.
    """

    def __init__(
        self, mask: Tensor, position: Tensor, oldest: int, beside: tuple[Tensor, Tensor] | None = None
    ) -> None:
        self.full = mask
        keys = torch.arange(mask.shape[-1], dtype=torch.int32)
        visible = keys.view(1, -1) >= position.view(-1, 1) - oldest
        self.sliding = mask + torch.where(visible, 0.0, HIDDEN).to(torch.float32).view(1, 1, len(position), -1)
        if beside is not None:
            self.full, self.sliding = (
                torch.cat((cached, own), dim=-1) for cached, own in zip((self.full, self.sliding), beside, strict=True)
            )

    def of(self, decoder: Decoder) -> dict[str, Tensor]:
        """mask_* for each type of attention."""
        masks = {kind: self.sliding if kind == SLIDING else self.full for kind in decoder.attentions}
        return {f"mask_{kind}": torch.cat([mask] * decoder.group(kind), dim=2) for kind, mask in masks.items()}


def spans(decoder: Decoder, first: Tensor, end: Tensor) -> dict[str, Tensor]:
    """seen_* i32 [T,2] for each type of attention: the positions before `end`, in sliding layers from `first` on; both
    i32 [T]."""
    begin = {SLIDING: torch.clamp(first, min=0)}
    return {
        f"seen_{kind}": torch.stack((begin.get(kind, torch.zeros_like(first)), end), dim=1)
        for kind in decoder.attentions
    }


class Begin(Piece):
    """The tensors that the layers of a pass share.

    input_pos i32 [T], embeddings [1,T,H], per_layer_embeddings [1,T,L,P] -> for each type of attention cos_*, sin_* and
    seen_* i32 [T,2], the positions that the rows see; start i32 [], the cache row to write; per_layer_0 .. L-1 [1,T,P].
    Where the whole cache is read: mask f32 [1,1,T,C] -> mask_* [1,1,G*T,C] instead of seen_*. Where the caches are
    split from the rows, `mask` shows what is cached, the same in each row, and mask_* [1,1,G*T,C+T] has the rows behind
    it.
    """

    integers = frozenset({"input_pos"})

    def __init__(self, decoder: Decoder, rows: int, context: int, reach: str) -> None:
        super().__init__()
        self.decoder, self.reach = decoder, reach
        self.rotation = Rotation(decoder, context)
        if reach == SPLIT:
            age = torch.arange(rows).view(-1, 1) - torch.arange(rows).view(1, -1)  # of a row, seen from another
            self.full = nn.Buffer(_hiding((age < 0).view(1, 1, rows, rows)))
            self.sliding = nn.Buffer(_hiding(((age < 0) | (age >= decoder.window)).view(1, 1, rows, rows)))
        self.inputs = {"input_pos": (rows,)}
        if reach != USED:
            self.inputs["mask"] = (1, 1, rows, context)
        self.weights = {}
        if decoder.per_layer:
            width, layers = decoder.per_layer, len(decoder.layers)
            self.inputs["embeddings"] = (1, rows, decoder.hidden)
            self.inputs["per_layer_embeddings"] = (1, rows, layers, width)
            self.weights["model.per_layer_model_projection.weight"] = (layers * width, decoder.hidden)
            self.weights["model.per_layer_projection_norm.weight"] = (width,)

    def forward(
        self,
        input_pos: Tensor,
        mask: Tensor | None = None,
        embeddings: Tensor | None = None,
        per_layer_embeddings: Tensor | None = None,
        weights: dict[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        decoder, oldest = self.decoder, self.decoder.window - 1
        if mask is None:
            seen = spans(decoder, input_pos - oldest, input_pos + 1)
        else:
            beside = (self.full, self.sliding) if self.reach == SPLIT else None
            seen = Masks(mask, input_pos, oldest, beside).of(decoder)
        outputs: dict[str, Tensor] = self.rotation(input_pos) | seen | {"start": input_pos[0].clone()}
        if embeddings is not None and per_layer_embeddings is not None and weights is not None:
            projected = linear(embeddings, weights["model.per_layer_model_projection.weight"])
            projected = (projected * decoder.hidden**-0.5).view(per_layer_embeddings.shape)
            norm = weights["model.per_layer_projection_norm.weight"]
            combined = (rms_norm(projected, norm, decoder.epsilon) + per_layer_embeddings) * 2.0**-0.5
            outputs |= {f"per_layer_{index}": row for index, row in enumerate(combined.unbind(2))}
        return outputs


def _hiding(hidden: Tensor) -> Tensor:
    return torch.where(hidden, HIDDEN, 0.0).to(torch.float32)


class DecoderLayer(Piece):
    """One layer.

    hidden [1,T,H], cos and sin [1,T,1,D], per_layer [1,T,P] -> hidden. A layer with its own KV also takes start,
    k_cache and v_cache -> k_cache, v_cache, and keys and values, which other layers of the type may read. A layer
    without takes keys and values.

    `reach` USED: takes seen i32 [T,2], of at most `span` positions (None: any number); keys and values are the caches
    as they are, int8 ones too, whose scales are those called k and v. WHOLE: takes mask [1,1,G*T,C]; keys and values
    are float32. SPLIT: takes mask [1,1,G*T,C+T]; a layer with its own KV takes k_cache and v_cache -> the rows
    k_new [1,h,T,D] and v_new [1,h,D,T], keys [1,h,C+T,D] and values [1,h,D,C+T].
    """

    integers = frozenset({"start", "seen"})

    def __init__(
        self,
        decoder: Decoder,
        layer: Layer,
        rows: int,
        context: int,
        reach: str,
        int8_kv: bool,
        span: int | None = None,
    ) -> None:
        super().__init__()
        self.decoder, self.layer, self.reach, self.int8_kv, self.span = decoder, layer, reach, int8_kv, span
        hidden, dim, heads = decoder.hidden, layer.head_dim, layer.kv_heads
        group, length = layer.heads // heads, context + rows if reach == SPLIT else context
        self.inputs = {"hidden": (1, rows, hidden), "cos": (1, rows, 1, dim), "sin": (1, rows, 1, dim)}
        self.inputs |= {"seen": (rows, 2)} if reach == USED else {"mask": (1, 1, group * rows, length)}
        if layer.own_kv:
            self.inputs |= {"k_cache": (1, heads, context, dim), "v_cache": (1, heads, dim, context)}
            if reach != SPLIT:
                self.inputs["start"] = ()
        else:
            self.inputs |= {"keys": (1, heads, length, dim), "values": (1, heads, dim, length)}
        if int8_kv:
            self.bytes = frozenset({"k_cache", "v_cache"} | ({"keys", "values"} if reach == USED else set()))
        if decoder.per_layer:
            self.inputs["per_layer"] = (1, rows, decoder.per_layer)
        self.weights = layer_weights(decoder, layer)

    def forward(self, hidden: Tensor, weights: dict[str, Tensor], **inputs: Tensor) -> dict[str, Tensor]:
        decoder, outputs = self.decoder, {}

        def norm(x: Tensor, name: str) -> Tensor:
            return rms_norm(x, weights[f"{name}.weight"], decoder.epsilon)

        x = norm(hidden, "input_layernorm")
        if self.layer.own_kv:
            outputs = self.remember(x, weights, inputs)
        attended = self.attend(x, weights, inputs | outputs)
        hidden = hidden + norm(attended, "post_attention_layernorm")

        x = norm(hidden, "pre_feedforward_layernorm")
        gate = gelu(linear(x, weights["mlp.gate_proj.weight"]))
        x = linear(gate * linear(x, weights["mlp.up_proj.weight"]), weights["mlp.down_proj.weight"])
        if decoder.experts is not None:
            chosen = self.experts(hidden, weights, decoder.experts)
            x = norm(x, "post_feedforward_layernorm_1") + norm(chosen, "post_feedforward_layernorm_2")
        hidden = hidden + norm(x, "post_feedforward_layernorm")

        if decoder.per_layer:
            x = gelu(linear(hidden, weights["per_layer_input_gate.weight"])) * inputs["per_layer"]
            x = linear(x, weights["per_layer_projection.weight"])
            hidden = hidden + norm(x, "post_per_layer_input_norm")
        return outputs | {"hidden": hidden * weights["layer_scalar"]}

    def remember(self, x: Tensor, weights: dict[str, Tensor], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Write the rows' keys and values to the caches; return the caches and what attention reads. If they are split
        from the rows: return the rows, and what attention reads."""
        layer, epsilon = self.layer, self.decoder.epsilon
        heads = (1, x.shape[1], layer.kv_heads, layer.head_dim)
        key = linear(x, weights["self_attn.k_proj.weight"]).view(heads)
        value = key if layer.k_is_v else linear(x, weights["self_attn.v_proj.weight"]).view(heads)
        key = rotate(rms_norm(key, weights["self_attn.k_norm.weight"], epsilon), inputs["cos"], inputs["sin"])
        value = rms_norm(value, None, epsilon)
        key, value = key.permute(0, 2, 1, 3), value.permute(0, 2, 3, 1)
        if self.reach == SPLIT:
            keys = torch.cat((inputs["k_cache"], key), dim=K_AXIS)
            values = torch.cat((inputs["v_cache"], value), dim=V_AXIS)
            return {"k_new": key, "v_new": value, "keys": keys, "values": values}
        if self.int8_kv:
            key, value = quantize(key, "k"), quantize(value, "v")
        zero, start = torch.zeros((), dtype=torch.int32), inputs["start"]
        k_cache = dynamic_update_slice(inputs["k_cache"], key, [zero, zero, start, zero])
        v_cache = dynamic_update_slice(inputs["v_cache"], value, [zero, zero, zero, start])
        keys, values = k_cache, v_cache
        if self.int8_kv and self.reach == WHOLE:
            keys, values = dequantize(keys, "k"), dequantize(values, "v")
        return {"k_cache": k_cache, "v_cache": v_cache, "keys": keys, "values": values}

    def attend(self, x: Tensor, weights: dict[str, Tensor], inputs: dict[str, Tensor]) -> Tensor:
        layer, rows = self.layer, x.shape[1]
        query = linear(x, weights["self_attn.q_proj.weight"]).view(1, rows, layer.heads, layer.head_dim)
        query = rms_norm(query, weights["self_attn.q_norm.weight"], self.decoder.epsilon)
        query = rotate(query, inputs["cos"], inputs["sin"]).permute(0, 2, 1, 3)
        query = query.reshape(1, layer.kv_heads, -1, layer.head_dim)  # the rows of G heads side by side
        keys, values = inputs["keys"], inputs["values"]
        if self.reach == USED:
            # The op takes integers as they are: a scale is a factor of all scores, and one of all values.
            query = scaled(query, keys, "k") if self.int8_kv else query
            attended = attention(query, keys, values, inputs["seen"], self.span)
            attended = scaled(attended, values, "v") if self.int8_kv else attended
        else:
            scores = torch.softmax(bmm_4d(query, keys) + inputs["mask"], dim=-1)  # Gemma 4 scales by 1
            attended = bmm_4d(scores, values)
        attended = attended.view(1, layer.heads, rows, layer.head_dim)
        attended = attended.permute(0, 2, 1, 3).reshape(1, rows, -1)
        projected: Tensor = linear(attended, weights["self_attn.o_proj.weight"])
        return projected

    def experts(self, hidden: Tensor, weights: dict[str, Tensor], sizes: Experts) -> Tensor:
        """The experts' output, [1,T,H]. Each row reads only the weights of its chosen experts."""
        epsilon, width = self.decoder.epsilon, self.decoder.hidden
        x = rms_norm(hidden, None, epsilon) * (weights["router.scale"] * width**-0.5)
        probability, index = torch.topk(torch.softmax(linear(x, weights["router.proj.weight"]), dim=-1), sizes.chosen)
        index = index.to(torch.int32)
        share = probability / probability.sum(dim=-1, keepdim=True)
        share = share * gather(index.view(-1), weights["router.per_expert_scale"]).view(share.shape)
        x = rms_norm(hidden, weights["pre_feedforward_layernorm_2.weight"], epsilon)
        rows = [
            chosen_experts(x[:, row], index[0, row], share[:, row], weights, sizes) for row in range(hidden.shape[1])
        ]
        return torch.cat(rows, dim=0).view(hidden.shape)


def chosen_experts(x: Tensor, index: Tensor, share: Tensor, weights: dict[str, Tensor], sizes: Experts) -> Tensor:
    """One row's experts: x [1,H], index i32 [k] and share [1,k] of the chosen ones -> [1,H]."""
    width, inner = x.shape[1], sizes.intermediate

    def matrix(name: str, experts: Tensor, rows: int) -> Tensor:
        ids = experts.view(-1, 1) * rows + torch.arange(rows, dtype=torch.int32).view(1, -1)
        looked_up: Tensor = lookup(ids.view(-1), weights[name])
        return looked_up

    gate, up = linear(x, matrix("experts.gate_up_proj", index, 2 * inner)).view(sizes.chosen, 2, inner).unbind(1)
    states = (gelu(gate) * up).chunk(sizes.chosen)
    answers = [
        linear(state, matrix("experts.down_proj", expert, width))
        for state, expert in zip(states, index.chunk(sizes.chosen), strict=True)
    ]
    answer: Tensor = share @ torch.cat(answers)
    return answer


def layer_weights(decoder: Decoder, layer: Layer) -> dict[str, Shape]:
    """Shapes of a layer's weights, by their names within the layer; matrices are [out, in]."""
    hidden, dim = decoder.hidden, layer.head_dim
    queries, keys = layer.heads * dim, layer.kv_heads * dim
    shapes: dict[str, Shape] = {
        "input_layernorm.weight": (hidden,),
        "self_attn.q_proj.weight": (queries, hidden),
        "self_attn.q_norm.weight": (dim,),
        "self_attn.o_proj.weight": (hidden, queries),
        "post_attention_layernorm.weight": (hidden,),
        "pre_feedforward_layernorm.weight": (hidden,),
        "mlp.gate_proj.weight": (layer.intermediate, hidden),
        "mlp.up_proj.weight": (layer.intermediate, hidden),
        "mlp.down_proj.weight": (hidden, layer.intermediate),
        "post_feedforward_layernorm.weight": (hidden,),
        "layer_scalar": (1, 1, 1),  # of as many axes as what it scales, else the graph would reshape a constant
    }
    if layer.own_kv:
        shapes |= {"self_attn.k_proj.weight": (keys, hidden), "self_attn.k_norm.weight": (dim,)}
        if not layer.k_is_v:
            shapes["self_attn.v_proj.weight"] = (keys, hidden)
    if width := decoder.per_layer:
        shapes |= {
            "per_layer_input_gate.weight": (width, hidden),
            "per_layer_projection.weight": (hidden, width),
            "post_per_layer_input_norm.weight": (hidden,),
        }
    if experts := decoder.experts:
        shapes |= {
            "router.scale": (hidden,),
            "router.proj.weight": (experts.count, hidden),
            "router.per_expert_scale": (experts.count,),
            # Tables whose rows are looked up: the checkpoint's first two axes are merged into one.
            "experts.gate_up_proj": (experts.count * 2 * experts.intermediate, hidden),
            "experts.down_proj": (experts.count * hidden, experts.intermediate),
            "post_feedforward_layernorm_1.weight": (hidden,),
            "pre_feedforward_layernorm_2.weight": (hidden,),
            "post_feedforward_layernorm_2.weight": (hidden,),
        }
    return shapes


class Head(Piece):
    """hidden [1,T,H] -> activations (after the final norm) and logits [1,T,V]. Only here are logits softcapped.

    `tied`: the embedding is the head, too.
    """

    def __init__(self, decoder: Decoder, rows: int, tied: bool) -> None:
        super().__init__()
        self.decoder = decoder
        self.inputs = {"hidden": (1, rows, decoder.hidden)}
        self.head = EMBEDDING if tied else HEAD
        self.weights = {"model.norm.weight": (decoder.hidden,), self.head: (decoder.vocabulary, decoder.hidden)}

    def forward(self, hidden: Tensor, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        activations = rms_norm(hidden, weights["model.norm.weight"], self.decoder.epsilon)
        logits = linear(activations, weights[self.head])
        if cap := self.decoder.softcap:
            logits = torch.tanh(logits / cap) * cap
        return {"logits": logits, "activations": activations}


class Verify(Piece):
    """The verify op over the logits of T = K + 1 rows."""

    integers = frozenset({"draft", "control", "token_mask"})

    def __init__(self, decoder: Decoder, rows: int) -> None:
        super().__init__()
        self.weights = {}
        self.inputs = {
            "logits": (1, rows, decoder.vocabulary),
            "draft": (1, rows - 1),
            "control": (1, ops.CONTROL_LENGTH),
            "scalars": (1, ops.SCALARS_LENGTH),
            "token_mask": (1, rows, ops.mask_words(decoder.vocabulary)),
        }

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        accepted, tokens = ops.verify(**inputs)
        return {"n_accepted": accepted, "tokens": tokens}


class Likeliest(Piece):
    """logits f32 [1,T,V] -> tokens i32 [1,T]: the greedy choice, so that no logits need to leave an accelerator."""

    def __init__(self, decoder: Decoder, rows: int) -> None:
        super().__init__()
        self.weights = {}
        self.inputs = {"logits": (1, rows, decoder.vocabulary)}

    def forward(self, logits: Tensor) -> dict[str, Tensor]:
        return {"tokens": torch.argmax(logits, dim=-1).to(torch.int32)}


class NextHidden(Piece):
    """n_accepted i32 [1] and activations [1,T,H] -> next_hidden [1,1,H]: those of the last accepted row.

    The next draft reads them, so they need not leave the accelerator. Without an answer (n_accepted < 0) they are 0.
    """

    integers = frozenset({"n_accepted"})

    def __init__(self, decoder: Decoder, rows: int) -> None:
        super().__init__()
        self.rows = rows
        self.weights = {}
        self.inputs = {"n_accepted": (1,), "activations": (1, rows, decoder.hidden)}

    def forward(self, n_accepted: Tensor, activations: Tensor) -> dict[str, Tensor]:
        distance = torch.arange(self.rows, dtype=torch.float32).view(1, -1, 1) - n_accepted.float()
        chosen = torch.relu(1.0 - distance.abs())
        return {"next_hidden": (activations * chosen).sum(dim=1, keepdim=True)}


class Embedder(Piece):
    """token_ids i32 [1,1] -> embeddings f32 [1,1,H], or [1,1,L,P] from the per-layer table; scaled."""

    integers = frozenset({"token_ids"})

    def __init__(self, name: str, vocabulary: int, shape: Shape) -> None:
        super().__init__()
        self.name, self.shape = name, shape
        self.inputs = {"token_ids": (1, 1)}
        self.weights = {name: (vocabulary, torch.Size(shape).numel())}

    def forward(self, token_ids: Tensor, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        row = lookup(token_ids.view(1), weights[self.name])
        return {"embeddings": row.view(1, 1, *self.shape) * self.shape[-1] ** 0.5}


class DraftBegin(Piece):
    """The tensors that the steps of a draft round share.

    input_pos i32 [1] = P - 1 -> cos_*, sin_* and seen_* i32 [1,2] by type of attention. As in transformers, sliding
    layers see the last window + 1 of the P cached positions, P - 1 - window .. P - 1. Where the whole cache is read:
    mask f32 [1,1,1,C] and the target's k_* and v_* caches -> mask_*, keys_*, values_* instead of seen_*. A folded draft
    also has control -> offset_0 .. K-1 i32 [1], the numbers of the steps.
    """

    integers = frozenset({"input_pos", "control"})

    def __init__(self, drafter: Decoder, context: int, reach: str, int8_kv: bool, steps: int) -> None:
        super().__init__()
        self.drafter, self.int8_kv, self.steps = drafter, int8_kv, steps
        self.rotation = Rotation(drafter, context)
        self.weights = {}
        self.inputs = {"input_pos": (1,)}
        if reach != USED:
            self.inputs["mask"] = (1, 1, 1, context)
            for layer in dict.fromkeys(drafter.layers):
                self.inputs[f"k_{layer.attention}"] = (1, layer.kv_heads, context, layer.head_dim)
                self.inputs[f"v_{layer.attention}"] = (1, layer.kv_heads, layer.head_dim, context)
        if int8_kv:
            self.bytes = frozenset(name for name in self.inputs if name[:2] in ("k_", "v_"))
        if steps:
            self.inputs["control"] = (1, ops.CONTROL_LENGTH)

    def forward(
        self, input_pos: Tensor, mask: Tensor | None = None, control: Tensor | None = None, **caches: Tensor
    ) -> dict[str, Tensor]:
        drafter, position = self.drafter, input_pos + DRAFTER_POSITION_OFFSET
        outputs: dict[str, Tensor] = self.rotation(position)
        # The row at `position` itself is not in the cache, so its window of keys ends one position before it.
        oldest = drafter.window + 1
        if mask is None:
            outputs |= spans(drafter, position - oldest, position)
        else:
            outputs |= Masks(mask, position, oldest).of(drafter)
        for name, cache in caches.items():
            kind, attention = name.split("_", 1)
            port = "keys" if kind == "k" else "values"
            outputs[f"{port}_{attention}"] = dequantize(cache, name) if self.int8_kv else cache
        if control is not None:
            # A kernel takes no constants (ops.draft says why); adding the reserved entry, 0, makes them computed.
            outputs |= {f"offset_{step}": control[0, -1:] + step for step in range(self.steps)}
        return outputs


class DraftIn(Piece):
    """activations f32 [1,1,2B] = [scaled embedding | hidden state], B the target's hidden size -> hidden [1,1,H].

    Folded: token i32 [1] and activations [1,1,B], the hidden state; the embedding is looked up in the target's table.
    """

    integers = frozenset({"token"})

    def __init__(self, drafter: Decoder, target: Decoder, folded: bool) -> None:
        super().__init__()
        self.folded = folded
        self.weights = {"pre_projection.weight": (drafter.hidden, 2 * target.hidden)}
        self.inputs = {"activations": (1, 1, (1 if folded else 2) * target.hidden)}
        if folded:
            self.inputs["token"] = (1,)
            self.weights[TARGET_EMBEDDING] = (target.vocabulary, target.hidden)

    def forward(
        self, activations: Tensor, weights: dict[str, Tensor], token: Tensor | None = None
    ) -> dict[str, Tensor]:
        if token is not None:
            row = lookup(token, weights[TARGET_EMBEDDING]) * activations.shape[-1] ** 0.5
            activations = torch.cat([row.view(activations.shape), activations], dim=-1)
        return {"hidden": linear(activations, weights["pre_projection.weight"])}


class DraftOut(Piece):
    """hidden [1,1,H] -> logits [1,1,V] and projected_activations [1,1,B], the next step's hidden state.

    Folded: hidden, control, scalars, offset i32 [1] -> token i32 [1], confidence f32 [1], projected_activations.
    """

    integers = frozenset({"control", "offset", "masked_embedding.token_ordering"})

    def __init__(self, drafter: Decoder, target: Decoder, centroids: int, nearest: int, folded: bool) -> None:
        super().__init__()
        self.drafter, self.centroids, self.nearest, self.folded = drafter, centroids, nearest, folded
        self.inputs = {"hidden": (1, 1, drafter.hidden)}
        if folded:
            self.inputs |= {"control": (1, ops.CONTROL_LENGTH), "scalars": (1, ops.SCALARS_LENGTH), "offset": (1,)}
        self.weights = {
            "model.norm.weight": (drafter.hidden,),
            EMBEDDING: (drafter.vocabulary, drafter.hidden),
            "post_projection.weight": (target.hidden, drafter.hidden),
        }
        if centroids:
            self.weights |= {
                "masked_embedding.centroids.weight": (centroids, drafter.hidden),
                "masked_embedding.token_ordering": (centroids, drafter.vocabulary // centroids),
            }

    def forward(self, hidden: Tensor, weights: dict[str, Tensor], **request: Tensor) -> dict[str, Tensor]:
        state = rms_norm(hidden, weights["model.norm.weight"], self.drafter.epsilon)
        outputs = {"projected_activations": linear(state, weights["post_projection.weight"])}
        logits, ids = self.candidates(state, weights)
        if self.folded:
            token, confidence = ops.draft(logits, ids, **request)
            return outputs | {"token": token, "confidence": confidence}
        if self.centroids:
            logits = torch.full((self.drafter.vocabulary,), HIDDEN).index_copy(0, ids[0].long(), logits[0])
        return outputs | {"logits": logits.view(1, 1, -1)}

    def candidates(self, state: Tensor, weights: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The logits of the tokens of the nearest centroids, f32 [1,n], and these tokens, i32 [1,n]; without centroids
        those of all V tokens."""
        head = weights[EMBEDDING]
        if not self.centroids:
            return linear(state, head)[0], torch.arange(self.drafter.vocabulary, dtype=torch.int32).view(1, -1)
        scores = linear(state, weights["masked_embedding.centroids.weight"])
        nearest = torch.topk(scores, k=self.nearest, dim=-1)[1].view(-1).to(torch.int32)
        tokens = weights["masked_embedding.token_ordering"]
        # Other runtimes than ours call the drafter step by step, and its graph has builtin operators only.
        compute = candidates if self.folded else looked_up_candidates
        return compute(state, nearest, head, tokens)


class Columns(Piece):
    """token_j i32 [1] and confidence_j f32 [1] of K steps -> draft i32 [1,K], confidence f32 [1,K]."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = range(steps)
        self.weights = {}
        self.integers = frozenset(f"token_{step}" for step in self.steps)
        self.inputs = {f"{name}_{step}": (1,) for name in ("token", "confidence") for step in self.steps}

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        def joined(name: str) -> Tensor:
            return torch.cat([inputs[f"{name}_{step}"].view(1, 1) for step in self.steps], dim=1)

        return {"draft": joined("token"), "confidence": joined("confidence")}
