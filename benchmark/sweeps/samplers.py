"""Samplers and pruners of Optuna under our names; what a sampler draws depends on its seed and the history alone."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from benchmark.experiment.search import Pruner, Sweep
from benchmark.sweeps.space import Space, Values

if TYPE_CHECKING:
    import optuna

DESIGNS = ("random", "grid", "qmc")  # their points do not depend on results: laid down before the first trial


def design(sweep: Sweep, space: Space, n: int) -> list[Values]:
    """Return the first ``n`` points of a sampler that does not learn; a grid gives those that it has.

    A longer design begins with the points of a shorter one, so a study can be continued.
    """
    import optuna

    if sweep.sampler == "grid":
        return space.grid()[:n]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # both are marked experimental
        if sweep.sampler == "qmc":
            # scrambled Sobol points (Bergstra and Bengio, JMLR 2012, on why they beat a grid)
            sampler: Any = optuna.samplers.QMCSampler(
                scramble=True, seed=seed_of(sweep.seed, space.label), warn_independent_sampling=False
            )
        else:
            sampler = optuna.samplers.RandomSampler(seed=seed_of(sweep.seed, space.label))
        study = optuna.create_study(sampler=sampler)
        points = []
        for _ in range(n):
            trial = study.ask()
            points.append(space.suggest(trial))
            study.tell(trial, 0.0)
    return points


def points(sweep: Sweep, space: Space) -> list[Values]:
    """Return the fixed values of every trial; a sampler that learns chooses the rest when the trial begins."""
    if sweep.sampler not in DESIGNS:
        return [space.defaults, *({} for _ in range(sweep.trials - 1))]
    others = design(sweep, space, sweep.trials)
    if sweep.sampler == "grid":  # each of its points once; of the others a repetition costs nothing, see `carry_out`
        others = [p for p in others if p != space.defaults]
    return [space.defaults, *others][: sweep.trials]


def seed_of(seed: int, *names: object) -> int:
    """Return a seed of its own for each combination of names."""
    digest = hashlib.sha256("/".join(map(str, (seed, *names))).encode()).digest()
    return int.from_bytes(digest[:4], "little") & 0x7FFFFFFF


def learning_sampler(sweep: Sweep, space: Space, parallel: bool) -> optuna.samplers.BaseSampler:
    """Return tpe, gp or cma-es, seeded anew for every trial by its number.

    A sampler that carries its generator from trial to trial would draw differently behind an interruption.
    """
    import optuna

    conditional = any(d.when for d in space.dimensions.values())

    def make(seed: int) -> optuna.samplers.BaseSampler:
        samplers = optuna.samplers
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is marked experimental
            if sweep.sampler == "gp":
                return samplers.GPSampler(
                    seed=seed, n_startup_trials=sweep.startup_trials, warn_independent_sampling=False
                )
            if sweep.sampler == "cma-es":
                return samplers.CmaEsSampler(
                    seed=seed, n_startup_trials=sweep.startup_trials, warn_independent_sampling=False
                )
            return samplers.TPESampler(
                seed=seed,
                n_startup_trials=sweep.startup_trials,
                multivariate=True,
                group=conditional,
                constant_liar=parallel,
            )

    return seeded_by_number(make, sweep.seed, space.label)


class _Without:
    """A study without one trial: what a killed attempt left of it is no history of its own."""

    def __init__(self, study: Any, number: int) -> None:
        self._study, self._number = study, number

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(self, *args: Any, **kwargs: Any) -> list[Any]:
        return [t for t in self._study._get_trials(*args, **kwargs) if t.number != self._number]


def _without(study: Any, number: int) -> Any:
    return _Without(study, number)


def seeded_by_number(
    make: Callable[[int], optuna.samplers.BaseSampler], seed: int, label: str
) -> optuna.samplers.BaseSampler:
    """Return a sampler that hands each trial to a fresh one of ``make``, whose seed follows from the trial's number."""
    import optuna

    class SeededByNumber(optuna.samplers.BaseSampler):
        inner = make(seed)

        def before_trial(self, study: Any, trial: Any) -> None:
            self.inner = make(seed_of(seed, label, trial.number))
            self.inner.before_trial(study, trial)

        def infer_relative_search_space(self, study: Any, trial: Any) -> Any:
            return self.inner.infer_relative_search_space(_without(study, trial.number), trial)

        def sample_relative(self, study: Any, trial: Any, search_space: Any) -> Any:
            return self.inner.sample_relative(_without(study, trial.number), trial, search_space)

        def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
            # a killed attempt may have stored the first parameters: the next one must not get the numbers of the first
            own = make(seed_of(seed, label, trial.number, param_name))
            return own.sample_independent(_without(study, trial.number), trial, param_name, param_distribution)

        def after_trial(self, study: Any, trial: Any, state: Any, values: Sequence[float] | None) -> None:
            self.inner.after_trial(study, trial, state, values)

    return SeededByNumber()


def pruner(kind: Pruner, reduction_factor: int, epochs: int) -> optuna.pruners.BasePruner:
    """Return the pruner for a model that trains for at most ``epochs``."""
    import optuna

    pruners = optuna.pruners
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "hyperband":
            return pruners.HyperbandPruner(min_resource=1, max_resource=epochs, reduction_factor=reduction_factor)
        if kind == "successive-halving":
            return pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=reduction_factor)
        if kind == "median":
            return pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=1)
        return pruners.NopPruner()
