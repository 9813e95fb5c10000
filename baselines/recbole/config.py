"""RecBoleConfig: a model of RecBole and its parameters, checked against what RecBole itself says of them."""

from __future__ import annotations

import math
import re
from functools import cache
from typing import Any, Literal, get_args

from pydantic import Field, ValidationInfo, field_validator, model_validator

from baselines.recbole import compat, zoo
from benchmark.errors import nearest
from benchmark.recommender import ModelConfig

Learner = Literal["adam", "adamw", "sgd", "adagrad", "rmsprop"]
# what every RecBole model understands beside the keys of its own yaml file
_TRAINING = (
    *("learner", "learning_rate", "weight_decay", "clip_grad_norm"),
    *("train_batch_size", "train_neg_sample_args", "require_pow"),
)
# RecBole's settings that are not a model's own here, and the key of the experiment file that decides instead
_ELSEWHERE: dict[str, str] = {
    **dict.fromkeys(("metrics", "topk"), "task.metrics"),
    **dict.fromkeys(("valid_metric", "valid_metric_bigger"), "trainer.early_stopping.monitor"),
    "stopping_step": "trainer.early_stopping.patience",
    "eval_args": "task.split and task.candidates",
    "repeatable": "task.allow_repeats",
    "eval_batch_size": "eval_batch_size, beside 'model'",
    "epochs": "trainer.max_epochs",
    "eval_step": "trainer.check_val_every_n_epoch",
    **dict.fromkeys(("enable_amp", "enable_scaler"), "trainer.precision"),
    **dict.fromkeys(("gpu_id", "use_gpu", "nproc"), "trainer.accelerator and trainer.devices"),
    **dict.fromkeys(("seed", "reproducibility"), "seeds"),
    **dict.fromkeys(("log_wandb", "wandb_project"), "tracking.wandb"),
    **dict.fromkeys(("dataset", "data_path", "benchmark_filename", "unload_col"), "dataset.source"),
    **dict.fromkeys(("USER_ID_FIELD", "ITEM_ID_FIELD", "RATING_FIELD", "TIME_FIELD", "LABEL_FIELD"), "dataset.source"),
    **dict.fromkeys(("user_inter_num_interval", "item_inter_num_interval"), "dataset.filters"),
    **dict.fromkeys(("val_interval", "rm_dup_inter", "filter_inter_by_user_or_item"), "dataset.filters"),
    "threshold": "task.positive_rating",
    **dict.fromkeys(("checkpoint_dir", "save_dataset", "save_dataloaders", "save_step"), "the --runs folder"),
    "train_stage": "pretrain_epochs, which come before the epochs of the trainer",
    "xgb_early_stopping_rounds": "xgb_num_boost_round: trees see no validation here",
    "lgb_early_stopping_rounds": "the number of boosting rounds: trees see no validation here",
}
# their checkpoints are pickles, which are never loaded from outside
_PRETRAINED = {
    *("use_pretrain", "mf_pretrain_path", "mlp_pretrain_path", "pretrain_path", "pre_model_path"),
    *("warm_up", "xgb_model"),
}
# real numbers whose default RecBole writes as a whole one
_REAL = {
    "negative_weight",
    "q",
    "w_max",
    "global_ratio",
    "spatial_ratio",
    "reg_weight",
    "dropout_prob",
    "hidden_dropout_prob",
}
# ours beside RecBole's: it asks for a checkpoint of the earlier phase instead
_OURS: dict[str, dict[str, Any]] = {"KD_DAGFM": {"pretrain_epochs": 10}}
INTERVAL = re.compile(r"([\[(])\s*(-?\d+)\s*,\s*(\d+|inf)\s*([\])])")
_CHOICES: dict[tuple[str, str], tuple[str, ...]] = {
    # the yaml lacks a quotation mark
    ("KD_DAGFM", "phase"): ("teacher_training", "distillation", "finetuning"),
    ("KD_DAGFM", "teacher"): ("CrossNet", "CIN"),
    # louvain needs a package that is no part of RecBole; RecBole's own code of knn fails
    ("NNCF", "neigh_info_method"): ("random",),
    ("DMF", "inter_matrix_type"): ("01",),  # batches carry no ratings
    ("ConvNCF", "train_method"): ("no_pretrain",),  # the other loads a pickle
    ("DIEN", "gru_type"): ("GRU", "AIGRU", "AGRU", "AUGRU"),
    ("KGIN", "ind"): ("cosine", "distance", "mi"),
    ("LINE", "order"): ("1", "2"),
    ("KD_DAGFM", "type"): ("inner", "outer", "kernel"),
    ("DiffRec", "noise_schedule"): ("linear", "linear-var", "cosine", "binomial"),
    ("LDiffRec", "noise_schedule"): ("linear", "linear-var", "cosine", "binomial"),
    ("KGCN", "aggregator"): ("sum", "concat", "neighbor"),
    ("KGNNLS", "aggregator"): ("sum", "concat", "neighbor"),
    ("AsymKNN", "knn_method"): ("item", "user"),
    ("ItemKNN", "knn_method"): ("item", "user"),
}
_ACTIVATIONS = {
    "hidden_act": ("gelu", "relu", "swish", "tanh", "sigmoid"),
    "mlp_act_func": ("tanh", "sigmoid", "relu", "leakyrelu", "none"),
    "ae_act_func": ("tanh", "sigmoid", "relu", "leakyrelu", "none"),
}
# lists whose length is part of the model
_FIXED_LENGTH = ("reg_weight", "reg_weights", "dropout_probs", "mixture_weights")
# sequential models that know a softmax alone although their class leaves the loss open
_SOFTMAX_ALONE = {"CORE", "GRU4RecCPR", "SASRecCPR"}


