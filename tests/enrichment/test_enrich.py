"""Written columns from the file to the table: paid once, whatever is killed; counted; read by models of text."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from benchmark.enrichment.cache import TextCache
from benchmark.errors import InputError
from benchmark.experiment import Experiment, load_all
from benchmark.runs.record import RunStore
from benchmark.runs.run import prepare, run
from tests.enrichment.server import Server, completion
from tests.test_cli import levelfield

PRICE = {"input": 1000.0, "output": 2000.0}
MODELS = """\
models:
  title: {class: baselines.tfidf.TfIdf, item_fields: [title]}
  both: {class: baselines.tfidf.TfIdf, item_fields: [title, description]}
seeds: [0]
"""


@pytest.fixture
def file(tiny_experiment: Path) -> Callable[..., Path]:
    """Write the small experiment with an `enrich:` block and two rows of a text model."""

    def written(**enrich: Any) -> Path:
        text = tiny_experiment.read_text(encoding="utf-8").partition("models:")[0]
        block = f"  enrich: {json.dumps(enrich)}\ntask:"
        path = tiny_experiment.with_name("enriched.yaml")
        path.write_text(text.replace("task:", block) + MODELS, encoding="utf-8")
        return path

    return written


def described(server: Server, **settings: Any) -> dict[str, Any]:
    return {"prompt": "Describe {title}.", "model": "loud", "endpoint": server.url, "retries": 0, **settings}


def test_columns_of_items_and_users_are_written_and_counted(
    server: Server, file: Callable[..., Path], tmp_path: Path
) -> None:
    taste = described(server, of="users", prompt="Liked {history}; say {{it}}.", history=2)
    loud = described(server, prompt="Shout: {description}")
    path = file(description=described(server, price=PRICE), taste=taste, louder=loud)
    data = prepare(Experiment.load(path), tmp_path / "runs")
    plain = prepare(Experiment.load(path, ["dataset.enrich={}"]), tmp_path / "runs")
    items, users = data.split.items, data.split.users
    assert items["description"].to_list() == [f"DESCRIBE {title.upper()}." for title in items["title"]]
    assert items["louder"].to_list() == [f"SHOUT: {text}" for text in items["description"]]
    train, titles = data.split.train, items["title"].to_list()
    for u, text in enumerate(users["taste"]):
        newest = [titles[i] for i in train.item[train.offsets[u] : train.offsets[u + 1]][-2:]]
        assert text == (f"LIKED {'; '.join(newest)}; SAY {{IT}}.".upper() if newest else None)
    assert set(server.asked.values()) == {1}
    # everything else is as it would be without
    assert items.drop("description", "louder").equals(plain.split.items)
    assert data.split_fingerprint == plain.split_fingerprint
    assert data.fingerprint != plain.fingerprint == plain.dataset.fingerprint()
    notes = [step.note for step in data.dataset.steps[-3:]]
    words = sum(len(f"Describe {title}.".split()) for title in titles)
    cost = (words * 1000 + 2 * words * 2000) / 1e6
    spent = f"{words:,} tokens in, {2 * words:,} out, cost {cost:.6g}"
    assert notes[0] == f"40 texts by loud, {spent}; of these now: 40, {spent}"
    assert [step.name for step in data.dataset.steps[-3:]] == ["enrich description", "enrich taste", "enrich louder"]
    assert "cost" not in notes[1]

    asked = len(server.requests)
    server.stop()  # nobody is asked a second time
    again = prepare(Experiment.load(path), tmp_path / "runs")
    assert again.fingerprint == data.fingerprint
    assert again.dataset.steps[-3].note == f"40 texts by loud, {spent}; of these now: 0"
    assert len(server.requests) == asked


def test_other_texts_are_other_data_and_other_settings_other_texts(
    server: Server, file: Callable[..., Path], tmp_path: Path
) -> None:
    def fingerprint(**settings: Any) -> str:
        path = file(description=described(server, **settings))
        return prepare(Experiment.load(path), tmp_path / "runs").fingerprint

    first = fingerprint()
    assert len(server.requests) == 40
    assert fingerprint(price=PRICE, concurrency=1) == first  # what is paid decides no text
    assert len(server.requests) == 40
    assert fingerprint(seed=1) == first  # asked for anew, and the same was written
    assert len(server.requests) == 80
    assert fingerprint(prompt="What is {title}?") != first
    specs = [
        Experiment.load(file(description=described(server, **settings))).specs()[0].resolved()
        for settings in ({}, {"price": PRICE, "concurrency": 2, "retries": 1}, {"seed": 1})
    ]
    assert specs[0] == specs[1] != specs[2]


def test_an_endpoint_that_goes_down_says_what_is_kept_and_the_same_command_goes_on(
    server: Server, file: Callable[..., Path], tmp_path: Path
) -> None:
    path = file(description=described(server, concurrency=2, price=PRICE))
    folders = ["--runs", tmp_path / "runs", "--results", tmp_path / "results"]
    server.behave = lambda number: 500 if number >= 15 else None
    failed = levelfield("prepare", path, *folders[:2])
    assert failed.returncode == 2
    assert failed.stderr.startswith("levelfield: dataset.enrich.description: endpoint http://127.0.0.1:")
    assert failed.stderr.endswith("; 15 of 40 texts are kept, and the same command goes on from there\n")
    assert failed.stderr.count("\n") == 1
    for command in (["run", path, "--dry-run", *folders], ["table", path, *folders], ["status", path, *folders[:2]]):
        done = levelfield(*command)  # none of these pays
        assert done.returncode == 2
        assert done.stderr == (
            "levelfield: dataset.enrich: texts are still to be written (description 25), and this command writes none: "
            "levelfield prepare and levelfield run do\n"
        )
    server.behave = lambda number: None
    asked = len(server.requests)
    done = levelfield("prepare", path, *folders[:2])
    assert done.returncode == 0, done.stderr
    assert "of these now: 25, " in done.stdout.replace("\n", " ")
    assert len(server.requests) == asked + 25
    assert set(server.answered.values()) == {1}
    assert levelfield("run", path, "--dry-run", *folders).returncode == 0


def prepared(path: str, runs: str) -> None:
    """What a process of the tests does: it has the texts written, and leaves the data's fingerprint behind."""
    data = prepare(Experiment.load(path), runs)
    Path(runs, f"{os.getpid()}.fingerprint").write_text(data.fingerprint, encoding="utf-8")


