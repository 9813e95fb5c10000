"""`make bench`: every figure of "How fast" as a ratio measured in one run, written to results/bench/."""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmark.runs.environment import environment

PARTS = ("evaluation", "models", "recbole", "zoo", "llm", "decoder", "data", "sweep", "report", "start")
FOLDER = Path(__file__).parents[2] / "results" / "bench"


def start(small: bool = False) -> list[dict[str, Any]]:
    """Time `levelfield --help` against importing what any such command needs; the best of several."""

    def best(command: list[str]) -> float:
        seconds = []
        for _ in range(3 if small else 10):
            begin = time.perf_counter()
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            seconds.append(time.perf_counter() - begin)
        return min(seconds)

    levelfield = Path(sys.executable).with_name("levelfield")
    ours, reference = best([str(levelfield), "--help"]), best([sys.executable, "-c", "import typer, rich"])
    return [
        {
            "what": "levelfield --help",
            "reference": 'python -c "import typer, rich"',
            "ours_s": ours,
            "reference_s": reference,
            "ratio": ours / reference,
            "reach": 1.5,
        }
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=[], help=f"which of {', '.join(PARTS)}; all by default")
    parser.add_argument("--small", action="store_true", help="small sizes, to see that it runs; nothing is written")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    file = FOLDER / "bench.json"
    for part in arguments.parts or PARTS:
        run = start if part == "start" else importlib.import_module(f"tests.bench.bench_{part}").run
        rows += [{**row, "part": part} for row in run(small=arguments.small)]
    if not arguments.small:
        kept = json.loads(file.read_text())["rows"] if file.exists() else []
        rows = [row for row in kept if row["part"] not in {r["part"] for r in rows}] + rows
        rows.sort(key=lambda row: PARTS.index(row["part"]))
        FOLDER.mkdir(parents=True, exist_ok=True)
        body = {"date": time.strftime("%Y-%m-%d"), "environment": environment(), "rows": rows}
        file.write_text(json.dumps(body, indent=1, default=str) + "\n", encoding="utf-8")
        (FOLDER / "bench.md").write_text(markdown(rows), encoding="utf-8")
    table = Table("what", "reference", "ours s", "reference s", "ratio", "reach", "note")
    for row in rows:
        table.add_row(*cells(row))
    Console(width=160).print(table)


def cells(row: dict[str, Any]) -> list[str]:
    """Return one row's cells; a ratio within its reach is marked."""
    numbers = [f"{row[k]:.3g}" if isinstance(row.get(k), (int, float)) else "–" for k in ("ours_s", "reference_s")]
    ratio, reach = row.get("ratio"), row.get("reach")
    shown = "–" if ratio is None else f"{ratio:.2f}"
    if ratio is not None and reach is not None:
        shown += " reached" if ratio <= reach else " missed"
    return [row["what"], row["reference"], *numbers, shown, "–" if reach is None else f"{reach:g}", row.get("note", "")]


def markdown(rows: list[dict[str, Any]]) -> str:
    heads = ["what", "reference in the same run", "ours, s", "reference, s", "ratio", "to reach", "note"]
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    return "\n".join([*lines, *("| " + " | ".join(cells(row)) + " |" for row in rows), ""])


if __name__ == "__main__":
    main()
