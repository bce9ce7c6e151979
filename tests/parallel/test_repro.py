"""`kdqat repro` on stages of a few lines of shell: order, failures, DVC's status afterwards, interruptions."""

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.commands import environment, run
from tests.parallel.projects import ALL, END, MIDDLE, NOTE, PIPELINE, assert_clean, journal, repro, set_params, states

ONE = """\
stages:
  one:
    cmd: cat in.txt > one.txt && echo ${middle} >> one.txt
    deps: [in.txt]
    params: [first, middle]
    outs: [one.txt]
"""


def test_dvc_finds_nothing_to_do_afterwards_and_its_lock_file_is_like_dvcs_own(project: Path, tmp_path: Path) -> None:
    rows = repro(project, "--jobs", "3")
    assert list(rows) == ALL
    assert set(states(rows).values()) == {"done"}
    lines = journal(project)
    assert lines.index("end first") < min(lines.index(f"begin {name}") for name in MIDDLE)
    assert lines.index("begin last") > max(lines.index(f"end {name}") for name in MIDDLE)
    assert run(project, "dvc", "status").stdout == "Data and pipelines are up to date.\n"
    assert_clean(project)
    assert journal(project) == []
    assert set(states(repro(project)).values()) == {"unchanged"}

    other = tmp_path / "other"
    shutil.copytree(project, other, ignore=shutil.ignore_patterns("dvc.lock", "*.txt", "cache", "tmp"))
    shutil.copy(project / "in.txt", other)
    run(other, "dvc", "repro")
    locks = [(folder / "dvc.lock").read_text(encoding="utf-8") for folder in (project, other)]
    assert sorted(locks[0].splitlines()) == sorted(locks[1].splitlines())  # the order of the stages may differ


def test_stages_run_side_by_side_up_to_the_number_of_jobs(project: Path) -> None:
    # Each stage waits until another one has begun; a third job is not started.
    wait = "until [ $(grep -c begin journal) -gt 1 ]; do sleep 0.05; done"
    text = "stages:\n  pair:\n    foreach: [a, b, c, d]\n    do:\n"
    text += f"      cmd: {NOTE} && {wait} && sleep 0.3 && touch $${{item}} && {END}\n      outs: ['${{item}}']\n"
    (project / "dvc.yaml").write_text(text.replace("$${item}", "${item}"), encoding="utf-8")
    assert set(states(repro(project, "--jobs", "2", OMP_NUM_THREADS="1")).values()) == {"done"}
    running = most = 0
    for line in journal(project):
        running += 1 if line.startswith("begin") else -1
        most = max(most, running)
    assert most == 2


def test_a_change_reruns_only_what_depends_on_it_and_the_run_cache_undoes_it(project: Path) -> None:
    repro(project)
    set_params(project, 1, 2)
    journal(project)
    listed = {row["stage"]: row for row in json.loads(run(project, "kdqat", "repro", "--dry", "--json").stdout)}
    assert states(listed) == {"first": "unchanged", **dict.fromkeys(MIDDLE, "runs"), "last": "follows"}
    assert "params.yaml: middle" in listed["middle@x-1"]["why"]
    rows = repro(project, "--jobs", "2")
    assert states(rows) == {"first": "unchanged", **dict.fromkeys(MIDDLE, "done"), "last": "unchanged"}
    assert {line.split()[1] for line in journal(project)} == set(MIDDLE)
    assert_clean(project)

    set_params(project, 1, 1)
    (project / "last.txt").unlink()
    listed = {row["stage"]: row for row in json.loads(run(project, "kdqat", "repro", "--dry", "--json").stdout)}
    assert states(listed) == {"first": "unchanged", **dict.fromkeys(MIDDLE, "restored"), "last": "follows"}
    rows = repro(project)
    assert states(rows) == {"first": "unchanged", **dict.fromkeys(MIDDLE, "restored"), "last": "restored"}
    assert journal(project) == []
    assert_clean(project)


def test_targets_are_chosen_as_by_dvc(project: Path) -> None:
    assert list(repro(project, "middle@x-2")) == ["first", "middle@x-2"]
    assert set(repro(project, "dvc.yaml:middle")) == {"first", *MIDDLE}
    assert "nothing" in run(project, "kdqat", "repro", "nothing", code=2).stderr


