"""The seal of a model card: how kdqat knows its own card again, and a card that somebody has edited.

A card is README.md, the file that the model hub shows. People add a licence or a word to it, so it must not be replaced
just because kdqat wrote it once. Below its header stands one line with the sha256 of all other lines. Whoever edits the
card leaves the line as it is, and it is no longer kdqat's: no command replaces it.
"""

import hashlib
import re

CARD = "README.md"
"""In a `model` folder, and beside it."""
_LINE = re.compile(r"<!-- written by kdqat; sha256 of the other lines: ([0-9a-f]{64}) -->\n")


def sealed(header: str, body: str) -> str:
    """A card.

    Args:
        header: with the lines of three dashes around it, and a line end.
        body: ends with a line end.
    """
    digest = hashlib.sha256((header + body).encode()).hexdigest()
    return f"{header}<!-- written by kdqat; sha256 of the other lines: {digest} -->\n{body}"


def is_sealed(text: str) -> bool:
    """Whether a text is a card as kdqat wrote it."""
    found = _LINE.search(text)
    if found is None:
        return False
    rest = text[: found.start()] + text[found.end() :]
    return hashlib.sha256(rest.encode()).hexdigest() == found[1]
