"""Fidelity reference: RecBole 1.2.1 trains and tests one of its models by itself, on exactly our split.

Its ``Config``, ``Dataset``, ``data_preparation``, trainer and evaluator do the work; of ours there are the rows, which
it reads from atomic files, and the shims of ``baselines.recbole.compat`` and of ``pandas3``. Users are named ``u<id>``,
items ``i<id>`` by our ids. Timestamps are written as places in the user's order: RecBole keeps times in float32, where
the seconds of an epoch lie 64 apart, and would shuffle neighbouring interactions.

- General, knowledge-aware and context-aware models and decision trees read the three parts from three files
  (``benchmark_filename``). RecBole then filters nothing, links included, so only links are written whose item occurs in
  the interactions and whose entity occurs in the graph.
- Sequential models read one file, and RecBole leaves each user's last two out (its prefixes exist in no other way).
  RecBole cannot remove seen items from their rankings: it insists on ``repeatable: True`` and its loader hands the
  trainer no history. The trainer itself can, so the test loader is given one.
- Either way the rows that RecBole ends up with are compared with ours before anything is trained.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import torch

from baselines.recbole import compat
from benchmark.data.schema import ITEM, ITEM_ID, PARTS, RATING, Dataset, Interactions, SplitData

Kind = Literal["ranking", "preference"]

NAME = "own"
USER_FEATURES = {"age": "token", "gender": "token", "occupation": "token"}
ITEM_FEATURES = {"year": "token", "genres": "token_seq"}
# sequential models that read the features of users and items as the context-aware ones do
_WITH_CONTEXT = {"DIN", "DIEN"}
_LIKE = 4.0
_NEVER = 10**9  # epochs without improvement until RecBole stops early


@dataclass(frozen=True)
class Loaders:
    """What RecBole's ``data_preparation`` made of a split, and the configuration it did so with."""

    config: Any
    train: Any
    valid: Any
    test: Any


def train_own(
    model: str, data: SplitData, kind: Kind, parameters: dict[str, Any], epochs: int, seed: int
) -> dict[str, float]:
    """Train a model with RecBole's own trainer and return what RecBole's own evaluator says of the test part.

    There is no early stopping and no choice of an epoch: the weights after the last epoch are tested.

    Args:
        model: its name in RecBole.
        data: our split. For a sequential model that of ``LeaveLastOut``, with times unique within a user and two
            training rows or more for each user of valid and test.
        kind: ranking: the whole catalogue, seen items removed; preference: a like is a rating of at least 4, told row
            by row.
        parameters: what differs from RecBole's defaults, under RecBole's names.
        epochs: of the trainer. Closed forms run one whatever is asked for, as RecBole has it. An epoch of a decision
            tree is all its boosting rounds: XGBoost adds as many rounds again with each, LightGBM starts anew.

    Returns:
        ``ndcg@10``, ``recall@10``, ``hit@10`` and ``mrr@10``, or ``auc`` and ``log_loss``.

    Raises:
        ValueError: RecBole cannot be given this split.
        NotImplementedError: a ranking by a decision tree, which RecBole's trainer cannot do.
    """
    with prepared(model, data, kind, parameters, epochs, seed) as loaders:
        config = loaders.config
        # as RecBole's quick start does: the weights do not depend on how the data was read
        compat.load("utils").init_seed(seed, True)
        network = compat.model_class(model)(config, loaders.train._dataset).to(config["device"])
        trainer = compat.load("utils").get_trainer(config["MODEL_TYPE"], model)(config, network)
        # decision trees ask for a validation part to report on; the others go without validation if there is none
        valid = loaders.valid if compat.models()[model] == "exlib" else None
        trainer.fit(loaders.train, valid, verbose=False, saved=False, show_progress=False)
        found = trainer.evaluate(loaders.test, load_best_model=False, show_progress=False)
    names = {"logloss": "log_loss"}
    return {names.get(name, name): float(value) for name, value in found.items()}


@contextlib.contextmanager
def prepared(
    model: str, data: SplitData, kind: Kind, parameters: dict[str, Any], epochs: int = 1, seed: int = 0
) -> Iterator[Loaders]:
    """Give RecBole's configuration and loaders of a split, checked to hold its rows; leaves no trace behind."""
    family = compat.models()[model]
    if family == "exlib" and kind == "ranking":
        raise NotImplementedError(f"RecBole's trainer of {model} predicts labelled rows and ranks nothing")
    _no_repeats(data)
    for module in ("trainer", "config", "data", "utils"):
        compat.load(module)
    with tempfile.TemporaryDirectory() as temporary, contextlib.chdir(temporary), compat.undisturbed(), pandas3():
        logging.getLogger().setLevel(logging.CRITICAL)  # RecBole writes to the root logger
        columns = _write(Path(temporary) / NAME, model, data, kind, parameters)
        settings = _settings(model, kind, parameters, columns, epochs, seed)
        config = compat.load("config").Config(model=model, dataset=NAME, config_dict=settings)
        compat.load("utils").init_seed(seed, True)
        dataset = compat.load("data").create_dataset(config)
        loaders = Loaders(config, *compat.load("data").data_preparation(config, dataset))
        _check(loaders, data, family)
        if family == "sequential" and kind == "ranking":
            loaders.test.collate_fn = _masking(loaders.test, data)
        yield loaders


