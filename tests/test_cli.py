"""The command line as a person meets it: help, plan, run, table, and what wrong input gets."""

from __future__ import annotations

import io
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmark.cli import main

ROOT = Path(__file__).parents[1]


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


def levelfield(*arguments: object) -> Done:
    """Run the command in this process: importing torch anew for every call would cost most of the time."""
    out, err = io.StringIO(), io.StringIO()
    argv, sys.argv = sys.argv, ["levelfield", *map(str, arguments)]
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        sys.argv = argv
    return Done(code, out.getvalue(), err.getvalue())


def test_the_installed_command() -> None:
    command = [str(Path(sys.executable).with_name("levelfield")), "run", "experiments/quikstart.yaml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        "levelfield: experiments/quikstart.yaml: no such file; did you mean 'experiments/quickstart.yaml'?\n"
    )


@pytest.fixture
def folders(tmp_path: Path) -> list[object]:
    return ["--runs", tmp_path / "runs", "--results", tmp_path / "results"]


def test_prepare_shows_prompts(tiny_experiment: Path, folders: list[object]) -> None:
    assert "no model of this experiment reads prompts" in levelfield(
        "prepare", tiny_experiment, "--show", 2, *folders[:2]
    ).stdout.replace("\n", " ")
    path = tiny_experiment.with_name("llm.yaml")
    text = tiny_experiment.read_text(encoding="utf-8").partition("models:")[0]
    path.write_text(text + "models: {llm: {class: benchmark.llm.pointwise.Pointwise}}\n", encoding="utf-8")
    done = levelfield("prepare", path, "--show", 2, *folders[:2])
    assert "llm, prompt 2: " in done.stdout
    assert "will the user like" in done.stdout.replace("\n", " ")
    assert "prompt 3" not in done.stdout
    wrong = levelfield("prepare", path, "models.llm.prompt.template='{candidat}'", "--show", 1, *folders[:2])
    assert wrong.returncode == 2
    assert "unknown slot 'candidat'; did you mean 'candidate'?" in wrong.stderr


def test_help_names_the_commands_and_how_to_start() -> None:
    text = levelfield("--help").stdout
    for word in ("prepare", "run", "table", "experiments/quickstart.yaml"):
        assert word in text
    assert "--dry-run" in levelfield("run", "--help").stdout


def test_dry_run_shows_the_plan_and_runs_nothing(tiny_experiment: Path, tmp_path: Path, folders: list[object]) -> None:
    done = levelfield("run", tiny_experiment, "--dry-run", *folders)
    assert done.returncode == 0, done.stderr
    for word in ("popularity", "baselines.ease.EASE", "0, 1", "to do", "6 runs: 0 cached or failed, 6 to do"):
        assert word in done.stdout
    assert not list((tmp_path / "runs").glob("*/record.json"))
    assert not (tmp_path / "results").exists()


def test_run_then_again_then_table(tiny_experiment: Path, tmp_path: Path, folders: list[object]) -> None:
    first = levelfield("run", tiny_experiment, *folders)
    assert first.returncode == 0, first.stderr
    table = tmp_path / "results" / "tiny" / "table.md"
    for name in ("table.md", "table.tex", "table.csv", "table.html", "manifest.json"):
        assert (table.parent / name).is_file()
    written = {path.name: path.read_bytes() for path in table.parent.iterdir()}
    assert "popularity" in table.read_text()
    again = levelfield("run", tiny_experiment, *folders)
    assert "all 6 runs are cached" in again.stdout
    rebuilt = levelfield("table", tiny_experiment, *folders)
    assert rebuilt.returncode == 0, rebuilt.stderr
    assert {path.name: path.read_bytes() for path in table.parent.iterdir()} == written, "byte-identical when rebuilt"
    sound = levelfield("verify", tiny_experiment, "--rerun", 1, *folders)
    assert sound.returncode == 0, sound.stdout
    assert "tiny: everything is as it was written" in sound.stdout
    table.write_text(table.read_text() + "\n")
    altered = levelfield("verify", tiny_experiment, *folders)
    assert altered.returncode == 1
    assert "table.md: altered since it was written" in altered.stdout
    pages = []
    for _ in range(2):
        assert levelfield("report", tiny_experiment, *folders).returncode == 0
        pages.append((table.parent / "report.html").read_bytes())
    assert pages[0] == pages[1], "byte-identical when rebuilt"
    override = levelfield("run", tiny_experiment, "models.ease.l2=99", "--dry-run", *folders)
    assert "6 runs: 4 cached or failed, 2 to do" in override.stdout


def test_prepare_shows_what_each_step_dropped(tiny_experiment: Path, tmp_path: Path) -> None:
    done = levelfield("prepare", tiny_experiment, "dataset.filters.min_rating=4", "--runs", tmp_path / "runs")
    assert done.returncode == 0, done.stderr
    assert "min_rating" in done.stdout
    assert "test older than train" in done.stdout


def test_only_some_models_are_run(tiny_experiment: Path, tmp_path: Path, folders: list[object]) -> None:
    done = levelfield("run", tiny_experiment, "--only", "ease", *folders)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "runs").glob("*/record.json"))) == 2
    assert "| mf | not run |" in (tmp_path / "results" / "tiny" / "table.md").read_text()
    wrong = levelfield("run", tiny_experiment, "--only", "eese", *folders)
    assert "--only eese: no such model in the file; did you mean 'ease'?" in one_line(wrong)


