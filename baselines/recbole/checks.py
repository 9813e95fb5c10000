"""What a model needs and the data lacks, said in one line before anything runs."""

from __future__ import annotations

from baselines.recbole import zoo
from baselines.recbole.config import RecBoleConfig
from baselines.recbole.features import encode, feature_columns
from baselines.recbole.graph import filtered
from benchmark.data.schema import Catalogue
from benchmark.errors import InputError


def check_data(config: RecBoleConfig, catalogue: Catalogue) -> None:
    """Say what the model needs and the data lacks.

    Raises:
        InputError: one line: no graph, no such feature, no timestamps, too few users for the clusters.
    """
    name, kind = config.model, zoo.family(config.model)
    if kind == "knowledge_aware" and (catalogue.graph is None or catalogue.links is None):
        raise InputError(
            f"RecBole's {name} needs a knowledge graph, which the data does not have: source recbole-atomic reads it "
            "from .kg and .link files"
        )
    if catalogue.train.time is None and (kind == "sequential" or config.value("time-aware")):
        raise InputError(f"RecBole's {name} needs timestamps, which the data does not have")
    for key in ("metrics_k", "reranker_CAN_NUM"):
        found = config.value(key)
        if found is not None and max(map(int, str(found).split(","))) > catalogue.n_items:
            raise InputError(f"RecBole's {name}: found {key} {found}, expected at most the {catalogue.n_items} items")
    if name == "NCL" and config.value("num_clusters") > min(catalogue.n_users, catalogue.n_items):
        raise InputError(
            f"RecBole's {name}: found num_clusters {config.value('num_clusters')}, expected at most the number of "
            f"users and of items, {min(catalogue.n_users, catalogue.n_items)}"
        )
    columns = feature_columns(config, catalogue)
    frames = {"user": catalogue.users, "item": catalogue.items}
    for part, asked in (config.value("load_col") or {}).items() if kind == "exlib" else ():
        for column in set(asked) & set(columns[part]):
            if encode(frames[part][column], numeric=False).kind == "token_seq":
                raise InputError(f"RecBole's {name} reads one value a feature; '{column}' has several: leave it out")
    if kind == "knowledge_aware" and catalogue.graph is not None:
        filtered(catalogue.graph, config.value("entity_kg_num_interval"), config.value("relation_kg_num_interval"))
    if name == "DGCF":
        batches = len(catalogue.train) // config.value("train_batch_size") + 1
        most, least = max(catalogue.n_users, catalogue.n_items) + 1, min(catalogue.n_users, catalogue.n_items)
        if most // batches > least:
            raise InputError(
                f"RecBole's DGCF: train_batch_size {config.value('train_batch_size')} is too large for the data"
            )
