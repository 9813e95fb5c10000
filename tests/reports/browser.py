"""Helpers of the tests of pages: a page opened in a browser and watched, made-up content that looks real."""

from __future__ import annotations

import base64
import contextlib
import gzip
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmark.audit.finding import LEVELS, Finding
from benchmark.reports import audit
from benchmark.reports.leaderboard import leaderboard
from benchmark.reports.page import Section, command, page, placeholder, switch, table
from benchmark.reports.table import Cell, Column, ComparisonTable, Row
from benchmark.reports.users_page import users_section

NASTY = "<img src=x onerror=alert(1)>"
MODELS = {
    "popularity": "trivial",
    "random": "trivial",
    "ease": "collaborative",
    "bpr-mf": "collaborative",
    "itemknn": "collaborative",
    "minilm-frozen": "llm-zero-shot",
    "minilm-lora": "llm",
    f"evil {NASTY}": "llm",
}
DATASETS = ("ml-100k", "books")
FINDINGS = [
    Finding(level, f"A check {NASTY}", level, f"What was found: {meaning}, 12.3 %.")
    for level, meaning in LEVELS.items()
]


@contextlib.contextmanager
def opened(chromium: Any, path: Path, script: str = "", **options: Any) -> Iterator[Any]:
    """Open a file as a page, with ``options`` of the context and a ``script`` run before its own.

    At the end nothing may have gone wrong and nothing may have been asked for but the file.
    """
    context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    context.set_default_timeout(10_000)
    if script:
        context.add_init_script(script)
    view = context.new_page()
    wrong: list[str] = []
    requests: list[str] = []
    view.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None)
    view.on("pageerror", lambda e: wrong.append(str(e)))
    view.on("dialog", lambda d: (wrong.append(f"dialog {d.message}"), d.dismiss()))
    view.on("request", lambda r: requests.append(r.url))
    view.goto(path.as_uri())
    try:
        yield view
        assert wrong == []
        # what Plotly makes of its own (blob:, data:) comes out of the page itself
        assert [url for url in requests if not url.startswith(("blob:", "data:"))] == [path.as_uri()]
    finally:
        context.close()


def until(view: Any, expression: str) -> None:
    """Wait until an expression is true; Playwright's own way of waiting needs eval, which the pages forbid."""
    for _ in range(200):
        if view.evaluate(expression):
            return
        view.wait_for_timeout(50)
    raise AssertionError(f"never true: {expression}")


def unpacked(text: str, id: str = "payload") -> str:
    """Return what a page holds compressed under ``id``."""
    found = re.search(rf'<script type="application/octet-stream;base64" id="{id}">([\w+/=]+)</script>', text)
    assert found, f"nothing packed as {id}"
    return gzip.decompress(base64.b64decode(found[1])).decode()


def comparison(several: bool = True) -> ComparisonTable:
    """Return a table of eight models; one failed, one cannot, one has no number that is defined."""
    rng = random.Random(0)
    columns = []
    for dataset in DATASETS if several else ("",):
        columns += [Column(dataset, "ndcg@10", "NDCG@10", "metric"), Column(dataset, "mrr", "MRR", "metric")]
        columns += [Column(dataset, "log_loss", "Log loss", "metric", lower=True)]
        columns += [Column(dataset, "train_seconds", "Train s", "cost", lower=True)]
    rows = []
    for i, (label, group) in enumerate(MODELS.items()):
        cells = []
        for column in columns:
            if label == "random" and column.dataset == "books":
                cells.append(Cell(reason="failed"))
            elif label == "bpr-mf" and column.name == "log_loss":
                cells.append(Cell(reason="undefined"))
            elif label == "itemknn" and column.dataset == "books":
                cells.append(Cell(reason="cannot do a preference task"))
            elif column.kind == "cost":
                cells.append(Cell(rng.choice([0.05, 3.2, 812.0]) * (i + 1), 0.1))
            else:
                mean = (0.9 - 0.04 * i if column.lower else 0.1 + 0.02 * i) + rng.uniform(0, 0.01)
                rank, mark = {7: (1, 1), 6: (2, 1), 0: (None, -1)}.get(i, (None, 0))
                cells.append(Cell(mean, 0.0012, mean - 0.013, mean + 0.014, "", rank, mark, 0.0004 if mark else 0.31))
        rows.append(Row(label, group, tuple(cells)))
    return ComparisonTable(
        name="quickstart",
        columns=tuple(columns),
        rows=tuple(rows),
        protocols=tuple(
            f"{d}: 80,000 / 10,000 / 10,000 interactions, split at one global time for everybody; 943 test users "
            "ranked against the full catalogue, seen items removed; mean ± s.d. over 3 seeds."
            for d in (DATASETS if several else ("ml-100k",))
        ),
        legend=("† better, ‡ worse than the best baseline, ease: p < 0.05, Holm.",),
        notes=("bpr-mf: 1 of 3 seeds failed", f"evil {NASTY}: trained on 1000 rows"),
    )


