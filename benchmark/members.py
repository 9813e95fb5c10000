"""Members: what is checked of the labels and weights of a row that is made of several others."""

from __future__ import annotations

from collections.abc import Sequence


def check_weights(members: Sequence[str], weights: Sequence[float] | None) -> None:
    """Refuse labels that stand twice, and weights that are not one a label or that no mean can be made of.

    Raises:
        ValueError: for a validator of pydantic.
    """
    if weights is not None and len(weights) != len(members):
        raise ValueError(f"weights: {len(weights)} of them for {len(members)} members")
    if weights is not None and not sum(weights) > 0:
        raise ValueError(f"weights: their sum is {sum(weights):g}, expected more than 0")
    if len(set(members)) < len(members):
        raise ValueError("members: one of them stands twice; give it a weight instead")
