"""The graphs of a bundle as torch modules, each equal to transformers' eager computation.

T rows of a step, H hidden size, V vocabulary, L layers, P per-layer width, C cache length, K draft length,
W = ceil(V/32). P without an index is, in positions, that of the last confirmed token that is not yet cached.

litert-torch's patched Gemma 4 and KV cache do the attention; `patched()` must be active while models are built.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from io import StringIO
from typing import Any

import torch
from litert_torch.backend.optimization_barrier import optimization_barrier
from litert_torch.generative.export_hf.core.cache import LiteRTLMCache
from litert_torch.generative.export_hf.core.exportable_module_config import ExportableModuleConfig
from litert_torch.generative.export_hf.model_ext.gemma4 import patch as gemma4_patch
from torch import Tensor, nn

from edge_mtp.export import ops
from edge_mtp.export.window import ATTENTION, window

# Added to an attention logit to hide it: exp() of it is 0 in float32, and sums of it stay finite in float16.
HIDDEN = -1e4

# The stock runtime gives the drafter the position P - 1, transformers' SinglePositionMultiTokenCandidateGenerator
# P = len - 1 (that of the last token, for which no KV exists yet). The graphs add the difference.
DRAFTER_POSITION_OFFSET = 1

# Windows are cut for at least so many rows, so that graphs of fewer rows differ in nothing but their rows.
MANY_ROWS = 16

# Sequence axes of the caches: K [1,h,C,D], V [1,h,D,C].
K_AXIS, V_AXIS = 2, 3


@contextmanager
def patched() -> Iterator[None]:
    """Swap in litert-torch's exportable Gemma 4 classes; models must be built and traced inside."""
    model = gemma4_patch.LiteRTGemma4TextModel
    # transformers 5.23 derives this flag from the class's source file, which fails for a class outside its tree.
    model._can_set_experts_implementation_cached_value = True
    with ExitStack() as stack:
        with redirect_stdout(StringIO()):  # it says that it was applied
            stack.enter_context(gemma4_patch.gemma4_litert_patch())
        yield


def prepare(model: Any) -> Any:
    """Make a target or drafter built under `patched()` attend in the runtime's cache layout."""
    for config in (model.config, model.model.config):
        config.allow_global_per_layer_attribute_access = True
        config._attn_implementation = ATTENTION
    return model


def new_cache(config: Any, context: int) -> Any:
    """An empty KV cache of `context` positions for every layer of `config` that keeps its own."""
    settings = ExportableModuleConfig(
        model="", cache_length=context, cache_lengths=[context], k_ts_idx=K_AXIS, v_ts_idx=V_AXIS
    )
    return LiteRTLMCache.create_from_config(config, settings)


def sliding(mask: Tensor, position: Tensor, oldest: int, rows: int, cut: bool) -> tuple[Tensor, Tensor | None]:
    """The mask of sliding-window layers, and where in the cache it begins.

    Args:
        mask: additive, f32 [1,1,T,C].
        position: i32 [T], consecutive; keys before `position` - `oldest` are hidden.
        rows: rows that the window is made wide enough for, at least T.
        cut: only the part of the cache that some row can see; else all of it, and no beginning.
    """
    context = mask.shape[-1]
    length = oldest + rows
    keys, start = torch.arange(context, dtype=torch.int32), None
    if cut and length < context:
        start = torch.clamp(position[0] - oldest, 0, context - length)
        mask = window(mask, start, length, 3)
        keys = torch.arange(length, dtype=torch.int32) + start
    visible = keys.view(1, -1) >= position.view(-1, 1) - oldest
    return mask + torch.where(visible, 0.0, HIDDEN).to(torch.float32).view(1, 1, len(position), -1), start


