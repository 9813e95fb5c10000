"""RecBole's models under our contract: its loss and its scores, our split, batches, trainer and metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import scipy.sparse as sp
import torch
from pydantic import Field, ValidationInfo, field_validator, model_validator
from safetensors.torch import load_file
from torch import Tensor, nn

from baselines import recbole_compat as compat
from benchmark.data.batch import Batch, BatchKind, BatchSpec
from benchmark.data.schema import Catalogue
from benchmark.errors import InputError, nearest
from benchmark.recommender import WEIGHTS, ModelConfig, Recommender

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
    **dict.fromkeys(("dataset", "data_path", "benchmark_filename", "load_col", "unload_col"), "dataset.source"),
    **dict.fromkeys(("USER_ID_FIELD", "ITEM_ID_FIELD", "RATING_FIELD", "TIME_FIELD", "LABEL_FIELD"), "dataset.source"),
    **dict.fromkeys(("user_inter_num_interval", "item_inter_num_interval"), "dataset.filters"),
    **dict.fromkeys(("val_interval", "rm_dup_inter", "filter_inter_by_user_or_item", "threshold"), "dataset.filters"),
    **dict.fromkeys(("checkpoint_dir", "save_dataset", "save_dataloaders"), "the --runs folder"),
}
# their checkpoints are pickles, which are never loaded from outside
_PRETRAINED = {"use_pretrain", "mf_pretrain_path", "mlp_pretrain_path", "pretrain_path", "pre_model_path"}
_UNSUPPORTED = {
    "NCL": "it needs RecBole's own trainer (EM steps between the epochs)",
    "RaCT": "it needs RecBole's own trainer (pre-training in stages)",
    "RecVAE": "it needs RecBole's own trainer (encoder and decoder in turns)",
    "LDiffRec": "it needs kmeans-pytorch and a file of item embeddings",
    "NNCF": "it draws its neighbours at random when built, and no checkpoint holds them",
    "Random": "it draws other scores at each call; use the random baseline of the level field",
}
# models whose training batch is users and not interactions (RecBole's ``UserDataLoader``)
_USER_MODELS = {"CDAE", "DiffRec", "ENMF", "MacridVAE", "MultiDAE", "MultiVAE"}
# real numbers whose default RecBole writes as a whole one
_REAL = {"negative_weight", "q", "resolution", "w_max"}
# closed forms that RecBole's own trainer runs for many epochs on a loss of zero
_CLOSED = {"NCEPLRec"}
_PAIRS = 2**14  # (user, item) pairs scored at once by models that can only score pairs
_FITTED = "fitted."


# --- the hyper-parameters ------------------------------------------------------------------------------------------


class RecBoleConfig(ModelConfig):
    """A model of RecBole and its parameters, spelled as in RecBole's documentation."""

    batch_size: int | None = Field(  # type: ignore[assignment]
        None, gt=0, description="Positive rows of a training batch; RecBole's train_batch_size counts negatives too."
    )
    model: str = Field(description="Name of a general recommender of RecBole, such as LightGCN.")
    parameters: dict[str, Any] = Field(default_factory=dict, description="What differs from RecBole's defaults.")

    @field_validator("model")
    @classmethod
    def _known_model(cls, name: str) -> str:
        kinds = compat.models()
        usable = sorted(n for n, kind in kinds.items() if kind == "general" and n not in _UNSUPPORTED)
        if name in usable:
            return name
        if name in _UNSUPPORTED:
            raise ValueError(f"RecBole's {name} cannot be adapted: {_UNSUPPORTED[name]}")
        if name in kinds:
            kind = kinds[name].replace("_", "-")
            raise ValueError(f"RecBole's {name} is a {kind} model; adapted are general ones: {', '.join(usable)}")
        same = {n.lower(): n for n in kinds}.get(name.lower())
        raise ValueError(
            f"RecBole has no model '{name}'" + (f"; did you mean '{same}'?" if same else nearest(name, usable))
        )

    @field_validator("parameters")
    @classmethod
    def _known_parameters(cls, values: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if "model" not in info.data:  # already refused
            return values
        name = info.data["model"]
        known = _defaults(name)
        for key, value in values.items():
            if key in _PRETRAINED and value:
                raise ValueError(f"'{key}' is refused: RecBole's checkpoints are pickles, which are not loaded")
            if key not in known:
                if key in _ELSEWHERE:
                    raise ValueError(f"'{key}' is no parameter of the model here: set {_ELSEWHERE[key]} instead")
                raise ValueError(f"RecBole's {name} has no parameter '{key}'{nearest(key, known)}")
            if not _same_kind(key, value, known[key]):
                raise ValueError(f"'{key}': found {value!r}, expected something like {known[key]!r}")
        if (learner := values.get("learner", "adam")) not in get_args(Learner):
            raise ValueError(f"'learner': found {learner!r}{nearest(str(learner), get_args(Learner))}")
        _n_negatives(values, name)
        return values

    @model_validator(mode="after")
    def _one_batch_size(self) -> RecBoleConfig:
        if self.batch_size is not None and "train_batch_size" in self.parameters:
            raise ValueError("batch_size and parameters.train_batch_size are both given; keep one")
        return self


def _defaults(model: str) -> dict[str, Any]:
    """Return RecBole's defaults of what may be set for a model."""
    overall = compat.read_properties("overall")
    return {key: overall[key] for key in _TRAINING} | compat.read_properties(f"model/{model}")


def _same_kind(key: str, value: Any, default: Any) -> bool:
    if default is None or (value is None and isinstance(default, dict)):
        return True
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, int):
        return isinstance(value, int) or (isinstance(value, float) and key in _REAL)
    if isinstance(default, float):
        return isinstance(value, (int, float))
    return isinstance(value, type(default))


