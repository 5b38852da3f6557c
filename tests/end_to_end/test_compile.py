"""`edge-mtp compile`: graphs for an NPU, compiled by OpenVINO for its CPU device, which is here where an NPU is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import tiny_checkpoints
from click.testing import CliRunner, Result
from npu_bundle import with_npu_graphs

from edge_mtp.cli import main
from edge_mtp.device import Outcome, Request
from edge_mtp.engine import open_engine
from edge_mtp.errors import EdgeMtpError
from edge_mtp.export.compiled import compile_bundle, npu_sections
from edge_mtp.formats.bundle import Bundle

HELPERS = Path(__file__).parents[1] / "helpers"
DRAFTS = ("gpu_draft_3", "gpu_draft_5")  # update no cache, and so are compiled whole
ON_CPU = {"intel_openvino_graph_backends": "cpu"}
OPTION = "intel_openvino_graph_backends=cpu"


@pytest.fixture(scope="session", autouse=True)
def openvino() -> Path:
    """The folder of OpenVINO's libraries."""
    found = find_spec("openvino")
    if found is None or found.origin is None:
        pytest.skip("no OpenVINO: pip install openvino==2026.3.1")
    return Path(found.origin).parent / "libs"


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("compile") / "source.litertlm"
    return with_npu_graphs(tiny_checkpoints.random_bundle("fp32"), path, DRAFTS)


@pytest.fixture(scope="session")
def compiled(source: Path) -> Path:
    return compile_bundle(source, "LNL", source.with_name("compiled.litertlm"), options=ON_CPU).path


