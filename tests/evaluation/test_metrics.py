"""The metrics equal those of ranx, RecBole and scikit-learn; ties never help; the laws they obey.

torchmetrics' retrieval metrics are no reference here: they treat items with a score <= 0 as not retrieved.
"""

from __future__ import annotations

import itertools
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from torchmetrics.functional.classification import binary_calibration_error

from benchmark.errors import InputError
from benchmark.evaluation import metrics as M
from benchmark.evaluation.ranks import rank_relevant

KS = (1, 3, 10, 50)
WITH_K = ("recall", "precision", "hit", "map", "ndcg", "mrr")


def user_ranks(scores: np.ndarray, relevant: np.ndarray) -> M.UserRanks:
    """Return the ranks of (U, N) scores and a (U, N) 0/1 relevance."""
    offsets = np.concatenate([[0], relevant.sum(1).cumsum()]).astype(np.int64)
    columns = torch.from_numpy(np.nonzero(relevant)[1])
    counts = rank_relevant(torch.from_numpy(scores), torch.from_numpy(offsets), columns)
    return M.UserRanks(counts.above.numpy(), counts.ties.numpy(), offsets, counts.n_candidates.numpy())


def value(name: str, ranks: M.UserRanks) -> np.ndarray:
    return M.ranking_metric(M.parse_metric(name), ranks)


