"""Experiment: data, task, models and seeds of one table, checked, and resolved into one RunSpec a (model, seed)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from benchmark.data.split import Prequential
from benchmark.data.task import Task
from benchmark.errors import InputError, nearest
from benchmark.evaluation.metrics import GENERATION_METRICS, PREFERENCE_METRICS, RANKING_METRICS, parse_metric
from benchmark.experiment.beyond import Beyond, parse_beyond
from benchmark.experiment.classes import model_class, model_config
from benchmark.experiment.entry import ModelEntry, merged
from benchmark.experiment.presentation import Published, Report
from benchmark.experiment.run_spec import START, RunSpec
from benchmark.experiment.search import Sweep
from benchmark.experiment.settings import DatasetConfig, Tracking, TrainerConfig
from benchmark.validation import describe

if TYPE_CHECKING:
    from benchmark.recommender import ModelConfig, Recommender, Traits

TARGET, OTHERS = "target", "others"  # domains in train_on: the judged one, all that are not named
LLM = ("llm-zero-shot", "llm")  # groups of rows that are no baselines
COLD = {"cold_items": "items", "cold_users": "users"}  # what is unseen in training, by kind of split


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Experiment(_Strict):
    """One experiment: data, task, models, seeds. ``Experiment.load(path)`` reads a file with one, see ``load_all``."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    description: str = ""
    dataset: DatasetConfig
    task: Task = Task()
    models: dict[str, ModelEntry] = Field(min_length=1)
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    split_seed: int = Field(0, description="Seed of the split and of the integer ids; the same for all models.")
    resample_train: bool = Field(
        False,
        description="limit_train draws another sample with each seed of a run, the same for all models, instead of one "
        "for all seeds.",
    )
    trainer: TrainerConfig = TrainerConfig()
    sweep: Sweep = Sweep()
    report: Report = Report()
    published: tuple[Published, ...] = ()
    tracking: Tracking = Tracking()
    # rows that are left out here, for those that begin with their weights
    _known: dict[str, ModelEntry] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _texts_of_users_are_of_one_training_part(self) -> Experiment:
        written = [n for n, e in self.dataset.enrich.items() if e.of == "users" and "history" in e.fields]
        if written and (isinstance(self.task.split, Prequential) or self.task.domain is not None):
            raise ValueError(
                f"dataset.enrich.{written[0]}: {{history}} is another one in each slice, and of all domains; leave it "
                "out with slices and targets"
            )
        return self

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("a seed stands twice; it would be counted twice")
        return seeds

    @field_validator("task")
    @classmethod
    def _metrics_once(cls, task: Task) -> Task:
        if len(set(task.metrics)) < len(task.metrics):
            raise ValueError(f"metrics: '{max(task.metrics, key=task.metrics.count)}' stands twice")
        return task

    @field_validator("report")
    @classmethod
    def _beyond_can_be_read(cls, report: Report, info: ValidationInfo) -> Report:
        if (task := info.data.get("task")) is not None:
            try:
                found = [parse_beyond(text, task.metrics, task.kind) for text in report.beyond]
            except InputError as error:
                raise ValueError(str(error)) from None
            if len(set(found)) < len(found):
                raise ValueError(f"beyond: '{max(found, key=found.count).text}' stands twice")
        return report

    @model_validator(mode="after")
    def _proposed_are_there(self) -> Experiment:
        for label in self.report.proposed or ():
            if label not in self.models:
                raise ValueError(f"report.proposed: no model '{label}'{nearest(label, self.models)}")
        return self

    @model_validator(mode="after")
    def _tradeoff_is_there(self) -> Experiment:
        if (wanted := self.report.tradeoff) is None:
            return self
        if wanted.metric is not None and wanted.metric not in self.task.metrics:
            raise ValueError(
                f"report.tradeoff.metric: '{wanted.metric}' is not among task.metrics"
                f"{nearest(wanted.metric, self.task.metrics)}"
            )
        for name, labels in wanted.curves.items():
            for label in labels:
                if label not in self.models:
                    raise ValueError(f"report.tradeoff.curves.{name}: no model '{label}'{nearest(label, self.models)}")
            if len(set(labels)) < len(labels):
                raise ValueError(f"report.tradeoff.curves.{name}: '{max(labels, key=labels.count)}' stands twice")
        return self

    @field_validator("models")
    @classmethod
    def _families(cls, models: dict[str, ModelEntry]) -> dict[str, ModelEntry]:
        seen: dict[tuple[str, int | None], str] = {}
        classes: dict[str, str] = {}
        for label, entry in models.items():
            if entry.family is None:
                continue
            if (other := seen.setdefault((entry.family, entry.limit_train), label)) != label:
                raise ValueError(f"'{label}' and '{other}' are of family '{entry.family}' and of one budget")
            if classes.setdefault(entry.family, entry.class_path) != entry.class_path:
                raise ValueError(f"family '{entry.family}' is of two classes; expected one model at several budgets")
        return models

    @property
    def part(self) -> str:
        """What the data set is called in a table of several."""
        return self.name.removeprefix(f"{self.report.together}-") if self.report.together else self.name

    @property
    def beyond(self) -> tuple[Beyond, ...]:
        """What `report.beyond` asks for."""
        return tuple(parse_beyond(text, self.task.metrics, self.task.kind) for text in self.report.beyond)

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
        """Read a file that holds one experiment.

        Raises:
            InputError: one line with the file, the line and the key.
        """
        from benchmark.experiment.file import load_all

        experiments = load_all(path, overrides)
        if len(experiments) > 1:
            raise InputError(f"{path}: holds {len(experiments)} experiments; use load_all")
        return experiments[0]

    def specs(self) -> list[RunSpec]:
        """Return one RunSpec a (model, seed), checked against the model classes.

        Raises:
            InputError: an unknown class or hyper-parameter, a model that stands on one that is not there, cannot do the
                task or stands on it, no model that can do the task, or a metric that the task does not have.
        """
        for row in self.published:
            for metric in row.values:
                if metric not in self.task.metrics:
                    raise InputError(
                        f"published.{row.model}: '{metric}' is not among task.metrics"
                        f"{nearest(metric, self.task.metrics)}"
                    )
        names = [(row.model, metric) for row in self.published for metric in row.values]
        if len(set(names)) < len(names):
            model, metric = max(names, key=names.count)
            raise InputError(f"published.{model}: '{metric}' stands twice; give the second source a name of its own")
        for metric in self.task.metrics:
            name = parse_metric(metric).name
            known = (*RANKING_METRICS, *GENERATION_METRICS) if self.task.kind == "ranking" else PREFERENCE_METRICS
            if name not in known:
                raise InputError(
                    f"task.metrics: '{metric}' is not a metric of a {self.task.kind} task{nearest(name, known)}"
                )
        if self.task.domain is not None:
            self._check_domain("task.domain", self.task.domain)
        cannot = self.unable()
        if len(cannot) == len(self.models):
            label, reason = next(iter(cannot.items()))
            raise InputError(f"models.{label}: {reason}")
        able = {label: entry for label, entry in self.models.items() if label not in cannot}
        return [self._spec(label, entry, seed) for label, entry in able.items() for seed in self.seeds]

    def groups(self) -> dict[str, str]:
        """Return the group of each model, by label."""
        return {label: str(self._traits(label).group) for label in self.models}

    def proposed(self) -> tuple[str, ...]:
        """Return the labels of the proposed rows: ``report.proposed``, or those of the language models."""
        if self.report.proposed is not None:
            return self.report.proposed
        return tuple(label for label, group in self.groups().items() if group in LLM)

    def unable(self, short: bool = False) -> dict[str, str]:
        """Return, by label, why a model cannot do the task: its row of the table says so, the others run.

        Args:
            short: as a cell of the table has room for it.
        """
        reasons = {label: self._cannot(label) for label in self.models}
        return {label: reason[0 if short else 1] for label, reason in reasons.items() if reason}

    def only(self, labels: Sequence[str]) -> Experiment:
        """Return the experiment with those of the models that it has, and what they stand on."""

        def below(spec: RunSpec) -> set[str]:
            return {spec.label}.union(*(below(stage) for role, stage in spec.stages.items() if role != START))

        specs = [self.spec(label, self.seeds[0]) for label in labels if label in self.models]
        wanted = set[str]().union(*map(below, specs))
        kept = {k: v for k, v in self.models.items() if k in wanted}
        out = self.model_copy(update={"models": kept})
        out._known = {**self._known, **self.models}
        return out

    def spec(self, label: str, seed: int) -> RunSpec:
        """Return the spec of one run; raises as ``specs`` does."""
        return self._spec(label, self.models[label], seed)

    def with_values(self, values: dict[str, dict[str, Any]]) -> Experiment:
        """Return the experiment with hyper-parameters of some models (by label, then by path) set to ``values``."""
        changed = {label: self.models[label].with_values(those) for label, those in values.items()}
        return self.model_copy(update={"models": {**self.models, **changed}})

    def _class_and_config(self, label: str) -> tuple[type[Recommender], ModelConfig]:
        where, entry = f"models.{label}", self.models[label]
        cls = model_class(entry.class_path, where)
        return cls, model_config(cls, entry.parameters, where)

    def _traits(self, label: str, above: tuple[tuple[str, str], ...] = ()) -> Traits:
        """Return what a model is, on what it stands on; ``above`` as for ``_spec``."""
        cls, config = self._class_and_config(label)
        below = {}
        for role, other in cls.stages_of(config).items():
            path = (*above, (label, role))
            below[role] = self._traits(self._stage_label(other, path), path)
        return cls.traits_on(config, below)

    def _cannot(self, label: str, above: tuple[tuple[str, str], ...] = ()) -> tuple[str, str] | None:
        """Return in a few words and in a line why a model cannot do the task, or what it stands on; None where it can.

        ``above`` is as for ``_spec``.
        """
        traits, kind = self._traits(label, above), self.task.kind
        name = self.models[label].class_path.rpartition(".")[2]
        if kind not in traits.tasks:
            done = ", ".join(sorted(traits.tasks))
            short = f"cannot do a {kind} task"
            return short, f"{name} {short} with these settings; it does: {done}"
        split, trained = self.task.split.kind, self._train_on(f"models.{label}", self.models[label])
        unseen, where = COLD.get(split), f"task.split: {split}"
        if unseen is None and trained is not None and self.task.domain not in dict(trained):
            unseen, where = "items", f"nothing of {self.task.domain} is in train_on"
        if unseen is None:
            return None
        if unseen not in traits.unseen:
            long = f"{name} goes by the ids of {unseen} and cannot tell unseen ones apart ({where})"
            return f"cannot score unseen {unseen}", long
        cls, config = self._class_and_config(label)
        for role, other in cls.stages_of(config).items():
            path = (*above, (label, role))
            other = self._stage_label(other, path)
            if reason := self._cannot(other, path):
                return reason[0], f"{name} stands on '{other}', and {reason[1]}"
        return None

    def _spec(self, label: str, entry: ModelEntry, seed: int, above: tuple[tuple[str, str], ...] = ()) -> RunSpec:
        """Return the spec of one run; ``above`` holds the (label, role) of the models that stand on it."""
        where = f"models.{label}"
        cls, config = self._class_and_config(label)
        if reason := self._cannot(label, above):
            raise InputError(f"{where}: {reason[1]}")
        try:
            cls.check_training(config, self.task)
        except InputError as error:
            raise InputError(f"{where}.{error}") from None
        try:
            trainer = TrainerConfig.model_validate(merged(self.trainer.model_dump(), entry.trainer))
        except ValidationError as error:
            raise InputError(describe(error, TrainerConfig, f"{where}.trainer")) from None
        monitor = trainer.early_stopping.monitor or self.task.metrics[0]
        if parse_metric(monitor).name in GENERATION_METRICS:
            raise InputError(
                f"trainer.early_stopping.monitor: only models that write have '{monitor}'; name a metric of the ranking"
            )
        if monitor not in self.task.metrics:
            raise InputError(
                f"trainer.early_stopping.monitor: '{monitor}' is not among task.metrics"
                f"{nearest(monitor, self.task.metrics)}"
            )
        stopping = trainer.early_stopping.model_copy(update={"monitor": monitor})
        below = cls.stages_of(config)
        if below and (entry.start or entry.update != "retrained" or entry.train_on not in (None, {TARGET: None})):
            # what it stands on would have learned more than it is said to
            raise InputError(
                f"{where}: it stands on other rows, which learn from all there is; it takes no transfer, start, "
                "train_on or update"
            )
        stages = {role: self._stage(other, seed, (*above, (label, role))) for role, other in below.items()}
        if stages:
            self._check_below(cls, config, stages, where)
        if entry.start is not None:
            stages[START] = self._start(label, entry, seed, above)
        since = None
        if entry.update != "retrained" and self._slice(where) > 1:
            since = self._slice(where) - 1 if entry.update == "continued" else 1
            stages[START] = self._earlier(label, entry, seed, since, cls)
        return RunSpec(
            experiment=self.name,
            label=label,
            dataset=self.dataset,
            task=self.task,
            split_seed=self.split_seed,
            class_path=entry.class_path,
            config=config,
            trainer=trainer.model_copy(update={"early_stopping": stopping}),
            limit_train=entry.limit_train,
            seed=seed,
            sample_seed=seed if self.resample_train else self.split_seed,
            stages=stages,
            train_on=() if since and entry.update == "static" else self._train_on(where, entry),
            since=since if entry.update == "continued" else None,
        )

    def _check_below(self, cls: type[Recommender], config: ModelConfig, stages: dict[str, RunSpec], where: str) -> None:
        from benchmark.recommender import Below  # there already, with the classes of the models

        below = {r: Below(s.label, s.model_class(), s.config, s.traits()) for r, s in stages.items()}
        try:
            cls.check_below(config, below, self.task)
        except InputError as error:
            raise InputError(f"{where}.{error}") from None

    def _slice(self, where: str) -> int:
        if not isinstance(self.task.split, Prequential):
            raise InputError(f"{where}.update: only a prequential split has slices; found {self.task.split.kind}")
        return self.task.split.slice

    def _earlier(self, label: str, entry: ModelEntry, seed: int, number: int, cls: type[Recommender]) -> RunSpec:
        """Return the spec of a model's run in an earlier slice."""
        if entry.update == "continued" and cls.batch_kind == "whole":
            raise InputError(f"models.{label}.update: {cls.__name__} is fitted anew each time; use retrained or static")
        split = self.task.split.model_copy(update={"slice": number})
        earlier = self.model_copy(update={"task": self.task.model_copy(update={"split": split})})
        return earlier._spec(label, entry, seed)

    def _train_on(self, where: str, entry: ModelEntry) -> tuple[tuple[str, int | None], ...] | None:
        """Return the domains and budgets that a model is trained on, `target` by its name."""
        if entry.train_on is None:
            return None
        if self.task.domain is None:
            raise InputError(f"{where}.train_on: there is no task.domain; name the domain that is judged")
        told = dict(entry.train_on)
        if OTHERS in told:
            budget = told.pop(OTHERS)
            domains = getattr(self.dataset.source, "domains", ())
            told |= {name: budget for name in domains if name not in told and name != self.task.domain}
        named = [(str(self.task.domain) if name == TARGET else name, n) for name, n in told.items()]
        for name, _ in named:
            self._check_domain(f"{where}.train_on", name)
        if len(dict(named)) < len(named):
            raise InputError(f"{where}.train_on: '{self.task.domain}' stands twice, once as `{TARGET}`")
        return tuple(sorted(named))

    def _check_domain(self, where: str, name: str) -> None:
        domains = getattr(self.dataset.source, "domains", None)
        if domains is not None and name not in domains:
            raise InputError(f"{where}: no domain '{name}'{nearest(name, domains)}")

    def _start(self, label: str, entry: ModelEntry, seed: int, above: tuple[tuple[str, str], ...]) -> RunSpec:
        """Return the spec of the run whose weights a model begins with."""
        assert entry.start is not None
        where, other = f"models.{label}.start", entry.start.model or label
        self._check_domain(f"{where}.domain", entry.start.domain)
        path = (*above, (f"{label} for {self.task.domain}", START))
        if f"{other} for {entry.start.domain}" in [name for name, _ in path]:
            raise InputError(f"{where}: {' -> '.join(name for name, _ in path)} is a circle")
        known = {**self._known, **self.models}
        if other not in known:
            raise InputError(f"{where}: no model '{other}' in this experiment{nearest(other, known)}")
        if known[other].class_path != entry.class_path:
            raise InputError(f"{where}: '{other}' is a {known[other].class_path}, whose weights do not fit")
        if known[other].search:
            raise InputError(f"{where}: '{other}' is searched, which would be on this domain and not on its own")
        if self.task.domain is None:
            raise InputError(f"{where}: there is no task.domain; a start is a row trained for another domain")
        there = self.task.model_copy(update={"domain": entry.start.domain})
        return self.model_copy(update={"task": there, "models": known})._spec(other, known[other], seed, path)

    def _stage(self, label: str, seed: int, above: tuple[tuple[str, str], ...]) -> RunSpec:
        """Return the spec of the model that the last of ``above`` stands on."""
        label = self._stage_label(label, above)
        return self._spec(label, self.models[label], seed, above)

    def _stage_label(self, label: str, above: tuple[tuple[str, str], ...]) -> str:
        """Return the label of the model that the last of ``above`` stands on, once it is known to be there."""
        user, role = above[-1]
        same_budget = f"{label}-{self.models[user].limit_train or 'all'}"
        if label not in self.models and same_budget in self.models:
            label = same_budget  # of a model with a list of budgets, the one with that of what stands on it
        if label not in self.models:
            others = self.models.keys() - {user}
            raise InputError(f"models.{user}.{role}: no model '{label}' in this experiment{nearest(label, others)}")
        labels = [name for name, _ in above]
        if label in labels:
            first = labels.index(label)  # what leads into the circle is not at fault
            circle = " -> ".join([*labels[first:], label])
            raise InputError(f"models.{label}.{above[first][1]}: {circle} is a circle")
        return label
