"""Students with some of their teacher's layers: their computation, their comparison, and the commands."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdqat_cli.distillation.losses import DistillationLoss
from kdqat_cli.distillation.objective import OnTeacher
from kdqat_cli.errors import ConfigError
from kdqat_cli.networks.captures import capture
from kdqat_cli.networks.families import FAMILIES
from kdqat_cli.networks.interface import use_kdqat_attention
from kdqat_cli.networks.modules import family_of, layers_of, module_at
from kdqat_cli.networks.shallower import matched_states, with_layers
from tests.architectures import tiny, tokens
from tests.commands import run
from tests.recipes import distillation

DEPTH = 4


def deep(architecture: str) -> Any:
    key = FAMILIES[architecture].sizes.get("layers", "num_hidden_layers")
    return tiny(architecture, **{key: DEPTH})


@pytest.mark.parametrize("kept", [[0, 2], [1, 3], [3], [0, 1, 2, 3]])
@pytest.mark.parametrize("architecture", FAMILIES)
def test_it_computes_the_same_as_its_teacher_without_the_other_layers(architecture: str, kept: list[int]) -> None:
    teacher = deep(architecture)
    family, batch = family_of(teacher), tokens(teacher)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    student = with_layers(teacher, kept)
    assert len(layers_of(student)) == len(kept)
    surgery = copy.deepcopy(teacher)
    parent, _, name = family.layers.rpartition(".")
    holder = module_at(surgery.base_model, parent) if parent else surgery.base_model
    chosen = [getattr(holder, name)[index] for index in kept]
    if architecture == "kdqat-t5-encoder":
        table = getattr(holder, name)[0].layer[0].SelfAttention.relative_attention_bias
        chosen[0].layer[0].SelfAttention.relative_attention_bias = table
        chosen[0].layer[0].SelfAttention.has_relative_attention_bias = True
    setattr(holder, name, nn.ModuleList(chosen))
    with torch.no_grad():
        assert torch.equal(student(**batch).logits, surgery(**batch).logits)
    student.requires_grad_(True)
    for parameter in student.parameters():
        parameter.data.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items()), "a copy"


@pytest.mark.parametrize("kept", [[], [1, 0], [0, 0], [0, 4], [-1, 2]])
def test_numbers_that_are_not_layers_of_the_teacher_are_refused(kept: list[int]) -> None:
    with pytest.raises(ConfigError, match="must be rising numbers from 0 to 3, the layers of the teacher") as caught:
        with_layers(deep("bert"), kept)
    assert caught.value.fix == "--layers 0,2"


def terms(teacher: Any, student: Any, batch: dict[str, Tensor], layers: list[int] | None) -> dict[str, Tensor]:
    loss = DistillationLoss(distillation("map+output", layers=layers))
    inputs = {**batch, "labels": torch.tensor([0, 1, 2]), "counted": batch["attention_mask"]}
    return OnTeacher(student, teacher, loss, "fp32").terms(student, inputs)


@pytest.mark.parametrize("architecture", ["bert", "kdqat-t5-encoder"])
def test_it_is_compared_with_the_layers_that_it_keeps(architecture: str) -> None:
    teacher = deep(architecture)
    use_kdqat_attention(teacher)
    batch, kept = tokens(teacher), [1, 3]
    student = with_layers(teacher, kept)
    use_kdqat_attention(student)
    student.eval()
    found = terms(teacher, student, batch, kept)
    names = frozenset({"hidden", "scores", "outputs"})
    with torch.no_grad(), capture(teacher, names) as taught, capture(student, names) as learnt:
        answers = student(**batch).logits, teacher(**batch).logits
    taught.hidden = [taught.hidden[state] for state in (0, 2, 4)]
    taught.scores, taught.outputs = ([side[layer] for layer in kept] for side in (taught.scores, taught.outputs))
    loss = DistillationLoss(distillation("map+output"))
    expected = loss.terms(learnt, taught, *answers, batch["attention_mask"])
    assert {name: term.item() for name, term in found.items()} == pytest.approx(
        {name: term.item() for name, term in expected.items()}, rel=1e-6
    )
    whole = with_layers(teacher, [0, 1, 2, 3])
    use_kdqat_attention(whole)
    every, plain = (terms(teacher, whole.eval(), batch, layers) for layers in ([0, 1, 2, 3], None))
    assert {name: term.item() for name, term in every.items()} == {name: term.item() for name, term in plain.items()}


def test_the_last_state_of_a_pre_norm_encoder_is_compared_with_the_teachers_last() -> None:
    assert matched_states([0, 2], 6, pre_norm=False) == [0, 1, 3]
    assert matched_states([0, 2], 6, pre_norm=True) == [0, 1, 6]


def test_a_shallower_student_is_trained_packed_and_served(tmp_path: Path, tiny_encoder: Path, tiny_task: Path) -> None:
    shutil.copytree(tiny_task, tmp_path / "tasks")
    teach = ("finetune-teacher", "--task", "tiny", "--epochs", "4", "--batch-size", "8", "--learning-rate", "4e-3")
    run(tmp_path, "kdqat", *teach, "--encoder", str(tiny_encoder))
    learn = ("distill", "--task", "tiny", "--layers", "0,2", "--epochs", "4", "--learning-rate", "2e-3", "--json")
    student = json.loads(run(tmp_path, "kdqat", *learn).stdout)
    assert "layers0_2" in student["folder"]
    assert student["score"] > 80
    packed = json.loads(run(tmp_path, "kdqat", "export", "--student", student["folder"], "--json").stdout)
    scored = json.loads(run(tmp_path, "kdqat", "evaluate", packed["folder"], "--json").stdout)
    assert scored["score"] == student["score"]
    teacher = json.loads(run(tmp_path, "kdqat", "evaluate", "runs/tiny/teacher", "--json").stdout)
    assert scored["parameters"] < 0.9 * teacher["parameters"]
    said = run(tmp_path, "kdqat", "distill", "--task", "tiny", "--layers", "0,3", code=2).stderr
    assert "The layers 0,3 must be rising numbers from 0 to 2" in " ".join(said.split())
    said = run(tmp_path, "kdqat", "distill", "--task", "tiny", "--layers", "all", code=2).stderr
    assert "--layers must be numbers with commas between them, not 'all'." in " ".join(said.split())
