"""Pairs of checkpoints: every layout that can be exported, what goes with them, and what is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tiny_checkpoints

from edge_mtp.errors import EdgeMtpError

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file  # noqa: E402

from edge_mtp.export.checkpoint import (  # noqa: E402
    Pair,
    drafters_allowed,
    load_drafter,
    load_target,
    open_pair,
    random_pair,
    tiny_pair,
    tokenizer_ids,
)
from edge_mtp.formats.token_bytes import token_table  # noqa: E402

UNIFIED = {
    "vocab_size": 512,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_global_key_value_heads": 1,
    "attention_k_eq_v": True,
    "head_dim": 8,
    "global_head_dim": 16,
    "sliding_window": 16,
    "final_logit_softcapping": 30.0,
}


class Folders(NamedTuple):
    """A pair of one's own to change."""

    target: Path
    drafter: Path

    def open(self, **options: Any) -> Pair:
        return open_pair(*self, **options)

    def edit(self, name: str, change: Callable[[dict[str, Any]], None]) -> None:
        """Change a JSON file, given as in `drafter/config.json`."""
        path = self.target.parent / name
        value = json.loads(path.read_text(encoding="utf-8"))
        change(value)
        path.write_text(json.dumps(value), encoding="utf-8")

    def refusal(self, **options: Any) -> str:
        with pytest.raises(EdgeMtpError) as raised:
            self.open(**options)
        assert "\n" not in str(raised.value)
        return str(raised.value)


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    source = tiny_checkpoints.random_pair()[0].parent
    for name in ("target", "drafter"):
        shutil.copytree(source / name, tmp_path / "pair" / name)
    return Folders(tmp_path / "pair" / "target", tmp_path / "pair" / "drafter")


