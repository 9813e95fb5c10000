"""A trained model recommends to a person: what it scored, without what is known, and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from benchmark.data.batch import Batch
from benchmark.data.split import known
from benchmark.errors import InputError
from benchmark.experiment import Experiment
from benchmark.runs.run import prepare, run
from benchmark.serving.find import by_key, of_experiment
from benchmark.serving.trained import TrainedModel
from tests.conftest import write_tiny_csv

MODELS = """\
  popularity: {class: baselines.popularity.Popularity}
  ease: {class: baselines.ease.EASE, l2: 10.0}
  user-knn: {class: baselines.user_knn.UserKNN, weighting: tfidf}
  mf: {class: baselines.mf.MF, embedding_size: 8, learning_rate: 0.05}
  bias: {class: baselines.bias.Bias}
  tfidf: {class: baselines.tfidf.TfIdf}
  rrf: {class: baselines.fusion.Fusion, members: [ease, tfidf], method: rrf}
  zscore: {class: baselines.fusion.Fusion, members: [ease, tfidf], method: zscore}
"""

FEW = ", limit_valid: 4, limit_test: 4"  # of a language model that reads a prompt an item


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, Path]:
    folder = tmp_path_factory.mktemp("serving")
    return made(folder, MODELS)


def made(folder: Path, models: str, task: str = "", items: pl.DataFrame | None = None) -> tuple[Experiment, Path]:
    """Run models on the small data set: 20 red cars and 20 blue boats, and who likes the one likes not the other."""
    write_tiny_csv(folder)
    if items is not None:
        items.write_csv(folder / "items.csv")
    (folder / "experiment.yaml").write_text(
        f"""\
