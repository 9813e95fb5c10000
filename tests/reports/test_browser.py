"""Pages in a real Chromium: sorting, filters, figures, users, keyboard, phone, dark, no script, no request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmark.reports.leaderboard import document, leaderboard
from benchmark.reports.page import Section, command, page
from tests.reports.browser import MODELS, NASTY, comparison, opened, report, until

FIGURES = 4
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
ORDER = list(MODELS)
COMMAND = "levelfield run experiments/quickstart.yaml --set 'seeds=[0, 1, 2]'"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pages") / "report.html"
    path.write_text(report(), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The leaderboard alone: quick to open, nothing is drawn."""
    path = tmp_path_factory.mktemp("pages") / "table.html"
    sections = [Section("table", "Comparison", leaderboard(comparison(), controls=True))]
    sections.append(Section("again", "Run it again", command(COMMAND)))
    path.write_text(page("quickstart", sections, {}), encoding="utf-8")
    return path


def labels(view: Any) -> list[str]:
    return view.locator("tr.model:visible .label").all_inner_texts()


def head(view: Any, title: str, dataset: str = "ml-100k") -> Any:
    return view.locator(f'.leaderboard th[data-dataset="{dataset}"] button', has_text=title)


def all_drawn(view: Any, count: int = FIGURES) -> None:
    until(view, f"document.querySelectorAll('.js-plotly-plot .main-svg[role=img]').length == {count}")


def test_columns_sort_by_click_and_keyboard(chromium: Any, table: Path) -> None:
    with opened(chromium, table) as view:
        assert labels(view) == ORDER
        button = head(view, "NDCG@10")
        width = view.locator("thead th").first.bounding_box()["width"]
        button.click()
        assert labels(view) == ORDER[::-1]
        assert view.locator("th[aria-sort]").get_attribute("aria-sort") == "descending"
        assert view.locator("tr.group:visible").count() == 0
        assert view.locator(".leaderboard .status").inner_text() == "8 of 8 models, sorted by NDCG@10 (ml-100k)"
        button.press("Enter")
        assert labels(view) == ORDER
        assert view.locator("th[aria-sort]").get_attribute("aria-sort") == "ascending"
        head(view, "Log loss").press(" ")
        assert labels(view) == [*(label for label in ORDER[::-1] if label != "bpr-mf"), "bpr-mf"]  # less is better
        assert view.locator("th[aria-sort]").get_attribute("aria-sort") == "ascending"
        head(view, "Log loss").press(" ")
        assert labels(view) == [*(label for label in ORDER if label != "bpr-mf"), "bpr-mf"]  # missing last either way
        head(view, "NDCG@10", "books").click()
        assert set(labels(view)[-2:]) == {"random", "itemknn"}
        view.locator(".leaderboard th button", has_text="Model").click()
        assert labels(view) == sorted(ORDER)
        assert view.locator("thead th").first.bounding_box()["width"] == pytest.approx(width, abs=1)
        view.get_by_role("button", name="Grouped").click()
        assert labels(view) == ORDER
        assert view.locator("tr.group:visible").count() == 4
        assert view.locator("th[aria-sort]").count() == 0


def test_models_and_columns_are_filtered(chromium: Any, table: Path) -> None:
    with opened(chromium, table) as view:
        status = view.locator(".leaderboard .status")
        width = view.locator(".leaderboard .scroll").bounding_box()["width"]
        view.get_by_label("Search").first.fill("MiniLM")
        assert labels(view) == ["minilm-frozen", "minilm-lora"]
        assert status.inner_text() == "2 of 8 models"
        assert view.locator("tr.group:visible").all_inner_texts() == ["LLM zero-shot", "LLM fine-tuned"]
        assert view.locator(".leaderboard .scroll").bounding_box()["width"] == width
        view.get_by_label("LLM zero-shot").press(" ")
        assert labels(view) == ["minilm-lora"]
        head(view, "MRR").click()
        assert labels(view) == ["minilm-lora"]
        view.get_by_label("Search").first.fill("")
        assert len(labels(view)) == 7
        assert status.inner_text() == "7 of 8 models, sorted by MRR (ml-100k)"
        assert view.locator("tr.model").first.locator("td:visible").count() == 8
        view.get_by_label("MRR").uncheck()
        view.get_by_label("Train s").uncheck()
        assert view.locator("tr.model").first.locator("td:visible").count() == 4
        assert view.locator("th.dataset").first.get_attribute("colspan") == "2"
        view.get_by_label("ml-100k", exact=True).uncheck()
        assert view.locator("th.dataset:visible").all_inner_texts() == ["books"]
        assert view.locator("tr.model").first.locator("td:visible").count() == 2
        view.get_by_label("ml-100k", exact=True).check()
        view.get_by_label("MRR").check()
        assert view.locator("tr.model").first.locator("td:visible").count() == 6


