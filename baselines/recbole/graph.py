"""Graph: the knowledge graph with RecBole's ids, filtered as RecBole filters it."""

from __future__ import annotations

import numpy as np
import polars as pl
import torch
from torch import Tensor

from baselines.recbole.config import INTERVAL
from benchmark.data.batch import Ragged
from benchmark.data.negatives import NegativeSampler
from benchmark.data.schema import ITEM_ID, Catalogue
from benchmark.data.sequences import unique_pairs
from benchmark.errors import InputError


class Graph:
    """Triples with RecBole's ids: 0 is padding, an item and its entity share one id, other entities come behind.

    Attributes:
        head, relation, tail: (n,) int64.
        n_entities, n_relations: numbers of ids; the last relation is RecBole's "[UI-Relation]".
    """

    def __init__(
        self, catalogue: Catalogue, reverse: bool, entities: str = "[0,inf)", relations: str = "[0,inf)"
    ) -> None:
        assert catalogue.graph is not None
        assert catalogue.links is not None
        graph = filtered(catalogue.graph, entities, relations)
        items = pl.DataFrame({ITEM_ID: catalogue.items[ITEM_ID], "id": np.arange(1, catalogue.n_items + 1)})
        linked = catalogue.links.join(items, on=ITEM_ID, how="inner").unique("entity_id", keep="first").sort("id")
        names = pl.concat([graph["head"], graph["tail"]]).unique().sort()
        rest = names.filter(~names.is_in(linked["entity_id"].implode()))
        ids = pl.DataFrame(
            {
                "name": pl.concat([linked["entity_id"], rest]),
                "id": np.r_[linked["id"].to_numpy(), catalogue.n_items + 1 + np.arange(len(rest))],
            }
        )
        kind = graph["relation"].unique().sort()
        kinds = pl.DataFrame({"name": kind, "id": np.arange(1, len(kind) + 1)})
        self.head, self.tail = _looked_up(graph["head"], ids), _looked_up(graph["tail"], ids)
        self.relation = _looked_up(graph["relation"], kinds)
        n = len(kind)
        if reverse:
            head, tail = np.r_[self.head, self.tail], np.r_[self.tail, self.head]
            self.relation = np.r_[self.relation, self.relation + n]
            self.head, self.tail, n = head, tail, 2 * n
        self.n_entities, self.n_relations = catalogue.n_items + 1 + len(rest), n + 2
        self._known: NegativeSampler | None = None

    def __len__(self) -> int:
        return len(self.head)

    def negative_tails(self, head: Tensor, generator: torch.Generator) -> Tensor:
        """Return (B,) entities that are no tail of the heads (B,), as RecBole's ``KGSampler`` draws them."""
        if self._known is None:
            tails: Ragged = unique_pairs(self.head - 1, self.tail - 1, self.n_entities - 1, self.n_entities - 1)
            self._known = NegativeSampler(tails, self.n_entities - 1)
        return self._known.draw(head - 1, 1, generator)[:, 0] + 1


def filtered(graph: pl.DataFrame, entities: str, relations: str) -> pl.DataFrame:
    """Return the triples whose entities and relation stand in a number of triples within the intervals.

    As in RecBole, dropped triples lower the numbers of others, until nothing more is dropped.
    """

    def within(name: str, interval: str) -> pl.Expr:
        match = INTERVAL.fullmatch(interval)
        assert match is not None
        low, high = float(match[2]), float(match[3])
        above = pl.col(name) >= low if match[1] == "[" else pl.col(name) > low
        return above & (pl.col(name) <= high if match[4] == "]" else pl.col(name) < high)

    while True:
        ends = pl.concat([graph["head"], graph["tail"]]).rename("entity").value_counts(name="n")
        kinds = graph["relation"].value_counts(name="n")
        good = ends.filter(within("n", entities))["entity"].implode()
        kept = graph.filter(
            pl.col("head").is_in(good)
            & pl.col("tail").is_in(good)
            & pl.col("relation").is_in(kinds.filter(within("n", relations))["relation"].implode())
        )
        if not kept.height:
            raise InputError(
                f"the knowledge graph is empty after entity_kg_num_interval {entities} and "
                f"relation_kg_num_interval {relations}; loosen them"
            )
        if kept.height == graph.height:
            return graph
        graph = kept


def _looked_up(names: pl.Series, ids: pl.DataFrame) -> np.ndarray:
    frame = names.alias("name").to_frame().join(ids, on="name", how="left", maintain_order="left")
    return frame["id"].to_numpy().astype(np.int64)
