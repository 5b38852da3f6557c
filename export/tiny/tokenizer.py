"""The tiny pair's tokenizer: Gemma 4's control tokens at their own ids, byte fallback, and merges that copy well.

Words, spaces, digits and runs of punctuation are separate pieces before any merge. So a name or a value has the same
tokens in a declaration, in a request and in a call, regardless of the text before it. The fixed phrases of
declarations are single tokens, which keeps prompts short.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

VOCAB_SIZE = 1024
CONTROL_TOKENS: dict[str, int] = {
    "<pad>": 0,
    "<eos>": 1,
    "<bos>": 2,
    "<unk>": 3,
    "<|tool>": 46,
    "<tool|>": 47,
    "<|tool_call>": 48,
    "<tool_call|>": 49,
    "<|tool_response>": 50,
    "<tool_response|>": 51,
    '<|"|>': 52,
    "<|think|>": 98,
    "<|channel>": 100,
    "<channel|>": 101,
    "<|turn>": 105,
    "<turn|>": 106,
}
FIRST_BYTE = 238  # <0x00>, as in Gemma's vocabulary
PHRASES: tuple[str, ...] = (
    "declaration:",
    "{description:",
    ":{description:",
    ",parameters:{properties:{",
    ",parameters:{type:",
    "}},required:[",
    "],type:",
    ",type:",
    ":{type:",
    "call:",
    "response:",
    "system\n",
    "user\n",
    "model\n",
    "thought\n",
    "STRING",
    "INTEGER",
    "BOOLEAN",
    "NUMBER",
    "ARRAY",
    "OBJECT",
)
# The text between matches is a piece too.
PIECE = tokenizers.Regex(r" |[A-Z]?[a-z]+|[0-9]")


def build_tokenizer(corpus: Iterable[str]) -> tokenizers.Tokenizer:
    """Train merges on a corpus of rendered conversations, and lay out the vocabulary. Deterministic."""
    alphabet = ["\n", *map(chr, range(32, 127))]
    room = VOCAB_SIZE - len(CONTROL_TOKENS) - 256 - len(PHRASES)
    learner = tokenizers.Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Split(PIECE, "isolated")
    learner.add_tokens([tokenizers.AddedToken(t, normalized=False) for t in (*PHRASES, *CONTROL_TOKENS)])
    trainer = trainers.BpeTrainer(
        vocab_size=room, initial_alphabet=alphabet, limit_alphabet=len(alphabet), show_progress=False
    )
    learner.train_from_iterator(_without_phrases(corpus), trainer)
    learned = json.loads(learner.to_str())["model"]
    pieces = sorted(learned["vocab"], key=learned["vocab"].get)
    pieces = [p for p in pieces if p not in PHRASES and p not in CONTROL_TOKENS][:room]

    vocab = dict(CONTROL_TOKENS) | {f"<0x{b:02X}>": FIRST_BYTE + b for b in range(256)}
    free = (i for i in range(VOCAB_SIZE) if i not in set(vocab.values()))
    vocab |= dict(zip((*PHRASES, *pieces), free, strict=False))
    if len(vocab) != VOCAB_SIZE:
        raise ValueError(f"the corpus gave {len(pieces)} pieces, not the {room} that fill the vocabulary")
    known = set(vocab)
    merges = [tuple(m) for m in learned["merges"] if "".join(m) in known]

    tokenizer = tokenizers.Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(PIECE, "isolated")
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([tokenizers.AddedToken(t, special=True, normalized=False) for t in CONTROL_TOKENS])
    tokenizer.add_tokens([tokenizers.AddedToken(t, normalized=False) for t in PHRASES])
    return tokenizer


def _without_phrases(corpus: Iterable[str]) -> Iterable[str]:
    """The text between control tokens and phrases, which the merges must cover."""
    fixed = sorted((*CONTROL_TOKENS, *PHRASES), key=len, reverse=True)
    for text in corpus:
        for token in fixed:
            text = text.replace(token, "\0")
        yield from filter(None, text.split("\0"))


def tokenizer_config() -> dict[str, Any]:
    """The contents of tokenizer_config.json, which transformers reads beside tokenizer.json."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<bos>",
        "eos_token": "<turn|>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 4096,
        "padding_side": "left",
    }
