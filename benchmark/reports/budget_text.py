"""Learning curves in words: where a language model crosses the classical ones, how sure that is; learning_curve.md."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from benchmark.audit.finding import listed
from benchmark.evaluation.metrics import higher_is_better, parse_metric
from benchmark.reports import pipes
from benchmark.reports.budgets import Contest, Crossing, Family, Gap, against_best, contests, families
from benchmark.reports.names import GROUP_TITLES, title
from benchmark.reports.part import Part
from benchmark.reports.render import interval, number
from benchmark.reports.table import ComparisonTable

_NOTE = (
    "Differences are paired over users, their 95 % intervals by resampling users; p counts users and seeds and is not "
    "corrected for the number of comparisons. The best classical model of a budget is picked by looking, so it is best "
    "by luck too. Between budgets lines run over the logarithm of the number of interactions: where two cross is read "
    "off them."
)
ONE_SAMPLE = (
    "Of one budget all models learned from the very same interactions: one sample, so that what another sample would "
    "give is in no interval."
)
OWN_SAMPLES = (
    "Of one budget and seed all models learned from the very same interactions; each seed has its own sample, so that "
    "the s.d. over seeds is over samples too."
)


def note(p: Part) -> str:
    """Return what a reader of the curves must know."""
    return f"{OWN_SAMPLES if p.experiment.resample_train else ONE_SAMPLE} {_NOTE}"


def rounded(n: float) -> str:
    """Return a number of interactions that was read off a line: two digits count."""
    digits = max(len(str(int(n))) - 2, 0)
    return f"{round(n, -digits):,.0f}"


def p_text(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {number(p, 3)}"


def gap_text(gap: Gap) -> str:
    """Return "ahead of ease by 0.012 [0.003, 0.021], p = 0.010, told apart"."""
    ahead = gap.ahead >= 0
    low, high = (gap.low, gap.high) if ahead else (-gap.high, -gap.low)
    told = "told apart" if gap.told else "not told apart"
    size = f"{number(abs(gap.ahead), 3)} [{number(low, 3)}, {number(high, 3)}]"
    return f"{'ahead of' if ahead else 'behind'} {gap.other} by {size}, {told} (p {p_text(gap.p)})"


def doubt(crossing: Crossing) -> str:
    """Return what stands behind a crossing that the users do not tell; nothing where they do."""
    if crossing.certain:
        return ""
    sides = [gap for gap in (crossing.before, crossing.after) if gap.told]
    where = f"only at {sides[0].n:,}" if sides else "on neither side"
    return f" That crossing is uncertain: {where} can the two be told apart."


def best_sentences(contest: Contest) -> list[str]:
    """Return what is to be said of a language model against the best classical model of each budget."""
    gaps, n_last = contest.gaps, contest.gaps[-1].n
    stretches = [[gap for gap, _ in some] for _, some in groupby(zip(gaps, contest.signs, strict=True), lambda s: s[1])]
    if len(stretches) == 1:
        several = f"every budget from {gaps[0].n:,} to {n_last:,}" if len(gaps) > 1 else f"{n_last:,}"
        where = f"at {several} interactions"
        how = {1: "ahead of every classical model", 0: "level with the best classical model"}
        told = how.get(contest.signs[0], "behind the best classical model")
        never = ": the curves never cross" if len(gaps) > 1 else ""
        apart = listed([f"{gap.n:,}" for gap in gaps if gap.told]) or "no budget"
        ends = _ends([gaps[0], *gaps[1:][-1:]])
        return [f"{contest.name} is {told} {where}{never}. {ends} The two can be told apart at {apart}."]
    parts = []
    for i, some in enumerate(stretches):
        first, last = some[0].n, some[-1].n
        if not i:
            where = f"up to {last:,} interactions"
        elif i == len(stretches) - 1:
            where = f"from {first:,} on"
        else:
            where = f"at {first:,}" if first == last else f"from {first:,} to {last:,}"
        who = "ahead of every classical model" if some[0].ahead > 0 else f"behind {_others(some)}"
        parts.append(f"{who} {where}")
    near = listed([rounded(c.n) for c in contest.crossings])
    out = [f"{contest.name} is {listed(parts)}; the curves cross near {near}."]
    for crossing in contest.crossings:
        out.append(_ends([crossing.before, crossing.after]) + doubt(crossing))
    return [" ".join(out)]


def _others(gaps: Sequence[Gap]) -> str:
    return " or ".join(dict.fromkeys(gap.other for gap in gaps))


def _ends(gaps: Sequence[Gap]) -> str:
    said = [f"at {gap.n:,} it is {gap_text(gap)}" for gap in gaps]
    text = "; ".join(said)
    return f"{text[0].upper()}{text[1:]}."


def pair_sentences(name: str, pairs: Sequence[Contest]) -> list[str]:
    """Return where a language model and each classical model cross, and who is ahead all the way of the others."""
    mine = [pair for pair in pairs if pair.name == name]
    met = [crossing for pair in mine for crossing in pair.crossings]
    doubted = [crossing for crossing in met if not crossing.certain]
    clauses = []
    for pair in mine:
        words = []
        for i, crossing in enumerate(pair.crossings):
            verb = "overtakes" if crossing.up else "falls behind"
            sure = " (uncertain)" if not crossing.certain and len(doubted) < len(met) else ""
            words.append(f"{verb} {'it' if i else pair.other} near {rounded(crossing.n)}{sure}")
        clauses += [listed(words)] if words else []
    out = [f"{name} {'; '.join(clauses)}."] if clauses else []
    if doubted and len(doubted) == len(met):
        out.append("No crossing is certain." if len(met) > 1 else "That crossing is uncertain.")
    always = {
        sign: [pair.other for pair in mine if not pair.crossings and pair.signs and pair.signs[0] == sign]
        for sign in (1, -1)
    }
    if always[1]:
        out.append(f"At every budget it is ahead of {listed(always[1])}.")
    if always[-1]:
        out.append(f"At every budget it is behind {listed(always[-1])}.")
    return out


def floor_sentence(curves: Sequence[Family], higher: bool) -> str:
    """Return what the best trivial model reaches and from where the language models are above it; or nothing."""
    trivial = [f for f in curves if f.kind == "trivial" and f.is_curve]
    if not trivial:
        return ""
    sign = 1 if higher else -1
    floor = max(trivial, key=lambda f: sign * f.points[-1].mean)
    ends = " and ".join(f"{number(q.mean, 4)} at {q.n:,}" for q in (floor.points[0], floor.points[-1]))
    said = [f"The floor is {floor.name}: {ends}."]
    level = {q.n: q.mean for q in floor.points}
    for family in (f for f in curves if f.kind == "llm" and f.is_curve):
        shared = [q for q in family.points if q.n in level]
        above = [f"{q.n:,}" for q in shared if sign * (q.mean - level[q.n]) > 0]
        where = "at every budget" if len(above) == len(shared) else f"at {listed(above)}" if above else "at no budget"
        said.append(f"{family.name} is above it {where}.")
    return " ".join(said)


def sentences(curves: Sequence[Family], pairs: Sequence[Contest], higher: bool) -> list[str]:
    """Return all that is to be said of a metric's curves, the most important first."""
    out = [line for contest in against_best(pairs) for line in best_sentences(contest)]
    for name in dict.fromkeys(pair.name for pair in pairs):
        out += [" ".join(pair_sentences(name, pairs))]
    return [line for line in [*out, floor_sentence(curves, higher)] if line]


