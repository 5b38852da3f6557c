"""Opens and checks a checkpoint pair: a Gemma 4 target, the drafter trained for it, and the files that go with them."""

from __future__ import annotations

import copy
import importlib.resources
import json
import re
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_mtp.chat.tokenizer import Tokenizer, special_tokens
from edge_mtp.errors import EdgeMtpError
from edge_mtp.export import catalogue
from edge_mtp.export.adapter import with_adapter
from edge_mtp.export.gguf_config import config_of
from edge_mtp.export.gguf_file import GgufFile, find_gguf
from edge_mtp.export.gguf_tokenizer import check_vocabulary, unpack_template, unpack_tokenizer
from edge_mtp.export.gguf_weights import GgufWeights
from edge_mtp.export.lattice import with_lattice
from edge_mtp.export.quantization import form_of
from edge_mtp.export.random_tokenizer import write_tokenizer
from edge_mtp.export.shapes import drafters_allowed as drafters_allowed
from edge_mtp.export.shapes import model_class, tensor_shapes
from edge_mtp.export.weights import Form, SafetensorsWeights, Weights, random_weights
from edge_mtp.file_hash import sha256
from edge_mtp.json_file import read_checkpoint_json

TARGET_TYPES = ("gemma4", "gemma4_text", "gemma4_unified", "gemma4_unified_text")
DRAFTER_TYPES = ("gemma4_assistant", "gemma4_unified_assistant")

# The largest Gemma 4 has 60 layers, and no size but the number of positions exceeds its vocabulary of 262,144.
MOST_LAYERS, LARGEST_SIZE = 1000, 1 << 27

ACTIVATION = "gelu_pytorch_tanh"

Hashes = dict[str, str]


@dataclass(frozen=True)
class Checkpoint:
    """A model's configuration and tensors.

    `config` is the transformers configuration of the text decoder (for a drafter, of the whole assistant). `files` are
    the files that the model is read from, config.json first, in `directory`; a GGUF file stands for both. `seed` is set
    for random weights.
    """

    directory: Path
    config: Any
    weights: Weights
    files: tuple[Path, ...]
    seed: int | None = None

    @property
    def parameters(self) -> int:
        """The number of parameters of the text decoder or drafter."""
        return self.weights.parameters

    def hashes(self) -> Hashes:
        """SHA-256 of each file, by name. For a file in the Hub's cache, this is the Hub's record of it."""
        found = {path.name: _recorded_hash(path) or sha256(path) for path in self.files}
        return found if self.seed is None else found | {"random_weights": f"seed {self.seed}"}


@dataclass(frozen=True)
class Pair:
    """A target and a drafter that fit each other, with the target's tokenizer and chat format.

    `kv_layers` maps each layer type of the drafter to the target's layer whose KV it reads: the last one of that type
    that has its own KV.
    """

    target: Checkpoint
    drafter: Checkpoint
    kv_layers: dict[str, int]
    tokenizer: Path
    chat_template: str
    generation: dict[str, Any]
    special_tokens: dict[str, str]

    def start_hashing(self) -> Callable[[], dict[str, Hashes]]:
        """Hash both checkpoints in the background; return a function that waits and gives `target` and `drafter`.

        A core hashes about 1 GB/s, so tens of gigabytes are hashed while the weights are encoded.
        """
        found: dict[str, Hashes] = {}
        failures: list[Exception] = []

        def work() -> None:
            try:
                found.update(target=self.target.hashes(), drafter=self.drafter.hashes())
            except Exception as error:  # raised again when the caller asks for the hashes
                failures.append(error)

        thread = threading.Thread(target=work, name="hash checkpoints", daemon=True)
        thread.start()

        def hashes() -> dict[str, Hashes]:
            thread.join()
            if failures:
                raise failures[0]
            return found

        return hashes


def tiny_pair() -> tuple[Path, Path]:
    """The directories of the trained tiny pair that comes with the package."""
    root = Path(str(importlib.resources.files("edge_mtp") / "tiny"))
    return root / "target", root / "drafter"


