"""The official JSON-Schema-Test-Suite, from the source package of jsonschema, and texts that a grammar allows."""

from __future__ import annotations

import itertools
import json
import random
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from native_constraint import Compiler, Constraint, RefusalError

from edge_mtp.chat.tokenizer import Tokenizer
from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.schema import JSON, Rules, compile_schema

VERSION = "4.26.0"
VALIDATORS = {"draft2020-12": jsonschema.Draft202012Validator, "draft7": jsonschema.Draft7Validator}
_REMOTE = re.compile(r'localhost:1234|"\$ref": "https?://json-schema\.org')


@dataclass(frozen=True)
class Case:
    """A schema of the suite with instances; `schema` names its draft where the suite's folder does."""

    name: str
    schema: Any
    valid: list[Any]
    invalid: list[Any]

    @property
    def remote(self) -> bool:
        """Whether the schema refers to another document."""
        return self.name.startswith(("refRemote", "vocabulary")) or _REMOTE.search(json.dumps(self.schema)) is not None


def suite(folder: Path) -> Path:
    """The folder of the tests, fetched into `folder` if it is not there; skips the test if there is no index."""
    tests = folder / f"jsonschema-{VERSION}" / "json" / "tests"
    if not tests.is_dir():
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:"]
        command += ["-d", str(folder), f"jsonschema=={VERSION}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        archive = folder / f"jsonschema-{VERSION}.tar.gz"
        if not archive.exists():
            pytest.skip(f"the source package of jsonschema cannot be fetched: {done.stderr.strip()[-200:]}")
        with tarfile.open(archive) as opened:
            opened.extractall(folder, filter="data")
    return tests


def cases(tests: Path, draft: str) -> list[Case]:
    """The required part of the suite: neither `optional/` nor `format` as an assertion."""
    found = []
    for file in sorted((tests / draft).glob("*.json")):
        for group in json.loads(file.read_text("utf-8")):
            schema = group["schema"]
            if draft == "draft7" and isinstance(schema, dict):
                schema = {"$schema": "http://json-schema.org/draft-07/schema#", **schema}
            sides: list[list[Any]] = [[], []]
            for test in group["tests"]:
                sides[not test["valid"]].append(test["data"])
            found.append(Case(f"{file.stem}: {group['description']}", schema, *sides))
    return found


def texts(value: Any) -> Iterator[str]:
    """JSON texts of a value, in any order of its few keys."""
    if isinstance(value, dict) and 1 < len(value) <= 4:
        for keys in itertools.permutations(value):
            yield json.dumps({key: value[key] for key in keys}, ensure_ascii=False)
    else:
        yield json.dumps(value, ensure_ascii=False)


def accepts(constraint: Constraint, tokenizer: Tokenizer, text: str, stop: int) -> bool:
    """Whether a constraint takes a text and then lets it end; the constraint is where it was afterwards."""
    taken = 0
    for token in tokenizer.encode(text):
        if not constraint.accept(token):
            break
        taken += 1
    else:
        taken_all = bool(constraint.mask()[stop])
        constraint.rollback(taken)
        return taken_all
    constraint.rollback(taken)
    return False


def reply(constraint: Constraint, tokenizer: Tokenizer, stop: int, seed: int, longest: int = 120) -> str | None:
    """A random text that ends, drawn so that it does; None if it did not within `longest` tokens."""
    draw = random.Random(seed)
    tokens: list[int] = []
    while True:
        allowed = constraint.allowed()
        assert allowed, tokenizer.decode(tokens)
        if stop in allowed and (len(allowed) == 1 or draw.random() < 0.5):
            break
        if len(tokens) == longest:
            constraint.rollback(len(tokens))
            return None
        rest = [token for token in allowed if token != stop]
        short = [token for token in rest if tokenizer.token_bytes(token) in _CLOSING]
        token = draw.choice(short if short and draw.random() < 0.45 else rest)
        assert constraint.accept(token), (tokenizer.decode(tokens), tokenizer.token_bytes(token))
        tokens.append(token)
    constraint.rollback(len(tokens))
    return tokenizer.decode(tokens)


_CLOSING = {bytes([byte]) for byte in b'"]},:0123'}


@dataclass
class Tally:
    """What became of the suite's schemas."""

    schemas: int = 0
    remote: int = 0
    enforced: int = 0
    impossible: int = 0  # no value is valid, and the schema is refused as such
    refused: list[str] = field(default_factory=list)
    useful: int = 0  # accept a valid instance of the suite
    useless: list[str] = field(default_factory=list)  # accept none, though the suite has one
    replies: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Of schemas without remote references, those that are enforced, or are known to allow nothing."""
        return (self.enforced + self.impossible) / self.schemas


def tally(found: list[Case], draft: str, compiler: Compiler, tokenizer: Tokenizer, stop: int, replies: int) -> Tally:
    """Compiles every schema, tries the suite's instances, and validates random replies."""
    result = Tally()
    for number, case in enumerate(found):
        if case.remote:
            result.remote += 1
            continue
        result.schemas += 1
        rules = Rules()
        try:
            compiled = compile_schema(case.schema, JSON, rules, strict=True)
        except EdgeMtpError as error:
            if not case.valid and "no value satisfies" in str(error):
                result.impossible += 1
            else:
                result.refused.append(f"{case.name}: {error}")
            continue
        try:
            constraint = compiler.constraint(rules.text(compiled.expression))
        except RefusalError as error:
            result.wrong.append(f"{case.name}: {error}")
            continue
        result.enforced += 1
        if any(accepts(constraint, tokenizer, text, stop) for value in case.valid for text in texts(value)):
            result.useful += 1
        elif case.valid:
            result.useless.append(case.name)
        for value in case.invalid:
            result.wrong += [
                f"{case.name}: {text}" for text in texts(value) if accepts(constraint, tokenizer, text, stop)
            ]
        # Decimal numbers, so that the judge's own division of floats does not decide.
        judge = VALIDATORS[draft](json.loads(json.dumps(case.schema), parse_float=Decimal))
        for seed in range(replies):
            text = reply(constraint, tokenizer, stop, 1000 * number + seed)
            if text is not None:
                result.replies += 1
                if not judge.is_valid(json.loads(text, parse_float=Decimal)):
                    result.wrong.append(f"{case.name}: {text}")
    return result
