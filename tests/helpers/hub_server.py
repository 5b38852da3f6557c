"""A stand-in for the Hugging Face Hub: the endpoints that downloads use, over a folder."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass
class Hub:
    """What is served, and how it misbehaves.

    `repositories` maps an id to its commits, the last of which is main, and a commit to a folder. `token` is demanded
    where set. Of each `cuts`, a file's name, the connection breaks after so many bytes; so often as listed.
    `requests` records method, path and Range header.
    """

    repositories: dict[str, dict[str, Path]] = field(default_factory=dict)
    token: str | None = None
    gated: set[str] = field(default_factory=set)
    cuts: dict[str, list[int]] = field(default_factory=dict)
    status: int | None = None
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    url: str = ""

    def __enter__(self) -> Hub:
        hub = self

        class Handler(_Handler):
            served = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    served: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub, path = self.served, self.path.split("?")[0]
        hub.requests.append((self.command, path, self.headers.get("Range")))
        if hub.status is not None:
            return self._error(hub.status)
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        repo_id = found[1] if found else file[1] if file else ""
        revision = (found[3] if found else file[2] if file else None) or "main"
        commits = hub.repositories.get(repo_id)
        allowed = hub.token is None or self.headers.get("Authorization") == f"Bearer {hub.token}"
        if repo_id in hub.gated and not allowed:
            return self._error(401, "GatedRepo")
        if commits is None or not allowed:
            return self._error(401 if commits or hub.token else 404, "RepoNotFound")
        commit = list(commits)[-1] if revision == "main" else revision
        if commit not in commits:
            return self._error(404, "RevisionNotFound")
        folder = commits[commit]
        if found and found[2] == "tree":
            return self._json([{"type": "file", "path": name, **_stored(folder / name)} for name in _files(folder)])
        if found:
            siblings = [{"rfilename": name, **_stored(folder / name)} for name in _files(folder)]
            return self._json({"id": repo_id, "sha": commit, "siblings": siblings, "private": False})
        assert file
        if not (folder / file[3]).is_file():
            return self._error(404, "EntryNotFound")
        return self._file(folder / file[3], commit)

    def _error(self, status: int, code: str = "") -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _json(self, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def _file(self, path: Path, commit: str) -> None:
        data, stored = path.read_bytes(), _stored(path)
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        start = int(wanted[1]) if wanted else 0
        self.send_response(206 if wanted else 200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{stored["lfs"]["sha256"] if "lfs" in stored else stored["oid"]}"')
        self.send_header("Accept-Ranges", "bytes")
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        cuts = self.served.cuts.get(path.name)
        if cuts:
            self.wfile.write(data[start : start + cuts.pop(0)])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return
        self.wfile.write(data[start:])


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _stored(path: Path) -> dict[str, Any]:
    """Size and hashes as the Hub states them: weights lie in LFS by SHA-256, the rest in git by SHA-1."""
    data = path.read_bytes()
    git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    entry: dict[str, Any] = {"size": len(data), "oid": git, "blobId": git}
    if path.suffix == ".safetensors":
        entry["lfs"] = {
            "oid": (sha := hashlib.sha256(data).hexdigest()),
            "sha256": sha,
            "size": len(data),
            "pointerSize": 130,
        }
    return entry
