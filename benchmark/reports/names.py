"""What metrics, costs and groups of models are called in tables, figures and pages."""

from __future__ import annotations

from benchmark.evaluation.metrics import parse_metric
from benchmark.experiment import EXPOSURE, GAP, Beyond

ABBREVIATIONS = {"auc", "uauc", "gauc", "mrr", "map", "ndcg", "ece", "f1"}
UNITS = {"mb": "MB", "kl": "KL", "cka": "CKA", "auc": "AUC", "ndcg": "NDCG"}
# in their order
GROUP_TITLES = {
    "trivial": "Trivial",
    "collaborative": "Collaborative",
    "sequential": "Sequential",
    "content": "Content",
    "llm-zero-shot": "LLM zero-shot",
    "llm": "LLM fine-tuned",
    "ensemble": "On top of other rows",
    "published": "Published, not run here",
}
COSTS = {
    "train_seconds": "Train s",
    "ms_per_user": "ms/user",
    "trainable_parameters": "Trainable",
    "peak_memory": "Peak GiB",
    "energy_wh": "Wh",
}
COSTS_IN_WORDS = {
    "train_seconds": "training seconds",
    "ms_per_user": "milliseconds a user",
    "trainable_parameters": "trainable parameters",
    "peak_memory": "peak memory in GiB",
    "energy_wh": "watt-hours",
}


def title(metric: str) -> str:
    """Return a metric's heading: ndcg@10 -> NDCG@10."""
    parsed = parse_metric(metric)
    name = parsed.name.upper() if parsed.name in ABBREVIATIONS else parsed.name.replace("_", " ").capitalize()
    return name if parsed.k is None else f"{name}@{parsed.k}"


def beyond_title(one: Beyond) -> str:
    """Return the heading of a column of `report.beyond`: Coverage@10, NDCG@10 gap (age), Exposure@10 (genres)."""
    if one.name == GAP:
        return f"{title(str(one.metric))} gap ({one.column})"
    if one.name == EXPOSURE:
        return f"Exposure@{one.k} ({one.column})"
    return title(f"{one.name}@{one.k}")


def measured_title(name: str) -> str:
    """Return the heading of a column of `report.measured`: size_mb -> Size MB."""
    words = [UNITS.get(word, word) for word in name.split("_")]
    return " ".join([words[0] if words[0] in UNITS.values() else words[0].capitalize(), *words[1:]])