def test_figures_are_drawn_and_switched(chromium: Any, path: Path) -> None:
    with opened(chromium, path) as view:
        assert view.locator("#cost.js-plotly-plot").count() in (0, 1)  # near the screen or not yet
        place = view.locator("#segments")
        place.scroll_into_view_if_needed()
        view.wait_for_selector("#segments .barlayer .point")
        view.locator("#who select").focus()
        view.keyboard.press("ArrowDown")
        view.wait_for_selector("#segments .scatterlayer .point")
        assert place.locator(".barlayer .point").count() == 0
        assert place.bounding_box()["height"] == 360


def test_two_models_are_compared(chromium: Any, path: Path) -> None:
    with opened(chromium, path) as view:
        part = view.locator('.users[data-users="ml-100k"]')
        verdict, a, b = part.locator(".verdict"), part.get_by_label("Model A"), part.get_by_label("Model B")
        assert a.locator("option:checked").inner_text() == f"evil {NASTY}"
        assert NASTY in verdict.inner_text()
        a.select_option("minilm-lora")
        b.select_option("popularity")
        text = verdict.inner_text()
        assert text.startswith("minilm-lora better for ")
        assert "(of 60): mean difference" in text
        assert text.endswith("p = 0.021 (not corrected)")
        part.locator(".plot").scroll_into_view_if_needed()
        view.wait_for_selector("#ml-100k-differences .barlayer .point path")
        bars = "JSON.stringify(document.getElementById('ml-100k-differences').data.map((t) => [t.x, t.y]))"
        forward = view.evaluate(bars)
        b.select_option("minilm-lora")  # the one that stands at the other side changes places
        assert a.locator("option:checked").inner_text() == "popularity"
        assert verdict.inner_text().startswith("popularity better for ")
        until(view, f"{bars} != {forward!r}")
        behind, ahead = view.evaluate("document.getElementById('ml-100k-differences').data.map((t) => t.y)")
        assert str(sum(ahead)) in verdict.inner_text().split(" users")[0]
        assert f"for {sum(behind)}," in verdict.inner_text()
        headings = part.locator(".examples h3").all_inner_texts()
        assert headings == ["Examples: where popularity wins most", "Examples: where minilm-lora wins most"]
        for side in (0, 1):
            summaries = part.locator(".examples").nth(side).locator("summary").all_inner_texts()
            assert 0 < len(summaries) <= 6
            pairs = [summary.rpartition(" · ")[2].split(" against ") for summary in summaries]
            gains = [(float(x) - float(y)) * (1 - 2 * side) for x, y in pairs]
            assert gains == sorted(gains, reverse=True)
            assert gains[-1] > 0


def test_a_user_is_opened_by_keyboard(chromium: Any, path: Path) -> None:
    with opened(chromium, path) as view:
        part = view.locator('.users[data-users="ml-100k"]')
        user = part.locator("details.user").first
        user.locator("summary").focus()
        view.keyboard.press("Enter")
        user.get_by_text("39 before, the last 15 shown").wait_for()
        assert user.locator("ol li").count() == 15
        assert user.locator("ol li").first.inner_text().startswith(NASTY)
        top = user.locator("table").last
        assert top.locator("tbody tr").count() == 5
        assert top.locator("td.hit").first.inner_text().startswith("✓ ")
        assert "held out" in top.locator("td.hit").first.text_content()
        assert user.locator("table").first.locator("td.number").first.inner_text() == "1"
        part.get_by_label("Open an example user by id").fill("117")
        view.keyboard.press("Enter")
        assert part.locator(".opened summary").inner_text().startswith("User 117")
        assert part.locator(".opened table").count() == 2
        before = part.locator(".opened thead").first.inner_text()
        part.get_by_label("Model A").select_option("popularity")
        part.locator(".opened table").first.wait_for()
        assert part.locator(".opened thead").first.inner_text() != before
        part.get_by_label("Open an example user by id").fill("nobody")
        view.keyboard.press("Enter")
        assert part.locator("form .status").inner_text() == "No example user has this id; there are 60."
        assert part.locator(".opened details").count() == 0


def test_the_rows_of_a_preference_task(chromium: Any, path: Path) -> None:
    with opened(chromium, path) as view:
        part = view.locator('.users[data-users="books"]')
        assert part.locator(".verdict").inner_text().startswith("ease better for ")  # as the section says
        user = part.locator("details.user").first
        user.locator("summary").click()
        table = user.locator("table")
        table.wait_for()
        assert table.locator("thead th").all_inner_texts() == ["Item", "Liked", "ease", "popularity"]
        assert table.locator("tbody tr").first.locator("td").first.inner_text() == NASTY
        assert table.locator("tbody tr").first.locator("td").nth(1).inner_text() == "yes"
        ease, popularity = user.locator("summary").inner_text().rpartition(" · ")[2].split(" against ")
        assert float(ease) < float(popularity)  # its metric is one of which less is better


