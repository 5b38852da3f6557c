"""`edge-mtp export`: what it refuses, what it leaves behind, and what is in the bundle."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tiny_checkpoints
from click.testing import CliRunner
from tiny_checkpoints import CONTEXT, PREFILL

from edge_mtp.cli import main
from edge_mtp.cli.export import export as export_verb
from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.bundle import PREFIXES, Bundle

pytest.importorskip("torch")
pytest.importorskip("litert_torch")

from ai_edge_litert import schema_py_generated as schema

from edge_mtp.export import half, resources
from edge_mtp.export.defaults import VERIFY_WIDTHS
from edge_mtp.export.pipeline import export_bundle
from edge_mtp.formats.token_bytes import token_table

BUILTIN = schema.BuiltinOperator
SMALL: dict[str, Any] = {"recipe": "fp32", "context": CONTEXT, "prefill": (PREFILL,)}


def test_the_command_line_and_the_library_make_the_same_bundle() -> None:
    """Where nothing is chosen: what the verb passes on is what the function takes by itself."""
    taken = {name: each.default for name, each in inspect.signature(export_bundle).parameters.items()}
    passed = export_verb.make_context("export", ["--model", "tiny"]).params
    shared = ("recipe", "context", "prefill", "kv", "lean", "widths", "accelerators")
    assert [passed[name] for name in shared] == [taken[name] for name in shared]


class Copy(NamedTuple):
    """A pair of one's own to spoil."""

    target: Path
    drafter: Path

    def edit(self, name: str, change: Callable[[dict[str, Any]], None]) -> None:
        """Change a JSON file, given as in `drafter/config.json`."""
        path = self.target.parent / name
        value = json.loads(path.read_text())
        change(value)
        path.write_text(json.dumps(value))


@pytest.fixture
def pair(tmp_path: Path) -> Copy:
    source = tiny_checkpoints.random_pair()[0].parent
    for name in ("target", "drafter"):
        shutil.copytree(source / name, tmp_path / "pair" / name)
    return Copy(tmp_path / "pair" / "target", tmp_path / "pair" / "drafter")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def refusal(pair: Copy, folder: Path, **options: Any) -> str:
    """The message of the refused export; checks that it is one line and that `folder` is as it was."""
    before = sorted(folder.iterdir())
    with pytest.raises(EdgeMtpError) as raised:
        export_bundle(*pair, folder / "x.litertlm", **(SMALL | options))
    assert "\n" not in str(raised.value)
    assert sorted(folder.iterdir()) == before
    return str(raised.value)