class RecBoleConfig(ModelConfig):
    """A model of RecBole and its parameters, spelled as in RecBole's documentation."""

    batch_size: int | None = Field(  # type: ignore[assignment]
        None, gt=0, description="Positive rows of a training batch; RecBole's train_batch_size counts negatives too."
    )
    model: str = Field(description="Name of a model of RecBole, such as LightGCN.")
    parameters: dict[str, Any] = Field(default_factory=dict, description="What differs from RecBole's defaults.")

    @field_validator("model")
    @classmethod
    def _known_model(cls, name: str) -> str:
        usable = zoo.usable()
        if name in usable:
            return name
        if name in zoo.UNSUPPORTED:
            raise ValueError(f"RecBole's {name} cannot be adapted: {zoo.UNSUPPORTED[name]}")
        same = {n.lower(): n for n in compat.models()}.get(name.lower())
        raise ValueError(
            f"RecBole has no model '{name}'" + (f"; did you mean '{same}'?" if same else nearest(name, usable))
        )

    @field_validator("parameters")
    @classmethod
    def _known_parameters(cls, values: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if "model" not in info.data:  # already refused
            return values
        name = info.data["model"]
        known = defaults(name)
        for key, value in values.items():
            if key in _PRETRAINED and value:
                raise ValueError(f"'{key}' is refused: RecBole's checkpoints are pickles, which are not loaded")
            if key in _ELSEWHERE and (key not in known or key in ("train_stage", "save_step")):
                raise ValueError(f"'{key}' is no parameter of the model here: set {_ELSEWHERE[key]} instead")
            if key not in known:
                raise ValueError(f"RecBole's {name} has no parameter '{key}'{nearest(key, known)}")
            if not _same_kind(key, value, known[key]):
                raise ValueError(f"'{key}': found {value!r}, expected something like {known[key]!r}")
            _within_range(name, key, value)
        if (learner := values.get("learner", "adam")) not in get_args(Learner):
            raise ValueError(f"'learner': found {learner!r}{nearest(str(learner), get_args(Learner))}")
        merged = known | values
        n_negatives(name, merged, "train_neg_sample_args" in values)
        for size, heads in (("hidden_size", "n_heads"), ("attention_size", "num_heads")):
            if merged.get(heads, 1) < 1:
                raise ValueError(f"'{heads}': found {merged[heads]}, expected 1 or more")
            if size in merged and heads in merged and merged[size] % merged[heads]:
                raise ValueError(f"'{heads}': {merged[heads]} does not divide {size} {merged[size]}")
        if name == "LDiffRec" and merged["n_cate"] > 1:
            raise ValueError("'n_cate': more than 1 needs a file of item vectors (and kmeans-pytorch); keep 1")
        _columns(merged.get("load_col"))
        _names(merged)
        _phases(name, merged)
        for key in ("entity_kg_num_interval", "relation_kg_num_interval"):
            if key in merged and not INTERVAL.fullmatch(merged[key]):
                raise ValueError(f"'{key}': found {merged[key]!r}, expected an interval such as '[5,inf)'")
        return values

    @model_validator(mode="after")
    def _one_batch_size(self) -> RecBoleConfig:
        if self.batch_size is not None and "train_batch_size" in self.parameters:
            raise ValueError("batch_size and parameters.train_batch_size are both given; keep one")
        return self

    def value(self, key: str) -> Any:
        """Return a parameter: as given, or RecBole's default; None where the model has none of that name."""
        value = self.parameters.get(key, defaults(self.model).get(key))
        if key in ("xgb_params", "lgb_params") and isinstance(value, dict):
            return {**defaults(self.model)[key], **value}  # what is left out keeps RecBole's default
        if key == "fields" and isinstance(value, dict):
            return {int(number): names for number, names in value.items()}  # YAML's keys come as text
        return value

    def values(self) -> dict[str, Any]:
        """Return all parameters that may be set, with what is given in place of RecBole's defaults."""
        return {**defaults(self.model), **{key: self.value(key) for key in self.parameters}}

    def n_negatives(self) -> int:
        """Return the negatives drawn for each positive row of a ranking; 0 for none."""
        return n_negatives(self.model, self.values())


# --- what RecBole says of a parameter ------------------------------------------------------------------------------


@cache
def defaults(model: str) -> dict[str, Any]:
    """Return RecBole's defaults of what may be set for a model."""
    overall = compat.read_properties("overall") | compat.read_properties("dataset/sample")
    values = {key: overall.get(key) for key in (*_TRAINING, *zoo.FAMILY_KEYS[zoo.family(model)])}
    if "load_col" in values:
        values["load_col"] = None  # RecBole's default names interactions alone
    # RecBole misspells its own parameter in two files
    own = {key.replace("threhold", "threshold"): v for key, v in compat.read_properties(f"model/{model}").items()}
    own = {key: value for key, value in own.items() if key != "lgb_early_stopping_rounds"}
    return values | own | _OURS.get(model, {})


@cache
def _ranges(model: str) -> dict[str, tuple[str, ...]]:
    """Return the ranges that RecBole's yaml file of the model states in its comments, as words."""
    found = {}
    for line in compat.properties_text(f"model/{model}").splitlines():
        match = re.match(r"(\w+):.*#.*[Rr]ang(?:e|ing) in `*\[([^\]]*)\]", line)
        if match:
            found[match[1]] = tuple(word.strip(" '\"") for word in match[2].split(","))
    return found


def _within_range(model: str, key: str, value: Any) -> None:
    """Refuse what RecBole's own file calls out of range, and what cannot be: a probability of 2, a size of 0."""
    words = _CHOICES.get((model, key)) or _ACTIVATIONS.get(key) or _ranges(model).get(key)
    if words and key != "loss_type" and not isinstance(value, (list, dict)):
        numeric = all(re.fullmatch(r"[-+]?[\d.]+", word) for word in words) and not isinstance(value, str)
        if numeric and not float(words[0]) <= value <= float(words[-1]):
            raise ValueError(f"'{key}': found {value!r}, expected a number from {words[0]} to {words[-1]}")
        if not numeric and str(value) not in words:
            raise ValueError(f"'{key}': found {value!r}, expected one of {', '.join(words)}")
    if key == "loss_type":
        if zoo.family(model) == "sequential" and zoo.leaves_loss_open(model):
            words = ("CE",) if model in _SOFTMAX_ALONE else ("BPR", "CE")
        words = words or (str(defaults(model)[key]),)
        if value not in words:
            raise ValueError(f"'{key}': found {value!r}, expected one of {', '.join(words)}")
    usual = defaults(model)[key]
    if key in _FIXED_LENGTH and isinstance(value, list) and len(value) != len(usual):
        raise ValueError(f"'{key}': found {len(value)} numbers, expected {len(usual)}, such as {usual}")
    if isinstance(value, list) and not value and usual and key != "out_dims":
        raise ValueError(f"'{key}': found an empty list, expected something like {usual}")
    for number in value if isinstance(value, list) else [value]:
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            continue
        if not math.isfinite(number):
            raise ValueError(f"'{key}': found {number}, expected a finite number")
        if isinstance(number, float) and key.endswith(("_size", "_size_list")) and not number.is_integer():
            raise ValueError(f"'{key}': found {number}, expected whole numbers")
        if re.search(r"dropout|drop_ratio|mask_ratio|corruption_ratio|l1_ratio", key) and not 0 <= number <= 1:
            raise ValueError(f"'{key}': found {number!r}, expected a number from 0 to 1")
        positive = r"_size$|size_list$|^learning_rate$|_length$|_LENGTH$|^n_layers$|^kge_interval$|^m_step$|^steps$"
        positive += r"|^num_clusters$|^metrics_k$|_dimension$|boost_round$|^k$|^rank$"
        if re.search(positive, key) and number <= 0:
            raise ValueError(f"'{key}': found {number!r}, expected more than 0")
        if re.search(r"^n_|_num$|num_|_epochs$|weight|^reg|^lambda|^k$|^steps?$", key) and number < 0:
            raise ValueError(f"'{key}': found {number!r}, expected 0 or more")


def _same_kind(key: str, value: Any, default: Any) -> bool:
    if key == "reranker_CAN_NUM":  # one number, or several as text
        return isinstance(value, int) or bool(re.fullmatch(r"\d+(,\d+)*", str(value)))
    if key == "clip_grad_norm" and value is not None:
        return isinstance(value, dict) and value.keys() <= {"max_norm", "norm_type", "error_if_nonfinite"}
    if default is None or (value is None and isinstance(default, dict)):
        return True
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, int):
        return isinstance(value, int) or (isinstance(value, float) and key in _REAL)
    if isinstance(default, float):
        return isinstance(value, (int, float))
    if isinstance(default, list) and isinstance(value, list) and default and isinstance(default[0], (int, float)):
        return all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in value)
    return isinstance(value, type(default))


