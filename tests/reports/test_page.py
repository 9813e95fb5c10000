"""The shell of the pages: all inside and nothing fetched, strangers' text escaped, the same bytes when rebuilt."""

from __future__ import annotations

import builtins
import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from benchmark.errors import InputError
from benchmark.reports.page import Section, command, page, placeholder, switch, table
from benchmark.reports.search_figures import DARK, LIGHT
from benchmark.reports.users_page import users_section
from tests.reports.browser import NASTY, figure, report, unpacked

EVIL = '"><script>x</script>'


class Tags(HTMLParser):
    """Notes tags, ids and whether what was opened is closed."""

    VOID = {"meta", "link", "input", "br", "img"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_all_of_it_lies_in_the_page() -> None:
    pytest.importorskip("plotly")
    from plotly.offline import get_plotlyjs

    text = report()
    assert text == report()
    assert unpacked(text, "plotly") == get_plotlyjs()
    assert len(text) < 2_100_000
    assert not re.search(r"https?:|(src|href)=[\"']?(http|//)|url\(|@import|fetch\(|XMLHttp", text)
    assert "default-src 'none'" in text
    assert 'name="viewport"' in text
    assert '<link rel="icon" href="data:,">' in text
    told = json.loads(unpacked(text))
    assert told["templates"] == [LIGHT, DARK]
    assert set(told["figures"]) == {"cost", "by-history", "by-age"}
    assert all("template" not in drawn["layout"] for drawn in told["figures"].values())
    assert told["data"]["users"]["ml-100k"]["items"][3] == NASTY


def test_the_markup_is_whole_and_ids_are_one_each() -> None:
    pytest.importorskip("plotly")
    read = Tags(report())
    assert read.open == []
    ids = [attributes["id"] for _, attributes in read.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert not [tag for tag, _ in read.tags if tag == "img"]
    anchors = [a["href"] for tag, a in read.tags if tag == "a"]
    sections = ("table", "audit", "costs", "who", "users", "likes", "search", "again")
    assert anchors == ["#main", *(f"#{i}" for i in sections), "#audit"]  # the last one in the line about a fault


def test_strangers_text_is_escaped() -> None:
    figures = {EVIL: figure("bar")}
    body = placeholder("a", EVIL, label=EVIL) + switch("b", EVIL, {EVIL: "a"}, label=EVIL) + command(EVIL)
    body += table([EVIL], [[EVIL]], EVIL) + users_section(EVIL, [EVIL, "b"], EVIL, a=EVIL)
    text = page(EVIL, [Section("x", EVIL, body), Section("y", EVIL, "")], {**figures, "a": figure("bar")})
    assert "<script>x" not in text
    assert [tag for tag, _ in Tags(text).tags].count("script") == 4


def test_plotly_is_there_only_where_something_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    sections = [Section("a", "A", table(["Model", "Value"], [["ease", "1"]], "One"))]
    assert 'id="plotly"' not in page("x", sections, {})
    assert len(page("x", sections, {})) < 50_000
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "plotly":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"levelfield\[report\]"):
        page("x", sections, {"f": figure("bar")})
    with pytest.raises(InputError, match=r"levelfield\[report\]"):
        page("x", sections, {}, {"users": {}})
    page("x", sections, {})


def test_figures_of_plotly_and_numbers_that_are_none() -> None:
    graph = pytest.importorskip("plotly.graph_objects")
    drawn = graph.Figure(graph.Bar(x=["a"], y=[1.5]), layout={"template": LIGHT, "height": 300})
    text = page("x", [Section("a", "A", placeholder("f", "F"))], {"f": drawn}, {"p": [float("nan"), 1.0, NASTY]})
    told = json.loads(unpacked(text))
    assert told["figures"]["f"]["data"][0]["y"] == [1.5]
    assert told["figures"]["f"]["layout"] == {"height": 300}
    assert drawn.layout.template.layout.font.size == 14  # the figure itself is left as it was
    assert told["data"]["p"] == [None, 1.0, NASTY]


def test_a_figure_that_is_not_there_is_an_error() -> None:
    body = placeholder("a", "A") + switch("b", "B", {"one": "a", "two": "c"})
    with pytest.raises(ValueError, match=r"no such figures: c$"):
        page("x", [Section("s", "S", body)], {"a": figure("bar")})


def test_a_table_has_heads_and_sides() -> None:
    text = table(["Model", "Value", "Parameters"], [["a<b", "1", "rank 8"]], "Summary & more", text_columns=[0, 2])
    assert 'aria-label="Summary &amp; more"' in text
    assert '<th scope="col" class="number">Value</th>' in text
    assert '<th scope="row" class="text">a&lt;b</th><td class="number">1</td><td class="text">rank 8</td>' in text
    assert "<td" not in table(["Model"], [], "Empty")
