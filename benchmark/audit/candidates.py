"""Candidates: can the positive be told by its place in the list, by its id, or by how popular it is?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from torch import Tensor

from benchmark.audit.finding import Finding, percent
from benchmark.audit.material import Material, ranked
from benchmark.data.schema import ITEM_ID
from benchmark.evaluation.metrics import hit, mean, ranking_auc, user_auc
from benchmark.evaluation.significance import bootstrap_intervals

CHECK, TITLE = "candidates", "Positives told without a model"
FAR = 0.05  # distance from .5 of an AUC that is no accident of the ids
SURE = 0.999
POPULAR = 0.6
_BLOCK = 4096


@dataclass(frozen=True)
class _Area:
    """How well one scorer tells the positives: mean AUC over users, 95 % interval, and whether that is no accident."""

    value: float
    low: float
    high: float
    tells: bool = False

    def __str__(self) -> str:
        return f"AUC {self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def candidates(material: Material) -> list[Finding]:
    """Check whether place, id or popularity alone tell the positives: of sampled candidates, of labelled rows."""
    scorers = {
        "id": np.arange(material.split.n_items),
        "raw id": _raw_order(material),
        "popularity": material.popularity,
    }
    sampled = material.ranking and material.test.candidates is not None
    if material.ranking and not sampled:
        said = (
            "Every item that a user has not seen is ranked, so no list of candidates can tell the positive; what "
            "popularity tells is what the check of popularity says."
        )
        return [Finding(CHECK, TITLE, "fine", said)]
    areas, first, chance = _ranked(material, scorers) if sampled else (_labelled(material, scorers), 0.0, 0.0)
    numbers = {f"auc_{name.replace(' ', '_')}": area.value for name, area in areas.items()}
    numbers |= {"popularity_first": first, "chance_first": chance} if sampled else {}
    note = material.note()
    out = []
    if told := [f"{name} ({areas[name]})" for name in ("position", "id") if name in areas and areas[name].tells]:
        which = "position in the list" if told[0].startswith("position") else "integer id"
        said = f"The positive can be told by its {which} alone: {', '.join(told)}; chance is 0.5{note}."
        out.append(Finding(CHECK, TITLE, "fault", said, numbers))
    if areas["raw id"].tells:
        given = [label for label, spec in material.specs.items() if ITEM_ID in (_fields(spec.config) or ())]
        who = f"{', '.join(given)} read it (item_fields)" if given else "No model of this experiment is given it"
        said = (
            f"The order of the source's own item ids tells the positive, {areas['raw id']}{note}: positives tend to "
            f"have {'low' if areas['raw id'].value < 0.5 else 'high'} ids. {who}; a prompt must not show it."
        )
        out.append(Finding(CHECK, "Positives told by the raw id", "fault" if given else "warning", said, numbers))
    if sampled and areas["popularity"].low > POPULAR:
        drawn = getattr(material.experiment.task.candidates, "strategy", "uniform")
        said = (
            f"Negatives are drawn by {drawn} chance, and popularity alone ranks the positives with "
            f"{areas['popularity']} and puts one first for {percent(first)} of the users, by chance {percent(chance)}"
            f"{note}. Compare with the popularity row before a score is called good."
        )
        out.append(Finding(CHECK, "Positives told by popularity", "warning", said, numbers))
    if not out:
        told = [f"{name} {area}" for name, area in areas.items()]
        said = f"Neither place nor id tells the positives{note}: {', '.join(told)}; chance is 0.5."
        out.append(Finding(CHECK, TITLE, "fine", said, numbers))
    return out


def _raw_order(material: Material) -> np.ndarray:
    """Return (n_items,) the place of each item in the order of the raw ids: by number where all are numbers."""
    raw = material.split.items[ITEM_ID].cast(pl.String)
    number = raw.cast(pl.Float64, strict=False)
    keys = raw if number.null_count() else number
    return keys.rank("dense").to_numpy().astype(np.int64)


def _fields(config: object) -> list[str] | None:
    return getattr(config, "item_fields", None)


def _ranked(material: Material, scorers: dict[str, np.ndarray]) -> tuple[dict[str, _Area], float, float]:
    """Return the scorers' areas over the candidates, and how often popularity, and chance, put a positive first."""
    rows = material.test
    values: dict[str, list[np.ndarray]] = {"position": [], **{name: [] for name in scorers}}
    first, chance = [], []
    for index in material.sampled.split(_BLOCK):
        batch = rows[index]
        assert batch.candidates is not None
        place = torch.arange(batch.candidates.shape[1]).expand(len(index), -1)
        scores: dict[str, Tensor] = {"position": place}
        scores |= {name: torch.from_numpy(of.astype(np.int64))[batch.candidates] for name, of in scorers.items()}
        for name, score in scores.items():
            ranks = ranked(batch, score.double())
            values[name].append(ranking_auc(ranks))
            if name == "popularity":
                first.append(hit(ranks, 1))
                chance.append(ranks.n_relevant / ranks.n_candidates)
    areas = _areas({name: np.concatenate(parts) for name, parts in values.items()})
    return areas, mean(np.concatenate(first)), mean(np.concatenate(chance))


def _labelled(material: Material, scorers: dict[str, np.ndarray]) -> dict[str, _Area]:
    """Return the scorers' areas over the labels of each user's rows; rows stand by time, so place is no candidate."""
    rows = material.test
    assert rows.candidates is not None
    assert rows.label is not None
    index = material.sampled
    item, user, label = rows.candidates[index, 0].numpy(), rows.user[index].numpy(), rows.label[index].numpy()
    return _areas({name: user_auc(user, label, of[item])[1] for name, of in scorers.items()})


def _areas(values: dict[str, np.ndarray]) -> dict[str, _Area]:
    table = np.stack(list(values.values())).T
    if not np.isfinite(table).any():
        return {name: _Area(0.5, 0.5, 0.5) for name in values}
    out = {}
    # a table of few users must not be called faulty once in twenty times: what tells has a wider interval without .5
    limits, wide = bootstrap_intervals(table), bootstrap_intervals(table, level=SURE)
    for (name, column), (low, high), (least, most) in zip(values.items(), limits, wide, strict=True):
        value = mean(column)
        tells = not least <= 0.5 <= most and abs(value - 0.5) > FAR
        out[name] = _Area(value, float(low), float(high), tells)
    return out
