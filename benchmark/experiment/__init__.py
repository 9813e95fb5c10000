"""The experiment file: what it says (spec, entry, settings, search, presentation), read and resolved."""

from benchmark.experiment.beyond import EXPOSURE, GAP, Beyond, check_columns
from benchmark.experiment.classes import model_class, model_config
from benchmark.experiment.entry import ModelEntry
from benchmark.experiment.file import load_all
from benchmark.experiment.run_spec import START, RunSpec
from benchmark.experiment.settings import TrainerConfig, WandbConfig
from benchmark.experiment.spec import LLM, Experiment
from benchmark.experiment.together import check_together, grids

__all__ = [
    "EXPOSURE",
    "GAP",
    "LLM",
    "START",
    "Beyond",
    "Experiment",
    "ModelEntry",
    "RunSpec",
    "TrainerConfig",
    "WandbConfig",
    "check_columns",
    "check_together",
    "grids",
    "load_all",
    "model_class",
    "model_config",
]
