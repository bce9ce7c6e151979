"""Splits the rows of one file by the hash of their texts, so that equal texts are always in the same split.

Texts that differ only in case, spaces or Unicode form count as equal, and so do pairs whose texts are exchanged. A row
keeps its split if other rows are added or removed.
"""

import hashlib
import json
import unicodedata
from collections.abc import Mapping, Sequence


def split_of(texts: Sequence[str], shares: Mapping[str, float]) -> str:
    """The split of a row.

    Args:
        texts: its text, or its pair of texts.
        shares: the share of the rows that each split gets; their sum is 1.
    """
    key = json.dumps(sorted(plain_text(text) for text in texts), ensure_ascii=True)
    position = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    for name, share in shares.items():
        position -= share
        if position < 0:
            return name
    return list(shares)[-1]  # the sum of the shares is rounded


def plain_text(text: str) -> str:
    """The form of a text that is compared with other texts."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
