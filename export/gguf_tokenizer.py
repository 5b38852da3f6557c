"""The tokenizer and chat template in a GGUF file's metadata, as the files that transformers reads.

The metadata have Gemma's tokens, their merges and a type for each. They do not have which tokens are matched whole,
before any merge, nor how text is normalized and split. All Gemma 4 share that:

- Spaces become ▁, and the text between tokens that are matched whole is merged as one piece.
- Matched whole is a token that no merge makes: nothing else could. So are runs of newlines, of tabs and of ▁.

On Gemma's vocabulary this gives the ids of the published tokenizer.json (tests/oracle/test_gguf.py). A vocabulary
without ▁ is of another tokenizer, of which the metadata do not say enough.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from edge_mtp.errors import EdgeMtpError
from edge_mtp.export.gguf_file import GgufFile
from edge_mtp.json_file import read_checkpoint_json

SPACE = "▁"
_RUNS = re.compile(f"\n+|\t+|{SPACE}{{2,}}")
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_CONTROL = 3  # a token's type, as llama.cpp numbers them; it gives those of tool calls another one
_CURE = "give --tokenizer DIR, the folder with the model's tokenizer.json"
# What the metadata call the tokens that tokenizer_config.json names.
_NAMED = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token", "mask": "mask_token"}
_SPLIT = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}


def unpack_tokenizer(file: GgufFile, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json into `folder`.

    Raises:
        EdgeMtpError: the metadata lack a part, or are of another tokenizer than Gemma's.
    """
    tokens = _tokens(file)
    (folder / "tokenizer.json").write_text(json.dumps(_tokenizer(file, tokens), ensure_ascii=False), encoding="utf-8")
    ids = {name: file.metadata.get(f"tokenizer.ggml.{key}_token_id") for key, name in _NAMED.items()}
    named = {name: tokens[token] for name, token in ids.items() if type(token) is int and 0 <= token < len(tokens)}
    (folder / "tokenizer_config.json").write_text(json.dumps(named), encoding="utf-8")


def unpack_template(file: GgufFile, folder: Path) -> None:
    """Write chat_template.jinja into `folder`, where the file has one."""
    template = file.metadata.get("tokenizer.chat_template")
    if isinstance(template, str):
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def check_vocabulary(file: GgufFile, tokenizer: Path) -> None:
    """Refuse a tokenizer.json whose tokens have other ids than the file's; a file without tokens takes any."""
    contents = read_checkpoint_json(tokenizer)
    try:
        ids = dict(contents["model"]["vocab"]) | {
            entry["content"]: entry["id"] for entry in contents.get("added_tokens") or []
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise EdgeMtpError(f"{tokenizer} is not a BPE tokenizer.json ({error!r}): save the fast tokenizer") from error
    for token, text in enumerate(file.metadata.get("tokenizer.ggml.tokens", ())):
        if ids.get(text) != token:
            raise EdgeMtpError(
                f"{tokenizer} gives {text!r} the id {ids.get(text)}, {file.path} {token}: use the model's own tokenizer"
            )


def _tokenizer(file: GgufFile, tokens: list[str]) -> dict[str, Any]:
    model = file.metadata.get("tokenizer.ggml.model")
    if model != "gemma4" or SPACE not in tokens:
        said = f"is {model!r}" if model != "gemma4" else f"has no {SPACE}"
        raise EdgeMtpError(f"{file.path}: the tokenizer {said}, so it is not Gemma's: {_CURE}")
    vocabulary = {text: token for token, text in enumerate(tokens)}
    if len(vocabulary) < len(tokens):
        raise EdgeMtpError(f"{file.path} has a token twice: {_CURE}")
    merges = _merges(file, vocabulary)
    made = {left + right for left, right in merges}
    types = _types(file, len(tokens))
    whole = [
        {
            "id": token,
            "content": text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": types[token] == _CONTROL or text.startswith("<|") or text.endswith("|>"),
        }
        for token, text in enumerate(tokens)
        if text and (_RUNS.fullmatch(text) or (len(text) > 1 and text not in made and not _BYTE.fullmatch(text)))
    ]
    unknown = file.metadata.get("tokenizer.ggml.unknown_token_id")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": whole,
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
        "pre_tokenizer": _SPLIT,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": tokens[unknown] if type(unknown) is int and 0 <= unknown < len(tokens) else None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": merges,
        },
    }


def _tokens(file: GgufFile) -> list[str]:
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens:
        raise EdgeMtpError(f"{file.path} has no tokenizer: {_CURE}")
    return tokens


def _merges(file: GgufFile, vocabulary: dict[str, int]) -> list[list[str]]:
    merges = file.metadata.get("tokenizer.ggml.merges")
    if not isinstance(merges, list):
        raise EdgeMtpError(f"{file.path} has no tokenizer.ggml.merges: {_CURE}")
    pairs = [merge.split(" ") for merge in merges]
    odd = next(
        (
            merge
            for merge, pair in zip(merges, pairs, strict=True)
            if len(pair) != 2 or not {*pair, "".join(pair)} <= vocabulary.keys()
        ),
        None,
    )
    if odd is not None:
        raise EdgeMtpError(f"{file.path} has the merge {odd!r}, which is no pair of tokens: {_CURE}")
    return pairs


def _types(file: GgufFile, count: int) -> list[int]:
    types = file.metadata.get("tokenizer.ggml.token_type")
    if not isinstance(types, np.ndarray) or types.dtype.kind not in "iu" or len(types) != count:
        raise EdgeMtpError(f"{file.path} has no tokenizer.ggml.token_type for each token: {_CURE}")
    return [int(each) for each in types]
