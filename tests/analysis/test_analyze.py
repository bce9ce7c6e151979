"""`kdqat analyze`, `figure` and `report --html` through the command line, on a tiny encoder and task."""

import csv
import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from kdqat_cli.analysis.page_parts import differing, figures
from kdqat_cli.analysis.result import DIFFERING, Analysis, AnalyzedModel, Row, read_analysis
from kdqat_cli.store.figures import Factors
from tests import commands
from tests.browser import CHROMIUM, browser

PLUGIN = """\
from kdqat_cli.analysis.catalogue import register
from kdqat_cli.analysis.layers import by_layer
from kdqat_cli.analysis.measure import Spec

@by_layer()
def largest(pair, seen, layer):
    yield (), seen.model.outputs[layer].abs().amax(-1), seen.counted

register("largest-output", Spec("mean over tokens of the largest attention output", frozenset({"outputs"}), largest))
"""

MODELS = {"teacher", "ternary", "ternary-coarse", "s-1", "s-2"}

pytestmark = pytest.mark.pipeline


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path, tiny_task: Path) -> Path:
    """A teacher, two quantised copies, two students, and their analysis by all measures, including one of a plugin."""
    folder = tmp_path_factory.mktemp("analysis")
    shutil.copytree(tiny_task, folder / "tasks")
    (folder / "largest.py").write_text(PLUGIN, encoding="utf-8")
    (folder / "params.yaml").write_text("recipe: clean\nplugins: [largest.py]\n", encoding="utf-8")
    task = ("--task", "tiny")
    small = ("--batch-size", "8", "--learning-rate", "4e-3", "-q")
    commands.run(folder, "kdqat", "finetune-teacher", *task, "--encoder", str(tiny_encoder), "--epochs", "12", *small)
    commands.run(folder, "kdqat", "quantize", *task, "-q")
    coarse = (
        "--weights",
        "uniform",
        "--bits",
        "1",
        "--set",
        "quantization.bucket=null",
        "--out",
        "runs/tiny/ternary-coarse",
        "-q",
    )
    commands.run(folder, "kdqat", "quantize", *task, *coarse)
    for seed in ("1", "2"):
        commands.run(
            folder,
            "kdqat",
            "distill",
            *task,
            "--epochs",
            "1",
            "--seed",
            seed,
            *small,
            "--out",
            f"runs/tiny/student/s-{seed}",
        )
    commands.run(folder, "kdqat", "export", "--student", "runs/tiny/student/s-1", "-q")  # exports are not analysed
    commands.run(folder, "kdqat", "analyze", *task, "--measure", "all", "--rows", "50", "--sentence", "3")
    return folder