def test_a_failure_stops_only_what_needs_it_and_is_reported_with_its_log(project: Path) -> None:
    fails = "if [ $DVC_STAGE = middle@x-2 -a ! -e mended ]; then echo no luck; exit 7; fi"
    text = PIPELINE.replace("cat first.txt >", f"{fails} && cat first.txt >")
    text += f"  aside:\n    cmd: {NOTE} && cat y1.txt > aside.txt\n    deps: [y1.txt]\n    outs: [aside.txt]\n"
    (project / "dvc.yaml").write_text(text, encoding="utf-8")
    done = run(project, "kdqat", "repro", "--json", code=5)
    rows = {row["stage"]: row for row in json.loads(done.stdout)}
    well = ["first", "middle@x-1", "middle@y-1", "middle@y-2", "aside"]
    assert states(rows) == {**dict.fromkeys(well, "done"), "middle@x-2": "failed", "last": "skipped"}
    assert rows["last"]["why"] == "needs middle@x-2"
    log = rows["middle@x-2"]["log"]
    assert "no luck" in (project / log).read_text(encoding="utf-8")
    for told in ("middle@x-2 failed: exit code 7", log, "no luck"):
        assert told in done.stderr

    (project / "mended").touch()
    journal(project)
    rows = repro(project)
    assert states(rows) == {**dict.fromkeys(well, "unchanged"), "middle@x-2": "done", "last": "done"}
    assert_clean(project)


def test_missing_outputs_and_missing_dependencies_fail(project: Path) -> None:
    text = "stages:\n  none:\n    cmd: 'true'\n    outs: [none.txt]\n"
    text += "  lost:\n    cmd: 'true'\n    deps: [nowhere.txt]\n    outs: [lost.txt]\n"
    (project / "dvc.yaml").write_text(text, encoding="utf-8")
    rows = repro(project, code=5)
    assert "none.txt" in rows["none"]["why"]
    assert "nowhere.txt" in rows["lost"]["why"]


def test_a_stage_whose_dependency_changed_while_it_ran_is_not_committed(project: Path) -> None:
    text = f"stages:\n  s:\n    cmd: {NOTE} && cat in.txt > out.txt && echo $(date) >> in.txt\n"
    text += "    deps: [in.txt]\n    outs: [out.txt]\n"
    (project / "dvc.yaml").write_text(text, encoding="utf-8")
    assert repro(project, code=5)["s"]["why"] == "in.txt changed while the stage ran."
    assert not (project / "dvc.lock").exists()


def test_frozen_stages_run_nothing_and_callbacks_always(project: Path) -> None:
    repro(project)
    text = PIPELINE.replace("  first:\n", "  first:\n    frozen: true\n") + f"  always:\n    cmd: {NOTE}\n"
    (project / "dvc.yaml").write_text(text, encoding="utf-8")
    (project / "in.txt").write_text("two\n", encoding="utf-8")
    (project / "first.txt").unlink()
    journal(project)
    rows = repro(project, code=5)
    assert rows["first"]["state"] == "failed"
    run(project, "dvc", "checkout")
    assert states(repro(project)) == {**dict.fromkeys(ALL, "unchanged"), "always": "done"}
    assert journal(project) == ["begin always", "begin always"]


def test_git_ignores_the_same_files_as_with_dvc(project: Path, tmp_path: Path) -> None:
    shutil.rmtree(project / ".dvc")
    run(project, "git", "init", "--quiet")
    run(project, "dvc", "init", "--quiet")
    run(project, "dvc", "config", "core.autostage", "true")
    repro(project)
    assert "/x1.txt" in (project / ".gitignore").read_text(encoding="utf-8")
    staged = run(project, "git", "diff", "--cached", "--name-only").stdout.split()
    assert {"dvc.lock", ".gitignore"} <= set(staged)
    assert ".kdqat" not in run(project, "git", "status", "--short").stdout


def test_each_job_has_its_gpu_and_its_share_of_the_threads(project: Path, tmp_path: Path) -> None:
    text = "stages:\n  s:\n    foreach: [a, b, c]\n    do:\n"
    text += "      cmd: touch ${item} && until [ -e a -a -e b -a -e c ]; do sleep 0.05; done"
    text += " && echo $CUDA_VISIBLE_DEVICES $OMP_NUM_THREADS > ${item}.txt\n      outs: ['${item}.txt']\n"
    (project / "dvc.yaml").write_text(text, encoding="utf-8")
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nfor i in 0 1 2; do echo GPU $i: H; echo '  MIG 1g'; done\n", encoding="utf-8")
    program.chmod(0o755)
    path = f"{program.parent}{os.pathsep}{environment()['PATH']}"
    repro(project, PATH=path)  # as many jobs as GPUs, otherwise this would wait forever
    assert {(project / f"{name}.txt").read_text(encoding="utf-8") for name in "abc"} == {"0 1\n", "1 1\n", "2 1\n"}


