"""Transfer between domains in an experiment file: `targets:` gives a table a domain, `transfer:` a row a way."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchmark.errors import InputError, nearest
from benchmark.validation import describe

ALONE, JOINT, MERGED = "alone", "joint", "merged"  # sources that are no single domain


Method = Literal["mean", "ties", "dare"]


class Transfer(BaseModel):
    """Which ways of transfer a model gets a row of; what it learns from the target alone is always one.

    With sources [beauty, toys] and budgets [0, 256, null] the model `m` becomes, for each target: `m` and `m-256` (the
    target alone), `m-from-beauty-0` (zero-shot: trained on beauty, the target unseen), `m-from-beauty-256` (few-shot),
    `m-from-beauty` (fine-tuned: first beauty, then all of the target), the same from toys, and with ``joint`` `m-joint`
    and `m-joint-256` (all other domains and the target at once); with ``merge`` `m-merged-0` (the models of the other
    domains made one, the target unseen) and `m-merged` (with that of the target); of several ways the others than mean
    are `m-merged-ties-0`, `m-merged-ties` and so on.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    sources: list[str] | None = Field(None, description="Domains to come from; all others when left out.")
    budgets: list[int | None] = Field([0, None], min_length=1, description="Interactions of the target; null: all.")
    joint: bool = Field(True, description="Also train on all other domains and the target at once.")
    merge: Method | tuple[Method, ...] | None = Field(
        None,
        description="Also merge the models of the domains (benchmark.llm.merged), in one way or several; needs budgets "
        "0 and null.",
    )


def of_targets(plain: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    """Return one experiment a target domain, with the rows of its transfers.

    Raises:
        InputError: no joined data set, an unknown domain, or a `transfer:` block that cannot be read.
    """
    plain = dict(plain)
    targets, dataset = plain.pop("targets"), plain.get("dataset")
    domains = list(dataset.get("domains") or ()) if isinstance(dataset, dict) else []
    if not isinstance(dataset, dict) or dataset.get("source") != "joined" or "datasets" in plain:
        raise InputError(f"{path}: targets: only a joined data set has domains (dataset: {{source: joined, ...}})")
    if not isinstance(targets, list) or not targets or len(set(map(str, targets))) < len(targets):
        raise InputError(f"{path}: targets: expected a list of domains, each once; found {targets!r}")
    for name in targets:
        if name not in domains:
            raise InputError(f"{path}: targets: no domain '{name}'{nearest(str(name), domains)}")
    task, report = (block if isinstance(block := plain.get(key), dict) else {} for key in ("task", "report"))
    out = []
    for target in targets:
        models: dict[str, Any] = {}
        for label, entry in (plain.get("models") or {}).items():
            rows = _rows(label, entry, target, domains, path) if isinstance(entry, dict) else {label: entry}
            for name in rows.keys() & models.keys():
                raise InputError(f"{path}: models.{label}: two rows would be called '{name}'; rename one model")
            models |= rows
        named = {"name": f"{plain.get('name')}-{target}", "models": models}
        told = {"together": plain.get("name"), **report}
        out.append({**plain, **named, "task": {**task, "domain": target}, "report": told})
    return out


def _rows(label: str, entry: dict[str, Any], target: str, domains: list[str], path: Path) -> dict[str, Any]:
    """Return the rows of one model: what learns from the target alone, and the ways of transfer that it asks for."""
    entry = dict(entry)
    block = entry.pop("transfer", None)
    entry.setdefault("train_on", ["target"])
    if block is None:
        return {label: entry}
    where = f"models.{label}.transfer"
    try:
        asked = Transfer.model_validate({} if block is True else block)
    except ValidationError as error:
        raise InputError(f"{path}: {describe(error, Transfer, where)}") from None
    for name in asked.sources or ():
        if name not in domains:
            raise InputError(f"{path}: {where}.sources: no domain '{name}'{nearest(name, domains)}")
    if any(n is not None and n < 0 for n in asked.budgets) or len(set(asked.budgets)) < len(asked.budgets):
        raise InputError(f"{path}: {where}.budgets: expected numbers from 0 on, each once; found {asked.budgets}")
    if asked.merge and not {0, None} <= set(asked.budgets):
        raise InputError(f"{path}: {where}.merge: found budgets {asked.budgets}, expected 0 and null among them")
    others = [name for name in (domains if asked.sources is None else asked.sources) if name != target]
    out: dict[str, Any] = {}

    def row(name: str, source: str, budget: int | None, **told: Any) -> None:
        out[name] = {**entry, **told, "way": {"of": label, "source": source, "budget": budget}}

    row(label, ALONE, None)
    for n in asked.budgets:
        own, ending = {"target": n}, "" if n is None else f"-{n}"
        if n:
            row(f"{label}{ending}", ALONE, n, train_on=own)
        for source in others:
            start = {"model": label, "domain": source}
            row(f"{label}-from-{source}{ending}", source, n, train_on={} if n == 0 else own, start=start)
        if asked.joint and n != 0:
            row(f"{label}-joint{ending}", JOINT, n, train_on={**own, **dict.fromkeys(others)})
    apart = [f"{label}-from-{source}-0" for source in others]
    several = not isinstance(asked.merge, str)
    for method in (asked.merge or ()) if several else (asked.merge,):
        plain = method == "mean" or not several
        source, name = (MERGED, "merged") if plain else (f"{MERGED} ({method})", f"merged-{method}")
        merged = {"class": "benchmark.llm.merged.Merged", "method": method}
        for ending, budget, members in (("-0", 0, apart), ("", None, [label, *apart])):
            if len(members) > 1:
                way = {"of": label, "source": source, "budget": budget}
                out[f"{label}-{name}{ending}"] = {**merged, "members": members, "way": way}
    return out
