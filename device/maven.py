"""Files from a Maven repository, checked against the checksums that the repository publishes."""

from __future__ import annotations

import errno
import hashlib
import http.client
import re
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from edge_mtp.errors import EdgeMtpError
from edge_mtp.progress import Progress

GOOGLE = "https://dl.google.com/android/maven2"
# A repository has some of FILE.sha1, FILE.sha256, ... next to FILE. The strongest one that it has is used.
CHECKSUMS = ("sha512", "sha256", "sha1")
TIMEOUT_S = 30.0  # without receiving a byte
LARGEST = 1 << 30  # bytes
CHUNK = 1 << 18  # bytes


@dataclass(frozen=True)
class Artifact:
    """A file in a repository, by its coordinates."""

    group: str
    name: str
    version: str
    packaging: str = "aar"

    def __str__(self) -> str:
        return f"{self.group}:{self.name}:{self.version}@{self.packaging}"

    @property
    def file(self) -> str:
        return f"{self.name}-{self.version}.{self.packaging}"

    @property
    def folder(self) -> str:
        """The folder in a repository that has all versions of the artifact."""
        return f"{self.group.replace('.', '/')}/{self.name}"


def download(artifact: Artifact, target: Path, repository: str, progress: Progress) -> None:
    """Writes the artifact to `target`.

    Raises EdgeMtpError when `repository` is neither https nor on this machine, lacks the version or a checksum of it,
    cannot be reached, or sends a file that does not match the checksum.
    """
    url = f"{repository.rstrip('/')}/{artifact.folder}/{artifact.version}/{artifact.file}"
    try:
        _refuse_in_clear(url)
        progress(f"download {artifact.file}", 0.0)
        algorithm, published = _published(url, artifact, repository)
        digest = hashlib.new(algorithm)
        with _open(url) as answer, target.open("wb") as file:
            total = int(answer.headers.get("Content-Length") or 0)
            done = 0
            while chunk := answer.read(CHUNK):
                done += len(chunk)
                if done > LARGEST:
                    raise EdgeMtpError(f"{url} is larger than {LARGEST >> 20} MiB; check the address")
                digest.update(chunk)
                file.write(chunk)
                if total:
                    progress(f"download {artifact.file}", min(1.0, done / total))
        if done < total:
            raise EdgeMtpError(f"{url} broke off after {done} of {total} bytes; run again")
    except (OSError, http.client.HTTPException) as error:
        raise EdgeMtpError(_refusal(error, url, target)) from error
    if digest.hexdigest() != published:
        raise EdgeMtpError(
            f"{url} has {algorithm} {digest.hexdigest()}, and its repository publishes {published}; run again, and"
            " do not use the file if that stays"
        )


def offline(artifact: Artifact, folder: Path) -> Path:
    """The artifact in a folder, which is a copy of the repository or holds the files directly.

    If a checksum lies next to the file, it is checked. Raises EdgeMtpError when the artifact is missing or does not
    match.
    """
    places = [folder / artifact.folder / artifact.version / artifact.file, folder / artifact.file]
    for path in places:
        if path.is_file():
            break
    else:
        raise EdgeMtpError(f"'{folder}' holds no {artifact.file}; get it from {GOOGLE}, or name another folder")
    for algorithm in CHECKSUMS:
        beside = path.with_name(f"{path.name}.{algorithm}")
        try:
            expected = _checksum(beside.read_bytes(), algorithm, str(beside))
            with path.open("rb") as file:
                found = hashlib.new(algorithm)
                while chunk := file.read(CHUNK):
                    found.update(chunk)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise EdgeMtpError(f"cannot read '{path}': {error.strerror}; check the folder") from error
        if found.hexdigest() != expected:
            raise EdgeMtpError(f"'{path}' does not have the {algorithm} in {beside.name}; fetch both again")
        break
    return path


def _published(url: str, artifact: Artifact, repository: str) -> tuple[str, str]:
    """The name of a checksum algorithm, and the published checksum."""
    for algorithm in CHECKSUMS:
        try:
            with _open(f"{url}.{algorithm}") as answer:
                return algorithm, _checksum(answer.read(4096), algorithm, f"{url}.{algorithm}")
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
    raise EdgeMtpError(_missing(url, artifact, repository))


def _missing(url: str, artifact: Artifact, repository: str) -> str:
    """Explains why there is no checksum at `url`."""
    listing = f"{repository.rstrip('/')}/{artifact.folder}/maven-metadata.xml"
    try:
        with _open(listing) as answer:
            text = answer.read(1 << 20).decode(errors="replace")
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
        return f"{repository} has no {artifact.group}:{artifact.name}; name another repository"
    versions = re.findall(r"<version>\s*([\w.+-]{1,64})\s*</version>", text)
    if artifact.version in versions:
        return f"{url} has no checksum beside it, so it is not used; name another repository"
    return f"{repository} has no {artifact.group}:{artifact.name}:{artifact.version}, only {', '.join(versions[-8:])}"


def _checksum(content: bytes, algorithm: str, where: str) -> str:
    """Parses a checksum file: the checksum, optionally followed by a file name."""
    match = re.match(rb"\s*([0-9a-fA-F]+)(?:\s|$)", content)
    if match is None or len(match[1]) != 2 * hashlib.new(algorithm).digest_size:
        raise EdgeMtpError(f"{where} holds no {algorithm} checksum: {content[:40]!r}; run again")
    return match[1].decode().lower()


def _open(url: str) -> http.client.HTTPResponse:
    request = urllib.request.Request(url, headers={"User-Agent": "edge-mtp"})
    answer = urllib.request.build_opener(_Redirects).open(request, timeout=TIMEOUT_S)
    assert isinstance(answer, http.client.HTTPResponse)
    return answer


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, request: Any, file: Any, code: int, message: str, headers: Any, url: str) -> Any:
        _refuse_in_clear(url)
        return super().redirect_request(request, file, code, message, headers, url)


def _refuse_in_clear(url: str) -> None:
    """Refuses unencrypted downloads: a checksum over the same unsafe connection as the file proves nothing."""
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in ("127.0.0.1", "::1", "localhost")):
        raise EdgeMtpError(f"'{url}' is not https; give the https address of a repository")


def _refusal(error: OSError | http.client.HTTPException, url: str, target: Path) -> str:
    host = urlsplit(url).netloc
    if isinstance(error, urllib.error.HTTPError):
        return f"{host} answers {error.code} ({error.reason}) for {error.url}; try later, or give --from FOLDER"
    if isinstance(error, urllib.error.URLError):
        return f"cannot reach {host}: {error.reason}; check the connection, or give --from FOLDER"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk of '{target.parent}' is full; make room and run again"
    if isinstance(error, OSError) and error.filename is not None:
        return f"cannot write '{error.filename}': {error.strerror}; check the folder"
    reason = str(error) or type(error).__name__
    return f"the download of {url} broke off ({reason}); run again, or give --from FOLDER"
