"""The `dataset:`, `trainer:` and `tracking:` blocks of an experiment, under the names of what they are passed to."""

from __future__ import annotations

from string import Formatter
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
    model_validator,
)

from benchmark.data.filters import Filters
from benchmark.data.sources import Source
from benchmark.data.vectors import VectorFile

HISTORY = "history"  # what a prompt about users calls the titles of their newest training interactions
ColumnName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


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


class Price(_Strict):
    """Of a million tokens, in whatever currency."""

    input: float = Field(0.0, ge=0)
    output: float = Field(0.0, ge=0)


class Enrichment(_Strict):
    """One written column of the items or users: by a language model from a prompt, or by a function from a column.

    What it costs and how it is asked for is no part of what is written, so it is no part of a run's identity.
    """

    of: Literal["items", "users"] = "items"
    prompt: str | None = Field(None, description="With {columns} of the table, and {history} for users.")
    model: str | None = Field(None, description="Hub name or folder; with an endpoint, what it calls the model.")
    endpoint: str | None = Field(None, description="Base URL of a server that speaks OpenAI's chat completions.")
    history: int = Field(10, ge=1, description="Newest training interactions that {history} holds.")
    max_tokens: int | None = Field(
        64, ge=1, description="Longest text; null is left out of what an endpoint is asked, whose own limit holds."
    )
    temperature: float = Field(0.0, ge=0)
    seed: int = Field(0, ge=0)
    parameters: dict[str, Any] = Field(default_factory=dict, description="Sent to the endpoint as they are.")
    rewrite: str | None = Field(None, description="package.module.function, list[str] -> list[str].")
    field: str | None = Field(None, description="The column that is rewritten.")
    arguments: dict[str, Any] = Field(default_factory=dict, description="Other arguments of the function, by name.")
    price: Price | None = Field(None, exclude=True, description="Of a million tokens of the endpoint.")
    concurrency: int = Field(4, ge=1, exclude=True, description="Requests that are under way at once.")
    retries: int = Field(4, ge=0, exclude=True, description="Of a request, with growing pauses.")

    @property
    def fields(self) -> tuple[str, ...]:
        """The names in the prompt's braces, each once."""
        names = (name for _, name, _, _ in Formatter().parse(self.prompt or "") if name is not None)
        return tuple(dict.fromkeys(names))

    @model_validator(mode="after")
    def _one_way(self) -> Enrichment:
        if (self.prompt is None) == (self.rewrite is None):
            found = "neither is" if self.prompt is None else "both are"
            raise ValueError(f"expected prompt (with a model) or rewrite (with a field); {found} given")
        if self.rewrite is not None:
            if self.field is None:
                raise ValueError("field: required beside rewrite: the column that is rewritten, such as title")
            if self.model is not None or self.endpoint is not None:
                raise ValueError("model and endpoint go with prompt, not with rewrite")
            return self
        if self.model is None:
            raise ValueError(
                "model: required beside prompt: a Hugging Face name or folder, or a name of the endpoint's"
            )
        if self.field is not None or self.arguments:
            raise ValueError("field and arguments go with rewrite, not with prompt")
        if self.endpoint is not None and "@" in urlsplit(self.endpoint).netloc:
            raise ValueError("endpoint: holds a name or password; a key is read from OPENAI_API_KEY alone")
        if self.endpoint is None and (self.price is not None or self.parameters):
            raise ValueError("price and parameters go with an endpoint")
        if self.endpoint is None and self.max_tokens is None:
            raise ValueError("max_tokens: null goes with an endpoint; a local model needs a longest text, such as 64")
        try:
            fields = self.fields
        except ValueError as error:
            raise ValueError(f"prompt: {error}; a brace of its own is written twice") from None
        if not fields or not all(fields):
            raise ValueError("prompt: names no {field}, so that all texts would be the same")
        return self


class DatasetConfig(_Strict):
    """A source (its settings stand beside ``source``), the filters applied to it, vectors of its items, and columns
    written besides.
    """

    flattened: ClassVar[str] = "source"  # its keys stand beside it in the file

    source: Source
    filters: Filters = Filters()
    vectors: dict[str, VectorFile] = Field(default_factory=dict, description="Files of item vectors, by modality.")
    enrich: dict[ColumnName, Enrichment] = Field(default_factory=dict, description="Columns that a model writes.")

    @model_validator(mode="before")
    @classmethod
    def _flat(cls, value: Any) -> Any:
        # in the file the source's settings stand flat beside `source: name`
        if isinstance(value, dict) and isinstance(value.get("source"), str):
            own = {k: v for k, v in value.items() if k in ("filters", "vectors", "enrich")}
            return {"source": {k: v for k, v in value.items() if k not in own}, **own}
        return value

    @model_serializer(mode="wrap")
    def _without_nothing(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # runs on data without them keep their keys
        return {k: v for k, v in handler(self).items() if v or k not in ("vectors", "enrich")}
