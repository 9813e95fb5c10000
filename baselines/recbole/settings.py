"""Settings: stands for RecBole's ``Config``; what a model's constructor reads."""

from __future__ import annotations

from typing import Any

import torch

from baselines.recbole import compat, zoo
from baselines.recbole.config import RecBoleConfig


class Settings:
    """Stands for RecBole's ``Config``: its defaults and our values; reads no command line and sets nothing globally."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.final_config_dict = values

    def __getitem__(self, key: str) -> Any:
        return self.final_config_dict.get(key)

    def __setitem__(self, key: str, value: Any) -> None:
        self.final_config_dict[key] = value

    def __contains__(self, key: str) -> bool:
        return key in self.final_config_dict

    def __getattr__(self, key: str) -> Any:
        if key.startswith("_") or key == "final_config_dict" or key not in self.final_config_dict:
            raise AttributeError(key)
        return self.final_config_dict[key]

    @classmethod
    def of(cls, config: RecBoleConfig, seed: int) -> Settings:
        """Return all that a constructor may read: RecBole's defaults, then the parameters given."""
        values = compat.read_properties("overall") | compat.read_properties("dataset/sample") | config.values()
        values["train_neg_sample_args"] = {"sample_num": config.n_negatives() or 1}
        if config.batch_size is not None:
            values["train_batch_size"] = config.batch_size
        if config.model == "KD_DAGFM":
            values["phase"] = "teacher_training"  # what comes later would load a pickle; see the schedule
        values |= {"model": config.model, "device": torch.device("cpu"), "seed": seed}
        pairwise = zoo.batch_kind(config.model, values) == "pairwise"
        kinds = compat.load("utils.enum_type").InputType
        values["MODEL_INPUT_TYPE"] = kinds.PAIRWISE if pairwise else kinds.POINTWISE
        return cls(values)
