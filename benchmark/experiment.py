"""The experiment file: read, overridden from the shell, checked, and resolved into one RunSpec a (model, seed)."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError

from benchmark.data.filters import Filters
from benchmark.data.sources import Source
from benchmark.data.task import Task
from benchmark.errors import InputError, nearest
from benchmark.evaluation.metrics import GENERATION_METRICS, PREFERENCE_METRICS, RANKING_METRICS, parse_metric
from benchmark.presentation import Published, Report
from benchmark.search import Dimension, Sweep
from benchmark.validation import describe

if TYPE_CHECKING:
    from benchmark.recommender import ModelConfig, Recommender


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EarlyStopping(_Strict):
    """Stop when the validation metric has not risen for ``patience`` epochs."""

    monitor: str | None = Field(None, description="A metric of the task; its first one when left out.")
    patience: int = Field(3, ge=1)
    min_delta: float = Field(0.0, ge=0)


class TrainerConfig(_Strict):
    """What is passed to ``lightning.Trainer``, under Lightning's names."""

    max_epochs: int = Field(20, ge=1)
    early_stopping: EarlyStopping = EarlyStopping()
    accelerator: str = "auto"
    devices: int | str = 1
    strategy: str = "auto"
    precision: str = "32-true"
    gradient_clip_val: float | None = Field(None, gt=0)
    accumulate_grad_batches: int = Field(1, ge=1)
    check_val_every_n_epoch: int = Field(1, ge=1)


class WandbConfig(_Strict):
    """Mirror of every run in Weights & Biases. The key is read from WANDB_API_KEY; without it runs stay offline."""

    project: str = "levelfield"
    entity: str | None = None
    mode: Literal["online", "offline", "disabled"] = "online"


class Tracking(_Strict):
    wandb: WandbConfig | None = None


class DatasetConfig(_Strict):
    """A source (its settings stand beside ``source``) and the filters applied to it."""

    source: Source
    filters: Filters = Filters()

    @model_validator(mode="before")
    @classmethod
    def _flat(cls, value: Any) -> Any:
        # in the file the source's settings stand flat beside `source: name`
        if isinstance(value, dict) and isinstance(value.get("source"), str):
            rest = {k: v for k, v in value.items() if k != "filters"}
            return {"source": rest, **({"filters": value["filters"]} if "filters" in value else {})}
        return value


class ModelEntry(_Strict):
    """One row of the table: a class by its path, its hyper-parameters, and what differs from the file's trainer."""

    model_config = ConfigDict(extra="allow", frozen=True, populate_by_name=True)

    class_path: str = Field(alias="class")
    trainer: dict[str, Any] = Field(default_factory=dict, description="Overrides of the file's trainer block.")
    limit_train: int | None = Field(
        None,
        gt=0,
        description="Few-shot: train on so many interactions, the same for every model (whole users in a ranking).",
    )
    search: dict[str, Dimension] = Field(
        default_factory=dict,
        description="Hyper-parameters that `levelfield sweep` searches, by their path: peft.rank, trainer.max_epochs.",
    )

    @property
    def parameters(self) -> dict[str, Any]:
        return dict(self.model_extra or {})

    def with_values(self, values: dict[str, Any]) -> ModelEntry:
        """Return this entry with hyper-parameters, given by their paths (``peft.rank``), set to ``values``."""
        plain = {**self.parameters, "trainer": self.trainer}
        for path, value in values.items():
            *blocks, last = path.split(".")
            change: dict[str, Any] = {last: value}
            for block in reversed(blocks):
                change = {block: change}
            plain = _merged(plain, change)
        return self.model_copy(update=plain)


