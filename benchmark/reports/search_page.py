"""sweep.html: one page, whole in itself, with the tables and the interactive figures of a search."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Sequence
from string import Template
from typing import TYPE_CHECKING, Any

from benchmark.reports.search import Found, gain, title_of
from benchmark.reports.search_figures import DARK, LIGHT, figures
from benchmark.reports.search_tables import (
    caveat,
    failures,
    gain_text,
    left,
    number_of,
    parameters_of,
    summary,
    tables_of,
)

if TYPE_CHECKING:
    import optuna

STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --soft: #57606a; --line: #d0d7de; --ground: #ffffff; --link: #0b61a4 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --soft: #a3abb5; --line: #343a42; --ground: #16191d; --link: #7cc0f0 }
}
body { margin: 0 auto; max-width: 72rem; padding: 1rem; color: var(--ink); background: var(--ground);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: anywhere }
a { color: var(--link) } nav a { margin-right: 1rem } figure { margin: 1rem 0 } .scroll { overflow-x: auto }
h2 { margin-top: 2.5rem; border-top: 1px solid var(--line); padding-top: 1.5rem }
table { border-collapse: collapse; font-size: .9rem; overflow-wrap: normal; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top }
.text { text-align: left; min-width: 8rem } p, li { color: var(--soft) } strong { color: var(--ink) }
"""
SCRIPT = """
const dark = matchMedia("(prefers-color-scheme: dark)"), touch = matchMedia("(pointer: coarse)"), drawn = new Set();
const config = {responsive: true, displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "select2d"]};
function draw(div) {
  const figure = structuredClone(FIGURES[div.id]), layout = {...figure.layout, template: TEMPLATES[+dark.matches]};
  if (touch.matches) layout.dragmode = false;  // a finger on a figure scrolls the page
  drawn.add(div);
  Plotly.newPlot(div, figure.data, layout, config);
}
const near = new IntersectionObserver((entries) => {
  for (const {isIntersecting, target} of entries) if (isIntersecting) { near.unobserve(target); draw(target); }
}, {rootMargin: "800px"});
document.querySelectorAll(".plot").forEach((div) => near.observe(div));
dark.addEventListener("change", () => drawn.forEach(draw));
"""
# the policy forbids every request; some of Plotly compiles code of its own, hence eval
PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; \
script-src 'unsafe-inline' 'unsafe-eval'; img-src data: blob:; worker-src blob:">
<link rel="icon" href="data:,">
<title>$title</title>
<style>$style</style>
</head>
<body>
<h1>$title</h1>
<nav aria-label="Models">$nav</nav>
<main>
$body
</main>
<noscript><p>The figures need JavaScript.</p></noscript>
<script>$plotly</script>
<script>
const TEMPLATES = $templates;
const FIGURES = $figures;
$script</script>
</body>
</html>
""")


def _html_table(heads: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    def line(tag: str, row: Sequence[str]) -> str:
        marks = ["text" if left(head) else "number" for head in heads]
        cells = (f'<{tag} class="{m}">{html.escape(c)}</{tag}>' for m, c in zip(marks, row, strict=True))
        return f"<tr>{''.join(cells)}</tr>"

    body = "\n".join(line("td", row) for row in rows)
    opening = f'<div class="scroll" role="region" tabindex="0" aria-label="{html.escape(caption)}"><table>'
    return f"{opening}\n<thead>{line('th', heads)}</thead>\n<tbody>\n{body}\n</tbody></table></div>"


def _section(found: Found, i: int, data: dict[str, Any]) -> Iterator[str]:
    """Yield a model's part of the page; what its figures show goes into ``data``."""
    first, label = found.objectives[0], html.escape(found.label)
    best, defaults = gain(found.study)
    yield f'<section aria-labelledby="m{i}">\n<h2 id="m{i}">{label}</h2>'
    if best is None:
        yield "<p>No trial is complete.</p>"
    else:
        told = f"{html.escape(title_of(first))} <strong>{number_of(first, best)}</strong> on the validation part"
        told += f"; defaults {number_of(first, defaults)}, gain <strong>{gain_text(found)}</strong>"
        yield f"<p>{told}.<br>Best parameters: <strong>{html.escape(parameters_of(found.best))}</strong></p>"
    for heading, heads, rows, note in tables_of(found):
        yield f"<h3>{heading}: table</h3>\n{_html_table(heads, rows, f'{heading} of {found.label}')}\n<p>{note}</p>"
    for j, (name, figure) in enumerate(figures(found.study).items()):
        data[f"m{i}f{j}"] = drawn = json.loads(figure.to_json())
        del drawn["layout"]["template"]
        axes = {"Slices": len(found.varied), "Parallel coordinates": len(found.varied) + 1}.get(name, 0)
        size = f"height: {drawn['layout']['height']}px; min-width: {150 * axes}px"  # a phone scrolls many axes
        yield f'<figure>\n<figcaption><h3>{name}</h3></figcaption>\n<div class="scroll">'
        yield f'<div class="plot" id="m{i}f{j}" role="img" aria-label="{name} of {label}" style="{size}"></div>'
        yield "</div>\n</figure>"
    failed = "".join(f"<li>{html.escape(failure)}</li>" for failure in failures(found))
    yield f"<h3>Failures</h3>\n<ul>{failed}</ul>\n</section>" if failed else "</section>"


def page(studies: Sequence[optuna.Study]) -> str:
    """Return sweep.html: Plotly included once, nothing fetched, each figure drawn as it comes near."""
    data: dict[str, Any] = {}
    every = [Found(study) for study in studies]
    body = [_html_table(*summary(studies), "Summary"), f"<p>{caveat(studies)}</p>"]
    body += [part for i, found in enumerate(every) for part in _section(found, i, data)]
    names = {str(found.attributes.get("name", "")).removesuffix(f"/{found.label}") for found in every} - {""}
    from plotly.offline import get_plotlyjs

    def told(value: Any) -> str:
        return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")

    return PAGE.substitute(
        title=html.escape(f"Sweep {', '.join(sorted(names))}".strip()),
        style=STYLE,
        nav=" ".join(f'<a href="#m{i}">{html.escape(found.label)}</a>' for i, found in enumerate(every)),
        body="\n".join(body),
        plotly=get_plotlyjs(),
        templates=told([LIGHT, DARK]),
        figures=told(data),
        script=SCRIPT,
    )