def linked_only(dataset: Dataset) -> Dataset:
    """Keep the interactions with items that are linked to an entity of the graph.

    RecBole drops the others where it makes the split by itself.

    Raises:
        ValueError: the data has no graph.
    """
    tokens = dataset.items[ITEM_ID].to_list()
    linked = set(_links(tokens, dataset.graph, dataset.links))
    rows = [number for number, token in enumerate(tokens) if token in linked]
    return dataset.after("linked_only", dataset.interactions.filter(pl.col(ITEM).is_in(rows)))


# --- settings --------------------------------------------------------------------------------------------------------


def _settings(
    model: str, kind: Kind, parameters: dict[str, Any], columns: dict[str, list[str]], epochs: int, seed: int
) -> dict[str, Any]:
    """Return all that is not RecBole's default; ``parameters`` come last."""
    family = compat.models()[model]
    mode = "full" if kind == "ranking" else "labeled"
    values: dict[str, Any] = {
        "data_path": ".",
        "checkpoint_dir": "saved",
        "load_col": columns,
        "epochs": epochs,
        "eval_step": epochs + 1,
        "stopping_step": _NEVER,
        "seed": seed,
        "metric_decimal_place": 9,
        "show_progress": False,
        "gpu_id": "",
        "use_gpu": False,
    }
    if kind == "ranking":
        values |= {"metrics": ["Recall", "MRR", "NDCG", "Hit"], "topk": [10], "valid_metric": "MRR@10"}
        # the context-aware models' own defaults are for labelled rows
        values["train_neg_sample_args"] = {"distribution": "uniform", "sample_num": 1}
    else:
        values |= {"metrics": ["AUC", "LogLoss"], "valid_metric": "AUC", "threshold": {RATING: _LIKE}}
        values["train_neg_sample_args"] = None
    if family == "sequential":
        values["eval_args"] = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": mode}
        values["repeatable"] = True  # refused otherwise; see the head of this module
        if {**compat.read_properties(f"model/{model}"), **parameters}.get("loss_type") == "CE":
            values["train_neg_sample_args"] = None
    else:
        values["benchmark_filename"] = list(PARTS)
        values["eval_args"] = {"mode": mode}
    if family == "exlib":
        # RecBole looks for XGBoost.yaml and LightGBM.yaml, which are installed in lower case: here it finds neither
        properties = compat.read_properties(f"model/{model.lower()}")
        threads = torch.get_num_threads()
        quiet: dict[str, dict[str, Any]] = {
            "lgb_params": {"num_threads": threads, "verbosity": -1},
            "xgb_params": {"nthread": threads, "verbosity": 0},
        }
        boosters = {
            name: {**properties[name], **more, **parameters.get(name, {})}
            for name, more in quiet.items()
            if name in properties
        }
        values |= properties | {"xgb_verbose_eval": False}
        parameters = parameters | boosters
    return values | parameters


# --- files -----------------------------------------------------------------------------------------------------------


def _write(folder: Path, model: str, data: SplitData, kind: Kind, parameters: dict[str, Any]) -> dict[str, list[str]]:
    """Write the atomic files of a model and return which columns are to be loaded, suffix -> names."""
    family = compat.models()[model]
    folder.mkdir()
    rows = _rows(data)
    names = ["user_id", "item_id"]
    if family in ("general", "sequential") and "timestamp" in rows.columns:
        names.append("timestamp")  # elsewhere no more than one more column of a tree's input
    if RATING in rows.columns and (kind == "preference" or family == "general"):
        names.append(RATING)
    if family == "sequential":
        _atomic(folder, "inter", rows.select(names), {})
    else:
        for part in PARTS:
            _atomic(folder, f"{part}.inter", rows.filter(pl.col("part") == part).select(names), {})
    columns = {"inter": names}
    users, items = _features(model, parameters)
    for suffix, frame, prefix, features in (("user", data.users, "u", users), ("item", data.items, "i", items)):
        if present := {name: kind for name, kind in features.items() if name in frame.columns}:
            table = frame.select(list(present)).with_columns(
                pl.Series(f"{suffix}_id", [f"{prefix}{number}" for number in range(frame.height)])
            )
            if "genres" in present:
                table = table.with_columns(_sequence(pl.col("genres")))
            columns[suffix] = [f"{suffix}_id", *present]
            _atomic(folder, suffix, table.select(columns[suffix]), present)
    if family == "knowledge_aware":
        columns |= _write_graph(folder, data)
    return columns


