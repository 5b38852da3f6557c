"""What a bundle brings for a chat: its tokenizer and template, and the bytes of its tokens."""

from __future__ import annotations

from pathlib import Path

from edge_mtp.chat.chat_format import ChatFormat
from edge_mtp.chat.tokenizer import Tokenizer
from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.bundle import Bundle


def write_token_bytes(bundle: Bundle, folder: Path) -> Path | None:
    """Writes the token-bytes table of a bundle that has none to `folder`; None where its tokenizer gives no table."""
    model = bundle.models.get("prefill_decode")
    decode = model.signatures.get("decode") if model is not None else None
    if bundle.tokenizer_json is None or decode is None or "logits" not in decode.outputs:
        return None  # the runner says what is wrong with the bundle
    from edge_mtp.formats.token_bytes import token_table

    tokenizer = folder / "tokenizer.json"
    tokenizer.write_bytes(bundle.tokenizer_json)
    table = folder / "token_bytes"
    try:
        table.write_bytes(token_table(tokenizer, decode.outputs["logits"].shape[-1]))
    except EdgeMtpError:
        return None
    return table


def chat_format_of(bundle: Bundle, has_token_bytes: bool = True) -> ChatFormat:
    """The bundle's chat format. Without `has_token_bytes` only stop tokens end a reply, no stop strings.

    Raises EdgeMtpError for a bundle without a tokenizer.json or a chat template.
    """
    if bundle.tokenizer_json is None:
        raise EdgeMtpError(
            f"{bundle.path}: no tokenizer.json inside (found: {bundle.tokenizer_kind}); export the checkpoint"
            " with 'edge-mtp export'"
        )
    metadata = bundle.metadata
    tokenizer = Tokenizer(bundle.tokenizer_json)
    if bundle.chat_template is None:
        raise EdgeMtpError(f"{bundle.path}: no chat template inside; export the checkpoint with 'edge-mtp export'")
    start = metadata.start_token
    for token in (*metadata.stop_tokens, start or ()):
        if not isinstance(token, str) and any(each >= tokenizer.vocab_size for each in token):
            raise EdgeMtpError(
                f"{bundle.path}: its metadata name token {max(token)}, its tokenizer {tokenizer.vocab_size} tokens;"
                " export the bundle again"
            )
    stop: set[int] = set()
    stop_texts = []
    for token in metadata.stop_tokens:
        ids = tokenizer.encode(token) if isinstance(token, str) else list(token)
        if len(ids) == 1:
            stop.add(ids[0])
        elif ids and has_token_bytes:  # a runner without them finds no stop string
            stop_texts.append(token if isinstance(token, str) else tokenizer.decode(ids))
    bos = start if isinstance(start, str) else tokenizer.decode(start or ())
    return ChatFormat(
        tokenizer, bundle.chat_template, frozenset(stop), bos, tuple(stop_texts), _special_tokens(bundle, tokenizer)
    )


def _special_tokens(bundle: Bundle, tokenizer: Tokenizer) -> dict[str, str]:
    """The template's variables for special tokens: from the export's manifest, or else Gemma's usual ones."""
    usual = {f"{name}_token": f"<{name}>" for name in ("eos", "pad", "unk")}
    found = {name: text for name, text in usual.items() if text in tokenizer.control_tokens.texts}
    told = (bundle.manifest or {}).get("special_tokens")
    told = told if isinstance(told, dict) else {}
    return found | {name: text for name, text in told.items() if isinstance(text, str)}