def multimodal(folder: Path) -> None:
    """Make a text-only target a full multimodal one, as the published checkpoints are."""
    config = json.loads((folder / "config.json").read_text())
    full = {"model_type": "gemma4", "text_config": config, "tie_word_embeddings": True, "audio_config": None}
    (folder / "config.json").write_text(json.dumps(full))
    tensors = {
        name.replace("model.", "model.language_model.", 1): value
        for name, value in load_file(folder / "model.safetensors").items()
    }
    tensors["model.vision_tower.patch_embedder.input_proj.weight"] = torch.zeros(4, 4)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def shard(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    path.unlink()
    index = {}
    for number in range(3):
        name = f"model-{number + 1:05}-of-00003.safetensors"
        part = {key: tensors[key] for key in sorted(tensors)[number::3]}
        save_file(part, folder / name, metadata={"format": "pt"})
        index |= dict.fromkeys(part, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def same_weights(found: Any, expected: Any) -> None:
    state = expected.state_dict()
    for name, value in found.state_dict().items():
        assert torch.equal(value, state[name].float()), name


class TestOpen:
    def test_the_tiny_pair(self) -> None:
        pair = open_pair(*tiny_pair())
        assert pair.kv_layers == {"sliding_attention": 2, "full_attention": 3}
        assert pair.generation["eos_token_id"] == [106, 50]
        assert tokenizer_ids(pair.tokenizer)["<|turn>"] == 105
        assert pair.target.parameters == sum(int(np.prod(shape)) for shape in pair.target.weights.names.values())

    def test_loaded_models_are_those_of_transformers(self, folders: Folders) -> None:
        from transformers import Gemma4AssistantForCausalLM, Gemma4ForCausalLM

        pair = folders.open()
        oracle = {"dtype": torch.float32, "attn_implementation": "eager"}
        target = Gemma4ForCausalLM.from_pretrained(folders.target, **oracle).eval()
        with drafters_allowed():
            drafter = Gemma4AssistantForCausalLM.from_pretrained(folders.drafter, dtype=torch.float32)
        found = load_target(pair.target)
        same_weights(found, target)
        same_weights(load_drafter(pair.drafter), drafter)
        tokens = torch.arange(3, 60)[None]
        with torch.no_grad():
            assert torch.equal(found(tokens).logits, target(tokens).logits)

    @pytest.mark.parametrize("change", [multimodal, shard])
    def test_other_layouts_hold_the_same_text_model(self, folders: Folders, change: Callable[[Path], None]) -> None:
        expected = load_target(folders.open().target)
        change(folders.target)
        pair = folders.open()
        same_weights(load_target(pair.target), expected)
        assert pair.target.weights.left_out == (("vision_tower (1 tensor)",) if change is multimodal else ())

    @pytest.mark.parametrize("composite", [False, True])
    def test_unified(self, tmp_path: Path, composite: bool) -> None:
        """The 12B's architecture, text only and as it is published."""
        from transformers import AutoConfig
        from transformers.models.gemma4_unified.modeling_gemma4_unified import Gemma4UnifiedForCausalLM
        from transformers.models.gemma4_unified_assistant.modeling_gemma4_unified_assistant import (
            Gemma4UnifiedAssistantForCausalLM,
        )

        torch.manual_seed(0)
        target = Gemma4UnifiedForCausalLM(AutoConfig.for_model("gemma4_unified_text", **UNIFIED))
        target.save_pretrained(tmp_path / "target")
        text = UNIFIED | {
            "hidden_size": 16, "num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"],
            "final_logit_softcapping": None,
        }  # fmt: skip
        with drafters_allowed():
            drafter = Gemma4UnifiedAssistantForCausalLM(
                AutoConfig.for_model("gemma4_unified_assistant", text_config=text, backbone_hidden_size=32)
            )
        drafter.save_pretrained(tmp_path / "drafter")
        source = tiny_checkpoints.random_pair()[0]
        for name in ("tokenizer.json", "chat_template.jinja"):
            shutil.copy(source / name, tmp_path / "target")
        if composite:
            multimodal(tmp_path / "target")
            path = tmp_path / "target" / "config.json"
            path.write_text(path.read_text().replace('"model_type": "gemma4"', '"model_type": "gemma4_unified"'))
        pair = open_pair(tmp_path / "target", tmp_path / "drafter")
        assert pair.kv_layers == {"sliding_attention": 1, "full_attention": 2}
        same_weights(load_target(pair.target), target)
        same_weights(load_drafter(pair.drafter), drafter)

    def test_experts(self, tmp_path: Path) -> None:
        experts = {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 8}
        pair = open_pair(*tiny_checkpoints.write_pair(tmp_path, target=experts))
        assert pair.target.weights.names["model.layers.0.experts.gate_up_proj"] == (4, 16, 64)
        with torch.no_grad():
            assert load_target(pair.target)(torch.arange(9)[None]).logits.isfinite().all()

    def test_no_weight_is_read(self, folders: Folders) -> None:
        """Every number of the tensors may be replaced, without notice."""
        before = folders.open()
        path = folders.target / "model.safetensors"
        data = path.read_bytes()
        header = 8 + int.from_bytes(data[:8], "little")
        path.write_bytes(data[:header] + b"\xff" * (len(data) - header))
        after = folders.open()
        assert after.target.weights.names == before.target.weights.names
        assert after.kv_layers == before.kv_layers


class TestChat:
    def test_the_file_wins_over_the_setting(self, folders: Folders) -> None:
        folders.edit("target/tokenizer_config.json", lambda c: c.update(chat_template="of the settings"))
        assert folders.open().chat_template == tiny_checkpoints.CHAT_TEMPLATE
        (folders.target / "chat_template.jinja").write_text("changed", encoding="utf-8")
        assert folders.open().chat_template == "changed"
        (folders.target / "chat_template.jinja").unlink()
        assert folders.open().chat_template == "of the settings"

    def test_several_templates(self, folders: Folders) -> None:
        (folders.target / "chat_template.jinja").unlink()
        several = [{"name": "rag", "template": "other"}, {"name": "default", "template": "this"}]
        folders.edit("target/tokenizer_config.json", lambda c: c.update(chat_template=several))
        assert folders.open().chat_template == "this"

    def test_none(self, folders: Folders) -> None:
        (folders.target / "chat_template.jinja").unlink()
        assert str(folders.target / "chat_template.jinja") in folders.refusal()

    def test_an_added_token_with_an_id_of_the_vocabulary_is_carried(self, folders: Folders) -> None:
        from edge_mtp.formats.token_bytes import TokenBytes

        def add(tokenizer: dict[str, Any]) -> None:
            vocab = tokenizer["model"]["vocab"]
            vocab["<|json|>"] = vocab.pop("<unused500>")
            tokenizer["added_tokens"].append(tokenizer["added_tokens"][0] | {"id": 500, "content": "<|json|>"})

        folders.edit("target/tokenizer.json", add)
        pair = folders.open()
        assert tokenizer_ids(pair.tokenizer)["<|json|>"] == 500
        assert TokenBytes(memoryview(token_table(pair.tokenizer, 512)))[500] == b"<|json|>"

    def test_an_added_token_beyond_is_refused(self, folders: Folders) -> None:
        def add(tokenizer: dict[str, Any]) -> None:
            tokenizer["added_tokens"].append(tokenizer["added_tokens"][0] | {"id": 512, "content": "<|json|>"})

        folders.edit("target/tokenizer.json", add)
        message = folders.refusal()
        assert "token 512 '<|json|>', the model 512 tokens" in message

    def test_a_grown_vocabulary_is_refused(self, folders: Folders) -> None:
        folders.edit("target/config.json", lambda c: c.update(vocab_size=520))
        message = folders.refusal()
        assert "vocabulary size is 520, the drafter expects 512" in message
        assert "ids of unused ones" in message


class TestAdapter:
    @pytest.fixture
    def adapter(self, tmp_path: Path) -> Path:
        folder = tmp_path / "adapter"
        folder.mkdir()
        config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "bias": "none"}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        module = "base_model.model.model.layers.0.mlp.up_proj"
        halves = {f"{module}.lora_A.weight": torch.ones(2, 64), f"{module}.lora_B.weight": torch.ones(96, 2)}
        save_file(halves, folder / "adapter_model.safetensors")
        return folder

    def test_merged(self, folders: Folders, adapter: Path) -> None:
        name = "model.layers.0.mlp.up_proj.weight"
        plain, merged = folders.open(), folders.open(adapter=adapter)
        assert torch.equal(
            load_target(merged.target).state_dict()[name], load_target(plain.target).state_dict()[name] + 2
        )
        assert merged.chat_template == plain.chat_template
        hashes = merged.start_hashing()()["target"]
        assert hashes.keys() == {"config.json", "model.safetensors", "adapter_config.json", "adapter_model.safetensors"}

    def test_brings_its_own_chat_template_and_tokenizer(self, folders: Folders, adapter: Path) -> None:
        (adapter / "chat_template.jinja").write_text("tuned", encoding="utf-8")
        shutil.copy(folders.target / "tokenizer.json", adapter)
        pair = folders.open(adapter=adapter)
        assert pair.chat_template == "tuned"
        assert pair.tokenizer == adapter / "tokenizer.json"

    def test_not_an_adapter(self, folders: Folders) -> None:
        assert "adapter_config.json" in folders.refusal(adapter=folders.drafter)


