"""Reads an experiment file: YAML, overrides from the shell, lists that multiply; whatever is wrong becomes one line."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError

from benchmark.errors import InputError, nearest
from benchmark.experiment.slices import of_slices
from benchmark.experiment.spec import Experiment
from benchmark.experiment.together import check_together, grids
from benchmark.experiment.transfer import of_targets
from benchmark.validation import describe


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


def _grid(plain: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    """Return one experiment a data set, with one row a model and budget: lists of them multiply.

    ``datasets:`` takes the place of ``dataset:``; ``limit_train:`` stands at a model, or above for all that have none.
    The rows of one list of budgets are a family, called what the model is called in the file.
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
        family = {"family": label, **entry}
        models |= {f"{label}-{'all' if n is None else n}": {**family, "limit_train": n} for n in budgets}
    if models:
        plain["models"] = models
    if "slices" in plain:
        return of_slices(plain, path)
    if "targets" in plain:
        return of_targets(plain, path)
    for label, entry in _items(plain, "models"):
        for key, needed in (("transfer", "targets"), ("update", "slices")):
            if isinstance(entry, dict) and (key == "transfer" or isinstance(entry.get(key), list)) and key in entry:
                raise InputError(f"{path}: models.{label}.{key}: it needs `{needed}:` at the top of the experiment")
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
