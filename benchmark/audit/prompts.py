"""Prompts: does what a language model reads about a row hold the title it is asked for?"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch

from benchmark.audit.finding import Finding, abridged, reason
from benchmark.audit.material import LONGEST, Material
from benchmark.audit.plain import holds, plain
from benchmark.data.batch import Batch
from benchmark.data.schema import TITLE
from benchmark.data.seeded import mix, permutation
from benchmark.errors import InputError
from benchmark.experiment import RunSpec
from benchmark.recommender import Recommender
from benchmark.runs.examples import example_rows

CHECK, HEAD = "prompts", "The target inside a prompt"
ROWS = 64  # judged rows of the test part whose prompts are read
LETTERS = 4  # a shorter title may stand in a text by chance


@dataclass
class _Seen:
    """Prompts of one model: how many were read, and in how many a target's title stood, by reason."""

    prompts: int
    through_target: int
    through_twin: int
    short: int


def prompts(material: Material) -> list[Finding]:
    """Check, with another item in the place of the candidate, that no prompt holds the title of its row's target."""
    if TITLE not in material.split.items.columns:
        return [Finding(CHECK, HEAD, "unknown", "The items have no titles that could be looked for in the prompts.")]
    seen: dict[str, _Seen] = {}
    out = []
    for label, spec in material.specs.items():
        try:
            if (found := _look(material, spec)) is not None:
                seen[label] = found
        except InputError as error:
            said = f"The prompts of {label} cannot be built: {reason(error, getattr(spec.config, 'backbone', ''))}."
            out.append(Finding(CHECK, HEAD, "unknown", said))
    if not seen and not out:
        return [Finding(CHECK, HEAD, "fine", "No model of this experiment reads prompts.")]
    if faulty := {label: s for label, s in seen.items() if s.through_target}:
        told = [f"{label} ({s.through_target} of {s.prompts} prompts)" for label, s in faulty.items()]
        said = f"Prompts with another item as the candidate hold the title that is asked for: {abridged(told)}."
        out.append(
            Finding(CHECK, HEAD, "fault", said, {f"{k}_prompts": float(s.through_target) for k, s in faulty.items()})
        )
    if twins := {label: s for label, s in seen.items() if s.through_twin}:
        told = [f"{label} ({s.through_twin} of {s.prompts} prompts)" for label, s in twins.items()]
        said = f"The title that is asked for stands in the history, as that of another item: {abridged(told)}."
        out.append(
            Finding(CHECK, HEAD, "warning", said, {f"{k}_prompts": float(s.through_twin) for k, s in twins.items()})
        )
    if clean := [label for label in seen if label not in faulty and label not in twins]:
        n, short = seen[clean[0]].prompts, max(seen[label].short for label in clean)
        left = f"; {short} titles of fewer than {LETTERS} letters were left out" if short else ""
        said = f"None of {n} prompts with another candidate holds a title that is asked for ({abridged(clean)}){left}."
        out.append(Finding(CHECK, HEAD, "fine", said, {"prompts": float(n), "short": float(short)}))
    return out


@dataclass(frozen=True)
class _Asked:
    """The prompts of some rows in plain words, the items each is asked for, those of its history, its candidate."""

    texts: list[str]
    targets: list[list[int]]
    histories: list[list[int]]
    others: list[int]


def _asked(material: Material, spec: RunSpec, titles: list[str]) -> _Asked | None:
    """Return the prompts of a model with another item in the place of the candidate, None where it reads none."""
    cls = spec.model_class()
    if cls.examples.__func__ is Recommender.examples.__func__:  # type: ignore[attr-defined]
        return None
    rows = copy.copy(material.test)
    rows.max_history = max(getattr(spec.config, "max_history", LONGEST), 1)
    batch = example_rows(rows, torch.from_numpy(np.sort(permutation(len(rows), material.seed)[:ROWS])))
    assert batch.history is not None
    assert batch.history_length is not None
    assert batch.candidates is not None
    targets = _targets(material, batch)
    histories = [row[:n] for row, n in zip(batch.history.tolist(), batch.history_length.tolist(), strict=True)]
    pairs = zip(targets, histories, strict=True)
    others = [_other(material, titles, row, own, past) for row, (own, past) in enumerate(pairs)]
    batch.candidates = batch.candidates.new_tensor(others).unsqueeze(1)
    catalogue = material.split.catalogue(cache=material.root / "tokens")
    examples = cls.examples(spec.config, catalogue, batch, len(batch))
    return _Asked([plain(text) for text, *_ in examples], targets, histories, others) if examples else None


def _look(material: Material, spec: RunSpec) -> _Seen | None:
    """Return what stands in the prompts of a model, None where it reads none."""
    titles = [plain(title) for title in material.split.items[TITLE].cast(pl.String).fill_null("").to_list()]
    asked = _asked(material, spec, titles)
    if asked is None:
        return None
    out = _Seen(len(asked.texts), 0, 0, 0)
    unexplained = []
    for row, text in enumerate(asked.texts):
        targets, history = asked.targets[row], asked.histories[row]
        wanted = {titles[item] for item in targets}
        short = {title for title in wanted if sum(map(str.isalpha, title)) < LETTERS}
        out.short += len(short - {""})
        inside = {title for title in wanted - short if holds(text, title)}
        past = {titles[item] for item in history}
        if inside & {titles[item] for item in set(targets) & set(history)}:
            out.through_target += 1
            continue
        out.through_twin += bool(inside & past)
        around = [*past, titles[asked.others[row]]]  # a word of a longer title is no leak
        unexplained += [(row, title) for title in inside if not any(holds(other, title) for other in around)]
    common = {title for title in {title for _, title in unexplained} if _is_common(asked, titles, title)}
    out.through_target += len({row for row, title in unexplained if title not in common})
    return out


def _is_common(asked: _Asked, titles: list[str], title: str) -> bool:
    """Return whether a title stands in prompts that have nothing to do with it: words of the template, of a profile."""
    return any(
        holds(text, title) and all(titles[item] != title for item in [*targets, *history, other])
        for text, targets, history, other in zip(asked.texts, asked.targets, asked.histories, asked.others, strict=True)
    )


def _targets(material: Material, batch: Batch) -> list[list[int]]:
    """Return the items that each row is asked for."""
    assert batch.row is not None
    row, item, _ = material.targets("test", material.test)
    return [item[row == wanted].tolist() for wanted in batch.row.tolist()]


def _other(material: Material, titles: list[str], row: int, own: list[int], past: list[int]) -> int:
    """Return an item that is neither asked for nor in the history, nor has a title that is asked for."""
    known, wanted = {*own, *past}, {titles[item] for item in own}
    for attempt in range(1000):
        item = int(mix(material.seed, row, attempt)[0] % np.uint64(len(titles)))
        if item not in known and titles[item] not in wanted:
            return item
    raise InputError("no item of the catalogue can stand in the place of the candidate")
