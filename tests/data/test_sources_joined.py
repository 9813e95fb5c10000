"""Source joined: domains keep their rows, ids never meet, and what they do not share is left out or refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from benchmark.data.budget import begun, of_domains
from benchmark.data.eval_rows import ranking_rows
from benchmark.data.schema import DOMAIN, ITEM, ITEM_ID, USER_ID
from benchmark.data.sources.joined import Joined
from benchmark.data.split import LeaveLastOut, split
from benchmark.data.task import Task
from benchmark.errors import InputError
from tests.test_cli import levelfield


def write_domain(folder: Path, name: str, users: int = 12, items: int = 9, text: str = "title", time: bool = True) -> dict[str, str]:  # fmt: skip  # noqa: E501
    """Write a small data set in which user u<k> likes items that follow each other; return its block."""
    rng = np.random.default_rng(len(name))
    rows = [(f"u{u}", f"i{(u + step) % items}", 4, step * 10 + u) for u in range(users) for step in range(6)]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "rating", "timestamp"], orient="row")
    (frame if time else frame.drop("timestamp")).write_csv(folder / f"{name}.csv")
    words = [f"{name} {rng.integers(5)} thing {i}" for i in range(items)]
    pl.DataFrame({"item_id": [f"i{i}" for i in range(items)], text: words}).write_csv(folder / f"{name}-items.csv")
    return {"source": "csv", "interactions": f"{folder}/{name}.csv", "items": f"{folder}/{name}-items.csv"}


def joined(folder: Path, **told: bool) -> Joined:
    return Joined(domains={name: write_domain(folder, name, users=12 if name == "boats" else 8) for name in ("boats", "cars")}, **told)  # type: ignore[arg-type]  # fmt: skip  # noqa: E501


def test_ids_of_two_domains_never_meet(tmp_path: Path) -> None:
    data = joined(tmp_path).load()
    assert data.interactions.height == 12 * 6 + 8 * 6
    assert data.users[USER_ID].to_list()[0] == "boats/u0"
    assert data.items[ITEM_ID].str.split("/").list.first().equals(data.items[DOMAIN], check_names=False)
    assert data.items[DOMAIN].value_counts().sort(DOMAIN)["count"].to_list() == [9, 9]
    assert data.has_time
    assert data.has_rating
    assert data.steps[0].note == "boats 72, cars 48"


def test_shared_users_are_one_person_in_both(tmp_path: Path) -> None:
    data = joined(tmp_path, shared_users=True).load()
    assert data.users[USER_ID].to_list() == sorted(f"u{u}" for u in range(12))
    of_u0 = data.interactions.filter(pl.col("user") == 0)
    assert set(data.items[DOMAIN].gather(of_u0[ITEM])) == {"boats", "cars"}


@pytest.mark.parametrize("shared", [True, False])
def test_of_shared_users_the_history_in_the_other_domain_is_input(tmp_path: Path, shared: bool) -> None:
    blocks = {name: write_domain(tmp_path, name) for name in ("boats", "cars")}
    cars = pl.read_csv(tmp_path / "cars.csv")
    cars.with_columns(timestamp=pl.col("timestamp") + 0.5).write_csv(tmp_path / "cars.csv")  # always after the boat
    data = split(Joined(domains=blocks, shared_users=shared).load(), LeaveLastOut())
    rows = ranking_rows(data, Task(split=LeaveLastOut(), domain="cars"), "test", 50, lambda n: np.arange(n))
    assert len(rows) == 12
    batch = rows[rows.all]
    assert batch.history is not None
    assert batch.history_length is not None
    names = data.items[DOMAIN]
    for history, n in zip(batch.history, batch.history_length.tolist(), strict=True):
        read = names.gather(history[:n].numpy()).to_list()
        # the sixth car is asked for
        assert read == (["boats", "cars"] * 5 + ["boats"] if shared else ["cars"] * 5)


def test_how_many_users_are_shared_is_said_and_none_is_refused(tmp_path: Path) -> None:
    source = joined(tmp_path, shared_users=True)
    assert source.load().steps[0].note == "boats 72, cars 48; 8 of 12 users are in more than one domain"
    cars = pl.read_csv(tmp_path / "cars.csv")
    cars.with_columns(user_id="c" + pl.col("user_id")).write_csv(tmp_path / "cars.csv")
    with pytest.raises(InputError) as caught:
        source.load()
    assert str(caught.value) == (
        "dataset joined: shared_users: no user is in more than one domain (boats has ids such as u0, cars such as "
        "cu0); expected the same id for the same person, or leave shared_users out"
    )
    assert len(Joined(domains=source.domains).load().users) == 20


def test_shared_users_are_told_by_what_they_did(tmp_path: Path) -> None:
    """A table of users may name people of whom a domain has no interaction."""
    blocks = {name: write_domain(tmp_path, name, users=8) for name in ("boats", "cars")}
    cars = pl.read_csv(tmp_path / "cars.csv")
    cars.with_columns(user_id="c" + pl.col("user_id")).write_csv(tmp_path / "cars.csv")
    pl.DataFrame({"user_id": ["u0", *(f"cu{u}" for u in range(8))]}).write_csv(tmp_path / "people.csv")
    blocks["cars"]["users"] = f"{tmp_path}/people.csv"
    with pytest.raises(InputError, match="no user is in more than one domain"):
        Joined(domains=blocks, shared_users=True).load()


def test_ids_that_are_numbers_in_one_domain_and_words_in_another(tmp_path: Path) -> None:
    blocks = {name: write_domain(tmp_path, name) for name in ("boats", "cars")}
    cars = pl.read_csv(tmp_path / "cars.csv")
    cars.with_columns(pl.col("user_id").str.slice(1).cast(int)).write_parquet(tmp_path / "cars.parquet")
    blocks["cars"]["interactions"] = f"{tmp_path}/cars.parquet"
    with pytest.raises(InputError, match=r"boats has ids such as u0, cars such as 0\)"):
        Joined(domains=blocks, shared_users=True).load()


def test_times_are_kept_where_every_domain_has_them(tmp_path: Path) -> None:
    blocks = {"boats": write_domain(tmp_path, "boats"), "cars": write_domain(tmp_path, "cars", time=False)}
    assert not Joined(domains=blocks).load().has_time


def test_domains_without_a_text_field_in_common_are_refused(tmp_path: Path) -> None:
    blocks = {"boats": write_domain(tmp_path, "boats"), "cars": write_domain(tmp_path, "cars", text="name")}
    with pytest.raises(InputError, match=r"no text field in common \(boats: title; cars: name\)"):
        Joined(domains=blocks).load()


def test_a_domain_is_a_source(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="at least 2"):
        Joined(domains={"boats": write_domain(tmp_path, "boats")})
    block = write_domain(tmp_path, "boats")
    with pytest.raises(ValidationError, match="cars: unknown key 'userz'; did you mean 'users'"):
        Joined(domains={"boats": block, "cars": {**block, "userz": 1}})
    with pytest.raises(ValidationError, match="cars: unknown source 'cvs'; did you mean 'csv'"):
        Joined(domains={"boats": block, "cars": "cvs"})
    with pytest.raises(ValidationError, match="no '/'"):
        Joined(domains={"boats": block, "a/b": block})


def test_a_judged_domain_is_ranked_alone_and_models_score_all(tmp_path: Path) -> None:
    data = split(joined(tmp_path).load(), LeaveLastOut())
    rows = ranking_rows(data, Task(split=LeaveLastOut(), domain="cars"), "test", 5, lambda n: np.arange(n))
    cars = np.flatnonzero(data.of_domains(["cars"]))
    batch = rows[rows.all]
    assert batch.pool is not None
    assert batch.relevant is not None
    assert batch.excluded is not None
    assert batch.pool.tolist() == cars.tolist()
    assert set(data.users[USER_ID].gather(batch.user.numpy()).str.head(4)) == {"cars"}
    items = batch.ranked_items()
    assert items is not None
    own = items.gather(1, batch.relevant.values.unsqueeze(1)).squeeze(1)  # one test item a user
    assert own.tolist() == [int(data.test.item[data.test.offsets[u]]) for u in batch.user.tolist()]
    seen = {int(cars[c]) for c in batch.excluded.values[: batch.excluded.offsets[1]].tolist()}
    user = int(batch.user[0])
    known = [*data.train.item[data.train.offsets[user] : data.train.offsets[user + 1]], data.valid.item[data.valid.offsets[user]]]  # fmt: skip  # noqa: E501
    assert seen == set(map(int, known))


def test_budgets_of_domains_are_of_their_own_rows_and_nested(tmp_path: Path) -> None:
    data, task = split(joined(tmp_path).load(), LeaveLastOut()), Task(split=LeaveLastOut(), domain="cars")
    few, more = (data.train.take(of_domains(data, task, {"cars": n, "boats": None}, seed=0)) for n in (5, 11))
    of_cars = data.of_domains(["cars"])
    assert [int(of_cars[rows.item].sum()) for rows in (few, more)] == [5, 11]
    assert int((~of_cars[few.item]).sum()) == int((~of_cars[data.train.item]).sum())

    def pairs(rows: object) -> set[tuple[int, int]]:
        return set(zip(rows.user.tolist(), rows.item.tolist(), strict=True))  # type: ignore[attr-defined]

    assert pairs(few) < pairs(more) < pairs(data.train)
    nothing = begun(data, of_domains(data, task, {}, seed=0), of_domains(data, task, {"boats": 4}, seed=0))
    assert len(nothing.train) == 0
    assert len(nothing.catalogue().train) == 4, "what the weights know"
    assert len(nothing.complete_train) == len(data.train), "what a user did besides is input"
    with pytest.raises(InputError, match="unknown domain 'car'; did you mean 'cars'"):
        of_domains(data, task, {"car": None}, seed=0)


def test_levelfield_prepare_says_how_many_users_are_shared(tmp_path: Path) -> None:
    source = json.loads(joined(tmp_path, shared_users=True).model_dump_json())
    text = {"name": "shared", "dataset": source, "models": {"popular": {"class": "baselines.popularity.Popularity"}}}
    (tmp_path / "shared.yaml").write_text(json.dumps(text), encoding="utf-8")
    done = levelfield("prepare", tmp_path / "shared.yaml", "--runs", tmp_path / "runs")
    assert done.returncode == 0, done.stderr
    assert "8 of 12 users are in more than one domain" in " ".join(done.stdout.split())