def _n_negatives(values: dict[str, Any], model: str) -> int:
    """Return the negatives for each positive; refuse what only RecBole's own sampler can do."""
    args = values.get("train_neg_sample_args", {})
    if args is None:
        if model in _USER_MODELS:
            return 1
        raise ValueError(f"'train_neg_sample_args': {model} learns from drawn negatives and needs them")
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
    return n


# --- what a model of RecBole asks for ------------------------------------------------------------------------------


class Settings:
    """Stands for RecBole's ``Config``: its defaults and our values; reads no command line and sets nothing globally."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def __getitem__(self, key: str) -> Any:
        return self._values.get(key)

    def __setitem__(self, key: str, value: Any) -> None:
        self._values[key] = value

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __getattr__(self, key: str) -> Any:
        if key.startswith("_") or key not in self._values:
            raise AttributeError(key)
        return self._values[key]


class MemoryDataset:
    """Stands for RecBole's ``Dataset``: interactions in memory, with the fields and matrices that models ask for.

    RecBole keeps id 0 of users and items for padding, so ids are ours + 1.

    Args:
        settings: names of the fields.
        user, item: (n,) our ids.
        n_users, n_items: our numbers of ids.
        rating, time: (n,) or None.
    """

    def __init__(
        self,
        settings: Settings,
        user: np.ndarray,
        item: np.ndarray,
        n_users: int,
        n_items: int,
        rating: np.ndarray | None = None,
        time: np.ndarray | None = None,
    ) -> None:
        enums, interaction = compat.load("utils.enum_type"), compat.load("data.interaction").Interaction
        self.config = settings
        self.uid_field, self.iid_field = settings["USER_ID_FIELD"], settings["ITEM_ID_FIELD"]
        self.label_field, self.time_field = settings["LABEL_FIELD"], settings["TIME_FIELD"]
        self.user_num, self.item_num, self.inter_num = n_users + 1, n_items + 1, len(user)
        columns = {
            self.uid_field: torch.from_numpy(user.astype(np.int64) + 1),
            self.iid_field: torch.from_numpy(item.astype(np.int64) + 1),
        }
        self.field2type = {self.uid_field: enums.FeatureType.TOKEN, self.iid_field: enums.FeatureType.TOKEN}
        self.field2source = {self.uid_field: enums.FeatureSource.USER_ID, self.iid_field: enums.FeatureSource.ITEM_ID}
        for field, values in ((settings["RATING_FIELD"], rating), (self.time_field, time)):
            if values is not None:
                # float64 for times: float32 cannot tell neighbouring seconds of an epoch apart
                columns[field] = torch.from_numpy(values.copy())
                self.field2type[field] = enums.FeatureType.FLOAT
                self.field2source[field] = enums.FeatureSource.INTERACTION
        self.inter_feat = interaction(columns)
        self.user_feat = self.item_feat = None
        self._interaction = interaction

    def __len__(self) -> int:
        return self.inter_num

    def num(self, field: str) -> int:
        """Return the number of ids of a field, padding included; 1 for numbers."""
        return {self.uid_field: self.user_num, self.iid_field: self.item_num}.get(field, 1)

    def fields(self, ftype: Any = None, source: Any = None) -> list[str]:
        """Return the fields of these types and sources; all of them by default."""
        return [
            field
            for field, kind in self.field2type.items()
            if (ftype is None or kind in ftype) and (source is None or self.field2source[field] in source)
        ]

    def get_user_feature(self) -> Any:
        return self._interaction({self.uid_field: torch.arange(self.user_num)})

    def get_item_feature(self) -> Any:
        return self._interaction({self.iid_field: torch.arange(self.item_num)})

    def inter_matrix(self, form: str = "coo", value_field: str | None = None) -> Any:
        """Return the (user_num, item_num) matrix of interactions; as in RecBole, repeated ones add up."""
        row, column = self.inter_feat[self.uid_field].numpy(), self.inter_feat[self.iid_field].numpy()
        data = np.ones(len(row)) if value_field is None else self.inter_feat[value_field].numpy()
        return sp.coo_matrix((data, (row, column)), shape=(self.user_num, self.item_num)).asformat(form)

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


# --- the recommender -----------------------------------------------------------------------------------------------


class RecBole(Recommender):
    """A general recommender of RecBole 1.2.1 (Zhao et al., CIKM 2021, arXiv:2011.01731) under our contract.

    RecBole's code computes the loss and the scores, with its own initialisation and optimiser; nothing else of it runs.
    Closed forms (EASE, ItemKNN ...), which RecBole computes in the constructor, are computed when training starts.
    """

    Config = RecBoleConfig
    batch_kind = "pairwise"  # of most of them; the instance knows its own

    def __init__(self, config: RecBoleConfig, catalogue: Catalogue) -> None:
        model: Any = compat.model_class(config.model)
        kind = _batch_kind(config.model, model)
        object.__setattr__(self, "batch_kind", kind)  # the base class reads it in its constructor
        super().__init__(config, catalogue)
        self.model_class = model
        self.settings = _settings(config, model)
        self.recbole: Any = None  # the model of RecBole; closed forms have none before they are fitted
        if kind != "whole":
            train = catalogue.train
            data = self._dataset(train.user, train.item, train.rating, train.time)
            with compat.undisturbed(generators=False):  # initial weights are drawn as in any other model
                self.recbole = model(self.settings, data)

    def batch_spec(self) -> BatchSpec:
        config, kind = self.config, self.batch_kind
        negatives = _n_negatives(config.parameters, config.model)
        # a batch of RecBole holds its negatives
        rows = {"pairwise": negatives, "pointwise": 1 + negatives}.get(kind, 1)
        size = config.batch_size or max(self.settings["train_batch_size"] // rows, 1)
        return BatchSpec(kind, batch_size=size, eval_batch_size=config.eval_batch_size, negatives=negatives)

    def configure_optimizers(self) -> Any:
        if self.recbole is None:
            return None
        parameters = [p for p in self.recbole.parameters() if p.requires_grad]
        rate, decay = self.settings["learning_rate"], self.settings["weight_decay"]
        kinds: dict[str, Any] = {
            "adam": torch.optim.Adam,
            "adamw": torch.optim.AdamW,
            "sgd": torch.optim.SGD,
            "adagrad": torch.optim.Adagrad,
            "rmsprop": torch.optim.RMSprop,
        }
        return kinds[self.settings["learner"]](parameters, lr=rate, weight_decay=decay)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if clip := self.settings["clip_grad_norm"]:
            torch.nn.utils.clip_grad_norm_(self.parameters(), **clip)

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        if self.recbole is not None:
            self.train()  # SGL draws its graphs anew when an epoch puts it into training mode

    def train(self, mode: bool = True) -> RecBole:
        with compat.shimmed():
            super().train(mode)
        self._forget()
        return self

    # --- training ---------------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        if self.batch_kind == "whole":
            self._fit(batch)
            return None
        with compat.shimmed():
            loss: Any = self.recbole.calculate_loss(self._rows(batch))
        return torch.stack([part.sum() for part in loss]).sum() if isinstance(loss, tuple) else loss

    def _rows(self, batch: Batch) -> Any:
        """Return a training batch as RecBole's ``Interaction``."""
        names = self.settings
        user = batch.user + 1
        if batch.item is None:
            return self._interaction({names["USER_ID_FIELD"]: user})
        fields = {names["USER_ID_FIELD"]: user, names["ITEM_ID_FIELD"]: batch.item + 1}
        if batch.negative is not None:
            n = batch.negative.shape[1]
            fields = {name: ids.repeat(n) for name, ids in fields.items()}
            fields[names["NEG_PREFIX"] + names["ITEM_ID_FIELD"]] = batch.negative.T.reshape(-1) + 1
        elif batch.label is not None:
            fields[names["LABEL_FIELD"]] = batch.label
        return self._interaction(fields)

    def _fit(self, batch: Batch) -> None:
        """Compute a closed form."""
        assert batch.item is not None
        user, item = batch.user.cpu(), batch.item.cpu()
        data = self._dataset(user.numpy(), item.numpy())
        with compat.undisturbed():
            fitted = self.model_class(self.settings, data)
            if self.config.model == "Pop":
                # Pop counts an item once a batch however often it stands there: give it batches without repeats
                for ids in _distinct(item + 1):
                    fitted.calculate_loss(self._interaction({self.settings["ITEM_ID_FIELD"]: ids}))
        self._adopt(fitted)

    def _adopt(self, fitted: Any) -> None:
        fitted.requires_grad_(False)  # closed forms carry a parameter that means nothing
        self.recbole = fitted.to(self.device)
        self._follow()

    # --- scoring ----------------------------------------------------------------------------------------------------

    def score(self, batch: Batch) -> Tensor:
        if self.recbole is None:
            return self.pick(torch.zeros(len(batch), self.n_items, device=self.device), batch)  # not fitted yet
        user = batch.user + 1
        with compat.shimmed(), torch.no_grad():
            if _scores_all(self.model_class):
                rows = self._interaction({self.settings["USER_ID_FIELD"]: user})
                scores = self.recbole.full_sort_predict(rows).to(self.device).view(len(user), self.n_items + 1)
                return self.pick(scores[:, 1:].float(), batch)
            items = batch.candidates
            if items is None:
                items = torch.arange(self.n_items, device=user.device).expand(len(user), -1)
            pairs = zip(
                user.repeat_interleave(items.shape[1]).split(_PAIRS), (items + 1).reshape(-1).split(_PAIRS), strict=True
            )
            names = self.settings["USER_ID_FIELD"], self.settings["ITEM_ID_FIELD"]
            parts = [
                self.recbole.predict(self._interaction(dict(zip(names, pair, strict=True)))).reshape(-1)
                for pair in pairs
            ]
            return torch.cat(parts).view(items.shape).float()

    # --- state ------------------------------------------------------------------------------------------------------

    def weights(self) -> dict[str, Tensor]:
        values, taken = super().weights(), set()
        for name, value in values.items():
            if value.data_ptr() in taken:  # GCMC holds one tensor under two names, which safetensors refuses
                values[name] = value.clone()
            taken.add(value.data_ptr())
        return values

    def restore(self, folder: Path) -> None:
        if self.batch_kind != "whole":
            super().restore(folder)
            return
        weights = load_file(folder / WEIGHTS)
        sizes = weights.get(_FITTED + "sizes")
        if sizes is None or sizes.tolist() != [self.n_users, self.n_items]:
            found = "none" if sizes is None else "{} users and {} items".format(*sizes.tolist())
            expected = f"{self.n_users} and {self.n_items}"
            raise InputError(f"{folder / WEIGHTS}: fitted on {found}, expected {expected}: another model or data")
        self.load_state_dict(weights, strict=False)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.batch_kind == "whole" and self.recbole is not None:
            # RecBole keeps what a closed form has found in plain attributes
            destination[prefix + _FITTED + "sizes"] = torch.tensor([self.n_users, self.n_items])
            for name, value in vars(self.recbole).items():
                for key, tensor in _pack(name, value).items():
                    destination[prefix + _FITTED + key] = tensor

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any, **kwargs: Any) -> None:
        start = prefix + _FITTED
        packed = {key.removeprefix(start): state_dict.pop(key) for key in list(state_dict) if key.startswith(start)}
        if packed:
            packed.pop("sizes", None)
            none = np.zeros(0, np.int64)
            fitted = self.model_class.__new__(self.model_class)
            # not the model's own constructor, which would compute the closed form again
            base = compat.load("model.abstract_recommender").GeneralRecommender
            base.__init__(fitted, self.settings, self._dataset(none, none))
            for name, value in _unpack(packed).items():
                setattr(fitted, name, value)
            self._adopt(fitted)
        self._forget()
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _forget(self) -> None:
        """Drop what RecBole's gradient models keep from one scoring to the next: it belongs to earlier weights."""
        if self.recbole is not None and self.batch_kind != "whole":
            for name in getattr(self.recbole, "other_parameter_name", ()):
                setattr(self.recbole, name, None)

    def _apply(self, fn: Any, recurse: bool = True) -> RecBole:
        super()._apply(fn, recurse)
        self._follow()
        return self

    def _follow(self) -> None:
        """Move RecBole's tensors that are plain attributes (graphs, histories) to where the parameters are."""
        if self.recbole is None:
            return
        device = next((p.device for p in self.recbole.parameters()), self.device)
        self.settings["device"] = device
        for module in self.recbole.modules():
            for name, value in list(vars(module).items()):
                if isinstance(value, Tensor) and value.device != device:
                    setattr(module, name, value.to(device))
                elif isinstance(value, torch.device):
                    setattr(module, name, device)

    # --- helpers ----------------------------------------------------------------------------------------------------

    def _interaction(self, fields: dict[str, Tensor]) -> Any:
        return compat.load("data.interaction").Interaction(fields)

    def _dataset(
        self, user: np.ndarray, item: np.ndarray, rating: np.ndarray | None = None, time: np.ndarray | None = None
    ) -> MemoryDataset:
        return MemoryDataset(self.settings, user, item, self.n_users, self.n_items, rating, time)


