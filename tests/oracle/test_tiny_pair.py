"""The committed tiny pair: what it is made of, that the script makes it, and what it can do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import edge_mtp
from edge_mtp.chat.chat_format import ChatFormat
from edge_mtp.formats.tool_calls import ToolCall, load_tools, parse_calls

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from edge_mtp.export.tiny import evaluate, train  # noqa: E402
from edge_mtp.export.tiny.actions import ACTIONS, DAYS  # noqa: E402
from edge_mtp.export.tiny.batches import Example, reply_text  # noqa: E402
from edge_mtp.export.tiny.conversations import (  # noqa: E402
    CLOSED_SLOTS,
    SPLITS,
    Conversation,
    conversation,
    held_out,
)
from edge_mtp.export.tiny.model import load_pair  # noqa: E402
from edge_mtp.export.tiny.tokenizer import CONTROL_TOKENS  # noqa: E402

TINY = Path(edge_mtp.__file__).parent / "tiny"
CHAT = ChatFormat.from_directory(TINY / "target")
TOOLS = load_tools(TINY / "tools.json")
TRAINING_SAMPLE = 4000


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pair() -> Any:
    return load_pair(TINY)


@pytest.fixture(scope="module")
def splits() -> dict[str, list[dict[str, Any]]]:
    return {split: evaluate.load_split(TINY, split) for split in SPLITS}


# -- artefacts ------------------------------------------------------------------------------------------------------


def test_weights_and_tokenizer_are_small() -> None:
    files = [*TINY.glob("*/model.safetensors"), TINY / "target/tokenizer.json"]
    assert len(files) == 3
    assert sum(f.stat().st_size for f in files) <= 6_000_000


def test_target_has_every_structural_feature_of_e2b(pair: Any) -> None:
    config = pair[0].config
    own = config.layer_types[: -config.num_kv_shared_layers]
    shared = config.layer_types[-config.num_kv_shared_layers :]
    assert config.num_kv_shared_layers > 0
    assert set(own) == set(shared) == {"sliding_attention", "full_attention"}
    assert config.hidden_size_per_layer_input > 0
    assert config.vocab_size_per_layer_input == config.vocab_size
    assert config.use_double_wide_mlp
    assert config.tie_word_embeddings
    assert config.num_key_value_heads == 1
    assert config.final_logit_softcapping == 30.0
    heads = {t: config.per_layer_config[i].head_dim for i, t in enumerate(config.layer_types)}
    assert heads["sliding_attention"] != heads["full_attention"]
    assert config.rope_parameters["sliding_attention"]["rope_theta"] == 1e4
    full = config.rope_parameters["full_attention"]
    assert (full["rope_type"], full["rope_theta"], full["partial_rotary_factor"]) == ("proportional", 1e6, 0.25)
    widths = [layer.mlp.gate_proj.out_features for layer in pair[0].model.layers]
    assert widths[-1] == 2 * widths[0]


def test_drafter_reads_the_targets_kv_through_clusters(pair: Any) -> None:
    target, drafter = pair
    text = drafter.config.text_config
    assert drafter.config.backbone_hidden_size == target.config.hidden_size
    assert text.vocab_size == target.config.vocab_size
    assert text.num_kv_shared_layers == text.num_hidden_layers
    assert set(text.layer_types) == set(target.config.layer_types)
    assert not any("k_proj" in name or "v_proj" in name for name, _ in drafter.named_parameters())
    assert drafter.config.use_ordered_embeddings
    ordering = drafter.masked_embedding.token_ordering
    assert sorted(ordering.tolist()) == list(range(text.vocab_size))
    # A clustering of the trained head: tokens are nearer to their own cluster's mean than to the vocabulary's.
    rows = torch.nn.functional.normalize(drafter.lm_head.weight, dim=-1)
    means = rows[ordering].view(drafter.config.num_centroids, -1, rows.shape[1]).mean(1)
    own = means.repeat_interleave(text.vocab_size // len(means), 0)
    assert (rows[ordering] - own).square().sum() < 0.8 * (rows - rows.mean(0)).square().sum()


def test_prompts_reach_beyond_the_sliding_window(pair: Any, splits: dict[str, list[dict[str, Any]]]) -> None:
    lengths = [len(CHAT.encode(i["messages"], i["tools"])) for i in splits["iid"][:100]]
    assert sum(n > pair[0].config.sliding_window for n in lengths) > 80
    assert max(lengths) < 512


# -- tokenizer and template -----------------------------------------------------------------------------------------


def test_control_tokens_stand_at_gemmas_ids() -> None:
    assert {t: CHAT.tokenizer.token_id(t) for t in CONTROL_TOKENS} == CONTROL_TOKENS
    assert all(CHAT.tokenizer.encode(t) == [i] for t, i in CONTROL_TOKENS.items())
    assert CHAT.tokenizer.vocab_size == 1024


@pytest.fixture(scope="module")
def reference_tokenizer() -> Any:
    return transformers.AutoTokenizer.from_pretrained(TINY / "target")


def test_transformers_reads_the_same_tokenizer(reference_tokenizer: Any) -> None:
    @given(st.text(max_size=40) | st.text(alphabet="<|turn>tool_caldeclaration:{}, é漢", max_size=30))
    def check(text: str) -> None:
        ids = CHAT.tokenizer.encode(text)
        assert reference_tokenizer.encode(text, add_special_tokens=False) == ids
        assert reference_tokenizer.decode(ids) == text

    check()
    assert (reference_tokenizer.pad_token_id, reference_tokenizer.bos_token_id) == (0, 2)


def test_transformers_renders_the_same_prompts(
    reference_tokenizer: Any, splits: dict[str, list[dict[str, Any]]]
) -> None:
    for item in splits["iid"][:100]:
        ids = reference_tokenizer.apply_chat_template(
            item["messages"], tools=item["tools"] or None, add_generation_prompt=True, return_dict=False
        )
        assert ids == CHAT.encode(item["messages"], item["tools"])


def test_a_name_is_spelled_alike_wherever_it_stands() -> None:
    for name in ("zorbikTal", "set_alarm", "Piozand", "e"):
        spelled = CHAT.tokenizer.encode(name)
        for left, right in (("declaration:", "{description:"), ("call:", "{"), (" ", "."), ('<|"|>', '<|"|>')):
            assert CHAT.tokenizer.encode(left + name + right)[1:-1] == spelled


# -- splits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("split", "count"), SPLITS.items())
def test_splits_are_what_the_generator_makes(split: str, count: int, splits: dict[str, list[dict[str, Any]]]) -> None:
    assert splits[split] == [conversation(split, i).to_json() for i in range(count)]


def test_gold_calls_are_served_by_the_tools(splits: dict[str, list[dict[str, Any]]]) -> None:
    types = {"string": str, "integer": int, "boolean": bool}
    for item in (i for items in splits.values() for i in items):
        declared = {t["function"]["name"]: t["function"]["parameters"] for t in item["tools"]}
        assert len(declared) == len(item["tools"])
        for call in item["gold"].get("calls", []):
            parameters = declared[call["name"]]
            assert set(call["arguments"]) == set(parameters["required"])
            for key, value in call["arguments"].items():
                assert type(value) is types[parameters["properties"][key]["type"]]
        if "calls" in item["gold"]:
            reply = reply_text(Conversation(**item))
            assert reply.endswith("<|tool_response>")
            assert parse_calls(reply) == [ToolCall.from_json(c) for c in item["gold"]["calls"]]


def test_every_kind_is_in_the_first_split(splits: dict[str, list[dict[str, Any]]]) -> None:
    kinds = {i["kind"] for i in splits["iid"]}
    assert kinds == {"single", "parallel", "no_call", "ask_back", "follow_up", "chat", "repeat"}


@pytest.fixture(scope="module")
def training() -> list[Conversation]:
    return [conversation("train", i, 0, TOOLS) for i in range(TRAINING_SAMPLE)]


def test_new_templates_are_new(training: list[Conversation], splits: dict[str, list[dict[str, Any]]]) -> None:
    assert all(re.fullmatch(r"(\w+/h\d\+?)+", i["template"]) for i in splits["new_templates"])
    assert not any("/h" in c.template for c in training)
    for action in ACTIONS.values():
        assert not set(action.held_out) & {*action.phrasings, *action.bare}


def gold_values(item: dict[str, Any]) -> Iterator[str]:
    for call in item["gold"].get("calls", []):
        for value in call["arguments"].values():
            if not isinstance(value, bool):
                yield str(value)


def test_new_values_are_new(training: list[Conversation], splits: dict[str, list[dict[str, Any]]]) -> None:
    def open_values(items: Iterator[dict[str, Any]]) -> set[str]:
        # A time that a tool takes apart is new as a whole, not in its hour or its minute.
        items = (i for i in items if not re.search("alarm|remind", i["template"]))
        return {v for i in items for v in gold_values(i)} - set(DAYS)

    new = open_values(iter(splits["new_values"]))
    assert len(new) > 200
    assert not new & open_values(c.to_json() for c in training)
    for item in splits["new_values"]:
        keys = [part.split("/")[0] for part in item["template"].split("+")]
        assert all(set(ACTIONS[k].slots) - CLOSED_SLOTS for k in keys)


def test_new_names_are_new(training: list[Conversation], splits: dict[str, list[dict[str, Any]]]) -> None:
    def tool_names(items: Any) -> set[str]:
        return {t["function"]["name"] for i in items for t in i["tools"]}

    new = tool_names(splits["new_names"])
    assert not new & tool_names(c.to_json() for c in training)
    words = {w for name in new for w in re.findall(r"[A-Z]?[a-z]+", name)}
    assert all(map(held_out, words))


# -- training -------------------------------------------------------------------------------------------------------


def test_training_is_deterministic_and_makes_the_committed_formats(tmp_path: Path) -> None:
    for run in ("a", "b"):
        train.train(tmp_path / run, 3, train.Schedule(2, 2, 2, 3, warm_up=100))
    names = sorted(str(p.relative_to(tmp_path / "a")) for p in (tmp_path / "a").rglob("*") if p.is_file())
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    committed = {str(p.relative_to(TINY)) for p in TINY.rglob("*") if p.is_file()} - {"MODEL_CARD.md"}
    assert committed == set(names)
    # Configs name the version of transformers, and weights and merges belong to the seed.
    of_the_run = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}
    for name in committed:
        if Path(name).name not in of_the_run:
            assert (tmp_path / "a" / name).read_bytes() == (TINY / name).read_bytes(), name


def test_seed_zero_makes_the_committed_tokenizer(tmp_path: Path) -> None:
    train.write_formats(tmp_path, seed=0)
    assert (tmp_path / "target/tokenizer.json").read_text() == (TINY / "target/tokenizer.json").read_text()


# -- what the weights can do ----------------------------------------------------------------------------------------


def test_tokens_per_verify_walks_the_reply() -> None:
    # 3 accepted of 7: step over 4; then none; then the end of the reply cuts the step short.
    assert evaluate.tokens_per_verify([[3, 0, 0, 0, 0, 7]], 3) == 6 / 3
    assert evaluate.tokens_per_verify([[3, 0, 0, 0, 0, 7]], 1) == 6 / 5


def test_the_readme_example(pair: Any) -> None:
    prompt = CHAT.encode([{"role": "user", "content": "Wake me at 6:40"}], TOOLS)
    [reply] = evaluate.generate(pair[0], [prompt])
    assert parse_calls(CHAT.tokenizer.decode(reply)) == [ToolCall("set_alarm", {"time": "06:40"})]


def test_calls_of_the_first_split_are_exact(pair: Any, splits: dict[str, list[dict[str, Any]]]) -> None:
    items = splits["iid"][:100]
    replies = evaluate.generate(pair[0], [CHAT.encode(i["messages"], i["tools"]) for i in items])
    exact = sum(evaluate.is_exact(CHAT, i, r) for i, r in zip(items, replies, strict=True))
    assert exact >= 85


def test_drafts_are_those_of_transformers(pair: Any, splits: dict[str, list[dict[str, Any]]]) -> None:
    """The batched rounds against `Gemma4AssistantForCausalLM.forward`, one position at a time.

    transformers' sliding mask reaches one key further back, so a rare draft may differ.
    """
    target, drafter = pair
    longest, same, total = 3, 0, 0
    for item in splits["iid"][:6]:
        prompt = CHAT.encode(item["messages"], item["tools"])
        [reply] = evaluate.generate(target, [prompt])
        [accepted] = evaluate.accepted_drafts(target, drafter, [Example(prompt, reply)], longest)
        for first in range(len(reply) - 1):
            cached = [*prompt, *reply[:first]]
            with torch.no_grad():
                out = target(torch.tensor([cached]), output_hidden_states=True, return_shared_kv_states=True)
                token, state, drafts = torch.tensor([[reply[first]]]), out.hidden_states[-1][:, -1:], []
                for _ in range(longest):
                    step = drafter(
                        inputs_embeds=torch.cat([target.model.embed_tokens(token), state], dim=-1),
                        position_ids=torch.tensor([[len(cached)]]),
                        shared_kv_states=out.shared_kv_states,
                    )
                    token, state = step.logits.argmax(-1), step.last_hidden_state
                    drafts.append(int(token))
            wanted = reply[first + 1 : first + 1 + longest]
            matches = next((n for n, w in enumerate(wanted) if drafts[n] != w), len(wanted))
            same += matches == min(accepted[first], len(wanted))
            total += 1
    assert same >= 0.97 * total


def test_assisted_generation_gives_the_same_text(pair: Any, splits: dict[str, list[dict[str, Any]]]) -> None:
    target, drafter = pair
    assert drafter.generation_config.num_assistant_tokens == 3
    for item in splits["iid"][:4]:
        ids = torch.tensor([CHAT.encode(item["messages"], item["tools"])])
        plain = target.generate(ids, do_sample=False, max_new_tokens=64)
        assisted = target.generate(ids, do_sample=False, max_new_tokens=64, assistant_model=drafter)
        assert assisted.tolist() == plain.tolist()


def test_split_files_are_json_lines() -> None:
    for path in (TINY / "splits").glob("*.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            assert set(json.loads(line)) == {"id", "kind", "template", "messages", "tools", "gold"}
