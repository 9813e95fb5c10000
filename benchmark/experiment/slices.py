"""Slices of time in an experiment file: `slices:` gives a table a slice, a list at `update:` a row a way of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmark.errors import InputError

KIND = "prequential"


def of_slices(plain: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    """Return one experiment a slice of the prequential split, in their order.

    Raises:
        InputError: another split, or no number of slices.
    """
    plain = dict(plain)
    n = plain.pop("slices")
    task, report = (block if isinstance(block := plain.get(key), dict) else {} for key in ("task", "report"))
    told = task.get("split", {"kind": KIND})
    if not isinstance(told, dict) or told.get("kind") != KIND or "slice" in told or "slices" in told:
        raise InputError(
            f"{path}: slices: the split must be prequential, its slices left to `slices:` "
            f"(task.split: {{kind: {KIND}, judged: 0.5}}); found {told}"
        )
    if "datasets" in plain or "targets" in plain:
        raise InputError(f"{path}: slices: they go with one dataset, and with neither datasets nor targets")
    if not isinstance(n, int) or isinstance(n, bool) or n < 2:
        raise InputError(f"{path}: slices: expected a number from 2 on; found {n!r}")
    models: dict[str, Any] = {}
    for label, entry in (plain.get("models") or {}).items():
        ways = entry.get("update") if isinstance(entry, dict) else None
        if not isinstance(ways, list):
            models[label] = entry
            continue
        if not ways or len(set(map(str, ways))) < len(ways):
            raise InputError(f"{path}: models.{label}.update: expected ways of updating, each once; found {ways}")
        models |= {f"{label}-{way}": {**entry, "update": way} for way in ways}
    for name in [f"{label}-{way}" for label, ways in _lists(plain) for way in ways]:
        if name in (plain.get("models") or {}):
            raise InputError(f"{path}: models.{name}: two rows would be called '{name}'; rename one model")
    return [
        {
            **plain,
            "name": f"{plain.get('name')}-slice-{number}",
            "models": models,
            "task": {**task, "split": {**told, "slices": n, "slice": number}},
            "report": {"together": plain.get("name"), **report},
        }
        for number in range(1, n + 1)
    ]


def _lists(plain: dict[str, Any]) -> list[tuple[str, list[Any]]]:
    """Return the models with a list of ways of updating."""
    entries = (plain.get("models") or {}).items()
    return [(k, e["update"]) for k, e in entries if isinstance(e, dict) and isinstance(e.get("update"), list)]
