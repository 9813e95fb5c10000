"""collm, tallrec-movie, llara-lastfm: made-up files of the same layout, their known rows, ties and faults."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from benchmark.data.batch import BatchSpec
from benchmark.data.datamodule import RecDataModule
from benchmark.data.schema import Dataset, SplitData
from benchmark.data.sources import CoLLM, LLaRALastFM, TALLRecMovie
from benchmark.data.split import Predefined, Temporal, split
from benchmark.data.task import Task
from benchmark.errors import InputError

FILMS = "item_id,title,genres\n" + "".join(f'{i},"Film {i}, The (19{i})",Drama|War\n' for i in range(10, 30))
COLLM = {
    "train": ["1,11,1,100,0,0", "1,12,0,100,0,1", "1,13,1,200,0,2", "2,11,0,150,0,5"],
    "valid": ["1,14,1,300,1,3", "2,12,1,301,1,6"],
    "test": ["1,15,0,400,1,4", "2,13,1,400,1,7", "3,11,1,400,0,8"],
}
TALLREC = {
    "train": ["1,13,1,100,10 11 12,1 0 1", "1,14,0,100,11 12 13,0 1 1"],
    "valid": ["2,13,0,300,10 11 12,1 1 1", "2,14,1,300,11 12 13,1 1 0"],
    "test": ["2,15,0,300,12 13 14,1 0 1", "3,11,1,500,12 13 14,0 0 0"],
}
LLARA = {
    "train": [(0, [], 11), (0, [11], 12), (0, [11, 12], 13), (1, [], 12), (1, [12], 14)],
    "valid": [(2, [11, 12, 13], 14)],
    "test": [(3, [14, 13], 12), (4, [], 11)],
}


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LEVELFIELD_DATA", raising=False)
    for name in ("collm-ml-1m", "tallrec-movie", "llara-lastfm"):
        Path("data", name).mkdir(parents=True)
    for name in ("collm-ml-1m", "tallrec-movie"):
        Path("data", name, "items.csv").write_text(FILMS)
    Path("data/llara-lastfm/items.csv").write_text(
        "item_id,artist\n" + "".join(f"{i},Band {i}\n" for i in range(10, 20))
    )
    for part in ("train", "valid", "test"):
        write_collm(part, COLLM[part])
        write_tallrec(part, TALLREC[part])
        write_llara(part, LLARA[part])


def write_collm(part: str, lines: list[str]) -> None:
    head = "user_id,item_id,label,timestamp,not_cold,row_id"
    with gzip.open(f"data/collm-ml-1m/{part}.csv.gz", "wt") as file:
        file.write("\n".join([head, *lines]) + "\n")


def write_tallrec(part: str, lines: list[str]) -> None:
    head = "user_id,item_id,label,timestamp,history_item_ids,history_labels"
    Path(f"data/tallrec-movie/{part}.csv").write_text("\n".join([head, *lines]) + "\n")


def write_llara(part: str, rows: list[tuple[int, list[int], int]]) -> None:
    with gzip.open(f"data/llara-lastfm/{part}.jsonl.gz", "wt") as file:
        for user, history, target in rows:
            file.write(json.dumps({"user_id": user, "history": history, "target": target}) + "\n")


def histories(data: SplitData, part: str, **task: object) -> dict[tuple[str, str], list[tuple[str, float]]]:
    """Return, by raw user and target, the (item, label) of the history of each judged row, oldest first."""
    protocol = Task.model_validate(
        {
            "kind": "preference",
            "split": {"kind": "predefined"},
            "positive_rating": 1,
            "history": "before_target",
            **task,
        }
    )
    rows = RecDataModule(data, protocol, BatchSpec("pointwise", max_history=10)).rows(part)  # type: ignore[arg-type]
    batch = rows[rows.all]
    users, items = data.users["user_id"].to_list(), data.items["item_id"].to_list()
    assert batch.history is not None
    assert batch.history_label is not None
    assert batch.history_length is not None
    assert batch.candidates is not None
    out = {}
    for row in range(len(batch)):
        n = int(batch.history_length[row])
        shown = zip(batch.history[row, :n].tolist(), batch.history_label[row, :n].tolist(), strict=True)
        target = users[int(batch.user[row])], items[int(batch.candidates[row, 0])]
        out[target] = [(items[item], label) for item, label in shown]
    return out


def parts(data: Dataset) -> SplitData:
    return split(data, Predefined())


def test_collm_as_published_and_strictly_before() -> None:
    strict, published = (parts(CoLLM.model_validate({"ties": ties}).load()) for ties in ("strict", "published"))
    assert [len(strict.train), len(strict.valid), len(strict.test)] == [4, 2, 3]
    for data in (strict, published):
        assert histories(data, "test")["1", "15"] == [("11", 1), ("12", 0), ("13", 1), ("14", 1)]
        assert histories(data, "test", history_holds="likes")["1", "15"] == [("11", 1), ("13", 1), ("14", 1)]
        assert histories(data, "test")["3", "11"] == []
    # at training, too, nothing of the target's second is seen, unless the files put it before the target
    for data, seen in ((strict, 0), (published, 1)):
        task = Task.model_validate({"kind": "preference", "split": {"kind": "predefined"}, "positive_rating": 1})
        rows = RecDataModule(data, task, BatchSpec("pointwise", max_history=5)).train_rows
        batch = rows[rows.all]
        twelve = data.items["item_id"].to_list().index("12")
        assert batch.item is not None
        assert batch.history_length is not None
        assert batch.history_length[batch.item == twelve].tolist() == [seen]


def test_the_source_says_how_many_rows_share_their_second_with_earlier_ones() -> None:
    assert CoLLM(ties="published").load().steps[0].note.startswith("1 rows have earlier ones of their very second")
    assert TALLRecMovie(ties="published").load().steps[0].note.startswith("3 rows")
    assert CoLLM().load().steps[0].note == ""


def test_of_histories_of_likes_training_sees_likes_alone() -> None:
    data = parts(CoLLM().load())
    task = Task.model_validate(
        {"kind": "preference", "split": {"kind": "predefined"}, "positive_rating": 1, "history_holds": "likes"}
    )
    rows = RecDataModule(data, task, BatchSpec("pointwise", max_history=5)).train_rows
    batch = rows[rows.all]
    items = data.items["item_id"].to_list()
    assert batch.item is not None
    assert batch.history is not None
    assert batch.history_length is not None
    row = int((batch.item == items.index("13")).nonzero())  # behind 11 (liked) and 12 (disliked), both of second 100
    assert batch.history_length[row] == 1
    assert items[int(batch.history[row, 0])] == "11"


def test_tallrec_what_stands_before_the_first_row_is_history_and_nothing_else() -> None:
    data = parts(TALLRecMovie(ties="published").load())
    assert [len(data.train), len(data.valid), len(data.test)] == [2, 2, 2]
    assert data.report["n_known"] == 9
    assert data.train_known is not None
    assert len(data.train_known) == 11
    found = histories(data, "valid") | histories(data, "test")
    for part in ("valid", "test"):
        for line in TALLREC[part]:
            user, item, _, _, ids, labels = line.split(",")
            said = [(i, float(label)) for i, label in zip(ids.split(), labels.split(), strict=True)]
            assert found[user, item][-3:] == said
    strict = histories(parts(TALLRecMovie().load()), "test")
    assert strict["2", "15"] == [("10", 1), ("11", 1), ("12", 1)]  # 13 and 14 are of its second


def test_llara_judges_the_last_artist_of_other_users() -> None:
    dataset = LLaRALastFM().load()
    data = parts(dataset)
    assert [len(data.train), len(data.valid), len(data.test)] == [5, 1, 2]
    assert data.report["n_known"] == 5
    assert "test_older_than_train" not in data.report  # places in a sequence are no times
    rows = RecDataModule(data, Task(split=Predefined()), BatchSpec("pointwise", max_history=10)).rows("test")
    batch = rows[rows.all]
    items, users = data.items["item_id"].to_list(), data.users["user_id"].to_list()
    assert batch.history is not None
    assert batch.history_length is not None
    shown = {
        users[int(u)]: [items[i] for i in h[:n]]
        for u, h, n in zip(batch.user, batch.history.tolist(), batch.history_length.tolist(), strict=True)
    }
    assert shown == {"3": ["14", "13"], "4": []}
    with pytest.raises(InputError, match="knows each user's order but no time, which the split temporal needs"):
        split(dataset, Temporal())


@pytest.mark.parametrize(
    ("source", "write", "part", "rows", "expected"),
    [
        (CoLLM, write_collm, "valid", ["1,14,2,300,1,3"], "line 2, column 'label': found 2.0, expected 0 or 1"),
        (CoLLM, write_collm, "test", ["1,14,1,300,1,x"], "line 2, column 'row_id': found 'x', expected a"),
        (
            TALLRecMovie, write_tallrec, "test", ["3,11,1,500,12 13 14,0 0"],
            "test.csv: line 2, column 'history_labels': found '0 0', expected a 0 or 1 for each item",
        ),
        (
            TALLRecMovie, write_tallrec, "train", ["1,13,1,100,10 11 12,1 0 1", "1,14,0,100,11 12 10,0 1 1"],
            "tallrec-movie: train.csv: the history of user 1 before item 14 is not that of the user's row before it",
        ),
        (
            LLaRALastFM, write_llara, "train", [(0, [], 11), (0, [12], 13)],
            "train.jsonl.gz: line 2, column 'history': found '12', expected the targets before it: 11",
        ),
        (LLaRALastFM, write_llara, "valid", [(2, [11], 14), (2, [], 13)], "line 2, column 'user_id': found '2', exp"),
        (LLaRALastFM, write_llara, "test", [(0, [11], 14)], "user_id: found 0 of train.jsonl.gz, expected other users"),
    ],
)  # fmt: skip
def test_faults_are_named(source: type, write: object, part: str, rows: list[object], expected: str) -> None:
    write(part, rows)  # type: ignore[operator]
    with pytest.raises(InputError) as raised:
        source().load()
    assert expected in str(raised.value)


@pytest.mark.parametrize("source", [CoLLM, TALLRecMovie, LLaRALastFM])
def test_without_the_files_it_says_what_to_get(source: type, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"download .* from https://github.com/.* into"):
        source(folder=tmp_path / "nowhere").load()
