"""A tokenizer.json: text to token ids, and the bytes of each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import tokenizers

from edge_mtp.chat.control_text import ControlTokens, looks_special
from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.token_bytes import piece_to_bytes
from edge_mtp.safe_text import utf8


class Tokenizer:
    """A `tokenizer.json`: text to ids and ids to text, control tokens included."""

    def __init__(self, source: str | bytes) -> None:
        """`source` is the content of a tokenizer.json. Raises `EdgeMtpError` if it is not one."""
        try:
            self.source = source.decode("utf-8") if isinstance(source, bytes) else source
            self._tokenizer = tokenizers.Tokenizer.from_str(self.source)
        except Exception as error:  # the library raises bare Exception
            raise EdgeMtpError(f"tokenizer.json is not valid ({error}); export the bundle again") from None
        decoder = self._tokenizer.decoder
        self._to_bytes = piece_to_bytes(None if decoder is None else json.loads(decoder.__getstate__()))

    @classmethod
    def from_file(cls, path: str | Path) -> Tokenizer:
        try:
            return cls(Path(path).read_bytes())
        except OSError as error:
            raise EdgeMtpError(f"cannot read tokenizer {str(path)!r}: {error.strerror}") from None

    @property
    def vocab_size(self) -> int:
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str) -> list[int]:
        """Ids of a text. Control tokens in it become their own ids; nothing is added.

        Raises EdgeMtpError for half a surrogate pair, which is no character.
        """
        return _ids(self._tokenizer, text)

    def spell(self, text: str) -> list[int]:
        """Ids of a text in ordinary tokens alone: text that looks like a control token is spelled by characters."""
        return _ids(self._speller, text)

    @cached_property
    def control_tokens(self) -> ControlTokens:
        """The special tokens, and tokens that look like them: `<unused7>` need not be marked as special."""
        added = self._tokenizer.get_added_tokens_decoder().values()
        return ControlTokens(token.content for token in added if token.special or looks_special(token.content))

    @cached_property
    def _speller(self) -> tokenizers.Tokenizer:
        """The tokenizer that treats control tokens as ordinary text. Few conversations need it."""
        parsed = json.loads(self.source)
        for token in parsed.get("added_tokens", []):
            token["special"] = token["content"] in self.control_tokens.texts
        speller = tokenizers.Tokenizer.from_str(json.dumps(parsed))
        speller.encode_special_tokens = True
        return speller

    def decode(self, ids: Sequence[int]) -> str:
        """Text of some ids, control tokens included. Bytes that are no UTF-8 become U+FFFD."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    def token_id(self, token: str) -> int:
        """The id of a token by its text. Raises `EdgeMtpError` if the vocabulary lacks it."""
        found = self._tokenizer.token_to_id(token)
        if found is None:
            raise EdgeMtpError(f"the tokenizer has no token {token!r}; use the tokenizer of a Gemma 4 checkpoint")
        return int(found)

    def token_text(self, token: int) -> str:
        """The vocabulary's own spelling of an id. Raises `EdgeMtpError` if the id is outside the vocabulary."""
        found = self._tokenizer.id_to_token(token)
        if found is None:
            raise EdgeMtpError(f"token id {token} is outside the vocabulary of {self.vocab_size}")
        return str(found)

    def token_bytes(self, token: int) -> bytes:
        """What an id adds to a text, as in a bundle's token-bytes table: a control token adds its own text.

        Raises `EdgeMtpError` if the id is outside the vocabulary.
        """
        return self._to_bytes(self.token_text(token))


def _ids(tokenizer: tokenizers.Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(utf8(text, "the text").decode(), add_special_tokens=False).ids)


def special_tokens(directory: Path) -> dict[str, str]:
    """The named special tokens of a checkpoint's tokenizer_config.json, as transformers gives them to a template."""
    path = directory / "tokenizer_config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise EdgeMtpError(f"cannot read {str(path)!r}: {error}; save the tokenizer again") from None
    config = config if isinstance(config, dict) else {}
    named = {name: value for name, value in config.items() if name.endswith("_token")}
    for more in ("model_specific_special_tokens", "extra_special_tokens"):
        named |= config[more] if isinstance(config.get(more), dict) else {}
    texts = {name: value.get("content") if isinstance(value, dict) else value for name, value in named.items()}
    return {name: text for name, text in texts.items() if isinstance(text, str)}
