"""A tokenizer for models with random weights: it encodes every text, and is not trained."""

from __future__ import annotations

from pathlib import Path

from edge_mtp.export.tiny.tokenizer import CONTROL_TOKENS, FIRST_BYTE


def write_tokenizer(path: Path, vocabulary: int) -> None:
    """Write a byte-fallback BPE tokenizer.json of `vocabulary` ids without merges.

    The control tokens have their own ids, then come bytes and printable ASCII. Every other id is `<unusedN>`, so that
    any token that a random model samples can be shown.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

    vocab = dict(CONTROL_TOKENS) | {f"<0x{byte:02X}>": FIRST_BYTE + byte for byte in range(256)}
    characters = ["▁", *map(chr, range(33, 127))]
    vocab |= {character: FIRST_BYTE + 256 + place for place, character in enumerate(characters)}
    taken = set(vocab.values())
    vocab |= {f"<unused{token}>": token for token in range(vocabulary) if token not in taken}
    tokenizer = Tokenizer(models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in CONTROL_TOKENS])
    tokenizer.save(str(path))
