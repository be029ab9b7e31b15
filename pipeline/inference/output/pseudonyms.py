"""Names for studies and series that lead back to nobody without the local secret."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import DataError
from pipeline.tracking.store import is_project

_SECRET_BYTES = 32
_SHORT = 12
_IN_PROJECT = ".ldct"
_ELSEWHERE = "set XDG_STATE_HOME to a folder of yours"


@dataclass(frozen=True)
class Pseudonyms:
    """HMAC-SHA256 under one secret. Plain hashes of patient IDs or UIDs would be found by trying them all."""

    secret: bytes = field(repr=False)

    def digest(self, *parts: str) -> str:
        """64 hexadecimal digits that stand for `parts`."""
        message = "\0".join(parts).encode()
        return hmac.new(self.secret, message, hashlib.sha256).hexdigest()

    def name(self, kind: str, *parts: str) -> str:
        """A folder name such as `study-1f0c5a77e0b2`."""
        return f"{kind}-{self.digest(kind, *parts)[:_SHORT]}"

    @property
    def key_id(self) -> str:
        """Tells one secret from another without giving it away."""
        return self.digest("key id")[:_SHORT]


def load_secret(path: Path) -> bytes:
    """The secret at `path`, made on first use: mode 0600, and whole even when two processes start at once.

    Raises:
        DataError: the file is there but too short to be a secret, or its folder cannot be written.
    """
    try:
        if not path.exists():
            _create_secret(path)
    except OSError:
        way_out = "make that folder writable" if path.parent.name == _IN_PROJECT else _ELSEWHERE
        raise DataError(f"the pseudonym secret cannot be kept in {path.parent}; {way_out}") from None
    secret = path.read_bytes()
    if len(secret) < _SECRET_BYTES:
        raise DataError(
            f"{path}: {len(secret)} bytes are no pseudonym secret; restore the file, or remove it and "
            "write into a new folder"
        )
    return secret


def secret_path(environment: Mapping[str, str], *, root: Path, apart_from: Sequence[Path]) -> Path:
    """Where the pseudonym secret lies: in the project, or outside of one among the user's own state.

    Args:
        environment: of the process.
        root: the project's folder, or the current one; see `tracking.store.is_project`.
        apart_from: folders that get handed on.

    Raises:
        DataError: that is inside one of the folders `apart_from`.
    """
    in_project = environment.get("DVC_ROOT") or is_project(root)
    secret = (root / _IN_PROJECT if in_project else _state_home(environment) / "ldct").resolve() / "secret"
    for folder in apart_from:
        if secret.is_relative_to(folder.resolve()):
            raise DataError(f"{folder}: holds the pseudonym secret {secret}; name a folder without it")
    return secret


def _state_home(environment: Mapping[str, str]) -> Path:
    """The user's folder for state; a relative XDG_STATE_HOME is to be ignored (XDG Base Directory 0.8)."""
    named = Path(environment.get("XDG_STATE_HOME", ""))
    return named if named.is_absolute() else Path.home() / ".local" / "state"


def _create_secret(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, part = tempfile.mkstemp(dir=path.parent, prefix=".secret.")  # mkstemp: mode 0600
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(secrets.token_bytes(_SECRET_BYTES))
            stream.flush()
            os.fsync(stream.fileno())
        os.link(part, path)  # unlike a rename, never replaces the secret of another process
    except FileExistsError:
        pass
    finally:
        Path(part).unlink()
