"""Writes the result of a finished training."""

from kdqat_cli import group
from kdqat_cli.quantizers.parameters import level_bits
from kdqat_cli.record import Record
from kdqat_cli.store.folder import HISTORY, MODEL, Work
from kdqat_cli.store.run import Stopwatch, write_run
from kdqat_cli.tasks.kind import Kind, Loaded, Rows
from kdqat_cli.tasks.models import decided
from kdqat_cli.training.history import write_history
from kdqat_cli.training.loop import Trained


def write_result(
    work: Work, kind: Kind, loaded: Loaded, record: Record, trained: Trained, rows: Rows, dev: Rows, watch: Stopwatch
) -> float:
    """Scores a trained model, and writes model/, history.csv and run.json; only the first process of a group writes.

    Args:
        work: the work in the output folder.
        kind: kind of the task.
        loaded: the trained model.
        record: record of the model.
        trained: steps and history of the training.
        rows: rows of the training.
        dev: rows for the score.
        watch: started with the stage.

    Returns:
        The dev score in percent.
    """
    steps, history = trained
    metrics = dev.score(loaded.model)
    score, record = metrics["score"], decided(loaded.model, record, metrics)
    if group.leads():
        kind.save(loaded, work.scratch / MODEL, record)
        write_history(work.scratch / HISTORY, history)
        bits = level_bits(loaded.model)
        write_run(work.scratch, watch, rows=len(rows.examples), steps=steps, score=score, level_bits=bits)
    return score