class Experiment(_Strict):
    """One experiment: data, task, models, seeds. ``Experiment.load(path)`` reads a file with one, see ``load_all``."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    description: str = ""
    dataset: DatasetConfig
    task: Task = Task()
    models: dict[str, ModelEntry] = Field(min_length=1)
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    split_seed: int = Field(0, description="Seed of the split and of the integer ids; the same for all models.")
    trainer: TrainerConfig = TrainerConfig()
    sweep: Sweep = Sweep()
    report: Report = Report()
    published: tuple[Published, ...] = ()
    tracking: Tracking = Tracking()

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

    @property
    def part(self) -> str:
        """What the data set is called in a table of several."""
        return self.name.removeprefix(f"{self.report.together}-") if self.report.together else self.name

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
        """Read a file that holds one experiment.

        Raises:
            InputError: one line with the file, the line and the key.
        """
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
        cannot = self.unable()
        if len(cannot) == len(self.models):
            label, reason = next(iter(cannot.items()))
            raise InputError(f"models.{label}: {reason}")
        able = {label: entry for label, entry in self.models.items() if label not in cannot}
        return [self._spec(label, entry, seed) for label, entry in able.items() for seed in self.seeds]

    def unable(self) -> dict[str, str]:
        """Return, by label, why a model cannot do the task: its row of the table says so, the others run."""
        out = {}
        for label, entry in self.models.items():
            where = f"models.{label}"
            cls = model_class(entry.class_path, where)
            can = cls.traits_of(model_config(cls, entry.parameters, where)).tasks
            if self.task.kind not in can:
                out[label] = (
                    f"{cls.__name__} cannot do a {self.task.kind} task with these settings; "
                    f"it does: {', '.join(sorted(can))}"
                )
        return out

    def spec(self, label: str, seed: int) -> RunSpec:
        """Return the spec of one run; raises as ``specs`` does."""
        return self._spec(label, self.models[label], seed)

    def with_values(self, values: dict[str, dict[str, Any]]) -> Experiment:
        """Return the experiment with hyper-parameters of some models (by label, then by path) set to ``values``."""
        changed = {label: self.models[label].with_values(those) for label, those in values.items()}
        return self.model_copy(update={"models": {**self.models, **changed}})

    def _spec(self, label: str, entry: ModelEntry, seed: int, above: tuple[tuple[str, str], ...] = ()) -> RunSpec:
        """Return the spec of one run; ``above`` holds the (label, role) of the models that stand on it."""
        where = f"models.{label}"
        cls = model_class(entry.class_path, where)
        config = model_config(cls, entry.parameters, where)
        can = cls.traits_of(config).tasks
        if self.task.kind not in can:
            raise InputError(
                f"{where}: {cls.__name__} cannot do a {self.task.kind} task with these settings; "
                f"it does: {', '.join(sorted(can))}"
            )
        try:
            merged = _merged(self.trainer.model_dump(), entry.trainer)
            trainer = TrainerConfig.model_validate(merged)
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
            stages={
                role: self._stage(other, seed, (*above, (label, role))) for role, other in cls.stages_of(config).items()
            },
        )

    def _stage(self, label: str, seed: int, above: tuple[tuple[str, str], ...]) -> RunSpec:
        """Return the spec of the model that the last of ``above`` stands on."""
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
        return self._spec(label, self.models[label], seed, above)


@dataclass(frozen=True)
class RunSpec:
    """Everything that decides the outcome of one run; ``experiment`` and ``label`` only name it.

    ``stages`` holds, by role, the runs of the models that this one stands on.
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
    stages: dict[str, RunSpec] = field(default_factory=dict, hash=False)

    def model_class(self) -> type[Recommender]:
        return model_class(self.class_path, f"models.{self.label}")

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
            "config": self.config.model_dump(mode="json", exclude=set(self.stages)),
            "trainer": self.trainer.model_dump(mode="json"),
            "limit_train": self.limit_train,
            "seed": self.seed,
        }
        if self.stages:
            resolved["stages"] = {role: stage.resolved() for role, stage in self.stages.items()}
        return resolved


def model_class(path: str, where: str) -> type[Recommender]:
    """Import the Recommender named by ``package.module.Class``.

    Raises:
        InputError: no such module or class, or not a Recommender.
    """
    from benchmark.recommender import Recommender

    module_name, _, class_name = path.rpartition(".")
    if not module_name:
        raise InputError(f"{where}.class: '{path}' is not a path like baselines.ease.EASE")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and not module_name.startswith(error.name):
            raise  # the module is there; what it imports is not: that is a fault to be seen
        raise InputError(
            f"{where}.class: no module '{module_name}'{nearest(module_name, _modules_beside(module_name))}"
        ) from None
    cls = getattr(module, class_name, None)
    models = {
        name
        for name, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, Recommender) and value.__module__ == module.__name__
    }
    if cls is None:
        raise InputError(f"{where}.class: {module_name} has no class '{class_name}'{nearest(class_name, models)}")
    if not (inspect.isclass(cls) and issubclass(cls, Recommender)):
        raise InputError(f"{where}.class: '{path}' is not a Recommender{nearest(class_name, models)}")
    return cls


