"""The folder of `kdqat evaluate --details`: tables of a model's answers, and details.json, which describes them.

details.json names the tables that kdqat wrote. The next evaluation replaces them, and changes no other file.
"""

import csv
import re
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path

from kdqat_cli.errors import ConfigError
from kdqat_cli.store.writing import file_errors, read_object, refuse_target, write_json, write_text

INDEX = "details.json"
_TABLE = re.compile(r"[A-Za-z0-9_-]+\.csv")

Tables = Mapping[str, tuple[Sequence[str], Sequence[Mapping[str, object]]]]
"""Name of a table, without its ending → its columns, and its rows."""


def refuse_details(folder: Path) -> None:
    """Refuses a folder whose files kdqat did not write, before any work is done.

    Raises:
        ConfigError: there are files, but no index of kdqat.
        MissingInputError: a file has the name of the folder, or the folder cannot be written.
    """
    with file_errors(folder):
        if folder.exists() and any(folder.iterdir()) and _listed(folder) is None:
            raise ConfigError(
                f"The folder {folder} holds files that kdqat evaluate did not write.", "--details with another folder"
            )
    refuse_target(folder / INDEX)


def write_details(folder: Path, tables: Tables, about: Mapping[str, object]) -> None:
    """Writes tables as CSV, and the index last; tables of an earlier evaluation are removed.

    Args:
        folder: the folder; it is created if needed.
        tables: see `Tables`.
        about: content of the index besides the names of the tables.

    Raises:
        ConfigError: see `refuse_details`.
        MissingInputError: see `refuse_details`; or the disk is full.
    """
    refuse_details(folder)
    for name in _listed(folder) or []:
        (folder / name).unlink(missing_ok=True)
    files = {f"{name}.csv": _csv(columns, rows) for name, (columns, rows) in tables.items()}
    for name, text in files.items():
        write_text(folder / name, text)
    write_json(folder / INDEX, {"version": 1, **about, "files": list(files)})


def _listed(folder: Path) -> list[str] | None:
    """The tables that the index names; None: there is no index of kdqat."""
    found = (read_object(folder / INDEX) or {}).get("files")
    if not isinstance(found, list) or not all(isinstance(name, str) and _TABLE.fullmatch(name) for name in found):
        return None
    return found


def _csv(columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> str:
    text = StringIO()
    # The default line end of the csv module: with another one, it would not enclose a cell with a carriage return.
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
