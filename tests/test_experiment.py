"""The experiment file: what it means, how it is overridden, and the one line that each fault gets."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from benchmark.data.budget import few_shot
from benchmark.errors import InputError
from benchmark.experiment import Experiment, load_all
from benchmark.experiment.presentation import MEASURED
from benchmark.experiment.spec import COLD
from benchmark.runs.execute import run_key
from benchmark.runs.run import prepare
from tests.test_cli import levelfield

EXPERIMENTS = sorted((Path(__file__).parents[1] / "experiments").rglob("*.yaml"))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.stem)
def test_every_shipped_experiment_loads_and_names_real_models(path: Path) -> None:
    for experiment in load_all(path):
        specs = experiment.specs()
        unable = experiment.unable()
        # there a table shows who cannot
        assert not unable or experiment.task.split.kind in COLD or experiment.task.domain is not None
        assert len(specs) == (len(experiment.models) - len(unable)) * len(experiment.seeds)
        groups = {spec.model_class().group for spec in specs}
        assert "trivial" in groups, "a table without trivial baselines is not evidence"


def test_overrides_from_the_shell(tiny_experiment: Path) -> None:
    experiment = Experiment.load(tiny_experiment, ["models.ease.l2=100", "seeds=[7]", "trainer.max_epochs=1"])
    assert [spec.seed for spec in experiment.specs()] == [7, 7, 7]
    assert experiment.specs()[1].config.l2 == 100
    assert experiment.trainer.max_epochs == 1


def test_the_key_is_decided_by_what_decides_the_outcome(tiny_experiment: Path) -> None:
    def keys(*overrides: str) -> list[str]:
        return [run_key(spec, "fingerprint") for spec in Experiment.load(tiny_experiment, overrides).specs()]

    base = keys()
    assert len(set(base)) == 6, "a run a model and seed"
    assert keys("name=other", "task.metrics=[auc, recall@5]", "trainer.early_stopping.monitor=auc") != base
    assert keys("task.metrics=[ndcg@10, recall@5]") == base, "another metric is a function of the same ranks"
    assert keys("name=other") == base
    changed = keys("models.ease.l2=11")
    assert [a == b for a, b in zip(base, changed, strict=True)] == [True, True, False, False, True, True]
    assert run_key(Experiment.load(tiny_experiment).specs()[0], "other data") != base[0]


def test_a_file_that_a_model_reads_is_part_of_the_key_by_its_content(tiny_experiment: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    model = f"  text: {{class: benchmark.llm.two_tower.TwoTower, retention: {{corpus: {corpus}}}}}"
    plain = tiny_experiment.read_text(encoding="utf-8")
    tiny_experiment.write_text(plain.replace("models:\n", f"models:\n{model}\n"), encoding="utf-8")

    def key(text: str) -> str:
        corpus.write_text(text, encoding="utf-8")
        return run_key(Experiment.load(tiny_experiment).spec("text", 0), "fingerprint")

    assert key("It rains.") == key("It rains.") != key("It snows.")


def test_numbers_in_scientific_notation_are_numbers(tiny_experiment: Path) -> None:
    experiment = Experiment.load(tiny_experiment, ["models.mf.learning_rate=1e-3"])
    assert experiment.specs()[4].config.learning_rate == 0.001


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("seeds: [0, 1]", "seed: [0, 1]", "experiment.yaml:13: Experiment: unknown key 'seed'; did you mean 'seeds'?"),
        ("seeds: [0, 1]", "seeds: [0, 0]", "experiment.yaml:13: seeds: a seed stands twice"),
        ("seeds: [0, 1]", "seeds: many", "experiment.yaml:13: seeds: should be a valid tuple, found 'many'"),
        ("max_epochs: 3", "max_epoch: 3", "experiment.yaml:14: trainer: unknown key 'max_epoch'; did you mean"),
        (
            "max_epochs: 3",
            "max_epochs: 0",
            "experiment.yaml:14: trainer.max_epochs: should be greater than or equal to 1",
        ),
        ("kind: temporal", "kind: temporel", "experiment.yaml:7: task.split: unknown kind 'temporel'; did you mean"),
        ("valid: 0.2", "valid: 1.2", "experiment.yaml:7: task.split.valid"),
        ("source: csv", "source: cvs", "experiment.yaml:3: dataset.source: unknown source 'cvs'; did you mean 'csv'?"),
        ("seeds: [0, 1]", "seeds: []", "seeds: found 0 entries, expected at least 1"),
        (
            "  metrics:",
            "  history_holds: likes\n  metrics:",
            "experiment.yaml:6: task: history_holds: only a preference task knows likes; filter a ranking",
        ),
        (
            "  metrics:",
            "  candidates: {kind: sampled, draws: 0}\n  metrics:",
            "experiment.yaml:8: task.candidates.draws: should be greater than or equal to 1, found 0",
        ),
        ("name: tiny\n", "", "name: required, and not there"),
        ("l2: 10.0", "l3: 10.0", "models.ease: unknown key 'l3'; did you mean 'l2'?"),
        (
            "learning_rate: 0.05",
            "negative_sampling: hardest",
            "models.mf.negative_sampling.kind: found 'hardest', expected one of uniform, popularity, hard",
        ),
        (
            "learning_rate: 0.05",
            "negative_sampling: {kind: hard, pol: 3}",
            "models.mf.negative_sampling: unknown key 'pol'; did you mean 'pool'?",
        ),
        (
            "baselines.mf.MF, embedding_size: 8",
            "baselines.sasrec.SASRec, negative_sampling: hard",
            "models.mf.negative_sampling: found 'hard', and SASRec with these settings has no negatives drawn so in a "
            "ranking task; expected uniform",
        ),
        (
            "baselines.mf.MF, embedding_size: 8",
            "baselines.sasrec.SASRec, loss: bce, negative_sampling: hard",
            "expected popularity or uniform",
        ),
        (
            "learning_rate: 0.05",
            "augment: {crop: 0.5}",
            "models.mf.augment: MF with these settings is not trained on histories; leave it out",
        ),
        ("learning_rate: 0.05", "augment: {crop: 1.5}", "models.mf.augment.crop: should be less than 1, found 1.5"),
        ("learning_rate: 0.05", "augment: {}", "models.mf.augment: none of crop, mask, reorder is set"),
        ("l2: 10.0", "negative_sampling: hard", "models.ease: unknown key 'negative_sampling'"),
        ("l2: 10.0", "l2: -1", "models.ease.l2: should be greater than 0, found -1"),
        (
            "baselines.ease.EASE",
            "baselines.ease.Eease",
            "models.ease.class: baselines.ease has no class 'Eease'; did you",
        ),
        ("baselines.ease.EASE", "baselines.eese.EASE", "no module 'baselines.eese'; did you mean 'baselines.ease'?"),
        ("baselines.ease.EASE", "EASE", "models.ease.class: 'EASE' is not a path like baselines.ease.EASE"),
        ("[ndcg@10, auc]", "[ndgc@10, auc]", "'ndgc"),
        ("[ndcg@10, auc]", "[ndcg@0, auc]", "ndcg@0"),
        ("[ndcg@10, auc]", "[log_loss]", "task.metrics: 'log_loss' is not a metric of a ranking task"),
        ("max_epochs: 3", "early_stopping: {monitor: mrr}", "'mrr' is not among task.metrics"),
        ("max_epochs: 3", "max_epochs: 3}}", "experiment.yaml:14: not valid YAML"),
    ],
)
def test_a_fault_gets_one_line_with_file_line_key_and_nearest_name(
    tiny_experiment: Path, old: str, new: str, expected: str
) -> None:
    text = tiny_experiment.read_text()
    assert old in text
    tiny_experiment.write_text(text.replace(old, new))
    with pytest.raises(InputError) as caught:
        Experiment.load(tiny_experiment).specs()
    message = str(caught.value)
    assert expected in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (
            "{source: joined, domains: {boats: movielens-100k}}",
            "dataset.domains: found 1 entry, expected at least 2",
        ),
        (
            "{source: joined, domains: {boats: movielens-100k, cars: {source: csv, interaction: a.csv}}}",
            "dataset.domains: cars: unknown key 'interaction'; did you mean 'interactions'?",
        ),
        ("{source: joined}", "dataset.domains: required, and not there"),
        ("{source: csv, interactions: a.csv, itemz: a.csv}", "dataset: unknown key 'itemz'; did you mean 'items'?"),
        ("{source: csv, interactions: a.csv, filterz: {}}", "dataset: unknown key 'filterz'; did you mean 'filters'?"),
        ("{source: csv, interactions: a.csv, items: 3}", "dataset.items: "),
        ("{source: csv, interactions: a.csv, filters: {min_user: 1}}", "dataset.filters: unknown key 'min_user'"),
    ],
)
def test_a_fault_of_a_source_has_the_key_that_stands_in_the_file(tmp_path: Path, block: str, expected: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(f"name: x\ndataset: {block}\nmodels: {{p: {{class: baselines.popularity.Popularity}}}}\n")
    with pytest.raises(InputError) as caught:
        Experiment.load(path)
    assert str(caught.value).startswith(f"{path}:2: {expected}")


def test_language_models_refuse_what_would_change_nothing(tiny_experiment: Path) -> None:
    for path, setting, said in (
        ("two_tower.TwoTower", "negative_sampling: popularity", "has no negatives drawn so"),
        ("two_tower.TwoTower", "negatives: 4, negative_sampling: hard", "expected popularity or uniform"),
        ("generative.Generative", "negative_sampling: hard", "has no negatives drawn so"),
        ("pointwise.Pointwise", "zero_shot: true, negative_sampling: hard", "has no negatives drawn so"),
        ("pointwise.Pointwise", "zero_shot: true, augment: {mask: 0.2}", "is not trained on histories"),
    ):
        entry = f"models={{llm: {{class: benchmark.llm.{path}, {setting}}}}}"
        with pytest.raises(InputError, match=said):
            Experiment.load(tiny_experiment, [entry]).specs()
    kinds = "{a: {class: benchmark.llm.pointwise.Pointwise, negative_sampling: hard, augment: {mask: 0.2}}}"
    assert Experiment.load(tiny_experiment, [f"models={kinds}"]).specs()
    preference = ["task.kind=preference", "task.metrics=[auc]", f"models={kinds}"]
    with pytest.raises(InputError, match=r"models\.a\.negative_sampling: .* in a preference task"):
        Experiment.load(tiny_experiment, preference).specs()


def test_a_model_that_cannot_do_the_task_is_left_out_and_says_why(tiny_experiment: Path) -> None:
    experiment = Experiment.load(tiny_experiment, ["task.kind=preference", "task.metrics=[auc]"])
    assert {spec.label for spec in experiment.specs()} == {"popularity"}
    assert experiment.unable()["ease"] == "EASE cannot do a preference task with these settings; it does: ranking"
    alone = experiment.model_copy(update={"models": {"ease": experiment.models["ease"]}})
    with pytest.raises(InputError, match=r"models\.ease: EASE cannot do a preference task with these settings"):
        alone.specs()


def test_a_misspelt_measured_number_is_said_before_anything_runs(tiny_experiment: Path, tmp_path: Path) -> None:
    wanted = "report={measured: [base_kll, size_mb], tradeoff: {measured: base_ckaa}}"
    done = levelfield("run", tiny_experiment, "--dry-run", wanted, "--runs", tmp_path / "runs")
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    expected = "report.measured: no model that is shipped measures 'base_kll'; did you mean 'base_kl'? (one of your own"
    assert expected in said
    assert "report.tradeoff.measured: no model that is shipped measures 'base_ckaa'; did you mean 'base_cka'?" in said
    assert "size_mb" not in said
    report = Experiment.load(tiny_experiment, [wanted]).report
    assert len(report.doubtful(["base_kll"])) == 1, "a model of one's own has been run"


def test_every_number_that_shipped_models_report_is_known() -> None:
    found = set()
    root = Path(__file__).parents[1]
    for path in [*(root / "benchmark" / "llm").rglob("*.py"), *(root / "baselines").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name in ("report", "measure", "_of_language_model"):
                keys = [key for one in ast.walk(node) if isinstance(one, ast.Dict) for key in one.keys]
                found |= {key.value for key in keys if isinstance(key, ast.Constant)}
    assert len(found) > 15
    assert found <= set(MEASURED)
    assert not [line for path in EXPERIMENTS for one in load_all(path) for line in one.report.doubtful()]


def test_what_is_said_of_the_report_changes_no_run(tiny_experiment: Path) -> None:
    plain = Experiment.load(tiny_experiment).specs()
    told = ["report={test: wilcoxon, correction: bh, costs: [peak_memory], beyond: [coverage@10]}"]
    told.append("published=[{model: ease, source: x, values: {auc: 0.5}}]")
    assert [s.resolved() for s in Experiment.load(tiny_experiment, told).specs()] == [s.resolved() for s in plain]


def test_what_cannot_stand_together_is_said_when_the_file_is_loaded(tiny_experiment: Path) -> None:
    text = tiny_experiment.read_text(encoding="utf-8") + "report: {together: both}\n"
    two = text.replace("name: tiny", "name: both-x"), text.replace("name: tiny", "name: x")
    other = text.replace("name: tiny", "name: y").replace("seeds: [0, 1]", "seeds: [0]")
    for documents, expected in (
        ([*two], "two data sets would be called 'x' in the table"),
        (
            [two[0], other],
            r"both-x and y cannot stand in one table: seeds is \(0, 1\) in the one and \(0,\) in the other",
        ),
        ([two[0].replace("both-x", "both"), two[1]], "'both' is the name of an experiment too"),
    ):
        tiny_experiment.write_text("---\n".join(documents), encoding="utf-8")
        with pytest.raises(InputError, match=f"experiment.yaml: report.together: {expected}"):
            load_all(tiny_experiment)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("task.metrics=[auc, auc]", "metrics: 'auc' stands twice"),
        ("report.costs=[peak_memory, peak_memory]", "'peak_memory' stands twice"),
        ("report.test=t-test", "report.test: found 't-test', expected one of permutation, wilcoxon"),
        ("report.correction=bonferroni", "expected one of holm, bh"),
        ("report.costs=[train_second]", "did you mean 'train_seconds'"),
        ("report.significance=5", "report.significance: should be less than 1, found 5"),
        ("report.tests=wilcoxon", "unknown key 'tests'; did you mean 'test'?"),
        ("report.beyond=[covrage@10]", "report: beyond: 'covrage@10' is unknown; did you mean 'coverage'?"),
        ("report.beyond=['gap(age']", "'gap(age' cannot be read; expected such as gini@10, gap(age):auc, exposure"),
        ("report.beyond=[coverage]", "'coverage' needs a cut-off: 'coverage@10'"),
        ("report.beyond=['gap(age)@10']", "'gap(age)@10' takes no cut-off: 'gap(gender)'"),
        ("report.beyond=[gini@21]", "'gini@21': the cut-off must be 1 to 20, the length of the lists that are stored"),
        ("report.beyond=[gini@0]", "'gini@0': the cut-off must be 1 to 20"),
        ("report.beyond=[gini@ten]", "'gini@ten': the cut-off must be 1 to 20"),
        ("report.beyond=['gap()']", "'gap()' needs a column: 'gap(gender)'"),
        ("report.beyond=[exposure@10]", "'exposure@10' needs a column: 'exposure(genres)@10'"),
        ("report.beyond=['novelty(age)@10']", "'novelty(age)@10' takes no column: 'novelty@10'"),
        ("report.beyond=['novelty@10:auc']", "'novelty@10:auc' takes no metric: 'novelty@10'"),
        ("report.beyond=['gap(age):acu']", "'gap(age):acu': 'acu' is not among task.metrics; did you mean 'auc'?"),
        ("report.beyond=['gap(age)', 'gap(age):ndcg@10']", "beyond: 'gap(age)' stands twice"),
        ("report.beyond=[gini@5, gini@5]", "beyond: 'gini@5' stands twice"),
    ],
)
def test_wrong_report_settings_are_one_line(tiny_experiment: Path, override: str, expected: str) -> None:
    with pytest.raises(InputError) as caught:
        Experiment.load(tiny_experiment, [override])
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_of_a_preference_task_only_gaps_can_be_asked(tiny_experiment: Path) -> None:
    task = ["task.kind=preference", "task.metrics=[auc, log_loss]", "trainer.early_stopping.monitor=auc"]
    experiment = Experiment.load(tiny_experiment, [*task, "report.beyond=['gap(age)', 'gap(age):log_loss']"])
    assert [(one.column, one.metric) for one in experiment.beyond] == [("age", "auc"), ("age", "log_loss")]
    with pytest.raises(InputError, match=r"'gini@10' is of lists, which a preference task has none of; gap\(COLUMN\)"):
        Experiment.load(tiny_experiment, [*task, "report.beyond=[gini@10]"])
    counted = ["task.metrics=[ndcg@10, valid@5]", "report.beyond=['gap(age):valid@5']"]
    with pytest.raises(InputError, match="'valid@5' is counted in the run, no user has a value of it"):
        Experiment.load(tiny_experiment, counted)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("models.eese.l2=1", "no key 'eese'; did you mean 'ease'?"),
        ("models.ease.l2", "expected key.path=value"),
        ("name.x=1", "'name' is not a block of keys"),
    ],
)
def test_a_wrong_override_names_the_nearest_key(tiny_experiment: Path, override: str, expected: str) -> None:
    with pytest.raises(InputError, match=expected.replace("?", r"\?")):
        Experiment.load(tiny_experiment, [override])


def test_files_that_are_no_experiments(tmp_path: Path) -> None:
    near = tmp_path / "quickstart.yaml"
    near.write_text("name: x\n")
    with pytest.raises(InputError, match=r"quikstart.yaml: no such file; did you mean '.*quickstart.yaml'"):
        load_all(tmp_path / "quikstart.yaml")
    binary = tmp_path / "latin.yaml"
    binary.write_bytes("name: caf\xe9".encode("latin-1"))
    with pytest.raises(InputError, match="not UTF-8"):
        load_all(binary)
    empty = tmp_path / "empty.yaml"
    empty.write_text("")
    with pytest.raises(InputError, match="the file is empty"):
        load_all(empty)
    listed = tmp_path / "list.yaml"
    listed.write_text("- a\n- b\n")
    with pytest.raises(InputError, match="expected keys such as name"):
        load_all(listed)


def test_lists_of_data_sets_and_budgets_multiply(tiny_experiment: Path) -> None:
    text = tiny_experiment.read_text(encoding="utf-8")
    block = text[text.index("dataset:") : text.index("task:")]
    inner = block.replace("dataset:\n", "").replace("\n  ", ", ").strip()
    grid = text.replace(block, f"datasets:\n  whole: {{{inner}}}\n  liked: {{{inner}, filters: {{min_rating: 4}}}}\n")
    tiny_experiment.write_text(
        grid.replace("seeds:", "limit_train: [16, 64]\nseeds:").replace("l2: 10.0", "limit_train: null")
    )
    first, second = load_all(tiny_experiment)
    assert [first.name, second.name] == ["tiny-whole", "tiny-liked"]
    assert second.dataset.filters.min_rating == 4
    assert list(first.models) == ["popularity-16", "popularity-64", "ease", "mf-16", "mf-64"]
    assert [first.models[label].limit_train for label in first.models] == [16, 64, None, 16, 64]
    assert len(first.specs()) == 10


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("limit_train=[]", "models.popularity.limit_train: the list is empty"),
        ("limit_train=[16, 16]", "models.popularity.limit_train: the list names a budget twice"),
        ("limit_train=[0]", "models.popularity-0.limit_train: should be greater than 0, found 0"),
        ("datasets=[movielens-100k]", "dataset and datasets do not go together"),
    ],
)
def test_a_grid_that_cannot_be_is_one_line(tiny_experiment: Path, override: str, said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        load_all(tiny_experiment, [override])


def test_a_stage_with_several_budgets_is_the_one_of_the_same_budget(tiny_experiment: Path) -> None:
    text = tiny_experiment.read_text(encoding="utf-8")
    start, end = text.index("models:"), text.index("seeds:")
    models = (
        "models:\n  ease: {class: baselines.ease.EASE}\n"
        "  upper: {class: tests.runs.staged.Staged, first_stage: ease}\nlimit_train: [16, 64]\n"
    )
    tiny_experiment.write_text(text[:start] + models + text[end:], encoding="utf-8")
    (experiment,) = load_all(tiny_experiment)
    stages = {s.label: s.stages["first_stage"].limit_train for s in experiment.specs() if s.stages}
    assert stages == {"upper-16": 16, "upper-64": 64}


def test_a_sample_of_training_rows_may_be_drawn_anew_with_each_seed(tiny_experiment: Path, tmp_path: Path) -> None:
    said = ["limit_train=50", "seeds=[3, 4]"]
    data = prepare(Experiment.load(tiny_experiment), tmp_path).split

    def samples(*more: str) -> list[tuple[bytes, bytes]]:
        specs = Experiment.load(tiny_experiment, [*said, *more]).specs()
        trains = [few_shot(data, spec.task, spec.limit_train, spec.sample_seed).train for spec in specs]
        assert {len(train) for train in trains} == {50}
        return [(train.user.tobytes(), train.item.tobytes()) for train in trains]

    one = samples()
    assert len(set(one)) == 1  # all models and seeds
    by_seed = samples("resample_train=true")
    assert by_seed[0] != by_seed[1]
    assert by_seed == [by_seed[0], by_seed[1]] * 3  # of one seed the same for all models
    specs = [
        Experiment.load(tiny_experiment, ["seeds=[3]", *more]).specs()[0] for more in ([], ["resample_train=true"])
    ]
    assert specs[0].resolved() == specs[1].resolved()  # without a budget there is nothing to draw


# --- rows on rows ----------------------------------------------------------------------------------------------------

ON = """
  text: {class: benchmark.llm.two_tower.TwoTower}
  frozen: {class: benchmark.llm.two_tower.TwoTower, peft: {kind: frozen}}
  prefix: {class: benchmark.llm.two_tower.TwoTower, peft: {kind: prompt}}
  ia3: {class: benchmark.llm.two_tower.TwoTower, peft: {kind: ia3}}
  lora: {class: benchmark.llm.two_tower.TwoTower, item_fields: [title, genres]}