def model_config(cls: type[Recommender], parameters: dict[str, Any], where: str) -> ModelConfig:
    """Return the checked hyper-parameters of a model."""
    try:
        return cls.Config.model_validate(parameters)
    except ValidationError as error:
        raise InputError(describe(error, cls.Config, where)) from None


def _modules_beside(name: str) -> Iterator[str]:
    parent = name.rpartition(".")[0]
    for package in {parent, "baselines", "benchmark.llm"} - {""}:
        try:
            folder = Path(str(importlib.import_module(package).__file__)).parent
        except (ModuleNotFoundError, AttributeError):
            continue
        for file in folder.glob("*.py"):
            if not file.stem.startswith("_"):
                yield f"{package}.{file.stem}"


def _merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``change`` laid over it, block by block."""
    out = dict(base)
    for key, value in change.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = _merged(out[key], value) if both else value
    return out


# --- reading ---------------------------------------------------------------------------------------------------------


def load_all(path: str | Path, overrides: Sequence[str] = ()) -> list[Experiment]:
    """Read all experiments of a file (YAML documents separated by ``---``), with ``key.path=value`` overrides.

    Raises:
        InputError: one line with the file, the line, the key, what was found and the nearest valid name.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        beside = [str(path.with_name(p.name)) for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        raise InputError(f"{path}: no such file{nearest(str(path), beside)}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 (byte {error.start}); save the file as UTF-8") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        documents = [d for d in YAML().load_all(text) if d is not None]
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise InputError(f"{path}:{line}: not valid YAML: {error.problem}") from None
    if not documents:
        raise InputError(f"{path}: the file is empty; an experiment has name, dataset and models")
    experiments = []
    labels = {label for d in documents if isinstance(d, CommentedMap) for label in d.get("models") or ()}
    for override in overrides:
        key = override.partition("=")[0].split(".")
        if key[0] == "models" and len(key) > 1 and key[1] not in labels:
            raise InputError(f"override '{override}': no key '{key[1]}'{nearest(key[1], labels)}")
    for document in documents:
        if not isinstance(document, CommentedMap):
            raise InputError(f"{path}: expected keys such as name, dataset, models; found {type(document).__name__}")
        plain = _plain(document)
        for override in overrides:
            key = override.partition("=")[0].split(".")
            # of several experiments in a file, an override of a model means those that have it
            if key[0] != "models" or len(key) < 2 or key[1] in plain.get("models", {}):
                _override(plain, override)
        for one in _grid(plain, path):
            try:
                experiments.append(Experiment.model_validate(one))
            except ValidationError as error:
                raise InputError(describe(error, Experiment, "", partial(_where, path, document))) from None
    names = [e.name for e in experiments]
    if len(set(names)) < len(names):
        raise InputError(f"{path}: two experiments have the name '{max(names, key=names.count)}'")
    for group in grids(experiments):
        try:
            check_together(group)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        if (together := group[0].report.together) in names:
            raise InputError(f"{path}: report.together: '{together}' is the name of an experiment too")
    return experiments


def grids(experiments: Sequence[Experiment]) -> list[list[Experiment]]:
    """Return the experiments that stand in one table, a list a table; none of those that stand alone."""
    groups: dict[str, list[Experiment]] = {}
    for experiment in experiments:
        if experiment.report.together:
            groups.setdefault(experiment.report.together, []).append(experiment)
    return [group for group in groups.values() if len(group) > 1]


def check_together(experiments: Sequence[Experiment]) -> None:
    """Check that experiments are of one protocol and can stand in one table.

    Raises:
        InputError: one line that names the difference.
    """

    def facts(experiment: Experiment) -> dict[str, Any]:
        task = {f"task.{key}": value for key, value in experiment.task.model_dump(mode="json").items()}
        return {**task, "seeds": experiment.seeds, "split_seed": experiment.split_seed}

    def shown(value: Any) -> str:
        return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)

    first, parts = experiments[0], [e.part for e in experiments]
    if len(set(parts)) < len(parts):
        raise InputError(f"report.together: two data sets would be called '{max(parts, key=parts.count)}' in the table")
    for other in experiments[1:]:
        for key, value in facts(first).items():
            if value != facts(other)[key]:
                raise InputError(
                    f"report.together: {first.name} and {other.name} cannot stand in one table: {key} is "
                    f"{shown(value)} in the one and {shown(facts(other)[key])} in the other"
                )


