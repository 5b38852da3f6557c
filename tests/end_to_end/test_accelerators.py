"""Replies on accelerators, against those on the CPU: on a GPU in software, and on OpenVINO as an NPU."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerators import environment

from edge_mtp.chat.bundle_chat import chat_format_of
from edge_mtp.device import Sampling
from edge_mtp.device.doctor import examine
from edge_mtp.device.host import HostDevice, litert_library, runner_path
from edge_mtp.device.load_options import LoadOptions
from edge_mtp.dialogue import Dialogue
from edge_mtp.engine import Engine, open_engine
from edge_mtp.errors import EdgeMtpError
from edge_mtp.export.checkpoint import tiny_pair
from edge_mtp.export.compiled import compile_bundle
from edge_mtp.export.pipeline import export_bundle
from edge_mtp.formats.accelerator import AcceleratorChoice
from edge_mtp.formats.bundle import Bundle
from edge_mtp.harness.ask.litert_lm_process import StockEngine
from edge_mtp.reply_options import ReplyOptions

pytestmark = pytest.mark.slow

WIDTHS = (4, 6)
PROMPTS = 3
PREFILL = 128  # rows of the prefill graph
SETTINGS = list(itertools.product((0, 3, None), (0.0, 0.8), (True, False)))  # drafts, temperature, constrained


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny pair with graphs for all accelerators."""
    path = tmp_path_factory.mktemp("accelerated") / "tiny.litertlm"
    export_bundle(
        *tiny_pair(), path, recipe="fp32", widths=WIDTHS, prefill=(PREFILL,), accelerators=("cpu", "gpu", "npu")
    )
    return path


@pytest.fixture(scope="module")
def on_cpu(bundle: Path) -> Iterator[Engine]:
    with open_engine(bundle, threads=1) as engine:
        yield engine


@pytest.fixture(scope="module", params=["gpu", "npu"])
def accelerated(request: pytest.FixtureRequest, bundle: Path, vulkan: Path) -> Iterator[Engine]:
    with pytest.MonkeyPatch.context() as patch:  # its runner alone has these variables
        for name, value in environment(request.param, vulkan).items():
            patch.setenv(name, value)
        engine = open_engine(bundle, threads=1, accelerator=request.param)
    with engine:
        assert engine.runner.ready.accelerator == request.param
        yield engine


def tokens(engine: Engine, item: dict[str, Any], settings: tuple[int | None, float, bool], seed: int) -> list[int]:
    drafts, temperature, constrained = settings
    options = ReplyOptions(
        draft_length=drafts,
        sampling=Sampling(temperature, seed=seed),
        constrained=constrained and bool(item["tools"]),
        max_tokens=40,
    )
    return list(engine.chat(item["messages"], tools=item["tools"], options=options).wait().tokens)


def test_texts_are_those_of_the_cpu(accelerated: Engine, on_cpu: Engine, tiny_split: list[dict[str, Any]]) -> None:
    for seed, item in enumerate(tiny_split[:PROMPTS]):
        for settings in SETTINGS:
            expected = tokens(on_cpu, item, (0, *settings[1:]), seed)
            assert tokens(accelerated, item, settings, seed) == expected, (item["id"], settings)


def test_ten_turns_are_those_of_the_cpu(accelerated: Engine, on_cpu: Engine) -> None:
    texts = []
    for engine in (on_cpu, accelerated):
        options = ReplyOptions(draft_length=3, max_tokens=12)
        dialogue = Dialogue(engine)
        for turn in range(10):
            dialogue.say(f"Turn {turn}: what is the time?")
            reply = dialogue.reply(options).wait()
            dialogue.add(reply)
            texts.append(reply.text)
    assert texts[:10] == texts[10:]