def random_case(seed: int, n_users: int = 30, n_items: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Return tie-free scores of both signs and relevance with 1 to 15 relevant items a user; 50 exceeds the list."""
    rng = np.random.default_rng(seed)
    scores = rng.permuted(np.tile(np.arange(n_items) - n_items / 2.0, (n_users, 1)), axis=1).astype(np.float32)
    place = rng.permuted(np.tile(np.arange(n_items), (n_users, 1)), axis=1)
    return scores, (place < rng.integers(1, 16, (n_users, 1))).astype(np.int64)


@pytest.fixture
def recbole(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """RecBole's metric functions; they still name ``np.float``, which numpy dropped."""
    pytest.importorskip("recbole")
    import recbole.evaluator.metrics as module

    for name, kind in (("float", float), ("int", int)):
        monkeypatch.setattr(np, name, kind, raising=False)
    return module


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_ranx(seed: int) -> None:
    pytest.importorskip("ranx")
    # its functions for one user: compiling those for many takes longer than all other tests together
    from ranx.metrics.average_precision import _average_precision
    from ranx.metrics.hit_rate import _hit_rate
    from ranx.metrics.ndcg import _ndcg
    from ranx.metrics.precision import _precision
    from ranx.metrics.recall import _recall
    from ranx.metrics.reciprocal_rank import _reciprocal_rank

    theirs = {
        "recall": _recall,
        "precision": _precision,
        "hit": _hit_rate,
        "ndcg": lambda *arguments: _ndcg(*arguments, True),
        "mrr": _reciprocal_rank,
        "map": _average_precision,
    }
    scores, relevant = random_case(seed)
    ours = user_ranks(scores, relevant)
    # ranx divides AP by all relevant items, we by min(relevant, k): the same where k exceeds the list. Its precision
    # divides by the list where k exceeds it
    cuts = {"map": (50,), "precision": (1, 3, 10, 40)}
    for name, function in theirs.items():
        for k in cuts.get(name, KS):
            other = []
            for r, s in zip(relevant, scores, strict=True):
                judged = np.array([[i, 1] for i in np.flatnonzero(r)], np.float64)
                ranked = np.array([[i, s[i]] for i in np.argsort(-s)], np.float64)
                other.append(function(judged, ranked, k, 1))
            np.testing.assert_allclose(value(f"{name}@{k}", ours), other, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_recbole(seed: int, recbole: ModuleType) -> None:
    scores, relevant = random_case(seed)
    ours = user_ranks(scores, relevant)
    order = np.argsort(-scores, axis=1)
    found, n_relevant = np.take_along_axis(relevant, order, 1).astype(bool), relevant.sum(1)
    config = {"topk": [1], "metric_decimal_place": 9}
    for name in ("Recall", "Precision", "Hit", "MRR", "MAP", "NDCG"):
        metric = getattr(recbole, name)(config)
        arguments = (found, n_relevant) if name in ("Recall", "MAP", "NDCG") else (found,)
        theirs = metric.metric_info(*arguments)
        for k in (1, 3, 10, 40):
            np.testing.assert_allclose(value(f"{name.lower()}@{k}", ours), theirs[:, k - 1], atol=1e-6, err_msg=name)
    # RecBole's GAUC is the users' AUC weighted by relevant items
    rank_sum = np.where(found, np.arange(1, found.shape[1] + 1), 0).sum(1, keepdims=True)
    n_items = np.full(len(scores), scores.shape[1])
    theirs = recbole.GAUC(config).metric_info(rank_sum, n_items, n_relevant)
    assert np.average(value("auc", ours), weights=n_relevant) == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize("tied", [False, True])
def test_ranking_equals_sklearn(tied: bool) -> None:
    scores, relevant = random_case(5)
    scores = np.round(scores / 6) if tied else scores
    ours = user_ranks(scores, relevant)
    auc = [sk.roc_auc_score(r, s) for r, s in zip(relevant, scores, strict=True)]
    np.testing.assert_allclose(value("auc", ours), auc, atol=1e-6)
    if tied:
        return  # scikit-learn's other metrics treat ties in their own ways
    precision = [sk.average_precision_score(r, s) for r, s in zip(relevant, scores, strict=True)]
    np.testing.assert_allclose(value("map@50", ours), precision, atol=1e-6)
    for k in KS:
        ndcg = [sk.ndcg_score(r[None], s[None], k=k) for r, s in zip(relevant, scores, strict=True)]
        np.testing.assert_allclose(value(f"ndcg@{k}", ours), ndcg, atol=1e-6)


# Ties -----------------------------------------------------------------------------------------------------------------


def textbook(name: str, k: int | None, relevant: tuple[int, ...]) -> float:
    """Return a metric of one ranked 0/1 list by its definition."""
    cut = len(relevant) if k is None else k
    top, n_relevant = relevant[:cut], sum(relevant)
    hits = [place for place, r in enumerate(top) if r]
    if name == "auc":
        pairs = list(itertools.combinations(relevant, 2))
        return sum(a > b for a, b in pairs) / (n_relevant * (len(relevant) - n_relevant))
    return {
        "recall": len(hits) / n_relevant,
        "precision": len(hits) / cut,
        "hit": float(bool(hits)),
        "mrr": 1 / (hits[0] + 1) if hits else 0.0,
        "map": sum((i + 1) / (place + 1) for i, place in enumerate(hits)) / min(n_relevant, cut),
        "ndcg": sum(1 / np.log2(p + 2) for p in hits) / sum(1 / np.log2(p + 2) for p in range(min(n_relevant, cut))),
    }[name]


def expected(name: str, k: int | None, scores: np.ndarray, relevant: np.ndarray) -> float:
    """Return a metric's mean over every order of the items that the scores allow (ties broken in all ways)."""
    groups = [np.flatnonzero(scores == s) for s in np.unique(scores)[::-1]]
    orders = itertools.product(*(sorted(itertools.permutations(relevant[g].tolist())) for g in groups))
    return float(np.mean([textbook(name, k, tuple(itertools.chain(*order))) for order in orders]))


def all_metrics(n_items: int) -> list[tuple[str, int | None]]:
    return [("auc", None), ("mrr", None), *itertools.product(WITH_K, range(1, n_items + 3))]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=2, max_size=6))
def test_ties_never_beat_the_expected_order(items: list[tuple[int, bool]]) -> None:
    scores = np.array([s for s, _ in items], np.float32)
    relevant = np.array([r for _, r in items], np.int64)
    if not 0 < relevant.sum() < len(relevant):
        return
    ranks = user_ranks(scores[None], relevant[None])
    for name, k in all_metrics(len(items)):
        ours, chance = value(str(M.Metric(name, k)), ranks)[0], expected(name, k, scores, relevant)
        if name in ("auc", "recall", "precision", "map"):
            assert ours == pytest.approx(chance, abs=1e-12), (name, k)
        else:
            assert ours <= chance + 1e-12, (name, k)


