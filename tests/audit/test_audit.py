"""The audit as a person meets it: the command before and after runs, its files, its exit code, the report's section."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from benchmark.audit.finding import Finding, abridged, listed, percent
from benchmark.reports.audit import alarm, section, summary, write
from tests.test_cli import levelfield


@pytest.fixture
def folders(tmp_path: Path) -> list[object]:
    return ["--runs", tmp_path / "runs", "--results", tmp_path / "results"]


def levels(folder: Path) -> dict[str, str]:
    told = json.loads((folder / "audit.json").read_text(encoding="utf-8"))
    return {finding["check"]: finding["level"] for finding in told["findings"]}


def with_repeats(experiment: Path) -> None:
    """Plant pairs that stand in training and test."""
    path = experiment.parent / "interactions.csv"
    rows = pl.read_csv(path)
    again = rows.sort("timestamp").head(5).with_columns(timestamp=pl.lit(2000, pl.Int64))
    pl.concat([rows, again]).write_csv(path)
    text = experiment.read_text(encoding="utf-8")
    experiment.write_text(text.replace("task:\n", "  filters: {deduplicate: null}\ntask:\n"), encoding="utf-8")


def test_before_and_after_anything_is_run(tiny_experiment: Path, tmp_path: Path, folders: list[object]) -> None:
    results = tmp_path / "results" / "tiny"
    before = levelfield("audit", tiny_experiment, *folders)
    assert before.returncode == 0, before.stderr
    assert "Nothing has been run yet" in before.stdout.replace("\n", " ")
    assert levels(results)["power"] == levels(results)["popularity"] == "unknown"
    assert levels(results)["future"] == levels(results)["duplicates"] == "fine"
    assert levelfield("run", tiny_experiment, *folders).returncode == 0
    after = levelfield("audit", tiny_experiment, *folders)
    assert after.returncode == 0, after.stderr
    assert levels(results)["power"] == "warning", "60 users at most"
    assert levels(results)["popularity"] == "fine"
    text = (results / "audit.md").read_text(encoding="utf-8")
    assert str(tmp_path) not in text + (results / "audit.json").read_text(encoding="utf-8"), "no path of this machine"
    assert levelfield("audit", tiny_experiment, *folders).returncode == 0
    assert (results / "audit.md").read_text(encoding="utf-8") == text, "the same when repeated"


def test_a_fault_is_exit_code_1_and_stands_under_the_leaderboard(
    tiny_experiment: Path, tmp_path: Path, folders: list[object]
) -> None:
    pytest.importorskip("plotly")
    page = tmp_path / "results" / "tiny" / "report.html"
    assert levelfield("run", tiny_experiment, "--only", "ease", *folders).returncode == 0
    assert levelfield("report", tiny_experiment, *folders).returncode == 0
    clean = page.read_text(encoding="utf-8")
    assert '<h2 id="audit-title">Audit</h2>' in clean
    assert '<span class="level fine">fine</span>' in clean
    assert "The audit found a fault" not in clean
    with_repeats(tiny_experiment)
    done = levelfield("audit", tiny_experiment, *folders)
    assert done.returncode == 1
    assert "5 in train and test" in done.stdout.replace("\n", " ")
    assert "task.allow_repeats" in (page.parent / "audit.md").read_text(encoding="utf-8")
    assert levelfield("run", tiny_experiment, "--only", "ease", *folders).returncode == 0
    assert levelfield("report", tiny_experiment, *folders).returncode == 0, "a report shows faults and does not fail"
    faulty = page.read_text(encoding="utf-8")
    assert "The audit found a fault in this table: User-item pairs in two parts." in faulty
    body = faulty[faulty.index('<section id="audit"') :]
    assert body.index('class="level fault"') < body.index('class="level fine"'), "faults first"


def test_trials_are_counted_in_the_studies(tiny_experiment: Path, tmp_path: Path, folders: list[object]) -> None:
    pytest.importorskip("optuna")
    text = tiny_experiment.read_text(encoding="utf-8")
    searched = "l2: 10.0, search: {l2: {low: 1.0, high: 100.0, log: true}}}"
    text = text.replace("l2: 10.0}", searched) + "sweep: {trials: 3}\nreport: {proposed: [ease]}\n"
    tiny_experiment.write_text(text, encoding="utf-8")
    folder = tmp_path / "results" / "tiny"

    def said(*options: object) -> str:
        assert levelfield("audit", tiny_experiment, "seeds=[0]", *options, *folders).returncode == 0
        told = json.loads((folder / "audit.json").read_text(encoding="utf-8"))
        return next(f["said"] for f in told["findings"] if f["check"] == "budget")

    assert "The search of ease is planned but not made yet" in said()
    done = levelfield("sweep", tiny_experiment, "seeds=[0]", *folders)
    assert done.returncode == 0, done.stderr
    assert said().startswith("ease is proposed and was given 3 trials; baselines with fewer: mf none.")
    assert said("--defaults") == "No proposed row (ease) was searched, so no baseline has a smaller budget."


def test_bad_input_is_one_line(tiny_experiment: Path, folders: list[object]) -> None:
    for arguments, expected in (
        (["report.proposed=[eese]"], "report.proposed: no model 'eese'; did you mean 'ease'?"),
        (["task.split.kind=temporale"], "did you mean 'temporal'?"),
    ):
        done = levelfield("audit", tiny_experiment, *arguments, *folders)
        assert done.returncode == 2
        assert expected in done.stderr
        assert done.stderr.count("\n") == 1


def test_what_is_written_and_shown(tmp_path: Path) -> None:
    found = [
        Finding("a", "First", "fine", "Nothing | here."),
        Finding("b", "Second <b>", "fault", "5 & more.", {"n": 5.0}),
        Finding("c", "Third", "warning", "Look."),
        Finding("d", "Fourth", "warning", "Look again."),
    ]
    assert summary(found) == "1 fault, 2 warnings, 1 fine"
    write("x", found, tmp_path)
    text = (tmp_path / "audit.md").read_text(encoding="utf-8")
    assert text.index("Second") < text.index("Third") < text.index("First")
    assert "Nothing \\| here." in text
    assert json.loads((tmp_path / "audit.json").read_text(encoding="utf-8"))["findings"][0]["numbers"] == {"n": 5.0}
    html = section(found)
    assert "Second &lt;b&gt;" in html
    assert 'href="#audit"' in alarm(found, "audit")
    assert alarm(found[2:], "audit") == ""
    assert [percent(x) for x in (0, 0.0004, 0.031, 0.9996, 1)] == [
        "0.0 %",
        "less than 0.1 %",
        "3.1 %",
        "99.96 %",
        "100.0 %",
    ]
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert abridged(list("abcdefgh")) == "a, b, c, d, e, f and 2 more"
