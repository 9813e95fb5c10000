"""Augment: histories that are cropped, thinned out or reordered in training, drawn anew in every epoch."""

from __future__ import annotations

from dataclasses import replace

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from benchmark.data.batch import Batch


class Augment(BaseModel):
    """The operators of CL4SRec (Xie et al., ICDE 2022, arXiv:2010.14395) on the histories of training batches.

    A row is augmented with ``probability``, by one of the operators that are set, each as likely. Sequence batches are
    augmented as a whole, inputs and targets, and keep two items at least; the histories of other batches keep one, and
    their target is never touched. "mask" leaves items out, since models have no mask token. Items and their labels move
    together; times move with them too, save in ``reorder``, where they stay in place, so that they still ascend.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    crop: float | None = Field(None, gt=0, lt=1, description="Share of a history that is kept, in one piece.")
    mask: float | None = Field(None, gt=0, lt=1, description="Share of a history's items that is left out.")
    reorder: float | None = Field(None, gt=0, le=1, description="Share of a history, in one piece, that is shuffled.")
    probability: float = Field(0.5, gt=0, le=1, description="Chance of a row to be augmented.")

    @model_validator(mode="after")
    def _any(self) -> Augment:
        if not self.operators:
            raise ValueError("none of crop, mask, reorder is set; expected one at least, such as crop: 0.6")
        return self

    @property
    def operators(self) -> list[str]:
        return [name for name in ("crop", "mask", "reorder") if getattr(self, name) is not None]

    def apply(self, batch: Batch, pad: int, least: int, generator: torch.Generator) -> Batch:
        """Return the batch with augmented histories.

        Args:
            batch: of B rows, with histories.
            pad: the padding id of histories.
            least: items that a history keeps, where it has as many.
            generator: what is drawn from.
        """
        assert batch.history is not None
        assert batch.history_length is not None
        length, names = batch.history_length, self.operators
        none = torch.rand(len(batch), generator=generator) >= self.probability
        which = torch.randint(len(names), (len(batch),), generator=generator).masked_fill(none, -1)
        at = torch.arange(batch.history.shape[1]).expand(batch.history.shape)
        at_time, kept = at, length
        for number, name in enumerate(names):
            mine = which == number
            share = getattr(self, name)
            moved, left = _OPERATORS[name](length, at, share, least, generator)
            at = torch.where(mine.unsqueeze(1), moved, at)
            kept = torch.where(mine, left, kept)
            if name != "reorder":
                at_time = torch.where(mine.unsqueeze(1), moved, at_time)
        width = max(int(kept.max()), 1)
        real = torch.arange(width) < kept.unsqueeze(1)

        def taken(values: Tensor | None, places: Tensor, empty: float) -> Tensor | None:
            return None if values is None else values.gather(1, places[:, :width]).masked_fill(~real, empty)

        return replace(
            batch,
            history=taken(batch.history, at, pad),
            history_length=kept,
            history_label=taken(batch.history_label, at, 0.0),
            history_time=taken(batch.history_time, at_time, 0.0),
        )


def _share(length: Tensor, share: float) -> Tensor:
    return (length.double() * share).long()


def _start(length: Tensor, size: Tensor, generator: torch.Generator) -> Tensor:
    """Return (B, 1) where a piece of ``size`` begins in ``length`` places, each as likely."""
    return (torch.rand(len(length), generator=generator, dtype=torch.float64) * (length - size + 1)).long().unsqueeze(1)


def crop(length: Tensor, at: Tensor, share: float, least: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the (B, L) places that stand first, and (B,) how many stay: a piece of each history.

    Args:
        length: (B,) items of each history.
        at: (B, L) places, 0 to L - 1.
        share: of the items, rounded down.
        least: items that stay at least, where there are as many.
        generator: what is drawn from.
    """
    size = torch.minimum(_share(length, share).clamp(min=least), length)
    start = _start(length, size, generator)
    return (start + torch.arange(at.shape[1])).clamp(max=at.shape[1] - 1), size


def mask(length: Tensor, at: Tensor, share: float, least: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the places and numbers of what is not left out, as ``crop`` does."""
    out = torch.minimum(_share(length, share), (length - least).clamp(min=0))
    column = torch.arange(at.shape[1])
    real = column < length.unsqueeze(1)
    lot = torch.rand(at.shape, generator=generator, dtype=torch.float64).masked_fill(~real, 2.0)
    drawn = lot.argsort(1).argsort(1) < out.unsqueeze(1)
    return (drawn | ~real).long().argsort(dim=1, stable=True), length - out


def reorder(length: Tensor, at: Tensor, share: float, least: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the places with a piece of each history shuffled, and the lengths as they are."""
    size = _share(length, share)
    start = _start(length, size, generator)
    column = torch.arange(at.shape[1])
    inside = (column >= start) & (column < start + size.unsqueeze(1))
    lot = torch.rand(at.shape, generator=generator, dtype=torch.float64) * size.unsqueeze(1)
    return torch.where(inside, start + lot, column.double()).argsort(dim=1, stable=True), length


_OPERATORS = {"crop": crop, "mask": mask, "reorder": reorder}
