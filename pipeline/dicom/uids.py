"""UIDs and digests that depend on content alone."""

from __future__ import annotations

import hashlib
import json
import uuid
from typing import Final

_NAMESPACE: Final = uuid.UUID("6f1d7c0e-3b0c-5a53-9d52-0d8f6a3a6a55")


def deterministic_uid(*parts: str) -> str:
    """A UID that depends on `parts` alone: a name-based UUID under 2.25 (PS3.5 B.2)."""
    name = json.dumps(parts, ensure_ascii=True)
    return f"2.25.{uuid.uuid5(_NAMESPACE, name).int}"


def sha256_hex(*parts: bytes) -> str:
    """Digest of the concatenated parts."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
