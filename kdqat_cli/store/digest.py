"""sha256 of files and of configurations."""

import hashlib
import json
from pathlib import Path


def digest_of(value: object) -> str:
    """The sha256 of a JSON value; equal values have equal digests."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """The sha256 of the bytes of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
