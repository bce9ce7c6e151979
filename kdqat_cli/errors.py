"""Every expected failure of kdqat: one sentence that names the thing, the command that fixes it, an exit code.

Exit codes: 0 ok, 1 a bug in kdqat, 2 usage or configuration, 3 missing input or offline, 4 a quality gate
failed, 5 stages of a pipeline failed, 130 interrupted, 143 ended by SIGTERM.
"""

from reprlib import Repr
from typing import Any

_LONGEST = 4000  # characters of a sentence, which may quote what a file holds
_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = 200
_SHORT.maxlist = _SHORT.maxdict = 20


def shown(value: Any) -> str:
    """A user's value in a sentence: as `repr`, but cut where it is long or deep."""
    return _SHORT.repr(value)


class KdqatError(Exception):
    """A failure that the user can mend.

    `sentence` names the thing that is wrong; `fix` is the command (or edit) that mends it.
    """

    exit_code = 1

    def __init__(self, sentence: str, fix: str | None = None) -> None:
        super().__init__(sentence)
        self.sentence = sentence if len(sentence) <= _LONGEST else f"{sentence[:_LONGEST]} …"
        self.fix = fix


class ConfigError(KdqatError):
    """A wrong option, parameter, recipe or task file."""

    exit_code = 2


class MissingInputError(KdqatError):
    """A file, folder, data set or download that is not there, or is not what it claims to be."""

    exit_code = 3


class GateError(KdqatError):
    """A result below the bar that was set for it, or a training that diverged."""

    exit_code = 4


class StageError(KdqatError):
    """A stage of a pipeline that failed, or that DVC refuses to run."""

    exit_code = 5
