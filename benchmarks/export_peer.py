"""Our exporter beside litert-torch's own on one checkpoint: time, memory, scratch disk, size of what comes out.

    python benchmarks/export_peer.py [--layers 12] [--stock-python PYTHON] [--json FILE]

The checkpoint has E2B's structure and widths with fewer layers and tokens, and random bf16 weights; both exporters
quantize to int8. The stock exporter's faster route (`use_v2=True`) needs tf-nightly, so it may run in an environment
of its own. It writes no drafter, and its Gemma 4 `verify` has no activations: it does less.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import click
from process import measured

# transformers 5.23 derives the flag from a class's source file, which fails for the exporter's own classes.
STOCK = """
import sys
from litert_torch.generative.export_hf import export
from litert_torch.generative.export_hf.model_ext.gemma4 import patch
patch.LiteRTGemma4TextModel._can_set_experts_implementation_cached_value = True
export.export(model=sys.argv[1], output_dir=sys.argv[2], prefill_lengths=[128], cache_length=1024,
              quantization_recipe="dynamic_wi8_afp32", externalize_embedder=True, single_token_embedder=True,
              bundle_litert_lm=False, use_v2=sys.argv[3] == "v2", delete_in_memory_params=sys.argv[3] == "v2")
"""
OURS = """
import sys
from pathlib import Path
from edge_mtp.export.pipeline import export_bundle
export_bundle(Path(sys.argv[1]), Path(sys.argv[4]), Path(sys.argv[2]) / "x.litertlm", recipe="int8", context=1024,
              widths=range(2, 9))
"""


def write_pair(folder: Path, layers: int, vocabulary: int) -> int:
    """A target with E2B's widths and its drafter, as `save_pretrained` leaves them; returns the target's parameters."""
    import torch
    import transformers

    from edge_mtp.export import catalogue
    from edge_mtp.export.checkpoint import tiny_pair
    from edge_mtp.export.random_tokenizer import write_tokenizer
    from edge_mtp.export.shapes import drafters_allowed

    model = catalogue.model("E2B")
    kinds = (["sliding_attention"] * 4 + ["full_attention"]) * layers
    sizes = {"vocab_size": vocabulary, "vocab_size_per_layer_input": vocabulary}
    target = model.target_config | sizes
    target |= {"num_hidden_layers": layers, "layer_types": kinds[:layers], "num_kv_shared_layers": layers - 5}
    text = model.drafter_config["text_config"] | {"vocab_size": vocabulary}
    drafter = model.drafter_config | {"text_config": text, "num_centroids": vocabulary // 128}
    for config in (target, drafter):
        config.pop("model_type")
    # The stock exporter takes per-layer embeddings from multimodal checkpoints only; the smallest tower will do.
    vision = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}
    vision |= {"num_key_value_heads": 1, "head_dim": 64, "position_embedding_size": 64}
    torch.set_default_dtype(torch.bfloat16)
    with drafters_allowed():
        models = {
            "target": transformers.Gemma4ForConditionalGeneration(
                transformers.Gemma4Config(text_config=target, vision_config=vision)
            ),
            "drafter": transformers.Gemma4AssistantForCausalLM(transformers.Gemma4AssistantConfig(**drafter)),
        }
    ordering = models["drafter"].masked_embedding.token_ordering
    ordering.copy_(torch.randperm(vocabulary))
    for name, built in models.items():
        built.save_pretrained(folder / name)
    write_tokenizer(folder / "target" / "tokenizer.json", vocabulary)
    for name in ("chat_template.jinja", "generation_config.json", "tokenizer_config.json"):
        shutil.copy(tiny_pair()[0] / name, folder / "target" / name)
    return sum(weight.numel() for weight in models["target"].parameters())


@click.command()
@click.option("--layers", default=12, show_default=True)
@click.option("--vocabulary", default=32768, show_default=True)
@click.option("--stock-python", default=sys.executable, help="Python with litert-torch and tf-nightly.")
@click.option("--stock-route", type=click.Choice(["v1", "v2"]), default="v2", show_default=True)
@click.option("--json", "output", type=click.Path(path_type=Path), help="Also write the result here.")
def main(layers: int, vocabulary: int, stock_python: str, stock_route: str, output: Path | None) -> None:
    """Measure both exporters, one after the other."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        parameters = write_pair(root, layers, vocabulary)
        target, drafter = str(root / "target"), str(root / "drafter")
        arms = {}
        for name, command in {
            "edge-mtp": [sys.executable, "-c", OURS, target, "OUT", "-", drafter],
            f"litert-torch {stock_route}": [stock_python, "-c", STOCK, target, "OUT", stock_route],
        }.items():
            scratch = root / name.replace(" ", "-")
            scratch.mkdir()
            # Without pieces that an earlier export of ours may have kept.
            environment = os.environ | {"XDG_CACHE_HOME": str(root / "cache")}
            arms[name] = measured([str(scratch) if part == "OUT" else part for part in command], scratch, environment)
            click.echo(f"{name}: {arms[name]}", err=True)
            shutil.rmtree(scratch)
    result = {"layers": layers, "vocabulary": vocabulary, "parameters": parameters, "arms": arms}
    click.echo(json.dumps(result, indent=1))
    if output:
        output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
