"""The experiment file: what it says (spec, search, presentation), how it is read (file), what stands in one table."""

from benchmark.experiment.file import load_all
from benchmark.experiment.spec import (
    LLM,
    Experiment,
    ModelEntry,
    RunSpec,
    TrainerConfig,
    WandbConfig,
    model_class,
    model_config,
)
from benchmark.experiment.together import check_together, grids

__all__ = [
    "LLM",
    "Experiment",
    "ModelEntry",
    "RunSpec",
    "TrainerConfig",
    "WandbConfig",
    "check_together",
    "grids",
    "load_all",
    "model_class",
    "model_config",
]
