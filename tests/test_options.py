"""Options that choose quantisers and hidden states: their effect on the record and on the computation."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from kdqat_cli.cli import app
from kdqat_cli.commands.options import layers_option
from kdqat_cli.errors import ConfigError
from kdqat_cli.quantizers.codes import Grouping
from kdqat_cli.quantizers.layers import QuantizedLinear
from kdqat_cli.quantizers.parameters import quantized_layers
from kdqat_cli.tasks.text.models import load_classifier

TASK = ("--task", "rated", "--json")


@pytest.fixture
def work(tmp_path: Path, rated_task: Path, rated_teacher: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the task `rated` and its teacher of three layers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KDQAT_DATA_DIR", raising=False)
    (tmp_path / "runs/rated").mkdir(parents=True)
    (tmp_path / "tasks").symlink_to(rated_task)
    (tmp_path / "runs/rated/teacher").symlink_to(rated_teacher)
    return tmp_path


def kdqat(*arguments: str, code: int = 0) -> Result:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == code, f"{done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr
    return done


def results(*arguments: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(kdqat(*arguments).stdout)
    return values


def recorded(folder: Path) -> dict[str, Any]:
    about: dict[str, Any] = json.loads((folder / "model/kdqat.json").read_text(encoding="utf-8"))
    return about


def values_of(folder: Path) -> list[int]:
    """The number of different values in each matrix of a linear layer."""
    layers = quantized_layers(load_classifier(folder).model).values()
    return [len(set(layer.weight.flatten().tolist())) for layer in layers if isinstance(layer, QuantizedLinear)]


def test_eight_bits_lose_almost_nothing_and_fewer_lose_more(work: Path) -> None:
    teacher = results("evaluate", "runs/rated/teacher", "--json")["score"]
    scores = {}
    for weights, values in (("int8", (16, 255)), ("int4", (8, 15)), ("ternary", (3, 3))):
        out = work / weights
        scores[weights] = results("quantize", *TASK, "--weights", weights, "--out", str(out))["score"]
        assert recorded(out)["quantization"]["weights"] == weights
        assert recorded(out)["quantization"]["activations"] == "int8", "the value of the recipe"
        assert results("evaluate", str(out), "--json")["score"] == scores[weights]
        assert all(values[0] <= count <= values[1] for count in values_of(out))
    assert teacher > 90
    assert scores["int8"] == pytest.approx(teacher, abs=0.5)
    # int8 and int4 are not compared, because both lose so little that the order is random.
    assert max(abs(teacher - scores[name]) for name in ("int8", "int4")) < abs(teacher - scores["ternary"])


def test_activations_may_stay_in_full_precision(work: Path) -> None:
    out = work / "full"
    told = results("quantize", *TASK, "--weights", "int8", "--activations", "fp32", "--out", str(out))
    assert recorded(out)["quantization"]["activations"] == "fp32"
    loaded = load_classifier(out)
    quantizers = [module.quantizer for module in loaded.model.modules() if hasattr(module, "quantizer")]
    assert len(quantizers) == 3 * 6 + 1 + 3, "linears, pooler and attentions"
    assert quantizers == [None] * len(quantizers)
    assert results("evaluate", str(out), "--json")["score"] == told["score"]


def test_a_student_of_eight_bits_is_trained_and_packed(work: Path) -> None:
    out = work / "eight"
    options = ("--weights", "int8", "--activations", "fp32", "--max-steps", "2", "--hidden-layers", "-1,-3")
    told = results("distill", *TASK, *options, "--out", str(out))
    about = recorded(out)
    assert (about["kind"], about["quantization"]["weights"], about["quantization"]["activations"]) == (
        "student",
        "int8",
        "fp32",
    )
    assert about["settings"]["distillation"]["hidden_layers"] == [-1, -3]
    assert told["score"] == pytest.approx(told["teacher_score"], abs=1)
    packed = results("export", "--student", str(out), "--json")
    assert results("evaluate", packed["folder"], "--json")["score"] == told["score"]
    done = kdqat("export", "--student", str(out), "--format", "dense", code=2)
    assert f"{out} holds int8 weights; another engine's format takes ternary weights only." in done.stderr
    assert done.stdout == ""
    assert not (work / "eight-dense/model").exists()


def test_a_packed_student_is_as_small_as_its_codec_makes_it(work: Path) -> None:
    """Every codec gives the same scores and answers, and a result with another codec is not replaced."""
    for weights in (("--weights", "uniform"), ("--weights", "ternary")):
        student = results("quantize", *TASK, *weights, "--out", weights[1])
        sizes, answers = {}, set()
        for codec in ((), ("--codec", "auto"), ("--codec", "fixed"), ("--codec", "huffman")):
            out = "-".join([weights[1], "packed", *codec[1:]])
            told = results("export", "--student", weights[1], *codec, "--out", out, "--json")
            assert told["bytes"] == Path(out, "model/kdqat.safetensors").stat().st_size
            assert results("evaluate", out, "--json")["score"] == student["score"]
            answers.add(kdqat("predict", out, "good").stdout)
            sizes[codec[-1] if codec else None] = told["bytes"]
        assert len(answers) == 1
        assert sizes["auto"] <= min(sizes["fixed"], sizes["huffman"]) + 1000, "its header may be longer"
    done = kdqat("export", "--student", "ternary", "--codec", "fixed", "--out", "ternary-packed-auto", code=2)
    assert "has a result of other settings: codec is 'auto' there, now 'fixed'" in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--codec", "trits"), "The codec trits cannot hold the student: "),
        (("--codec", "auto", "--format", "dense"), "--codec has no meaning for --format dense."),
        (("--codec", "zip"), "is not one of 'auto', 'trits', 'fixed', 'huffman'"),
    ],
)
def test_a_codec_that_does_not_fit_is_refused(work: Path, options: tuple[str, ...], sentence: str) -> None:
    results("quantize", *TASK, "--weights", "uniform", "--out", "uniform")
    done = kdqat("export", "--student", "uniform", *options, "--out", "out", code=2)
    assert sentence in " ".join(done.stderr.split())
    assert not (work / "out").exists()


@pytest.mark.parametrize("more", [(), ("--set", "quantization.rounding=stochastic")], ids=["nearest", "stochastic"])
def test_a_student_of_uniform_weights_is_trained_and_evaluated(work: Path, more: tuple[str, ...]) -> None:
    options = ("--weights", "uniform", "--bits", "3", "--bucket", "64", "--max-steps", "3", *more)
    told = results("distill", *TASK, *options)
    out = Path(told["folder"])
    assert out.name == f"map+output-max_steps3-uniform-bits3-bucket64{'-rounding-stochastic' if more else ''}-42"
    about = recorded(out)["quantization"]
    assert (about["weights"], about["bits"], about["bucket"]) == ("uniform", 3, 64)
    assert results("evaluate", str(out), "--json")["score"] == told["score"]
    for layer in quantized_layers(load_classifier(out).model).values():
        codes = layer.codes()
        assert layer.frozen
        assert codes.grouping == Grouping("bucket", 64)
        assert 3 < int(codes.levels.max()) < 8


def test_the_whole_tensor_may_be_one_bucket(work: Path) -> None:
    told = results("quantize", *TASK, "--weights", "uniform", "--bits", "8", "--set", "quantization.bucket=null")
    assert Path(told["folder"]).name == "ternary-uniform-bits8-bucket-none"
    assert results("evaluate", told["folder"], "--json")["score"] == told["score"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--bits", "4"), "--bits has no meaning for --weights ternary."),
        (("--weights", "int8", "--bucket", "256"), "--bucket has no meaning for --weights int8."),
        (("--bits", "2"), "--bits has no meaning for --weights ternary."),
        (("--set", "quantization.gradient=complicated"), "--set: quantization.gradient has no meaning for ternary"),
        (("--weights", "uniform", "--bits", "9"), "--bits: input should be less than or equal to 8, but it is 9"),
        (("--weights", "uniform", "--bucket", "0"), "--bucket: input should be greater than or equal to 1"),
        (("--weights", "uniform", "--set", "quantization.rounding=up"), "'nearest' or 'stochastic'"),
    ],
)
def test_settings_that_the_weights_do_not_use_are_refused(work: Path, options: tuple[str, ...], sentence: str) -> None:
    for command in ("quantize", "distill"):
        done = kdqat(command, *TASK, *options, "--out", "out", code=2)
        assert sentence in " ".join(done.stderr.split())
        assert not (work / "out").exists()


def test_a_training_in_bf16_is_scored_in_fp32(work: Path) -> None:
    scores, losses = {}, {}
    for precision in ("fp32", "bf16"):
        out = work / precision
        options = ("--precision", precision, "--eval-every", "8", "--out", str(out))
        scores[precision] = results("distill", *TASK, *options)["score"]
        assert recorded(out)["settings"]["student"]["precision"] == precision
        assert results("evaluate", str(out), "--json")["score"] == scores[precision]
        losses[precision] = (out / "history.csv").read_text(encoding="utf-8")
    assert scores["bf16"] == pytest.approx(scores["fp32"], abs=5)
    assert losses["bf16"] != losses["fp32"]


@pytest.mark.parametrize("text", ["x", "", "1,", "1;2", "-", "1.0", "ALL"])
def test_hidden_layers_are_numbers_with_commas(work: Path, text: str) -> None:
    done = kdqat("distill", *TASK, "--hidden-layers", text, code=2)
    assert f"--hidden-layers must be all, or numbers with commas between them, not {text!r}." in done.stderr
    assert "--hidden-layers 0,3,-1" in done.stderr
    assert not (work / "runs/rated/student").exists()


@pytest.mark.parametrize(("text", "outside"), [("4", 4), ("0,-5", -5), ("-4,3,99", 99)])
def test_a_layer_that_the_teacher_lacks_is_refused(work: Path, text: str, outside: int) -> None:
    done = kdqat("distill", *TASK, "--hidden-layers", text, "--out", "out", code=2)
    assert f"the teacher has hidden states 0 to 3 (from the top -1 to -4), not {outside}." in done.stderr
    assert "--hidden-layers -1,-4" in done.stderr
    assert not (work / "out").exists()


@pytest.mark.parametrize("text", ["-4,3", "all"])
def test_the_first_and_last_hidden_states_are_accepted(work: Path, text: str) -> None:
    out = work / "out"
    kdqat("distill", *TASK, "--hidden-layers", text, "--max-steps", "1", "--out", str(out))
    chosen = recorded(out)["settings"]["distillation"]["hidden_layers"]
    assert chosen == ("all" if text == "all" else [-4, 3])


@pytest.mark.parametrize(
    ("option", "value"),
    [("--weights", "binary"), ("--weights", "8"), ("--activations", "int4"), ("--activations", "8")],
)
def test_the_error_about_an_unknown_quantiser_names_the_known_ones(work: Path, option: str, value: str) -> None:
    for command in ("quantize", "distill"):
        done = kdqat(command, *TASK, option, value, code=2)
        assert value in done.stderr
        known = ("ternary", "int4", "int8", "uniform") if option == "--weights" else ("int8", "fp32")
        assert all(name in done.stderr for name in known)


def test_the_meaning_of_hidden_layers() -> None:
    assert layers_option(None) is None
    assert layers_option("all") == "all"
    assert layers_option("0") == [0]
    assert layers_option("-1, 3,0") == [-1, 3, 0]
    with pytest.raises(ConfigError):
        layers_option("none")
