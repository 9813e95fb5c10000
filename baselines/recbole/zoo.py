"""What is particular about single models of RecBole 1.2.1: how they are trained, what they are, why some cannot run."""

from __future__ import annotations

from typing import Any

from baselines.recbole import compat
from benchmark.data.batch import BatchKind
from benchmark.recommender import Group, Traits

RANKING, BOTH = frozenset({"ranking"}), frozenset({"ranking", "preference"})
# what a model cannot do here, and why
UNSUPPORTED = {
    "GRU4RecKG": "it reads pre-trained entity vectors (RecBole's .ent file), which no data set of ours brings",
    "KSR": "it reads pre-trained entity and relation vectors (RecBole's .ent and .rel files), which no data set of "
    "ours brings",
    "Random": "it draws other scores at each call; use the random baseline of the level field",
}
# training batches of users and not of interactions (RecBole's ``UserDataLoader``)
USER_ROWS = {
    *("CDAE", "DiffRec", "ENMF", "LDiffRec", "MacridVAE"),
    *("MultiDAE", "MultiVAE", "RaCT", "RecVAE"),
}
# closed forms that RecBole's own trainer runs for many epochs on a loss of zero
CLOSED = {"NCEPLRec"}
# sequential models that tell likes from dislikes row by row: their scores are logits
CLICK = {"DIN", "DIEN"}
# models that draw even when they score: edges of their graph, or (where their parameters say so) noise
DRAWS = {"DiffRec", "KGIN", "LDiffRec", "MCCLK"}
# models that divide by a power of the number of a user's training rows
DIVIDE_BY_ROWS = {"FISM", "NAIS"}
# sequential models with a vector for each user, a random one for who is unseen; DIEN fails the test of equal histories
USER_VECTORS = {"Caser", "DIEN", "FPMC", "FOSSIL", "HGN", "HRM", "NPE", "TransRec"}
# models whose order of items is the same for everybody
ONE_ORDER = {"LR", "Pop"}
# what these families understand beside the keys of RecBole's yaml file of the model
FAMILY_KEYS = {
    "sequential": ("MAX_ITEM_LIST_LENGTH", "load_col", "numerical_features"),
    "context_aware": ("load_col", "numerical_features"),
    "exlib": ("load_col", "numerical_features"),
    "knowledge_aware": ("kg_reverse_r", "entity_kg_num_interval", "relation_kg_num_interval"),
    "general": (),
}
# parameters that name columns of the items
ITEM_FEATURES = ("selected_features", "item_attribute")


def family(name: str) -> str:
    """Return general, sequential, context_aware, knowledge_aware or exlib."""
    return compat.models()[name]


def usable() -> list[str]:
    """Return the models that run, by name."""
    return sorted(name for name in compat.models() if name not in UNSUPPORTED)


def traits(name: str) -> Traits:
    """Return the place of a model in the table, its tasks, whether its scores are logits, and whom it can score unseen.

    No model of RecBole parts unseen items by features alone: each adds a vector of the item's id, which is random, or
    has learned from drawn negatives alone. Histories are read by the sequential models; matrix models score the rows
    that they were fitted on.
    """
    kind = family(name)
    clicks = kind in ("context_aware", "exlib") or name in CLICK
    groups: dict[str, Group] = {"general": "collaborative", "sequential": "sequential"}
    group: Group = "trivial" if name == "Pop" else groups.get(kind, "content")
    by_history = kind == "sequential" and name not in USER_VECTORS
    unseen = frozenset({"users"}) if by_history or name in ONE_ORDER else frozenset[str]()
    return Traits(group, BOTH if clicks else RANKING, clicks, unseen)


def is_closed(name: str) -> bool:
    """Say whether a model is computed at once from all interactions: closed forms and boosted trees."""
    if family(name) == "exlib" or name in CLOSED:
        return True
    traditional = compat.load("utils.enum_type").ModelType.TRADITIONAL
    return compat.model_class(name).type == traditional


def batch_kind(name: str, values: dict[str, Any]) -> BatchKind:
    """Return what one training batch is; as in RecBole the loss decides where the class leaves it open."""
    if is_closed(name):
        return "whole"
    if name in USER_ROWS:
        return "user_rows"
    pairwise = compat.load("utils.enum_type").InputType.PAIRWISE
    given = getattr(compat.model_class(name), "input_type", None)
    if given is None:
        return "pairwise" if values.get("loss_type") == "BPR" else "pointwise"
    return "pairwise" if given == pairwise else "pointwise"


def leaves_loss_open(name: str) -> bool:
    """Say whether ``loss_type`` decides what a training batch is."""
    return getattr(compat.model_class(name), "input_type", None) is None


def learns_from_negatives(name: str, values: dict[str, Any]) -> bool:
    """Say whether negatives are drawn for a ranking: not for user rows, nor for a softmax over all items."""
    if name in USER_ROWS or is_closed(name):
        return family(name) == "exlib"
    if family(name) != "sequential":
        return True
    return name in CLICK or batch_kind(name, values) == "pairwise"
