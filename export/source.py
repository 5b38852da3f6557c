"""Finds the folders of the model, drafter and adapter that a user names: each by name, by folder or by repository."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_mtp.errors import EdgeMtpError
from edge_mtp.export import catalogue, download
from edge_mtp.export.checkpoint import tiny_pair
from edge_mtp.json_file import read_checkpoint_json
from edge_mtp.progress import Progress

TINY = "tiny"
GGUF = ".gguf"


@dataclass(frozen=True)
class Source:
    """Folders or GGUF files of a pair, for `open_pair`.

    `name` is short, for file names. `origins` says for the manifest where target, drafter and adapter come from: the
    name of a folder or file, or a repository with its commit.
    """

    name: str
    target: Path
    drafter: Path
    adapter: Path | None
    origins: dict[str, str]


def find(
    model: str,
    drafter: str | None = None,
    adapter: str | None = None,
    *,
    revision: str | None = None,
    drafter_revision: str | None = None,
    token: str | None = None,
    offline: bool = False,
    progress: Progress = lambda stage, fraction: None,
) -> Source:
    """Find, and where needed download, a checkpoint pair.

    `model` is `tiny`, a name of the catalogue, a folder, a GGUF file, a repository on the Hub, or a GGUF file in one:
    OWNER/NAME/FILE.gguf. If it holds a PEFT adapter, it stands for the model that the adapter was trained on, with the
    adapter. Without `drafter`, the target's own drafter is used. `revision` belongs to `model`, unless that is local.

    Raises:
        EdgeMtpError: a folder or repository is missing or cannot be fetched, or no drafter is known for the target.
    """
    if model == TINY:
        if drafter or adapter:
            raise EdgeMtpError("tiny brings its own drafter and takes no adapter: leave --drafter and --adapter out")
        target, assistant = tiny_pair()
        return Source(TINY, target, assistant, None, {"target": TINY, "drafter": TINY})
    origins: dict[str, str] = {}

    def folder(role: str, what: str, wanted: str | None) -> Path:
        known = catalogue.find(what)
        repository = (known.drafter if role == "drafter" else known.target) if known else what
        path = Path(what)
        # A folder takes precedence over a repository of the same name, and a name of the catalogue over both.
        if known is None and what and (path.is_dir() or path.is_file()):
            if wanted:
                kind = "folder" if path.is_dir() else "file"
                raise EdgeMtpError(f"{what} is a {kind} and has no revision {wanted!r}: leave the revision out")
            origins[role] = path.resolve().name  # name only: bundles are shared, and the path is private
            return path
        repository, file = _in_repository(repository)
        if known is None and (repository.count("/") != 1 or what.startswith((".", "/", "~"))):
            raise EdgeMtpError(
                f"{role} {what!r} is no folder, no GGUF file, no repository and none of"
                f" {', '.join(catalogue.MODELS)}: check the name"
            )
        found = download.fetch(repository, file=file, revision=wanted, token=token, offline=offline, progress=progress)
        origins[role] = f"{repository}@{download.commit(found)}" + (f"/{file}" if file else "")
        return found / file if file else found

    target = folder("target", model, revision)
    tuned = Path(model).name.removesuffix(GGUF)
    asked = model
    if is_adapter(target):
        if adapter:
            raise EdgeMtpError(f"{model} is an adapter itself: give its base as --model, and one --adapter")
        merged: Path | None = target
        asked = base_of_adapter(target)
        origins["adapter"] = origins.pop("target")
        target = folder("target", asked, None)
    else:
        merged = folder("adapter", adapter, None) if adapter else None
    assistant = folder("drafter", drafter or catalogue.matching_drafter(target, catalogue_id(asked)), drafter_revision)
    return Source(tuned, target, assistant, merged, origins)


def _in_repository(what: str) -> tuple[str, str | None]:
    """A repository, and of OWNER/NAME/FILE.gguf the file in it."""
    parts = what.split("/", 2)
    return ("/".join(parts[:2]), parts[2]) if len(parts) == 3 and what.endswith(GGUF) else (what, None)


def catalogue_id(name: str) -> str:
    """The repository for a name of the catalogue; any other name unchanged."""
    known = catalogue.find(name)
    return known.target if known else name


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a PEFT adapter and no model."""
    return (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file()


def base_of_adapter(folder: Path) -> str:
    """The model that a PEFT adapter was trained on: a folder or a repository."""
    base = read_checkpoint_json(folder / "adapter_config.json").get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise EdgeMtpError(f"adapter {folder} does not name its base: give that as --model and this as --adapter")
    return base
