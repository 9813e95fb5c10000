"""MemoryDataset: stands for RecBole's ``Dataset``; interactions, features and the knowledge graph held in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import scipy.sparse as sp
import torch
from torch import Tensor

from baselines.recbole import compat, zoo
from baselines.recbole.config import INTERVAL, RecBoleConfig, Settings
from benchmark.data.batch import Ragged
from benchmark.data.negatives import NegativeSampler
from benchmark.data.rows import unique_pairs
from benchmark.data.schema import ITEM_ID, RATING, TITLE, USER_ID, Catalogue, Interactions
from benchmark.errors import InputError, nearest

SEPARATOR = ", "  # between the values of a feature that has several (see ``benchmark.data.sources``)


# --- features ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Feature:
    """One feature of all users or all items; row 0 is RecBole's padding, row i + 1 describes our id i.

    Attributes:
        kind: token, token_seq or float, RecBole's types.
        values: (n + 1,) int64 codes from 1, 0 for missing; (n + 1, longest) for token_seq; (n + 1, 2) float pairs of
            (value, 1) for float, as RecBole embeds numbers.
        size: number of codes, 0 included.
    """

    kind: str
    values: Tensor
    size: int


def feature_columns(config: RecBoleConfig, catalogue: Catalogue) -> dict[str, list[str]]:
    """Return which columns of users and items the model reads: ``load_col``, else all but ids and titles.

    Raises:
        InputError: a column that ``load_col``, ``selected_features`` ... names is not there, or is no number.
    """
    kind = zoo.family(config.model)
    if kind not in ("context_aware", "sequential", "exlib"):
        return {"user": [], "item": []}
    frames = {"user": (catalogue.users, USER_ID), "item": (catalogue.items, ITEM_ID)}
    chosen = config.value("load_col") or {}
    own = [name for key in zoo.ITEM_FEATURES for name in _listed(config.value(key))]
    out = {}
    for part, (frame, key) in frames.items():
        there = [name for name in frame.columns if name != key]
        everything = [name for name in there if name != TITLE]
        if part in chosen:
            names = [name for name in chosen[part] if name != key]
        else:
            names = everything if kind != "sequential" or config.model in zoo.CLICK else []
        if part == "item":
            names = list(dict.fromkeys([*names, *own]))
        for name in names:
            if name not in there:
                keys = [key for key in (*zoo.ITEM_FEATURES, "load_col") if name in str(config.value(key))]
                raise InputError(
                    f"RecBole's {config.model} reads the {part} feature '{name}' (parameters.{keys[0]}), which the "
                    f"data does not have{nearest(name, there) or '; it has no feature'}"
                )
        out[part] = names
    for name in config.value("numerical_features") or []:
        places = [frame for part, (frame, _) in frames.items() if name in out[part]]
        if not places:
            raise InputError(
                f"'numerical_features': '{name}' is no feature that the model reads"
                f"{nearest(name, [*out['user'], *out['item']])}"
            )
        if not places[0][name].dtype.is_numeric():
            raise InputError(f"'numerical_features': '{name}' is {places[0][name].dtype}, expected numbers")
    return out


def _listed(value: Any) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def encode(column: pl.Series, numeric: bool) -> Feature:
    """Return a column of n values as a feature of n + 1 rows."""
    if numeric:
        numbers = column.cast(pl.Float64).to_numpy()
        known = numbers[~np.isnan(numbers)]
        low, high = (known.min(), known.max()) if len(known) else (0.0, 1.0)
        scaled = np.where(np.isnan(numbers), 0.5, (numbers - low) / (high - low or 1.0))  # RecBole's normalize_all
        pairs = np.stack([np.r_[0.0, scaled], np.r_[0.0, np.ones(len(scaled))]], axis=1)
        return Feature("float", torch.from_numpy(pairs.astype(np.float32)), 2)
    text = column.cast(pl.String).fill_null("")
    several = column.dtype == pl.String and bool(text.str.contains(SEPARATOR, literal=True).any())
    if column.name == TITLE or several:
        lists = text.str.split(" " if column.name == TITLE else SEPARATOR)
        row = np.repeat(np.arange(column.len()), lists.list.len().to_numpy())
        code, size = _codes(lists.explode())
        there = code > 0
        row, code = row[there], code[there]
        place = np.arange(len(row)) - np.searchsorted(row, row)
        values = np.zeros((column.len() + 1, max(int(place.max(initial=0)) + 1, 1)), np.int64)
        values[row + 1, place] = code
        return Feature("token_seq", torch.from_numpy(values), size)
    code, size = _codes(text)
    return Feature("token", torch.from_numpy(np.r_[0, code]), size)


def _codes(text: pl.Series) -> tuple[np.ndarray, int]:
    """Return (n,) codes from 1 in the order of the sorted distinct texts, 0 for empty ones; and the number of codes."""
    distinct = text.fill_null("").unique().sort()
    distinct = distinct.filter(distinct != "")
    codes = pl.DataFrame({"text": distinct, "code": np.arange(1, len(distinct) + 1)})
    joined = text.fill_null("").alias("text").to_frame().join(codes, on="text", how="left", maintain_order="left")
    return joined["code"].fill_null(0).to_numpy().astype(np.int64), len(distinct) + 1


# --- the knowledge graph -------------------------------------------------------------------------------------------


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
        graph = _filtered(catalogue.graph, entities, relations)
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


def _filtered(graph: pl.DataFrame, entities: str, relations: str) -> pl.DataFrame:
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


# --- the data set --------------------------------------------------------------------------------------------------


class MemoryDataset:
    """Stands for RecBole's ``Dataset``: interactions in memory, with the fields and matrices that models ask for.

    RecBole keeps id 0 of users and items for padding, so ids are ours + 1.

    Args:
        settings: names of the fields.
        rows: the training interactions.
        n_users, n_items: our numbers of ids.
        features: of users and items, by the names of their columns.
        graph: the knowledge graph, for models that read one.
    """

    dataset_path = ""  # LDiffRec looks for a file here that only n_cate > 1 needs

    def __init__(
        self,
        settings: Settings,
        rows: Interactions,
        n_users: int,
        n_items: int,
        features: dict[str, dict[str, Feature]] | None = None,
        graph: Graph | None = None,
    ) -> None:
        enums, self._interaction = compat.load("utils.enum_type"), compat.load("data.interaction").Interaction
        types, sources = enums.FeatureType, enums.FeatureSource
        self.config, self.graph = settings, graph
        self.uid_field, self.iid_field = settings["USER_ID_FIELD"], settings["ITEM_ID_FIELD"]
        self.label_field, self.time_field = settings["LABEL_FIELD"], settings["TIME_FIELD"]
        self.user_num, self.item_num, self.inter_num = n_users + 1, n_items + 1, len(rows)
        self.field2type = {self.uid_field: types.TOKEN, self.iid_field: types.TOKEN}
        self.field2source = {self.uid_field: sources.USER_ID, self.iid_field: sources.ITEM_ID}
        self._sizes = {self.uid_field: self.user_num, self.iid_field: self.item_num}
        length = settings["MAX_ITEM_LIST_LENGTH"]
        self.field2seqlen = {self.uid_field: 1, self.iid_field: 1, self.iid_field + settings["LIST_SUFFIX"]: length}
        columns = {
            self.uid_field: torch.from_numpy(rows.user.astype(np.int64) + 1),
            self.iid_field: torch.from_numpy(rows.item.astype(np.int64) + 1),
        }
        for field, values in ((settings["RATING_FIELD"], rows.rating), (self.time_field, rows.time)):
            if values is not None:
                # float64 for times: float32 cannot tell neighbouring seconds of an epoch apart
                columns[field] = torch.from_numpy(values.copy())
                self.field2type[field], self.field2source[field] = types.FLOAT, sources.INTERACTION
                self.field2seqlen[field] = 1
        self.inter_feat = self._interaction(columns)
        kinds = {"token": types.TOKEN, "token_seq": types.TOKEN_SEQ, "float": types.FLOAT}
        tables: dict[str, Any] = {}
        for part, key, source in (
            ("user", self.uid_field, sources.USER),
            ("item", self.iid_field, sources.ITEM),
        ):
            chosen = (features or {}).get(part, {})
            tables[part] = {key: torch.arange(self._sizes[key])} | {name: f.values for name, f in chosen.items()}
            for name, f in chosen.items():
                self.field2type[name], self.field2source[name], self._sizes[name] = kinds[f.kind], source, f.size
                self.field2seqlen[name] = f.values.shape[1] if f.kind == "token_seq" else 1
        self.features: dict[str, dict[str, Tensor]] = tables
        self.user_feat, self.item_feat = (self._interaction(tables[part]) for part in ("user", "item"))
        if graph is not None:
            self._sizes[settings["ENTITY_ID_FIELD"]] = graph.n_entities
            self._sizes[settings["RELATION_ID_FIELD"]] = graph.n_relations
            self.entity_num, self.relation_num = graph.n_entities, graph.n_relations
            self.head_entities, self.relations, self.tail_entities = graph.head, graph.relation, graph.tail

    def __len__(self) -> int:
        return self.inter_num

    def num(self, field: str) -> int:
        """Return the number of ids of a field, padding included; 1 for numbers."""
        return self._sizes.get(field, 1)

    def fields(self, ftype: Any = None, source: Any = None) -> list[str]:
        """Return the fields of these types and sources; all of them by default."""
        return [
            field
            for field, kind in self.field2type.items()
            if (ftype is None or kind in ftype) and (source is None or self.field2source[field] in source)
        ]

    def get_user_feature(self) -> Any:
        return self._interaction(dict(self.features["user"]))

    def get_item_feature(self) -> Any:
        return self._interaction(dict(self.features["item"]))

    def inter_matrix(self, form: str = "coo", value_field: str | None = None) -> Any:
        """Return the (user_num, item_num) matrix of interactions; as in RecBole, repeated ones add up."""
        row, column = self.inter_feat[self.uid_field].numpy(), self.inter_feat[self.iid_field].numpy()
        data = np.ones(len(row)) if value_field is None else self.inter_feat[value_field].numpy()
        return sp.coo_matrix((data, (row, column)), shape=(self.user_num, self.item_num)).asformat(form)

    def kg_graph(self, form: str = "coo", value_field: str | None = None) -> Any:
        """Return the (n_entities, n_entities) matrix of triples, valued by their relation."""
        assert self.graph is not None
        n = self.graph.n_entities
        data = np.ones(len(self.graph)) if value_field is None else self.graph.relation
        return sp.coo_matrix((data, (self.graph.head, self.graph.tail)), shape=(n, n)).asformat(form)

    def ckg_graph(self, form: str = "coo", value_field: str | None = None) -> Any:
        """Return interactions (both directions) and triples as one matrix over users, then entities.

        KGAT also asks for it in the form of DGL, a package that no longer installs: see ``compat``.
        """
        if form == "dgl":
            return None
        assert self.graph is not None
        user, item = self.inter_feat[self.uid_field].numpy(), self.inter_feat[self.iid_field].numpy() + self.user_num
        source = np.r_[user, item, self.graph.head + self.user_num]
        target = np.r_[item, user, self.graph.tail + self.user_num]
        own = np.full(2 * len(user), self.graph.n_relations - 1)
        data = np.ones(len(source)) if value_field is None else np.r_[own, self.graph.relation]
        n = self.user_num + self.graph.n_entities
        return sp.coo_matrix((data, (source, target)), shape=(n, n)).asformat(form)

    def history_item_matrix(
        self, value_field: str | None = None, max_history_len: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return each user's items (user_num, H) padded with 0, their values (H is the longest), and their number."""
        return self._history(self.uid_field, self.iid_field, self.user_num, value_field, max_history_len)

    def history_user_matrix(
        self, value_field: str | None = None, max_history_len: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the same of each item: its users."""
        return self._history(self.iid_field, self.uid_field, self.item_num, value_field, max_history_len)

    def _history(
        self, of: str, what: str, n: int, value_field: str | None, longest: int | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        # as in RecBole the order within a history is random, and so is what a limit cuts off; here it is the same draw
        # each time: a restored model must read the histories it was trained on
        order = torch.randperm(self.inter_num, generator=torch.Generator().manual_seed(0))
        order = order[torch.argsort(self.inter_feat[of][order], stable=True)]
        row, column = self.inter_feat[of][order], self.inter_feat[what][order]
        value = torch.ones(len(row)) if value_field is None else self.inter_feat[value_field][order].float()
        length = torch.bincount(row, minlength=n)
        position = torch.arange(len(row)) - (length.cumsum(0) - length)[row]
        width = int(length.max()) if longest is None else min(longest, int(length.max()))
        kept = position < width
        history, values = torch.zeros(n, width, dtype=torch.int64), torch.zeros(n, width)
        history[row[kept], position[kept]] = column[kept]
        values[row[kept], position[kept]] = value[kept]
        return history, values, length.clamp(max=width)


def memory_dataset(config: RecBoleConfig, settings: Settings, catalogue: Catalogue, rows: Interactions) -> Any:
    """Return the data set of a model: the training rows, and the features or the graph it reads."""
    columns = feature_columns(config, catalogue)
    numbers = set(config.value("numerical_features") or [])
    frames = {"user": catalogue.users, "item": catalogue.items}
    features = {
        part: {name: encode(frame[name], name in numbers) for name in columns[part]} for part, frame in frames.items()
    }
    knows = zoo.family(config.model) == "knowledge_aware"
    graph = None
    if knows:
        entities, relations = (config.value(f"{part}_kg_num_interval") for part in ("entity", "relation"))
        graph = Graph(catalogue, bool(config.value("kg_reverse_r")), entities, relations)
    return MemoryDataset(settings, rows, catalogue.n_users, catalogue.n_items, features, graph)


def check_data(config: RecBoleConfig, catalogue: Catalogue) -> None:
    """Say what the model needs and the data lacks.

    Raises:
        InputError: one line: no graph, no such feature, no timestamps, no ratings, too few users for the clusters.
    """
    name, kind = config.model, zoo.family(config.model)
    if kind == "knowledge_aware" and (catalogue.graph is None or catalogue.links is None):
        raise InputError(
            f"RecBole's {name} needs a knowledge graph, which the data does not have: source recbole-atomic reads it "
            "from .kg and .link files"
        )
    if catalogue.train.time is None and (kind == "sequential" or config.value("time-aware")):
        raise InputError(f"RecBole's {name} needs timestamps, which the data does not have")
    if name == "DMF" and config.value("inter_matrix_type") == RATING and catalogue.train.rating is None:
        raise InputError(
            f"RecBole's {name} with inter_matrix_type 'rating' needs ratings, which the data does not have"
        )
    for key in ("metrics_k", "reranker_CAN_NUM"):
        if (k := config.value(key)) is not None and max([k] if isinstance(k, int) else map(int, str(k).split(","))) > (
            catalogue.n_items
        ):
            raise InputError(f"RecBole's {name}: found {key} {k}, expected at most the {catalogue.n_items} items")
    if name == "NCL" and config.value("num_clusters") > min(catalogue.n_users, catalogue.n_items):
        raise InputError(
            f"RecBole's {name}: found num_clusters {config.value('num_clusters')}, expected at most the number of "
            f"users and of items, {min(catalogue.n_users, catalogue.n_items)}"
        )
    feature_columns(config, catalogue)
