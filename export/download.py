"""Downloads checkpoints from the Hugging Face Hub into the Hub's own cache."""

from __future__ import annotations

import errno
import fcntl
import re
import shutil
import socket
import threading
from dataclasses import dataclass
from fnmatch import fnmatch
from glob import escape
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from edge_mtp.errors import EdgeMtpError
from edge_mtp.export.gguf_file import listing, model_files
from edge_mtp.file_hash import sha256
from edge_mtp.progress import Progress

# The files that the exporter reads, besides GGUF files; `*/*` leaves out folders such as onnx/.
WANTED = (
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "adapter_config.json",
    "README.md",
)
UNWANTED = ("*/*",)
TIMEOUT = 30.0  # seconds without an answer
PART = 10 << 20  # bytes; the library writes chunks of this size, so less cannot be resumed
LARGEST = 50 * 10**9  # bytes; the Hub serves larger files only by its own protocol
COUNTED = "edge-mtp"
SLACK = 1 << 26  # bytes to leave free besides the download

_COMMIT = re.compile(r"[0-9a-f]{40}")


def fetch(
    repo_id: str,
    *,
    file: str | None = None,
    revision: str | None = None,
    token: str | None = None,
    offline: bool = False,
    progress: Progress = lambda stage, fraction: None,
) -> Path:
    """The local folder of a checkpoint on the Hub; downloads the files that the cache lacks. `commit` names its commit.

    Of a repository without safetensors it fetches the GGUF file `file`, or the only one.

    Resumes what an earlier call left unfinished. A cached commit as `revision` needs no network. Without network, a
    branch or tag means the commit that it had when last seen.

    Args:
        file: a GGUF file of the repository.
        revision: commit, branch or tag; the default is the main branch.
        token: access token; the default is that of `hf auth login` or HF_TOKEN.
        offline: use the cache alone.

    Raises:
        EdgeMtpError: the repository, file or revision does not exist, access is denied, it is not cached, the disk is
            too small, the connection broke for good, or the repository has several GGUF files to choose from.
    """
    from huggingface_hub import snapshot_download

    arguments: dict[str, Any] = {"revision": revision, "token": token}
    if file is None:
        arguments |= {"allow_patterns": list(WANTED), "ignore_patterns": list(UNWANTED)}
    else:
        arguments |= {"allow_patterns": [escape(file), "README.md"]}
    try:
        if offline or (revision and _COMMIT.fullmatch(revision)):
            try:
                return _with(file, snapshot_download(repo_id, local_files_only=True, **arguments))
            except FileNotFoundError:
                if offline:
                    raise
        listed = _listed(repo_id, revision, token)
        names = None if listed is None else _wanted([each.name for each in listed], repo_id, file)
        missing = _missing([each for each in listed or () if each.name in (names or ())], repo_id)
        bar = _bar_class(repo_id, sum(each.size for each in missing), progress)
        progress(f"download {repo_id}", 0.0)
        for each in missing:
            if each.sha256 and PART < each.size <= LARGEST:
                _continue(each, token, bar)
        # Downloads the small files, and makes the links from the commit to the files.
        if names is not None:
            arguments["allow_patterns"] = [escape(name) for name in names]
        folder = snapshot_download(repo_id, etag_timeout=TIMEOUT, max_workers=4, tqdm_class=bar, **arguments)
        progress(f"download {repo_id}", 1.0)
        return _with(file, folder)
    except EdgeMtpError:
        raise
    except Exception as error:  # from the Hub's library, its HTTP client or the file system
        raise _refusal(error, repo_id, revision, offline) from error


def _with(file: str | None, folder: str) -> Path:
    """A folder in the Hub's cache; raises FileNotFoundError where it lacks `file`."""
    if file is not None and not (Path(folder) / file).is_file():
        raise FileNotFoundError(file)
    return Path(folder)


def commit(folder: Path) -> str | None:
    """The commit of a folder in the Hub's cache; None for any other folder."""
    return folder.name if folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name) else None


@dataclass(frozen=True)
class _File:
    """A file that the cache lacks. For one in large file storage, `sha256` is set, and `blob` is its path."""

    repo_id: str
    commit: str
    name: str
    size: int
    sha256: str | None
    blobs: Path


def _listed(repo_id: str, revision: str | None, token: str | None) -> list[_File] | None:
    """The files of a repository; None if the Hub cannot be reached."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError

    try:
        info = HfApi(token=token).model_info(repo_id, revision=revision, files_metadata=True, timeout=TIMEOUT)
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code < 500:
            raise
        return None
    except Exception as error:  # no connection; the HTTP client has its own types for that
        if isinstance(error, ValueError):
            raise
        return None
    blobs = Path(constants.HF_HUB_CACHE) / f"models--{repo_id.replace('/', '--')}" / "blobs"
    return [
        _File(repo_id, info.sha or "", each.rfilename, each.size or 0, each.lfs.sha256 if each.lfs else None, blobs)
        for each in info.siblings or []
    ]


def _wanted(names: list[str], repo_id: str, file: str | None) -> list[str]:
    """Of a repository's files those to download."""
    at_top = [name for name in names if "/" not in name]
    models = model_files(at_top)
    if file is not None:
        if file not in names:
            held = f"it has {listing(models)}" if models else "it has none"
            raise EdgeMtpError(f"{repo_id} has no GGUF file {file}: {held}")
        return [file, "README.md"]
    checkpoint = [name for name in at_top if any(fnmatch(name, pattern) for pattern in WANTED)]
    if models and not any(name.endswith(".safetensors") for name in checkpoint):
        if len(models) > 1:
            raise EdgeMtpError(f"{repo_id} holds {listing(models)}: name one, as in {repo_id}/{models[0]}")
        return [*checkpoint, *models]
    if not {"config.json", "adapter_config.json"} & set(checkpoint):
        raise EdgeMtpError(
            f"{repo_id} has no config.json: name a repository with a transformers checkpoint or GGUF file"
        )
    return checkpoint