def _rows(data: SplitData) -> pl.DataFrame:
    """Return all rows in the order of users and times, with the part of each and its place in the user's order."""
    parts = [getattr(data, part) for part in PARTS]
    frame = pl.concat(
        pl.DataFrame({"user": p.user, "item": p.item, "part": [name] * len(p)})
        .with_columns([pl.Series(RATING, p.rating)] if p.rating is not None else [])
        .with_columns([pl.Series("time", p.time)] if p.time is not None else [])
        for name, p in zip(PARTS, parts, strict=True)
    )
    keys = ["user", "time", "item"] if "time" in frame.columns else ["user", "item"]
    frame = frame.sort(keys, maintain_order=True)
    if "time" in frame.columns:
        frame = frame.with_columns(timestamp=pl.int_range(pl.len()).over("user"))
    return frame.with_columns(
        user_id=pl.format("u{}", "user"), item_id=pl.format("i{}", "item"), part=pl.col("part").cast(pl.String)
    )


def _features(model: str, parameters: dict[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the features that a model reads of users and of items, name -> type."""
    family = compat.models()[model]
    tokens = {name: kind for name, kind in ITEM_FEATURES.items() if kind == "token"}
    if family == "context_aware":
        return USER_FEATURES, ITEM_FEATURES
    if family == "exlib" or model in _WITH_CONTEXT:
        return USER_FEATURES, tokens  # a tree's input has one column a feature, which a sequence is not
    chosen = parameters.get("selected_features", ())
    return {}, {name: kind for name, kind in ITEM_FEATURES.items() if name in chosen}


def _sequence(column: pl.Expr) -> pl.Expr:
    """Return "Sci Fi, Drama" as RecBole separates tokens: "Sci-Fi Drama"."""
    hyphened = column.str.split(",").list.eval(pl.element().str.strip_chars().str.replace_all(" ", "-", literal=True))
    return hyphened.list.join(" ")


def _write_graph(folder: Path, data: SplitData) -> dict[str, list[str]]:
    """Write the knowledge graph, and the links of our items."""
    links = _links(data.items[ITEM_ID].to_list(), data.graph, data.links)
    if len(set(links.values())) < len(links):
        raise ValueError("two items are linked to one entity, which RecBole mistakes for one item less")
    assert data.graph is not None
    ids = {token: number for number, token in enumerate(data.items[ITEM_ID].to_list())}
    graph = data.graph.select(head_id="head", relation_id="relation", tail_id="tail")
    linked = pl.DataFrame({"item_id": [f"i{ids[token]}" for token in links], "entity_id": list(links.values())})
    _atomic(folder, "kg", graph, {})
    _atomic(folder, "link", linked, {})
    return {"kg": graph.columns, "link": linked.columns}


def _links(tokens: list[str], graph: pl.DataFrame | None, links: pl.DataFrame | None) -> dict[str, str]:
    """Return item -> entity of those ``tokens`` whose entity is in the graph."""
    if graph is None or links is None:
        raise ValueError("the data has no knowledge graph with links to its items")
    entities, items = set(graph["head"]) | set(graph["tail"]), set(tokens)
    pairs = zip(links[ITEM_ID].to_list(), links["entity_id"].to_list(), strict=True)
    return {item: entity for item, entity in pairs if item in items and entity in entities}


def _atomic(folder: Path, suffix: str, frame: pl.DataFrame, types: dict[str, str]) -> None:
    """Write an atomic file; columns are tokens unless ``types`` or their name tell otherwise; null is empty."""
    usual = {RATING: "float", "timestamp": "float"} | types
    header = {name: f"{name}:{usual.get(name, 'token')}" for name in frame.columns}
    frame.rename(header).write_csv(folder / f"{NAME}.{suffix}", separator="\t")


# --- the same rows, the same seen items ------------------------------------------------------------------------------


def _no_repeats(data: SplitData) -> None:
    """Refuse an item that a user has twice: RecBole keeps such an item among the relevant ones, we do not."""
    if data.valid_known is not None or data.test_known is not None:
        raise ValueError("the split holds users out as a whole, which RecBole cannot")
    pairs = np.concatenate([_pairs(getattr(data, part), data.n_items) for part in PARTS])
    if len(np.unique(pairs)) < len(pairs):
        raise ValueError("a user has an item twice, which RecBole ranks differently")


def _pairs(rows: Interactions, n_items: int) -> np.ndarray:
    """Return (n,) one number for each (user, item)."""
    return rows.user.astype(np.int64) * n_items + rows.item


def _ours(dataset: Any, field: str) -> np.ndarray:
    """Return our id of each id of RecBole's; -1 for its padding."""
    return np.array([-1, *(int(token[1:]) for token in dataset.field2id_token[field][1:])])


def _check(loaders: Loaders, data: SplitData, family: str) -> None:
    """Raise unless RecBole's three parts hold the rows of ours, and its catalogue our items."""
    if family == "sequential":
        if data.train.time is None:
            raise ValueError("sequential models need times")
        every = _rows(data)
        if every.select("user", "time").is_duplicated().any():
            raise ValueError("a user has two rows of one time: RecBole and we may order them differently")
    for part in PARTS:
        dataset = getattr(loaders, part)._dataset
        rows = dataset.inter_feat
        user, item = (_ours(dataset, name)[rows[name].numpy()] for name in (dataset.uid_field, dataset.iid_field))
        theirs = user * data.n_items + item
        mine: Interactions = getattr(data, part)
        expected = _pairs(mine, data.n_items)
        if family == "sequential" and part == "train":
            first = np.ones(len(mine), bool)
            first[1:] = mine.user[1:] != mine.user[:-1]
            expected = expected[~first]  # a first item has no prefix to be foretold from
        if not np.array_equal(np.sort(theirs), np.sort(expected)):
            raise ValueError(f"RecBole's {part} part differs from ours: {len(theirs)} rows, expected {len(expected)}")
        if (dataset.user_num, dataset.item_num) != (data.n_users + 1, data.n_items + 1):
            raise ValueError(f"RecBole has {dataset.user_num - 1} users and {dataset.item_num - 1} items, not ours")


def _masking(loader: Any, data: SplitData) -> Callable[[Any], Any]:
    """Return the ``collate_fn`` of a sequential loader with the items of train and valid as the users' histories."""
    dataset, collate = loader._dataset, loader.collate_fn
    their_item = {number: place for place, number in enumerate(_ours(dataset, dataset.iid_field).tolist())}
    our_user = _ours(dataset, dataset.uid_field)
    seen: list[list[int]] = [[] for _ in range(data.n_users)]
    for rows in (data.train, data.valid):
        for user, item in zip(rows.user.tolist(), rows.item.tolist(), strict=True):
            seen[user].append(their_item[item])

    def masked(index: Any) -> Any:
        interaction, _, positive_u, positive_i = collate(index)
        lists = [seen[user] for user in our_user[interaction[dataset.uid_field].numpy()]]
        row = torch.repeat_interleave(torch.arange(len(lists)), torch.tensor([len(items) for items in lists]))
        column = torch.tensor([item for items in lists for item in items], dtype=torch.int64)
        return interaction, (row, column), positive_u, positive_i

    return masked


# --- shims for RecBole's Dataset -------------------------------------------------------------------------------------


@contextlib.contextmanager
def pandas3() -> Iterator[None]:
    """Make RecBole's ``Dataset`` fill missing values and count sequences under pandas 3.

    pandas 3 copies on write, so ``frame[name].fillna(inplace=True)`` changes nothing; and ``Series.agg(len)`` is the
    length of the series, where it was that of each element.
    """
    import pandas as pd

    dataset = compat.load("data.dataset").Dataset
    types = compat.load("utils.enum_type").FeatureType
    fill_nan, read_csv, agg = dataset._fill_nan, pd.read_csv, pd.Series.agg

    def filled(self: Any) -> None:
        for name in self.feat_name_list:
            frame = getattr(self, name)
            for field in frame:
                if self.field2type[field] == types.TOKEN:
                    frame[field] = frame[field].fillna(0).astype(np.int64)
                elif self.field2type[field] == types.FLOAT:
                    frame[field] = frame[field].fillna(frame[field].mean())
        fill_nan(self)  # the sequences

    def read(*args: Any, **kwargs: Any) -> Any:
        frame = read_csv(*args, **kwargs)
        return frame.fillna({name: "" for name in frame.columns if str(name).endswith("_seq")})

    def aggregated(self: Any, func: Any = None, *args: Any, **kwargs: Any) -> Any:
        return self.map(len) if func is len else agg(self, func, *args, **kwargs)

    dataset._fill_nan, pd.read_csv, pd.Series.agg = filled, read, aggregated
    try:
        yield
    finally:
        dataset._fill_nan, pd.read_csv, pd.Series.agg = fill_nan, read_csv, agg