def on_the_npu(source: Path, compiled: Path, openvino: Path) -> list[dict[str, Any]]:
    """What `npu_graphs` tells of each signature."""
    command = [sys.executable, str(HELPERS / "npu_graphs.py"), str(source), str(compiled)]
    environment = {**os.environ, "LD_LIBRARY_PATH": str(openvino)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.mark.parametrize("recipe", ["fp32", "int8"])
def test_compiled_graphs_compute_what_the_cpu_does(recipe: str, openvino: Path, tmp_path: Path) -> None:
    source = with_npu_graphs(tiny_checkpoints.random_bundle(recipe), tmp_path / "source.litertlm", DRAFTS)
    told: list[float] = []
    made = compile_bundle(
        source, "lnl", tmp_path / "out.litertlm", options=ON_CPU, progress=lambda what, done: told.append(done)
    )
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert list(made.operators) == ["npu_draft_3", "npu_draft_5"]
    (section,) = npu_sections(Bundle(made.path))
    assert (made.bytes, made.section_bytes) == (made.path.stat().st_size, section.size)
    signatures = Bundle(made.path).models[section.model_type or ""].signatures.values()
    assert [signature.custom_ops for signature in signatures] == [("DISPATCH_OP",)] * 2
    found = on_the_npu(source, made.path, openvino)
    assert [each["name"] for each in found] == ["npu_draft_3", "npu_draft_5"]
    for each in found:
        assert each["full"], f"the CPU runs a part of {each['name']}"
        assert each["outputs"]["draft"][0] == 0
        for port, (difference, largest) in each["outputs"].items():
            # The CPU rounds activations to 8 bits before it multiplies them with int8 weights.
            assert difference <= {"fp32": 1e-4, "int8": 5e-2}[recipe] * largest, port


@pytest.mark.parametrize("behind", [False, True], ids=["before the others", "behind them"])
def test_all_else_stays_and_runs(behind: bool, tmp_path: Path) -> None:
    """The graphs for the CPU find their weights, wherever the section with those for the NPU stood."""
    source = with_npu_graphs(
        tiny_checkpoints.random_bundle("fp32"), tmp_path / "source.litertlm", DRAFTS, behind=behind
    )
    path = compile_bundle(source, "PTL", tmp_path / "out.litertlm", options=ON_CPU).path
    before, after = Bundle(source), Bundle(path)
    for old, new in zip(before.sections, after.sections, strict=True):
        if old.items.get("edge_mtp") != "npu":
            assert (new.type, new.items, bytes(new.data)) == (old.type, old.items, bytes(old.data))
    (section,) = npu_sections(after)
    assert section.items["edge_mtp_soc"] == "PTL"
    replies = []
    for bundle in (source, path):
        with open_engine(bundle, threads=1) as engine:
            *steps, outcome = engine.runner.generate(Request([3, 5, 7], 12, []))
            assert isinstance(outcome, Outcome)
            replies.append([token for step in steps for token in step.tokens])  # type: ignore[union-attr]
    assert len(replies[0]) == 12
    assert replies[1] == replies[0]


def test_what_the_compiler_leaves_to_the_cpu_is_refused_by_name(tmp_path: Path) -> None:
    """A cache that is updated in place is what OpenVINO does not take."""
    signatures = ("gpu_draft_3", "gpu_decode", "gpu_verify_4")
    source = with_npu_graphs(tiny_checkpoints.random_bundle("fp32"), tmp_path / "source.litertlm", signatures)
    output = tmp_path / "out.litertlm"
    output.write_text("mine")
    before = set(tmp_path.iterdir())
    with pytest.raises(EdgeMtpError, match=r"leaves \d+ DYNAMIC_UPDATE_SLICE of npu_decode to the CPU \(and 1 more"):
        compile_bundle(source, "LNL", output, options=ON_CPU)
    assert output.read_text() == "mine"
    assert set(tmp_path.iterdir()) == before


# -- the command ------------------------------------------------------------------------------------------------------


def command(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["compile", *map(str, arguments)])


def test_the_command_says_what_it_made(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.litertlm"
    text = command("--soc", "LNL", source, "-o", output, "--vendor-option", OPTION)
    assert text.exit_code == 0, text.output
    first, _, last = text.stdout.splitlines()
    assert first.split()[0] == "npu_draft_3"
    assert first.endswith("operators, all on the NPU")
    assert last.startswith(f"{output}: ")
    assert " for Intel LNL in " in last
    told = json.loads(command("--soc", "LNL", source, "-o", output, "--vendor-option", OPTION, "--json").stdout)
    assert (told["path"], told["bytes"], told["soc"], told["vendor"]) == (
        str(output), output.stat().st_size, "LNL", "Intel"
    )  # fmt: skip
    assert set(told["operators"]) == {"npu_draft_3", "npu_draft_5"}


def test_the_output_has_the_names_of_bundle_and_soc(source: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        result = command("--soc", "ptl", source, "--vendor-option", OPTION)
    assert result.exit_code == 0, result.output
    assert [path.name for path in tmp_path.iterdir()] == ["source-PTL.litertlm"]


def test_socs_are_listed() -> None:
    lines = command("--list-soc").stdout.splitlines()
    assert lines[0].startswith("Qualcomm: ")
    assert "SM8750" in lines[0]
    told = json.loads(command("--list-soc", "--json").stdout)["vendors"]
    assert [each["vendor"] for each in told] == ["Qualcomm", "MediaTek", "Google Tensor", "Samsung", "Intel"]
    assert {"vendor", "sdk", "cure", "socs"} == set(told[0])
    for vendor, line in zip(told, lines[1::2], strict=True):
        assert line == f"  SDK: {vendor['cure'] or 'installed'}"


def test_what_cannot_be_compiled_is_one_line(
    source: Path, compiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = tiny_checkpoints.random_bundle("fp32")
    out = ("-o", tmp_path / "out.litertlm")
    on_cpu = ("--vendor-option", OPTION)
    for arguments, words in (
        (("--soc", "LNX", source, *out), "no SoC 'LNX': take LNL; `edge-mtp compile --list-soc`"),
        (("--soc", "LNL", plain, *out), "has no graphs for an NPU: export it with --accelerators cpu,npu"),
        (("--soc", "PTL", compiled, *out), "is compiled for LNL already"),
        (("--soc", "LNL", source, "-o", source, *on_cpu), "is an input"),
        (("--soc", "LNL", source, "-o", tmp_path, *on_cpu), "is no file"),
        (("--soc", "LNL", source, "-o", tmp_path / "none" / "out", *on_cpu), "choose another place"),
        (("--soc", "LNL", source, *out, *on_cpu, "--vendor-option", "no_such=1"), "command line flag 'no_such'"),
        (("--soc", "LNL", tmp_path / "absent", *out), "give the path of a .litertlm bundle"),
    ):  # fmt: skip
        result = command(*arguments)
        assert result.exit_code == 1, result.output
        refusal = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
        assert len(refusal) == 1
        assert words in refusal[0]
        assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_missing_sdk_is_told_before_the_work(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edge_mtp.export import socs

    monkeypatch.setattr(socs, "find_spec", lambda name: None)
    result = command("--soc", "SM8750", source, "-o", tmp_path / "out.litertlm")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "Error: Qualcomm's SDK is not installed: pip install ai-edge-litert-sdk-qualcomm==" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [(), ("--soc", "LNL"), ("--list-soc", "--soc", "LNL"), ("--soc", "LNL", "b", "--vendor-option", "x")]
)
def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    assert command(*arguments).exit_code == 2