def _missing(wanted: list[_File], repo_id: str) -> list[_File]:
    """Those of `wanted` that the cache lacks, after a check that the disk has room for them."""
    from huggingface_hub import constants, try_to_load_from_cache

    cache = Path(constants.HF_HUB_CACHE)
    missing = [f for f in wanted if not isinstance(try_to_load_from_cache(repo_id, f.name, revision=f.commit), str)]
    begun = sum(part.stat().st_size for part in map(_part, missing) if part.is_file())
    needed = sum(file.size for file in missing) - begun + SLACK
    place = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if missing and free < needed:
        raise EdgeMtpError(
            f"{place} has {free >> 20} MiB free, {repo_id} needs {needed >> 20} MiB:"
            " make room, or set HF_HOME to a folder on a larger disk"
        )
    return missing


def _part(file: _File) -> Path:
    return file.blobs / f"{file.sha256}.edge-mtp.part"


def _continue(file: _File, token: str | None, bar: type[Any]) -> None:
    """Download a large file into the Hub's cache, resuming an earlier call, and check it.

    The Hub's library downloads into a new file each time and removes it on failure. This does the same under a fixed
    name, so that the part survives.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented, not re-exported

    blob, part = file.blobs / str(file.sha256), _part(file)
    if blob.exists():
        return
    url = hf_hub_url(file.repo_id, file.name, revision=file.commit)
    metadata = get_hf_file_metadata(url, token=token, timeout=TIMEOUT)
    headers = build_hf_headers(token=token)
    if urlsplit(metadata.location).netloc != urlsplit(url).netloc:
        headers.pop("authorization", None)  # the file is at a signed URL on another host
    file.blobs.mkdir(parents=True, exist_ok=True)
    with part.open("ab") as output:
        try:
            fcntl.flock(output, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise EdgeMtpError(f"{file.repo_id} is being downloaded already: wait for that to end") from error
        if output.tell() > file.size:
            output.truncate(0)
        http_get(
            metadata.location,
            output,
            resume_size=output.tell(),
            headers=headers,
            expected_size=file.size,
            displayed_filename=COUNTED,
            tqdm_class=bar,
        )
    if sha256(part) != file.sha256:
        part.unlink()
        raise EdgeMtpError(f"{file.name} of {file.repo_id} arrived damaged: run again")
    part.replace(blob)


def _bar_class(repo_id: str, total: int, progress: Progress) -> type[Any]:
    """A progress bar class for the Hub's library that shows nothing and calls `progress`."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    lock = threading.Lock()
    state = {"bytes": 0}

    class Bar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # Only our own bar counts, and the library's bar of bytes written.
            self._counts = str(kwargs.get("desc", "")).startswith((COUNTED, "Reconstructing"))
            super().__init__(*args, **(kwargs | {"disable": True}))
            self.update(kwargs.get("initial", 0))

        def update(self, n: float | None = 1) -> None:
            if self._counts and n:
                with lock:
                    state["bytes"] += int(n)
                    progress(f"download {repo_id}", min(1.0, max(0, state["bytes"]) / max(1, total)))

    return Bar


def _refusal(error: Exception, repo_id: str, revision: str | None, offline: bool) -> EdgeMtpError:
    from huggingface_hub import errors

    where = f"{repo_id}@{revision}" if revision else repo_id
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and isinstance(cause, Exception):
        chain.append(cause)
    kinds = [type(each).__name__ for each in chain]

    def any_of(*types: type[Exception]) -> bool:
        return any(isinstance(each, types) for each in chain)

    full = [each for each in chain if isinstance(each, OSError) and each.errno in (errno.ENOSPC, errno.EDQUOT)]
    denied = [each for each in chain if isinstance(each, PermissionError)]
    if full:
        return EdgeMtpError(f"the disk is full while downloading {where}: make room and run again, it continues")
    if denied:
        return EdgeMtpError(f"{denied[0].filename} may not be written: set HF_HOME to a folder of yours")
    if any_of(errors.GatedRepoError):
        return EdgeMtpError(
            f"{repo_id} is gated: accept its terms at https://huggingface.co/{repo_id}, then give a token of that"
            " account with `hf auth login` or HF_TOKEN"
        )
    if any_of(errors.RevisionNotFoundError):
        return EdgeMtpError(f"{repo_id} has no revision {revision!r}: give a commit, branch or tag of it")
    if any_of(errors.HFValidationError):
        return EdgeMtpError(f"{repo_id!r} is neither a directory nor a repository such as google/gemma-4-E2B-it")
    if any_of(errors.RepositoryNotFoundError):
        return EdgeMtpError(
            f"{repo_id} is not on the Hub, or is private: check the name, or give a token with `hf auth login` or"
            " HF_TOKEN"
        )
    status = next((s for each in chain if (s := _status(each)) is not None), None)
    if status in (401, 403):
        return EdgeMtpError(f"the Hub refused {where} ({status}): give a valid token with `hf auth login` or HF_TOKEN")
    if offline or any_of(errors.OfflineModeIsEnabled):
        return EdgeMtpError(f"{where} is not complete in the Hub's cache and offline was asked for: run once online")
    if any_of(socket.gaierror):
        return EdgeMtpError(f"no network to download {where}: no name server knows the Hub; connect and run again")
    what = f"HTTP {status}" if status else kinds[-1]
    return EdgeMtpError(f"the download of {where} broke off ({what}): check the connection and run again, it continues")


def _status(error: Exception) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None