def test_a_reply_that_is_left_early_leaves_no_trace(
    accelerated: Engine, on_cpu: Engine, tiny_split: list[dict[str, Any]]
) -> None:
    item = max(tiny_split[:20], key=lambda item: len(str(item["messages"])))
    for _ in range(2):
        left = accelerated.chat("Tell me about the sea", draft_length=3, max_tokens=40)
        next(iter(left))
        left.cancel()
        assert tokens(accelerated, item, (3, 0.0, False), 0) == tokens(on_cpu, item, (0, 0.0, False), 0)


def test_processors_and_stop_strings_serve_there_too(accelerated: Engine, on_cpu: Engine) -> None:
    sampling = Sampling(0.0, repetition_penalty=1.3, logit_bias={106: -2.0})
    options = ReplyOptions(draft_length=3, max_tokens=24, sampling=sampling, stop_texts=("alarm",))
    texts = [engine.chat("Wake me at 6:40", options=options).wait() for engine in (on_cpu, accelerated)]
    assert texts[0].text == texts[1].text
    assert texts[0].tokens == texts[1].tokens


def test_only_ids_cross_in_a_greedy_step(accelerated: Engine, on_cpu: Engine) -> None:
    """Down: the drafts and their confidences, then the count and the tokens. Up: what the host embeds, and the mask."""
    reply = accelerated.chat("Wake me at 6:40", draft_length=3, max_tokens=30).wait()
    verified = [step for step in reply.steps if step.kind == "verify"][1:]
    assert verified
    plain = accelerated.chat("Wake me at 6:40", draft_length=0, max_tokens=4).wait().steps[-1]
    assert plain.waits == 1
    new_rows = 0
    if accelerated.runner.ready.accelerator == "npu":  # the host keeps the cache
        new_rows = 4 * (plain.bytes_from_accelerator - 4)
        assert new_rows > 0
    else:
        assert plain.bytes_from_accelerator == 4, "the token alone"
    for step in verified:
        assert step.waits == 2
        assert step.bytes_from_accelerator == 3 * 4 + 3 * 4 + 4 + 4 * 4 + new_rows
        assert step.bytes_to_accelerator < 2 * 5 * 4 * accelerated.context_length + new_rows
    assert all(step.waits == step.bytes_from_accelerator == 0 for step in on_cpu.chat("Hi", max_tokens=9).wait().steps)


def test_coupled_drafts_are_refused(accelerated: Engine) -> None:
    name = accelerated.runner.ready.accelerator
    with pytest.raises(EdgeMtpError, match=f"the {name} drafts the likeliest token only; drop couple_drafts"):
        accelerated.chat("Hi", draft_length=3, couple_drafts=True, sampling=Sampling(1.0)).wait()


def test_a_kept_prefix_is_read_there(accelerated: Engine, tiny_split: list[dict[str, Any]]) -> None:
    item = tiny_split[0]
    options = ReplyOptions(draft_length=3, max_tokens=20, keep_prefix=True)
    first = accelerated.chat(item["messages"], tools=item["tools"], options=options).wait()
    accelerated.chat("Hi", max_tokens=2).wait()  # which takes the cache
    again = accelerated.chat(item["messages"], tools=item["tools"], options=options).wait()
    assert again.outcome is not None
    assert again.outcome.restored_tokens + again.outcome.reused_tokens > 0
    assert again.tokens == first.tokens