def n_negatives(name: str, values: dict[str, Any], given: bool = False) -> int:
    """Return the negatives for each positive; refuse what only RecBole's own sampler can do.

    Args:
        name: the model.
        values: all parameters.
        given: the experiment names ``train_neg_sample_args`` itself.
    """
    needs = zoo.learns_from_negatives(name, values)
    args = values.get("train_neg_sample_args")
    if args is None:
        if needs and given and zoo.traits(name).tasks == zoo.RANKING:
            raise ValueError(f"'train_neg_sample_args': {name} learns from drawn negatives and needs them")
        return 1 if needs else 0
    if given and not needs:
        how = "all items (loss_type CE; BPR draws negatives)" if zoo.family(name) == "sequential" else "whole rows"
        raise ValueError(f"'train_neg_sample_args': {name} learns from {how} and draws none; leave it out")
    usual = {"distribution": "uniform", "sample_num": 1, "alpha": 1.0, "dynamic": False, "candidate_num": 0}
    if unknown := sorted(args.keys() - usual.keys()):
        raise ValueError(f"'train_neg_sample_args' has no key '{unknown[0]}'{nearest(unknown[0], usual)}")
    if args.get("distribution", "uniform") != "uniform" or args.get("dynamic", False):
        raise ValueError(
            "'train_neg_sample_args': negatives are drawn uniformly for every model; only sample_num is free"
        )
    n = args.get("sample_num", 1)
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise ValueError(f"'train_neg_sample_args.sample_num': found {n!r}, expected a positive integer")
    return n if needs else 0


