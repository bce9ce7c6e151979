"""The expected failures of kdqat: one sentence that names the problem, the command that fixes it, and an exit code.

Exit codes: 0 ok, 1 a bug in kdqat, 2 usage or configuration, 3 missing input or offline, 4 a quality gate
failed, 5 stages of a pipeline failed, 130 interrupted, 143 ended by SIGTERM.
"""

from reprlib import Repr

_LONGEST = 4000  # characters of a sentence, which may quote a file
_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = 200
_SHORT.maxlist = _SHORT.maxdict = 20


def shown(value: object) -> str:
    """A user's value in a sentence: its `repr`, shortened if it is long or deep."""
    return _SHORT.repr(value)


class KdqatError(Exception):
    """A failure that the user can fix.

    `sentence` names the problem; `fix` is the command (or edit) that fixes it.
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
    """A file, folder, data set or download that is missing or damaged."""

    exit_code = 3


class GateError(KdqatError):
    """A result below its required quality, or a training that diverged."""

    exit_code = 4


class StageError(KdqatError):
    """A stage of a pipeline that failed, or that DVC refuses to run."""

    exit_code = 5