class TestRefusals:
    def test_hidden_sizes_differ(self, pair: Copy, folder: Path) -> None:
        pair.edit("drafter/config.json", lambda c: c.update(backbone_hidden_size=48))
        assert "hidden size is 64, the drafter expects 48" in refusal(pair, folder)

    def test_vocabularies_differ(self, pair: Copy, folder: Path) -> None:
        pair.edit("drafter/config.json", lambda c: c["text_config"].update(vocab_size=1024))
        assert "vocabulary size is 512, the drafter expects 1024" in refusal(pair, folder)

    def test_head_sizes_differ(self, pair: Copy, folder: Path) -> None:
        pair.edit("drafter/config.json", lambda c: c["text_config"].update(head_dim=8))
        assert "sliding_attention head size is 16, the drafter expects 8" in refusal(pair, folder)

    def test_kv_heads_differ(self, pair: Copy, folder: Path) -> None:
        pair.edit("drafter/config.json", lambda c: c["text_config"].update(num_key_value_heads=2))
        assert "KV heads is 1, the drafter expects 2" in refusal(pair, folder)

    def test_not_gemma_4(self, pair: Copy, folder: Path) -> None:
        pair.edit("target/config.json", lambda c: c.update(hidden_activation="silu"))
        assert "hidden_activation='silu'" in refusal(pair, folder)

    def test_pair_swapped(self, pair: Copy, folder: Path) -> None:
        message = refusal(Copy(pair.drafter, pair.target), folder)
        assert "'gemma4_assistant'" in message
        assert str(pair.drafter) in message

    def test_other_architecture(self, pair: Copy, folder: Path) -> None:
        pair.edit("target/config.json", lambda c: c.update(model_type="llama"))
        assert "model_type 'llama'" in refusal(pair, folder)

    def test_invalid_field(self, pair: Copy, folder: Path) -> None:
        pair.edit("target/config.json", lambda c: c.update(hidden_size="wide"))
        assert "config.json is not valid" in refusal(pair, folder)

    @pytest.mark.parametrize(
        "name",
        [
            "target/config.json",
            "target/model.safetensors",
            "target/tokenizer.json",
            "target/chat_template.jinja",
            "drafter/config.json",
            "drafter/model.safetensors",
        ],
    )
    def test_file_missing(self, pair: Copy, folder: Path, name: str) -> None:
        (pair.target.parent / name).unlink()
        assert str(pair.target.parent / name) in refusal(pair, folder)

    def test_directory_missing(self, pair: Copy, folder: Path) -> None:
        assert "is not a directory" in refusal(Copy(pair.target, folder / "absent"), folder)

    def test_config_not_json(self, pair: Copy, folder: Path) -> None:
        (pair.target / "config.json").write_text("{")
        assert "is not JSON" in refusal(pair, folder)

    @pytest.mark.parametrize("kept", [0, 5, 100, -1])
    def test_weights_truncated(self, pair: Copy, folder: Path, kept: int) -> None:
        path = pair.drafter / "model.safetensors"
        path.write_bytes(path.read_bytes()[:kept])
        assert str(path) in refusal(pair, folder)

    def test_tensor_missing(self, pair: Copy, folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        path = pair.target / "model.safetensors"
        tensors = load_file(path)
        name = next(name for name in tensors if name.endswith("layers.2.mlp.up_proj.weight"))
        del tensors[name]
        save_file(tensors, path, metadata={"format": "pt"})
        assert name in refusal(pair, folder)

    def test_tokenizer_of_another_model(self, pair: Copy, folder: Path) -> None:
        pair.edit("target/tokenizer.json", lambda t: t["model"]["vocab"].update(word=600))
        with pytest.raises(EdgeMtpError, match="token 600, the model 512 tokens"):
            token_table(pair.target / "tokenizer.json", 512)

    def test_context_too_small(self, pair: Copy, folder: Path) -> None:
        assert "context 15 is too small" in refusal(pair, folder, context=15, prefill=(4,))
        assert "at least 128" in refusal(pair, folder, context=64, prefill=(128,))

    def test_context_beyond_the_model(self, pair: Copy, folder: Path) -> None:
        assert "4096 positions" in refusal(pair, folder, context=8192)

    @pytest.mark.parametrize(
        ("option", "value", "message"),
        [
            ("kv", "int4", "KV type 'int4' is unknown: choose fp32 or int8"),
            ("widths", (1, 2), "verify widths 1,2 are not all between 2 and 8"),
            ("widths", (9,), "verify widths 9 are not all"),
            ("accelerators", ("tpu",), "no accelerator 'tpu': take one of cpu, gpu, npu"),
            ("recipe", "int3", "no recipe 'int3'"),
            ("recipe", "absent.toml", "absent.toml cannot be read"),
        ],
    )
    def test_option(self, pair: Copy, folder: Path, option: str, value: Any, message: str) -> None:
        assert message in refusal(pair, folder, **{option: value})

    @pytest.mark.parametrize("accelerator", ["gpu", "npu"])
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"recipe": "mixed"}, "in blocks: take int8 or int4, or --accelerators cpu"),
            ({"recipe": "fp16"}, "in fp16: take int8 or int4, or --accelerators cpu"),
            ({"kv": "int8"}, ": take --kv fp32, or --accelerators cpu"),
        ],
        ids=str,
    )
    def test_accelerator_cannot_run_it(
        self, pair: Copy, folder: Path, options: dict[str, Any], message: str, accelerator: str
    ) -> None:
        refused = refusal(pair, folder, accelerators=("cpu", accelerator), **options)
        assert message in refused
        assert f"the {accelerator.upper()} " in refused

    def test_memory_too_small(self, pair: Copy, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(resources, "available_memory", lambda: 1 << 30)
        assert "1024 MiB of memory are available, the export needs" in refusal(pair, folder)
        monkeypatch.setattr(resources, "available_memory", lambda: None)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
        assert "of memory" not in refusal(pair, folder)

    def test_output_in_no_directory(self, pair: Copy, folder: Path) -> None:
        with pytest.raises(EdgeMtpError, match="cannot be written"):
            export_bundle(*pair, folder / "absent" / "x.litertlm", **SMALL)

    def test_output_is_a_directory(self, pair: Copy, folder: Path) -> None:
        (folder / "x.litertlm").mkdir()
        assert "is a directory" in refusal(pair, folder)

    def test_output_is_no_file(self, pair: Copy, folder: Path) -> None:
        os.mkfifo(folder / "x.litertlm")
        assert "would replace" in refusal(pair, folder)

    def test_disk_too_small(self, pair: Copy, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
        assert "0 MiB free" in refusal(pair, folder)


class TestCommandLine:
    def test_refusal_is_one_line_on_stderr(self, pair: Copy, folder: Path) -> None:
        pair.edit("drafter/config.json", lambda c: c.update(backbone_hidden_size=48))
        arguments = ["--model", str(pair.target), "--drafter", str(pair.drafter), "--json"]
        result = CliRunner().invoke(main, ["export", *arguments, "-o", str(folder / "x.litertlm")])
        assert result.exit_code == 1
        assert result.stdout == ""
        assert len(result.stderr.splitlines()) == 1
        assert list(folder.iterdir()) == []

    @pytest.mark.parametrize(
        "arguments",
        [
            ["--model", "tiny", "--kv", "int4"],
            ["--model", "tiny", "--widths", "2,x"],
            ["--model", "E2B", "--random-weights", "1", "--drafter", "somewhere"],
            ["--model", "E2B", "--random-weights", "-1"],
            ["--model", "tiny", "--prefill", "16,x"],
            ["--model", "tiny", "--prefill", "0"],
            ["--model", "tiny", "--context", "0"],
        ],
    )
    def test_wrong_usage(self, arguments: list[str]) -> None:
        assert CliRunner().invoke(main, ["export", *arguments]).exit_code == 2


def test_token_table(pair: Copy) -> None:
    from edge_mtp.formats.token_bytes import TokenBytes

    table = TokenBytes(memoryview(token_table(pair.target / "tokenizer.json", 512)))
    ids = json.loads((pair.target / "tokenizer.json").read_text())["model"]["vocab"]
    assert len(table) == 512
    assert table[48] == b"<|tool_call>"
    assert table.is_special(48)
    assert table[ids["<0xE2>"]] == b"\xe2"
    assert table[ids["▁a"]] == b" a"
    assert not table.is_special(ids["▁a"])


def test_token_table_of_a_byte_level_tokenizer(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, decoders, models

    tokenizer = Tokenizer(models.BPE({"Ġ": 0, "a": 1, "Ã": 2, "©": 3, "Ċ": 4}, []))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    from edge_mtp.formats.token_bytes import TokenBytes

    table = TokenBytes(memoryview(token_table(tmp_path / "tokenizer.json", 7)))
    assert [table[token] for token in range(7)] == [b" ", b"a", b"\xc3", b"\xa9", b"\n", b"", b""]


def own_signatures(widths: Sequence[int], prefill: Sequence[int]) -> set[str]:
    names = {"decode", *(f"prefill_{count}" for count in prefill)}
    names |= {f"verify_{width}" for width in widths} | {f"draft_{width - 1}" for width in widths}
    return {f"{prefix}{name}" for prefix in PREFIXES.values() for name in names}


class Content:
    """A TFLite model whose weights may lie behind its flatbuffer."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.tree = schema.ModelT.InitFromPackedBuf(bytes(data), 0)

    def buffer(self, number: int) -> bytes:
        buffer = self.tree.buffers[number]
        if buffer.offset > 1:
            return bytes(self.data[buffer.offset : buffer.offset + buffer.size])
        return b"" if buffer.data is None else bytes(buffer.data)


def read_by(content: Content, kind: int) -> set[int]:
    """Buffers of [V,H] constants that operators of this kind read."""
    return {
        graph.tensors[operand].buffer
        for graph in content.tree.subgraphs
        for operator in graph.operators
        if content.tree.operatorCodes[operator.opcodeIndex].builtinCode == kind
        for operand in operator.inputs
        if operand >= 0 and list(graph.tensors[operand].shape) == [512, 64]
    }


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["fp32", "int8"])
class TestBundle:
    @pytest.fixture
    def bundle(self, recipe: str) -> Bundle:
        return Bundle(tiny_checkpoints.random_bundle(recipe))

    def test_mtp_is_complete(self, bundle: Bundle) -> None:
        assert bundle.mtp.present
        assert bundle.mtp.missing == ()
        assert bundle.mtp.edge_missing == ()
        assert bundle.mtp.edge_widths == tuple(VERIFY_WIDTHS)

    def test_signatures(self, bundle: Bundle) -> None:
        stock_signatures, signatures = bundle.models["prefill_decode"].signatures, bundle.own_signatures
        assert stock_signatures.keys() == {"prefill_16", "decode", "verify"}
        assert signatures.keys() == own_signatures(VERIFY_WIDTHS, [16])
        assert bundle.accelerators == ("cpu", "gpu", "npu")
        stock, wide = stock_signatures["verify"], signatures["edge_verify_4"]
        masked = wide.inputs | {"mask": stock.inputs["mask"]}  # graphs for the CPU read what they are told to
        assert "mask" not in wide.inputs
        assert "edge_mtp.attention" in wide.custom_ops
        assert stock.inputs.items() <= masked.items()
        assert stock.outputs.items() <= wide.outputs.items()
        assert not any(name.startswith("edge_mtp") for name in stock.custom_ops)
        assert {name: str(t) for name, t in wide.inputs.items() if name not in stock.inputs} == {
            "draft": "i32[1,3]",
            "control": "i32[1,8]",
            "scalars": "f32[1,4]",
            "token_mask": "i32[1,4,16]",
        }
        assert {name: str(t) for name, t in signatures["edge_draft_5"].outputs.items()} == {
            "draft": "i32[1,5]",
            "confidence": "f32[1,5]",
        }
        whole = signatures["gpu_verify_4"]
        assert whole.inputs == masked
        assert {name: str(t) for name, t in whole.outputs.items() if name not in wide.outputs} == {
            "next_hidden": "f32[1,1,64]"
        }
        assert signatures["gpu_draft_5"].outputs == signatures["edge_draft_5"].outputs
        split = signatures["npu_verify_4"]
        assert split.inputs == masked
        others = {name: port for name, port in split.outputs.items() if not name.startswith("kv_new_")}
        assert others == {name: port for name, port in whole.outputs.items() if not name.startswith("kv_cache_")}
        caches = {name: port for name, port in wide.outputs.items() if name.startswith("kv_cache_")}
        assert {name: str(port) for name, port in split.outputs.items() if name not in others} == {
            name.replace("cache", "new"): str(port).replace(f"{CONTEXT}", "4") for name, port in caches.items()
        }
        assert signatures["npu_draft_5"].outputs == signatures["edge_draft_5"].outputs
        assert not any(s.custom_ops for name, s in signatures.items() if not name.startswith("edge_"))

    def test_graphs_are_fit_for_an_accelerator(self, bundle: Bundle) -> None:
        """What the stock graphs and those for GPU and NPU must not hold, by what LiteRT's accelerators make of it."""
        for name in ("prefill_decode", "mtp_aux", "text_encoder"):
            section = bundle.section("TFLiteModel", name)
            assert section is not None
            model = schema.ModelT.InitFromPackedBuf(bytes(section.data), 0)
            entries = {signature.subgraphIndex for signature in model.signatureDefs}
            assert entries == set(range(len(entries))), "the stock engine takes the first subgraph for its own"
            for signature in model.signatureDefs:
                key = signature.signatureKey.decode()
                graph = model.subgraphs[signature.subgraphIndex]
                made = {int(t): operator for operator in graph.operators for t in operator.outputs}
                computed = {*made, *graph.inputs.tolist()}
                codes = {id(o): model.operatorCodes[o.opcodeIndex].builtinCode for o in graph.operators}
                for operator in graph.operators:
                    code, inputs = codes[id(operator)], operator.inputs.tolist()
                    assert code not in (BUILTIN.CUSTOM, BUILTIN.STABLEHLO_COMPOSITE, BUILTIN.STABLEHLO_SCATTER), key
                    assert code != BUILTIN.DYNAMIC_UPDATE_SLICE or name != "text_encoder", f"{key} writes a cache"
                    assert computed.intersection(inputs), f"{key} computes a constant"
                    assert code != BUILTIN.SLICE or not computed.intersection(inputs[1:]), f"{key} cuts a window"
                read = {tensor for operator in graph.operators for tensor in operator.inputs.tolist()}
                outputs = {port.name.decode(): port.tensorIndex for port in signature.outputs}
                assert outputs.get("activations") not in read, key

    def test_metadata(self, bundle: Bundle) -> None:
        metadata = bundle.metadata
        assert metadata.model_type == "gemma4"
        assert metadata.start_token == (2,)
        assert set(metadata.stop_tokens) == {(1,), (50,), (106,)}
        assert metadata.max_num_tokens == CONTEXT - VERIFY_WIDTHS[-1]
        assert bundle.chat_template == tiny_checkpoints.CHAT_TEMPLATE
        assert metadata.supports_thinking
        assert metadata.supports_function_calling
        assert metadata.tool_marks is not None
        assert metadata.tool_marks["code_fence_start"] == "<|tool_call>"

    def test_manifest(self, bundle: Bundle, recipe: str) -> None:
        manifest = bundle.manifest
        assert manifest is not None
        target = tiny_checkpoints.random_pair()[0]
        digest = hashlib.sha256((target / "model.safetensors").read_bytes()).hexdigest()
        assert manifest["source"]["target"]["model.safetensors"] == digest
        assert manifest["recipe"]["name"] == recipe
        assert manifest["recipe"]["kv"] == "fp32"
        assert set(manifest["recipe"]["roles"].values()) == {recipe}
        assert manifest["drafter_kv"] == ["kv_cache_k_1", "kv_cache_v_1", "kv_cache_k_2", "kv_cache_v_2"]
        assert manifest["drafter_position_offset"] == 1
        assert manifest["verify_widths"] == list(VERIFY_WIDTHS)
        assert manifest["context"] == CONTEXT

    def test_weights_are_stored_once(self, bundle: Bundle, recipe: str) -> None:
        """Each in one section; our own graphs use those of the others, and take drafts' embeddings from the head."""
        places: Counter[int] = Counter()  # in the file
        for name in ("embedder", "prefill_decode", "mtp_drafter"):
            section = bundle.section("TFLiteModel", name)
            assert section is not None
            model = Content(section.data)
            copies = Counter(model.buffer(number) for number in range(len(model.tree.buffers)))
            assert all(count == 1 for text, count in copies.items() if len(text) > 64)
            places.update(section.begin + buffer.offset for buffer in model.tree.buffers if buffer.offset > 1)
        for accelerator in bundle.accelerators:
            section = bundle.own_graphs(accelerator)
            assert section is not None
            ours = Content(bundle.content(section))
            borrowed = [section.begin + buffer.offset for buffer in ours.tree.buffers if buffer.offset > 1]
            assert len(borrowed) > 40
            assert [places[place] for place in borrowed] == [1] * len(borrowed)
            # Of its own it has vectors and the tables of rotations.
            assert max(len(ours.buffer(n)) for n, b in enumerate(ours.tree.buffers) if b.offset < 2) < 1 << 16
            heads = read_by(ours, BUILTIN.FULLY_CONNECTED)
            assert read_by(ours, BUILTIN.EMBEDDING_LOOKUP) == heads
            (head,) = heads
            assert len(ours.buffer(head)) == 512 * 64 * {"fp32": 4, "int8": 1}[recipe]

    def test_an_accelerator_loads_its_own_graphs_alone(self, bundle: Bundle) -> None:
        for accelerator in bundle.accelerators:
            section = bundle.own_graphs(accelerator)
            assert section is not None
            assert section.items["edge_mtp"] == accelerator
            names = bundle.models[section.model_type or ""].signatures
            assert names
            assert all(name.startswith(PREFIXES[accelerator]) for name in names)

    def test_only_what_may_be_half_precision_pays_for_it(self, bundle: Bundle) -> None:
        """There each norm takes x / 16 for its x. The stock engine's GPU backend runs the stock graphs."""
        for name, costs in (("prefill_decode", 1), ("mtp_drafter", 0), ("aux", 0), ("mtp_aux", 1), ("text_encoder", 1)):
            section = bundle.section("TFLiteModel", name)
            assert section is not None
            model = Content(bundle.content(section))
            for signature in model.tree.signatureDefs:
                graph = model.tree.subgraphs[signature.subgraphIndex]
                codes = [model.tree.operatorCodes[operator.opcodeIndex].builtinCode for operator in graph.operators]
                factors = [
                    model.buffer(graph.tensors[operator.inputs[1]].buffer)
                    for operator, code in zip(graph.operators, codes, strict=True)
                    if code == BUILTIN.MUL
                ]
                norms = codes.count(BUILTIN.RSQRT)
                assert norms > 0
                assert factors.count(np.float32(half.SHRINK).tobytes()) == norms * costs
                assert np.float32(-1).tobytes() not in factors, "the rotation has its sign in a table"

    def test_runs_in_the_stock_engine(self, bundle: Bundle) -> None:
        litert_lm = pytest.importorskip("litert_lm")
        with litert_lm.Engine(
            bundle.path,
            backend=litert_lm.Backend.CPU(thread_count=1),
            enable_speculative_decoding=True,
            cache_dir=":nocache",
        ) as engine:
            session = engine.create_session(max_output_tokens=12)
            session.run_prefill(["<|turn>user\nhello<turn|>\n<|turn>model\n"])
            assert session.run_decode().texts[0]
            del session


@pytest.mark.slow
class TestOptions:
    def test_lean_bundle_keeps_the_stock_graphs_only(self, tmp_path: Path) -> None:
        told: list[tuple[str, float]] = []
        path = tmp_path / "lean.litertlm"
        pair = tiny_checkpoints.random_pair()
        summary = export_bundle(*pair, path, lean=True, progress=lambda *each: told.append(each), **SMALL)
        shares = [share for _, share in told]
        assert (shares[0], shares[-1]) == (0, 1)
        assert shares == sorted(shares)
        assert len(set(shares)) > 20
        bundle = Bundle(path)
        assert bundle.models["prefill_decode"].signatures.keys() == {"prefill_16", "decode", "verify"}
        assert bundle.mtp.missing == ()
        assert bundle.mtp.edge_widths == ()
        assert list(tmp_path.iterdir()) == [path]
        assert sum(summary.sections.values()) <= path.stat().st_size
        assert summary.seconds.keys() == {"trace", "assemble", "weights", "bundle"}

    def test_whatever_is_asked_for(self, tmp_path: Path) -> None:
        recipe, path = tmp_path / "mine.toml", tmp_path / "mine.litertlm"
        recipe.write_text('base = "fp32"\n[roles]\nmlp = "int8"\n[overrides]\n"*.layers.0.mlp.*" = "fp16"\n')
        pair, origins = tiny_checkpoints.random_pair(), {"target": "someone/tune@0"}
        options = {
            "widths": (5, 3),
            "kv": "int8",
            "prefill": (PREFILL, 8, PREFILL),
            "recipe": str(recipe),
            "origins": origins,
        }
        export_bundle(*pair, path, **(SMALL | options))
        bundle = Bundle(path)
        assert bundle.mtp.missing == bundle.mtp.edge_missing == ()
        assert bundle.mtp.edge_widths == (3, 5)
        signatures = bundle.models["prefill_decode"].signatures
        assert signatures.keys() == {"prefill_8", "prefill_16", "decode", "verify"}
        wanted = own_signatures((3, 5), [8, 16])
        assert bundle.own_signatures.keys() == {name for name in wanted if name.startswith("edge_")}
        assert bundle.accelerators == ("cpu",)  # a cache in int8 is not for the GPU
        caches = {str(t) for n, t in signatures["decode"].inputs.items() if n.startswith("kv_cache")}
        assert all(cache.startswith("i8[") for cache in caches)
        assert bundle.manifest is not None
        assert bundle.manifest["source"]["origins"] == origins
        assert bundle.manifest["recipe"]["roles"]["mlp"] == "int8"
        assert bundle.manifest["recipe"]["overrides"] == {"*.layers.0.mlp.*": "fp16"}
        assert bundle.manifest["recipe"]["kv"] == "int8"
        assert not bundle.manifest["lean"]
