"""valid@k: the share of generations that name an item."""

from __future__ import annotations

import pytest
import torch

from benchmark.evaluation.generations import GenerationEvaluator


def test_shares_of_the_first_generations_over_all_rows() -> None:
    evaluator = GenerationEvaluator()
    assert evaluator.compute() == {}
    evaluator.update(torch.tensor([[True, False, True, True, False]]))
    evaluator.update(torch.tensor([[False, False, True, False, False], [True, True, True, True, True]]))
    assert evaluator.compute() == pytest.approx(
        {"valid@1": 2 / 3, "valid@3": (2 / 3 + 1 / 3 + 1) / 3, "valid@5": 9 / 15}
    )
    evaluator.reset()
    evaluator.update(torch.ones(4, 3, dtype=torch.bool))
    assert evaluator.compute() == {"valid@1": 1.0, "valid@3": 1.0}


def test_two_processes_count_as_one() -> None:
    """Their states add up, and the wider one decides how many generations there are."""
    first, second, both = GenerationEvaluator(), GenerationEvaluator(), GenerationEvaluator()
    a, b = torch.tensor([[True, False, True]]), torch.tensor([[False, False, True], [True, True, True]])
    first.update(a)
    second.update(b)
    for rows in (a, b):
        both.update(rows)
    reductions = first._reductions
    for name, reduce in reductions.items():
        joined = reduce(torch.stack([getattr(first, name), getattr(second, name)]))
        torch.testing.assert_close(joined, getattr(both, name))
