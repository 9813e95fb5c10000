"""The `search:` block of a model and the `sweep:` block of an experiment: what is searched, and how."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Scalar = bool | int | float | str | None
Sampler = Literal["tpe", "gp", "cma-es", "random", "grid", "qmc"]
Pruner = Literal["hyperband", "median", "successive-halving", "none"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Dimension(_Strict):
    """The range of one searched hyper-parameter: ``low`` and ``high``, or ``choices``, for which a list is short."""

    low: int | float | None = Field(None, description="Least value, itself included.")
    high: int | float | None = Field(None, description="Greatest value, itself included.")
    log: bool = Field(False, description="Search the logarithm: for learning rates and penalties.")
    step: int | float | None = Field(None, gt=0, description="Distance between two values.")
    power_of_two: bool = Field(False, description="Only powers of two from low to high: for sizes.")
    choices: tuple[Scalar, ...] | None = Field(None, description="These values and no others.")
    when: dict[str, tuple[Scalar, ...]] = Field(
        default_factory=dict,
        description="Searched only where another searched parameter has one of these values: {peft.kind: [lora, dora]}",
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return {"choices": value}
        if not isinstance(value, (dict, Dimension)):
            raise ValueError(f"found {value!r}, expected choices [a, b, c] or a range {{low: 1, high: 10}}")
        if isinstance(value, dict) and isinstance(value.get("when"), dict):
            one = {k: v if isinstance(v, (list, tuple)) else [v] for k, v in value["when"].items()}
            return {**value, "when": one}
        return value

    @model_validator(mode="after")
    def _sound(self) -> Dimension:
        for name, allowed in self.when.items():
            if not allowed:
                raise ValueError(f"when.{name} is empty: it would never be searched")
        if self.choices is not None:
            others = {"low", "high", "log", "step", "power_of_two"} & self.model_fields_set
            if others:
                raise ValueError(f"choices and {sorted(others)[0]} do not go together")
            if not self.choices:
                raise ValueError("choices is empty: name one value at least")
            if len(set(self.choices)) < len(self.choices):
                raise ValueError("two choices are equal")
            return self
        if self.low is None or self.high is None:
            raise ValueError("expected low and high, or choices")
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise ValueError("low and high must be finite")
        if self.low > self.high:
            raise ValueError(f"the range is inverted: low {self.low} is over high {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithm needs low > 0, found {self.low}")
        if self.log and (self.step is not None or self.power_of_two):
            raise ValueError(f"log and {'step' if self.step is not None else 'power_of_two'} do not go together")
        if self.power_of_two:
            for name in ("low", "high"):
                value = getattr(self, name)
                if value < 1 or math.log2(value) % 1:
                    raise ValueError(f"power_of_two: {name} must be a power of two, found {value}")
        return self


class Resources(_Strict):
    """What one trial (or run) takes of a Ray cluster."""

    cpu: float = Field(1, ge=0)
    gpu: float = Field(0, ge=0, description="May be a share, such as 0.5.")
    memory: float = Field(0, ge=0, description="GiB of memory; 0: not reserved.")
    custom: dict[str, float] = Field(default_factory=dict, description="Resources that the cluster defines itself.")


class Sweep(_Strict):
    """How every model with a ``search:`` block is searched: all under the same budget."""

    trials: int = Field(20, ge=1, description="Trials of each model; the first one has the file's own values.")
    sampler: Sampler = "tpe"
    startup_trials: int = Field(8, ge=1, description="Random trials before tpe, gp or cma-es begin to learn.")
    pruner: Pruner | None = Field(None, description="median where it is left out; none with several objectives.")
    reduction_factor: int = Field(3, ge=2, description="Of hyperband and successive halving.")
    seed: int = Field(0, description="Of the sampler. Trials train with the first of the experiment's seeds.")
    objectives: tuple[str, ...] = Field(
        (),
        description="The monitored metric where it is left out. Costs: train_seconds, ms_per_user, "
        "trainable_parameters, peak_memory. The first one selects.",
    )
    study: str | None = Field(
        None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Name of the studies; the experiment's by default."
    )
    storage: str | None = Field(
        None,
        description="RDB URL such as postgresql://host/base; a journal file under runs/ by default. A URL with a "
        "password belongs into the environment: LEVELFIELD_STORAGE.",
    )
    heartbeat: float = Field(30, gt=0, description="Seconds between two signs of life of a running trial.")
    resources: Resources = Resources()
