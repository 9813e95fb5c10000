"""The search space of one model: checked against the model, suggested by an Optuna trial, encoded and decoded."""

from __future__ import annotations

import itertools
import math
import types
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from benchmark.errors import InputError, nearest
from benchmark.experiment import Experiment, ModelEntry, TrainerConfig
from benchmark.experiment.search import Dimension, Scalar

if TYPE_CHECKING:
    import optuna

Values = dict[str, Any]  # by path, such as {"peft.rank": 8}
NOT_SEARCHED = {"class"} | ModelEntry.model_fields.keys() - {"trainer"}


class Space:
    """What is searched for one model of an experiment.

    Args:
        experiment: with a ``search:`` block at the model.
        label: of the model.

    Raises:
        InputError: a parameter that the model does not have, a value it refuses, a condition on something that is not
            searched, or a default that lies outside of the range.
    """

    def __init__(self, experiment: Experiment, label: str) -> None:
        self.label, self.where = label, f"models.{label}.search"
        self.dimensions = _parents_first(experiment.models[label].search, self.where)
        for path in self.paths:
            if path.partition(".")[0] in NOT_SEARCHED or path in ("trainer", "trainer.early_stopping.monitor"):
                raise InputError(f"{self.where}.{path}: is no hyper-parameter: it would make trials incomparable")
        spec = experiment.spec(label, experiment.seeds[0])
        own = {path: _value(spec.trainer if path.startswith("trainer.") else spec.config, path) for path in self.paths}
        self.integer = {path: self._is_integer(type(spec.config), path) for path in self.dimensions}
        self._check(experiment)
        for path, dimension in self.dimensions.items():
            for parent, allowed in dimension.when.items():
                if odd := [a for a in allowed if not self._contains(parent, a)]:
                    raise InputError(
                        f"{self.where}.{path}.when.{parent}: {odd[0]!r} lies outside of {self.shown(parent)}: "
                        "it would never be searched"
                    )
        self.defaults = {path: own[path] for path in self.active(own)}
        for path, value in self.defaults.items():
            if not self._contains(path, value):
                raise InputError(
                    f"{self.where}.{path}: the model's own value {value!r} lies outside of {self.shown(path)}; "
                    f"it is the first trial: widen the range, or set models.{label}.{path} to a value inside of it"
                )

    @property
    def paths(self) -> list[str]:
        return list(self.dimensions)

    def active(self, values: Values) -> list[str]:
        """Return the paths that are searched where the others have these values."""
        found: list[str] = []
        for path, dimension in self.dimensions.items():
            if _holds(dimension, {parent: values[parent] for parent in found}):
                found.append(path)
        return found

    def suggest(self, trial: optuna.Trial) -> Values:
        """Return the values of a trial, asking its sampler for what is not fixed yet."""
        values: Values = {}
        for path, dimension in self.dimensions.items():
            if not _holds(dimension, values):
                continue
            name = self.name(path)
            if dimension.choices is not None:
                values[path] = trial.suggest_categorical(name, list(dimension.choices))
                continue
            low, high = dimension.low, dimension.high
            assert low is not None
            assert high is not None
            if dimension.power_of_two:
                values[path] = 2 ** trial.suggest_int(name, int(math.log2(low)), int(math.log2(high)))
            elif self.integer[path]:
                step = int(dimension.step or 1)
                values[path] = trial.suggest_int(name, int(low), int(high), step=step, log=dimension.log)
            else:
                values[path] = trial.suggest_float(name, low, high, step=dimension.step, log=dimension.log)
        return values

    def name(self, path: str) -> str:
        """Return the name under which Optuna knows a parameter: sizes are searched by their exponent."""
        return f"log2({path})" if self.dimensions[path].power_of_two else path

    def encode(self, values: Values) -> dict[str, Any]:
        """Return values under Optuna's names."""
        powers = {p: self.dimensions[p].power_of_two for p in values}
        return {self.name(p): int(math.log2(v)) if powers[p] else v for p, v in values.items()}

    def decode(self, parameters: dict[str, Any]) -> Values:
        """Return the values behind the parameters of an Optuna trial, in the order of the file."""
        out: Values = {}
        for path, dimension in self.dimensions.items():
            if (name := self.name(path)) in parameters:
                out[path] = 2 ** parameters[name] if dimension.power_of_two else parameters[name]
        return out

    def grid(self) -> list[Values]:
        """Return every combination, none twice.

        Raises:
            InputError: a range without steps.
        """
        axes = [self._axis(path) for path in self.dimensions]
        found: dict[tuple[tuple[str, Any], ...], Values] = {}
        for point in itertools.product(*axes):
            values = dict(zip(self.dimensions, point, strict=True))
            kept = {path: values[path] for path in self.active(values)}
            found.setdefault(tuple(kept.items()), kept)
        return list(found.values())

    def _axis(self, path: str) -> list[Any]:
        dimension = self.dimensions[path]
        if dimension.choices is not None:
            return list(dimension.choices)
        low, high = dimension.low, dimension.high
        assert low is not None
        assert high is not None
        if dimension.power_of_two:
            return [2**n for n in range(int(math.log2(low)), int(math.log2(high)) + 1)]
        if self.integer[path]:
            return list(range(int(low), int(high) + 1, int(dimension.step or 1)))
        if dimension.step is None:
            raise InputError(f"{self.where}.{path}: a grid needs choices or a step, found {self.shown(path)}")
        count = math.floor((high - low) / dimension.step + 1e-9) + 1
        return [round(low + i * dimension.step, 12) for i in range(count)]  # 0.3 rather than 0.30000000000000004

    def shown(self, path: str) -> str:
        """Return a range for people."""
        d = self.dimensions[path]
        if d.choices is not None:
            return "[" + ", ".join(map(str, d.choices)) + "]"
        extra = ", log" if d.log else ", powers of two" if d.power_of_two else f", step {d.step}" if d.step else ""
        return f"{d.low} to {d.high}{extra}"

    def identity(self) -> dict[str, Any]:
        """Return what decides the space, as JSON values."""
        return {p: d.model_dump(mode="json", exclude_defaults=True) for p, d in self.dimensions.items()}

    def _contains(self, path: str, value: Any) -> bool:
        d = self.dimensions[path]
        if d.choices is not None:
            return any(type(value) is type(c) and value == c for c in d.choices)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        assert d.low is not None
        assert d.high is not None
        if not d.low <= value <= d.high:
            return False
        if d.power_of_two:
            return math.log2(value) % 1 == 0
        step = d.step or (1 if self.integer[path] and not d.log else None)
        return step is None or abs((value - d.low) / step - round((value - d.low) / step)) < 1e-9

    def _is_integer(self, config: type[BaseModel], path: str) -> bool:
        """Return whether whole numbers are meant: by the type of the setting, else by how the range is written."""
        d = self.dimensions[path]
        if d.choices is not None:
            return False
        root, names = (TrainerConfig, path.split(".")[1:]) if path.startswith("trainer.") else (config, path.split("."))
        kinds = _kinds(root, names)
        whole = all(isinstance(n, int) or float(n).is_integer() for n in (d.low, d.high, d.step or 1) if n is not None)
        if float in kinds or int not in kinds:
            return not kinds & {int, float} and isinstance(d.low, int) and isinstance(d.high, int) and whole
        if not whole:
            raise InputError(f"{self.where}.{path}: takes whole numbers, found {self.shown(path)}")
        return True

    def _check(self, experiment: Experiment) -> None:
        """Let the model check every choice and both ends of every range before anything runs."""
        for path, dimension in self.dimensions.items():
            parents = self._parents(path)
            ends: list[Scalar] = (
                list(dimension.choices) if dimension.choices is not None else [dimension.low, dimension.high]
            )
            for value in ends:
                try:
                    experiment.with_values({self.label: {**parents, path: value}}).spec(self.label, experiment.seeds[0])
                except InputError as error:
                    raise InputError(f"{self.where}.{path}: {value!r} is refused: {error}") from None

    def _parents(self, path: str) -> Values:
        """Return values under which ``path`` is searched."""
        out: Values = {}
        for parent, allowed in self.dimensions[path].when.items():
            out |= self._parents(parent)
            out[parent] = allowed[0]
        return out