def test_a_grid_gets_one_table_and_one_report(tiny_experiment: Path, tmp_path: Path, folders: list[object]) -> None:
    text = tiny_experiment.read_text(encoding="utf-8")
    block = text[text.index("dataset:") : text.index("task:")]
    one = f"{{source: csv, interactions: {tiny_experiment.parent}/interactions.csv"
    sets = f"datasets:\n  all: {one}}}\n  liked: {one}, filters: {{min_rating: 4}}}}\n"
    tiny_experiment.write_text(text.replace(block, sets), encoding="utf-8")
    done = levelfield("run", tiny_experiment, "seeds=[0]", *folders)
    assert done.returncode == 0, done.stderr
    results = tmp_path / "results"
    assert {path.name for path in results.iterdir()} == {"tiny-all", "tiny-liked", "tiny"}
    assert "all<br>NDCG@10" in (results / "tiny" / "table.md").read_text()
    done = levelfield("report", tiny_experiment, "seeds=[0]", *folders)
    assert done.returncode == 0, done.stderr
    assert [path.parent.name for path in results.glob("*/report.html")] == ["tiny"]
    done = levelfield("verify", tiny_experiment, "seeds=[0]", *folders)
    assert done.returncode == 0, done.stdout
    (results / "tiny" / "table.md").write_text("better")
    done = levelfield("verify", tiny_experiment, "seeds=[0]", *folders)
    assert done.returncode == 1
    assert "table.md: altered since it was written" in done.stdout


def one_line(done: Done) -> str:
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_wrong_input_gets_one_line_and_exit_code_2(
    tiny_experiment: Path, tmp_path: Path, folders: list[object]
) -> None:
    assert "no such file" in one_line(levelfield("run", "experiments/quikstart.yaml"))
    assert "unknown key 'seed'" in one_line(levelfield("run", tiny_experiment, "seed=[1]", *folders))
    assert "did you mean 'l2'" in one_line(levelfield("run", tiny_experiment, "models.ease.l22=1", *folders))
    for command in ("table", "report"):
        assert "no run of tiny is stored" in one_line(levelfield(command, tiny_experiment, *folders))
    assert "manifest.json: no such file; first: levelfield table" in one_line(
        levelfield("verify", tiny_experiment, *folders)
    )
    ratings = tmp_path / "interactions.csv"
    good = ratings.read_text()
    faults = {
        "header": (good.replace("timestamp", "time", 1), "timestamp"),
        "nan": (good.replace(",3,", ",nan,", 1), "rating"),
        "infinite": (good.replace(",3,", ",inf,", 1), "rating"),
        "twice": (good.replace("rating", "item_id", 1), "item_id"),
        "word": (good.replace(",3,", ",three,", 1), "three"),
        "empty": (good.splitlines()[0] + "\n", "interactions.csv"),
    }
    for name, (text, expected) in faults.items():
        ratings.write_text(text)
        assert expected in one_line(levelfield("run", tiny_experiment, *folders)), name
    ratings.write_bytes(good.encode().replace(b"u1,", b"u\xe91,", 1))
    assert "UTF-8" in one_line(levelfield("run", tiny_experiment, *folders))
    ratings.write_text(good)
    assert "min_rating" in one_line(levelfield("run", tiny_experiment, "dataset.filters.min_rating=9", *folders))
    parquet = tmp_path / "interactions.parquet"
    parquet.write_bytes(b"PAR1 not a parquet file")
    done = levelfield("run", tiny_experiment, f"dataset.interactions={parquet}", *folders)
    assert "interactions.parquet" in one_line(done)
    done = levelfield(
        "run", tiny_experiment, "task.metrics=[ndcg@100000]", "trainer.early_stopping.monitor=ndcg@100000", *folders
    )
    assert "ndcg@100000" in one_line(done)
    assert not list((tmp_path / "runs").glob("*/record.json"))


def test_a_trained_model_recommends(
    tiny_experiment: Path, folders: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = folders[:2]
    asked = ["--history", "red car 3", "--history", "red cars 5", "-k", 3]
    assert "no run of 'ease' of tiny is stored" in one_line(
        levelfield("recommend", tiny_experiment, "--model", "ease", *asked, *runs)
    )
    assert levelfield("run", tiny_experiment, "seeds=[0]", *folders).returncode == 0
    told = ["recommend", tiny_experiment, "seeds=[0]", "--model", "ease"]
    done = levelfield(*told, *asked, *runs)
    assert done.returncode == 0, done.stderr
    assert "after red car 3; red car 5" in done.stdout
    assert "nearest in words" in done.stdout
    assert "40 items: " in done.stdout
    assert " ms" in done.stdout
    assert "no item is called 'plane'" in one_line(levelfield(*told, "--history", "plane", *runs))
    assert "did you mean 'ease'?" in one_line(levelfield("recommend", tiny_experiment, "--model", "eas", *runs))
    assert "--model: only with an experiment file" in one_line(
        levelfield("recommend", "abcd", "--model", "ease", *runs)
    )
    assert "no such run" in one_line(levelfield("recommend", "abcd", *runs))
    lines = iter(["red car 3", "plane", "? boats", "- red car 3", "new", "red car 4", "quit"])
    monkeypatch.setattr("builtins.input", lambda *_: next(lines))
    talk = levelfield(*told, "-i", *runs)
    assert talk.returncode == 0, talk.stderr
    for text in ("after red car 3", "no item is called 'plane'", "reads no queries", "after red car 4"):
        assert text in talk.stdout


def test_a_failed_run_makes_the_exit_code_1_and_leaves_its_traceback(
    tiny_experiment: Path, tmp_path: Path, folders: list[object]
) -> None:
    done = levelfield("run", tiny_experiment, "models.mf.learning_rate=1e30", *folders)
    assert done.returncode == 1
    assert "failed" in done.stdout
    assert "ValueError" in done.stdout, "infinite scores are no result"
    table = (tmp_path / "results" / "tiny" / "table.md").read_text()
    assert "failed" in table, "a missing cell says why"
    assert list((tmp_path / "runs").glob("*/error.log"))
