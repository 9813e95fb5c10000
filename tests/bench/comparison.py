"""One line of the bench, as `tests.bench` writes it."""

from __future__ import annotations

from typing import Any


def row(what: str, reference: str, ours: float, theirs: float, reach: float, note: str) -> dict[str, Any]:
    """Return a line of the bench: our seconds, the reference's, their ratio, and the largest ratio wanted."""
    return {
        "what": what,
        "reference": reference,
        "ours_s": ours,
        "reference_s": theirs,
        "ratio": ours / theirs,
        "reach": reach,
        "note": note,
    }
