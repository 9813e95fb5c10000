"""What counts as above, level and a candidate; the same on every path; bad scores are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmark.evaluation import ranks as ranks_module
from benchmark.evaluation.ranks import rank_relevant, top_k

Case = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def ragged(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Return lists of columns as (offsets, columns)."""
    offsets = torch.tensor([0, *np.cumsum([len(row) for row in rows]).tolist()])
    return offsets, torch.tensor([c for row in rows for c in row], dtype=torch.int64)


def make_case(seed: int, n_rows: int, n_columns: int, n_relevant: int, levels: int | None = None) -> Case:
    """Return random scores (few distinct ones when ``levels`` is given) with relevant and excluded columns."""
    rng = np.random.default_rng(seed)
    scores = rng.standard_normal((n_rows, n_columns)).astype(np.float32)
    if levels:
        scores = rng.integers(-levels, levels, (n_rows, n_columns)).astype(np.float32)
    relevant, excluded = [], []
    for _ in range(n_rows):
        columns = rng.permutation(n_columns)
        cut = int(rng.integers(0, min(n_relevant, n_columns) + 1))
        end = int(rng.integers(cut, n_columns + 1))
        relevant.append(columns[:cut].tolist())
        excluded.append(
            columns[cut : cut + (end - cut) // 2].tolist() + columns[cut : cut + 1 if end > cut + 1 else cut].tolist()
        )
    return torch.from_numpy(scores), *ragged(relevant), *ragged(excluded)


def by_definition(case: Case) -> tuple[list[int], list[int], list[int]]:
    """Count above, ties and candidates with plain comparisons."""
    scores, relevant_offsets, relevant, excluded_offsets, excluded = case
    above, ties, n_candidates = [], [], []
    for b, row in enumerate(scores.tolist()):
        out = set(excluded[excluded_offsets[b] : excluded_offsets[b + 1]].tolist())
        inside = [c for c in range(len(row)) if c not in out]
        n_candidates.append(len(inside))
        for r in relevant[relevant_offsets[b] : relevant_offsets[b + 1]].tolist():
            above.append(sum(row[c] > row[r] for c in inside))
            ties.append(sum(row[c] == row[r] for c in inside if c != r))
    return above, ties, n_candidates


def test_an_example() -> None:
    scores = torch.tensor([[0.9, 0.5, 0.5, -1.0, 0.7]])
    counts = rank_relevant(scores, *ragged([[1, 3]]), *ragged([[0]]))
    assert counts.above.tolist() == [1, 3]  # column 0 is out of the competition
    assert counts.ties.tolist() == [1, 0]
    assert counts.rank.tolist() == [1.5, 3.0]
    assert counts.n_candidates.tolist() == [4]


@pytest.mark.parametrize("levels", [None, 1, 4])
@pytest.mark.parametrize("n_relevant", [1, 5, 40, 300])
@pytest.mark.parametrize("path", ["cpu", "accelerator"])
def test_counts_follow_the_definition(
    monkeypatch: pytest.MonkeyPatch, path: str, n_relevant: int, levels: int | None
) -> None:
    monkeypatch.setattr(ranks_module, "_TORCH_BLOCK", 1000)  # several blocks
    case = make_case(7, n_rows=40, n_columns=400, n_relevant=n_relevant, levels=levels)
    counts = (rank_relevant if path == "cpu" else ranks_module._rank_relevant_torch)(*case)
    found = (counts.above.tolist(), counts.ties.tolist(), counts.n_candidates.tolist())
    assert found == by_definition(case)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 12))
def test_both_paths_agree_on_small_rows(seed: int, n_columns: int, n_relevant: int) -> None:
    case = make_case(seed, n_rows=5, n_columns=n_columns, n_relevant=n_relevant, levels=2)
    one, other = rank_relevant(*case), ranks_module._rank_relevant_torch(*case)
    assert one.above.tolist() == other.above.tolist()
    assert one.ties.tolist() == other.ties.tolist()
    assert one.n_candidates.tolist() == other.n_candidates.tolist()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int32])
def test_other_types_are_ranked_too(dtype: torch.dtype) -> None:
    case = make_case(3, 10, 200, 6, levels=8)
    cast = (case[0].to(dtype), *case[1:])
    assert rank_relevant(*cast).above.tolist() == by_definition(case)[0]
    assert top_k(cast[0], 5, *case[3:]).tolist() == top_k(case[0], 5, *case[3:]).tolist()