class TestRefusals:
    def test_quantized(self, folders: Folders) -> None:
        folders.edit("target/config.json", lambda c: c.update(quantization_config={"quant_method": "fp8"}))
        assert "before quantization" in folders.refusal()

    def test_untied(self, folders: Folders) -> None:
        folders.edit("target/config.json", lambda c: c.update(tie_word_embeddings=False))
        assert "lacks 1 tensors, first lm_head.weight" in folders.refusal()

    def test_untied_drafter(self, folders: Folders) -> None:
        folders.edit("drafter/config.json", lambda c: c.update(tie_word_embeddings=False))
        assert "untied embeddings" in folders.refusal()

    def test_centroids(self, folders: Folders) -> None:
        folders.edit("drafter/config.json", lambda c: c.update(num_centroids=33))
        assert "33 centroids, which do not divide 512" in folders.refusal()

    def test_swapped(self, folders: Folders) -> None:
        assert "'gemma4_assistant'" in Folders(folders.drafter, folders.target).refusal()

    def test_experts_in_the_configuration_only(self, folders: Folders) -> None:
        experts = {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 8}
        folders.edit("target/config.json", lambda c: c.update(experts))
        assert "lacks" in folders.refusal()

    def test_configuration_of_another_size(self, folders: Folders) -> None:
        folders.edit("target/config.json", lambda c: c.update(intermediate_size=100))
        assert "is 96x64, config.json says 100x64" in folders.refusal()

    def test_pickled_weights(self, folders: Folders) -> None:
        (folders.target / "model.safetensors").rename(folders.target / "pytorch_model.bin")
        assert "save the model as safetensors" in folders.refusal()

    def test_a_shard_is_missing(self, folders: Folders) -> None:
        shard(folders.target)
        missing = folders.target / "model-00002-of-00003.safetensors"
        missing.unlink()
        assert str(missing) in folders.refusal()

    @pytest.mark.parametrize("content", [{}, {"weight_map": {}}, {"weight_map": {"a": "../other.safetensors"}}])
    def test_an_index_that_names_no_files(self, folders: Folders, content: dict[str, Any]) -> None:
        shard(folders.target)
        index = folders.target / "model.safetensors.index.json"
        index.write_text(json.dumps(content))
        assert str(index) in folders.refusal()

    def test_a_tokenizer_that_cannot_be_loaded(self, folders: Folders) -> None:
        path = folders.target / "tokenizer.json"
        contents = json.loads(path.read_text())
        contents["pre_tokenizer"] = {"type": "NoSuchThing"}
        path.write_text(json.dumps(contents))
        assert "tokenizer.json cannot be loaded" in folders.refusal()

    @pytest.mark.parametrize("name", ["config.json", "generation_config.json", "chat_template.jinja"])
    def test_a_byte_order_mark_is_none_of_the_contents(self, folders: Folders, name: str) -> None:
        path = folders.target / name
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        assert not folders.open().chat_template.startswith("\ufeff")

    @pytest.mark.parametrize("content", ["[]", '{"model": [1]}', '{"added_tokens": [{"id": 1}]}'])
    def test_tokenizer_of_another_kind(self, folders: Folders, content: str) -> None:
        (folders.target / "tokenizer.json").write_text(content)
        assert "tokenizer.json" in folders.refusal()


