"""A bundle's next-token logits, by running its stock graphs in LiteRT's interpreter."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_mtp.cache import cache_folder
from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.bundle import Bundle, Section
from edge_mtp.quiet import quiet

Array = npt.NDArray[Any]


class Logits:
    """A bundle's target graphs in LiteRT's interpreter, fed with given tokens.

    Works for any bundle with LiteRT-LM's signatures that declare their KV types, mask type and widths. Raises
    EdgeMtpError where a section, a signature or an input is not as expected.
    """

    NEEDED = frozenset({"embeddings", "input_pos", "mask"})
    KNOWN = NEEDED | {"per_layer_embeddings", "param_tensor"}
    # Beside them in edge_verify_T; at 0 they ask for the largest logit and draft nothing of importance.
    UNUSED = frozenset({"draft", "control", "scalars", "token_mask"})
    HIDDEN = -1e4  # what a float mask gives positions that a row does not see

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        self._path = bundle.path
        target = self._load(bundle, "prefill_decode", threads)
        self._embedders = {"embeddings": self._embedder(bundle, "embedder", threads)}
        signatures = target.get_signature_list()
        if any("per_layer_embeddings" in signature["inputs"] for signature in signatures.values()):
            self._embedders["per_layer_embeddings"] = self._embedder(bundle, "per_layer_embedder", threads)
        self._scoring: dict[int, Any] = {}
        self._prefill: dict[int, Any] = {}
        for name, signature in signatures.items():
            if not self._is_target(signature["inputs"]):
                continue
            kind = self._scoring if "logits" in signature["outputs"] else self._prefill
            runner = target.get_signature_runner(name)
            kind[int(runner.get_input_details()["input_pos"]["shape"][0])] = runner
        if 1 not in self._scoring:
            raise EdgeMtpError(f"{bundle.path}: no `decode` signature whose inputs are known; export the pair again")
        details = self._scoring[1].get_input_details()
        self._context = int(details["mask"]["shape"][-1])
        self._cache = {
            name: np.zeros(detail["shape"], detail["dtype"])
            for name, detail in details.items()
            if name.startswith("kv_cache_")
        }

    def of_reply(self, prompt: Sequence[int], reply: Sequence[int]) -> npt.NDArray[np.float32]:
        """The logits [reply,V] from which each token of `reply` would be chosen, given all tokens before it.

        Raises EdgeMtpError if prompt (at least one token) and reply (the same) are longer than the context.
        """
        tokens = [*prompt, *reply[:-1]]
        if len(tokens) > self._context:
            raise EdgeMtpError(
                f"{self._path}: {len(tokens)} tokens do not fit its context of {self._context}; leave the prompt out"
            )
        position, first = 0, len(prompt) - 1
        while position < first:
            position += self._run(tokens[position:first], position, self._prefill)[0]
        rows = []
        while position < len(tokens):
            count, logits = self._run(tokens[position:], position, self._scoring)
            rows.append(logits[0, :count])
            position += count
        return np.concatenate(rows)

    def _run(self, tokens: Sequence[int], position: int, runners: Mapping[int, Any]) -> tuple[int, Any]:
        """Puts the first of `tokens` into the cache. Returns how many, and the logits [1,T,V] if the graph has them."""
        # Rows past the last token are written too: they must lie in the cache, and later tokens overwrite them.
        fitting = [width for width in runners if position + width <= self._context]
        if not fitting:
            return self._run(tokens, position, self._scoring)
        width = min((w for w in fitting if w >= len(tokens)), default=max(fitting))
        count = min(width, len(tokens))
        padded = [*tokens[:count], *[0] * (width - count)]
        runner = runners[width]
        inputs: dict[str, Array] = dict(self._cache)
        for name, detail in runner.get_input_details().items():
            if name in self._embedders:
                inputs[name] = np.concatenate([self._embedders[name](token) for token in padded], axis=1)
            elif name == "input_pos":
                inputs[name] = np.arange(position, position + width, dtype=detail["dtype"])
            elif name == "mask":
                inputs[name] = self._mask(position, width, detail["dtype"])
            elif name == "param_tensor":  # as device/native/param_tensor.h has it
                inputs[name] = np.zeros(detail["shape"], detail["dtype"])
                inputs[name].flat[:3] = position, position + count, position + count
            elif name in self.UNUSED:
                inputs[name] = np.zeros(detail["shape"], detail["dtype"])
        outputs = runner(**inputs)
        self._cache = {name: outputs[name] for name in self._cache}
        return count, outputs.get("logits")

    def _mask(self, position: int, width: int, dtype: type[np.generic]) -> Array:
        seen = np.arange(self._context) <= np.arange(position, position + width)[:, None]
        values = seen if np.issubdtype(dtype, np.bool_) else np.where(seen, 0, self.HIDDEN).astype(dtype)
        return values[None, None]

    def _is_target(self, inputs: Sequence[str]) -> bool:
        known = self.KNOWN | self.UNUSED
        return set(inputs) >= self.NEEDED and all(name in known or name.startswith("kv_cache_") for name in inputs)

    def _embedder(self, bundle: Bundle, model_type: str, threads: int | None) -> Callable[[int], Array]:
        """The rows [1,1,...] of a table, by token; the recent ones are kept."""
        model = self._load(bundle, model_type, threads)
        runner = model.get_signature_runner(next(iter(model.get_signature_list())))
        ((given, detail),) = runner.get_input_details().items()
        (taken,) = runner.get_output_details()

        @lru_cache(maxsize=8192)
        def row(token: int) -> Array:
            values: Array = runner(**{given: np.full(detail["shape"], token, detail["dtype"])})[taken]
            return values

        return row

    @staticmethod
    def _load(bundle: Bundle, model_type: str, threads: int | None) -> Any:
        from ai_edge_litert.interpreter import Interpreter

        section: Section | None = bundle.section("TFLiteModel", model_type)
        if section is None:
            raise EdgeMtpError(f"{bundle.path}: no {model_type} section; export the pair again")
        folder = cache_folder()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # A file of its own, which LiteRT maps: weights of gigabytes then need no memory of this process. The
            # mapping outlives the name.
            with tempfile.NamedTemporaryFile(dir=folder, suffix=".tflite") as file, quiet():
                file.write(section.data)
                file.flush()
                model = Interpreter(model_path=file.name, num_threads=threads)
                model.allocate_tensors()  # here, where LiteRT may announce its delegate unheard
                return model
        except OSError as error:
            raise EdgeMtpError(
                f"{folder}: cannot keep a copy of {section.size >> 20} MiB there ({error.strerror}); make room"
            ) from error


def kl_divergence(p: Array, q: Array) -> npt.NDArray[np.float64]:
    """KL(softmax(p) || softmax(q)) in nats, of each row of two arrays of logits [rows,V]."""
    log_p, log_q = _log_softmax(p), _log_softmax(q)
    divergence: npt.NDArray[np.float64] = (np.exp(log_p) * (log_p - log_q)).sum(-1)
    return np.maximum(divergence, 0.0)  # rounding leaves equal rows a hair below


def _log_softmax(logits: Array) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(-1, keepdims=True))
    return shifted
