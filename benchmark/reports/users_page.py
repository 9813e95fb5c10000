"""The section in which two models are compared user by user; the script fills it from the page's data."""

from __future__ import annotations

from collections.abc import Sequence

from benchmark.reports.page import filled


def users_section(dataset_id: str, models: Sequence[str], metric_title: str, a: str = "", b: str = "") -> str:
    """Return the places for ``data["users"][dataset_id]`` (made by ``benchmark.reports.users``).

    ``a`` and ``b`` are the models compared at first; without them the last one and the best of the others.
    """
    return filled("users.html", id=dataset_id, models=models, metric=metric_title, a=a, b=b)
