"""The bundles that stand for Google's: what they declare is the contract, and the stock engine runs them."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from official_bundle import DRAFTS, PREFILL, Variant, write
from stock_engine import Replies, replies

from edge_mtp.chat.bundle_chat import chat_format_of
from edge_mtp.chat.chat_format import ChatFormat
from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.bundle import Bundle
from edge_mtp.harness.run.logits import Logits

VARIANTS = [
    Variant(),
    Variant(mask="f32"),
    Variant("fp32"),
    Variant("fp32", "f16"),
    Variant("fp32", param_tensor=False),
    Variant(drafter=False),
    Variant(drafter=False, verify=False),
]
# `edge_mtp.harness.run.logits` does not fill `param_tensor`.
WITHOUT_PARAMETERS = [
    Variant(kv, mask, param_tensor=False) for kv in ("int8", "fp32") for mask in ("bool", "f32", "f16")
]
WITH_DRAFTER = [variant for variant in VARIANTS if variant.drafter]
PROMPTS, TOKENS = 12, 64

Written = Callable[[Variant], Path]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    folder = tmp_path_factory.mktemp("official")
    return cache(lambda variant: write(variant, folder / f"{variant}.litertlm"))


@pytest.fixture(scope="module")
def chat(tiny_bundle: Path) -> ChatFormat:
    return chat_format_of(Bundle(tiny_bundle))


@pytest.fixture(scope="module")
def prompts(chat: ChatFormat, tiny_split: list[dict[str, Any]]) -> list[str]:
    return [chat.render(item["messages"], item["tools"]) for item in tiny_split[:PROMPTS]]


@pytest.fixture(scope="module")
def expected(tiny_bundle: Path, prompts: list[str]) -> Replies:
    """What the stock engine makes of the bundle with our parts, which holds the same weights."""
    return replies(tiny_bundle, prompts, TOKENS, drafting=True)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_it_declares_what_the_contract_says_and_no_more(variant: Variant, written: Written) -> None:
    path = written(variant)
    bundle = Bundle(path)
    assert bundle.manifest is None
    assert bundle.token_bytes is None
    drafter = {"mtp_drafter"} if variant.drafter else set()
    assert bundle.models.keys() == {"embedder", "per_layer_embedder", "prefill_decode"} | drafter
    signatures = bundle.models["prefill_decode"].signatures
    prefill = {f"prefill_{rows}" for rows in (PREFILL if variant.kv == "int8" else (128,))}
    assert signatures.keys() == prefill | {"decode"} | ({"verify"} if variant.verify else set())
    assert b"edge_mtp" not in path.read_bytes()
    for name, signature in signatures.items():
        rows = int(name.split("_")[1]) if name in prefill else {"decode": 1, "verify": DRAFTS + 1}[name]
        assert str(signature.inputs["mask"]) == f"{variant.mask}[1,1,{rows},512]"
        assert str(signature.inputs["input_pos"]) == f"i32[{rows}]"
        kind = "i8" if variant.kv == "int8" else "f32"
        for layer, dim in enumerate((32, 64, 32, 64)):
            for ports in (signature.inputs, signature.outputs):
                assert str(ports[f"kv_cache_k_{layer}"]) == f"{kind}[1,1,512,{dim}]"
                assert str(ports[f"kv_cache_v_{layer}"]) == f"{kind}[1,1,{dim},512]"
        assert ("param_tensor" in signature.inputs) == variant.param_tensor
        assert {"logits", "activations"} <= signature.outputs.keys() or name in prefill
    if variant.drafter:
        inputs = next(iter(bundle.models["mtp_drafter"].signatures.values())).inputs
        assert str(inputs["mask"]) == f"{variant.mask}[1,1,1,512]"
        shared = {name for name in inputs if name.startswith("kv_cache_")}
        assert shared == {f"kv_cache_{kind}_{layer}" for kind in "kv" for layer in (2, 3)}
        assert all(inputs[name] == signatures["decode"].inputs[name] for name in shared)
        assert not bundle.mtp.missing


@pytest.mark.parametrize("variant", WITHOUT_PARAMETERS, ids=str)
def test_its_logits_are_those_of_the_float32_graphs(
    variant: Variant, written: Written, tiny_bundle: Path, chat: ChatFormat, prompts: list[str], expected: Replies
) -> None:
    """Masks of every type hide the same; int8 caches cost little."""
    ours, theirs = Logits(Bundle(written(variant)), 1), Logits(Bundle(tiny_bundle), 1)
    for prompt, text in list(zip(prompts, expected.texts, strict=True))[:4]:
        given = chat.tokenizer.encode(prompt), chat.tokenizer.encode(text)
        found, wanted = ours.of_reply(*given), theirs.of_reply(*given)
        if variant.kv == "fp32":
            np.testing.assert_allclose(found, wanted, atol=1e-3)
        else:
            assert np.abs(found - wanted).mean() < 0.05 * np.abs(wanted).mean()
            assert (found.argmax(-1) == wanted.argmax(-1)).mean() > 0.95


@pytest.mark.parametrize("variant", WITH_DRAFTER, ids=str)
def test_the_stock_engine_drafts_with_it(
    variant: Variant, written: Written, prompts: list[str], expected: Replies
) -> None:
    found = replies(written(variant), prompts, TOKENS, drafting=True)
    assert found.success_rate is not None
    assert expected.success_rate is not None
    if variant.kv == "fp32":
        assert found.texts == expected.texts
    assert found.success_rate == pytest.approx(expected.success_rate, abs=0.02 if variant.kv == "fp32" else 0.05)


@pytest.mark.parametrize("variant", [v for v in VARIANTS if not v.drafter], ids=str)
def test_the_stock_engine_decodes_plainly_without_a_drafter(
    variant: Variant, written: Written, prompts: list[str]
) -> None:
    with_drafter = replies(written(Variant()), prompts, TOKENS, drafting=False)
    assert replies(written(variant), prompts, TOKENS, drafting=False).texts == with_drafter.texts
    with pytest.raises(EdgeMtpError, match="Failed to create LiteRT-LM engine"):
        replies(written(variant), prompts, TOKENS, drafting=True)


def test_a_graph_reads_the_parameters_it_asks_for(written: Written) -> None:
    """A runtime that does not fill `param_tensor` cannot go unnoticed."""
    from ai_edge_litert.interpreter import Interpreter

    section = Bundle(written(Variant("fp32"))).section("TFLiteModel", "prefill_decode")
    assert section is not None
    model = Interpreter(model_content=bytes(section.data), num_threads=1)
    decode = model.get_signature_runner("decode")
    random = np.random.default_rng(0)
    inputs = {
        name: random.standard_normal(detail["shape"]).astype(detail["dtype"])
        for name, detail in decode.get_input_details().items()
    }
    inputs["input_pos"][:] = 9
    inputs["mask"][:] = np.arange(512) <= 9
    logits = {}
    for start in (9, 0):
        inputs["param_tensor"][...] = [start, start + 1, start + 1, 0, 0, 0, 0]
        logits[start] = decode(**inputs)["logits"]
    assert np.abs(logits[9] - logits[0]).max() > 0.1
