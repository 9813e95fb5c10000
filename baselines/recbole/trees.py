"""Boosted trees: RecBole's external models, XGBoost and LightGBM, on the features of rows."""

from __future__ import annotations

import importlib
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from baselines.recbole.config import RecBoleConfig
from baselines.recbole.dataset import MemoryDataset
from benchmark.data.negatives import NegativeSampler
from benchmark.data.sequences import unique_pairs
from benchmark.errors import InputError, missing_extra, nearest

_PAIRS = 2**20  # (user, item) pairs whose features are held at once
# what XGBoost calls otherwise in its own interface than in that of scikit-learn
_NATIVE = (
    *("eta", "lambda", "alpha", "nthread", "seed", "silent", "eval_metric", "process_type", "updater", "refresh_leaf"),
    *("base_score", "disable_default_eval_metric", "tweedie_variance_power", "lambdarank_pair_method", "one_drop"),
    *("sample_type", "normalize_type", "rate_drop", "skip_drop", "feature_selector", "top_k"),
)


class Trees:
    """A booster behind two calls; it is kept as bytes in the library's own text format, never as a pickle.

    Args:
        config: the model (XGBoost or LightGBM) and its parameters.
        data: the features of users and items.

    Raises:
        InputError: the library is not installed.
    """

    def __init__(self, config: RecBoleConfig, data: MemoryDataset) -> None:
        self.kind: Literal["XGBoost", "LightGBM"] = config.model  # type: ignore[assignment]
        self.config = config
        self.library = library(self.kind)
        self.booster: Any = None
        columns = {part: self._columns(data, part) for part in ("user", "item")}
        self._blocks = {part: np.column_stack([values for _, values in columns[part]]) for part in columns}
        self._sizes = [data.num(name) for part in columns for name, _ in columns[part]]
        self._one_hot = [
            place
            for place, name in enumerate(name for part in columns for name, _ in columns[part])
            if config.value("convert_token_to_onehot")
            and name not in (data.uid_field, data.iid_field)
            and data.num(name) <= config.value("token_num_threshold")
        ]

    @staticmethod
    def _columns(data: MemoryDataset, part: str) -> list[tuple[str, np.ndarray]]:
        # numbers come as (value, 1)
        return [
            (name, (values[:, 0] if values.is_floating_point() else values).numpy().astype(np.float32))
            for name, values in data.features[part].items()
            if values.is_floating_point() or values.dim() == 1
        ]

    def features(self, user: np.ndarray, item: np.ndarray) -> Any:
        """Return (n, columns) features of rows of RecBole's ids; sparse where tokens are made one-hot."""
        dense = np.hstack([self._blocks["user"][user], self._blocks["item"][item]])
        if not self._one_hot:
            return dense
        from scipy import sparse

        kept = np.delete(dense, self._one_hot, axis=1)
        rows = np.arange(len(dense))
        blocks = [
            sparse.csr_matrix(
                (np.ones(len(dense), np.float32), (rows, dense[:, place].astype(np.int64))),
                shape=(len(dense), self._sizes[place]),
            )
            for place in self._one_hot
        ]
        return sparse.hstack([sparse.csr_matrix(kept), *blocks]).tocsr()

    def fit(self, user: Tensor, item: Tensor, label: Tensor | None, seed: int) -> None:
        """Boost on (n,) rows of our ids and their labels 0 or 1; None: they are positives, and negatives are drawn."""
        if label is None:
            user, item, label = self._with_negatives(user, item, seed)
        x, y = self.features(user.numpy() + 1, item.numpy() + 1), label.cpu().numpy()
        value, threads = self.config.value, torch.get_num_threads()
        booster = value("xgb_params" if self.kind == "XGBoost" else "lgb_params")
        if self.kind == "XGBoost":
            parameters = {"nthread": value("xgb_nthread") or threads, **booster, "seed": seed}
            matrix = self.library.DMatrix(x, label=y)
            self.booster = self.library.train(parameters, matrix, value("xgb_num_boost_round"))
            return
        parameters = {"num_threads": threads, "verbosity": -1, **booster, "seed": seed}
        self.booster = self.library.train(parameters, self.library.Dataset(x, label=y), value("lgb_num_boost_round"))

    def _with_negatives(self, user: Tensor, item: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the rows, then for each of them rows of label 0 with items that the user does not have."""
        n_users, n_items = (len(self._blocks[part]) - 1 for part in ("user", "item"))
        n, seen = self.config.n_negatives(), unique_pairs(user.numpy(), item.numpy(), n_users, n_items)
        drawn = NegativeSampler(seen, n_items).draw(user, n, torch.Generator().manual_seed(seed))
        label = torch.cat([torch.ones(len(item)), torch.zeros(n * len(item))])
        return user.repeat(n + 1), torch.cat([item, drawn.T.reshape(-1)]), label

    def logits(self, user: Tensor, items: Tensor) -> Tensor:
        """Return (B, C) float32 logits of a like for users (B,) and items (B, C) of our ids."""
        width, parts = items.shape[1], []
        for index in torch.arange(len(user)).split(max(_PAIRS // width, 1)):
            users = (user[index] + 1).repeat_interleave(width)
            parts.append(self._logit(users.numpy(), (items[index] + 1).reshape(-1).numpy()))
        return torch.from_numpy(np.concatenate(parts)).float().view(items.shape)

    def _logit(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        x = self.features(user, item)
        if self.kind == "XGBoost":
            return self.booster.predict(self.library.DMatrix(x), output_margin=True)
        return self.booster.predict(x, raw_score=True)

    def to_tensor(self) -> Tensor:
        """Return the booster as (n,) bytes."""
        data = self.booster.save_raw("json") if self.kind == "XGBoost" else self.booster.model_to_string().encode()
        return torch.from_numpy(np.frombuffer(bytes(data), np.uint8).copy())

    def from_tensor(self, data: Tensor) -> None:
        """Take what ``to_tensor`` gave."""
        text = data.cpu().numpy().tobytes()
        if self.kind == "XGBoost":
            self.booster = self.library.Booster()
            self.booster.load_model(bytearray(text))
        else:
            self.booster = self.library.Booster(model_str=text.decode())


def check_booster(kind: str, given: dict[str, Any]) -> None:
    """Refuse a parameter of the booster that the library does not know; it would be passed over in silence.

    Raises:
        InputError: the library is not installed, or does not know the parameter.
    """
    module = library(kind)
    if kind == "XGBoost":
        known = {*module.XGBModel().get_params(), *_NATIVE}
    else:
        aliases = module.basic._ConfigAliases._get_all_param_aliases()  # there is no public list
        known = {*aliases, *(alias for several in aliases.values() for alias in several)}
    for name in given:
        if name not in known:
            key = "xgb_params" if kind == "XGBoost" else "lgb_params"
            raise InputError(f"RecBole's {kind}: '{key}' has no '{name}'{nearest(name, known)}")


def library(kind: str) -> Any:
    """Import xgboost or lightgbm.

    Raises:
        InputError: it is not installed.
    """
    name = kind.lower()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        raise missing_extra(name, "trees") from None
