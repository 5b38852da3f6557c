"""`edge-mtp compile`: graphs for an NPU, compiled by OpenVINO for its CPU device, which is here where an NPU is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import accelerated_graphs
import openvino_libraries
import pytest
import tiny_checkpoints
from click.testing import CliRunner, Result

from edge_mtp.cli import main
from edge_mtp.device import Outcome, Request
from edge_mtp.engine import open_engine
from edge_mtp.errors import EdgeMtpError
from edge_mtp.export import compiled as compiled_module
from edge_mtp.export.compiled import compile_bundle, npu_sections
from edge_mtp.export.pipeline import export_bundle
from edge_mtp.formats.accelerator import ACCELERATORS
from edge_mtp.formats.bundle import HEADER_BEGIN, Bundle

pytestmark = pytest.mark.skipif(
    openvino_libraries.folder() is None, reason="no openvino: pip install --no-deps openvino==2026.3.1"
)

ON_CPU = {"intel_openvino_graph_backends": "cpu"}
OPTION = "intel_openvino_graph_backends=cpu"
SIGNATURES = ["npu_prefill_16", "npu_decode", "npu_verify_4", "npu_draft_3"]


def exported(recipe: str, path: Path) -> Path:
    """A small random pair with one verify width, since each graph takes a second to compile."""
    sizes = {"context": tiny_checkpoints.CONTEXT, "prefill": (tiny_checkpoints.PREFILL,), "widths": (4,)}
    export_bundle(*tiny_checkpoints.random_pair(), path, recipe=recipe, accelerators=ACCELERATORS, **sizes)
    return path


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported("fp32", tmp_path_factory.mktemp("source") / "source.litertlm")


@pytest.fixture(scope="session")
def compiled(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_bundle(source, "LNL", tmp_path_factory.mktemp("compiled") / "c.litertlm", options=ON_CPU).path


def remarked(source: Path, path: Path, **marks: str) -> Path:
    """Write `path`: the bundle with other marks of its sections, each as long as before."""
    data = source.read_bytes()
    header = data[: int.from_bytes(data[HEADER_BEGIN - 8 : HEADER_BEGIN], "little")]
    body = data[len(header) :]
    for old, new in marks.items():
        text = b"\x03\x00\x00\x00" + old.encode() + b"\x00"
        assert header.count(text) == 1
        header = header.replace(text, text.replace(old.encode(), new.encode()))
    path.write_bytes(header + body)
    return path


def test_compiled_graphs_compute_what_the_cpu_does(source: Path, compiled: Path) -> None:
    accelerated_graphs.check(accelerated_graphs.told(source, "npu", SIGNATURES, "--compiled", str(compiled)), 1e-4)


def test_integer_weights_are_compiled(tmp_path: Path) -> None:
    """The CPU rounds what it multiplies them with, and OpenVINO does not."""
    source = exported("int8", tmp_path / "source.litertlm")
    made = compile_bundle(source, "PTL", tmp_path / "out.litertlm", options=ON_CPU)
    names = ["npu_decode", "npu_verify_4"]
    found = accelerated_graphs.told(source, "npu", names, "--compiled", str(made.path))
    for each in found.values():
        each["outputs"] = {port: of for port, of in each["outputs"].items() if port.startswith(("kv_", "logits"))}
    accelerated_graphs.check(found, 1e-1)


def test_the_npu_runs_every_operator(source: Path, compiled: Path) -> None:
    (before,), (after,) = npu_sections(Bundle(source)), npu_sections(Bundle(compiled))
    wanted = Bundle(source).models[before.model_type or ""].signatures
    made = Bundle(compiled).models[after.model_type or ""].signatures
    assert list(made) == list(wanted)
    for name, signature in made.items():
        assert signature.custom_ops == ("DISPATCH_OP",)
        assert (signature.inputs, signature.outputs) == (wanted[name].inputs, wanted[name].outputs)
    assert Bundle(compiled).accelerators == ("cpu", "gpu", "npu")
    told = CliRunner().invoke(main, ["inspect", str(compiled)]).stdout.splitlines()
    assert told[-1] == "accelerators: cpu, gpu, npu (compiled for LNL)"


def test_all_else_stays_and_runs(source: Path, compiled: Path) -> None:
    before, after = Bundle(source), Bundle(compiled)
    assert after.system_metadata == before.system_metadata
    for old, new in zip(before.sections, after.sections, strict=True):
        if old.items.get("edge_mtp") != "npu":
            assert (new.type, new.items, bytes(new.data)) == (old.type, old.items, bytes(old.data))
    (section,) = npu_sections(after)
    assert section.items["edge_mtp_soc"] == "LNL"
    replies = []
    for bundle in (source, compiled):
        with open_engine(bundle, threads=1) as engine:
            *steps, outcome = engine.runner.generate(Request([3, 5, 7], 12, []))
            assert isinstance(outcome, Outcome)
            replies.append([token for step in steps for token in step.tokens])  # type: ignore[union-attr]
    assert len(replies[0]) == 12
    assert replies[1] == replies[0]


def test_what_the_compiler_leaves_to_the_cpu_is_refused_by_name(source: Path, tmp_path: Path) -> None:
    """The graphs for the GPU update their caches in place, which OpenVINO does not take."""
    wrong, output = remarked(source, tmp_path / "wrong", npu="old", gpu="npu"), tmp_path / "out.litertlm"
    output.write_text("mine")
    before = set(tmp_path.iterdir())
    with pytest.raises(EdgeMtpError, match=r"leaves \d+ DYNAMIC_UPDATE_SLICE of gpu_prefill_16 to the CPU \(and \d+ m"):
        compile_bundle(wrong, "LNL", output, options=ON_CPU)
    assert output.read_text() == "mine"
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("wrote", "words"), [(None, "wrote nothing"), (b"", "wrote nothing"), (b"TFL3" * 99, "wrote a damaged model")]
)
def test_a_compiler_that_writes_no_model_is_refused(
    wrote: bytes | None, words: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compile_graphs(soc: Any, graphs: Path, made: Path, *rest: Any) -> None:
        if wrote is not None:
            made.write_bytes(wrote)

    monkeypatch.setattr(compiled_module, "compile_graphs", compile_graphs)
    with pytest.raises(EdgeMtpError, match=f"Intel's compiler {words}"):
        compile_bundle(source, "LNL", tmp_path / "out.litertlm", options=ON_CPU)
    assert list(tmp_path.iterdir()) == []


def test_a_compiler_that_changes_a_graph_is_refused(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one that leaves graphs out."""
    cpu = Bundle(source).own_graphs("cpu")
    assert cpu is not None
    monkeypatch.setattr(
        compiled_module, "compile_graphs", lambda soc, graphs, made, *rest: made.write_bytes(bytes(cpu.data))
    )
    with pytest.raises(EdgeMtpError, match="changed the inputs or outputs of npu_prefill_16"):
        compile_bundle(source, "LNL", tmp_path / "out.litertlm", options=ON_CPU)
    assert list(tmp_path.iterdir()) == []


