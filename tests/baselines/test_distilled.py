"""Distilled: the contract with students of every kind, losses by other computations, and what a teacher may not be."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from lightning import Callback
from scipy.special import expit, log_softmax, softmax
from scipy.stats import spearmanr

from baselines._lessons import listwise, soft_labels, soft_scores
from baselines.distilled import Distilled
from baselines.ease import EASE
from baselines.mf import MF
from baselines.sasrec import SASRec
from benchmark import Experiment, run
from benchmark.data.batch import Batch, BatchSpec
from benchmark.data.datamodule import RecDataModule
from benchmark.errors import InputError
from benchmark.experiment import RunSpec
from benchmark.llm.two_tower import TwoTower
from benchmark.recommender import Recommender, size_in_bytes
from benchmark.runs.execute import load_model
from benchmark.runs.record import RunStore
from benchmark.runs.run import prepare
from tests.contract import Fitted, RecommenderContract, fit
from tests.llm.tiny import tiny_bert
from tests.planted import dataset, planted

MF_STUDENT = {"class": "baselines.mf.MF", "embedding_size": 8, "learning_rate": 0.05, "batch_size": 256}
SASREC_STUDENT = {"class": "baselines.sasrec.SASRec", "embedding_size": 16, "batch_size": 32, "learning_rate": 0.005}


@functools.cache
def teacher(kind: str, cls: type[Recommender] = EASE) -> Recommender:
    data, task = planted(kind)
    config = {"l2": 10.0} if cls is EASE else {"loss": "bce", "embedding_size": 16, "learning_rate": 0.05}
    return fit(cls, config, data, task, 1 if cls is EASE else 30, test=False).model.eval().requires_grad_(False)


def distilled(student: dict[str, Any], cls: type[Recommender] = EASE, epochs: int = 20, **config: Any) -> Fitted:
    data, task = planted("ranking")
    settings = {"teacher": "t", "student": student, "top": 20, "others": 20, **config}
    return fit(Distilled, settings, data, task, epochs, test=False, stages={"teacher": teacher("ranking", cls)})


# --- the contract ----------------------------------------------------------------------------------------------------


class _OnATeacher(RecommenderContract):
    model = Distilled
    taught_by: ClassVar[type[Recommender]] = EASE

    @classmethod
    def stages(cls, kind: str) -> dict[str, Recommender]:
        return {"teacher": teacher(kind, cls.taught_by)}


class TestPairs(_OnATeacher):
    config: ClassVar[dict[str, Any]] = {"teacher": "t", "student": MF_STUDENT, "top": 20, "others": 20}


class TestSequences(_OnATeacher):
    in_two_processes = False
    config: ClassVar[dict[str, Any]] = {
        "teacher": "t", "student": SASREC_STUDENT, "loss": "listwise", "top": 20, "others": 20,
    }  # fmt: skip
    epochs = 8


class TestVectors(_OnATeacher):
    in_two_processes = False
    config: ClassVar[dict[str, Any]] = {"teacher": "t", "student": MF_STUDENT, "loss": "embedding"}
    taught_by = MF


class TestLabelledRows(_OnATeacher):
    in_two_processes = False
    config: ClassVar[dict[str, Any]] = {"teacher": "t", "student": {**MF_STUDENT, "loss": "bce"}}
    taught_by = MF
    tasks = ("preference",)
    floor = 0.6


# --- the losses ------------------------------------------------------------------------------------------------------


def test_soft_labels_are_the_cross_entropy_at_a_temperature() -> None:
    rng = np.random.default_rng(0)
    s, t = rng.normal(size=7), rng.normal(size=7)
    p, q = expit(t / 3), expit(s / 3)
    expected = 9 * np.mean(-p * np.log(q) - (1 - p) * np.log(1 - q))
    assert float(soft_labels(torch.tensor(s), torch.tensor(t), 3.0)) == pytest.approx(expected)


def test_soft_scores_are_the_divergence_of_standardised_scores_of_the_items_that_are_there() -> None:
    rng = np.random.default_rng(1)
    s, t = rng.normal(size=(3, 6)), 5 + 0.01 * rng.normal(size=(3, 6))
    there = np.ones((3, 6), bool)
    there[1, 4:] = False
    expected = []
    for row in range(3):
        z = [(x[row][there[row]] - x[row][there[row]].mean()) / x[row][there[row]].std() / 2 for x in (t, s)]
        expected.append(4 * np.sum(softmax(z[0]) * (log_softmax(z[0]) - log_softmax(z[1]))))
    student = torch.tensor(s, dtype=torch.float32, requires_grad=True)
    loss = soft_scores(student, torch.tensor(t, dtype=torch.float32), torch.tensor(there), 2.0)
    assert loss.item() == pytest.approx(np.mean(expected), rel=1e-3)
    loss.backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert (student.grad[1, 4:] == 0).all()
    assert soft_scores(2 * student - 3, student, torch.tensor(there), 1.0).item() == pytest.approx(0, abs=1e-5)


def test_listwise_is_the_likelihood_of_the_order_with_the_others_below() -> None:
    rng = np.random.default_rng(2)
    s = rng.normal(size=(2, 5))
    there = np.ones((2, 5), bool)
    there[1, [2, 4]] = False  # of the second user two items are best, and one is drawn
    expected = []
    for row in range(2):
        left = np.flatnonzero(there[row])
        best = [j for j in left if j < 3]
        lost = 0.0
        for j in best:
            lost -= math.log(np.exp(s[row, j]) / np.exp(s[row, left[left >= j]]).sum())
        expected.append(lost / len(best))
    student = torch.tensor(s, dtype=torch.float32, requires_grad=True)
    loss = listwise(student, torch.tensor(there), 3)
    assert loss.item() == pytest.approx(np.mean(expected), rel=1e-5)
    loss.backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


# --- does it learn of the teacher ------------------------------------------------------------------------------------


def agreement(model: Recommender, other: Recommender, batch: Batch) -> float:
    """Mean rank correlation of two models over the items of the training part that a user does not have."""
    assert batch.seen is not None
    with torch.no_grad():
        ours, theirs = model.eval().score(batch), other.score(batch)
    known = torch.zeros(model.n_items, dtype=torch.bool)
    known[torch.from_numpy(model.catalogue.train.item).long()] = True
    free = ~batch.seen.dense(model.n_items).bool() & known
    return float(np.mean([spearmanr(a[f], b[f]).statistic for a, b, f in zip(ours, theirs, free, strict=True)]))


@pytest.mark.parametrize("loss", ["soft", "listwise"])
@pytest.mark.parametrize("student", [MF_STUDENT, SASREC_STUDENT], ids=["mf", "sasrec"])
def test_a_distilled_student_is_nearer_to_its_teacher_than_a_plain_one(student: dict[str, Any], loss: str) -> None:
    data, task = planted("ranking")
    cls = {"baselines.mf.MF": MF, "baselines.sasrec.SASRec": SASRec}[student["class"]]
    plain = fit(cls, {k: v for k, v in student.items() if k != "class"}, data, task, 20, test=False)
    learned = distilled(student, loss=loss)
    batch = learned.batch("valid")
    rows = (batch.user > 1).nonzero()[:, 0]  # users who were trained on
    batch = learned.module.rows("valid")[rows]
    near, far = (agreement(m.model, teacher("ranking"), batch) for m in (learned, plain))
    assert near > far + 0.02, (near, far)


def test_embedding_brings_the_vectors_nearer_by_one_linear_map() -> None:
    wanted = teacher("ranking", MF).item_embeddings()

    def explained(model: Recommender) -> float:
        own = model.item_embeddings().detach()
        found = torch.linalg.lstsq(own, wanted).solution
        return float(torch.cosine_similarity(own @ found, wanted, dim=1)[1:].mean())

    data, task = planted("ranking")
    plain = fit(MF, {k: v for k, v in MF_STUDENT.items() if k != "class"}, data, task, 20, test=False)
    assert explained(distilled(MF_STUDENT, MF, loss="embedding", weight=0.9).model) > explained(plain.model) + 0.05


def test_the_teacher_reads_training_interactions_alone_and_ranks_what_the_user_has_not() -> None:
    model = distilled(MF_STUDENT, epochs=1).model
    data, _ = planted("ranking")
    users = torch.arange(2, 40)
    batch, items, scores, there = model.lessons.lesson(users, 5)
    train = {u: data.train.item[data.train.user == u] for u in users.tolist()}
    with torch.no_grad():
        asked = teacher("ranking").score(batch)
    for row, user in enumerate(users.tolist()):
        length = int(batch.history_length[row])
        assert batch.history[row, :length].tolist() == train[user][-5:].tolist()
        assert set(batch.seen.values[batch.seen.row == row].tolist()) == set(train[user].tolist())
        assert not set(items[row].tolist()) & set(train[user].tolist())
        assert len(set(items[row].tolist())) == items.shape[1]
        unseen = np.setdiff1d(np.arange(data.n_items), train[user])
        best = unseen[np.argsort(-asked[row, unseen].numpy(), kind="stable")][:20]
        assert asked[row, items[row, :20]].tolist() == pytest.approx(asked[row, best].tolist())
        assert scores[row].tolist() == pytest.approx(asked[row, items[row]].tolist())
    assert there.all()


def test_a_user_who_has_nearly_everything_has_a_shorter_list() -> None:
    model = distilled(MF_STUDENT, epochs=1, top=60, others=20).model
    there = model.lessons.lesson(torch.arange(2, 20), 0)[3]
    assert not there.all()
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(("loss", "by"), [("listwise", EASE), ("embedding", MF)])
def test_a_two_tower_learns_by_gradients_through_its_texts_and_is_stored_as_a_two_tower(
    tmp_path: Path, loss: str, by: type[Recommender]
) -> None:
    student = {
        "class": "benchmark.llm.two_tower.TwoTower", "backbone": tiny_bert(), "batch_size": 40, "learning_rate": 0.01,
        "peft": {"rank": 2},
    }  # fmt: skip
    taught = distilled(student, by, epochs=2, loss=loss, weight=1.0, items=30).model
    taught.save(tmp_path)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    adapter = [p for name, p in taught.student.named_parameters() if "lora_B" in name]  # all 0 before the training
    assert all(p.abs().sum() > 0 for p in adapter)
    plain = TwoTower(taught.student.config, taught.catalogue).eval()
    plain.restore(tmp_path)
    taught.eval()
    batch = _test_batch(20)
    with torch.no_grad():
        assert torch.equal(plain.score(batch), taught.score(batch))


def _test_batch(max_history: int) -> Batch:
    data, task = planted("ranking")
    rows = RecDataModule(data, task, BatchSpec(kind="sequence", max_history=max_history)).rows("test")
    return rows[rows.all]


# --- what is wrong ---------------------------------------------------------------------------------------------------


def test_a_teacher_of_another_catalogue_is_refused() -> None:
    data, _ = planted("ranking")
    items = data.items.head(70)
    catalogue = replace(data.catalogue(), items=items, n_items=70)
    model = Distilled(Distilled.Config(teacher="t", student=MF_STUDENT), catalogue)
    with pytest.raises(InputError, match=r"'t' is a teacher of another catalogue: it knows 120 users and 83 items"):
        model.attach({"teacher": teacher("ranking")})
    shuffled = replace(data.catalogue(), items=data.items.reverse())
    with pytest.raises(InputError, match="another catalogue"):
        Distilled(Distilled.Config(teacher="t", student=MF_STUDENT), shuffled).attach({"teacher": teacher("ranking")})


def test_vectors_that_are_not_there_are_refused() -> None:
    with pytest.raises(InputError, match=r"teacher: EASE has no embeddings to give .*; use loss: soft or listwise"):
        distilled(MF_STUDENT, loss="embedding")


def test_scores_that_are_no_logits_teach_no_labels() -> None:
    data, task = planted("preference")
    config = {"teacher": "t", "student": {**MF_STUDENT, "loss": "bce"}}
    with pytest.raises(InputError, match="the scores of 't' are no logits; calibrate it first"):
        fit(Distilled, config, data, task, stages={"teacher": teacher("ranking")})


@pytest.mark.parametrize(
    ("student", "line"),
    [
        (
            "{class: baselines.mf.MF, embedding_siz: 8}",
            r"models.small.student: unknown key 'embedding_siz'; did you mean",
        ),
        ("{class: baselines.mf.MF, embedding_size: 0}", r"models.small.student.embedding_size: .* greater than 0"),
        (
            "{class: baselines.mf.MFF}",
            r"models.small.student.class: baselines.mf has no class 'MFF'; did you mean 'MF'",
        ),
        ("{embedding_size: 8}", r"models.small.student: it has no class"),
        ("{class: baselines.ease.EASE}", r"models.small.student: EASE gives no scores with gradients to learn by"),
        (
            "{class: baselines.distilled.Distilled, teacher: ease, student: {class: baselines.mf.MF}}",
            r"models.small.student: Distilled gives no scores with gradients to learn by",
        ),
    ],
)
def test_a_wrong_student_is_one_line(tmp_path: Path, student: str, line: str) -> None:
    with pytest.raises(InputError, match=line):
        _experiment(tmp_path, student).specs()


def test_a_closed_form_by_its_settings_is_refused_too() -> None:
    data, _ = planted("ranking")
    student = {"class": "benchmark.llm.two_tower.TwoTower", "zero_shot": True}
    with pytest.raises(InputError, match="student: TwoTower learns nothing by gradients with these settings"):
        Distilled(Distilled.Config(teacher="t", student=student), data.catalogue())


# --- in an experiment ------------------------------------------------------------------------------------------------


def _experiment(folder: Path, student: str) -> Experiment:
    data = dataset()
    raw = data.interactions.with_columns(
        user_id=data.users["user_id"].gather(data.interactions["user"]),
        item_id=data.items["item_id"].gather(data.interactions["item"]),
    )
    raw.select("user_id", "item_id", "rating", "timestamp").write_csv(folder / "interactions.csv")
    file = folder / "distilled.yaml"
    file.write_text(
        f"name: distilled\ndataset: {{source: csv, interactions: {folder}/interactions.csv}}\n"
        "task: {kind: ranking, split: {kind: leave_last_out}, metrics: [ndcg@10]}\ntrainer: {max_epochs: 2}\n"
        "models:\n  ease: {class: baselines.ease.EASE}\n"
        f"  small: {{class: baselines.distilled.Distilled, teacher: ease, student: {student}}}\n"
    )
    return Experiment.load(file)


def test_a_stored_student_comes_back_without_its_teacher_and_its_code_counts(tmp_path: Path) -> None:
    experiment = _experiment(tmp_path, "{class: baselines.mf.MF, embedding_size: 8}")
    ease, small = run(experiment, tmp_path / "runs")
    assert (ease.status, small.status, small.group) == ("finished", "finished", "collaborative"), small.error
    assert small.spec["config"]["student"]["loss"] == "bpr"  # the defaults are part of the run
    assert "teacher" not in small.spec["config"]
    data, store = prepare(experiment, tmp_path / "runs"), RunStore(tmp_path / "runs")
    spec = experiment.spec("small", 0)
    again = RunSpec.from_resolved(spec.resolved(), "distilled", "small")
    assert again.resolved() == spec.resolved()
    store.forget(ease.key)
    model = load_model(spec, data, store)
    assert model.stages == {}
    assert size_in_bytes(model) / 1e6 == small.model_report["size_mb"]
    n = data.split.n_users + data.split.n_items
    # factors and biases in float32, and a flag for each user
    assert size_in_bytes(model) == 4 * n * (8 + 1) + data.split.n_users


def test_the_students_own_training_settings_are_heeded() -> None:
    """Hard negatives are chosen before its step, and what it cannot be trained with is refused."""
    data, task = planted("ranking")

    class Watch(Callback):
        widths: ClassVar[set[int]] = set()

        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Batch, batch_idx: int) -> None:
            assert batch.negative is not None
            self.widths.add(batch.negative.shape[1])

    student = {**MF_STUDENT, "negatives": 2, "negative_sampling": {"kind": "hard", "pool": 4}}
    settings = {"teacher": "t", "student": student, "top": 20, "others": 20}
    fit(Distilled, settings, data, task, 1, test=False, stages={"teacher": teacher("ranking")}, callbacks=[Watch()])
    assert Watch.widths == {2}
    wrong = Distilled.Config(teacher="t", student={**SASREC_STUDENT, "negative_sampling": "hard"})
    with pytest.raises(InputError, match="negative_sampling: found 'hard', and SASRec"):
        Distilled.check_training(wrong, task)
