"""What a vendor's compiler says, in one line, and how far it is."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from ai_edge_litert.aot.core import common

from edge_mtp.errors import EdgeMtpError
from edge_mtp.export import vendor_compiler
from edge_mtp.export.socs import find_soc
from edge_mtp.export.vendor_compiler import LONGEST_FAULT, compile_graphs, complaint

# As `apply_plugin_main` of LiteRT 2.3 wrote it, in parts.
NO_COMPILER = """\
INFO: [openvino_compiler_plugin.cc:642] Compiling partition 0 for device NPU
ERROR: [openvino_compiler_plugin.cc:714] Exception in compilation: Exception from src/inference/src/cpp/core.cpp:117:
VCL compiler loading failed, aborting.

ERROR: [apply_plugin.cc:455] ERROR: [litert/compiler/plugin/compiler_plugin.cc:504]
INFO: [accelerator_registry.cc:43] DestroyAccelerator: ptr=0x560b23b6e730, name=GPU WebGPU
"""
NO_SDK = """\
WARNING: [npu_registry.cc:34] NPU accelerator could not be loaded and registered: kLiteRtStatusErrorNotFound.
ERROR: [neuron_adapter_api.cc:65] Failed to load NeuronAdapter shared library: no such file
ERROR: [compiler_plugin.cc:387] Failed to load NeuronAdapter for SDK version: no such file
"""
ABORTED = "INFO: [a.cc:1] fine\nterminate called after throwing\n  what():  vector::_M_range_check\n"


@pytest.mark.parametrize(
    ("log", "fault"),
    [
        (
            NO_COMPILER,
            "Exception in compilation: Exception from src/inference/src/cpp/core.cpp:117: VCL compiler loading failed,"
            " aborting.",
        ),
        (NO_SDK, "Failed to load NeuronAdapter shared library: no such file"),
        ("ERROR: Unknown command line flag 'foo'.", "Unknown command line flag 'foo'."),
        (ABORTED, "what():  vector::_M_range_check"),
        ("", "it says nothing"),
        ("ERROR: " + "x" * 9999, "x" * LONGEST_FAULT),
    ],
)  # fmt: skip
def test_the_first_fault_is_told(log: str, fault: str) -> None:
    assert complaint(log.splitlines()) == fault


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Takes the place of LiteRT's program with a line of Python that has its flags in `flags`."""

    def replace(line: str) -> None:
        path = tmp_path / "program"
        path.write_text(
            f"#!{sys.executable}\nimport json, sys\nflags = dict(a[2:].split('=', 1) for a in sys.argv[1:])\n{line}\n"
        )
        path.chmod(0o755)
        real = common.get_resource
        monkeypatch.setattr(
            common, "get_resource", lambda name, **more: path if name == vendor_compiler.PROGRAM else real(name, **more)
        )

    return replace


def compiled(soc: str, tmp_path: Path, **options: str) -> list[tuple[str, float]]:
    told: list[tuple[str, float]] = []
    compile_graphs(
        find_soc(soc), tmp_path / "a.tflite", tmp_path / "b.tflite", options, 2, lambda *step: told.append(step)
    )
    return told


@pytest.mark.parametrize(
    ("soc", "manufacturer", "model"),
    [
        ("SM8750", "Qualcomm", "SM8750"),
        ("MT6993", "MediaTek", "mt6993"),
        ("Tensor_G5", "Google", "Tensor_G5"),
        ("E9965", "Samsung", "E9965"),
        ("LNL", "IntelOpenVINO", "LNL"),
    ],
)
def test_each_vendor_is_asked_for_its_soc(
    soc: str, manufacturer: str, model: str, program: Any, tmp_path: Path
) -> None:
    program("open(flags['o'], 'w').write(json.dumps(flags))")
    compiled(soc, tmp_path, an_option="1=2")
    flags = json.loads((tmp_path / "b.tflite").read_text())
    assert (flags["soc_manufacturer"], flags["soc_model"]) == (manufacturer, model)
    assert flags["model"] == str(tmp_path / "a.tflite")
    assert flags["an_option"] == "1=2"
    plugins = list(Path(flags["libs"]).glob("libLiteRtCompilerPlugin_*.so"))
    assert len(plugins) == 1
    assert ("mediatek_sdk_version_type" in flags) == (soc == "MT6993"), "it has another SDK than older SoCs"


def test_progress_counts_graphs(program: Any, tmp_path: Path) -> None:
    lines = (
        "INFO: [a.cc:1] Partitioned subgraph<%d>, selected 5 ops, from a total of 5 ops. resulted in 1 partitions.",
        "INFO: [b.cc:1] Compiling partition %d for device CPU",
    )
    program(f"for line in {lines!r}:\n  for n in (0, 1): print(line % n)")
    told = compiled("LNL", tmp_path)
    assert [what for what, _ in told] == [
        *["compile for LNL"] * 3, "compile for LNL, graph 1 of 2", "compile for LNL, graph 2 of 2"
    ]  # fmt: skip
    assert [done for _, done in told] == sorted(done for _, done in told)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("print('ERROR: [a.cc:1] no such operator'); sys.exit(3)", "no such operator"),
        ("print('fine', flush=True); import os; os.abort()", "fine"),
    ],
)
def test_a_refusal_is_one_line(line: str, fault: str, program: Any, tmp_path: Path) -> None:
    program(line)
    with pytest.raises(EdgeMtpError, match=f"Qualcomm's compiler cannot compile for SM8750: {fault}"):
        compiled("SM8750", tmp_path)


def test_a_program_that_does_not_start_is_one_line(program: Any, tmp_path: Path) -> None:
    program("")
    (tmp_path / "program").chmod(0o644)
    with pytest.raises(EdgeMtpError, match=r"cannot be started \(Permission denied\): reinstall ai-edge-litert"):
        compiled("SM8750", tmp_path)


def test_an_option_of_our_own_is_refused(program: Any, tmp_path: Path) -> None:
    program("")
    with pytest.raises(EdgeMtpError, match="option model is given by edge-mtp"):
        compiled("SM8750", tmp_path, model="another")


def test_an_interrupt_ends_the_compiler(program: Any, tmp_path: Path) -> None:
    program("print('Partitioned subgraph<0>, selected 1 ops', flush=True); import time; time.sleep(600)")

    def interrupted(what: str, done: float) -> None:
        if done > 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compile_graphs(find_soc("LNL"), tmp_path / "a.tflite", tmp_path / "b.tflite", {}, 1, interrupted)
