"""The `report:` and `published:` blocks of an experiment: which statistics, which costs, whose numbers beside ours."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, field_validator

from benchmark.errors import nearest

# what models that are shipped say of themselves; one's own may say anything
MEASURED = (
    *("size_mb", "layers", "temperature", "a", "b", "adalora_mean_rank", "compute_bits"),
    *("training_tokens", "padding_share", "prompts_cut_share", "history_items_cut_a_prompt"),
    *("encode_ms", "item_texts_cut_share", "popularity_weight", "decay", "base_cka", "neighbour_overlap"),
    *("base_kl", "base_perplexity", "tuned_perplexity", "corpus_perplexity", "corpus_base_perplexity"),
    *("next_token_agreement", "distinct_1", "distinct_2", "distinct_3", "repetition_4"),
    *("base_distinct_1", "base_distinct_2", "base_distinct_3", "base_repetition_4"),
)
Cost = Literal["train_seconds", "ms_per_user", "trainable_parameters", "peak_memory", "energy_wh"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Tradeoff(_Strict):
    """The figure of a metric against what models say of themselves: recommendation quality against retention."""

    measured: str = Field(description="Of `report()` of the models, such as base_kl or base_cka: the horizontal axis.")
    metric: str | None = Field(None, description="A metric of the task; its first one when left out.")
    curves: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="Name of a line -> labels of its rows, in the order of their strength."
    )


class Report(_Strict):
    """How the table and the report are made; no setting of it changes a run."""

    together: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Experiments of a file with one name here stand in one table, a data set beside the other; "
        "`datasets:` sets it.",
    )
    test: Literal["permutation", "wilcoxon"] = Field(
        "permutation", description="Of the difference to the best baseline, paired over users."
    )
    correction: Literal["holm", "bh"] = Field(
        "holm", description="For the comparisons of a column: holm bounds any false mark, bh the share of false ones."
    )
    significance: float = Field(0.05, gt=0, lt=1, description="Corrected p-value below which a cell is marked.")
    costs: tuple[Cost, ...] = Field(("train_seconds", "ms_per_user"), description="Cost columns of the table.")
    measured: tuple[str, ...] = Field(
        (),
        description="Columns of what models say of themselves after training (`report()` of the class, `model_report` "
        "of the record), such as size_mb or item_texts_cut_share; neither ranked nor tested.",
    )
    beyond: tuple[str, ...] = Field(
        (),
        description="Columns of fairness and exposure, from the stored lists and ranks: coverage@10, gini@10, "
        "novelty@10, diversity@10, popularity_bias@10, gap(gender), gap(age):auc, exposure(genres)@10.",
    )
    tradeoff: Tradeoff | None = Field(
        None, description="tradeoff.svg and a section of the report: a metric against a measured number."
    )
    proposed: tuple[str, ...] | None = Field(
        None, description="Labels of the models that the table argues for; the language models when left out."
    )
    user_groups: tuple[str, ...] | None = Field(
        None, description="Columns of the users table to part them by; all with few values when left out."
    )

    def doubtful(self, found: Iterable[str] = ()) -> list[str]:
        """Return a line for each measured number that no shipped model has, and that is not among those ``found``."""
        asked = [("measured", name) for name in self.measured]
        asked += [("tradeoff.measured", self.tradeoff.measured)] if self.tradeoff else []
        known = {*MEASURED, *found}
        return [
            f"report.{key}: no model that is shipped measures '{name}'{nearest(name, known)} (one of your own may)"
            for key, name in asked
            if name not in known
        ]

    @field_validator("costs", "measured")
    @classmethod
    def _once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise ValueError(f"'{max(names, key=names.count)}' stands twice")
        return names


class Published(_Strict):
    """A row of somebody's table: shown beside ours with the difference, never ranked with it."""

    model: str = Field(description="Label of our row it stands beside; another name makes a row of its own.")
    source: str = Field(min_length=1, description="Where it is published: paper, table, address.")
    settings: str = Field("", description="What differs from ours: split, candidates, data version.")
    values: dict[str, FiniteFloat] = Field(
        min_length=1, description="By metric of the task, such as {ndcg@10: 0.0423}."
    )
    dataset: str | None = Field(None, description="Of a file with several data sets: the one it is about.")
