"""The `dataset:`, `trainer:` and `tracking:` blocks of an experiment, under the names of what they are passed to."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from benchmark.data.filters import Filters
from benchmark.data.sources import Source
from benchmark.data.vectors import VectorFile


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
    """A source (its settings stand beside ``source``), the filters applied to it, and vectors of its items."""

    source: Source
    filters: Filters = Filters()
    vectors: dict[str, VectorFile] = Field(default_factory=dict, description="Files of item vectors, by modality.")

    @model_validator(mode="before")
    @classmethod
    def _flat(cls, value: Any) -> Any:
        # in the file the source's settings stand flat beside `source: name`
        if isinstance(value, dict) and isinstance(value.get("source"), str):
            own = {k: v for k, v in value.items() if k in ("filters", "vectors")}
            return {"source": {k: v for k, v in value.items() if k not in own}, **own}
        return value

    @model_serializer(mode="wrap")
    def _without_nothing(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # runs on data without vectors keep their keys
        return {k: v for k, v in handler(self).items() if k != "vectors" or v}
