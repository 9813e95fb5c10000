"""The shell of every HTML page: sections, static tables and places for figures; what is heavy is packed inside."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from benchmark.errors import missing_extra
from benchmark.reports.search_figures import DARK, LIGHT

# no request ever leaves the page; images are what Plotly makes of a figure that one saves
POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'unsafe-inline'; img-src data: blob:"
SCRIPTS = "; script-src 'unsafe-inline'"


@dataclass(frozen=True)
class Section:
    """A part of a page; without a title it has no heading and no entry in the navigation."""

    id: str  # anchor
    title: str  # heading and entry of the navigation
    body: str  # HTML, already escaped where it must be


def page(
    title: str,
    sections: Sequence[Section],
    figures: Mapping[str, Any],
    data: Mapping[str, Any] | None = None,
    intro: str = "",
) -> str:
    """Return a page that needs no server and no network.

    Args:
        title: plain text.
        sections: in their order; ``placeholder`` and ``switch`` in their bodies show what ``figures`` holds.
        figures: Plotly figures, or their JSON as dicts, by id.
        data: what the script reads besides; ``data["users"]`` is what a ``users_section`` compares.
        intro: HTML under the title.

    Raises:
        InputError: there is something to draw, and Plotly is not installed.
        ValueError: a section shows a figure that is not there.
    """
    shown = {f for section in sections for f in re.findall(r'data-figure="([^"]*)"', section.body)}
    if absent := shown - set(figures):
        raise ValueError(f"no such figures: {', '.join(sorted(absent))}")
    told = {"templates": [LIGHT, DARK], "figures": {k: _bare(f) for k, f in figures.items()}, "data": dict(data or {})}
    packed = {"payload": _packed(_json(told))}
    if figures or "users" in told["data"]:
        packed["plotly"] = _packed(_library())
    return shell(title, sections, intro, packed, asset("script.js"))


def shell(
    title: str, sections: Sequence[Section], intro: str = "", packed: Mapping[str, str] | None = None, script: str = ""
) -> str:
    """Return the page around ``sections``; without a ``script`` none may run on it."""
    return filled(
        "page.html",
        title=title,
        sections=[(section, Markup(section.body)) for section in sections],
        intro=Markup(intro),
        style=Markup(asset("style.css")),
        script=Markup(script),
        packed=packed or {},
        policy=Markup(POLICY + (SCRIPTS if script else "")),
    )


def asset(name: str) -> str:
    return resources.files("benchmark.reports").joinpath("assets", name).read_text(encoding="utf-8")


_TEMPLATES = jinja2.Environment(
    loader=jinja2.FunctionLoader(asset),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)


def filled(name: str, **values: Any) -> str:
    """Return a template of assets/ filled with ``values``, all escaped but ``Markup``."""
    return _TEMPLATES.get_template(name).render(**values)


def placeholder(id: str, title: str, height: int = 420, min_width: int = 0, label: str = "") -> str:
    """Return the place in which ``figures[id]`` is drawn when it comes near the screen.

    A height in the figure's own layout wins; ``label`` names the figure where ``title`` alone says too little.
    """
    return _html(
        '<figure>\n<figcaption><h3>{title}</h3></figcaption>\n<div class="scroll"{focus}>'
        '<div class="plot" id="{id}" data-figure="{id}" role="img" aria-label="{label}" style="{size}"></div>'
        "</div>\n</figure>",
        id=id,
        title=title,
        label=label or title,
        # what a phone scrolls a keyboard must reach
        focus=Markup(' tabindex="0" role="region" aria-label="{}"').format(label or title) if min_width else "",
        size=f"height: {height}px" + (f"; min-width: {min_width}px" if min_width else ""),
    )


def switch(id: str, title: str, options: Mapping[str, str], height: int = 420, label: str = "Show") -> str:
    """Return a choice among figures (text -> figure id) above the place where the chosen one is drawn."""
    first = next(iter(options.values()))
    choices = Markup("").join(
        Markup('<option value="{}" data-figure="{}">{}</option>').format(figure, figure, text)
        for text, figure in options.items()
    )
    return _html(
        '<figure class="switch">\n<figcaption><h3>{title}</h3></figcaption>\n'
        '<p class="needs-js"><label>{label} <select>{choices}</select></label></p>\n'
        '<div class="plot" id="{id}" data-figure="{first}" role="img" aria-label="{title}" '
        'style="height: {height}px"></div>\n</figure>',
        id=id,
        title=title,
        label=label,
        choices=choices,
        first=first,
        height=height,
    )


def table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], caption: str, text_columns: Container[int] = (0,)
) -> str:
    """Return a static table that scrolls inside its box; ``text_columns`` are set left, numbers right."""
    kinds = ["text" if j in text_columns else "number" for j in range(len(heads))]
    lines = [list(zip(kinds, row, strict=True)) for row in rows]
    return filled("table.html", heads=list(zip(kinds, heads, strict=True)), rows=lines, caption=caption)


def command(text: str) -> str:
    """Return a command with a button that copies it."""
    return _html(
        '<div class="command"><code>{text}</code>'
        '<button type="button" class="copy needs-js" data-copy="{text}">Copy</button></div>',
        text=text,
    )


def _html(template: str, **values: Any) -> str:
    return str(Markup(template).format(**values))  # a plain string: Markup would escape what is added to it


def _bare(figure: Any) -> dict[str, Any]:
    told = json.loads(figure.to_json()) if hasattr(figure, "to_json") else dict(figure)
    layout = {key: value for key, value in told.get("layout", {}).items() if key != "template"}
    return {**told, "layout": layout}


def _json(value: Any) -> str:
    # a browser reads no NaN, and the last digits of a sum depend on how it was summed
    finite = json.loads(
        json.dumps(value), parse_constant=lambda _: None, parse_float=lambda x: float(f"{float(x):.10g}")
    )
    return json.dumps(finite, separators=(",", ":"), ensure_ascii=False)


def _packed(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()  # no time: the same bytes when rebuilt


def _library() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise missing_extra("plotly", "report") from None
    return str(get_plotlyjs())