name: tiny
dataset: {{source: csv, interactions: {folder}/interactions.csv, items: {folder}/items.csv}}
task: {{split: {{kind: temporal, valid: 0.2, test: 0.2}}, metrics: [ndcg@10]{task}}}
trainer: {{max_epochs: 3}}
models:
{models}""",
        encoding="utf-8",
    )
    experiment = Experiment.load(folder / "experiment.yaml")
    assert {r.status for r in run(experiment, folder / "runs")} == {"finished"}
    return experiment, folder / "runs"


def trained(stored: tuple[Experiment, Path], label: str | None = None) -> TrainedModel:
    experiment, runs = stored
    return of_experiment(experiment, prepare(experiment, runs), runs, label)


@pytest.mark.parametrize("label", ["ease", "user-knn", "tfidf"])
def test_a_new_person_is_served_by_what_is_named(stored: Any, label: str) -> None:
    found = trained(stored, label).recommend(["red car 3", "Red Car 5"], k=5)
    assert found.history == ["red car 3", "red car 5"]
    assert found.reads_history
    assert len(found.items) == 5
    assert all(item.title.startswith("red car") for item in found.items)
    assert not {item.title for item in found.items} & set(found.history)
    scores = [item.score for item in found.items]
    assert scores == sorted(scores, reverse=True)


def test_reasons_are_the_items_whose_absence_is_felt(stored: Any) -> None:
    model = trained(stored, "ease")
    found = model.recommend(["red car 3", "blue boat 25"], k=4)
    for item in found.items:
        assert item.counted is not None
        assert item.counted.title.split()[0] == item.title.split()[0], "a car is recommended because of the car"
        other = next(t for t in found.history if t != item.counted.title)
        without = next(i.score for i in model.recommend([other], k=40, explain=False).items if i.title == item.title)
        assert item.counted.value == pytest.approx(item.score - without, abs=1e-5)
        assert item.nearest is not None
        assert item.nearest.title == item.counted.title, "as its words say"


def counted_by_hand(model: TrainedModel, history: list[str], k: int) -> list[tuple[str, float]]:
    """Return, of each listed item, what counted most: the whole catalogue is scored anew without each."""
    listed = model.recommend(history, k=k, explain=False).items
    without = [
        {
            item.title: item.score
            for item in model.recommend([t for t in history if t != left], k=40, explain=False).items
        }
        for left in history
    ]
    falls = [[item.score - scores[item.title] for scores in without] for item in listed]
    return [(history[int(np.argmax(fall))], max(fall)) for fall in falls]


@pytest.mark.parametrize("label", ["rrf", "zscore"])
def test_what_counted_most_is_found_for_scores_that_depend_on_the_list(stored: Any, label: str) -> None:
    model = trained(stored, label)
    history = ["red car 3", "red car 5", "blue boat 25", "blue boat 31"]
    found = model.recommend(history, k=8)
    for item, (title, value) in zip(found.items, counted_by_hand(model, history, 8), strict=True):
        if value <= 0:
            assert item.counted is None
        else:
            assert item.counted is not None
            assert (item.counted.title, item.counted.value) == (title, pytest.approx(value, abs=1e-5))


def test_a_model_that_reads_the_history_is_not_said_not_to(stored: Any) -> None:
    found = trained(stored, "tfidf").recommend(["red car 13"], "blue boat 25", k=1)
    assert all(item.title.startswith("blue boat") and item.counted is None for item in found.items)
    assert found.reads_history, "it changes the scores of cars, which are not listed"


def test_a_model_that_reads_no_history_says_so(stored: Any) -> None:
    for label in ("popularity", "mf", "bias"):
        found = trained(stored, label).recommend(["red car 3"], k=3)
        assert not found.reads_history
        assert all(item.counted is None for item in found.items)


def test_a_user_of_the_data_is_scored_as_in_the_run(stored: Any) -> None:
    model = trained(stored, "mf")
    split = model.data.split
    user = int(split.train.user[0])
    own = known(split, "test").item[known(split, "test").user == user]
    all_of_it = {*own.tolist(), *split.test.item[split.test.user == user].tolist()}
    found = model.recommend(user=str(split.users["user_id"][user]), k=split.n_items)
    assert len(found.items) == split.n_items - len(all_of_it)
    vectors = model.model(new_user=False)
    with torch.no_grad():
        scores = vectors.item.weight @ vectors.user.weight[user] + vectors.item_bias.weight[:, 0]
    rank = {str(split.items["item_id"][i]): float(scores[i]) for i in range(split.n_items)}
    for item in found.items:
        assert item.score == pytest.approx(rank[item.item_id], abs=1e-5)


def test_words_find_items_for_somebody_without_history(stored: Any) -> None:
    found = trained(stored, "tfidf").recommend(query="a boat", k=6)
    assert all(item.title.startswith("blue boat") for item in found.items)
    assert found.history == []
    assert {item.asked for item in found.items} == {("boat",)}, "what of the query stands in the text, little words not"
    both = trained(stored, "tfidf").recommend(["red car 3"], "boat", k=40)
    titles = [item.title.split()[0] for item in both.items]
    assert {"red", "blue"} <= {t for t, i in zip(titles, both.items, strict=True) if i.score > 0}


@pytest.mark.parametrize(
    ("label", "asked", "said"),
    [
        ("ease", {"query": "a boat"}, "'ease' .EASE. reads no queries, only histories; models that read text do"),
        ("ease", {}, "nothing to go by; name something liked"),
        ("ease", {"history": ["green plane"]}, "no item is called 'green plane'; the nearest are"),
        ("ease", {"user": "u1000"}, "no user 'u1000' in the data"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(stored: Any, label: str, asked: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        trained(stored, label).recommend(**asked)
    assert "\n" not in str(error.value)


def test_a_run_is_found_by_the_first_letters_of_its_key(stored: Any) -> None:
    _, runs = stored
    named = trained(stored, "ease")
    again = by_key(named.record.key[:6], runs)
    assert again.spec.resolved() == named.spec.resolved()
    first, second = (model.recommend(["red car 3"], k=5).items for model in (named, again))
    assert first == second
    for key, said in (("zzzz", "no such run"), (named.record.key[:2], "4 letters of its key")):
        with pytest.raises(InputError, match=said):
            by_key(key, runs)


def test_without_a_name_the_best_on_validation_is_taken(stored: Any) -> None:
    best = trained(stored)
    values = {r.label: r.metrics["valid"]["ndcg@10"] for r in run(*stored)}
    assert values[best.spec.label] == max(values.values())


def test_a_model_with_a_place_for_each_user_refuses_a_new_one(tmp_path: Path) -> None:
    pytest.importorskip("recbole")
    stored = made(tmp_path, "  bpr: {class: baselines.recbole.RecBole, model: BPR}\n")
    with pytest.raises(InputError, match=r"'bpr' .RecBole. holds something of each of its users .*; --user takes"):
        trained(stored, "bpr").recommend(["red car 3"])
    assert len(trained(stored, "bpr").recommend(user="u1", k=3).items) == 3


def test_a_stage_learns_of_the_new_person_too(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from tests.llm.tiny import tiny

    folder = tiny("llama")
    models = f"""\
  ease: {{class: baselines.ease.EASE, l2: 10.0}}
  rerank: {{class: benchmark.llm.listwise.Listwise, first_stage: ease, backbone: {folder}, n_candidates: 5,
    trainer: {{max_epochs: 1}}}}
