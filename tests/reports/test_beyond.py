"""Fairness and exposure in the table: from stored runs alone, with intervals, never ranked, rebuilt and verified."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from benchmark.data.text import text_vectors
from benchmark.errors import InputError
from benchmark.evaluation.beyond import coverage, novelty
from benchmark.evaluation.metrics import parse_metric, preference_metric
from benchmark.experiment import Experiment, load_all
from benchmark.reports import manifest, render
from benchmark.reports.beyond import item_shares
from benchmark.reports.groups import groups_of
from benchmark.reports.part import Part, part
from benchmark.reports.table import Cell, ComparisonTable, build
from benchmark.reports.verify import check
from benchmark.runs.lists import top_lists
from benchmark.runs.record import RunStore
from benchmark.runs.run import plan, prepare, run
from tests.reports.made import made_part
from tests.reports.test_segments import with_users
from tests.reports.test_table import _latex

LISTS = "coverage@10, gini@10, novelty@10, diversity@10, popularity_bias@5, exposure(genres)@10"
ASKED = f"report={{beyond: [{LISTS}, gap(gender), gap(age):auc]}}"


@pytest.fixture
def file(tiny_experiment: Path) -> Path:
    """The small experiment with users of two genders and genres of items."""
    with_users(tiny_experiment)
    genres = [["red", "fast"] if i % 3 else ["red"] if i else None for i in range(40)]
    frame = pl.DataFrame({"item_id": [f"i{i}" for i in range(40)], "title": [f"red car {i}" for i in range(40)]})
    frame.with_columns(genres=pl.Series(genres, dtype=pl.List(pl.String))).write_parquet(
        tiny_experiment.parent / "items.parquet"
    )
    text = tiny_experiment.read_text(encoding="utf-8").replace("items.csv", "items.parquet")
    tiny_experiment.write_text(text, encoding="utf-8")
    return tiny_experiment


def of(file: Path, *overrides: str) -> tuple[Part, RunStore]:
    experiment, store = Experiment.load(file, overrides), RunStore(file.parent / "runs")
    data = prepare(experiment, store.root)
    return part(experiment, run(experiment, store.root, data=data), store, split=data.split), store


def column(table: ComparisonTable, name: str) -> dict[str, Cell]:
    (j,) = (j for j, c in enumerate(table.columns) if c.name == name)
    return {row.label: row.cells[j] for row in table.rows}


def test_the_columns_are_what_the_stored_lists_and_ranks_say(file: Path) -> None:
    plain, store = of(file)
    p, _ = of(file, ASKED)  # nothing is run again
    assert [r and r.started for r in p.records] == [r and r.started for r in plain.records]
    table = build([p])
    assert [c.title for c in table.columns if c.kind == "beyond"] == [
        "Coverage@10", "Gini@10", "Novelty@10", "Diversity@10", "Popularity bias@5", "Exposure@10 (genres)",
        "NDCG@10 gap (gender)", "AUC gap (age)",
    ]  # fmt: skip
    split = prepare(p.experiment, store.root).split
    lists = [top_lists(r, p.outcomes.users, split.items["item_id"], 10, store) for r in p.finished("mf")]
    popularity, n_users = np.bincount(split.train.item, minlength=split.n_items), len(np.unique(split.train.user))
    for name, expected in (
        ("coverage@10", [coverage(one, 10, split.n_items) for one in lists]),
        ("novelty@10", [novelty(one, 10, popularity, n_users).mean() for one in lists]),
    ):
        cell = column(table, name)["mf"]
        assert cell.mean == pytest.approx(np.mean(expected))
        assert cell.sd == pytest.approx(np.std(expected, ddof=1))
    seeds = p.beyond.cells["mf", "gap(gender)"].seeds
    gender = split.users["gender"].gather([split.users["user_id"].index_of(u) for u in p.outcomes.users])
    means = [p.outcomes.values["mf", "ndcg@10"][(gender == g).fill_null(False).to_numpy()].mean() for g in "FM"]
    assert np.mean(seeds) == pytest.approx(abs(means[0] - means[1]))
    for row in table.rows:
        for c, cell in zip(table.columns, row.cells, strict=True):
            if c.kind == "beyond":
                assert (cell.rank, cell.mark, cell.p) == (None, 0, None)
                assert cell.mean is not None
                assert (cell.low is None) == (c.name == "coverage@10"), "a count over everybody has no interval"
                assert cell.low is None or cell.low - 1e-9 <= cell.mean <= cell.high + 1e-9  # type: ignore[operator]
    assert build([plain]).columns == tuple(c for c in table.columns if c.kind != "beyond")
    assert column(build([plain]), "ndcg@10") == column(table, "ndcg@10")


def test_all_formats_show_them_with_intervals_and_no_marks(file: Path) -> None:
    p, _ = of(file, ASKED)
    table = build([p])
    cell = column(table, "gini@10")["ease"]
    shown, interval = f"{cell.mean:.4f} ± {cell.sd:.4f}", render.interval(cell)
    assert f"| {shown}<br>{interval} |" in render.markdown(table)
    tex = render.latex(table)
    assert rf"\shortstack[r]{{{shown.replace('±', '$±$'.replace('±', chr(92) + 'pm'))}\\{{}}{interval}}}" in tex
    told = {(r["model"], r["column"]): r for r in csv.DictReader(io.StringIO(render.comma_separated(table)))}
    assert told["ease", "gini@10"]["kind"] == "beyond"
    assert float(told["ease", "gini@10"]["low"]) == pytest.approx(cell.low, abs=1e-6)
    assert re.search(rf"{cell.mean:.4f}</span>.*?{re.escape(interval)}", render.contents(table)["table.html"])
    console = Console(width=400, record=True)
    render.show(table, console)
    assert interval in console.export_text()
    assert any(line.startswith("Coverage@10 and the columns behind it are neither ranked nor tested") for line in table.legend)  # fmt: skip  # noqa: E501
    assert any(re.fullmatch(r"AUC gap \(age\): with 'age' dealt out to the users at random it would be 0\.\d{4} on average, 0\.\d{4} \(\w+\) to 0\.\d{4} \(\w+\)\.", line) for line in table.legend)  # fmt: skip  # noqa: E501


@pytest.mark.skipif(not _latex(), reason="needs LaTeX: apt-get install texlive-latex-recommended")
def test_the_latex_compiles(file: Path) -> None:
    (file.parent / "table.tex").write_text(render.latex(build([of(file, ASKED)[0]])), encoding="utf-8")
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "table"]
    done = subprocess.run(command, cwd=file.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert not re.search(r"Missing character|Undefined|Overfull", done.stdout)


def test_rebuilding_gives_the_same_bytes_and_a_forged_cell_is_found(file: Path) -> None:
    p, store = of(file, ASKED)
    folder, table = file.parent / "results" / "tiny", build([p])
    manifest.write(manifest.build(table, [p], store, render.write(table, folder)), folder)
    assert render.contents(build([of(file, ASKED)[0]])) == render.contents(table)
    data = prepare(p.experiment, store.root)
    found, _ = check(p.experiment, data, store, folder)
    assert [f for f in found if f.fault] == []
    told = json.loads((folder / "manifest.json").read_text())
    cell = next(c for c in told["cells"] if (c["model"], c["column"]) == ("ease", "gap(gender)"))
    cell["mean"] = 0.0
    (folder / "manifest.json").write_text(json.dumps(told))
    (fault,) = (f for f in check(p.experiment, data, store, folder)[0] if f.fault)
    assert "tiny, ease, gap(gender)" in fault.what
    assert "mean is 0.0 in the manifest, the records give" in fault.said


def test_two_data_sets_have_their_own(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    block = text[text.index("dataset:") : text.index("task:")]
    inner = block.replace("dataset:\n", "").replace("\n  ", ", ").strip()
    grid = f"datasets:\n  whole: {{{inner}}}\n  liked: {{{inner}, filters: {{min_rating: 4}}}}\n"
    file.write_text(text.replace(block, grid) + "report: {beyond: [coverage@10, gap(gender)]}\n", encoding="utf-8")
    store, parts = RunStore(file.parent / "runs"), []
    for experiment in load_all(file, ["seeds=[0]"]):
        data = prepare(experiment, store.root)
        parts.append(part(experiment, run(experiment, store.root, data=data), store, split=data.split))
    table = build(parts)
    assert [(c.dataset, c.name) for c in table.columns if c.kind == "beyond"] == [
        ("whole", "coverage@10"), ("whole", "gap(gender)"), ("liked", "coverage@10"), ("liked", "gap(gender)")
    ]  # fmt: skip
    assert sum("liked: NDCG@10 gap (gender): with 'gender' dealt out" in line for line in table.legend) == 1


def test_a_preference_task_has_gaps_of_the_rows_of_each_group(file: Path) -> None:
    told = ["task.kind=preference", "task.metrics=[auc, uauc, log_loss, ece]", "models.mf.loss=bce"]
    gaps = ["gap(gender)", "gap(gender):log_loss", "gap(gender):ece"]
    p, store = of(file, *told, f"report={{beyond: [{', '.join(gaps)}, gap(gender):uauc]}}")
    table = build([p])
    split = prepare(p.experiment, store.root).split
    gender = dict(split.users.select("user_id", "gender").iter_rows())
    expected = dict.fromkeys(gaps, 0.0)
    for record in p.finished("mf"):
        rows = store.ranks(record.key)
        score = rows["score"].to_numpy().astype(float)
        probability = 1 / (1 + np.exp(-score))
        group = np.array([gender[user] for user in rows["user"]])
        user = rows["user"].rank("dense").to_numpy()
        for gap in gaps:
            metric = parse_metric(gap.partition(":")[2] or "auc")
            f, m = (
                preference_metric(
                    metric, *(x[group == g] for x in (user, rows["label"].to_numpy(), score, probability))
                )
                for g in "FM"
            )
            expected[gap] += (f - m) / 2
    for gap in gaps:
        cell = column(table, gap)["mf"]
        assert cell.mean == pytest.approx(abs(expected[gap])), gap
        assert (cell.low is None) == (gap == "gap(gender):ece"), "a sum of absolute values has no user values"
    assert column(table, "gap(gender):uauc")["mf"].reason == "one group", "too few users have both classes"
    assert column(table, "gap(gender):log_loss")["popularity"].reason == "no probability"
    assert column(table, "gap(gender)")["ease"].reason == "cannot do a preference task"


def test_a_cell_without_a_number_says_why(file: Path) -> None:
    numbers = pl.DataFrame({"item_id": [f"i{i}" for i in range(40)]})
    numbers.write_parquet(file.parent / "items.parquet")  # no text, no genres
    users = pl.read_csv(file.parent / "users.csv").with_columns(gender=pl.lit("F"), zip_code="user_id")
    users.write_csv(file.parent / "users.csv")
    p, _ = of(file, "report={beyond: [diversity@10, gap(gender), gap(zip_code), coverage@3]}", "seeds=[0]")
    table = build([p])
    assert {cell.reason for cell in column(table, "diversity@10").values()} == {"no item text"}
    assert {cell.reason for cell in column(table, "gap(gender)").values()} == {"one group"}
    assert {cell.reason for cell in column(table, "gap(zip_code)").values()} == {"one group"}, "groups of one user"
    assert not any(" gap " in line for line in table.legend)
    assert column(table, "coverage@3")["ease"].mean is not None


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("gap(gendre)", "report.beyond: 'gap(gendre)': users have no 'gendre'; did you mean 'gender'?"),
        ("gap(genres)", "users have no 'genres'; did you mean 'gender'?"),
        ("exposure(genre)@10", "items have no 'genre'; did you mean 'genres'?"),
    ],
)
def test_a_column_that_is_not_there_is_refused_before_anything_runs(file: Path, asked: str, expected: str) -> None:
    experiment, store = Experiment.load(file, [f"report={{beyond: ['{asked}']}}"]), RunStore(file.parent / "runs")
    with pytest.raises(InputError, match=re.escape(expected)):
        plan(experiment, prepare(experiment, store.root), store)


def of_boats(folder: Path, shared_users: bool) -> tuple[Part, RunStore]:
    """Return the runs of two domains of which boats, 9 items, is judged; cars has 30 and is liked by more."""
    rng, blocks = np.random.default_rng(0), {}
    for name, users, items in (("boats", range(14), 9), ("cars", range(8, 50), 30)):
        weight = np.arange(1, items + 1) / np.arange(1, items + 1).sum()
        rows = [
            (f"u{u}", f"i{i}", 4, 10 * step + u)
            for u in users
            for step, i in enumerate(rng.choice(items, 5, replace=False, p=weight))
        ]
        frame = pl.DataFrame(rows, schema=["user_id", "item_id", "rating", "timestamp"], orient="row")
        frame.write_csv(folder / f"{name}.csv")
        things = [(f"i{i}", f"{name} thing {i % 4} big", f"m{i % 3}") for i in range(items)]
        told = pl.DataFrame(things, schema=["item_id", "title", "maker"], orient="row")
        told.write_csv(folder / f"{name}-items.csv")
        blocks[name] = {"source": "csv", "interactions": f"{folder}/{name}.csv", "items": f"{folder}/{name}-items.csv"}
    path = folder / "boats.yaml"
    path.write_text(
        f"name: boats\ndataset: {{source: joined, domains: {blocks}, shared_users: {str(shared_users).lower()}}}\n"
        "task: {split: {kind: leave_last_out}, metrics: [ndcg@3], domain: boats}\nseeds: [0]\n"
        "models: {random: {class: baselines.random.RandomScores}, "
        "popularity: {class: baselines.popularity.Popularity}}\n"
        "report: {beyond: [coverage@4, gini@4, novelty@4, diversity@4, popularity_bias@4, exposure(domain)@4, "
        "exposure(maker)@4]}\n",
        encoding="utf-8",
    )
    return of(path)


@pytest.mark.parametrize("shared_users", [False, True])
def test_of_joined_data_the_judged_domain_alone_is_the_catalogue(tmp_path: Path, shared_users: bool) -> None:
    p, store = of_boats(tmp_path, shared_users)
    split, table = prepare(p.experiment, store.root).split, build([p])
    domain, maker = (split.items[name].to_list() for name in ("domain", "maker"))
    boats = [i for i, name in enumerate(domain) if name == "boats"]
    pairs = {(u, i) for u, i in zip(split.train.user.tolist(), split.train.item.tolist(), strict=True) if i in boats}
    popularity = {i: sum(item == i for _, item in pairs) for i in boats}
    n_users = len({u for u, _ in pairs})
    assert n_users == 14 < len(np.unique(split.train.user))
    number = {item: i for i, item in enumerate(split.items["item_id"])}
    for row in table.rows:
        (record,) = p.finished(row.label)
        lists: dict[str, list[int]] = {}
        for user, item, rank in store.top(record.key, 4).select("user", "item", "rank").iter_rows():
            lists.setdefault(user, [0] * 4)[rank] = number[item]
        every = [i for one in lists.values() for i in one]
        count = sorted(every.count(i) for i in boats)
        told = [(2 * r - len(boats) - 1) * c for r, c in enumerate(count, 1)]
        known = {u: [] for u in lists}  # type: ignore[var-annotated]
        for rows in (split.train, split.valid):
            for u, i in zip(rows.user.tolist(), rows.item.tolist(), strict=True):
                if i in boats and (user := split.users["user_id"][u]) in known:
                    known[user].append(popularity[i])
        makers = sorted({maker[i] for i in boats})
        due = [sum(n for i, n in popularity.items() if maker[i] == m) / sum(popularity.values()) for m in makers]
        got = [sum(maker[i] == m for i in every) / len(every) for m in makers]
        vectors = text_vectors(split.items[boats])
        assert vectors is not None
        of_text = dict(zip(boats, vectors.toarray(), strict=True))
        liked = np.mean([np.mean(one) for one in known.values()])
        apart = [1 - of_text[a] @ of_text[b] for one in lists.values() for a in one for b in one if a != b]
        expected = {
            "coverage@4": len(set(every)) / len(boats),
            "gini@4": sum(told) / (len(boats) * sum(count)),
            "novelty@4": np.mean([-np.log2(max(popularity[i], 1) / n_users) for i in every]),
            "diversity@4": np.mean(apart),
            "popularity_bias@4": np.mean([popularity[i] for i in every]) / liked,
            "exposure(domain)@4": 0.0,
            "exposure(maker)@4": sum(abs(a - b) for a, b in zip(got, due, strict=True)) / 2,
        }
        found = {c.name: cell.mean for c, cell in zip(table.columns, row.cells, strict=True) if c.kind == "beyond"}
        assert found == pytest.approx(expected), row.label
    assert table.legend[-3].endswith("; the catalogue, its popularity and the users who know it are those of boats.")
    assert any(line.startswith("Exposure@4 (domain): over 1 value") for line in table.legend)


def test_without_the_data_nothing_is_measured(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"report\.beyond needs the data"):
        made_part(tmp_path, {"ease": 1.0}, changes={"report": {"beyond": ["coverage@10"]}})


def test_the_shares_of_an_item_are_even_and_missing_values_are_a_value() -> None:
    lists = pl.Series([["a", "b"], ["b", "b"], [], None, ["a", None]], dtype=pl.List(pl.String))
    expected = [[0, 0.5, 0.5], [0, 0, 1], [1, 0, 0], [1, 0, 0], [0, 1, 0]]
    np.testing.assert_array_equal(item_shares(lists).toarray(), expected)
    genres = pl.Series(["a, b", "b,b,", "", None, "a", "b, a"])
    expected = [[0, 0.5, 0.5], [0, 0, 1], [1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0.5, 0.5]]
    np.testing.assert_array_equal(item_shares(genres).toarray(), expected)
    firms = pl.Series(["Sun, Inc.", "Moon, Ltd.", "Sun, Inc.", "Mars"])
    np.testing.assert_array_equal(item_shares(firms).toarray(), [[0, 0, 1], [0, 1, 0], [0, 0, 1], [1, 0, 0]])
    np.testing.assert_array_equal(item_shares(pl.Series([3, 1, 3])).toarray(), [[0, 1], [1, 0], [0, 1]])


def test_groups_are_values_or_quarters() -> None:
    found = groups_of(pl.Series(["b", None, "a", "b"]))
    assert found is not None
    assert (found.names, found.codes.tolist()) == (["a", "b"], [1, -1, 0, 1])
    found = groups_of(pl.Series([*range(100), None]))
    assert found is not None
    assert np.bincount(found.codes[:-1]).tolist() == [25, 25, 25, 25]
    assert found.codes[-1] == -1
    assert groups_of(pl.Series([["a"]])) is None
    assert groups_of(pl.Series([None, None])) is None