def open_pair(target: Path, drafter: Path, *, adapter: Path | None = None, tokenizer: Path | None = None) -> Pair:
    """Read both configurations, and check that the weights are complete and that target and drafter fit each other.

    Each of the two is a folder as `save_pretrained` writes it, a GGUF file, or a folder with one. Weights are checked
    from the headers of their files; some rows of each tell whether it lies on a lattice. With `adapter`, the folder of
    a PEFT LoRA, the target's tensors have it merged. Tokenizer and chat template come from the first of these that has
    them: the folder `tokenizer`, that of the adapter, the target's folder, the target's GGUF file.

    Raises:
        EdgeMtpError: a file is missing or damaged, the architecture is not supported, or the drafter was made
            for another target.
    """
    checkpoints = _checkpoint(target, "target", TARGET_TYPES), _checkpoint(drafter, "drafter", DRAFTER_TYPES)
    with _configured(checkpoints[1].path):
        kv_layers = _check_fit(*checkpoints)
    opened = _open_weights(checkpoints[0]), _open_weights(checkpoints[1])
    folders = [target] if target.is_dir() else []
    if adapter is not None:
        merged = with_adapter(opened[0].weights, adapter)
        files = (*opened[0].files, *merged.files)
        opened = Checkpoint(target, opened[0].config, merged, files), opened[1]
        folders.insert(0, adapter)
    if tokenizer is not None:
        if not (tokenizer / "tokenizer.json").is_file():
            raise EdgeMtpError(f"{tokenizer} has no tokenizer.json: name the folder with the target's fast tokenizer")
        folders.insert(0, tokenizer)
    generation = next(
        (path for path in (f / "generation_config.json" for f in (target, tokenizer) if f) if path.is_file()), None
    )
    with ExitStack() as undo:
        if file := checkpoints[0].file:
            folders.append(_unpacked(file, folders, undo))
        found = _tokenizer_in(folders)
        if found is None:
            raise EdgeMtpError(f"{target / 'tokenizer.json'} is missing: save the target's fast tokenizer beside it")
        _check_tokenizer(found, opened[0])
        pair = Pair(
            target=opened[0],
            drafter=opened[1],
            kv_layers=kv_layers,
            tokenizer=found,
            chat_template=_chat_template(folders, target),
            generation=read_checkpoint_json(generation) if generation else {},
            special_tokens=special_tokens(found.parent),
        )
        weakref.finalize(pair, undo.pop_all().close)
    return pair


def _unpacked(file: GgufFile, folders: list[Path], undo: ExitStack) -> Path:
    """A new folder with the chat template of a GGUF file, and its tokenizer where none of `folders` has one."""
    folder = Path(tempfile.mkdtemp(prefix="edge-mtp-"))
    undo.callback(shutil.rmtree, folder, ignore_errors=True)
    given = _tokenizer_in(folders)
    if given is None:
        unpack_tokenizer(file, folder)
    else:
        check_vocabulary(file, given)
    unpack_template(file, folder)
    return folder


def _tokenizer_in(folders: list[Path]) -> Path | None:
    return next((path for path in (folder / "tokenizer.json" for folder in folders) if path.is_file()), None)


def random_pair(name: str, seed: int, folder: Path) -> Pair:
    """A pair with random weights in the real shapes of a catalogue model, for measuring without a download.

    Writes both configurations to `folder`, and a tokenizer with Gemma 4's control tokens, every byte, and placeholders
    for the rest of the vocabulary. The chat template is the tiny pair's.
    """
    model = catalogue.model(name)
    checkpoints = []
    for role, config, accepted in (
        ("target", model.target_config, TARGET_TYPES),
        ("drafter", model.drafter_config, DRAFTER_TYPES),
    ):
        directory = folder / role
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
        unread = _checkpoint(directory, role, accepted)
        # With equal seeds, the drafter's embedding would begin with the target's numbers.
        weights = random_weights(unread.config, seed if role == "target" else seed + 1)
        checkpoints.append(Checkpoint(directory, unread.config, weights, (directory / "config.json",), seed))
    target, drafter = checkpoints
    tokenizer = folder / "target" / "tokenizer.json"
    write_tokenizer(tokenizer, target.config.vocab_size)
    tiny = tiny_pair()[0]
    return Pair(
        target=target,
        drafter=drafter,
        kv_layers=_check_fit(target, drafter),
        tokenizer=tokenizer,
        chat_template=_chat_template([tiny], tiny),
        special_tokens=special_tokens(tiny),
        generation=read_checkpoint_json(tiny / "generation_config.json"),
    )


def load_target(checkpoint: Checkpoint) -> Any:
    """The target as a float32 text decoder of transformers in eval mode, its tensors read from `weights`."""
    return _load(checkpoint)


def load_drafter(checkpoint: Checkpoint) -> Any:
    """The drafter as a float32 assistant of transformers in eval mode, its tensors read from `weights`."""
    return _load(checkpoint)


def _load(checkpoint: Checkpoint) -> Any:
    import torch
    from transformers import GenerationConfig

    config = copy.deepcopy(checkpoint.config)
    with drafters_allowed():
        model = model_class(config)._from_config(config, dtype=torch.float32, attn_implementation="eager")
    tensors = {name: torch.from_numpy(checkpoint.weights.read(name)) for name in checkpoint.weights.names}
    model.load_state_dict(tensors, strict=False)
    model.tie_weights()
    generation = checkpoint.directory / "generation_config.json"
    if generation.is_file():
        model.generation_config = GenerationConfig(**read_checkpoint_json(generation))
    return model.eval()