@pytest.fixture
def start(tmp_path: Path) -> Callable[[Path], Any]:
    """Starts processes from one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmark.runs.run", "openai"])

    def start(path: Path) -> Any:
        process = context.Process(target=prepared, args=(str(path), str(tmp_path / "runs")))
        process.start()
        return process

    return start


def test_a_killed_process_goes_on_and_no_answer_is_asked_for_twice(
    server: Server, file: Callable[..., Path], start: Callable[[Path], Any], tmp_path: Path
) -> None:
    """Killed twice by SIGKILL while requests are under way; those alone are sent again."""
    path, folder = file(description=described(server, concurrency=3)), tmp_path / "runs"
    under_way = 0
    for wanted in (9, 21):
        limit = wanted + under_way
        server.behave = lambda number, limit=limit: "hold" if number >= limit else None  # type: ignore[misc]
        process = start(path)
        deadline = time.monotonic() + 120
        while _kept(folder) < wanted or server.at_once < 3:
            assert process.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        under_way += 3
        server.release()
    server.behave = lambda number: None
    process = start(path)
    process.join(120)
    assert process.exitcode == 0
    assert _kept(folder) == 40
    assert set(server.answered.values()) == {1}
    assert sum(server.asked.values()) == 40 + under_way


def _kept(folder: Path) -> int:
    """Return how many answers are kept, looked at from outside."""
    path = TextCache(folder / "texts").path
    if not path.exists():
        return 0
    with closing(sqlite3.connect(path, timeout=10)) as database:
        try:
            return int(database.execute("SELECT count(*) FROM answers").fetchone()[0])
        except sqlite3.OperationalError:  # the table is not there yet
            return 0


def test_two_processes_pay_once(
    server: Server, file: Callable[..., Path], start: Callable[[Path], Any], tmp_path: Path
) -> None:
    server.slowness = 0.02
    path = file(description=described(server))
    pair = [start(path), start(path)]
    for process in pair:
        process.join(120)
        assert process.exitcode == 0
    found = [path.read_text(encoding="utf-8") for path in (tmp_path / "runs").glob("*.fingerprint")]
    assert len(found) == 2
    assert found[0] == found[1]
    assert set(server.asked.values()) == {1}


def test_models_of_text_read_the_column_and_records_say_what_it_cost(
    server: Server, file: Callable[..., Path], tmp_path: Path
) -> None:
    experiment = Experiment.load(file(description=described(server, price=PRICE)))
    records = {record.label: record for record in run(experiment, tmp_path / "runs")}
    assert {record.status for record in records.values()} == {"finished"}
    step = records["both"].data_steps[-1]
    assert step["name"] == "enrich description"
    assert "40 texts by loud" in step["note"]
    assert "cost 0." in step["note"]
    store = RunStore(tmp_path / "runs")
    tops = [pl.read_parquet(store.folder(records[label].key) / "top.parquet") for label in ("title", "both")]
    assert not tops[0].equals(tops[1])


def test_a_local_model_describes(stories: str, file: Callable[..., Path], tmp_path: Path) -> None:
    path = file(description={"prompt": "{title} is", "model": stories, "max_tokens": 3})
    data = prepare(Experiment.load(path), tmp_path / "runs")
    assert data.split.items["description"].null_count() < 5
    assert f"40 texts by {stories}, " in data.dataset.steps[-1].note
    assert str(Path(os.environ["LEVELFIELD_SHARED"])) not in json.dumps(Experiment.load(path).specs()[0].resolved())
    assert prepare(Experiment.load(path), tmp_path / "runs", write=False).fingerprint == data.fingerprint


def test_a_rewritten_column_is_a_variant(file: Callable[..., Path], tmp_path: Path) -> None:
    words = tmp_path / "words.json"
    words.write_text('{"car": ["auto"], "boat": ["ship"]}', encoding="utf-8")
    other = {
        "rewrite": "benchmark.enrichment.rewrites.synonyms",
        "field": "title",
        "arguments": {"file": str(words), "share": 1.0},
    }
    data = prepare(Experiment.load(file(other=other)), tmp_path / "runs")
    pairs = zip(data.split.items["title"], data.split.items["other"], strict=True)
    assert all(new == old.replace("car", "auto").replace("boat", "ship") for old, new in pairs)
    note = "40 texts by benchmark.enrichment.rewrites.synonyms; of these now: 40"
    assert data.dataset.steps[-1].note == note


@pytest.mark.parametrize(
    ("enrich", "said"),
    [
        ({"prompt": "{titel}"}, "dataset.enrich.new.prompt: unknown item field 'titel'; did you mean 'title'?"),
        ({"prompt": "{title}", "model": "./no"}, "dataset.enrich.new: backbone './no': there is no such folder"),
    ],
)
def test_what_the_data_lacks_is_said_before_anything_is_paid(
    server: Server, file: Callable[..., Path], tmp_path: Path, enrich: dict[str, Any], said: str
) -> None:
    path = file(first=described(server), new={"model": "m", **enrich})
    with pytest.raises(InputError) as caught:
        prepare(Experiment.load(path), tmp_path / "runs")
    assert str(caught.value).startswith(said)
    assert not server.requests
    with pytest.raises(InputError, match=r"dataset.enrich.title: the table of items has such a column"):
        prepare(Experiment.load(file(title=described(server))), tmp_path / "runs")


def test_empty_and_cut_texts_are_counted(server: Server, file: Callable[..., Path], tmp_path: Path) -> None:
    def body(prompt: str) -> dict[str, Any]:
        number = server.asked.total()
        return completion(prompt, "" if number <= 3 else None, "length" if number in (3, 4) else "stop")

    server.body = body
    path = file(description=described(server, concurrency=1))
    for now in ("; of these now: 40, ", "; of these now: 0; "):
        done = levelfield("prepare", path, "--runs", tmp_path / "runs")
        assert done.returncode == 0, done.stderr
        told = " ".join(done.stdout.split())
        note = prepare(Experiment.load(path), tmp_path / "runs").dataset.steps[-1].note
        assert note.endswith("; empty: 3; cut off at max_tokens 64: 2")
        if "40" in now:
            assert "; empty: 3; cut off at max_tokens 64: 2" in told
            assert now in told
    assert len(server.requests) == 40


def test_a_column_without_any_text_is_refused_and_not_asked_for_again(
    server: Server, file: Callable[..., Path], tmp_path: Path
) -> None:
    server.body = lambda prompt: completion(prompt, "", "length")
    path = file(description=described(server))
    for _ in range(2):
        done = levelfield("prepare", path, "--runs", tmp_path / "runs")
        assert done.returncode == 2
        assert done.stderr == (
            "levelfield: dataset.enrich.description: all 40 texts by loud are empty (cut off at max_tokens 64: 40), "
            "expected some words; they are kept, and another max_tokens, prompt or seed asks anew\n"
        )
    assert len(server.requests) == 40
    server.body = completion
    prepare(Experiment.load(path, ["dataset.enrich.description.max_tokens=null"]), tmp_path / "runs")
    assert len(server.requests) == 80


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (
            {"rewrite": "benchmark.enrichment.rewrites.back_translation", "arguments": {"models": ["one"]}},
            "back_translation: models: found 1, expected two: there, and back",
        ),
        (
            {"rewrite": "benchmark.enrichment.rewrites.back_translation", "arguments": {"models": ["./no", "./nope"]}},
            "backbone './no': there is no such folder",
        ),
        (
            {"rewrite": "benchmark.enrichment.rewrites.synonyms", "arguments": {"file": "nowhere.json"}},
            "synonyms: nowhere.json: cannot be read",
        ),
        ({"rewrite": "benchmark.enrichment.rewrites.nothing"}, "has no function 'nothing'"),
        ({"prompt": "{first}", "model": "./no"}, "backbone './no': there is no such folder"),
        ({"prompt": "{first}", "model": "$NOWHERE_AT_ALL/m"}, "the environment variable NOWHERE_AT_ALL is not set"),
    ],
)
def test_a_broken_second_column_is_said_before_the_first_is_paid(
    server: Server, file: Callable[..., Path], tmp_path: Path, second: dict[str, Any], said: str
) -> None:
    if "rewrite" in second:
        second["field"] = "first"
    path = file(first=described(server), second=second)
    with pytest.raises(InputError, match=r"^dataset.enrich.second: ") as caught:
        prepare(Experiment.load(path), tmp_path / "runs")
    assert said in str(caught.value)
    assert not server.requests


@pytest.mark.parametrize(
    ("enrich", "said"),
    [
        ({"prompt": "{title}"}, "model: required beside prompt"),
        ({"model": "m"}, "expected prompt (with a model) or rewrite (with a field); neither is given"),
        ({"prompt": "{title}", "model": "m", "rewrite": "a.b"}, "both are given"),
        ({"rewrite": "a.b"}, "field: required beside rewrite"),
        ({"rewrite": "a.b", "field": "title", "model": "m"}, "go with prompt, not with rewrite"),
        ({"prompt": "{title}", "model": "m", "field": "title"}, "go with rewrite, not with prompt"),
        ({"prompt": "{title}", "model": "m", "price": {"input": 1}}, "price and parameters go with an endpoint"),
        ({"prompt": "{title", "model": "m"}, "prompt: expected '}' before end of string"),
        ({"prompt": "{title}", "model": "m", "endpoint": "http://me:pw@x/v1"}, "endpoint: holds a name or password"),
        ({"prompt": "a film", "model": "m"}, "prompt: names no {field}"),
        ({"prompt": "{title}", "modle": "m"}, "dataset.enrich.new: unknown key 'modle'; did you mean 'model'?"),
        ({"prompt": "{title}", "model": "m", "max_tokens": 0}, "dataset.enrich.new.max_tokens: should be greater"),
        ({"prompt": "{title}", "model": "m", "max_tokens": None}, "max_tokens: null goes with an endpoint"),
    ],
)
def test_a_block_that_cannot_be_is_one_line(file: Callable[..., Path], enrich: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        Experiment.load(file(new=enrich))
    assert said in str(caught.value)
    assert "enriched.yaml:6: dataset.enrich.new" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_wrong_with_a_model_is_said_before_a_text_is_paid_for(
    server: Server, file: Callable[..., Path], tmp_path: Path
) -> None:
    path = file(description=described(server))
    wrong = "  wrong: {class: baselines.ease.EASE, l3: 1}\nseeds:"
    path.write_text(path.read_text(encoding="utf-8").replace("seeds:", wrong))
    with pytest.raises(InputError, match="unknown key 'l3'; did you mean 'l2'"):
        prepare(Experiment.load(path), tmp_path / "runs")
    assert not server.requests


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("split: {kind: temporal, valid: 0.2, test: 0.2}", "split: {kind: prequential}"),
        ("task:\n", "task:\n  domain: boats\n"),
    ],
)
def test_histories_that_differ_from_table_to_table_are_refused(
    before: str, after: str, server: Server, file: Callable[..., Path]
) -> None:
    path = file(taste=described(server, of="users", prompt="Liked {history}."))
    path.write_text(path.read_text(encoding="utf-8").replace(before, after))
    with pytest.raises(InputError, match=r"dataset.enrich.taste: \{history\} is another one"):
        load_all(path)
