"""The data set in memory: features, the graph's ids, and what a model needs and the data lacks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from baselines.recbole import RecBole
from baselines.recbole.checks import check_data
from baselines.recbole.dataset import memory_dataset
from baselines.recbole.features import encode
from baselines.recbole.graph import Graph, filtered
from baselines.recbole.settings import Settings
from benchmark.data.schema import Catalogue
from benchmark.errors import InputError
from tests.planted import planted


@pytest.fixture
def catalogue() -> Catalogue:
    return planted("ranking")[0].catalogue()


def test_tokens_are_numbered_by_their_text_and_missing_ones_are_padding() -> None:
    feature = encode(pl.Series("occupation", ["writer", None, "artist", "writer"]), numeric=False)
    assert (feature.kind, feature.size) == ("token", 3)
    assert feature.values.tolist() == [0, 2, 0, 1, 2]  # row 0 is RecBole's padding
    assert encode(pl.Series("age", [30, 7, 30]), numeric=False).values.tolist() == [0, 1, 2, 1]  # as texts


def test_a_feature_of_several_values_is_a_padded_sequence() -> None:
    feature = encode(pl.Series("genres", ["Drama, War", None, "War", ""]), numeric=False)
    assert (feature.kind, feature.size) == ("token_seq", 3)
    assert feature.values.tolist() == [[0, 0], [1, 2], [0, 0], [2, 0], [0, 0]]
    assert encode(pl.Series("title", ["The End"]), numeric=False).kind == "token_seq"  # words


def test_numbers_lie_between_0_and_1() -> None:
    feature = encode(pl.Series("age", [10, None, 30]), numeric=True)
    assert (feature.kind, feature.size) == ("float", 2)
    assert feature.values.tolist() == [[0, 0], [0, 1], [0.5, 1], [1, 1]]  # the missing one is the mean


def test_an_item_and_its_entity_share_an_id(catalogue: Catalogue) -> None:
    graph = Graph(catalogue, reverse=False)
    assert (graph.n_entities, graph.n_relations) == (catalogue.n_items + 1 + 4, 2 + 2)  # 4 clusters; padding, UI
    names = catalogue.items["item_id"].to_list()
    assert catalogue.graph is not None
    for row in (0, 17, 79):
        assert names[graph.head[row] - 1] == catalogue.graph["head"][row].removeprefix("e")
    assert graph.tail.min() == catalogue.n_items + 1
    assert set(graph.relation.tolist()) == {1, 2}


def test_reversed_triples_have_relations_of_their_own(catalogue: Catalogue) -> None:
    once, twice = Graph(catalogue, reverse=False), Graph(catalogue, reverse=True)
    n = len(once)
    assert (len(twice), twice.n_relations) == (2 * n, once.n_relations + 2)
    np.testing.assert_array_equal(twice.head[n:], once.tail)
    np.testing.assert_array_equal(twice.relation[n:], once.relation + 2)


def test_negative_tails_are_no_tails_of_their_head(catalogue: Catalogue) -> None:
    graph = Graph(catalogue, reverse=False)
    head = torch.from_numpy(graph.head).repeat(20)
    drawn = graph.negative_tails(head, torch.Generator().manual_seed(0))
    known = set(zip(graph.head.tolist(), graph.tail.tolist(), strict=True))
    assert not known & set(zip(head.tolist(), drawn.tolist(), strict=True))
    assert drawn.min() >= 1
    assert drawn.max() <= graph.n_entities - 1


def test_entities_of_few_triples_go_until_nothing_changes() -> None:
    # a - b - c: c is in one triple, then b too
    graph = pl.DataFrame({"head": ["a", "a", "b", "a"], "relation": ["r"] * 4, "tail": ["x", "y", "c", "b"]})
    graph = pl.concat([graph, graph.filter(pl.col("tail").is_in(["x", "y"]))])
    kept = filtered(graph, "[2,inf)", "[0,inf)")
    assert set(kept["tail"]) == {"x", "y"}
    assert filtered(graph, "[0,inf)", "(5,inf)").height == 6
    with pytest.raises(InputError, match="empty after entity_kg_num_interval"):
        filtered(graph, "[9,inf)", "[0,inf)")


def test_the_joint_graph_holds_both_directions_and_the_triples(catalogue: Catalogue) -> None:
    config = RecBole.Config(model="KGAT")
    data = memory_dataset(config, Settings.of(config, 0), catalogue, catalogue.train)
    graph = data.ckg_graph(value_field="relation_id")
    n, own = len(catalogue.train), data.relation_num - 1
    assert graph.shape == (data.user_num + data.entity_num,) * 2
    assert (graph.data == own).sum() == 2 * n
    dense = graph.toarray()
    user, item = catalogue.train.user[0] + 1, catalogue.train.item[0] + 1 + data.user_num
    assert dense[user, item] == dense[item, user] == own
    assert data.kg_graph(value_field="relation_id").nnz == len(data.graph)


@pytest.mark.parametrize(
    ("name", "parameters", "lacks", "message"),
    [
        ("CKE", {}, {"graph": None}, "RecBole's CKE needs a knowledge graph, which the data does not have"),
        (
            "SASRecF",
            {},
            {},
            r"item feature 'class' \(parameters.selected_features\), .* does not have; known: genres, title",
        ),
        ("S3Rec", {"item_attribute": "genre"}, {}, r"item feature 'genre' .*; did you mean 'genres'\?"),
        ("FM", {"load_col": {"user": ["aeg"]}}, {}, r"user feature 'aeg' \(parameters.load_col\).*'age'\?"),
        ("FM", {"numerical_features": ["genres"]}, {}, "'numerical_features': 'genres' is String, expected numbers"),
        ("FM", {"numerical_features": ["hight"]}, {}, "'numerical_features': 'hight' is no feature that the model"),
        ("NCL", {"num_clusters": 500}, {}, "found num_clusters 500, expected at most the number of users and of items"),
        ("RaCT", {"metrics_k": 100}, {}, "found metrics_k 100, expected at most the 83 items"),
        ("SASRec", {}, {"time": None}, "RecBole's SASRec needs timestamps, which the data does not have"),
        ("DGCF", {}, {}, "RecBole's DGCF: train_batch_size 2048 is too large for the data"),
        ("XGBoost", {"load_col": {"item": ["genres"]}}, {}, "reads one value a feature; 'genres' has several"),
        ("MKR", {"entity_kg_num_interval": "[99,inf)"}, {}, "the knowledge graph is empty after"),
    ],
)
def test_what_the_data_lacks_is_named(
    name: str, parameters: dict[str, Any], lacks: dict[str, Any], message: str, catalogue: Catalogue
) -> None:
    for key, value in lacks.items():
        if key == "graph":
            catalogue = replace(catalogue, graph=value)
        else:
            catalogue = replace(catalogue, train=replace(catalogue.train, **{key: value}))
    with pytest.raises(InputError, match=message) as caught:
        check_data(RecBole.Config(model=name, parameters=parameters), catalogue)
    assert "\n" not in str(caught.value)


def test_load_col_chooses_the_features(catalogue: Catalogue) -> None:
    def fields(**parameters: Any) -> list[str]:
        config = RecBole.Config(model="FM", parameters=parameters)
        return memory_dataset(config, Settings.of(config, 0), catalogue, catalogue.train).fields()

    assert set(fields()) >= {"age", "genres"}
    assert "title" not in fields()
    chosen = fields(load_col={"user": [], "item": ["genres"]})
    assert "genres" in chosen
    assert "age" not in chosen


def test_a_feature_that_would_hide_another_is_refused(catalogue: Catalogue) -> None:
    config = RecBole.Config(model="FM")
    hidden = replace(catalogue, items=catalogue.items.with_columns(label=pl.lit(1)))
    with pytest.raises(InputError, match="the feature 'label' is a field of RecBole's own; choose others"):
        check_data(config, hidden)
    twice = replace(catalogue, items=catalogue.items.with_columns(age=pl.lit(1)))
    with pytest.raises(InputError, match="the feature 'age' is a column of users and of items"):
        check_data(config, twice)
