"""The wheel kdqat-runtime: in a new environment it alone gives the same logits as kdqat, with less than 200 MB."""

import json
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from kdqat_cli.serving import load
from tests.commands import REPOSITORY
from tests.test_serving import TEXTS
from tests.test_serving import folder as folder

LOGITS = """\
import json, sys
from kdqat_cli.serving import load
print(json.dumps(load(sys.argv[1]).logits(sys.argv[2:]).tolist()))
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment with the runtime's wheel."""
    place = tmp_path_factory.mktemp("runtime")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(place)]
    subprocess.run([*build, str(REPOSITORY / "packaging/runtime")], check=True)
    (wheel,) = place.glob("kdqat_runtime-*.whl")
    venv.create(place / "env", with_pip=True)
    python = place / "env/bin/python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", wheel], check=True)
    return python


def test_it_takes_less_than_200_mb_without_torch(python: Path) -> None:
    environment = python.parent.parent
    size = sum(path.stat().st_size for path in environment.rglob("*") if path.is_file() and not path.is_symlink())
    assert size < 200e6
    assert not list(environment.glob("lib/*/site-packages/torch"))


def test_its_logits_are_those_of_kdqat(python: Path, folder: Path) -> None:
    done = subprocess.run(
        [python, "-c", LOGITS, "packed", *TEXTS[:5]], cwd=folder, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == load(folder / "packed").logits(TEXTS[:5]).tolist()


def test_its_command_predicts_and_reports_missing_features(python: Path, folder: Path) -> None:
    kdqat = python.with_name("kdqat")
    done = subprocess.run(
        [kdqat, "predict", "packed", TEXTS[0]], cwd=folder, capture_output=True, text=True, check=True
    )
    label = load(folder / "packed")(TEXTS[0])["label"]
    assert json.loads(done.stdout)["label"] == label
    (folder / "rows.csv").write_text(f"id,sentence\n7,{TEXTS[0]}\n", encoding="utf-8")
    table = ("--file", "rows.csv", "--out", "rows.jsonl", "--top-k", "1")
    subprocess.run([kdqat, "predict", "packed", *table], cwd=folder, check=True)
    assert (
        json.loads((folder / "rows.jsonl").read_text(encoding="utf-8")).items() >= {"id": "7", "label": label}.items()
    )
    done = subprocess.run([kdqat, "evaluate", "packed"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "kdqat evaluate needs" in done.stderr
    assert "pip install kdqat" in done.stderr
