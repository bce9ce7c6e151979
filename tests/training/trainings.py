"""Trainings in double precision without dropout, in this process, or as a script in a group of two processes.

In single precision the last bits depend on the order of summation. Rounding to 8 bits and to {-1, 0, 1} amplifies them,
so that after some steps losses differ by a thousandth. In double precision almost no value is so close to a step of
these functions that the last bits matter, except for the integer sums of a linear layer without a bias.
"""

import copy
import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed

from kdqat_cli import group
from kdqat_cli.config import Training
from kdqat_cli.distillation.losses import LOSSES, DistillationLoss
from kdqat_cli.distillation.objective import Objective, OnLabels, OnTeacher
from kdqat_cli.networks.interface import use_kdqat_attention
from kdqat_cli.networks.quantized import quantize_model
from kdqat_cli.parallel.launch import launch
from kdqat_cli.tasks.registry import load_text_task
from kdqat_cli.tasks.text.rows import task_rows
from kdqat_cli.training.batches import SharedBatches
from kdqat_cli.training.loop import Loop
from tests.recipes import distillation, quantization, training

ROWS = 41  # in batches of 8, so that in the last step of an epoch one process has no row
LENGTH = 24
TRAINING = training(learning_rate=4e-3)
STATIC = TRAINING.model_copy(update={"padding": "max_length", "optimizer": "bert-adam"})
DISTILLATIONS = {name: (TRAINING, distillation(name)) for name in LOSSES} | {
    "labels too": (TRAINING, distillation("map", labels=0.5)),
    "padding counted": (STATIC, distillation("score", padding="counted")),
}
NAMES = ["teacher", *DISTILLATIONS]


def trained(name: str, encoder: Path, tasks: Path, folder: Path) -> dict[str, Any]:
    """The history of a training, and its results: weights, dev metrics, and the next random number."""
    torch.set_num_threads(1)
    task, tokenizer = load_text_task(str(tasks / "rated.yaml")), AutoTokenizer.from_pretrained(encoder)
    rows = task_rows(task, "train", None, tokenizer, LENGTH).part(list(range(ROWS)))
    set_seed(0)
    options = {"num_labels": 1, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = AutoModelForSequenceClassification.from_pretrained(encoder, **options).double()
    with torch.no_grad():
        for parameter in model.parameters():  # no bias is 0
            parameter += 0.1 * torch.randn_like(parameter)
    settings: Training = TRAINING
    objective: Objective = OnLabels()
    if name in DISTILLATIONS:
        teacher = copy.deepcopy(model)
        use_kdqat_attention(teacher)
        quantize_model(model, quantization())
        settings, chosen = DISTILLATIONS[name]
        objective = OnTeacher(model, teacher, DistillationLoss(chosen), "fp32")
    score = task_rows(task, "dev", None, tokenizer, LENGTH).score
    batches = SharedBatches.of(rows, settings, 1)
    history = Loop(model, batches, objective, score, settings, 1, folder / name, lambda *_: None).run().history
    draws = torch.zeros(group.size())
    draws[group.rank()] = torch.rand(())
    weights = {key: values.tolist() for key, values in model.state_dict().items() if values.is_floating_point()}
    return {"history": history, "weights": weights, "score": score(model), "draws": group.add_up(draws).tolist()}


def main(encoder: str, tasks: str, folder: str) -> None:
    """Runs all trainings in a group of two processes; the leading one writes their results."""
    if not group.started():
        sys.exit(launch(2))
    group.join(2)
    out = {name: trained(name, Path(encoder), Path(tasks), Path(folder)) for name in NAMES}
    if group.leads():
        (Path(folder) / "two.json").write_text(json.dumps(out), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