def test_the_stock_engine_on_a_gpu_is_right_up_to_two_prefill_calls(
    bundle: Path, tiny_split: list[dict[str, Any]], vulkan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the third call of `prefill_T` on, litert-lm 0.18 answers something else on a GPU, without an error.

    The same graphs are right in our own loop. Once the stock engine is right, too, the last line fails: then
    docs/accelerators.md need not name this fault.
    """
    pytest.importorskip("litert_lm")
    for name, value in environment("gpu", vulkan).items():
        monkeypatch.setenv(name, value)
    chat = chat_format_of(Bundle(bundle), True)
    prompts = sorted(
        (chat.render(item["messages"], item["tools"]) for item in tiny_split[:200] if item["tools"]), key=len
    )
    lengths = [len(chat.tokenizer.encode(prompt)) for prompt in prompts]
    short = [prompt for prompt, length in zip(prompts, lengths, strict=True) if length <= 2 * PREFILL][::50]
    long = [prompt for prompt, length in zip(prompts, lengths, strict=True) if length > 2 * PREFILL + 16][-3:]
    assert len(short) >= 3 <= len(long)
    replies = []
    for accelerator in ("cpu", "gpu"):
        with StockEngine(bundle, mtp="off", accelerator=accelerator, threads=1) as engine:
            replies.append([[engine.reply(prompt, 24).text for prompt in some] for some in (short, long)])
    assert replies[0][0] == replies[1][0]
    assert replies[0][1] != replies[1][1]


def test_a_bundle_compiled_ahead_gives_the_same_text(
    bundle: Path, on_cpu: Engine, tiny_split: list[dict[str, Any]], tmp_path: Path
) -> None:
    environment("npu", bundle)  # which skips where OpenVINO is missing
    compiled = tmp_path / "compiled.litertlm"
    options = {"intel_openvino_graph_backends": "cpu"}
    compile_bundle(bundle, "LNL", compiled, options=options)
    with open_engine(compiled, threads=1, accelerator="npu") as engine:
        for item in tiny_split[:2]:
            assert tokens(engine, item, (3, 0.0, True), 0) == tokens(on_cpu, item, (0, 0.0, True), 0)


def started(
    bundle: Path, cache: Path, *flags: str, environ: dict[str, str], litert: Path | None = None
) -> dict[str, Any]:
    """The first record of a runner that starts and ends."""
    command = [str(runner_path()), "--bundle", str(bundle), "--litert", str(litert or litert_library()), *flags]
    if flags:
        command += ["--cache-dir", str(cache)]
    done = subprocess.run(command, input="", capture_output=True, text=True, timeout=300, env={**os.environ, **environ})
    record: dict[str, Any] = json.loads(done.stdout.splitlines()[0])
    return record


@pytest.fixture
def gpu(vulkan: Path) -> dict[str, str]:
    return environment("gpu", vulkan)


def test_auto_takes_the_fastest_right_one_and_remembers_it(bundle: Path, gpu: dict[str, str], tmp_path: Path) -> None:
    """A GPU in software is right and slow."""
    ready = started(bundle, tmp_path, "--accelerator", "auto", "--threads", "1", environ=gpu)
    assert ready["accelerator"] == "cpu"
    assert "the gpu is right, at 0.0" in ready["accelerator_reason"]
    assert "the npu is out" in ready["accelerator_reason"]
    (kept,) = tmp_path.glob("*.accelerator")
    lines = kept.read_text("utf-8").splitlines()
    lines[1] = "gpu faster 3 " + " ".join(["1"] * 21 + ["3"] * 21)  # of the time of the cpu's plain step
    kept.write_text("\n".join(lines), "utf-8")
    again = started(bundle, tmp_path, "--accelerator", "auto", "--threads", "1", environ=gpu)
    assert again["accelerator"] == "gpu"
    assert "the gpu is right, at 3x" in again["accelerator_reason"]
    other = started(bundle, tmp_path, "--accelerator", "auto", "--threads", "1", environ={})
    assert other["accelerator"] == "cpu", "another driver, another choice"


@pytest.mark.parametrize("accelerator", ["gpu", "npu"])
def test_doctor_tries_what_the_bundle_has_graphs_for(
    bundle: Path, vulkan: Path, accelerator: AcceleratorChoice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name, value in environment(accelerator, vulkan).items():
        monkeypatch.setenv(name, value)
    found = {finding.name: finding for finding in examine(HostDevice(), Bundle(bundle))}
    assert found[accelerator].level == "ok"
    assert "right, at 0." in found[accelerator].value, "both are the CPU in disguise"
    (other,) = {"gpu", "npu"} - {accelerator}
    assert found[other].level == "warning"
    assert found[other].value.startswith(f"out: LiteRT cannot run this bundle's graphs on the {other}")
    assert "the CPU serves" in (found[other].cure or "")


def test_auto_refuses_a_gpu_that_computes_something_else(bundle: Path, gpu: dict[str, str], tmp_path: Path) -> None:
    """Constants of the GPU's graphs are changed: norms' weights, of which each section has a copy of its own."""
    damaged = tmp_path / "damaged.litertlm"
    content = bytearray(bundle.read_bytes())
    opened = Bundle(bundle)
    section = next(each for each in opened.sections if each.items.get("edge_mtp") == "gpu")
    graphs = np.frombuffer(content, np.float32, count=(section.end - section.begin) // 4, offset=section.begin)
    norms = np.flatnonzero((np.abs(graphs) > 0.5) & (np.abs(graphs) < 100))
    graphs[norms] *= 1.7
    damaged.write_bytes(content)
    ready = started(damaged, tmp_path, "--accelerator", "auto", "--threads", "1", environ=gpu)
    assert ready["accelerator"] == "cpu"
    assert "the gpu is out" in ready["accelerator_reason"]


def test_auto_survives_a_driver_that_ends_the_process(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "litert"
    folder.mkdir()
    litert = folder / "libLiteRt.so"
    litert.symlink_to(litert_library())
    source = tmp_path / "crash.c"
    source.write_text("#include <stdlib.h>\n__attribute__((constructor)) static void end(void) { abort(); }\n", "utf-8")
    library = folder / "libLiteRtWebGpuAccelerator.so"
    subprocess.run(["gcc", "-shared", "-fPIC", str(source), "-o", str(library)], check=True, timeout=60)
    ready = started(bundle, tmp_path, "--accelerator", "auto", "--threads", "1", environ={}, litert=litert)
    assert ready["accelerator"] == "cpu"
    assert "the gpu is out: it crashed (signal 6)" in ready["accelerator_reason"]


def test_a_machine_without_the_accelerator_says_so(bundle: Path, tmp_path: Path) -> None:
    for accelerator in ("gpu", "npu"):
        failure = started(bundle, tmp_path, "--accelerator", accelerator, environ={"VK_ICD_FILENAMES": "/nowhere"})
        assert failure["event"] == "error"
        assert f"LiteRT cannot run this bundle's graphs on the {accelerator}" in failure["message"]
        assert "take --accelerator cpu" in failure["message"]


@pytest.mark.parametrize("accelerator", ["gpu", "npu"])
def test_a_bundle_without_graphs_for_it_says_how_to_get_them(tiny_bundle: Path, accelerator: AcceleratorChoice) -> None:
    with pytest.raises(
        EdgeMtpError, match=f"no graphs for the {accelerator}; export it with --accelerators cpu,{accelerator}"
    ):
        HostDevice().start(tiny_bundle, LoadOptions(accelerator=accelerator))


def test_auto_needs_no_trial_where_the_bundle_offers_nothing(tiny_bundle: Path) -> None:
    with HostDevice().start(tiny_bundle, LoadOptions(accelerator="auto")) as runner:
        assert runner.ready.accelerator == "cpu"
        assert runner.ready.accelerator_reason == "the bundle has graphs for the cpu only"


def test_half_precision_is_for_a_gpu() -> None:
    with pytest.raises(EdgeMtpError, match="half precision is for a GPU, not the cpu; take --accelerator gpu"):
        LoadOptions(half_precision=True)


def test_an_accelerator_drafts_no_single_steps(bundle: Path) -> None:
    with pytest.raises(EdgeMtpError, match="a step at a time are made on the CPU only"):
        HostDevice().start(bundle, LoadOptions(accelerator="gpu", stepwise=True))