def _names(values: dict[str, Any]) -> None:
    """Check the parameters that name columns."""
    for key in (*zoo.ITEM_FEATURES, "numerical_features"):
        listed = values.get(key)
        for name in listed if isinstance(listed, list) else []:
            if not isinstance(name, str):
                raise ValueError(f"'{key}': found {name!r}, expected the name of a column")
        if key == "selected_features" and listed == []:
            raise ValueError("'selected_features': found an empty list, expected names of item columns")


def _phases(name: str, values: dict[str, Any]) -> None:
    """Refuse phases of length nothing."""
    if name == "KD_DAGFM" and values["phase"] != "teacher_training" and values["pretrain_epochs"] < 1:
        raise ValueError(f"'pretrain_epochs': found 0, expected 1 or more before the phase {values['phase']}")
    for turns in (("train_rec_step", "train_kg_step"), ("n_enc_epochs", "n_dec_epochs")):
        if turns[0] in values and min(values[turn] for turn in turns) < 1:
            raise ValueError(f"'{turns[0]}' and '{turns[1]}': found a 0, expected 1 or more each")
    for key, objective in (("xgb_params", "binary:logistic"), ("lgb_params", "binary")):
        found = (values.get(key) or {}).get("objective", objective)
        if found != objective:
            raise ValueError(f"'{key}.objective': found '{found}', expected '{objective}': scores are logits of a like")


def _columns(load_col: Any) -> None:
    """Check ``load_col``, which here chooses the features of users and items."""
    if load_col is None:
        return
    if not isinstance(load_col, dict) or not all(
        isinstance(v, list) and all(isinstance(name, str) for name in v) for v in load_col.values()
    ):
        raise ValueError(f"'load_col': found {load_col!r}, expected something like {{user: [age], item: [genres]}}")
    for part in load_col:
        if part not in ("user", "item"):
            raise ValueError(
                f"'load_col' has no '{part}' here{nearest(part, ('user', 'item'))}; interactions are the data set's"
            )
