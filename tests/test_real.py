"""The embedded encoder and real data: `make test-slow`. Needs the package index, or a pip cache with both packages."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from kdqat_cli.tasks.registry import load_text_task
from kdqat_cli.tasks.text.data import load_split
from kdqat_cli.tasks.text.inference import predict_logits
from kdqat_cli.tasks.text.models import load_classifier
from kdqat_cli.tasks.text.rows import task_rows
from tests.commands import run

pytestmark = pytest.mark.slow
DATA = os.environ.get("KDQAT_DATA_DIR")
ROWS = {
    "rte": (2490, 277),
    "cola": (8551, 1043),
    "stsb": (5749, 1500),
    "sst2": (67349, 872),
    "nsmc": (149995, 49997),
}


def test_the_embedded_default_is_distilled_packed_and_scored_equally(tmp_path: Path) -> None:
    run(tmp_path, "kdqat", "fetch")
    steps = ("--task", "movie", "--max-steps", "60", "--max-length", "32")
    run(tmp_path, "kdqat", "finetune-teacher", *steps, OMP_NUM_THREADS="2")
    untrained = json.loads(run(tmp_path, "kdqat", "quantize", "--task", "movie", "--json").stdout)
    student = json.loads(run(tmp_path, "kdqat", "distill", *steps, "--json", OMP_NUM_THREADS="2").stdout)
    run(tmp_path, "kdqat", "export", "--task", "movie")
    assert student["teacher_score"] > 70
    assert student["score"] > untrained["score"] + 5

    folders = [tmp_path / "runs/movie" / kind / "map+output-42" for kind in ("student", "packed")]
    rows = None
    logits = []
    for folder in folders:
        loaded = load_classifier(folder)
        if rows is None:
            rows = task_rows(load_text_task("movie"), "dev", tmp_path / "assets/data", loaded.tokenizer, 32)
        logits.append(predict_logits(loaded.model, rows.rows, loaded.tokenizer))
    assert np.array_equal(logits[0], logits[1])
    small, large = (
        folder / "model" / name
        for folder, name in zip(reversed(folders), ("kdqat.safetensors", "model.safetensors"), strict=True)
    )
    assert small.stat().st_size < large.stat().st_size / 16


@pytest.mark.skipif(DATA is None, reason="KDQAT_DATA_DIR does not name a folder of task data")
@pytest.mark.parametrize("name", ROWS)
def test_the_published_files_have_the_published_rows(name: str) -> None:
    counts = tuple(len(load_split(load_text_task(name), split, Path(str(DATA)))) for split in ("train", "dev"))
    assert counts == ROWS[name]
