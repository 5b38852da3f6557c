"""Which bundles can be held against each other token by token, and what two have in common.

A family is one architecture with one vocabulary, such as all checkpoints of E2B: as it was trained first, further
trained, trained for few bits. A pair is a target with a drafter, by the hashes of their files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from edge_mtp.formats.bundle import Bundle
from edge_mtp.formats.tflite import Signature
from edge_mtp.formats.wire import MalformedError, json_value

_CACHED = ("keys of", "values of", "per-layer")

# Of a bundle to a reference. In words for people: they stand in tables.
Relation = Literal["same pair", "same target, another drafter", "another checkpoint", "not known"]


def relation(bundle: Bundle, reference: Bundle) -> Relation:
    """Whether both were exported from the same files. `not known` where one does not name them."""
    ours, theirs = source_of(bundle), source_of(reference)
    if ours is None or theirs is None:
        return "not known"
    if ours["target"] != theirs["target"]:
        return "another checkpoint"
    return "same pair" if ours["drafter"] == theirs["drafter"] else "same target, another drafter"


def source_of(bundle: Bundle) -> dict[str, dict[str, str]] | None:
    """The hashes of the files that a bundle was exported from, by role and name; None where it does not name them."""
    source: Any = (bundle.manifest or {}).get("source")
    if not isinstance(source, dict) or not all(isinstance(source.get(role), dict) for role in ("target", "drafter")):
        return None
    return {role: source[role] for role in ("target", "drafter")}


def origin_of(bundle: Bundle) -> str | None:
    """What the target was called when it was exported: a Hub repository, or a folder; None where nothing says so."""
    source: Any = (bundle.manifest or {}).get("source")
    origins = source.get("origins") if isinstance(source, dict) else None
    name = origins.get("target") if isinstance(origins, dict) else None
    return name if isinstance(name, str) and name else None


def differences(bundle: Bundle, reference: Bundle) -> list[str]:
    """What keeps two bundles from being of one family, in words; empty for one family.

    Raises EdgeMtpError where a section is damaged.
    """
    found = []
    ours, theirs = _sizes(bundle), _sizes(reference)
    # What only one of them states, such as a manifest's sizes, is no difference; caches are always stated.
    for name in dict.fromkeys([*ours, *theirs]):
        if name in ours and name in theirs and ours[name] != theirs[name]:
            found.append(f"{name} {ours[name]} against {theirs[name]}")
        elif (name in ours) != (name in theirs) and name.startswith(_CACHED):
            found.append(f"{name} in one of them")
    if told := _tokens_differ(bundle, reference):
        found.append(told)
    return found


def _sizes(bundle: Bundle) -> dict[str, Any]:
    """The sizes that the graphs and the manifest state."""
    signatures: Mapping[str, Signature] = (
        bundle.models["prefill_decode"].signatures if "prefill_decode" in bundle.models else {}
    )
    decode = signatures.get("decode") or signatures.get("edge_decode")
    sizes: dict[str, Any] = {}
    if decode is not None:
        sizes |= dict(_of_graph(decode))
    model: Any = (bundle.manifest or {}).get("model")
    if isinstance(model, dict):
        sizes |= {name.replace("_", " "): model[name] for name in ("layers", "sliding_window") if name in model}
    return sizes


def _of_graph(decode: Signature) -> Iterator[tuple[str, Any]]:
    given, made = decode.inputs, decode.outputs
    for name, ports, port in (("vocabulary", made, "logits"), ("hidden size", given, "embeddings")):
        if port in ports and ports[port].shape:
            yield name, ports[port].shape[-1]
    if "per_layer_embeddings" in given:
        yield "per-layer embeddings", "x".join(map(str, given["per_layer_embeddings"].shape[-2:]))
    for name, cache in given.items():
        if name.startswith("kv_cache_") and len(cache.shape) == 4:
            # K is [1,h,C,D] and V [1,h,D,C]: contexts may differ.
            kind, size = ("keys", cache.shape[3]) if name.startswith("kv_cache_k") else ("values", cache.shape[2])
            yield f"{kind} of layer {name.rpartition('_')[2]}", f"{cache.shape[1]}x{size}"


def _tokens_differ(bundle: Bundle, reference: Bundle) -> str | None:
    ours, theirs = bundle.tokenizer_json, reference.tokenizer_json
    if ours == theirs:
        return None
    if ours is None or theirs is None:
        return "the kind of tokenizer"
    with bundle.reading("the tokenizer"):
        found = _vocabulary(ours)
    with reference.reading("the tokenizer"):
        wanted = _vocabulary(theirs)
    for token in sorted(found.keys() | wanted.keys()):
        if found.get(token) != wanted.get(token):
            return f"token {token} {found.get(token)!r} against {wanted.get(token)!r}"
    return None


def _vocabulary(tokenizer_json: bytes) -> dict[int, str]:
    """The text of each token. Settings such as padding are none of it."""
    tokenizer = json_value(tokenizer_json)
    try:
        vocab = tokenizer["model"]["vocab"]
        texts = (
            {token: text for text, token in vocab.items()}
            if isinstance(vocab, dict)
            else {token: entry[0] for token, entry in enumerate(vocab)}
        )
        texts |= {token["id"]: token["content"] for token in tokenizer.get("added_tokens", ()) if "content" in token}
        return {int(token): str(text) for token, text in texts.items()}
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise MalformedError(f"tokenizer.json has no vocabulary: {error!r}") from error
