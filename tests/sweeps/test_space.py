"""The space of a model: what can be searched, that it is checked before anything runs, and its laws."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

optuna = pytest.importorskip("optuna")

from benchmark.errors import InputError  # noqa: E402
from benchmark.experiment import Experiment  # noqa: E402
from benchmark.sweeps.space import Space  # noqa: E402
from tests.sweeps.searched import MF, RATE, write  # noqa: E402
from tests.test_cli import levelfield, one_line  # noqa: E402

quick = settings(max_examples=25, deadline=None, derandomize=True, database=None)
Block = dict[str, Any]


def space(search: Block, entry: Block | None = None, cls: str = "baselines.mf.MF") -> Space:
    """Return the space of one model, without any file."""
    tree = {
        "name": "tiny",
        "dataset": {"source": "csv", "interactions": "interactions.csv"},
        "models": {"model": {"class": cls, **(entry or {}), "search": search}},
    }
    return Space(Experiment.model_validate(tree), "model")


def suggested(space: Space, seed: int, n: int = 5) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return (values, parameters as Optuna stores them) of random trials."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    found = []
    for _ in range(n):
        trial = study.ask()
        found.append((space.suggest(trial), trial.params))
        study.tell(trial, 0.0)
    return found


def admits(dimension: Block | list[Any], value: Any) -> bool:
    """Return whether a value is one that a `search:` block names, by the words of its documentation."""
    if isinstance(dimension, list):
        return value in dimension
    inside = dimension["low"] <= value <= dimension["high"]
    if dimension.get("power_of_two"):
        return inside and value & (value - 1) == 0
    if step := dimension.get("step"):
        steps = (value - dimension["low"]) / step
        return inside and abs(steps - round(steps)) < 1e-6
    return inside


# --- what hypothesis draws: a space whose low ends (first choices) are the model's own values ------------------------


@st.composite
def searches(draw: st.DrawFn, grid: bool = False) -> tuple[Block, Block]:
    """Return (search, entry): some of the hyper-parameters of MF with ranges of any kind."""
    size_low, width = draw(st.integers(1, 64)), draw(st.integers(0, 40))
    power = draw(st.integers(0, 4)), draw(st.integers(0, 4))
    rate = draw(st.floats(1e-6, 1e-1))
    kinds = {
        "negatives": {"low": size_low, "high": size_low + width, **draw(st.sampled_from([{}, {"step": 3}]))},
        "embedding_size": {"low": 2 ** power[0], "high": 2 ** sum(power), "power_of_two": True},
        "loss": draw(st.permutations(["bpr", "bce"])),
    }
    if grid:
        kinds["learning_rate"] = {"low": 0.25, "high": 0.25 * draw(st.integers(1, 5)), "step": 0.25}
    else:
        kinds["learning_rate"] = {"low": rate, "high": rate * draw(st.floats(1, 1e3)), "log": True}
        kinds["batch_size"] = {"low": size_low, "high": size_low + width, "log": True}
        kinds["weight_decay"] = {"low": 0.0, "high": draw(st.floats(0, 10))}
    names = draw(st.sets(st.sampled_from(sorted(kinds)), min_size=1))
    search = {name: kinds[name] for name in sorted(names)}
    if {"loss", "negatives"} <= names and draw(st.booleans()):
        search["negatives"] = {**kinds["negatives"], "when": {"loss": "bce"}}
    return search, {name: d[0] if isinstance(d, list) else d["low"] for name, d in search.items()}


def holds(dimension: Block | list[Any], values: Block) -> bool:
    """Return whether the condition of a dimension holds."""
    return isinstance(dimension, list) or all(values[k] == v for k, v in dimension.get("when", {}).items())


@given(drawn=searches(), seed=st.integers(0, 1000))
@quick
def test_what_is_suggested_is_inside_its_range_and_there_iff_its_condition_holds(
    drawn: tuple[Block, Block], seed: int
) -> None:
    search, entry = drawn
    for values, _ in suggested(space(search, entry), seed):
        for name, dimension in search.items():
            assert (name in values) == holds(dimension, values), name
            assert name not in values or admits(dimension, values[name]), (name, values[name])


@given(drawn=searches(), seed=st.integers(0, 1000))
@quick
def test_values_survive_encoding_and_optunas_own_storage_of_them(drawn: tuple[Block, Block], seed: int) -> None:
    searched = space(*drawn)
    for values, stored in [*suggested(searched, seed), (searched.defaults, searched.encode(searched.defaults))]:
        assert searched.decode(searched.encode(values)) == values
        assert searched.decode(stored) == values
        assert {k: type(v) for k, v in searched.decode(stored).items()} == {k: type(v) for k, v in values.items()}


@given(drawn=searches(grid=True))
@quick
def test_a_grid_is_the_product_of_what_is_searched_without_repetition(drawn: tuple[Block, Block]) -> None:
    search, entry = drawn

    def axis(dimension: Block | list[Any]) -> list[Any]:
        if isinstance(dimension, list):
            return dimension
        if dimension.get("power_of_two"):
            return [2**n for n in range(30) if dimension["low"] <= 2**n <= dimension["high"]]
        step = dimension.get("step", 1)
        return [dimension["low"] + step * i for i in range(int((dimension["high"] - dimension["low"]) / step) + 1)]

    expected = set()
    for point in product(*map(axis, search.values())):
        values = dict(zip(search, point, strict=True))
        expected.add(frozenset((k, v) for k, v in values.items() if holds(search[k], values)))
    points = [frozenset(point.items()) for point in space(search, entry).grid()]
    assert len(points) == len(set(points))
    assert set(points) == expected
    assert frozenset(space(search, entry).defaults.items()) in expected


def test_a_grid_of_decimals_holds_the_numbers_that_a_person_writes() -> None:
    searched = space({"learning_rate": {"low": 0.1, "high": 0.5, "step": 0.1}}, {"learning_rate": 0.3})
    assert searched.grid() == [{"learning_rate": rate} for rate in (0.1, 0.2, 0.3, 0.4, 0.5)]
    assert searched.defaults in searched.grid(), "or the first trial would be carried out twice"


def test_powers_of_two_are_searched_by_their_exponent() -> None:
    searched = space({"embedding_size": {"low": 4, "high": 64, "power_of_two": True}}, {"embedding_size": 8})
    assert searched.encode({"embedding_size": 32}) == {"log2(embedding_size)": 5}
    values = [v["embedding_size"] for v, _ in suggested(searched, 1, 60)]
    assert set(values) == {4, 8, 16, 32, 64}
    assert all(math.log2(v) % 1 == 0 and isinstance(v, int) for v in values)


# --- conditions ------------------------------------------------------------------------------------------------------

ADAPTERS: Block = {
    "peft.rank": {"low": 2, "high": 16, "power_of_two": True, "when": {"peft.kind": ["lora", "dora"]}},
    "peft.kind": ["lora", "dora", "ia3", "frozen"],
}


def test_a_rank_is_searched_only_where_the_kind_of_adapter_has_one() -> None:
    searched = space(ADAPTERS, {"peft": {"kind": "lora", "rank": 8}}, "benchmark.llm.pointwise.Pointwise")
    assert searched.paths == ["peft.kind", "peft.rank"], "the condition first, whatever the order of the file"
    assert searched.defaults == {"peft.kind": "lora", "peft.rank": 8}
    seen = [values for values, _ in suggested(searched, 0, 40)]
    assert {values["peft.kind"] for values in seen} == {"lora", "dora", "ia3", "frozen"}
    for values in seen:
        assert ("peft.rank" in values) == (values["peft.kind"] in ("lora", "dora"))
    assert len(searched.grid()) == 2 * 4 + 2, "four ranks of two kinds, and two kinds without"


def test_a_default_without_the_condition_leaves_the_conditional_one_out() -> None:
    searched = space(ADAPTERS, {"peft": {"kind": "ia3"}}, "benchmark.llm.pointwise.Pointwise")
    assert searched.defaults == {"peft.kind": "ia3"}


def test_conditions_can_stand_on_conditions() -> None:
    searched = space(
        {
            "loss": ["bpr", "bce"],
            "negatives": {"choices": [1, 2], "when": {"loss": "bce"}},
            "embedding_size": {"choices": [8, 16], "when": {"negatives": [2]}},
        },
        {"embedding_size": 8},
    )
    assert searched.grid() == [
        {"loss": "bpr"},
        {"loss": "bce", "negatives": 1},
        {"loss": "bce", "negatives": 2, "embedding_size": 8},
        {"loss": "bce", "negatives": 2, "embedding_size": 16},
    ]


def test_the_trainer_can_be_searched_as_well() -> None:
    searched = space({"trainer.max_epochs": {"low": 1, "high": 30}})
    assert searched.defaults == {"trainer.max_epochs": 20}


def test_whole_numbers_for_a_parameter_that_is_no_whole_number_are_a_continuous_range() -> None:
    values = [v["l2"] for v, _ in suggested(space({"l2": {"low": 1, "high": 1000}}, cls="baselines.ease.EASE"), 0)]
    assert all(isinstance(v, float) and v % 1 for v in values)


@pytest.mark.parametrize("kind", ["weight_decay", "trainer.gradient_clip_val"])
def test_a_conditional_range_is_continuous_where_the_parameter_is(kind: str) -> None:
    searched = space({"loss": ["bpr", "bce"], kind: {"low": 1, "high": 5, "when": {"loss": "bce"}}}, {"loss": "bpr"})
    values = [v[kind] for v, _ in suggested(searched, 0, 20) if kind in v]
    assert values
    assert any(v % 1 for v in values), f"{kind} is no whole number, whatever its default is"


# --- what cannot be searched -----------------------------------------------------------------------------------------

REFUSED = [
    ("{l2: {low: 10, high: 1}}", "search.l2: the range is inverted: low 10 is over high 1"),
    ("{l2: {low: 0, high: 1, log: true}}", "a logarithm needs low > 0, found 0"),
    ("{l2: {low: 1}}", "expected low and high, or choices"),
    ("{l2: {low: 1, high: .inf}}", "low and high must be finite"),
    ("{l2: []}", "choices is empty"),
    ("{l2: [10, 20, 10]}", "two choices are equal"),
    ("{l2: [10.0, 10]}", "two choices are equal"),  # Optuna tells them apart as little as the model does
    ("{l2: {}}", "expected low and high, or choices"),
    ("{l2: 10}", "found 10, expected choices [a, b, c] or a range {low: 1, high: 10}"),
    ("{l2: {low: 1, high: 9, step: 0}}", "step"),
    ("{l2: {low: 1, high: 9, lgo: true}}", "unknown key 'lgo'; did you mean"),
    ("{l2: {choices: [10], low: 1}}", "choices and low do not go together"),
    ("{l2: {low: 3, high: 16, power_of_two: true}}", "low must be a power of two, found 3"),
    ("{l2: {low: 1, high: 16, power_of_two: true, log: true}}", "log and power_of_two do not go together"),
    ("{l2x: [1, 2]}", "unknown key 'l2x'; did you mean 'l2'?"),
    ("{trainer.max_epoch: [1, 2]}", "unknown key 'max_epoch'; did you mean 'max_epochs'?"),
    ("{l2: [10, -1]}", "models.ease.search.l2: -1 is refused"),
    ("{l2: {low: -5, high: 20}}", "models.ease.search.l2: -5 is refused"),
    ("{l2: {low: 20, high: 30}}", "the model's own value 10.0 lies outside of 20 to 30"),
    ("{l2: [20, 30]}", "the model's own value 10.0 lies outside of [20, 30]"),
    ("{l2: {low: 1, high: 20, when: {batch_size: [1]}}}", "search.l2.when: 'batch_size' is not searched"),
    ("{l2: {low: 1, high: 20, when: {batchsize: 1}}, batch_size: [2048]}", "did you mean 'batch_size'?"),
    ("{l2: {low: 1, high: 20, when: {batch_size: 3}}, batch_size: [2048]}", "3 is no choice of batch_size"),
    ("{l2: {low: 1, high: 20, when: {batch_size: []}}, batch_size: [2048]}", "it would never be searched"),
    ("{l2: {low: 1, high: 20, when: {l2: 3}}}", "l2 -> l2 is a circle"),
    ("{l2: {choices: [10.0], when: {batch_size: 2048}}, batch_size: {choices: [2048], when: {l2: 10.0}}}",
     "l2 -> batch_size -> l2 is a circle"),
]  # fmt: skip


@pytest.mark.parametrize(("search", "expected"), REFUSED, ids=[search for search, _ in REFUSED])
def test_a_search_that_cannot_be_gets_one_line_before_anything_is_made(
    tiny_experiment: Path, tmp_path: Path, search: str, expected: str
) -> None:
    write(tiny_experiment, {"ease": f"{{class: baselines.ease.EASE, l2: 10.0, search: {search}}}"})
    said = one_line(levelfield("sweep", tiny_experiment, "--runs", tmp_path / "runs", "--results", tmp_path / "out"))
    assert expected in said
    assert "l2" in said or "trainer" in said, "it names the parameter"
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "runs" / "studies").exists()
    assert not list((tmp_path / "runs").glob("*/record.json"))


@pytest.mark.parametrize(
    ("search", "why"),
    [
        ({"embedding_size": {"low": 8, "high": 64, "step": 0.5}}, "a size has no halves"),
        ({"negatives": {"low": 1, "high": 9}, "embedding_size": {"choices": [8], "when": {"negatives": 99}}},
         "the condition never holds"),
        ({"limit_train": [None, 100]}, "not a hyper-parameter: the models would train on different data"),
        ({"class_path": [None, "baselines.ease.EASE"]}, "not a hyper-parameter"),
        ({"search": [None, 1]}, "not a hyper-parameter"),
        ({"trainer": ["a", "b"]}, "a block is no value"),
        ({"trainer.early_stopping.monitor": ["auc", "ndcg@10"]}, "all trials must be judged by one metric"),
    ],
)  # fmt: skip
def test_what_would_go_wrong_in_the_middle_of_a_sweep_is_refused_before_it(search: Block, why: str) -> None:
    try:
        with pytest.raises(InputError):
            space(search, {"embedding_size": 8})
    except BaseException as error:
        raise AssertionError(f"{why}: {type(error).__name__}: {error}") from None


def test_a_file_without_anything_to_search_says_what_to_add(tiny_experiment: Path, tmp_path: Path) -> None:
    said = one_line(levelfield("sweep", tiny_experiment, "--runs", tmp_path / "runs"))
    assert "no model has a search: block, such as search: {learning_rate:" in said


@pytest.mark.parametrize(
    ("sweep", "expected"),
    [
        ("{trials: 0}", "sweep.trials"),
        ("{sampler: tp}", "sweep.sampler: found 'tp', expected one of tpe, gp"),
        ("{pruner: mediam}", "did you mean 'median'?"),
        ("{objectives: [ndcg@11]}", "sweep.objectives: 'ndcg@11' is neither a metric of the task nor a cost; did you"),
        ("{objectives: [train_seconds, ndcg@10]}", "the first one selects and must be a metric of the task"),
        ("{objectives: [ndcg@10, ndcg@10]}", "sweep.objectives: one stands twice"),
        ("{objectives: [ndcg@10, train_seconds], pruner: median}", "'median' judges one objective"),
        ("{objectives: [auc], pruner: hyperband}", "make them one, or use pruner: none"),
        ("{sampler: grid}", "models.mf.search.learning_rate: a grid needs choices or a step, found 0.001 to 0.5, log"),
        ("{study: ../elsewhere}", "sweep.study"),
        ("{trial: 3}", "did you mean 'trials'?"),
    ],
)
def test_a_sweep_block_that_cannot_be_gets_one_line(
    tiny_experiment: Path, tmp_path: Path, sweep: str, expected: str
) -> None:
    write(tiny_experiment, {"mf": MF % RATE}, sweep)
    said = one_line(levelfield("sweep", tiny_experiment, "--runs", tmp_path / "runs"))
    assert expected in said
    assert not (tmp_path / "runs" / "studies").exists()
