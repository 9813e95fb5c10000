"""RecBole: a model of RecBole under our contract; its loss and its scores, our split, batches, trainer and metrics."""

from __future__ import annotations

import contextlib
import io
import math
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from baselines.recbole import compat, zoo
from baselines.recbole.checks import check_data
from baselines.recbole.config import RecBoleConfig
from baselines.recbole.dataset import MemoryDataset, memory_dataset
from baselines.recbole.schedules import Schedule, schedule_of
from baselines.recbole.settings import Settings
from baselines.recbole.state import pack, unpack
from baselines.recbole.trees import Trees, check_booster
from benchmark.data.batch import Batch, BatchSpec
from benchmark.data.schema import Catalogue, Interactions
from benchmark.errors import InputError
from benchmark.recommender import WEIGHTS, ModelConfig, Recommender, TrainingDiverged, Traits

_PAIRS = 2**14  # (user, item) pairs scored at once by models that can only score pairs
_FITTED, _COUNTS, _SEED = "fitted.", "counts.", "construction_seed"
# what gradient models count in plain attributes while they learn: a run that goes on must go on from there
_COUNTED = ("update", "update_count", "update_count_vae", "Lt_history", "Lt_count")


class RecBole(Recommender):
    """A model of RecBole 1.2.1 (Zhao et al., CIKM 2021, arXiv:2011.01731) under our contract.

    RecBole's code computes the loss and the scores, with its own initialisation and optimiser; nothing else of it runs.
    Closed forms (EASE, ItemKNN ...), which RecBole computes in the constructor, are computed when training starts, and
    so are boosted trees. What RecBole's special trainers do is done by a ``Schedule``.
    """

    Config = RecBoleConfig
    batch_kind = "pairwise"  # of most of them; the instance knows its own

    def __init__(self, config: RecBoleConfig, catalogue: Catalogue) -> None:
        # read by the base class in its constructor
        object.__setattr__(self, "batch_kind", zoo.batch_kind(config.model, config.values()))
        super().__init__(config, catalogue)
        self.family = zoo.family(config.model)
        self.seed = torch.initial_seed() % 2**31
        self.settings = Settings.of(config, self.seed)
        self.recbole: Any = None  # the model of RecBole; closed forms have none before they are fitted
        self.schedule = Schedule(None, config, None, self.seed)
        self.trees: Trees | None = None
        self._features: list[str] = []
        self._rests, self._n_steps, self._n_processes = False, 1, 1
        if self.family == "exlib":
            self.trees = Trees(config, memory_dataset(config, self.settings, catalogue, catalogue.train))
        elif self.batch_kind != "whole":
            self.pretrain_epochs = schedule_of(config.model).pretrain_epochs(config)
            self._build()

    @classmethod
    def traits_of(cls, config: ModelConfig) -> Traits:
        return zoo.traits(config.model) if isinstance(config, RecBoleConfig) else super().traits_of(config)

    @classmethod
    def check(cls, config: ModelConfig, catalogue: Catalogue) -> None:
        assert isinstance(config, RecBoleConfig)
        if zoo.family(config.model) == "exlib":
            check_booster(
                config.model, config.parameters.get("xgb_params") or config.parameters.get("lgb_params") or {}
            )
        check_data(config, catalogue)

    @property
    def model_class(self) -> Any:
        return compat.model_class(self.config.model)

    def _build(self) -> None:
        """Construct RecBole's model; what it draws (weights, neighbours ...) depends on ``seed`` alone."""
        data = memory_dataset(self.config, self.settings, self.catalogue, self.catalogue.train)
        if self.config.model == "FEARec":
            self._with_prefixes(data)
        try:
            # some print advice
            with compat.undisturbed(), compat.drawing(self.seed), contextlib.redirect_stdout(io.StringIO()):
                # as in RecBole the transform of batches comes first: it tells the model the names of its fields
                transform = compat.load("data.transform").construct_transform(self.settings)
                self.recbole = compat.adapted(self.model_class)(self.settings, data)
        except Exception as error:
            raise self._unbuilt(error) from error
        self._transform = None if self.settings["transform"] is None else transform
        self._data = data
        # columns that a batch carries besides the ids; sequential models look features up by themselves
        self._features = [] if self.family != "context_aware" else [*data.features["user"], *data.features["item"]]
        self.schedule = schedule_of(self.config.model)(self.recbole, self.config, data.graph, self.seed)

    def _unbuilt(self, error: Exception) -> InputError:
        """Return in one line why RecBole's constructor failed; its assertions say nothing but their own text."""
        text = " ".join(str(error).split()) or traceback.extract_tb(error.__traceback__)[-1].line
        return InputError(
            f"RecBole's {self.config.model} cannot be built with these parameters: {type(error).__name__}: {text}"
        )

    def _with_prefixes(self, data: MemoryDataset) -> None:
        """Make the data set's interactions the training prefixes with their targets, which FEARec draws pairs from."""
        from benchmark.data.schema import SplitData
        from benchmark.data.task import Task
        from benchmark.data.train_rows import TrainRows

        train, c = self.catalogue.train, self.catalogue
        rows = TrainRows(SplitData(train, train, train, c.users, c.items, {}), Task(), self.batch_spec(), 0)
        data.inter_feat = self._interaction(self._fields(rows[rows.all]))

    def batch_spec(self) -> BatchSpec:
        config, kind = self.config, self.batch_kind
        sequential = self.family == "sequential"
        return BatchSpec(
            kind,
            batch_size=config.batch_size or self.settings["train_batch_size"],
            eval_batch_size=config.eval_batch_size,
            negatives=0 if kind == "whole" else config.n_negatives(),
            count_negatives=config.batch_size is None,  # RecBole's train_batch_size counts them
            max_history=self.settings["MAX_ITEM_LIST_LENGTH"] if sequential else 0,
            min_history=1 if sequential else 0,  # RecBole's prefixes hold an item at least
            passes=schedule_of(config.model).passes(config),
        )

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
        learner = self.settings["learner"]
        options: dict[str, Any] = {"lr": rate, "weight_decay": decay}
        if learner != "rmsprop" and all(p.is_floating_point() for p in parameters):
            options["fused"] = True  # the same arithmetic in one pass; RMSprop has none
        return kinds[learner](parameters, **options)

    # --- training ---------------------------------------------------------------------------------------------------

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        for parameter in self.recbole.parameters() if self._rests else self.schedule.resting():
            parameter.grad = None  # the optimiser passes it by
        if clip := self.settings["clip_grad_norm"]:
            torch.nn.utils.clip_grad_norm_(self.parameters(), **clip)

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        if self.recbole is None:
            return
        self._n_steps, self._n_processes = int(self.trainer.num_training_batches), self.trainer.world_size
        self.train()  # SGL draws its graphs anew when an epoch puts it into training mode
        with compat.shimmed():
            forget = self.schedule.start(self.current_epoch)
        if forget:
            self._optimizer().state.clear()

    def train(self, mode: bool = True) -> RecBole:
        with compat.shimmed():
            super().train(mode)
        self._forget()
        return self

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        if self.batch_kind == "whole":
            self._fit(batch)
            return None
        with compat.shimmed():
            parts = self.schedule.loss(self._rows(batch), batch_idx, self._n_steps)
        self._rests = parts is None
        if parts is None:  # Lightning has no step of rest in several processes: a loss that moves nothing
            return torch.stack([p.sum() for p in self.recbole.parameters() if p.requires_grad]).sum() * 0
        loss = _total(parts)
        if self._n_processes > 1:  # as in RecBole: each process must give a gradient for each parameter
            loss = loss + torch.stack([p.sum() for p in self.recbole.parameters() if p.requires_grad]).sum() * 0
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if self.recbole is not None and self.batch_kind != "whole" and self.trainer.is_last_batch:
            self._end_of_epoch()  # before the validation of this epoch
        super().on_train_batch_end(outputs, batch, batch_idx)

    def _end_of_epoch(self) -> None:
        """Take the steps that follow the rows. Every process takes the same ones, so no gradient has to travel."""
        optimizer = self._optimizer()
        device = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(device), compat.shimmed():
            torch.manual_seed(self.seed * 1_000_003 + self.current_epoch)
            for parts in self.schedule.extra_losses(self.current_epoch):
                loss = _total(parts)
                if not math.isfinite(loss.item()):
                    raise TrainingDiverged(f"the loss on the graph is {loss.item()} in epoch {self.current_epoch}")
                optimizer.zero_grad()
                loss.backward()
                if clip := self.settings["clip_grad_norm"]:
                    torch.nn.utils.clip_grad_norm_(self.parameters(), **clip)
                optimizer.step()
            optimizer.zero_grad()
            self.schedule.end(self.current_epoch)

    def _optimizer(self) -> torch.optim.Optimizer:
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        return optimizer

    def _rows(self, batch: Batch) -> Any:
        """Return a training batch as RecBole's ``Interaction``."""
        names = self.settings
        if batch.item is None:
            return self._interaction({names["USER_ID_FIELD"]: batch.user + 1})
        fields = self._fields(batch)
        negative = names["NEG_PREFIX"] + names["ITEM_ID_FIELD"]
        if batch.negative is not None:
            n = batch.negative.shape[1]
            if n > 1:
                fields = {name: value.repeat(n, *[1] * (value.dim() - 1)) for name, value in fields.items()}
            fields[negative] = batch.negative.T.reshape(-1) + 1
        elif batch.label is not None:
            fields[names["LABEL_FIELD"]] = batch.label
        rows = self._interaction(self._joined(fields))
        return rows if self._transform is None else self._transform(self._data, rows)

    def _fields(self, batch: Batch) -> dict[str, Tensor]:
        """Return user, item (where there is one) and, for sequential models, the history, in RecBole's ids."""
        names = self.settings
        fields = {names["USER_ID_FIELD"]: batch.user + 1}
        if batch.item is not None:
            fields[names["ITEM_ID_FIELD"]] = batch.item + 1
        if self.family == "sequential":
            assert batch.history is not None
            assert batch.history_length is not None
            length, width = self.settings["MAX_ITEM_LIST_LENGTH"], batch.history.shape[1]
            history = torch.where(batch.history == self.n_items, 0, batch.history + 1)
            history = nn.functional.pad(history, (0, length - width))
            listed = names["ITEM_ID_FIELD"] + names["LIST_SUFFIX"]
            fields[listed] = history
            # who has none reads one item of padding
            fields[names["ITEM_LIST_LENGTH_FIELD"]] = batch.history_length.clamp(min=1)
            if self.config.model == "DIEN":
                fields[names["NEG_PREFIX"] + listed] = self._other_items(history)
        return fields

    def _other_items(self, history: Tensor) -> Tensor:
        """Return a random other item for each item (B, L) of a history, 0 at the padding, as ``SeqSampler`` does."""
        if not self.training:
            return torch.zeros_like(history)  # only the loss reads it
        drawn = torch.randint_like(history, 1, self.n_items)  # 1 to n_items - 1: one is left out
        return torch.where(history == 0, 0, drawn + (drawn >= history))

    def _joined(self, fields: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the fields with the features of their users and items."""
        if not self._features:
            return fields
        names, tables = self.settings, self._data.features
        user, item = fields[names["USER_ID_FIELD"]], fields[names["ITEM_ID_FIELD"]]
        for part, ids in (("user", user), ("item", item)):
            fields |= {name: table[ids] for name, table in tables[part].items()}
        return fields

    def _fit(self, batch: Batch) -> None:
        """Compute a closed form, or boost trees."""
        assert batch.item is not None
        user, item = batch.user.cpu(), batch.item.cpu()
        if self.trees is not None:
            ranking = self.trainer.datamodule.task.kind == "ranking"  # type: ignore[attr-defined]
            self.trees.fit(user, item, None if ranking else batch.label, self.seed)
            return
        rows = Interactions.from_arrays(user.numpy(), item.numpy(), None, None, self.n_users)
        data = MemoryDataset(self.settings, rows, self.n_users, self.n_items)
        with compat.undisturbed():
            try:
                fitted = self.model_class(self.settings, data)
            except Exception as error:
                raise self._unbuilt(error) from error
            if self.config.model == "Pop":
                # Pop counts an item once a batch however often it stands there: give it batches without repeats
                for ids in _distinct(item + 1):
                    fitted.calculate_loss(self._interaction({self.settings["ITEM_ID_FIELD"]: ids}))
        self._adopt(fitted)

    def _adopt(self, fitted: Any) -> None:
        fitted.requires_grad_(False)  # closed forms carry a parameter that means nothing
        self.recbole = fitted.to(self.device)
        self._follow()

    def on_test_start(self) -> None:
        self.schedule.finished()  # a run that goes on behind its last epoch has seen no stage begin

    def on_predict_start(self) -> None:
        self.schedule.finished()

    # --- scoring ----------------------------------------------------------------------------------------------------

    def score(self, batch: Batch) -> Tensor:
        if self.recbole is None and (self.trees is None or self.trees.booster is None):
            return self.pick(torch.zeros(len(batch), self.n_items, device=self.device), batch)  # not fitted yet
        draws = compat.drawing(self.seed) if self.config.model in zoo.DRAWS else contextlib.nullcontext()
        with compat.shimmed(), torch.no_grad(), draws:
            if self.trees is None and _scores_all(self.model_class):
                rows = self._interaction(self._fields(batch) | self._unread(batch))
                if self._inverted and self._transform is not None:
                    rows = self._transform(self._data, rows)
                scores = self.recbole.full_sort_predict(rows).to(self.device).view(len(batch), self.n_items + 1)
                scores = self.pick(scores[:, 1:].float(), batch)
            else:
                scores = self._score_pairs(batch)
        if self.family == "sequential" and self.config.model not in zoo.CLICK:
            assert batch.history_length is not None
            scores = scores.masked_fill((batch.history_length == 0).unsqueeze(1), 0)  # nothing known: no order
        if self.config.model in zoo.DIVIDE_BY_ROWS:
            rows = torch.from_numpy(np.diff(self.catalogue.train.offsets)).to(scores.device)
            scores = scores.masked_fill((rows[batch.user] == 0).unsqueeze(1), 0)
        return scores

    def _unread(self, batch: Batch) -> dict[str, Tensor]:
        """Return a target of padding for models that name one in scoring although they do not use it."""
        cpr = self.config.model in ("GRU4RecCPR", "SASRecCPR")
        return {self.settings["ITEM_ID_FIELD"]: torch.zeros_like(batch.user)} if cpr else {}

    @property
    def _inverted(self) -> bool:
        """Whether the transform is one that scoring needs too; the others disturb what is trained on."""
        return self.settings["transform"] == "inverse_itemseq"

    def _score_pairs(self, batch: Batch) -> Tensor:
        names, items = self.settings, batch.candidates
        if items is None:
            items = torch.arange(self.n_items, device=batch.user.device).expand(len(batch), -1)
        if self.trees is not None:
            return self.trees.logits(batch.user.cpu(), items.cpu()).to(self.device)
        width, parts = items.shape[1], []
        users = max(_PAIRS // (width * max(self.batch_spec().max_history, 1)), 1)
        fields = self._fields(batch)
        for index in torch.arange(len(batch), device=items.device).split(users):
            some = {name: value[index].repeat_interleave(width, 0) for name, value in fields.items()}
            some[names["ITEM_ID_FIELD"]] = (items[index] + 1).reshape(-1)
            for part in zip(*(value.split(_PAIRS) for value in some.values()), strict=True):
                rows = self._interaction(self._joined(dict(zip(some, part, strict=True))))
                parts.append(self._predict(rows).reshape(-1).float())
        return torch.cat(parts).view(items.shape)

    def _predict(self, rows: Any) -> Tensor:
        """Return the scores of pairs; a logit where RecBole gives a probability of a like."""
        if not self.traits.probability:
            return self.recbole.predict(rows)
        if isinstance(getattr(self.recbole, "sigmoid", None), nn.Sigmoid):
            sigmoid, self.recbole.sigmoid = self.recbole.sigmoid, nn.Identity()  # near 0 and 1 it would make ties
            try:
                return self.recbole.predict(rows)
            finally:
                self.recbole.sigmoid = sigmoid
        return torch.logit(self.recbole.predict(rows).double(), eps=1e-9)

    # --- state ------------------------------------------------------------------------------------------------------

    def weights(self) -> dict[str, Tensor]:
        # frozen ones too: some stages rest parameters that an earlier one has moved
        values = {name: v.detach().cpu().contiguous() for name, v in self.state_dict().items() if name != "anchor"}
        taken = set()
        for name, value in values.items():
            if value.data_ptr() in taken:  # GCMC holds one tensor under two names, which safetensors refuses
                values[name] = value.clone()
            taken.add(value.data_ptr())
        return values

    def restore(self, folder: Path, new_users: int = 0) -> None:
        if self.batch_kind != "whole":
            super().restore(folder, new_users)
            self.schedule.finished()
            return
        weights = load_file(folder / WEIGHTS)
        sizes = weights.get(_FITTED + "sizes")
        if sizes is None or sizes.tolist() != [self.n_users, self.n_items]:
            found = "none" if sizes is None else "{} users and {} items".format(*sizes.tolist())
            expected = f"{self.n_users} and {self.n_items}"
            raise InputError(f"{folder / WEIGHTS}: fitted on {found}, expected {expected}: another model or data")
        self.load_state_dict(weights, strict=False)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        found = super().load_state_dict(*args, **kwargs)
        if self.recbole is not None and self.batch_kind != "whole":
            with compat.shimmed():
                self.schedule.loaded()
        return found

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.batch_kind != "whole":
            # with it a restored model draws the same neighbours as it is built
            destination[prefix + _SEED] = torch.tensor(self.seed)
            for name in _COUNTED:
                for key, tensor in pack(name, vars(self.recbole).get(name)).items():
                    destination[prefix + _COUNTS + key] = tensor.clone()
            return
        sizes = torch.tensor([self.n_users, self.n_items])
        if self.trees is not None:
            if self.trees.booster is not None:
                destination[prefix + _FITTED + "sizes"] = sizes
                destination[prefix + _FITTED + "booster"] = self.trees.to_tensor()
        elif self.recbole is not None:
            # RecBole keeps what a closed form has found in plain attributes
            destination[prefix + _FITTED + "sizes"] = sizes
            for name, value in vars(self.recbole).items():
                for key, tensor in pack(name, value).items():
                    destination[prefix + _FITTED + key] = tensor

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any, **kwargs: Any) -> None:
        seed = state_dict.pop(prefix + _SEED, None)
        if seed is not None and int(seed) != self.seed:
            self.seed = int(seed)
            self._build()
            self.recbole.to(self.device).train(self.training)
            self._follow()
        start = prefix + _COUNTS
        counts = {key.removeprefix(start): state_dict.pop(key) for key in list(state_dict) if key.startswith(start)}
        for name, value in unpack(counts).items():
            setattr(self.recbole, name, value)
        start = prefix + _FITTED
        packed = {key.removeprefix(start): state_dict.pop(key) for key in list(state_dict) if key.startswith(start)}
        packed.pop("sizes", None)
        if self.trees is not None and packed:
            self.trees.from_tensor(packed["booster"])
        elif packed:
            none = np.zeros(0, np.int64)
            fitted = self.model_class.__new__(self.model_class)
            # not the model's own constructor, which would compute the closed form again
            base = compat.load("model.abstract_recommender").GeneralRecommender
            rows = Interactions.from_arrays(none, none, None, None, self.n_users)
            base.__init__(fitted, self.settings, MemoryDataset(self.settings, rows, self.n_users, self.n_items))
            for name, value in unpack(packed).items():
                setattr(fitted, name, value)
            self._adopt(fitted)
        self._forget()
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _forget(self) -> None:
        """Drop what RecBole's gradient models keep from one scoring to the next: it belongs to earlier weights."""
        if self.recbole is not None and self.batch_kind != "whole":
            for name in getattr(self.recbole, "other_parameter_name", ()):
                if name.startswith("restore_") or name == "i_embedding":
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
        if self._features:
            for table in self._data.features.values():
                for name, values in table.items():
                    table[name] = values.to(device)

    def _interaction(self, fields: dict[str, Tensor]) -> Any:
        return compat.load("data.interaction").Interaction(fields)


def _total(parts: Any) -> Tensor:
    """Return a loss that RecBole gives as one tensor or as a tuple of parts."""
    return torch.stack([part.sum() for part in parts]).sum() if isinstance(parts, tuple) else parts


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
