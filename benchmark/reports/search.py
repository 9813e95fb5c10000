"""What a finished Optuna study says: trials by slot, best and defaults, what was varied, what mattered."""

from __future__ import annotations

import contextlib
import html
import math
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from benchmark.errors import InputError
from benchmark.reports.names import COSTS, title

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

FEWEST = 4  # complete trials below which nothing is said about a parameter


class Found:
    """What is read off a study: its trials by slot, the best one, the defaults, what was varied."""

    def __init__(self, study: optuna.Study) -> None:
        self.study, self.attributes = study, study.user_attrs
        self.label, self.objectives = str(self.attributes["label"]), list(self.attributes["objectives"])
        self.lower = study.directions[0].name == "MINIMIZE"
        self.trials = sorted((t for t in study.get_trials(deepcopy=False) if t.state.is_finished()), key=slot_of)
        self.complete = self.of("COMPLETE")
        sign = -1 if self.lower else 1
        self.best = max(self.complete, key=lambda t: sign * t.values[0], default=None)
        self.defaults = next((t for t in self.complete if t.user_attrs.get("defaults")), None)
        seen: dict[str, set[str]] = {}
        for path, value in (item for t in self.complete for item in t.params.items()):
            seen.setdefault(path, set()).add(repr(value))
        self.varied = [path for path, values in seen.items() if len(values) > 1]
        self.telling = self.tells(self.complete)

    def of(self, *states: str) -> list[FrozenTrial]:
        return [t for t in self.trials if t.state.name in states]

    @staticmethod
    def tells(trials: list[FrozenTrial]) -> bool:
        """Return whether trials are enough, and different enough, to say what a parameter does."""
        values = [t.values[0] for t in trials if math.isfinite(t.values[0])]
        return len(values) >= FEWEST and len(set(values)) > 1


def slot_of(trial: FrozenTrial) -> int:
    return int(trial.user_attrs.get("slot", trial.number))


def outcome_of(trial: FrozenTrial) -> dict[str, Any]:
    return dict(trial.user_attrs.get("outcome") or {})


def values_of(trial: FrozenTrial) -> dict[str, Any]:
    return dict(outcome_of(trial).get("values") or trial.params)


def error_of(trial: FrozenTrial) -> str:
    error = outcome_of(trial).get("error") or trial.user_attrs.get("error")
    lines = [line.strip() for line in str(error or "").splitlines() if line.strip()]
    return lines[0] if lines else "no error was stored" if trial.state.name == "FAIL" else ""


def gain(study: optuna.Study) -> tuple[float | None, float | None]:
    """Return the best value of the first objective and that of the defaults; None where there is none."""
    found = Found(study)
    best, defaults = (None if trial is None else trial.values[0] for trial in (found.best, found.defaults))
    return best, defaults


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)


def view_of(found: Found, objectives: int = 1, ranges: dict[str, Any] | None = None) -> optuna.Study:
    """Return a copy as Optuna's figures want it: numbers are slots, no attributes, the first objectives alone.

    One objective rather than a ``target``: of a target Optuna thinks that less is better, and draws no best so far.
    """
    from optuna import create_study
    from optuna.distributions import CategoricalDistribution
    from optuna.trial import TrialState, create_trial

    def plain(value: Any) -> Any:  # Plotly reads tags in its texts
        return html.escape(value, quote=False) if isinstance(value, str) else value

    view = create_study(study_name="view", directions=found.study.directions[:objectives])
    by_slot = {slot_of(trial): trial for trial in found.trials}
    for slot in range(max(by_slot, default=-1) + 1):
        trial = by_slot.get(slot)
        if trial is None:  # not finished: it keeps its number
            view.add_trial(create_trial(state=TrialState.FAIL))
            continue
        known = {path: (ranges or {}).get(path, range_) for path, range_ in trial.distributions.items()}
        for path, range_ in known.items():
            if isinstance(range_, CategoricalDistribution):
                known[path] = CategoricalDistribution([plain(choice) for choice in range_.choices])
        copy = create_trial(
            state=trial.state,
            values=trial.values[:objectives] if trial.state == TrialState.COMPLETE else None,
            params={path: plain(value) for path, value in trial.params.items()},
            distributions=known,
            intermediate_values=trial.intermediate_values,
        )
        view.add_trial(copy)
    return view


def evaluator(found: Found) -> Any:
    from optuna.importance import PedAnovaImportanceEvaluator

    # Optuna's default looks at the best tenth; its documentation wants at least five trials among the best
    return PedAnovaImportanceEvaluator(target_quantile=max(0.1, min(0.5, 5 / len(found.complete))))


def importance(study: optuna.Study) -> dict[str, float]:
    """Return each varied parameter's share in what sets the best trials apart, greatest first.

    Empty where it is not defined: fewer than two parameters varied, fewer than four complete trials, equal values.
    """
    from optuna.importance import get_param_importances

    found = Found(study)
    if len(found.varied) < 2 or not found.telling:
        return {}
    with quiet():  # the paths by name: Optuna's own order is that of a set
        shares = get_param_importances(view_of(found), evaluator=evaluator(found), params=found.varied)
    if len(set(shares.values())) == 1:  # how Optuna says that it cannot tell
        return {}
    return {path: float(share) for path, share in sorted(shares.items(), key=lambda item: -item[1])}


def title_of(objective: str) -> str:
    try:
        return title(objective)
    except InputError:
        return COSTS.get(objective, objective.replace("_", " ").capitalize())
