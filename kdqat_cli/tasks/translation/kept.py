"""A cache of a teacher's translations of the training rows (for sequence-level distillation, Kim and Rush, 2016).

There is one file per teacher and set of rows. Its name is a digest of the teacher's weights, of the rows and of the
task's settings of the beam search.
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
    """The teacher's translation of each row, by beam search. It is read from the folder, or computed and written there.

    Args:
        rows: the rows.
        teacher: the teacher.
        weights: file of the teacher's weights.
        folder: folder of the cache; it is created if needed.

    Raises:
        ConfigError: the teacher's weights are not one local file.
        MissingInputError: a file of the cache is damaged, or the folder cannot be written.
    """
    if weights is None:
        raise ConfigError(
            "The teacher's weights are not one local file, so its translations cannot be kept.", "--teacher"
        )
    search = f"{rows.task.beam} {rows.task.most}"
    key = hashlib.sha256(f"{file_digest(weights)} {rows.digest} {search}".encode()).hexdigest()
    path = folder / f"{key[:32]}.json"
    # Either all processes translate or none does, because they exchange their shares.
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
        raise MissingInputError(f"{path} does not have {count} translations; it is damaged.", f"rm {path}")
    return found


def _holds_translations(text: str) -> bool:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and _KEY in value