@pytest.mark.parametrize(("n_items", "n_relevant"), [(5, 1), (5, 4), (6, 2), (7, 3)])
def test_a_constant_scorer_never_beats_chance(n_items: int, n_relevant: int) -> None:
    relevant = (np.arange(n_items) < n_relevant).astype(np.int64)
    ranks = user_ranks(np.zeros((1, n_items), np.float32), relevant[None])
    orders = [
        tuple(int(i in chosen) for i in range(n_items)) for chosen in itertools.combinations(range(n_items), n_relevant)
    ]
    for name, k in all_metrics(n_items):
        chance = np.mean([textbook(name, k, order) for order in orders])
        assert value(str(M.Metric(name, k)), ranks)[0] <= chance + 1e-12, (name, k)
    assert value("auc", ranks)[0] == 0.5
    assert value(f"recall@{n_items - 1}", ranks)[0] == pytest.approx((n_items - 1) / n_items)  # not 1


@settings(max_examples=80, deadline=None)
@given(st.integers(2, 400), st.data())
def test_a_constant_scorer_against_chance_in_closed_form(n_items: int, data: st.DataObject) -> None:
    """For large lists the chance of a random order is known: sums over the places 0..k-1."""
    n_relevant = data.draw(st.integers(1, n_items - 1))
    k = data.draw(st.integers(1, n_items + 5))
    constant = M.UserRanks(
        np.zeros(n_relevant, np.int32),
        np.full(n_relevant, n_items - 1, np.int32),
        np.array([0, n_relevant]),
        np.array([n_items]),
    )
    place = np.arange(min(k, n_items))
    share = n_relevant / n_items
    best = min(n_relevant, k)
    # P(no relevant item in the first j places), for the first hit's place
    none = np.concatenate([[1.0], np.cumprod(np.clip((n_items - n_relevant - place) / (n_items - place), 0, 1))])
    first = none[:-1] - none[1:]
    chance = {
        "recall": len(place) / n_items,
        "precision": len(place) * share / k,
        "hit": first.sum(),
        "mrr": (first / (place + 1)).sum(),
        "ndcg": share * (1 / np.log2(place + 2)).sum() / (1 / np.log2(np.arange(best) + 2)).sum(),
        "map": share * ((1 + place * (n_relevant - 1) / (n_items - 1)) / (place + 1)).sum() / best,
    }
    for name, level in chance.items():
        assert value(f"{name}@{k}", constant)[0] <= level + 1e-9, name


