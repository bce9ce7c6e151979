"""Progress as events: only complete lines are read, numbers stay numbers, and no fault here ends a training."""

import json
from pathlib import Path

import pytest

from kdqat_cli.store.progress import PROGRESS, DevScore, Event, EventReader, EventWriter


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(PROGRESS, str(tmp_path / "events.jsonl"))
    return tmp_path / "events.jsonl"


def test_each_event_is_read_once(path: Path) -> None:
    reader = EventReader(path)
    assert reader.new() == []
    write = EventWriter()
    write(3, 10, "continues from here")
    write(4, 10, DevScore(91.2345))
    assert reader.new() == [
        Event(step=3, steps=10, news="continues from here"),
        Event(step=4, steps=10, news="dev score 91.23", score=91.2345),
    ]
    assert reader.new() == []
    write(10, 10, "")
    assert reader.new() == [Event(step=10, steps=10)]


def test_steps_without_news_are_written_once_a_second_and_the_last_one_always(path: Path) -> None:
    write = EventWriter()
    for step in range(1, 1001):
        write(step, 1000, "")
    steps = [event.step for event in EventReader(path).new()]
    assert len(steps) < 10
    assert steps[-1] == 1000


def test_a_partly_written_line_is_read_when_it_is_complete(path: Path) -> None:
    line = b'{"version": 1, "step": 1, "steps": 2, "news": "\xc3\xa9", "score": 50.5}\n'
    reader = EventReader(path)
    path.write_bytes(line[:40])
    assert reader.new() == []
    path.write_bytes(line + line[:47])  # cut within a character
    assert [event.score for event in reader.new()] == [50.5]
    path.write_bytes(line * 2)
    assert [event.news for event in reader.new()] == ["é"]


@pytest.mark.parametrize("odd", ["step 1 of 2, dev score 3.00", "[]", '{"version": 2, "step": 1, "steps": 2}', "{}"])
def test_a_line_that_is_not_an_event_is_skipped(path: Path, odd: str) -> None:
    path.write_text(f'{odd}\n{{"version": 1, "step": 1, "steps": 2}}\n', encoding="utf-8")
    assert EventReader(path).new() == [Event(step=1, steps=2)]


def test_lines_have_their_version(path: Path) -> None:
    EventWriter()(1, 2, DevScore(50.0))
    told = json.loads(path.read_text(encoding="utf-8"))
    assert told == {"version": 1, "step": 1, "steps": 2, "news": "dev score 50.00", "score": 50.0}


@pytest.mark.parametrize("place", ["absent/events.jsonl", "", "/dev/full"])
def test_a_file_that_cannot_be_written_does_not_stop_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setenv(PROGRESS, str(tmp_path / place) if place != "/dev/full" else place)
    write = EventWriter()
    write(1, 2, "news")
    write(2, 2, "")
    write.close()