class Prefill(nn.Module):
    """T rows into the KV cache. Nothing reads the KV-shared layers here, so the converter drops them."""

    def __init__(self, target: Any, context: int, cut: bool = False) -> None:
        super().__init__()
        self.target = target
        self.context = context
        self.cut = cut

    def decode(self, inputs: dict[str, Any]) -> tuple[Any, Tensor]:
        """Run the decoder; return the updated cache and the state after the final norm, f32 [1,T,H]."""
        model = self.target.model
        config, position, mask = model.config, inputs["input_pos"], inputs["mask"]
        cache = inputs["kv_cache"]
        cache.set_cache_runtime_args({"cache_position": position})
        cache = cache.insert_dummy_cache_layers(config)
        rows = max(len(position), MANY_ROWS)
        local, start = sliding(mask, position, config.sliding_window - 1, rows, self.cut)
        out = model(
            inputs_embeds=inputs["embeddings"],
            per_layer_inputs=inputs.get("per_layer_embeddings"),
            position_ids=position.clone().unsqueeze(0),
            past_key_values=cache,
            attention_mask={"full_attention": mask, "sliding_attention": local},
            window_start=start,
            use_cache=True,
            k_ts_idx=K_AXIS,
            v_ts_idx=V_AXIS,
        )
        return out.past_key_values.remove_dummy_cache_layers(config), out.last_hidden_state

    def forward(self, **inputs: Any) -> dict[str, Any]:
        cache, _ = self.decode(inputs)
        return {"kv_cache": cache}

    def sample(self, rows: int) -> dict[str, Any]:
        """Inputs of the signature's names, shapes and types, zero."""
        config = self.target.model.config
        inputs = {"embeddings": torch.zeros(1, rows, config.hidden_size)}
        if width := config.hidden_size_per_layer_input:
            inputs["per_layer_embeddings"] = torch.zeros(1, rows, config.num_hidden_layers, width)
        return inputs | {
            "input_pos": torch.arange(rows, dtype=torch.int32),
            "kv_cache": new_cache(config, self.context),
            "mask": torch.zeros(1, 1, rows, self.context),
        }


class Decode(Prefill):
    """T rows into the KV cache, with logits f32 [1,T,V] (softcapped here and nowhere else) and activations."""

    def forward(self, **inputs: Any) -> dict[str, Any]:
        cache, activations = self.decode(inputs)
        logits = self.target.lm_head(activations)
        # Keeps the converter from folding 1 / cap into the head, whose weights would then no longer be the
        # embedding table that the folded drafter gathers from.
        logits, activations = optimization_barrier((logits, activations))
        if cap := self.target.model.config.final_logit_softcapping:
            logits = torch.tanh(logits / cap) * cap
        return {"kv_cache": cache, "logits": logits, "activations": activations}


class Verify(Decode):
    """A decode of T = K + 1 rows that also says how many drafted tokens it accepts, and which tokens follow."""

    def forward(self, **inputs: Any) -> dict[str, Any]:
        outputs = super().forward(**inputs)
        operands = (inputs[name] for name in ("draft", "control", "scalars", "token_mask"))
        accepted, tokens = ops.verify(outputs["logits"], *operands)
        return outputs | {"n_accepted": accepted, "tokens": tokens}

    def sample(self, rows: int) -> dict[str, Any]:
        words = (self.target.model.config.vocab_size + 31) // 32
        return super().sample(rows) | {
            "draft": torch.zeros(1, rows - 1, dtype=torch.int32),
            "control": torch.zeros(1, 8, dtype=torch.int32),
            "scalars": torch.zeros(1, 4),
            "token_mask": torch.zeros(1, rows, words, dtype=torch.int32),
        }


class Embedder(nn.Module):
    """token_ids i32 [1,1] -> embeddings f32 [1,1,H], scaled."""

    def __init__(self, table: nn.Module) -> None:
        super().__init__()
        self.table = table

    def forward(self, token_ids: Tensor) -> dict[str, Tensor]:
        return {"embeddings": self.table(token_ids)}

    def sample(self) -> dict[str, Any]:
        return {"token_ids": torch.zeros(1, 1, dtype=torch.int32)}


class PerLayerEmbedder(Embedder):
    """token_ids i32 [1,1] -> embeddings f32 [1,1,L,P], scaled."""

    def __init__(self, table: nn.Module, layers: int) -> None:
        super().__init__(table)
        self.layers = layers

    def forward(self, token_ids: Tensor) -> dict[str, Tensor]:
        return {"embeddings": self.table(token_ids).view(1, 1, self.layers, -1)}