# Laws -----------------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 25), st.integers(1, 30))
def test_laws(seed: int, n_items: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(-5, 6, (4, n_items)).astype(np.float32)
    relevant = (rng.random((4, n_items)) < 0.4).astype(np.int64)
    relevant[:, 0] = 1
    shuffled = rng.permutation(n_items)
    ranks = user_ranks(scores, relevant)
    for name in ("auc", "mrr", *(f"{metric}@{k}" for metric in WITH_K)):
        found = value(name, ranks)
        known = found[~np.isnan(found)]
        assert ((known >= 0) & (known <= 1 + 1e-12)).all(), name
        np.testing.assert_allclose(found, value(name, user_ranks(np.exp(scores / 4), relevant)), err_msg=name)
        permuted = user_ranks(np.ascontiguousarray(scores[:, shuffled]), relevant[:, shuffled])
        np.testing.assert_allclose(found, value(name, permuted), err_msg=name)
    perfect = user_ranks(relevant * 100.0 + np.arange(n_items), relevant)
    for name in (f"ndcg@{k}", f"map@{k}", f"hit@{k}", "mrr"):
        np.testing.assert_allclose(value(name, perfect), 1.0)
    auc = value("auc", perfect)
    np.testing.assert_array_equal(np.isnan(auc), relevant.all(1))
    assert (auc[~np.isnan(auc)] == 1).all()


def test_users_without_a_relevant_item_have_no_value() -> None:
    relevant = np.array([[0, 0, 0], [1, 0, 0], [0, 0, 0]])
    ranks = user_ranks(np.array([[1.0, 2, 3]] * 3), relevant)
    for name in ("auc", "mrr", "recall@2", "precision@2", "hit@2", "map@2", "ndcg@2", "mrr@2"):
        assert np.isnan(value(name, ranks)).tolist() == [True, False, True], name
    nobody = M.UserRanks(*(np.zeros(0, int),) * 2, np.zeros(1, int), np.zeros(0, int))
    assert len(value("map@3", nobody)) == 0
    assert np.isnan(M.mean(value("ndcg@3", nobody)))


# Preference -----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=[False, True], ids=["distinct", "tied"])
def rows(request: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of users, some with one class only, scores of both signs."""
    rng = np.random.default_rng(11)
    user = rng.integers(0, 40, 500)
    label = (rng.random(500) < 0.4).astype(np.float32)
    label[user < 4] = 1
    label[(user >= 4) & (user < 8)] = 0
    score = (rng.standard_normal(500) + 0.5 * label).astype(np.float32)
    return user, label, np.round(score * 2) / 2 if request.param else score


def test_preference_equals_sklearn(rows: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    user, label, score = rows
    p = 1 / (1 + np.exp(-score.astype(np.float64)))
    both = {u: (label[user == u], score[user == u]) for u in np.unique(user) if len(set(label[user == u])) == 2}
    assert len(both) == 32
    areas = {u: sk.roc_auc_score(*pair) for u, pair in both.items()}
    reference = {
        "auc": sk.roc_auc_score(label, score),
        "uauc": np.mean(list(areas.values())),
        "gauc": np.average(list(areas.values()), weights=[len(both[u][0]) for u in areas]),
        "log_loss": sk.log_loss(label, p),
        "brier": sk.brier_score_loss(label, p),
        "accuracy": sk.accuracy_score(label, p >= 0.5),
        "f1": sk.f1_score(label, p >= 0.5),
        "ece": float(binary_calibration_error(torch.from_numpy(p), torch.from_numpy(label).int(), n_bins=15)),
    }
    assert set(reference) == set(M.PREFERENCE_METRICS)
    for name, other in reference.items():
        ours = M.preference_metric(M.parse_metric(name), user, label, score, p)
        assert ours == pytest.approx(other, abs=1e-6), name


def test_pooled_auc_equals_recbole(recbole: ModuleType, rows: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    _, label, score = rows
    theirs = recbole.AUC({"metric_decimal_place": 9}).metric_info(score, label)
    assert M.pooled_auc(label, score) == pytest.approx(theirs, abs=1e-6)


def test_preference_is_nan_where_undefined() -> None:
    none, user, label, score = np.zeros(0), np.array([1, 1, 2]), np.ones(3), np.array([0.1, 0.2, 0.3])
    for name in M.PREFERENCE_METRICS:
        assert np.isnan(M.preference_metric(M.Metric(name), none, none, none, none)), name
    for name in ("auc", "uauc", "gauc"):
        assert np.isnan(M.preference_metric(M.Metric(name), user, label, score, None)), name
    assert np.isnan(M.preference_metric(M.Metric("brier"), user, label, score, None))
    assert M.log_loss(np.array([1.0, 0.0]), np.array([0.0, 1.0])) < 40  # certain and wrong stays finite
    assert M.f1(np.array([1.0, 0.0]), np.array([0.1, 0.1])) == 0


# Names ----------------------------------------------------------------------------------------------------------------


def test_metric_names() -> None:
    assert M.parse_metric("ndcg@10") == M.Metric("ndcg", 10)
    assert M.parse_metric("auc") == M.Metric("auc")
    assert [str(M.parse_metric(text)) for text in ("mrr", "mrr@5", "coverage@20")] == ["mrr", "mrr@5", "coverage@20"]
    assert M.higher_is_better("ndcg@10")
    assert not M.higher_is_better("log_loss")
    assert not M.higher_is_better("gini@10")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ndgc@10", "did you mean 'ndcg'"),
        ("ndcg", "needs a cut-off: 'ndcg@10'"),
        ("auc@10", "takes no cut-off"),
        ("recall@0", "whole number above 0"),
        ("recall@", "whole number above 0"),
        ("recall@ten", "whole number above 0"),
        ("recall@2.5", "whole number above 0"),
        ("recall@-1", "whole number above 0"),
        ("", "unknown"),
    ],
)
def test_bad_names_are_explained(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        M.parse_metric(text)
