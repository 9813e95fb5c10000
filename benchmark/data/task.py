"""Task: what is predicted, on which split, among which candidates, judged by which metrics."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from benchmark.data.candidates import Candidates, Full
from benchmark.data.split import SplitSpec, Temporal


class Task(BaseModel):
    """The protocol shared by all models of one table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["ranking", "preference"] = Field(
        "ranking", description="ranking: order the catalogue for each user; preference: like or dislike, row by row."
    )
    split: SplitSpec = Temporal()
    candidates: Candidates = Field(Full(), description="Which items are ranked (ranking only).")
    metrics: Annotated[tuple[str, ...], Field(min_length=1)] = ("auc", "ndcg@10", "recall@10", "recall@20", "mrr")
    positive_rating: float = Field(4.0, description="Preference only: a rating of at least this is a like.")
    history: Literal["before_split", "before_target"] = Field(
        "before_split",
        description="before_split: histories hold known parts only (train; at test train and valid). "
        "before_target (preference only): also earlier rows of the part itself, as in TALLRec and CoLLM.",
    )
    history_holds: Literal["all", "likes"] = Field(
        "all", description="Preference only: histories hold all rated items, each with its label, or the likes alone."
    )
    min_history: int = Field(
        0, ge=0, description="Ranking only: judge users with at least so many earlier interactions."
    )
    allow_repeats: bool = Field(False, description="Ranking only: seen items stay in the competition.")
    domain: str | None = Field(
        None, description="Of joined data sets: the one that is judged; its items alone are ranked, for whom it has."
    )
    limit_valid: int | None = Field(None, gt=0, description="Judge a seeded sample of users (rows) at validation.")
    limit_test: int | None = Field(None, gt=0, description="Judge a seeded sample of users (rows) at test.")

    @model_validator(mode="after")
    def _possible(self) -> Task:
        if self.kind == "preference" and self.candidates.kind != "full":
            raise ValueError("candidates: a preference task scores labelled rows and takes no candidates")
        if self.kind == "preference" and self.min_history:
            raise ValueError("min_history: only a ranking task selects users by their history")
        if self.domain is not None and self.kind == "ranking" and self.candidates.kind != "full":
            raise ValueError("domain: all items of the domain are ranked; candidates cannot be sampled")
        if self.kind == "ranking" and self.history == "before_target":
            raise ValueError("history: before_target is for preference tasks; a ranking has one history per user")
        if self.kind == "ranking" and self.history_holds == "likes":
            raise ValueError("history_holds: only a preference task knows likes; filter a ranking by min_rating")
        return self
