"""Finding: what one check of the audit says, how bad it is, and the numbers behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Level = Literal["fault", "warning", "unknown", "fine"]
LEVELS: dict[Level, str] = {
    "fault": "the table must not be trusted as it is",
    "warning": "a reader must know it",
    "unknown": "it could not be checked",
    "fine": "checked, nothing found",
}


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        check: which, such as "future".
        title: what it looks at, in a few words.
        level: see LEVELS.
        said: one or two sentences with the numbers.
        numbers: the numbers again, for programs; none is nan.
    """

    check: str
    title: str
    level: Level
    said: str
    numbers: dict[str, float] = field(default_factory=dict)


def percent(share: float) -> str:
    """Return a share in words: 0.0312 -> "3.1 %"; what is not quite nothing is never shown as nothing."""
    if 0 < share < 0.001:
        return "less than 0.1 %"
    return f"{100 * share:.2f} %" if 0.995 <= share < 1 else f"{100 * share:.1f} %"


def shown_name(backbone: str) -> str:
    """Return a hub name as it is, and of a folder of this machine its last part alone."""
    local = backbone.startswith((".", "/", "~")) or backbone.count("/") > 1
    return Path(backbone).name if local else backbone


def reason(error: Exception, backbone: str) -> str:
    """Return what an error about a backbone says, without the folder of this machine that it may name."""
    text = str(error).rstrip(".")
    return text.replace(backbone, shown_name(backbone)) if backbone else text


def listed(names: Sequence[str]) -> str:
    """Return names in a sentence: "a, b and c"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def abridged(names: Sequence[str], most: int = 6) -> str:
    """Return names in a sentence; of many, the first and how many more there are."""
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return listed(names)
