"""A teacher's translations of its training rows, made once and kept (sequence-level distillation, Kim and Rush, 2016).

A file holds those of one teacher and set of rows. Its name is the digest of the teacher's weights, of the rows and of
what the task says of the search.
"""

import hashlib
import json
from pathlib import Path

import torch
from transformers import PreTrainedModel

from kdqat_cli import group
from kdqat_cli.errors import ConfigError, MissingInputError
from kdqat_cli.store.digest import file_digest
from kdqat_cli.store.writing import read_object, write_json
from kdqat_cli.tasks.translation.rows import TranslationRows

_KEY = "translations"


def kept_translations(rows: TranslationRows, teacher: PreTrainedModel, weights: Path | None, folder: Path) -> list[str]:
    """A translation of each row by the teacher's beam search, from the folder or made now and kept there.

    Args:
        rows: the rows.
        teacher: translates them.
        weights: its file.
        folder: of kept translations; need not be there.

    Raises:
        ConfigError: the teacher's weights are not one local file.
        MissingInputError: what is kept is damaged, or the folder cannot be written.
    """
    if weights is None:
        raise ConfigError(
            "The teacher's weights are not one local file, so its translations cannot be kept.", "--teacher"
        )
    search = f"{rows.task.beam} {rows.task.most}"
    key = hashlib.sha256(f"{file_digest(weights)} {rows.digest} {search}".encode()).hexdigest()
    path = folder / f"{key[:32]}.json"
    # All processes translate together, or none does.
    there = torch.tensor(float(path.is_file()), device=teacher.device)
    if int(group.add_up(there).item()) == group.size():
        return _read(path, len(rows.pairs))
    made = rows.translations(teacher)
    if group.leads():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, {"version": 1, _KEY: made}, _holds_translations)
    return made


def _read(path: Path, count: int) -> list[str]:
    found = (read_object(path) or {}).get(_KEY)
    if not isinstance(found, list) or len(found) != count or not all(isinstance(text, str) for text in found):
        raise MissingInputError(f"{path} does not hold {count} translations; it is damaged.", f"rm {path}")
    return found


def _holds_translations(text: str) -> bool:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and _KEY in value
