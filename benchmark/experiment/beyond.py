"""What `report.beyond` asks for: columns of fairness and exposure, read from their names and checked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import polars as pl

from benchmark.data.schema import ITEM_ID, USER_ID
from benchmark.errors import InputError, nearest
from benchmark.evaluation.metrics import BEYOND_METRICS, GENERATION_METRICS, higher_is_better

GAP, EXPOSURE = "gap", "exposure"
NAMES = (*BEYOND_METRICS, GAP, EXPOSURE)
_FORM = re.compile(r"(?P<name>[^(@:]*)(\((?P<column>[^()]*)\))?(@(?P<k>[^:]*))?(:(?P<metric>.*))?")


@dataclass(frozen=True)
class Beyond:
    """One column beyond accuracy: ``coverage@10``, ``gap(gender)``, ``gap(age):auc``, ``exposure(genres)@10``.

    Attributes:
        text: as the file says it.
        name: one of NAMES.
        k: how many of a list's items count; None for a gap.
        column: of the users (gap) or of the items (exposure); None for the others.
        metric: of the task, whose gap it is; None for the others.
    """

    text: str = field(compare=False)
    name: str
    k: int | None = None
    column: str | None = None
    metric: str | None = None

    @property
    def lower(self) -> bool:
        """Whether less is fairer, more even or more faithful."""
        return self.name in (GAP, EXPOSURE) or not higher_is_better(self.name)


def parse_beyond(text: str, metrics: Sequence[str], kind: str) -> Beyond:
    """Read one entry of `report.beyond`.

    Args:
        text: the entry.
        metrics: of the task.
        kind: of the task, ranking or preference.

    Raises:
        InputError: an unknown name or metric, a missing or superfluous column, cut-off or metric, a cut-off beyond the
            lists that are stored, or lists where the task has none.
    """
    from benchmark.recommender import TOP_K  # imports torch

    found = _FORM.fullmatch(text.strip())
    if not found:
        raise InputError(
            f"beyond: '{text}' cannot be read; expected such as gini@10, gap(age):auc, exposure(genres)@10"
        )
    name, column, k, metric = found.group("name", "column", "k", "metric")
    if name not in NAMES:
        raise InputError(f"beyond: '{text}' is unknown{nearest(name, NAMES)}")
    if kind != "ranking" and name != GAP:
        raise InputError(f"beyond: '{text}' is of lists, which a {kind} task has none of; gap(COLUMN) works there")
    example = {GAP: "gap(gender)", EXPOSURE: "exposure(genres)@10"}.get(name, f"{name}@10")
    if not column if "(" in example else column is not None:
        raise InputError(f"beyond: '{text}' {'needs a' if '(' in example else 'takes no'} column: '{example}'")
    if (k is None) == ("@" in example):
        raise InputError(f"beyond: '{text}' {'needs a' if '@' in example else 'takes no'} cut-off: '{example}'")
    if metric is not None and name != GAP:
        raise InputError(f"beyond: '{text}' takes no metric: '{example}'")
    if name == GAP:
        metric = metrics[0] if metric is None else metric.strip()
        if metric not in metrics:
            raise InputError(f"beyond: '{text}': '{metric}' is not among task.metrics{nearest(metric, metrics)}")
        if metric.partition("@")[0] in GENERATION_METRICS:
            raise InputError(f"beyond: '{text}': '{metric}' is counted in the run, no user has a value of it")
        return Beyond(text, name, None, column, metric)
    assert k is not None
    if not re.fullmatch("[0-9]+", k) or not 0 < int(k) <= TOP_K:
        raise InputError(f"beyond: '{text}': the cut-off must be 1 to {TOP_K}, the length of the lists that are stored")
    return Beyond(text, name, int(k), column)


def check_columns(asked: Iterable[Beyond], users: pl.DataFrame, items: pl.DataFrame) -> None:
    """Check that the data have the columns, and items enough.

    Raises:
        InputError: users or items have no such column, or one that parts nobody; a cut-off beyond the catalogue.
    """
    for one in asked:
        frame, who, without = (users, "users", USER_ID) if one.name == GAP else (items, "items", ITEM_ID)
        where = f"report.beyond: '{one.text}'"
        if one.k is not None and one.k > items.height:
            raise InputError(f"{where} is longer than the catalogue of {items.height} items")
        if one.column is None:
            continue
        names = [name for name in frame.columns if name != without]
        if one.column not in names:
            hint = nearest(one.column, names) or f"; nothing but {without} is known of them"
            raise InputError(f"{where}: {who} have no '{one.column}'{hint}")
        dtype = frame[one.column].dtype
        if dtype.is_nested() and (one.name == GAP or not isinstance(dtype, pl.List) or dtype.inner.is_nested()):
            raise InputError(f"{where}: '{one.column}' of the {who} holds {dtype}, expected one value each")