def test_a_command_is_copied_or_selected(chromium: Any, table: Path) -> None:
    with opened(chromium, table, permissions=["clipboard-read", "clipboard-write"]) as view:
        view.get_by_role("button", name="Copy").click()
        view.get_by_role("button", name="Copied").wait_for()
        assert view.evaluate("navigator.clipboard.readText()") == COMMAND
        view.get_by_role("button", name="Copy").wait_for()
        view.evaluate("delete Navigator.prototype.clipboard")
        view.get_by_role("button", name="Copy").click()
        until(view, "String(getSelection()) !== ''")
        assert view.evaluate("String(getSelection())") == COMMAND


def test_dark_is_followed_and_all_can_be_read_in_both(chromium: Any, path: Path) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    rules = {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]}
    ground = "getComputedStyle(document.body).backgroundColor"
    ink = "document.querySelector('#cost .xtick text').style.fill"
    with opened(chromium, path, color_scheme="dark", viewport={"width": 1280, "height": 7000}) as view:
        all_drawn(view)
        for part in view.locator(".users").all():
            part.locator("summary").first.click()
        for scheme, expected, text in (
            ("dark", "22, 25, 29", "230, 232, 235"),
            ("light", "255, 255, 255", "31, 35, 40"),
        ):
            view.emulate_media(color_scheme=scheme)
            until(view, f"{ink} === 'rgb({text})'")
            all_drawn(view)
            assert view.evaluate(ground) == f"rgb({expected})"
            found = axe.Axe().run(view, options={"runOnly": rules, "resultTypes": ["violations"]})
            assert [(v["id"], [n["html"] for n in v["nodes"]]) for v in found.response["violations"]] == []


def test_a_phone_scrolls_tables_in_their_boxes(chromium: Any, path: Path) -> None:
    with opened(chromium, path, **PHONE) as view:
        for place in view.locator(".plot").all():
            place.scroll_into_view_if_needed()
        all_drawn(view)
        view.locator("details.user summary").first.tap()
        assert view.evaluate("document.documentElement.scrollWidth") == 390
        assert view.evaluate("document.body.scrollWidth") <= 390
        assert not view.evaluate("document.querySelector('.filters').open")
        box = view.locator(".leaderboard .scroll")
        assert box.evaluate("(box) => box.scrollWidth > box.clientWidth")
        left = view.locator("tr.model th").first.bounding_box()["x"]
        box.evaluate("(box) => box.scrollTo(500, 0)")
        assert view.locator("tr.model th").first.bounding_box()["x"] == pytest.approx(left, abs=1)


def test_the_navigation_tells_where_one_is(chromium: Any, table: Path) -> None:
    with opened(chromium, table, **PHONE) as view:
        for id, title in (("again", "Run it again"), ("table", "Comparison")):
            view.evaluate(f"document.getElementById('{id}').scrollIntoView()")
            until(view, f"document.querySelector('nav [aria-current=true]').hash === '#{id}'")
            assert 0 <= view.locator("nav a", has_text=title).bounding_box()["x"] < 390 - 80


def test_every_control_is_reached_by_tab(chromium: Any, table: Path) -> None:
    with opened(chromium, table) as view:
        seen = []
        for _ in range(27):
            view.keyboard.press("Tab")
            seen.append(view.evaluate("document.activeElement.className || document.activeElement.tagName"))
        assert seen[0] == "skip"
        assert [seen.count(name) for name in ("query", "grouped", "sort")] == [1, 1, 9]
        view.keyboard.press("Shift+Tab")
        outline = view.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"


def test_without_a_script_the_tables_are_there(chromium: Any, path: Path) -> None:
    with opened(chromium, path, java_script_enabled=False) as view:
        assert len(labels(view)) == 8
        assert view.get_by_text("0.2483").count() == 1
        assert view.get_by_text("Without JavaScript the tables are complete").is_visible()
        assert view.locator(".controls:visible, button.copy:visible, .verdict:visible").count() == 0


def test_an_old_browser_is_told(chromium: Any, path: Path) -> None:
    with opened(chromium, path, script="delete window.DecompressionStream") as view:
        view.get_by_text("cannot be unpacked by this browser").wait_for()
        head(view, "NDCG@10").click()
        assert labels(view) == ORDER[::-1]


def test_the_table_by_itself(chromium: Any, tmp_path: Path) -> None:
    path = tmp_path / "table.html"
    path.write_text(document(comparison(several=False)), encoding="utf-8")
    with opened(chromium, path, **PHONE) as view:
        assert labels(view) == ORDER
        assert view.evaluate("document.documentElement.scrollWidth") == 390
        assert view.locator("button, input, script").count() == 0