def test_float64_differences_are_kept() -> None:
    scores = torch.tensor([[1.0, 1.0 + 1e-12]], dtype=torch.float64)
    assert rank_relevant(scores, *ragged([[0]])).above.tolist() == [1]


def test_inputs_stay_as_they_are_and_may_be_views() -> None:
    case = make_case(1, 50, 64, 5)
    before = [t.clone() for t in case]
    wide = torch.stack([case[0], case[0]], dim=2)[:, :, 0].requires_grad_()
    assert not wide.is_contiguous()
    assert rank_relevant(wide, *case[1:]).above.tolist() == by_definition(case)[0]
    top_k(case[0], 5, *case[3:])
    assert all(torch.equal(a, b) for a, b in zip(case, before, strict=True))


def test_empty_batches() -> None:
    counts = rank_relevant(torch.zeros(0, 5), *ragged([]))
    assert len(counts.above) == len(counts.n_candidates) == 0
    assert top_k(torch.zeros(0, 5), 3).shape == (0, 3)
    assert top_k(torch.zeros(2, 0), 3).tolist() == [[-1] * 3] * 2
    assert rank_relevant(torch.zeros(2, 4), *ragged([[], []])).n_candidates.tolist() == [4, 4]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("column", [0, 77, 99])
def test_scores_that_are_no_numbers_are_refused(bad: float, column: int) -> None:
    scores = torch.randn(40, 100)
    scores[33, column] = bad
    relevant = ragged([[5]] * 40)
    for act in (lambda: rank_relevant(scores, *relevant), lambda: top_k(scores, 3)):
        with pytest.raises(ValueError, match="row 33 scored NaN/inf"):
            act()
    empty = ragged([[]] * 40)
    with pytest.raises(ValueError, match="row 33 scored NaN/inf"):
        ranks_module._rank_relevant_torch(scores, *relevant, *empty)
    with pytest.raises(ValueError, match="row 33 scored NaN/inf"):
        ranks_module._top_k_torch(scores, 3, *empty)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_excluded_columns_may_hold_anything(bad: float) -> None:
    scores = torch.tensor([[0.1, bad, 0.3]])
    excluded = ragged([[1]])
    for counts in (
        rank_relevant(scores, *ragged([[0]]), *excluded),
        ranks_module._rank_relevant_torch(scores, *ragged([[0]]), *excluded),
    ):
        assert (counts.above.tolist(), counts.ties.tolist(), counts.n_candidates.tolist()) == ([1], [0], [2])
    assert top_k(scores, 3, *excluded).tolist() == [[2, 0, -1]]


def test_columns_named_twice_or_excluded_or_out_of_range() -> None:
    scores, nothing = torch.randn(1, 10), ragged([[]])
    for function in (rank_relevant, ranks_module._rank_relevant_torch):
        with pytest.raises(ValueError, match="excluded or named twice"):
            function(scores, *ragged([[3]]), *ragged([[3]]))
        with pytest.raises(ValueError, match="excluded or named twice"):
            function(scores, *ragged([[3, 4, 3]]), *nothing)
        assert function(scores, *ragged([[3]]), *ragged([[4, 4]])).n_candidates.tolist() == [9]
    with pytest.raises(ValueError, match=r"relevant_columns is outside 0..9"):
        rank_relevant(scores, *ragged([[10]]))
    with pytest.raises(ValueError, match="excluded_offsets must rise"):
        top_k(scores, 2, torch.tensor([0, 2]), torch.tensor([1]))
    with pytest.raises(ValueError, match="k >= 1"):
        top_k(scores, 0)


@pytest.mark.parametrize("n_columns", [1, 63, 64, 65, 1000, 5003])
@pytest.mark.parametrize("k", [1, 7, 20, 200])
def test_top_k_equals_torch(n_columns: int, k: int) -> None:
    scores, _, _, offsets, columns = make_case(n_columns + k, 60, n_columns, 5)
    found = top_k(scores, k, offsets, columns)
    assert found.dtype == torch.int64
    assert torch.equal(found, ranks_module._top_k_torch(scores, k, offsets, columns))


def test_top_k_breaks_ties_by_column() -> None:
    scores = torch.zeros(3, 300)
    scores[:, 250] = 1
    assert top_k(scores, 4).tolist() == [[250, 0, 1, 2]] * 3
    case = make_case(0, 30, 500, 1, levels=3)
    order = (-case[0]).sort(dim=1, stable=True).indices[:, :50]
    assert torch.equal(top_k(case[0], 50), order)
