"""The seal of a model card, by which kdqat distinguishes its own cards from cards that somebody has edited.

A card is README.md, the file that the model hub shows. People add a licence or a sentence to it, so kdqat must not
replace every card that it wrote. Below the header of a card, one line has the sha256 of all other lines. After an edit,
the line does not fit any more, and no command replaces the card.
"""

import hashlib
import re

CARD = "README.md"
"""The file of a card, in a `model` folder and beside it."""
_LINE = re.compile(r"<!-- written by kdqat; sha256 of the other lines: ([0-9a-f]{64}) -->\n")


def sealed(header: str, body: str) -> str:
    """The text of a card with its seal.

    Args:
        header: header with its lines of three dashes, and a line end.
        body: text below the header, with a line end.
    """
    digest = hashlib.sha256((header + body).encode()).hexdigest()
    return f"{header}<!-- written by kdqat; sha256 of the other lines: {digest} -->\n{body}"


def is_sealed(text: str) -> bool:
    """Whether a text is an unedited card of kdqat."""
    found = _LINE.search(text)
    if found is None:
        return False
    rest = text[: found.start()] + text[found.end() :]
    return hashlib.sha256(rest.encode()).hexdigest() == found[1]