@dataclass(frozen=True)
class _Unread:
    """A checkpoint whose configuration was read and whose weights were not; `form` for one that is quantized,
    `file` for a GGUF file."""

    directory: Path
    config: Any
    form: Form | None = None
    file: GgufFile | None = None

    @property
    def path(self) -> Path:
        """The file with the configuration."""
        return self.file.path if self.file else self.directory / "config.json"


def _checkpoint(directory: Path, role: str, accepted: tuple[str, ...]) -> _Unread:
    from transformers import AutoConfig

    gguf = find_gguf(directory)
    if gguf is None and not directory.is_dir():
        raise EdgeMtpError(f"{role} {directory} is not a directory: give a checkpoint directory or a GGUF file")
    file = GgufFile(gguf) if gguf else None
    path = file.path if file else directory / "config.json"
    config = config_of(file) if file else read_checkpoint_json(path)
    kind = config.get("model_type")
    if kind not in accepted:
        raise EdgeMtpError(
            f"{role} {directory} has model_type {kind!r}: supported is {' or '.join(map(repr, accepted))}"
        )
    form = form_of(config, path)
    # Without what would have transformers look for kernels: the graphs are the same.
    dropped = ("model_type", "quantization_config", "compression_config")
    fields = {key: value for key, value in config.items() if key not in dropped}
    _check_sizes(path, config)
    with _configured(path):
        with drafters_allowed():
            parsed = AutoConfig.for_model(kind, **fields)
        if kind not in DRAFTER_TYPES:
            parsed = parsed.get_text_config()
            parsed.tie_word_embeddings = parsed.tie_word_embeddings and config.get("tie_word_embeddings", True)
        unread = _Unread(file.path if file else directory, parsed, form, file)
        _check_architecture(unread)
    return unread


def _check_sizes(path: Path, config: dict[str, Any]) -> None:
    """Refuse sizes that no model has: transformers would build the layers until memory runs out."""
    for fields in (config, config.get("text_config")):
        for name, value in fields.items() if isinstance(fields, dict) else ():
            most = MOST_LAYERS if name == "num_hidden_layers" else LARGEST_SIZE
            if isinstance(value, int) and value > most:
                raise EdgeMtpError(f"{path} is not valid ({name} is {value}, more than {most}): fix that field")