def grid(curves: Sequence[Family]) -> tuple[list[str], list[tuple[str, list[list[str]]]]]:
    """Return the headings and, by group, a row a model: mean and interval at each budget, a dash for none."""
    sizes = sorted({q.n for family in curves for q in family.points})
    groups = []
    for group, some in groupby(curves, key=lambda family: family.group):
        rows = []
        for family in some:
            at = {q.n: f"{number(q.mean, 4)} {interval(q.cell)}".strip() for q in family.points}
            rows.append([family.name, *(at.get(n, "–") for n in sizes)])
        groups.append((GROUP_TITLES[group], rows))
    return ["Model", *(f"{n:,}" for n in sizes)], groups


def gap_rows(contest: Contest) -> tuple[list[str], list[list[str]]]:
    """Return the headings and a row a budget: how far a language model is ahead of the best classical model."""
    rows = []
    for g in contest.gaps:
        span = f"[{number(g.low, 3)}, {number(g.high, 3)}]"
        rows.append([f"{g.n:,}", g.other, f"{g.ahead:+.4f}", span, p_text(g.p).removeprefix("= ")])
    return ["Interactions", "Best classical", "Ahead by", "95 % interval", "p"], rows


def markdown(p: Part, table: ComparisonTable) -> str:
    """Return learning_curve.md: of every metric the sentences, the curves as a table, the gaps to the best."""
    lines = [f"# Learning curves over training size: {table.name}", "", *table.protocols, "", note(p), ""]
    for metric in p.outcomes.metrics:
        curves = families(p, table, metric)
        pairs = contests(p, curves, metric)
        lines += [f"## {title(metric)}", ""]
        lines += [f"- {line}" for line in sentences(curves, pairs, higher_is_better(parse_metric(metric).name))]
        heads, groups = grid(curves)
        lines += ["", *pipes.head(heads)]
        for group, rows in groups:
            lines += [f"| *{group}* |" + " |" * (len(heads) - 1), *map(pipes.row, rows)]
        for contest in against_best(pairs):
            heads, rows = gap_rows(contest)
            lines += [
                "",
                f"{contest.name} against the best classical model of each budget:",
                "",
                *pipes.table(heads, rows),
            ]
        lines.append("")
    return "\n".join(lines)