class Drafter(nn.Module):
    """One drafter step as the stock runtime calls it.

    activations f32 [1,1,2H] = [scaled embedding | hidden], input_pos i32 [1] = P - 1, mask f32 [1,1,1,C], the
    target's KV -> logits f32 [1,1,V], projected_activations f32 [1,1,H] (the next step's hidden).
    """

    def __init__(
        self, drafter: Any, target_config: Any, kv_layers: dict[str, int], context: int, cut: bool = False
    ) -> None:
        super().__init__()
        self.cut = cut
        self.drafter = drafter
        self.target_config = target_config
        self.kv_layers = kv_layers
        self.context = context

    def attention(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """What every step of a round shares: the position, a mask and a KV pair for each layer type.

        transformers lets sliding layers see the last window + 1 of the P cached positions, that is
        P - 1 - window .. P - 1.
        """
        position = inputs["input_pos"] + DRAFTER_POSITION_OFFSET
        mask = inputs["mask"]
        # The row at `position` itself is not in the cache: its window of keys ends one before it.
        local, start = sliding(mask, position, self.drafter.model.config.sliding_window + 1, 0, self.cut)
        return {
            "position_ids": position.unsqueeze(0),
            "attention_mask": {"full_attention": mask, "sliding_attention": local},
            "window_start": start,
            "shared_kv_states": {
                kind: (inputs[f"kv_cache_k_{layer}"], inputs[f"kv_cache_v_{layer}"])
                for kind, layer in self.kv_layers.items()
            },
        }

    def step(self, activations: Tensor, attention: dict[str, Any]) -> Tensor:
        """The drafter's state after its final norm, f32 [1,1,D]."""
        out = self.drafter.model(
            inputs_embeds=self.drafter.pre_projection(activations),
            use_cache=False,
            k_ts_idx=K_AXIS,
            v_ts_idx=V_AXIS,
            **attention,
        )
        state: Tensor = out.last_hidden_state
        return state

    def candidates(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens of the nearest centroids, i32 [N], and their logits, f32 [1,N]; without centroids all V."""
        head, embedder = self.drafter.lm_head.weight, self.drafter.masked_embedding
        if embedder is None:
            return torch.arange(head.shape[0], dtype=torch.int32), self.drafter.lm_head(state)[0]
        _, nearest = torch.topk(embedder.centroids(state), k=embedder.centroid_intermediate_top_k, dim=-1)
        members = embedder.token_ordering.to(torch.int32).view(embedder.num_centroids, -1)
        ids = members[nearest.reshape(-1)].reshape(-1)
        rows = nn.functional.embedding(ids, head)
        return ids, state.view(1, -1) @ rows.T

    def forward(self, **inputs: Any) -> dict[str, Tensor]:
        state = self.step(inputs["activations"], self.attention(inputs))
        ids, logits = self.candidates(state)
        if self.drafter.masked_embedding is not None:
            everywhere = torch.full((self.drafter.vocab_size,), HIDDEN)
            logits = everywhere.index_copy(0, ids.long(), logits[0])
        return {
            "logits": logits.view(1, 1, -1),
            "projected_activations": self.drafter.post_projection(state),
        }

    def sample(self) -> dict[str, Any]:
        cache = new_cache(self.target_config, self.context)
        inputs = {
            "activations": torch.zeros(1, 1, 2 * self.target_config.hidden_size),
            "input_pos": torch.zeros(1, dtype=torch.int32),
            "mask": torch.zeros(1, 1, 1, self.context),
        }
        for layer in self.kv_layers.values():
            inputs[f"kv_cache_k_{layer}"] = cache.layers[layer].keys
            inputs[f"kv_cache_v_{layer}"] = cache.layers[layer].values
        return inputs


class FoldedDrafter(Drafter):
    """K drafter steps in one invocation; embedding rows come from `table`, the target's tied head, f32 [V,H].

    token i32 [1] at P, activations f32 [1,1,H] (the hidden state that produced it), input_pos, mask and KV as in
    Drafter, control i32 [1,8], scalars f32 [1,4] -> draft i32 [1,K], confidence f32 [1,K].
    """

    def __init__(self, drafter: Drafter, table: Tensor, length: int, cut: bool = False) -> None:
        super().__init__(drafter.drafter, drafter.target_config, drafter.kv_layers, drafter.context, cut)
        self.table = table
        self.length = length

    def forward(self, **inputs: Any) -> dict[str, Tensor]:
        attention = self.attention(inputs)
        token, hidden = inputs["token"], inputs["activations"]
        draft, confidence = [], []
        for j in range(self.length):
            embedding = nn.functional.embedding(token, self.table) * self.table.shape[1] ** 0.5
            state = self.step(torch.cat([embedding.view(1, 1, -1), hidden], dim=-1), attention)
            ids, logits = self.candidates(state)
            offset = torch.full((1,), j, dtype=torch.int32)
            token, probability = ops.draft(logits, ids.view(1, -1), inputs["control"], inputs["scalars"], offset)
            hidden = self.drafter.post_projection(state)
            draft.append(token.view(1, 1))
            confidence.append(probability.view(1, 1))
        return {"draft": torch.cat(draft, dim=1), "confidence": torch.cat(confidence, dim=1)}

    def sample(self) -> dict[str, Any]:
        inputs = super().sample()
        inputs["activations"] = torch.zeros(1, 1, self.target_config.hidden_size)
        return {
            "token": torch.zeros(1, dtype=torch.int32),
            **inputs,
            "control": torch.zeros(1, 8, dtype=torch.int32),
            "scalars": torch.zeros(1, 4),
        }