def test_plain_lines_show_states_and_news(counting: Path) -> None:
    (counting / "go").touch()
    said = run(counting, "kdqat", "repro", "--jobs", "2").stderr
    for line in ("count@a: running, count.py new", "count@b: done", "sum: done", "0 of 3 stages unchanged."):
        assert line in said or line.replace(" new", " modified") in said
    assert "dev score" in said
    assert run(counting, "kdqat", "repro", "--quiet").stderr == ""


def test_outside_a_project_it_says_what_to_do(tmp_path: Path) -> None:
    assert "dvc init" in run(tmp_path, "kdqat", "repro", code=2).stderr


def preview(project: Path) -> dict[str, str]:
    return states({row["stage"]: row for row in json.loads(run(project, "kdqat", "repro", "--dry", "--json").stdout)})


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("nothing", "unchanged"),
        ("a parameter", "runs"),
        ("a parameter that is not in the command", "runs"),
        ("a dependency", "runs"),
        ("a dependency of an earlier run", "restored"),
        ("an output is gone", "restored"),
        ("the parameter of an earlier run", "restored"),
        ("an earlier run whose outputs are not in the cache", "runs"),
        ("outputs and cache are gone", "runs"),
        ("a dependency is gone", "fails"),
        ("the lock file is gone", "restored"),
        ("frozen, and its output is gone", "fails"),
    ],
)
def test_the_preview_agrees_with_the_run(project: Path, change: str, expected: str) -> None:
    (project / "dvc.yaml").write_text(ONE, encoding="utf-8")
    repro(project)
    if change in ("the parameter of an earlier run", "an earlier run whose outputs are not in the cache"):
        set_params(project, 1, 2)
        repro(project)
        set_params(project, 1, 1)
    if change == "a parameter that is not in the command":
        set_params(project, 2, 1)
    if change in ("a dependency", "a dependency of an earlier run"):
        before = (project / "in.txt").read_bytes()
        (project / "in.txt").write_text("two\n", encoding="utf-8")
        if change == "a dependency of an earlier run":
            repro(project)
            (project / "in.txt").write_bytes(before)
    if change == "a parameter":
        set_params(project, 1, 2)
    if change in ("an output is gone", "outputs and cache are gone", "frozen, and its output is gone"):
        (project / "one.txt").unlink()
    if change in ("an earlier run whose outputs are not in the cache", "outputs and cache are gone"):
        shutil.rmtree(project / ".dvc/cache/files")
    if change == "a dependency is gone":
        (project / "in.txt").unlink()
    if change == "the lock file is gone":
        (project / "dvc.lock").unlink()
    if change == "frozen, and its output is gone":
        (project / "dvc.yaml").write_text(ONE + "    frozen: true\n", encoding="utf-8")
    assert preview(project) == {"one": expected}
    happens = {"runs": "done", "fails": "failed"}.get(expected, expected)
    assert states(repro(project, code=5 if expected == "fails" else 0)) == {"one": happens}


def test_merge_markers_in_the_lock_file_are_reported(project: Path) -> None:
    repro(project, "first")
    lock = project / "dvc.lock"
    lock.write_text(f"<<<<<<< HEAD\n{lock.read_text(encoding='utf-8')}=======\n>>>>>>> other\n", encoding="utf-8")
    said = run(project, "kdqat", "repro", code=2).stderr
    assert "dvc.lock, line 1: <<<<<<< HEAD is a marker of a merge conflict." in said
    assert "git checkout --ours dvc.lock" in said


def test_a_project_without_its_git_repository_is_reported_with_the_remedy(project: Path) -> None:
    run(project, "dvc", "config", "--unset", "core.no_scm")
    said = run(project, "kdqat", "repro", code=2).stderr
    assert "This DVC project is in no git repository" in said
    assert "git init, or without git dvc config core.no_scm true" in said
    run(project, "dvc", "config", "core.no_scm", "true")
    assert states(repro(project, "first")) == {"first": "done"}


@pytest.mark.parametrize("content", ["", '{"a"', '{"write": 1}'])
def test_a_damaged_register_is_reported_with_the_remedy(project: Path, content: str) -> None:
    register = project / ".dvc/tmp/rwlock"
    register.write_text(content, encoding="utf-8")
    said = run(project, "kdqat", "repro", code=3).stderr
    assert ".dvc/tmp/rwlock" in said
    assert "rm .dvc/tmp/rwlock" in said
    register.unlink()
    assert states(repro(project, "first")) == {"first": "done"}
