"""The README says nothing that does not work: its commands, its YAML, its Python, its tree."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from benchmark.experiment import Experiment, load_all
from benchmark.sweeps.sweep import spaces
from tests.test_cli import levelfield

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    (levelfield [^#\n]+)", TEXT, re.MULTILINE)


TABLES = re.findall(r"<!-- table: results/(\S+) -->", TEXT)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    words = shlex.split(command)[1:]
    runs = ["--runs", tmp_path / "runs"]
    if words[0] in ("verify", "report"):
        done = levelfield(*words, *runs, "--results", tmp_path / "results")
        assert done.returncode == 2
        expected = "no run of quickstart is stored" if words[0] == "report" else "manifest.json: no such file"
        assert expected in done.stderr
    elif words[0] == "run":
        words += [] if "--dry-run" in words else ["--dry-run"]
        done = levelfield(*words, *runs, "--results", tmp_path / "results")
        assert done.returncode == 0, done.stderr
        assert "to do" in done.stdout
    elif words[0] == "sweep":
        done = levelfield(*words, *([] if "--dry-run" in words else ["--dry-run"]), *runs)
        assert done.returncode == 0, done.stderr
        assert "trials by tpe" in done.stdout
    elif words[0] == "status":
        done = levelfield(*words, *runs)
        assert done.returncode == 0, done.stderr
        assert "time left" in done.stdout
    elif words[0] == "audit":
        done = levelfield(*words, *runs, "--results", tmp_path / "results")
        assert done.returncode == 0, done.stderr
        assert "Audit of quickstart: " in done.stdout
        assert (tmp_path / "results" / "quickstart" / "audit.md").is_file()
    elif words[0] == "recommend":
        done = levelfield(*words, *runs)
        assert done.returncode == 2
        assert "of quickstart is stored under" in done.stderr
    elif words[0] == "prepare":
        done = levelfield(*words, *runs)
        assert done.returncode == 0, done.stderr
        assert "split: temporal" in done.stdout
    else:
        done = levelfield(*words, *runs, "--results", tmp_path / "results")
        assert done.returncode == 2
        assert "no run of quickstart is stored" in done.stderr


def test_the_experiment(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(blocks("yaml")[0])
    assert len(Experiment.load(path).specs()) == 9


@pytest.mark.parametrize("block", [b for b in blocks("yaml") if b.startswith("name: ")], ids=lambda b: b.split()[1])
def test_whole_experiments_load(block: str, tmp_path: Path) -> None:
    path = tmp_path / "whole.yaml"
    path.write_text(block)
    for experiment in load_all(path):
        assert experiment.specs()


def test_the_models_of_recbole(tiny_experiment: Path) -> None:
    text = tiny_experiment.read_text()
    path = tiny_experiment.with_name("zoo.yaml")
    path.write_text(text[: text.index("models:")] + blocks("yaml")[2] + text[text.index("seeds:") :])
    assert len(Experiment.load(path).specs()) == 2 * 5


def test_the_search(tiny_experiment: Path) -> None:
    text = tiny_experiment.read_text()
    path = tiny_experiment.with_name("search.yaml")
    (block,) = (block for block in blocks("yaml") if block.startswith("sweep:"))
    path.write_text(text[: text.index("models:")] + block + text[text.index("seeds:") :])
    found = spaces(Experiment.load(path))
    assert set(found) == {"ease", "minilm"}
    assert found["minilm"].defaults == {
        "learning_rate": 1e-3,
        "peft.kind": "lora",
        "peft.rank": 8,
        "trainer.max_epochs": 3,
    }


def test_the_report_block(tiny_experiment: Path) -> None:
    block, beyond = (block for block in blocks("yaml") if block.startswith("report:"))
    text = tiny_experiment.read_text()
    tiny_experiment.write_text(text.replace("[ndcg@10, auc]", "[ndcg@10, recall@20]") + block)
    experiment = Experiment.load(tiny_experiment)
    assert experiment.specs()
    assert experiment.published[0].values == {"recall@20": 0.391}
    tiny_experiment.write_text(text + beyond)
    assert len(Experiment.load(tiny_experiment).beyond) == 8


def test_the_csv_data_set(tiny_csv: Path, tiny_experiment: Path) -> None:
    old = (tiny_csv / "interactions.csv").read_text()
    (tiny_csv / "ratings.csv").write_text(old.replace("user_id,item_id,rating,timestamp", "uid,iid,stars,when"))
    items = (tiny_csv / "items.csv").read_text().replace("item_id,title", "iid,name")
    (tiny_csv / "items.csv").write_text(items)
    text = tiny_experiment.read_text()
    block = blocks("yaml")[1].replace(": ratings.csv", f": {tiny_csv}/ratings.csv")
    block = block.replace(": items.csv", f": {tiny_csv}/items.csv")
    path = tiny_csv / "mine.yaml"
    path.write_text("name: mine\n" + block + text[text.index("task:") :])
    dataset = load_all(path)[0].dataset.source.load()
    assert dataset.interactions.height == 720
    assert "title" in dataset.items.columns


def test_the_python(tiny_experiment: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tiny_experiment.parent)
    tiny_experiment.rename("mine.yaml")
    exec(blocks("python")[0], {})
    assert "ndcg@10" in capsys.readouterr().out


def test_the_model_in_one_file(tiny_experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmark import run

    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_model.py").write_text(blocks("python")[1])
    experiment = Experiment.load(tiny_experiment, ["seeds=[0]", "models.popularity.class=my_model.Popularity"])
    mine = run(experiment, tmp_path / "runs")[0]
    shipped = run(Experiment.load(tiny_experiment, ["seeds=[0]"]), tmp_path / "runs")[0]
    assert mine.status == "finished", mine.error
    assert mine.metrics == shipped.metrics


def test_the_tree_names_what_is_there() -> None:
    tree = next(block for block in re.findall(r"```\n(.*?)```", TEXT, re.DOTALL) if block.startswith("benchmark/"))
    folder = ROOT
    for line in tree.splitlines():
        name = line.split()[0]
        folder = ROOT / "benchmark" if line.startswith("  ") else ROOT
        assert (folder / name).exists(), name
    for target in re.findall(r"make ([a-z]+)", TEXT):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE) or target in ("and",), target


@pytest.mark.parametrize("name", TABLES)
def test_the_tables_are_those_under_results(name: str) -> None:
    assert len(TABLES) == 6
    file = ROOT / "results" / name
    # a run on this machine may have rewritten the file since: what was committed counts as well
    committed = subprocess.run(["git", "show", f"HEAD:results/{name}"], cwd=ROOT, capture_output=True, text=True)
    versions = [file.read_text(encoding="utf-8").strip(), committed.stdout.strip()]
    assert any(version and version in TEXT for version in versions)


def test_what_is_quoted_of_the_learning_curves_is_what_the_records_gave() -> None:
    quoted = re.findall(r"^> - (.+)$", TEXT, re.MULTILINE)
    assert quoted
    told = (ROOT / "results" / "learning_curve" / "learning_curve.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in quoted if f"- {line}" not in told] == []
