"""Drawn candidates: the relevant items among unseen ones, without a hint at which is which."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from benchmark.data.candidates import Candidates, Full, Lists, Sampled, draw, fingerprint
from benchmark.data.seeded import mix


def lists(n_users: int, n_items: int, most: int, seed: int) -> Lists:
    """Return sorted ragged lists of up to ``most`` items a user."""
    chance = mix(seed, np.arange(n_users)[:, None], np.arange(n_items)[None, :])
    lengths = (mix(seed, 1, np.arange(n_users)) % np.uint64(most + 1)).astype(np.int64)
    ranks = chance.argsort(1).argsort(1)
    rows, items = np.nonzero(ranks < lengths[:, None])
    offsets = np.zeros(n_users + 1, np.int64)
    offsets[1:] = np.bincount(rows, minlength=n_users).cumsum()
    return offsets, items


def of(some: Lists, user: int) -> set[int]:
    return set(some[1][some[0][user] : some[0][user + 1]].tolist())


def popularity(n_items: int) -> np.ndarray:
    return (1000 / (1 + np.arange(n_items))).astype(np.int64)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 40),
    n_items=st.integers(5, 60),
    seen=st.integers(0, 60),
    strategy=st.sampled_from(["uniform", "popularity"]),
)
def test_all_relevant_none_seen_no_item_twice(seed: int, n: int, n_items: int, seen: int, strategy: str) -> None:
    n_users = 12
    known, wanted = lists(n_users, n_items, min(seen, n_items), seed), lists(n_users, n_items, 3, seed + 1)
    drawn = draw(
        Sampled.model_validate({"n": n, "strategy": strategy, "seed": seed}),
        known,
        wanted,
        n_items,
        popularity(n_items),
    )
    for user in range(n_users):
        row = drawn[user][drawn[user] >= 0]
        items = set(row.tolist())
        assert len(items) == len(row)
        assert (np.diff(row) > 0).all()
        assert (drawn[user][len(row) :] == -1).all()
        assert of(wanted, user) <= items
        assert not (items - of(wanted, user)) & of(known, user)
        assert len(items - of(wanted, user)) == min(n, n_items - len(of(known, user) | of(wanted, user)))


def test_a_users_draw_does_not_depend_on_the_others() -> None:
    known, wanted = lists(30, 200, 150, 0), lists(30, 200, 2, 1)
    spec = Sampled(n=20)
    drawn = draw(spec, known, wanted, 200, popularity(200))
    for user in (0, 17, 29):
        one = draw(
            spec,
            (np.array([0, len(of(known, user))]), np.array(sorted(of(known, user)), np.int64)),
            (np.array([0, len(of(wanted, user))]), np.array(sorted(of(wanted, user)), np.int64)),
            200,
            popularity(200),
            np.array([user]),
        )
        assert one[0].tolist() == drawn[user][drawn[user] >= 0].tolist()


def test_offsets_may_start_inside_the_items() -> None:
    known, wanted = lists(10, 50, 20, 0), lists(10, 50, 2, 1)
    whole = draw(Sampled(n=5), known, wanted, 50, popularity(50))
    tail = draw(
        Sampled(n=5), (known[0][4:], known[1]), (wanted[0][4:], wanted[1]), 50, popularity(50), np.arange(4, 10)
    )
    assert [row[row >= 0].tolist() for row in tail] == [row[row >= 0].tolist() for row in whole[4:]]


@pytest.mark.parametrize("left", ["many", "few"])
def test_uniform_draws_are_uniform(left: str) -> None:
    n_items, n_users = (200, 4000) if left == "many" else (24, 4000)
    nothing = (np.zeros(n_users + 1, np.int64), np.zeros(0, np.int64))
    drawn = draw(Sampled(n=20), nothing, nothing, n_items, popularity(n_items))
    counts = np.bincount(drawn.ravel(), minlength=n_items)
    expected = n_users * 20 / n_items
    # each count is near a binomial: five standard deviations
    assert abs(counts - expected).max() < 5 * np.sqrt(expected)


def test_popularity_draws_follow_popularity() -> None:
    n_users, n_items = 20_000, 50
    nothing = (np.zeros(n_users + 1, np.int64), np.zeros(0, np.int64))
    drawn = draw(Sampled(n=1, strategy="popularity"), nothing, nothing, n_items, popularity(n_items))
    weight = popularity(n_items) + 1
    expected = n_users * weight / weight.sum()
    counts = np.bincount(drawn.ravel(), minlength=n_items)
    assert (abs(counts - expected) < 5 * np.sqrt(expected) + 1).all()


def test_both_ways_of_drawing_by_popularity_agree() -> None:
    """One user a list: few draws are refused and repeated; nearly all items: exponential keys. Compare by inclusion."""
    n_users, n_items, n = 6000, 12, 5
    nothing = (np.zeros(n_users + 1, np.int64), np.zeros(0, np.int64))
    weight = np.array([40, 20, 10, 5, 5, 5, 3, 3, 3, 2, 2, 2])
    by_refusal = draw(Sampled(n=n, strategy="popularity"), nothing, nothing, n_items, weight - 1)
    seen = (np.arange(n_users + 1) * 3, np.tile([12, 13, 14], n_users))  # 15 items, three seen: 12 left, 7 wanted
    by_keys = draw(Sampled(n=7, strategy="popularity"), seen, nothing, 15, np.append(weight, [1, 1, 1]) - 1)
    rng = np.random.default_rng(0)
    for drawn, size in ((by_refusal, n), (by_keys, 7)):
        keys = rng.exponential(size=(n_users, n_items)) / weight
        reference = np.bincount(keys.argsort(1)[:, :size].ravel(), minlength=n_items) / n_users
        found = np.bincount(drawn[:, :size].ravel(), minlength=n_items)[:n_items] / n_users
        assert abs(found - reference).max() < 0.04


def test_the_seed_changes_the_draw() -> None:
    nothing = (np.zeros(6, np.int64), np.zeros(0, np.int64))
    one, two = (draw(Sampled(n=5, seed=seed), nothing, nothing, 100, popularity(100)) for seed in (0, 1))
    assert fingerprint(one) != fingerprint(two)


def test_no_users_or_nothing_left() -> None:
    nobody = (np.zeros(1, np.int64), np.zeros(0, np.int64))
    assert draw(Sampled(), nobody, nobody, 10, popularity(10)).shape == (0, 0)
    everything = (np.array([0, 10]), np.arange(10))
    one = (np.array([0, 1]), np.array([4]))
    assert draw(Sampled(), everything, one, 10, popularity(10)).tolist() == [[4]]


def test_specifications() -> None:
    assert isinstance(TypeAdapter(Candidates).validate_python({"kind": "full"}), Full)
    assert TypeAdapter(Candidates).validate_python({"kind": "sampled"}) == Sampled(n=99, strategy="uniform", seed=0)
    for bad in ({"kind": "sampled", "n": 0}, {"kind": "full", "n": 3}, {"kind": "sampled", "strategy": "random"}):
        with pytest.raises(ValidationError):
            TypeAdapter(Candidates).validate_python(bad)


PRINT = "from tests.data.test_candidates import made; print(*made())"
GOLDEN = [
    "1c6a74710f796839",
    "3477f2bb0f7ee992",
]


def made() -> list[str]:
    known, wanted = lists(200, 300, 250, 0), lists(200, 300, 3, 1)
    return [
        fingerprint(draw(spec, known, wanted, 300, popularity(300)))[:16]
        for spec in (Sampled(n=50, seed=7), Sampled(n=50, strategy="popularity", seed=7))
    ]


def test_fingerprints_are_pinned() -> None:
    assert made() == GOLDEN


def test_another_process_gives_the_same() -> None:
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", PRINT], cwd=root, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == GOLDEN
