"""`make zoo`, last step: one line a model of the release, from the tables that experiments/recbole-zoo.yaml has given.

It reads results/recbole-zoo*/table.csv and manifest.json and writes results/recbole-zoo/coverage.md: whether a model
runs, what it reaches, what chance and popularity reach in the same table, or the reason why it does not run.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import polars as pl

from baselines.recbole import compat, zoo
from benchmark.experiment import Experiment, load_all

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"
ORDER = ("general", "sequential", "context_aware", "knowledge_aware", "exlib")
NOTES = {
    "GCMC": "below chance under RecBole's own trainer too: its score leaves the other class's logit out",
    "KGNNLS": "equal to KGCN here: no item is a neighbour of an item, so there is no label to smooth",
    "KGIN": "leaves edges out at random when it scores; here by the seed",
    "KTUP": "RecBole adds Gumbel noise when it scores; here the most likely preference is taken",
    "SGL": "RecBole's own trainer gives the same with these settings",
    "MCCLK": "on entities of five triples or more: it compares every entity with every other",
}


def lines(experiment: Experiment) -> dict[str, str]:
    """Return a table line for each model of one experiment."""
    folder = RESULTS / experiment.name
    table = pl.read_csv(folder / "table.csv")
    values = {(row["model"], row["column"]): row["mean"] for row in table.to_dicts()}
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    runs = {run["model"]: run for run in manifest["runs"].values()}
    first, last = experiment.task.metrics[0], experiment.task.metrics[1 if experiment.task.kind == "preference" else -1]
    out = {}
    for label, entry in experiment.models.items():
        name = entry.parameters.get("model")
        if name is None:
            continue
        start, run = f"| {name} | {_family(name)} |", runs.get(label)
        if run is None or run["error"]:
            out[name] = f"{start} failed: {run['error'] if run else 'not run'} | | | | | |"
            continue
        note = f"; {NOTES[name]}" if name in NOTES else ""
        rows = f", {entry.limit_train:,} rows" if entry.limit_train else ""
        out[name] = (
            f"{start} runs{note} | {first} {values[label, first]:.4f} | {values['random', first]:.4f} "
            f"| {values['popularity', first]:.4f} | {last} {values[label, last]:.4f} "
            f"| {run['seconds']['build'] + run['seconds']['fit']:.1f} s{rows} |"
        )
    return out


def _family(name: str) -> str:
    return zoo.family(name).replace("_", "-").replace("exlib", "external")


def main() -> None:
    found: dict[str, str] = {}
    for experiment in load_all(ROOT / "experiments" / "recbole-zoo.yaml"):
        found |= lines(experiment)
    for name, reason in zoo.UNSUPPORTED.items():
        found[name] = f"| {name} | {_family(name)} | does not run: {reason} | | | | | |"
    names = sorted(compat.models(), key=lambda name: (ORDER.index(zoo.family(name)), name.lower()))
    running = Counter("| runs" in found.get(name, "") for name in names)[True]
    text = [
        f"{running} of the {len(names)} models of RecBole 1.2.1 run; MovieLens-100K, one seed, nothing tuned.",
        "",
        "| Model | Family | | Test | Random | Popularity | | Training |",
        "| --- | --- | --- | --- | ---: | ---: | --- | --- |",
        *(found[name] for name in names),
        "",
        "General and knowledge-aware models: random 8:1:1 of each user, full ranking, 300 test users. Sequential ones:",
        "the last item of 300 users, full ranking. Context-aware and external ones, DIN and DIEN: labelled rows.",
        "Parameters: experiments/recbole-zoo.yaml. Seconds of one CPU thread, beside other work.",
    ]
    (RESULTS / "recbole-zoo" / "coverage.md").write_text("\n".join(text) + "\n", encoding="utf-8")
    print("\n".join(text))


if __name__ == "__main__":
    main()
