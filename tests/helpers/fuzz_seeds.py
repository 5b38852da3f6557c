"""Seeds for device/native/tests/fuzz_*.cc: small valid inputs of each reader, one folder a target.

usage: python fuzz_seeds.py FOLDER
"""

from __future__ import annotations

import json
import random
import struct
import sys
from pathlib import Path

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as tflite

from edge_mtp.formats.bundle import Bundle
from edge_mtp.formats.grammar import response_grammar
from edge_mtp.formats.request import Request, Sampling, Thoughts

sys.path.insert(0, str(Path(__file__).parent))
from synthetic_bundle import Graph, Parts, target, tflite_model, token_bytes

VOCABULARY, WIDTH, BLOCK = 6, 64, 32


def main(folder: Path) -> None:
    for name, seeds in {
        "json": requests() + values(),
        "request": requests(),
        "bundle": bundles(folder),
        "grammar": grammars(),
        "tflite": [*tables(), composites()],
        "token_bytes": token_tables(),
        "decoding": sequences(),
        "controller": sequences() + saved_states(),
    }.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(seeds):
            (folder / name / f"{number:03}").write_bytes(seed)


# -- text -----------------------------------------------------------------------------------------------------------


def requests() -> list[bytes]:
    full = Request(
        prompt=[2, 105, 2364],
        max_tokens=64,
        stop=[1, 106],
        stop_texts=["\nUser:", "é😀"],
        draft_length=4,
        draft_policy="auto",
        draft_sources=["drafter", "lookup", "grammar"],
        couple_drafts=True,
        sampling=Sampling(0.7, 64, 0.95, 0.05, 2**63 - 1, 1.1, 0.5, -0.5, {5: 1.5, 7: -100.0}, [3, 4]),
        grammar='root ::= "a" | [b-z]+ root',
        logprobs=True,
        keep_prefix=2,
        fresh=True,
        draft_tape=[7, 0, 767],
        thoughts=Thoughts(100, 101, [45518, 107], opened=True, budget=16),
    )
    records = [full.to_json("r1"), {"op": "cancel"}, Request([2], 1).to_json("é\n")]
    return [json.dumps(record, ensure_ascii=ascii).encode() for record in records for ascii in (True, False)]


def grammars() -> list[bytes]:
    ebnf = [
        'root ::= "a" | [b-z]+ root',
        r"""root ::= call+ | text
call ::= "<|open|>call:" name "{" (pair ("," pair)*)? "}"
name ::= [a-z_]{1,8} # a comment
pair ::= name ":" ("<|\"|>" [^<]* "<|\"|>" | "true" | [0-9]+)
text ::= [^<\x00-\x1f]*""",
        r'root ::= "\u00e9\n\t\"" ("x" "y"?){2,3} "\U0001F600"',
    ]
    call = {
        "type": "object",
        "properties": {
            "n": {"type": "integer", "minimum": 0},
            "s": {"type": "string", "maxLength": 5},
            "e": {"enum": ["a", "b", 1, None]},
        },
        "required": ["n"],
        "additionalProperties": False,
    }
    items = {"anyOf": [{"type": "boolean"}, {"type": "number"}, {"$ref": "#/$defs/t"}]}
    array = {
        "type": "array",
        "items": items,
        "minItems": 1,
        "maxItems": 3,
        "$defs": {"t": {"type": "string", "pattern": "^[a-c]+$"}},
    }
    return [text.encode() for text in [*ebnf, response_grammar(call), response_grammar(array)]]


def values() -> list[bytes]:
    texts = [
        "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]",
        r'{"\u00e9\ud83d\ude00\n\t\r\b\f\/\\\"": [1, -2.5e3, 1E+3, 0.5, true, false, null], "": {"a": {}}}',
        "[9223372036854775807, -9223372036854775808, 9223372036854775808, 1e308, 1e-400, -0]",
        ' \t\r\n"text" ',
    ]
    return [text.encode() for text in texts]


def saved_states() -> list[bytes]:
    """What PrefillPlan saves, behind the byte that chooses what is restored. (Controllers are saved by the target.)"""
    return [b"\0" + b"1 900.5\n16 2200\n128 9000.25\n", b"\1" + b"16 1e300\n16 nan\n32 -1\n99 5\n"]


# -- containers -----------------------------------------------------------------------------------------------------


def bundles(folder: Path) -> list[bytes]:
    """Headers as the builder writes them, over sections of no bytes: what a reader follows is all in the header."""
    seeds = []
    scratch = folder / "parts"
    scratch.mkdir(parents=True, exist_ok=True)
    few = {"decode": target(1)}
    for number, parts in enumerate([Parts(), Parts(prefill_decode=few, drafter=None, embedder=None, manifest=None)]):
        path = parts.write(scratch / f"{number}.litertlm")
        seeds.append(shrunk(path))
    return seeds


def shrunk(path: Path) -> bytes:
    """The bundle's header with every section's range set to one at its end."""
    data = bytearray(path.read_bytes())
    (end,) = struct.unpack_from("<Q", data, 24)
    head = data[:end]
    for section in Bundle(path).sections:
        for bound in (section.begin, section.end):
            old = struct.pack("<Q", bound)
            for at in range(32, end - 7):
                if head[at : at + 8] == old:
                    head[at : at + 8] = struct.pack("<Q", end + min(bound - section.begin, 16))
    return bytes(head) + bytes(range(16))


