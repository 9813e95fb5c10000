"""The future: histories that hold what came later, a training part that does, and splits that do neither."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from benchmark.audit.future import histories, training
from tests.audit.small import frame, material, only

PREFERENCE = {"kind": "preference", "metrics": ["auc"], "history": "before_target"}


def one_after_the_other() -> pl.DataFrame:
    """Return users of whom each begins half a step after the one before: some end before others begin."""
    return frame().with_columns(timestamp=pl.col("timestamp") + 500 * pl.col("user_id").str.slice(1).cast(int))


def test_histories_before_their_targets_are_fine(tmp_path: Path) -> None:
    finding = only(histories(material(tmp_path)))
    assert finding.level == "fine"
    assert finding.numbers["entries"] > 1000
    assert finding.numbers["training_entries"] > 1000


def test_a_history_that_goes_one_further_is_a_fault(tmp_path: Path) -> None:
    found = material(tmp_path, task=PREFERENCE)
    assert only(histories(found)).level == "fine"
    found.test.stop += 1  # now each history ends with its own target
    finding = only(histories(found))
    assert finding.level == "fault"
    assert finding.numbers["targets"] == finding.numbers["late"] == len(found.test)
    assert f"the target itself stands in its history {len(found.test)} times" in finding.said


def test_a_history_after_the_target_is_a_fault_in_a_ranking_too(tmp_path: Path) -> None:
    found = material(tmp_path, task={"split": {"kind": "ratio", "valid": 0.2, "test": 0.2}})
    assert only(histories(found)).level == "fine"
    rows = found.test
    rows.stop = rows.start + 8  # everything known of a user, whenever it was
    finding = only(histories(found))
    assert finding.level == "fault"
    assert "are not older than the target" in finding.said
    assert finding.numbers["targets"] == 0


def test_without_times_it_cannot_be_told(tmp_path: Path) -> None:
    found = material(tmp_path, frame().drop("timestamp"), task={"split": {"kind": "ratio"}})
    assert only(histories(found)).level == only(training(found)).level == "unknown"


def test_after_one_point_in_time_training_knows_no_future(tmp_path: Path) -> None:
    finding = only(training(material(tmp_path)))
    assert finding.level == "fine"
    assert finding.numbers["training_share"] == finding.numbers["users_share"] == 0


@pytest.mark.parametrize(("kind", "own"), [("leave_last_out", False), ("ratio", True)])
def test_the_split_that_trains_on_the_future_is_named(tmp_path: Path, kind: str, own: bool) -> None:
    finding = only(training(material(tmp_path, one_after_the_other(), task={"split": {"kind": kind}})))
    assert finding.level == "warning"
    assert f"The split {kind} lets models learn from what happened later" in finding.said
    assert finding.numbers["training_share"] > 0.1
    assert (finding.numbers["users_share"] > 0) == own


def test_one_late_training_row_of_a_given_split_is_found(tmp_path: Path) -> None:
    rows = frame().with_columns(
        part=pl.when(pl.col("timestamp") < 8000)
        .then(pl.lit("train"))
        .when(pl.col("timestamp") < 10000)
        .then(pl.lit("valid"))
        .otherwise(pl.lit("test"))
    )
    task = {"split": {"kind": "predefined"}}
    assert only(training(material(tmp_path, rows, task=task))).level == "fine"
    late = rows.row(by_predicate=(pl.col("user_id") == "u007") & (pl.col("timestamp") == 11007), named=True)
    moved = rows.with_columns(
        part=pl.when(pl.col("timestamp") == late["timestamp"]).then(pl.lit("train")).otherwise("part")
    )
    finding = only(training(material(tmp_path, moved, task=task)))
    assert finding.level == "warning"
    assert finding.numbers["users_share"] == pytest.approx(1 / 60)


def test_times_that_tell_an_order_alone_are_compared_within_a_user(tmp_path: Path) -> None:
    rows, task = one_after_the_other(), {"split": {"kind": "leave_last_out"}}
    assert only(training(material(tmp_path, rows, task=task))).level == "warning"
    finding = only(training(material(tmp_path, rows, task=task, clock="order")))
    assert finding.level == "fine"
    assert "training_share" not in finding.numbers
    assert "Times of different users cannot be compared" in finding.said


def test_what_the_source_says_of_its_order_is_passed_on(tmp_path: Path) -> None:
    note = "7 rows have earlier ones of their very second in the history"
    assert only(histories(material(tmp_path, note=note))).level == "fine", "a note of something else"
    published = {"dataset": {"source": "tallrec-movie", "ties": "published"}}
    finding = only(histories(material(tmp_path, note=note, **published)))
    assert finding.level == "warning"
    assert "the order in which the source gives them: 7 rows have earlier ones of their very second" in finding.said


def test_of_several_draws_of_candidates_each_history_counts_once(tmp_path: Path) -> None:
    one, many = (
        only(histories(material(tmp_path, task={"candidates": {"kind": "sampled", "n": 5, "draws": draws}})))
        for draws in (1, 4)
    )
    assert many.numbers == one.numbers
    assert many.level == "fine"


def test_rows_that_are_known_only_are_no_training(tmp_path: Path) -> None:
    """Of the last users everything but the last item is known, which is newer than what others do in the test."""
    newest = pl.col("timestamp") == pl.col("timestamp").max().over("user_id")
    judged = pl.col("user_id") >= "u050"
    parts = pl.when(~judged).then(pl.lit("train")).when(newest).then(pl.lit("test")).otherwise(pl.lit("known"))
    rows = frame().with_columns(part=pl.when(pl.col("user_id") == "u049").then(pl.lit("valid")).otherwise(parts))
    rows = rows.with_columns(timestamp=pl.col("timestamp") + 1e6 * (pl.col("user_id") >= "u050"))
    assert only(training(material(tmp_path, rows, task={"split": {"kind": "predefined"}}))).level == "fine"