def _rows(project: Path, table: str) -> list[dict[str, str]]:
    with (project / "analysis/tiny/tables" / f"{table}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _analysis(project: Path) -> Any:
    return json.loads((project / "analysis/tiny/analysis.json").read_text(encoding="utf-8"))


def test_every_measure_has_a_table_with_every_model(project: Path) -> None:
    listed = json.loads(commands.run(project, "kdqat", "ls", "measures", "--json").stdout)
    names = {row["measure"] for row in listed}
    assert {path.stem for path in (project / "analysis/tiny/tables").glob("*.csv")} == names
    assert "largest-output" in names
    models = MODELS
    for name in names - {"weights", "diagnosis", "disagreement"}:  # these measures say nothing about a teacher
        assert {row["model"] for row in _rows(project, name)} == models, name


def test_the_teacher_is_a_perfect_copy_of_itself(project: Path) -> None:
    for table in ("ranking-loss", "map-divergence", "hidden-error", "attention-distance"):
        values = [float(row["value"]) for row in _rows(project, table) if row["model"] == "teacher"]
        assert values
        assert max(values) == pytest.approx(0, abs=1e-9), table
    assert {row["model"] for row in _rows(project, "disagreement")} <= MODELS - {"teacher"}


def test_training_brings_a_ternary_model_back_to_its_teacher(project: Path) -> None:
    for table in ("hidden-error", "map-divergence"):
        means = {
            model: sum(float(row["value"]) for row in _rows(project, table) if row["model"] == model)
            for model in ("ternary", "s-1")
        }
        assert means["s-1"] < means["ternary"], table


def test_the_diagnosis_of_an_untrained_model_ends_at_its_teacher(project: Path) -> None:
    rows = {row["part"]: row for row in _rows(project, "diagnosis") if row["model"] == "ternary"}
    scores = {model["name"]: model["score"] for model in _analysis(project)["models"]}
    assert float(rows["nothing"]["score"]) == pytest.approx(scores["ternary"], abs=100 / 50)  # one row: torch, engine
    assert float(rows["all weights"]["alone"]) == pytest.approx(float(rows["nothing"]["score"]), abs=200 / 50)
    assert {"layer 0 attention", "layer 2 feed-forward", "every query", "word embedding", "activations"} <= set(rows)


def test_rows_that_differ_are_reported_with_their_text(project: Path) -> None:
    found, texts = _analysis(project), (project / "tasks/dev.tsv").read_text(encoding="utf-8").splitlines()[1:]
    numbers = {row["row"] for row in found["tables"].get("disagreement", [])}
    assert {one["row"] for one in found["shown"]} == numbers != set()
    for one in found["shown"]:
        assert texts[one["row"]].startswith(one["texts"][0])


def test_all_rows_that_differ_are_counted(project: Path) -> None:
    counts = {row["model"]: row["value"] for row in _rows(project, "agreement") if row["statistic"] == DIFFERING}
    listed = Counter(row["model"] for row in _rows(project, "disagreement"))
    assert counts == {model: str(listed[model]) for model in MODELS}
    found = read_analysis(project / "analysis/tiny")
    for row in found.tables["agreement"]:
        row["value"] = 572 if row["statistic"] == DIFFERING else row["value"]
    assert f"ternary-coarse: 572 of {found.rows} rows" in differing(found)


def test_a_sentence_keeps_the_maps_of_all_models(project: Path) -> None:
    (sentence,) = _analysis(project)["sentences"]
    assert set(sentence["maps"]) == MODELS
    assert sentence["shape"] == [3, 4, len(sentence["tokens"])]
    assert (sentence["tokens"][0], sentence["tokens"][-1]) == ("[CLS]", "[SEP]")


def test_plots_have_a_column_per_model(project: Path) -> None:
    with (project / "analysis/tiny/plots/hidden-error.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["layer", "teacher", "s-1", "s-2", "ternary", "ternary-coarse"]
    assert [row["layer"] for row in rows] == ["-1", "0", "1", "2"]


def test_figures_are_written_as_png_and_svg_with_equal_bytes(project: Path) -> None:
    names = [row["figure"] for row in json.loads(commands.run(project, "kdqat", "ls", "figures", "--json").stdout)]
    written = []
    for folder in ("one", "two"):
        command = ("figure", *names, "largest-output", "--analysis", "analysis/tiny", "--out", folder, "-q")
        commands.run(project, "kdqat", *command)
        written.append({path.name: path.read_bytes() for path in (project / folder).iterdir()})
    assert written[0] == written[1]
    assert set(written[0]) == {f"{name}.{end}" for name in [*names, "largest-output"] for end in ("png", "svg")}
    assert b"s (2 seeds)" in written[0]["ranking.svg"]


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (["figure", "pie", "--analysis", "analysis/tiny"], "There is no figure 'pie'"),
        (["figure", "weights", "--analysis", "analysis/tiny"], "The table weights has no columns layer and value"),
        (["figure", "maps", "--analysis", "analysis/tiny", "--head", "9"], "layers 0 to 2 and heads 0 to 3"),
        (["figure", "maps", "--analysis", "tasks"], "There is no analysis in tasks."),
        (["analyze", "--task", "tiny", "--measure", "pie"], "there is no measure 'pie'"),
        (["analyze", "--task", "tiny", "--sentence", "99"], "the dev split has the rows 0 to 59"),
        (["analyze", "--task", "tiny", "runs/tiny/ternary", "x=runs/tiny/ternary", "x=y"], "Two models are called x."),
        (["analyze", "--task", "tiny", "runs/tiny/nothing"], "runs/tiny/nothing"),
    ],
)
def test_wrong_options_are_reported_in_one_sentence(project: Path, command: list[str], sentence: str) -> None:
    before = (project / "analysis/tiny/analysis.json").read_bytes()
    done = commands.run(
        project, "kdqat", *command, "-q", code=3 if "nothing" in sentence or "no analysis" in sentence else 2
    )
    assert sentence in done.stderr
    assert (project / "analysis/tiny/analysis.json").read_bytes() == before


