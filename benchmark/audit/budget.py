"""Budget: was every baseline given as many trials as what the table argues for, and do trivial rows stand beside it?"""

from __future__ import annotations

from benchmark.audit.finding import Finding, abridged
from benchmark.audit.material import Material
from benchmark.recommender import ModelConfig


def budget(material: Material) -> list[Finding]:
    """Check that no baseline with hyper-parameters has had fewer finished trials than the proposed models."""
    check, title, experiment = "budget", "Tuning budget of the baselines", material.experiment
    proposed = experiment.proposed()
    done = material.budgets
    planned = [label for label, entry in experiment.models.items() if entry.search and done is not None]
    trials = {label: (done or {}).get(label, 0) for label in experiment.models}
    numbers = {f"{label}_trials": float(n) for label, n in trials.items() if n}
    waiting = [label for label in planned if not trials[label]]
    wait = f" The search of {abridged(waiting)} is planned but not made yet (levelfield sweep)." if waiting else ""
    if not proposed:
        said = "No row is proposed (no language model, and no report.proposed), so there is no budget to be equalled."
        return [Finding(check, title, "warning" if wait else "fine", said + wait, numbers)]
    most = max(proposed, key=lambda label: trials[label])
    fewer = [label for label in _tunable(material) if label not in proposed and trials[label] < trials[most]]
    if fewer:
        told = [f"{label} {trials[label] or 'none'}" for label in fewer]
        said = (
            f"{most} is proposed and was given {trials[most]:,} trials; baselines with fewer: {abridged(told, 10)}. A "
            "gain over them may be the tuning's."
        )
        return [Finding(check, title, "warning", said + wait, numbers)]
    if trials[most]:
        said = f"No baseline with hyper-parameters has fewer trials than the proposed {most} ({trials[most]:,})."
    else:
        said = f"No proposed row ({abridged(list(proposed))}) was searched, so no baseline has a smaller budget."
    return [Finding(check, title, "warning" if wait else "fine", said + wait, numbers)]


def trivial(material: Material) -> list[Finding]:
    """Check that the table has a trivial row."""
    labels = [label for label, group in material.groups.items() if group == "trivial"]
    title = "Trivial rows"
    if labels:
        return [Finding("trivial", title, "fine", f"The table has trivial rows: {abridged(labels)}.")]
    said = (
        "The table has no trivial row: without popularity, item and user means, or chance, nobody can see how much of "
        "a score is a model's own (such as baselines.popularity.Popularity, baselines.bias.Bias)."
    )
    return [Finding("trivial", title, "warning", said)]


def _tunable(material: Material) -> list[str]:
    """Return the labels of the baselines that are not trivial and have hyper-parameters of their own."""
    common = set(ModelConfig.model_fields)
    return [
        label
        for label, spec in material.specs.items()
        if material.groups[label] != "trivial" and set(type(spec.config).model_fields) - common
    ]