def _grid(plain: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    """Return one experiment a data set, with one row a model and budget: lists of them multiply.

    ``datasets:`` takes the place of ``dataset:``; ``limit_train:`` stands at a model, or above for all that have none.
    """
    plain = dict(plain)
    if "limit_train" in plain:
        budget = plain.pop("limit_train")
        models = {k: {"limit_train": budget, **v} if isinstance(v, dict) else v for k, v in _items(plain, "models")}
        plain["models"] = models
    models = {}
    for label, entry in _items(plain, "models"):
        budgets = entry.get("limit_train") if isinstance(entry, dict) else None
        if not isinstance(budgets, list):
            models[label] = entry
            continue
        if not budgets or len(set(map(str, budgets))) < len(budgets):
            found = "is empty" if not budgets else "names a budget twice"
            raise InputError(f"{path}: models.{label}.limit_train: the list {found}")
        models |= {f"{label}-{'all' if n is None else n}": {**entry, "limit_train": n} for n in budgets}
    if models:
        plain["models"] = models
    if "datasets" not in plain:
        return [plain]
    if "dataset" in plain:
        raise InputError(f"{path}: dataset and datasets do not go together")
    datasets = plain.pop("datasets")
    if isinstance(datasets, list):
        named = [
            (d if isinstance(d, str) else str(d.get("source")) if isinstance(d, dict) else "", d) for d in datasets
        ]
    else:
        named = list(datasets.items()) if isinstance(datasets, dict) else []
    names = [name for name, _ in named]
    if not named or "" in names:
        raise InputError(
            f"{path}: datasets: expected a list such as [movielens-100k, {{source: csv, ...}}], or name: block"
        )
    if len(set(names)) < len(names):
        raise InputError(
            f"{path}: datasets: two have the source '{max(names, key=names.count)}': give them names (name: block)"
        )
    blocks = {name: {"source": block} if isinstance(block, str) else block for name, block in named}
    published = plain.pop("published", None) or []
    for row in published if isinstance(published, list) else []:
        about = row.get("dataset") if isinstance(row, dict) else None
        if about not in blocks:
            raise InputError(f"{path}: published: dataset: found {about!r}{nearest(str(about), names)}")
    together = {"together": plain.get("name"), **dict(_items(plain, "report"))}
    return [
        {
            **plain,
            "name": f"{plain.get('name')}-{name}",
            "dataset": block,
            "report": together,
            "published": [row for row in published if row["dataset"] == name],
        }
        for name, block in blocks.items()
    ]


def _items(plain: dict[str, Any], key: str) -> list[tuple[str, Any]]:
    block = plain.get(key)
    return list(block.items()) if isinstance(block, dict) else []


def _plain(value: Any) -> Any:
    """Return ruamel's annotated containers and scalars as plain Python ones."""
    if isinstance(value, CommentedMap):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, CommentedSeq):
        return [_plain(v) for v in value]
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value


def _override(tree: dict[str, Any], override: str) -> None:
    """Set ``a.b.c=value`` (value in YAML) in place."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError(f"override '{override}': expected key.path=value, such as models.ease.l2=100")
    *parents, last = key.split(".")
    node: Any = tree
    for depth, name in enumerate(parents):
        if not isinstance(node, dict):
            raise InputError(f"override '{override}': '{'.'.join(parents[:depth])}' is not a block of keys")
        node = node.setdefault(name, {})  # a block that the file leaves to its defaults; checked with the rest
    if not isinstance(node, dict):
        raise InputError(f"override '{override}': '{'.'.join(parents)}' is not a block of keys")
    try:
        node[last] = _plain(YAML().load(text)) if text else None
    except MarkedYAMLError:
        node[last] = text


def _where(path: Path, document: CommentedMap, loc: tuple[Any, ...]) -> str:
    """Return ``file:line`` of the deepest key of ``loc`` that stands in the file."""
    node: Any = document
    line = document.lc.line
    for part in loc:
        if isinstance(node, CommentedMap) and part in node:
            line = node.lc.key(part)[0]
        elif isinstance(node, CommentedSeq) and isinstance(part, int) and part < len(node):
            line = node.lc.item(part)[0]
        else:
            continue  # a tag of a union, or a block that the file flattens
        node = node[part]
    return f"{path}:{line + 1}: "