def _holds(dimension: Dimension, values: Values) -> bool:
    """Return whether a dimension is searched where ``values`` are those of the searched ones before it."""
    return all(parent in values and values[parent] in allowed for parent, allowed in dimension.when.items())


def _kinds(root: Any, names: list[str]) -> set[type]:
    """Return which of int and float a setting takes by its annotation; neither where it is not declared."""
    if not names:
        options = get_args(root) if get_origin(root) in (Union, types.UnionType, Annotated) else (root,)
        nested = [o for o in options if get_origin(o) in (Union, types.UnionType, Annotated)]
        return {o for o in options if o in (int, float)}.union(*(_kinds(o, []) for o in nested))
    for option in [root, *get_args(root)]:
        if isinstance(option, type) and issubclass(option, BaseModel) and names[0] in option.model_fields:
            return _kinds(option.model_fields[names[0]].annotation, names[1:])
    return set()


def _parents_first(dimensions: dict[str, Dimension], where: str) -> dict[str, Dimension]:
    """Return the dimensions such that each stands behind those that its condition names."""
    ordered: dict[str, Dimension] = {}

    def visit(path: str, above: tuple[str, ...]) -> None:
        if path in above:
            raise InputError(f"{where}.{path}.when: {' -> '.join([*above[above.index(path) :], path])} is a circle")
        for parent, allowed in dimensions[path].when.items():
            if parent not in dimensions:
                raise InputError(
                    f"{where}.{path}.when: '{parent}' is not searched{nearest(parent, dimensions.keys() - {path})}"
                )
            choices = dimensions[parent].choices
            if choices is not None and (odd := [a for a in allowed if a not in choices]):
                hint = nearest(str(odd[0]), map(str, choices))
                raise InputError(f"{where}.{path}.when.{parent}: {odd[0]!r} is no choice of {parent}{hint}")
            visit(parent, (*above, path))
        ordered.setdefault(path, dimensions[path])

    for path in dimensions:
        visit(path, ())
    return ordered


def _value(config: BaseModel, path: str) -> Any:
    """Return the value at a dotted path of a model's settings; None where there is none."""
    node: Any = config
    for name in path.removeprefix("trainer.").split("."):
        node = node.get(name) if isinstance(node, dict) else getattr(node, name, None)
    return node
