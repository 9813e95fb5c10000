"""RunSpec: everything that decides the outcome of one run, as plain values and back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from benchmark.data.task import Task
from benchmark.errors import InputError
from benchmark.experiment.classes import model_class, model_config
from benchmark.experiment.settings import DatasetConfig, TrainerConfig

if TYPE_CHECKING:
    from benchmark.recommender import ModelConfig, Recommender, Traits

START = "start"  # among the stages of a run: the run whose weights it begins with


@dataclass(frozen=True)
class RunSpec:
    """Everything that decides the outcome of one run; ``experiment`` and ``label`` only name it.

    ``stages`` holds, by role, the runs of the models that this one stands on, and as "start" the run whose weights it
    begins with; ``sample_seed`` is that of the samples of ``limit_train`` and ``train_on``. Of a prequential split, a
    run with ``since`` learns from what the training part of that slice did not hold.
    """

    experiment: str
    label: str
    dataset: DatasetConfig
    task: Task
    split_seed: int
    class_path: str
    config: ModelConfig
    trainer: TrainerConfig
    limit_train: int | None
    seed: int
    sample_seed: int
    stages: dict[str, RunSpec] = field(default_factory=dict, hash=False)
    train_on: tuple[tuple[str, int | None], ...] | None = None
    since: int | None = None

    def model_class(self) -> type[Recommender]:
        return model_class(self.class_path, f"models.{self.label}")

    @property
    def below(self) -> dict[str, RunSpec]:
        """The runs of the models that this one stands on, by role."""
        return {role: stage for role, stage in self.stages.items() if role != START}

    def traits(self) -> Traits:
        """Return what the model is, on what it stands on."""
        return self.model_class().traits_on(self.config, {role: stage.traits() for role, stage in self.below.items()})

    @classmethod
    def from_resolved(cls, resolved: dict[str, Any], experiment: str, label: str) -> RunSpec:
        """Return the spec that ``resolved`` was made of, as a record holds it; metrics are the default ones.

        Raises:
            InputError: this version of the code has no such class or setting.
        """
        where = f"models.{label}"
        stages = {
            role: cls.from_resolved(stage, experiment, role) for role, stage in resolved.get("stages", {}).items()
        }
        names: dict[str, Any] = {}  # their labels are no part of it
        for role in [role for role in stages if role != START]:
            key, several, _ = role.partition(".")
            names[key] = [*names.get(key, []), role] if several else role
        model = model_class(resolved["class"], where)
        try:
            return cls(
                experiment=experiment,
                label=label,
                dataset=DatasetConfig.model_validate(resolved["dataset"]),
                task=Task.model_validate(resolved["task"]),
                split_seed=resolved["split_seed"],
                class_path=resolved["class"],
                config=model_config(model, {**resolved["config"], **names}, where),
                trainer=TrainerConfig.model_validate(resolved["trainer"]),
                limit_train=resolved["limit_train"],
                seed=resolved["seed"],
                sample_seed=resolved.get("sample_seed", resolved["split_seed"]),
                stages=stages,
                train_on=None if (told := resolved.get("train_on")) is None else tuple(map(tuple, told)),
                since=resolved.get("since"),
            )
        except ValidationError as error:
            raise InputError(f"{where}: stored by another version of the code: {error.errors()[0]['msg']}") from None

    def resolved(self) -> dict[str, Any]:
        """Return the outcome-deciding settings as plain JSON values.

        Metrics are left out: they are functions of the stored ranks, so another metric needs no new run. So are the
        labels of stages: what they point to stands under "stages".
        """
        resolved = {
            "dataset": self.dataset.model_dump(mode="json"),
            "task": self.task.model_dump(mode="json", exclude={"metrics"}),
            "split_seed": self.split_seed,
            "class": self.class_path,
            "config": self.config.model_dump(mode="json", exclude={role.partition(".")[0] for role in self.below}),
            "trainer": self.trainer.model_dump(mode="json"),
            "limit_train": self.limit_train,
            "seed": self.seed,
        }
        if self.since is not None:
            resolved["since"] = self.since
        if self.train_on is not None:
            resolved["train_on"] = [list(pair) for pair in self.train_on]
        sampled = self.limit_train or any(n is not None for _, n in self.train_on or ())
        if sampled and self.sample_seed != self.split_seed:
            resolved["sample_seed"] = self.sample_seed
        if self.stages:
            resolved["stages"] = {role: stage.resolved() for role, stage in self.stages.items()}
        return resolved