def _batch_kind(name: str, model: Any) -> BatchKind:
    enums = compat.load("utils.enum_type")
    if model.type == enums.ModelType.TRADITIONAL or name in _CLOSED:
        return "whole"
    if name in _USER_MODELS:
        return "user_rows"
    return "pairwise" if model.input_type == enums.InputType.PAIRWISE else "pointwise"


def _settings(config: RecBoleConfig, model: Any) -> Settings:
    """Return all that a constructor may read: RecBole's defaults, then the parameters given."""
    properties = [compat.read_properties(n) for n in ("overall", "dataset/sample", f"model/{config.model}")]
    values = {key: value for part in properties for key, value in part.items()} | config.parameters
    values["train_neg_sample_args"] = {"sample_num": _n_negatives(config.parameters, config.model)}
    if config.batch_size is not None:
        values["train_batch_size"] = config.batch_size
    seed = torch.initial_seed() % 2**31  # NCEPLRec seeds scikit-learn with it
    fixed = {"model": config.model, "device": torch.device("cpu"), "seed": seed}
    return Settings({**values, **fixed, "MODEL_TYPE": model.type, "MODEL_INPUT_TYPE": model.input_type})


def _scores_all(model: type[nn.Module]) -> bool:
    """Say whether the model can score all items of a user at once; most do it faster than a few pairs."""
    general = compat.load("model.abstract_recommender").AbstractRecommender
    return model.full_sort_predict is not general.full_sort_predict  # type: ignore[attr-defined]


