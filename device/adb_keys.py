"""The keys by which an Android device recognizes this machine."""

from __future__ import annotations

import hashlib
import os
import tempfile
from base64 import b64decode, b64encode
from pathlib import Path

from adb_shell.auth.keygen import encode_pubkey, get_user_info
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa, utils

from edge_mtp.errors import EdgeMtpError


class Key:
    """One RSA key of 2048 bits from a PEM file."""

    def __init__(self, path: Path) -> None:
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
            public = encode_pubkey(str(path))
        except (OSError, ValueError, TypeError) as error:
            raise EdgeMtpError(
                f"cannot read the ADB key {path}: {error}; move it away, and a new one is made"
            ) from error
        if not isinstance(key, rsa.RSAPrivateKey) or key.key_size != 2048:
            raise EdgeMtpError(f"the ADB key {path} is not RSA of 2048 bits; move it away, and a new one is made")
        self.path = path
        self._key = key
        self.public: bytes = b64encode(public) + get_user_info().encode()

    def sign(self, token: bytes) -> bytes:
        """Signs the device's 20 random bytes as if they were a SHA-1 hash (ADB's protocol.txt)."""
        return self._key.sign(token, padding.PKCS1v15(), utils.Prehashed(hashes.SHA1()))

    @property
    def fingerprint(self) -> str:
        """The MD5 of the public key, as the device's dialogue shows it."""
        digest = hashlib.md5(b64decode(self.public.split()[0]), usedforsecurity=False).hexdigest()
        return ":".join(digest[i : i + 2] for i in range(0, 32, 2)).upper()


def keys() -> list[Key]:
    """The keys to offer, adb's own first if there is one: a device that trusts adb on this machine does not ask again.
    Otherwise our own key, which is created if it does not exist. Nothing is ever written to adb's folder."""
    adb = Path.home() / ".android" / "adbkey"
    return [Key(adb if adb.is_file() else _own())]


def _own() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME")
    path = (Path(base) if base else Path.home() / ".config") / "edge-mtp" / "adbkey"
    if path.is_file():
        return path
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent)  # readable by its owner only, unlike keygen()'s
        with os.fdopen(descriptor, "wb") as file:
            file.write(text)
        try:
            os.link(name, path)  # the first of two processes wins; both then use its key
        except FileExistsError:
            pass
        finally:
            os.unlink(name)
    except OSError as error:
        raise EdgeMtpError(f"cannot write the ADB key {path}: {error.strerror}; make its folder writable") from error
    return path