def test_what_is_not_measured_and_what_cannot_be_are_told_apart(project: Path) -> None:
    """An FP32 model has no part that could be put back to full precision."""
    analyze = ("kdqat", "analyze", "--task", "tiny", "same=runs/tiny/teacher", "--rows", "4", "--out", "few", "-q")
    commands.run(project, *analyze, "--measure", "diagnosis", "--measure", "cover-length")
    for name in ("hessian", "map-divergence"):
        error = " ".join(commands.run(project, "kdqat", "figure", name, "--analysis", "few", code=3).stderr.split())
        assert f"{name} is not measured" in error
        assert f"kdqat analyze --task tiny --measure {name}" in error
    error = " ".join(commands.run(project, "kdqat", "figure", "diagnosis", "--analysis", "few", code=2).stderr.split())
    assert "diagnosis is not applicable" in error
    commands.run(project, "kdqat", "figure", "ranking", "--analysis", "few", "--out", "few-figures", "-q")
    assert "Not applicable to these models: diagnosis." in figures(read_analysis(project / "few"))


def test_a_long_table_is_shown_as_means() -> None:
    """For readers of screens: two models, 6 layers, 12 heads and 3 groups of tokens are 432 numbers."""
    rows: list[Row] = [
        {"model": model, "layer": layer, "head": head, "tokens": tokens, "value": offset + head + 100 * layer}
        for model, offset in (("teacher", 0.25), ("s-1", 0.5))
        for layer in range(6)
        for head in range(12)
        for tokens in ("[CLS]", "[SEP]", "rest")
    ]
    factors = Factors(task="tiny", kind="teacher")
    models = [AnalyzedModel(name=name, source=name, factors=factors, score=1) for name in ("teacher", "s-1")]
    found = Analysis(task="tiny", rows=1, of=1, models=models, tables={"ranking-ratio": rows})
    (numbers,) = re.findall(r"<details>.*?</details>", figures(found), re.DOTALL)
    assert "means of the numbers of ranking-ratio" in numbers
    assert re.findall(r'<th scope="col">(.*?)</th>', numbers) == ["tokens", "layer", "teacher", "s-1"]
    cells = [re.findall(r"<td.*?>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", numbers)][1:]
    assert len(cells) == 18
    assert ["rest", "2", "205.75", "206.00"] in cells
    found = found.model_copy(update={"tables": {"ranking-ratio": [row for row in rows if row["head"] == 0]}})
    assert figures(found).count("<tr>") == 1 + 36


def test_a_file_that_kdqat_did_not_write_is_kept(project: Path) -> None:
    (project / "mine").mkdir()
    (project / "mine/analysis.json").write_text("my own", encoding="utf-8")
    done = commands.run(project, "kdqat", "analyze", "--task", "tiny", "--rows", "4", "--out", "mine", "-q", code=2)
    assert "mine/analysis.json" in done.stderr
    assert (project / "mine/analysis.json").read_text(encoding="utf-8") == "my own"


@pytest.fixture(scope="module")
def page(project: Path) -> Path:
    for model in ("teacher", "ternary", "student/s-1"):
        commands.run(project, "kdqat", "evaluate", f"runs/tiny/{model}", "--out", f"metrics/tiny/{model}.json")
    commands.run(project, "kdqat", "report", "--html", "report.html")
    return project / "report.html"