class TestHashes:
    def test_every_file(self, folders: Folders) -> None:
        hashes = folders.open().start_hashing()()
        for role, folder in zip(("target", "drafter"), folders, strict=True):
            assert hashes[role] == {
                name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
                for name in ("config.json", "model.safetensors")
            }

    def test_a_file_that_vanished(self, folders: Folders) -> None:
        pair = folders.open()
        (folders.drafter / "model.safetensors").unlink()
        with pytest.raises(EdgeMtpError, match=r"model\.safetensors"):
            pair.start_hashing()()

    def test_the_hubs_record_is_used(self, folders: Folders, tmp_path: Path) -> None:
        blobs = tmp_path / "blobs"
        blobs.mkdir()
        path = folders.target / "model.safetensors"
        recorded = hashlib.sha256(b"as recorded").hexdigest()
        path.rename(blobs / recorded)
        path.symlink_to(blobs / recorded)
        assert folders.open().target.hashes()["model.safetensors"] == recorded


class TestRandom:
    def test_a_complete_pair(self, tmp_path: Path) -> None:
        from tokenizers import Tokenizer

        pair = random_pair("E2B", 7, tmp_path)
        assert pair.kv_layers == {"sliding_attention": 13, "full_attention": 14}
        assert "<|tool_call>" in pair.chat_template
        ids = tokenizer_ids(pair.tokenizer)
        assert (ids["<bos>"], ids["<|turn>"], ids["<turn|>"], ids["<|tool_call>"], ids["<|think|>"]) == (
            2,
            105,
            106,
            48,
            98,
        )
        tokenizer = Tokenizer.from_file(str(pair.tokenizer))
        text = 'Grüße 12 {"a": "b"}\n\n'
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
        assert tokenizer.encode("<|turn>user\n").ids[0] == 105
        assert tokenizer.get_vocab_size() == 262_144
        token_table(pair.tokenizer, 262_144)
        target, drafter = pair.target.weights, pair.drafter.weights
        embedding = "model.embed_tokens.weight"
        assert not np.array_equal(target.read(embedding, 0, 4)[:, :256], drafter.read(embedding, 0, 4))
        assert pair.start_hashing()()["target"]["random_weights"] == "seed 7"

    def test_no_such_model(self, tmp_path: Path) -> None:
        with pytest.raises(EdgeMtpError, match="E9B"):
            random_pair("E9B", 0, tmp_path)


@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
@pytest.mark.parametrize("name", ["bos_token_id", "eos_token_id", "pad_token_id"])
@pytest.mark.parametrize("value", ["x", 1.5, True, -1, 10**9, [[1]], {"a": 1}, ["x"]])
def test_token_ids_that_are_none(folders: Folders, file: str, name: str, value: Any) -> None:
    from edge_mtp.export.chat import chat_of

    folders.edit(f"target/{file}", lambda config: config.update({name: value}))
    if file == "config.json":
        folders.edit("target/generation_config.json", lambda config: config.pop(name, None))
    with pytest.raises(EdgeMtpError) as raised:
        chat_of(folders.open())
    assert "\n" not in str(raised.value)
    assert "target" in str(raised.value)


@pytest.mark.parametrize("folder", ["target", "drafter"])
def test_an_odd_configuration_is_a_pair_or_one_line(folders: Folders, folder: str) -> None:
    """Values of some fields, in turn, that are of another type, too large, or none."""
    path = folders.target.parent / folder / "config.json"
    before = path.read_text(encoding="utf-8")
    config = json.loads(before)
    values = ["x", None, -1, 0, 1.5, [], {}, True, 10**12]
    random = np.random.default_rng(5)
    inner = [("text_config", key) for key in config.get("text_config", {})]
    names = [*((key,) for key in config), *inner]
    for name in (names[i] for i in random.permutation(len(names))[:30]):
        value = values[random.integers(len(values))]
        changed = json.loads(before)
        place = changed["text_config"] if len(name) == 2 else changed
        place[name[-1]] = value
        path.write_text(json.dumps(changed), encoding="utf-8")
        try:
            folders.open()
        except EdgeMtpError as error:
            said = str(error)
            assert "\n" not in said, (name, value)  # all other exceptions fail the test