# -- the command ------------------------------------------------------------------------------------------------------


def command(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["compile", *map(str, arguments)])


def test_the_command_says_what_it_made(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = command("--soc", "lnl", source, "--vendor-option", OPTION)
    assert done.exit_code == 0, done.output
    assert [path.name for path in tmp_path.iterdir()] == ["source-LNL.litertlm"]
    *signatures, last = done.stdout.splitlines()
    assert [line.split()[0] for line in signatures] == SIGNATURES
    assert all(line.endswith("operators, all on the NPU") for line in signatures)
    assert last.startswith("source-LNL.litertlm: ")
    assert " for Intel LNL in " in last
    assert "compile for LNL, graph 4 of 4" in done.stderr


def test_json_says_the_same(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.litertlm"
    told = json.loads(command("--soc", "LNL", source, "-o", output, "--vendor-option", OPTION, "--json").stdout)
    assert (told["path"], told["soc"], told["vendor"]) == (str(output), "LNL", "Intel")
    assert told["bytes"] == output.stat().st_size
    assert told["section_bytes"] == npu_sections(Bundle(output))[0].size
    assert list(told["operators"]) == SIGNATURES


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
    source: Path, compiled: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    plain = remarked(source, tmp_path_factory.mktemp("plain") / "plain.litertlm", npu="old")
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
