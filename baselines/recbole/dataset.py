"""MemoryDataset: stands for RecBole's ``Dataset``; interactions, features and the knowledge graph held in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from baselines.recbole import compat, zoo
from baselines.recbole.config import RecBoleConfig
from baselines.recbole.features import Feature, encode, feature_columns
from baselines.recbole.graph import Graph
from baselines.recbole.settings import Settings
from benchmark.data.schema import Catalogue, Interactions


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
        """Return the number of ids of a field, padding included; 2 for a feature of numbers, 1 for other numbers."""
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