def users(preference: bool = False, n: int = 60, lower: bool = False) -> dict[str, Any]:
    """Return what a section of users compares: ``n`` example users of as many."""
    rng = random.Random(1)
    models, edges = list(MODELS), [round(-1 + i / 10, 1) for i in range(21)]
    items = [f"{t} ({1960 + i})" for i, t in enumerate(["Toy Story", "Heat", "Babe & Co", NASTY, "The Postman"] * 8)]
    items[3] = NASTY
    out: list[dict[str, Any]] = []
    for u in range(n):
        held = rng.sample(range(40), 2)
        user: dict[str, Any] = {"id": str(100 + u), "about": "age 49 · M · writer" if u % 3 else "", "n_history": 39}
        user |= {"history": [3, *rng.sample(range(40), 14)], "held_out": held}
        user["values"] = [round(rng.random() * rng.choice([0, 1]), 3) for _ in models]
        if preference:
            del user["held_out"]
            user["rows"] = [{"item": i, "label": i % 2, "scores": [rng.random() for _ in models]} for i in (3, 4, 5)]
        else:
            user["top"] = [[held[0], *rng.sample(range(40), 4)] for _ in models]
            user["hits"] = [[1, 0, 0, 0, 0] for _ in models]
            user["ranks"] = [[1, rng.randrange(2, 4000) / 2] for _ in models]
        out.append(user)
    size = range(len(models))
    gain = [[[u["values"][a] - u["values"][b] for u in out] for b in size] for a in size]
    mean = [[sum(gain[a][b]) / n for b in size] for a in size]
    counts = {
        f"{a},{b}": [sum(low <= g < low + 0.1 and g != 0 for g in gain[a][b]) for low in edges[:-1]]
        for a in size
        for b in size
        if a < b
    }
    return {
        "models": models,
        "metric": "NDCG@10",
        "lower": lower,
        "pooled": preference,
        "n": [[n for _ in size] for _ in size],
        "wins": [[sum((g < 0) if lower else (g > 0) for g in gain[a][b]) for b in size] for a in size],
        "difference": mean,
        "low": [[m - 0.02 for m in row] for row in mean],
        "high": [[m + 0.02 for m in row] for row in mean],
        "p": [[1.0 if a == b else 0.021 for b in size] for a in size],
        "edges": edges,
        "histogram": counts,
        "items": items,
        "users": out,
    }


def figure(kind: str, height: int = 420) -> dict[str, Any]:
    data = [{"type": kind, "name": "ease", "x": ["cold", "light", "heavy"], "y": [0.1, 0.2, 0.25]}]
    data += [{"type": kind, "name": "minilm-lora", "x": ["cold", "light", "heavy"], "y": [0.15, 0.21, 0.24]}]
    axes = {"xaxis": {"title": {"text": "History"}}, "yaxis": {"title": {"text": "NDCG@10"}}}
    return {"data": data, "layout": {"height": height, "template": {"layout": {}}, **axes}}


def report() -> str:
    """Return a page with all that a page can have."""
    figures = {"cost": figure("scatter"), "by-history": figure("bar"), "by-age": figure("scatter", 360)}
    segments = switch("segments", "Who gains", {"by history": "by-history", "by age": "by-age"}, label="Users")
    rows = [["minilm-lora", "0.1234", "24"], [f"evil {NASTY}", "0.1300", "12"]]
    sections = [
        Section("table", "Comparison", leaderboard(comparison(), controls=True) + audit.alarm(FINDINGS, "audit")),
        Section("audit", "Audit", audit.section(FINDINGS)),
        Section("costs", "Quality and cost", placeholder("cost", "NDCG@10 against seconds", min_width=600)),
        Section("who", "Groups of users", segments),
        Section("users", "User by user", users_section("ml-100k", list(MODELS), "NDCG@10")),
        Section("likes", "Row by row", users_section("books", list(MODELS), "UAUC", "ease", "popularity")),
        Section("search", "Search", table(["Model", "NDCG@10", "Trials"], rows, "Summary of the search")),
        Section("again", "Run it again", command("levelfield run experiments/quickstart.yaml --set 'seeds=[0, 1, 2]'")),
    ]
    data = {"users": {"ml-100k": users(), "books": users(preference=True, lower=True)}}
    intro = "<p>Eight models on two data sets, levelfield 0.1.0.</p>"
    return page("quickstart", sections, figures, data, intro)
