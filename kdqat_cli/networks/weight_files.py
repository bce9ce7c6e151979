"""The weight files of a model folder, checked before transformers reads them.

If one of several weight files is missing, the error of transformers names no remedy. It also accepts integers as
weights.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open

from kdqat_cli.errors import MissingInputError, shown
from kdqat_cli.files import is_there, names_in, read_bytes, text_of

_KINDS = (("model", "safetensors"), ("pytorch_model", "bin"))
"""Beginning and end of a weight file's name, in the order in which transformers looks for them."""
_FLOATS = ("F", "BF")
"""How safetensors' names of floating-point types begin."""
_COUNTS = ("_ids", ".num_batches_tracked")  # valid integers: positions, and the steps of batch norms
_LARGEST_INDEX = 2**26  # bytes
_SHOWN = 3  # names of files in one sentence
_AGAIN = "copy or download the folder again"


def refuse_incomplete(folder: Path) -> None:
    """Refuses weights in several files if a file or their index is missing.

    Raises:
        MissingInputError: something is missing; the message has the names of the files.
    """
    for stem, ending in _KINDS:
        if is_there(folder / f"{stem}.{ending}"):
            return
        index = folder / f"{stem}.{ending}.index.json"
        if is_there(index):
            if lost := sorted(_named(index) - set(names_in(folder))):
                more = f" and {len(lost) - _SHOWN} more" if len(lost) > _SHOWN else ""
                names = ", ".join(lost[:_SHOWN])
                raise MissingInputError(
                    f"{folder} lacks weights: {index.name} names files that are not there: {names}{more}.",
                    f"copy or download {names}{more} into {folder}",
                )
            return
        if parts := sorted(path.name for path in folder.glob(f"{stem}-*-of-*.{ending}")):
            raise MissingInputError(
                f"{folder} has the weights {parts[0]}, but no {index.name}, which names the tensors of each file.",
                f"copy or download {index.name} into {folder}",
            )


def _named(index: Path) -> set[str]:
    """The files that an index names."""
    try:
        value: Any = json.loads(text_of(index, read_bytes(index, _LARGEST_INDEX)))
        return set(map(str, value["weight_map"].values()))
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
        raise MissingInputError(f"{index} is damaged: it is not a JSON object with a weight_map.", _AGAIN) from error


def refuse_integers(folder: Path) -> None:
    """Refuses integers and complex numbers in place of weights; transformers would accept them as weights.

    Raises:
        MissingInputError: there is such a tensor; the message has its name.
    """
    for path in sorted(folder.glob("model*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no mapping
                kind = file.get_slice(name).get_dtype()
                if not kind.startswith(_FLOATS) and not name.endswith(_COUNTS):
                    raise MissingInputError(
                        f"{path} holds {name if name.isprintable() else shown(name)} as {kind}, not as floating-point "
                        "numbers; kdqat takes weights in full or half precision.",
                        "the checkpoint that this one was quantised from",
                    )