def _distinct(ids: Tensor) -> list[Tensor]:
    """Split (n,) ids into parts that hold no id twice."""
    ids = ids.sort().values
    counts = torch.bincount(ids)
    nth = torch.arange(len(ids)) - (counts.cumsum(0) - counts)[ids]
    by_turn = torch.argsort(nth, stable=True)
    return list(ids[by_turn].split(torch.bincount(nth).tolist()))


def _pack(name: str, value: Any) -> dict[str, Tensor]:
    """Return a plain attribute of a fitted model as tensors; what is not data gives none."""
    if isinstance(value, Tensor):
        return {f"{name}:tensor": value.detach()}
    if isinstance(value, np.ndarray):
        return {f"{name}:array": torch.from_numpy(np.ascontiguousarray(value))}
    if sp.issparse(value):
        csr = value.tocsr()
        parts = {"data": csr.data, "indices": csr.indices, "indptr": csr.indptr, "shape": np.array(csr.shape)}
        return {f"{name}:csr.{part}": torch.from_numpy(np.ascontiguousarray(array)) for part, array in parts.items()}
    if isinstance(value, (bool, int, float)) and name != "training":
        return {f"{name}:number": torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else None)}
    return {}


def _unpack(packed: dict[str, Tensor]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, tensor in packed.items():
        name, _, kind = key.rpartition(":")
        if kind == "csr.data":
            data, indices, indptr, shape = (
                packed[f"{name}:csr.{p}"].cpu().numpy() for p in ("data", "indices", "indptr", "shape")
            )
            values[name] = sp.csr_matrix((data, indices, indptr), shape=tuple(shape.tolist()))
        elif not kind.startswith("csr."):
            values[name] = {"tensor": tensor, "array": tensor.cpu().numpy(), "number": tensor.cpu().numpy()[()]}[kind]
            if kind == "number":
                values[name] = tensor.item()
    return values
