"""Finds a model class by its path and checks its hyper-parameters; what is wrong names the nearest valid name."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from benchmark.errors import InputError, nearest
from benchmark.validation import describe

if TYPE_CHECKING:
    from benchmark.recommender import ModelConfig, Recommender


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
    """Return the checked hyper-parameters of a model; a block of them with a class of its own is checked as a model."""
    for key, value in parameters.items():
        if isinstance(value, dict) and "class" in value:
            inner = model_class(str(value["class"]), f"{where}.{key}")
            model_config(inner, {k: v for k, v in value.items() if k != "class"}, f"{where}.{key}")
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
