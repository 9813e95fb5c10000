"""Memory: whether a backbone knows the data set's titles and lines by heart before it is trained here."""

from __future__ import annotations

from rich.console import Console

from benchmark.audit.finding import Finding
from benchmark.audit.material import Material


def memory(material: Material, probe: Console | None) -> list[Finding]:
    return []