def test_the_page_contains_everything_and_loads_nothing(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert len(text) < 5_000_000
    outside = re.findall(r'(?:src|href|url)\s*[=(]\s*["\']?(?!#|data:)([a-z]+:[^"\')\s>]+)', text)
    assert [address for address in outside if not address.startswith("http://www.w3.org/")] == []
    for words in ("Scores", "Training", "What quantisation changed: tiny", "Attention maps", "What was run", "sha256"):
        assert words in text, words
    assert text.count("<svg") >= 8


def test_a_second_page_replaces_the_first_and_no_other_file(page: Path) -> None:
    before = page.read_bytes()
    commands.run(page.parent, "kdqat", "report", "--html", "report.html")
    assert page.read_bytes() == before
    (page.parent / "mine.html").write_text("<p>mine</p>", encoding="utf-8")
    commands.run(page.parent, "kdqat", "report", "--html", "mine.html", code=2)


def test_times_are_in_the_chart_once_they_are_saved(page: Path) -> None:
    folder = page.parent
    packed = "runs/tiny/packed/s-1"
    commands.run(folder, "kdqat", "export", "--student", "runs/tiny/student/s-1", "--out", packed, "-q")
    commands.run(folder, "kdqat", "evaluate", packed, "--out", "metrics/tiny/packed/s-1.json", "-q")
    report = ("kdqat", "report", "--html", "timed.html")
    bench = ("kdqat", "bench", packed, "--only", "--shape", "1x8", "--rounds", "1", "--save", "-q")
    commands.run(folder, *report)
    text = (folder / "timed.html").read_text(encoding="utf-8")
    assert f"Packed models without a measured time: 1. kdqat bench {packed} --save measures the first" in text
    commands.run(folder, *bench)
    commands.run(folder, *report)
    text = (folder / "timed.html").read_text(encoding="utf-8")
    assert "without a measured time" not in text
    assert re.search(r"ternary, packed s, \d+\.\d ms", text)
    saved = folder / packed / "bench.json"
    saved.write_text(saved.read_text(encoding="utf-8").replace('"sha256": "', '"sha256": "0'), encoding="utf-8")
    commands.run(folder, *report)
    assert "without a measured time: 1." in (folder / "timed.html").read_text(encoding="utf-8"), "of another file"
    commands.run(folder, *bench)
    saved.write_text("mine", encoding="utf-8")
    assert "kdqat did not write it" in commands.run(folder, *bench, code=2).stderr
    assert saved.read_text(encoding="utf-8") == "mine"


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_a_browser_shows_the_page(page: Path, tmp_path: Path, width: int, dark: bool) -> None:
    with browser(tmp_path) as one:
        one.open(page, width, dark)
        assert one.value("document.title") == "kdqat report"
        assert one.value("document.querySelectorAll('#maps canvas').length") == len(MODELS)
        before = one.value("document.querySelector('#maps canvas').toDataURL()")
        for control, last in (("layer", 2), ("head", 3)):
            one.value(f"document.getElementById('{control}').focus()")
            for _ in range(last):
                for kind in ("keyDown", "keyUp"):
                    one.call("Input.dispatchKeyEvent", type=kind, key="ArrowRight", windowsVirtualKeyCode=39)
            assert one.value(f"document.getElementById('{control}-number').textContent") == str(last)
        assert one.value("document.querySelector('#maps canvas').toDataURL()") != before
        assert one.value("document.getElementById('said').textContent").startswith("Layer 2, head 3. teacher: ")
        wider = one.value("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wider == 0, "the page itself scrolls sideways"
        shade = one.value("getComputedStyle(document.body).backgroundColor")
        assert shade == ("rgb(21, 24, 28)" if dark else "rgb(255, 255, 255)")
        assert one.faults == []
        assert one.requests == [page.absolute().as_uri()]
