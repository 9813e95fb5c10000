"""One row of the table as the file says it: class, hyper-parameters, budgets, what it learns from and begins with."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from benchmark.experiment.search import Dimension


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Start(_Strict):
    """Whose weights a model begins with: those of a row trained for another domain."""

    model: str | None = Field(None, description="Label of a row of the same class; the row's own when left out.")
    domain: str = Field(description="task.domain of the table in which that row was trained and selected.")


class Way(_Strict):
    """One cell of a matrix of transfer."""

    of: str = Field(description="The model, by its label in the file.")
    source: str = Field(description="Where it comes from: a domain, or `alone`, `joint`, `merged`, `merged (ties)`.")
    budget: int | None = Field(description="How many interactions of the target it learns from; None: all.")


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
    train_on: dict[str, Annotated[int, Field(gt=0)] | None] | None = Field(
        None,
        description="Of joined data sets: the domains to train on, a list or {name: interactions}; `target` is the "
        "judged one, `others` are the rest. An empty list trains nothing: the row is what it starts from.",
    )
    start: Start | None = Field(None, description="Begin with the weights of a row trained for another domain.")
    update: Literal["retrained", "static", "continued"] = Field(
        "retrained",
        description="In later slices of a prequential split: trained anew on all that came before, kept as it was in "
        "the first slice, or its weights trained further on what is new; a list gives a row each.",
    )
    way: Way | None = Field(None, description="Which cell of the matrix of transfer the row is; `transfer` sets it.")
    family: str | None = Field(
        None,
        description="Rows of one family are one model at several budgets, a learning curve; a list of budgets sets it.",
    )
    search: dict[str, Dimension] = Field(
        default_factory=dict,
        description="Hyper-parameters that `levelfield sweep` searches, by their path: peft.rank, trainer.max_epochs.",
    )

    @field_validator("train_on", mode="before")
    @classmethod
    def _all_of_each(cls, value: Any) -> Any:
        return dict.fromkeys(map(str, value)) if isinstance(value, (list, tuple)) else value

    @model_validator(mode="after")
    def _one_budget(self) -> ModelEntry:
        if self.train_on is not None and self.limit_train is not None:
            raise ValueError("train_on and limit_train do not go together; write {domain: interactions}")
        if self.update != "retrained" and (self.limit_train is not None or self.train_on is not None):
            raise ValueError("update goes with neither limit_train nor train_on")
        if self.search and (self.start is not None or self.update != "retrained"):
            raise ValueError("search: a row that begins with the weights of another run cannot be searched")
        if self.train_on == {} and self.start is None:
            raise ValueError("train_on: nothing to train on, and no `start` to take weights from")
        return self

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
            plain = merged(plain, change)
        return self.model_copy(update=plain)


def merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``change`` laid over it, block by block."""
    out = dict(base)
    for key, value in change.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = merged(out[key], value) if both else value
    return out