"""
    model = trained(made(tmp_path, models), "rerank")
    found = model.recommend(["red car 3"], "a car that is quiet", k=4)
    assert len(found.items) == 4
    assert np.isfinite([item.score for item in found.items]).all()
    history = ["red car 3", "blue boat 25"]
    by_hand = counted_by_hand(model, history, 5)
    for item, (title, value) in zip(model.recommend(history, k=5).items, by_hand, strict=True):
        assert value > 0, "without a car or a boat, the list of the first stage is another one"
        assert item.counted is not None
        assert (item.counted.title, item.counted.value) == (title, pytest.approx(value, abs=1e-4))


def test_a_model_that_reads_a_prompt_an_item_explains_the_listed_ones_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    from benchmark.llm.pointwise import Pointwise
    from tests.llm.tiny import tiny

    row = f"{{class: benchmark.llm.pointwise.Pointwise, backbone: {tiny('llama')}, limit_train: 50}}"
    model = trained(made(tmp_path, f"  yes-no: {row}\n", FEW), "yes-no")
    asked: list[int] = []
    score = Pointwise.score

    def counted(self: Pointwise, batch: Batch) -> torch.Tensor:
        asked.append(len(batch) * (self.n_items if batch.candidates is None else batch.candidates.shape[1]))
        return score(self, batch)

    monkeypatch.setattr(Pointwise, "score", counted)
    history = ["red car 3", "blue boat 25"]
    found = model.recommend(history, k=4)
    assert sum(asked) == 40 + 3 * 4, "the catalogue once; the list without each of the history, and without all of it"
    assert found.reads_history
    for item, (title, value) in zip(found.items, counted_by_hand(model, history, 4), strict=True):
        assert (item.counted.title if item.counted else None) == (title if value > 1e-5 else None)


def test_a_prompt_without_a_history_is_found_out_by_the_whole_catalogue(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from tests.llm.tiny import tiny

    row = f"""{{class: benchmark.llm.pointwise.Pointwise, backbone: {tiny("llama")}, limit_train: 50,
    prompt: {{template: "Will anybody like {{candidate}}? Answer Yes or No:"}}}}"""
    model = trained(made(tmp_path, f"  yes-no: {row}\n", FEW), "yes-no")
    assert not model.recommend(["red car 3"], k=4).reads_history


def test_nothing_is_warned_of_that_nobody_can_change(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    pytest.importorskip("transformers")
    from tests.llm.tiny import tiny

    row = f"{{class: benchmark.llm.two_tower.TwoTower, backbone: {tiny('bert')}, peft: {{kind: lora, rank: 2}}}}"
    stored = made(tmp_path, f"  tower: {row}\n")
    recwarn.clear()
    assert len(trained(stored, "tower").recommend(["red car 3"], k=3).items) == 3
    assert [str(w.message) for w in recwarn if issubclass(w.category, FutureWarning)] == []


def test_of_two_items_of_one_name_the_taken_one_is_said(tmp_path: Path) -> None:
    ids = [f"i{i}" for i in range(40)]
    films = pl.DataFrame({"item_id": ids, "title": [f"film {i // 2}" for i in range(40)], "year": range(1960, 2000)})
    model = trained(made(tmp_path, "  tfidf: {class: baselines.tfidf.TfIdf}\n", items=films), "tfidf")
    found = model.recommend(["film 3"], k=1)
    taken, other = ("1966", "1967") if found.history == ["film 3 (1966)"] else ("1967", "1966")
    assert found.notes == [f"'film 3' may be 2 items: taken for film 3 ({taken}); there is also film 3 ({other})"]
    assert found.history == [f"film 3 ({taken})"]
    assert found.items[0].nearest is not None
    assert found.items[0].nearest.title == f"film 3 ({taken})"
    for year in (taken, other):
        chosen = model.recommend([f"film 3 ({year})"], k=1)
        assert (chosen.notes, chosen.history) == ([], [f"film 3 ({year})"])