def token_tables() -> list[bytes]:
    texts = [b"", b"a", b"ab", "é😀".encode(), b"\0\xff", b" the", b"<end>"]
    return [
        token_bytes(texts, special={6}),
        token_bytes([b"x"], special=set()),
        token_bytes([b""] * 40, set(range(40))),
    ]


# -- models ---------------------------------------------------------------------------------------------------------


def tables() -> list[bytes]:
    """Embedder graphs of every encoding that the runtime reads: look-up, conversion, factor."""
    kinds = tflite.TensorType
    rows = bytes(range(256)) * 8
    models = []
    for kind, bits in [(kinds.FLOAT32, 32), (kinds.FLOAT16, 16), (kinds.INT8, 8), (kinds.INT4, 4), (kinds.INT2, 2)]:
        data = rows[: VOCABULARY * WIDTH * bits // 8]
        for blockwise in (False, True) if bits < 8 else (False,):
            for factor in (None, 8.0):
                models.append(embedder(kind, data, blockwise, factor))
    return models


def embedder(kind: int, rows: bytes, blockwise: bool, factor: float | None) -> bytes:
    kinds, op = tflite.TensorType, tflite.BuiltinOperator
    model = tflite.ModelT(version=3, buffers=[tflite.BufferT()], operatorCodes=[])
    tensors: list[tflite.TensorT] = []

    def tensor(shape: list[int], of: int, data: bytes | None = None, **fields: object) -> int:
        buffer = 0
        if data is not None:
            model.buffers.append(tflite.BufferT(data=np.frombuffer(data, np.uint8)))
            buffer = len(model.buffers) - 1
        tensors.append(tflite.TensorT(shape=shape, type=of, buffer=buffer, name=b"t", **fields))
        return len(tensors) - 1

    def operator(code: int, inputs: list[int], output: int) -> tflite.OperatorT:
        model.operatorCodes.append(tflite.OperatorCodeT(deprecatedBuiltinCode=min(code, 127), builtinCode=code))
        return tflite.OperatorT(opcodeIndex=len(model.operatorCodes) - 1, inputs=inputs, outputs=[output])

    quantization = None
    if blockwise:
        scales = tensor([VOCABULARY, WIDTH // BLOCK], kinds.FLOAT16, bytes(2 * VOCABULARY * WIDTH // BLOCK))
        quantization = tflite.QuantizationParametersT(
            detailsType=tflite.QuantizationDetails.BlockwiseQuantization,
            details=tflite.BlockwiseQuantizationT(scales=scales, blockSize=BLOCK),
        )
    elif kind not in (kinds.FLOAT32, kinds.FLOAT16):
        quantization = tflite.QuantizationParametersT(scale=[0.5] * VOCABULARY, zeroPoint=[0] * VOCABULARY)
    token = tensor([1, 1], kinds.INT32)
    table = tensor([VOCABULARY, WIDTH], kind, rows, quantization=quantization)
    flat = tensor([1], kinds.INT32)
    half = kind == kinds.FLOAT16
    current = tensor([1, WIDTH], kinds.FLOAT16 if half else kinds.FLOAT32)
    index = tensor([1], kinds.INT32)
    operators = [
        operator(op.RESHAPE, [token], flat),
        operator(op.CAST, [flat], index),
        operator(op.EMBEDDING_LOOKUP, [index, table], current),
    ]
    if half:
        operators.append(operator(op.DEQUANTIZE, [current], tensor([1, WIDTH], kinds.FLOAT32)))
        current = len(tensors) - 1
    if factor is not None:
        constant = tensor([], kinds.FLOAT32, struct.pack("<f", factor))
        operators.append(operator(op.MUL, [current, constant], tensor([1, WIDTH], kinds.FLOAT32)))
        current = len(tensors) - 1
    model.subgraphs = [tflite.SubGraphT(tensors=tensors, inputs=[token], outputs=[current], operators=operators)]
    return packed(model)


def composites() -> bytes:
    """Two graphs with the composite, and the custom operator's code before its own."""
    graph = Graph({"x": "f32[1,2]"}, {"y": "f32[1,2]"}, ["edge_mtp.verify", "edge_mtp.draft", "edge_mtp.verify"])
    model = tflite.ModelT.InitFromPackedBuf(tflite_model({"a": graph, "b": graph}))
    custom = tflite.OperatorCodeT(deprecatedBuiltinCode=32, builtinCode=32, customCode=b"edge_mtp.verify")
    model.operatorCodes.insert(0, custom)
    for subgraph in model.subgraphs:
        for operator in subgraph.operators:
            operator.opcodeIndex = 1
    return packed(model)


def packed(model: tflite.ModelT) -> bytes:
    builder = flatbuffers.Builder(1 << 12)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


# -- calls ----------------------------------------------------------------------------------------------------------


def sequences() -> list[bytes]:
    """Operands of calls: any bytes will do."""
    generator = random.Random(5)
    return [bytes([number % 16]) + generator.randbytes(40 * (number + 1)) for number in range(12)]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
