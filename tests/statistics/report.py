"""The report of `make statistics`: what was simulated, what was found, and every figure that misses its goal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

LEVEL = 0.05
COVERAGE_OFF, FALSE_OFF = 0.01, 0.015  # how far from 95 % and from 5 % we accept


def table(heads: str, rows: Iterable[Sequence[str]], texts: int = 1) -> list[str]:
    """Return a Markdown table, a blank line before it; the first ``texts`` columns are set left. Heads: a, b, c."""
    names = heads.split(", ")
    rule = ["---"] * texts + ["---:"] * (len(names) - texts)
    return ["", *("| " + " | ".join(row) + " |" for row in (names, rule, *rows))]


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def marked(share: float, misses: bool) -> str:
    return f"**{percent(share)}**" if misses else percent(share)


def markdown(body: dict[str, Any]) -> str:
    """Return the report; what misses its goal is bold and counted."""
    missed: list[str] = []

    def judge(share: float, goal: float, off: float, one_sided: bool, what: str) -> str:
        far = share - goal if one_sided else abs(share - goal)
        if far > off + 1e-9:
            missed.append(f"{what}: {percent(share)}")
        return marked(share, far > off + 1e-9)

    lines = [
        "# Do the intervals and the tests keep what they say?",
        "",
        f"{body['date']}, `make statistics` (`python -m tests.statistics`), {body['minutes']:.0f} minutes; all figures "
        "with more digits, and what they ran on, in `statistics.json`. What misses its goal is bold.",
        "",
        "## Coverage of the 95 % interval",
        "",
        "Share of simulated tables whose interval (`bootstrap_intervals`, 2,000 draws of users, expanded percentiles) "
        "holds the true mean. Goal: 95 ± 1 %. *Above* and *below*: the share of intervals that lie wholly above and "
        "below the truth (2.5 % each would be even). *Student*: the coverage of the t interval on the same tables. "
        f"With {body['coverage'][0]['tables']:,} tables a figure is known to about ± 0.7 %.",
    ]

    def coverage(row: dict[str, Any]) -> list[str]:
        what = f"coverage, {row['values']}, {row['users']:,} users"
        covered = judge(row["covered"], 1 - LEVEL, COVERAGE_OFF, False, what)
        return [row["values"], f"{row['users']:,}", covered, *(percent(row[k]) for k in ("above", "below", "student"))]

    lines += table("Values of a user, Users, Covered, Above, Below, Student", map(coverage, body["coverage"]))
    lines += [
        "",
        "## Two runs of one model, simulated",
        "",
        "Both have the same quality; how hard a user is, is shared, and each run adds noise of its own to every user's "
        "rank; nDCG@10, three quarters of it zero. Share of tables in which the two are called different at .05 "
        "(`paired_p_values`). Goal: 5 ± 1.5 %. At 40,000 users the permutation test is its normal limit.",
    ]

    def equals(row: dict[str, Any]) -> list[str]:
        what = f"two equal runs, {row['test']}, {row['users']:,} users"
        share = judge(row["called different"], LEVEL, FALSE_OFF, False, what)
        return [row["test"], f"{row['users']:,}", f"{row['tables']:,}", share]

    lines += table("Test, Users, Tables, Called different", map(equals, body["equals"]))
    lines += [
        "",
        "## A table of a reference and ten equal models, simulated",
        "",
        "Share of tables with any false mark at .05 after Holm's correction (goal: at most 6.5 %), after Benjamini's "
        "and Hochberg's (with nothing to find it promises the same), and without correction, as a warning. Holm's lies "
        "below 5 % because the ten comparisons share the reference, for which it makes no allowance.",
    ]

    def marks(row: dict[str, Any]) -> list[str]:
        what = f"{row['test']}, {row['users']:,} users"
        shares = [judge(row[k], LEVEL, FALSE_OFF, True, f"any mark, {k}, {what}") for k in ("holm", "bh")]
        return [row["test"], f"{row['users']:,}", *shares, percent(row["none"])]

    lines += table("Test, Users, Holm, BH, No correction", map(marks, body["tables"]))
    lines += [
        "",
        "## A table of ten equal models, each compared with the best, simulated",
        "",
        "Share of tables with any mark when the best of the ten is picked by looking: corrected for all 45 pairs, as "
        "the tables do (goal: at most 6.5 %), and, as a warning, for the nine comparisons with the best alone.",
    ]

    def best(row: dict[str, Any]) -> list[str]:
        what = f"any mark against the best, {row['method']}, {row['users']:,} users"
        share = judge(row["all pairs"], LEVEL, FALSE_OFF, True, what)
        return [row["method"], f"{row['users']:,}", share, percent(row["own pairs"])]

    lines += table("Correction, Users, All pairs, Its own pairs alone", map(best, body["best"]))
    lines += [
        "",
        "## Two models of several seeds, simulated",
        "",
        "Both are one model, whose seeds move it as a whole: by 0, 1 or 3 times what the users' noise makes one expect "
        "of the difference of two runs; 200 users. *Users alone* is the test over users; *seeds counted* is what the "
        "tables use (`counting_seeds`). Goal: 5 ± 1.5 %. Of one seed nothing can be counted.",
    ]

    def moving(row: dict[str, Any]) -> list[str]:
        share = judge(row["counted"], LEVEL, FALSE_OFF, False, f"{row['seeds']} seeds moved by {row['moved']}")
        return [str(row["seeds"]), str(row["moved"]), percent(row["alone"]), share]

    lines += table("Seeds, Moved by, Users alone, Seeds counted", map(moving, body["moving"]), texts=0)
    lines += [
        "",
        "## Seeds of a real model",
        "",
        f"MF of `experiments/quickstart.yaml` on MovieLens-100K, {body['seeds'][0]['seeds']} seeds: share of all pairs "
        "of seeds that are called different at .05 by a test over users. A seed moves a model as a whole, for all "
        "users in one direction, and no test over users knows that another would have moved it elsewhere. *Spread* is "
        "the standard deviation of the difference of two seeds, *s.e. by users* what the users alone make one expect "
        "of it. With one seed a mark says that these two runs differ; that the models do, only several can say.",
    ]

    def pairs(row: dict[str, Any]) -> list[str]:
        figures = [f"{row[k]:.4f}" for k in ("mean", "sd of a difference", "standard error by users")]
        shares = [percent(row[k]) for k in ("permutation", "wilcoxon")]
        return [row["split"], row["metric"], f"{row['users']:,}", *figures, *shares]

    heads = "Split, Metric, Users, Mean, Spread, s.e. by users, Permutation, Wilcoxon"
    lines += table(heads, map(pairs, body["seeds"]), texts=2)
    lines += [
        "",
        "The same runs as a table would compare them: two groups of seeds, drawn 500 times, with the permutation test "
        "over users alone and with the seeds counted. Goal of the latter: 5 ± 1.5 %. The draws share 40 seeds, so "
        "that a figure is known to a few percent only.",
    ]

    def groups(row: dict[str, Any]) -> list[str]:
        shown = []
        for size, found in row["groups"].items():
            what = f"MF, {row['split']}, {row['metric']}, groups of {size} seeds"
            shown += [percent(found["alone"]), judge(found["counted"], LEVEL, FALSE_OFF, False, what)]
        return [row["split"], row["metric"], *shown]

    sizes = [f"{n} seeds alone, {n} seeds counted" for n in body["seeds"][0]["groups"]]
    lines += table(", ".join(["Split", "Metric", *sizes]), map(groups, body["seeds"]), texts=2)
    lines += ["", "## What misses its goal", ""]
    lines += [f"- {text}" for text in missed] or ["Nothing."]
    if missed:
        lines += [
            "",
            "Few hits take few values, so that no interval of their mean can have every coverage; a mean of many zeros "
            "is skewed (*above* and *below* are uneven); and where some users have many more rows than others, few of "
            "them decide how wide the interval of a pooled AUC is. With few users Student's interval misses on the "
            "same tables too. An interval that covers 92.5 % is a tenth too narrow: read those of 50 users so.",
            "",
            "With the seeds counted, figures below 3.5 % are those of a cautious test: how much a seed moves a model "
            "is guessed from two to five of them, and where it moves nothing some movement is seen all the same. Those "
            "of one seed are what a test over users does, which cannot know better: a table of one seed says so.",
        ]
    return "\n".join(lines) + "\n"