@contextmanager
def _configured(path: Path) -> Iterator[None]:
    """Turn any error that transformers and torch raise for an odd configuration into a refusal."""
    try:
        yield
    except (EdgeMtpError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise EdgeMtpError(f"{path} is not valid ({reason}): fix that field") from error


def _open_weights(checkpoint: _Unread) -> Checkpoint:
    directory, config = checkpoint.directory, checkpoint.config
    with _configured(checkpoint.path):
        shapes = tensor_shapes(config)
    if checkpoint.file:
        return Checkpoint(directory, config, with_lattice(GgufWeights(checkpoint.file, shapes)), (directory,))
    files = _weight_files(directory)
    if checkpoint.form is not None:
        weights: Weights = SafetensorsWeights(directory, files, shapes, checkpoint.form)
    else:
        weights = with_lattice(SafetensorsWeights(directory, files, shapes))
    return Checkpoint(directory, config, weights, (directory / "config.json", *files))


def _weight_files(directory: Path) -> tuple[Path, ...]:
    """The single file, or the shards of the index. If both exist, the single file counts, as in transformers."""
    single, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    if single.is_file() or not index.is_file():
        if not single.is_file() and list(directory.glob("*.bin")):
            raise EdgeMtpError(f"{single} is missing and {directory} has .bin files: save the model as safetensors")
        return (single,)
    shards = read_checkpoint_json(index).get("weight_map")
    names = sorted(set(map(str, shards.values()))) if isinstance(shards, dict) else []
    if not names or any(Path(name).name != name for name in names):
        raise EdgeMtpError(f"{index} does not name the files beside it: copy the checkpoint again")
    return tuple(directory / name for name in names)


def _check_architecture(checkpoint: _Unread) -> None:
    config = checkpoint.config
    text = config.get_text_config()
    unsupported = {
        "untied embeddings": text is not config and not (config.tie_word_embeddings and text.tie_word_embeddings),
        "attention_bias": text.attention_bias,
        f"hidden_activation={text.hidden_activation!r}": text.hidden_activation != ACTIVATION,
        "use_bidirectional_attention='all'": text.use_bidirectional_attention == "all",
    }
    for feature, present in unsupported.items():
        if present:
            raise EdgeMtpError(
                f"{checkpoint.directory} uses {feature}, which the exporter does not support: export a stock Gemma 4"
            )
    if getattr(config, "use_ordered_embeddings", False) and text.vocab_size % config.num_centroids:
        raise EdgeMtpError(
            f"{checkpoint.directory} has {config.num_centroids} centroids, which do not divide"
            f" {text.vocab_size} tokens: fix num_centroids"
        )


def _check_fit(target: _Unread | Checkpoint, drafter: _Unread | Checkpoint) -> dict[str, int]:
    """Compare the properties that the two share; return the target's KV layer for each of the drafter's layer types."""
    config, decoder = target.config, drafter.config.get_text_config()

    def expect(what: str, wanted: Any, found: Any) -> None:
        if wanted != found:
            raise EdgeMtpError(
                f"mismatched pair: the target's {what} is {wanted}, the drafter expects {found}: use the drafter that"
                f" was trained for this target{', and give added tokens the ids of unused ones' * ('vocab' in what)}"
            )

    expect("hidden size", config.hidden_size, drafter.config.backbone_hidden_size)
    expect("vocabulary size", config.vocab_size, decoder.vocab_size)
    own_kv = config.num_hidden_layers - config.num_kv_shared_layers
    kv_layers = {}
    for layer, kind in enumerate(decoder.layer_types):
        sources = [i for i in range(own_kv) if config.layer_types[i] == kind]
        if not sources:
            expect("layer types", sorted(set(config.layer_types[:own_kv])), sorted(set(decoder.layer_types)))
        source, reader = config.per_layer_config[sources[-1]], decoder.per_layer_config[layer]
        expect(f"{kind} head size", source.head_dim, reader.head_dim)
        expect(f"{kind} KV heads", source.num_key_value_heads, reader.num_key_value_heads)
        kv_layers[kind] = sources[-1]
    return dict(sorted(kv_layers.items(), key=lambda item: item[1]))


def tokenizer_ids(tokenizer: Path) -> dict[str, int]:
    """The id of each added token of a tokenizer.json, by its text."""
    added = read_checkpoint_json(tokenizer).get("added_tokens") or []
    return {entry["content"]: entry["id"] for entry in added}


def _check_tokenizer(tokenizer: Path, target: Checkpoint) -> None:
    """Added tokens may take ids that the vocabulary has, and none beyond: there are no embeddings for those."""
    contents, vocabulary = read_checkpoint_json(tokenizer), target.config.vocab_size
    try:
        ids = {token: text for text, token in contents.get("model", {}).get("vocab", {}).items()}
        ids |= {entry["id"]: entry["content"] for entry in contents.get("added_tokens") or []}
        beyond = sorted(token for token in ids if token >= vocabulary)
    except (AttributeError, KeyError, TypeError) as error:
        raise EdgeMtpError(f"{tokenizer} is not a BPE tokenizer.json ({error!r}): save the fast tokenizer") from error
    try:
        Tokenizer.from_file(tokenizer)
    except EdgeMtpError as error:
        reason = " ".join(str(error.__context__ or error).split())
        raise EdgeMtpError(f"{tokenizer} cannot be loaded ({reason}): save the fast tokenizer again") from None
    if beyond:
        raise EdgeMtpError(
            f"{tokenizer} has token {beyond[0]} {ids[beyond[0]]!r}, the model {vocabulary} tokens: use the target's own"
            " tokenizer, or give added tokens the ids of unused ones"
        )


def _chat_template(folders: list[Path], target: Path) -> str:
    """The template of the first folder that has one: chat_template.jinja, else the one in tokenizer_config.json.

    `target` is where the user looks for it.
    """
    for folder in folders:
        path = folder / "chat_template.jinja"
        if path.is_file():
            try:
                return path.read_text(encoding="utf-8-sig")
            except (OSError, UnicodeDecodeError) as error:
                raise EdgeMtpError(f"{path} cannot be read ({error}): save it again as UTF-8") from error
        settings = folder / "tokenizer_config.json"
        template = read_checkpoint_json(settings).get("chat_template") if settings.is_file() else None
        if isinstance(template, list):
            named = [entry for entry in template if isinstance(entry, dict) and entry.get("name") == "default"]
            template = named[-1].get("template") if named else None
        if isinstance(template, str):
            return template
    if target.is_file():
        raise EdgeMtpError(f"{target} has no chat template: give --tokenizer DIR, a folder with tokenizer and template")
    path = target / "chat_template.jinja"
    raise EdgeMtpError(f"{path} is missing: save the target's chat template beside its tokenizer")


def _recorded_hash(path: Path) -> str | None:
    """The SHA-256 of a large file in the Hub's cache, which stores it under that name and links to it."""
    if not path.is_symlink():
        return None
    # Follow one link only: the last target may lie in a store that names files differently.
    stored = path.parent / path.readlink()
    return stored.name if stored.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", stored.name) else None