"""


@pytest.mark.parametrize(
    ("row", "line"),
    [
        (
            "{class: benchmark.llm.interpolated.Interpolated, of: popularity}",
            "of: 'popularity' is no fine-tuned",
        ),
        ("{class: benchmark.llm.interpolated.Interpolated, of: frozen}", "of: 'frozen' is frozen"),
        ("{class: benchmark.llm.interpolated.Interpolated, of: prefix}", "of: 'prefix' trains virtual tokens"),
        ("{class: benchmark.llm.compressed.Compressed, of: ease}", r"of: 'ease' \(EASE\) has no layers"),
        (
            "{class: benchmark.llm.merged.Merged, members: [mf, ease]}",
            r"members: found 'mf' \(MF\), expected models fine-tuned by lora, rslora, full",
        ),
        ("{class: benchmark.llm.merged.Merged, members: [ia3, text]}", r"members: found 'ia3' \(ia3\)"),
        (
            "{class: benchmark.llm.merged.Merged, members: [text, lora]}",
            "members: 'lora' is not fine-tuned in the way",
        ),
        (
            "{class: benchmark.llm.merged.Merged, members: [text, lora], weights: [1, -1]}",
            "weights: their sum is 0, expected more than 0",
        ),
        (
            "{class: baselines.fusion.Fusion, members: [mf, ease], weights: [1, -1]}",
            "weights: their sum is 0, expected more than 0",
        ),
        (
            "{class: baselines.distilled.Distilled, teacher: ease, student: {class: baselines.mf.MF}, loss: embedding}",
            r"teacher: 'ease' \(EASE\) has no vectors of items; use loss: soft or listwise",
        ),
        (
            "{class: baselines.distilled.Distilled, teacher: mf, student: {class: benchmark.llm.pointwise.Pointwise}}",
            "student: Pointwise gives no scores with gradients to learn by",
        ),
    ],
)
def test_a_row_that_cannot_stand_on_another_is_refused_before_anything_runs(
    tiny_experiment: Path, row: str, line: str
) -> None:
    plain = tiny_experiment.read_text(encoding="utf-8")
    tiny_experiment.write_text(plain.replace("models:\n", f"models:{ON}  above: {row}\n"), encoding="utf-8")
    with pytest.raises(InputError, match=f"models.above.*{line}"):
        Experiment.load(tiny_experiment).specs()


@pytest.mark.parametrize(
    ("row", "line"),
    [
        (
            "{class: baselines.fusion.Fusion, members: [mf, popularity], method: logit}",
            "members.1: the scores of 'pop",
        ),
        ("{class: baselines.calibrated.Calibrated, member: popularity}", "method: the member's scores are no logits"),
        (
            "{class: baselines.distilled.Distilled, teacher: popularity, student: {class: baselines.mf.MF, loss: bce}}",
            "teacher: the scores of 'popularity' are no logits",
        ),
    ],
)
def test_probabilities_stand_on_logits_alone(tiny_experiment: Path, row: str, line: str) -> None:
    plain = tiny_experiment.read_text(encoding="utf-8").replace(
        "class: baselines.mf.MF", "class: baselines.mf.MF, loss: bce"
    )
    tiny_experiment.write_text(plain.replace("models:\n", f"models:\n  above: {row}\n"), encoding="utf-8")
    overrides = ["task.kind=preference", "task.metrics=[auc]", "trainer.early_stopping.monitor=auc"]
    with pytest.raises(InputError, match=f"models.above.*{line}"):
        Experiment.load(tiny_experiment, overrides).specs()
