"""Makes RecBole 1.2.1 run on current libraries, and leaves the interpreter as it was found."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import os
import random
import re
import sys
import types
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ruamel.yaml import YAML
from scipy.sparse import coo_matrix, dok_matrix

from benchmark.errors import InputError, missing_extra

# names that RecBole reads from numpy (or writes into it) and that numpy 2 no longer has, or has with another meaning
_NUMPY: dict[str, Any] = {
    "bool": np.bool_,
    "int": np.int_,
    "float": np.float64,
    "complex": np.complex128,
    "object": np.object_,
    "str": np.str_,
    "long": np.int_,
    "unicode": np.str_,
    "float_": np.float64,
    "complex_": np.complex128,
    "unicode_": np.str_,
}
_ABSENT = object()
_TENSORBOARD = "torch.utils.tensorboard"
_SUBMODULES = ("general", "sequential", "context_aware", "knowledge_aware", "exlib")


# --- shims ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def shimmed() -> Iterator[None]:
    """Give numpy and scipy the names that RecBole's code reads, within the block; cheap enough for a step."""
    with _attributes(np, _NUMPY), _attributes(dok_matrix, {"_update": _dok_update}), _torch_scatter():
        yield


@contextlib.contextmanager
def _attributes(owner: Any, values: dict[str, Any]) -> Iterator[None]:
    # vars() and not getattr(): numpy warns about, or computes, names that it does not have
    before = {name: vars(owner).get(name, _ABSENT) for name in values}
    for name, value in values.items():
        if before[name] is _ABSENT:
            setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is not _ABSENT:
                if vars(owner).get(name, _ABSENT) is not value:
                    setattr(owner, name, value)
            elif name in vars(owner):
                delattr(owner, name)


@contextlib.contextmanager
def _torch_scatter() -> Iterator[None]:
    """Stand for torch_scatter, which has no wheels: KGIN and MCCLK import two functions of it in each forward pass."""
    if "torch_scatter" in sys.modules:
        yield
        return
    sys.modules["torch_scatter"] = _SCATTER
    try:
        yield
    finally:
        del sys.modules["torch_scatter"]


def scatter_mean(src: torch.Tensor, index: torch.Tensor, dim: int = 0, dim_size: int | None = None) -> torch.Tensor:
    """Return the mean of the rows (n, ...) of ``src`` that share an ``index`` (n,), 0 where none has it."""
    assert dim == 0
    n = int(index.max()) + 1 if dim_size is None else dim_size
    total = src.new_zeros(n, *src.shape[1:]).index_add(0, index, src)
    count = torch.bincount(index, minlength=n).clamp(min=1).to(src.dtype)
    return total / count.view(-1, *[1] * (src.dim() - 1))


def scatter_softmax(src: torch.Tensor, index: torch.Tensor, dim: int = 0) -> torch.Tensor:
    """Return the softmax of the rows (n, ...) of ``src`` among those that share an ``index`` (n,)."""
    assert dim in (0, -1)
    n = int(index.max()) + 1
    where = index.view(-1, *[1] * (src.dim() - 1)).expand_as(src)
    most = src.new_full((n, *src.shape[1:]), -torch.inf).scatter_reduce(0, where, src.detach(), "amax")
    weight = (src - most[index]).exp()
    return weight / src.new_zeros(n, *src.shape[1:]).index_add(0, index, weight)[index]


_SCATTER = types.ModuleType("torch_scatter")
_SCATTER.scatter_mean, _SCATTER.scatter_softmax = scatter_mean, scatter_softmax  # type: ignore[attr-defined]


def relation_mean_graph(graph: Any, shape: torch.Size) -> torch.Tensor:
    """Return KGAT's first attention: each relation's (coo, valued by relation) rows divided by their sums, added up.

    KGAT computes it with DGL, which installs on no current PyTorch.
    """
    key = graph.data.astype(np.int64) * shape[0] + graph.row
    _, place, count = np.unique(key, return_inverse=True, return_counts=True)
    values = torch.from_numpy((1 / count[place]).astype(np.float32))
    return torch.sparse_coo_tensor(torch.from_numpy(np.stack([graph.row, graph.col])).long(), values, shape).coalesce()


def _dok_update(matrix: Any, entries: dict[tuple[int, int], float]) -> None:
    """What scipy's ``dok_matrix._update`` did up to 1.12: set the entries without checking them."""
    matrix._dict.update(entries)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Run RecBole's code with the shims and without our command line, and take back all that it sets globally.

    Restored: ``sys.argv``, the standard streams, environment variables, the root logger, warning filters, the random
    generators, PyTorch's global switches (SINE's file turns on autograd's search for anomalies, which halves the speed
    of whatever is trained afterwards), and the number format of ``yaml.FullLoader``.
    """
    root = logging.getLogger()
    streams = sys.stdout, sys.stderr
    argv, environment = sys.argv, dict(os.environ)
    handlers, level = list(root.handlers), root.level
    states = _generator_states()
    anomalies = torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()
    cudnn = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    loader = getattr(sys.modules.get("yaml"), "FullLoader", None)
    resolvers = vars(loader).get("yaml_implicit_resolvers") if loader else None
    copied = {key: list(value) for key, value in resolvers.items()} if resolvers is not None else None
    sys.argv = argv[:1] or [""]  # RecBole's Config takes every --key=value of ours for its own
    try:
        with shimmed(), warnings.catch_warnings():
            for category in (DeprecationWarning, FutureWarning, SyntaxWarning):
                warnings.simplefilter("ignore", category)
            warnings.filterwarnings("ignore", module=r"recbole\.")
            yield
    finally:
        sys.argv, (sys.stdout, sys.stderr) = argv, streams
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        for name, value in environment.items():
            if os.environ.get(name) != value:
                os.environ[name] = value
        root.handlers[:] = handlers
        root.setLevel(level)
        _set_generator_states(states)
        torch.autograd.set_detect_anomaly(*anomalies)
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = cudnn
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        if loader is not None:
            if copied is not None:
                loader.yaml_implicit_resolvers = copied
            elif "yaml_implicit_resolvers" in vars(loader):
                del loader.yaml_implicit_resolvers


@contextlib.contextmanager
def drawing(seed: int) -> Iterator[None]:
    """Start all random generators at ``seed`` within the block."""
    states = _generator_states()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        _set_generator_states(states)


def _generator_states() -> tuple[Any, ...]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda


def _set_generator_states(states: tuple[Any, ...]) -> None:
    python, numpy, cpu, cuda = states
    random.setstate(python)
    np.random.set_state(numpy)
    torch.set_rng_state(cpu)
    if cuda is not None:
        torch.cuda.set_rng_state_all(cuda)


# --- RecBole as it is installed ------------------------------------------------------------------------------------


def folder() -> Path:
    """Return the folder of the installed RecBole, without importing it.

    Raises:
        InputError: RecBole is not installed.
    """
    found = importlib.util.find_spec("recbole")
    if found is None or not found.submodule_search_locations:
        raise InputError(
            "RecBole is not installed: pip install --no-deps recbole==1.2.1 and what it imports, "
            "pip install 'levelfield[recbole]'"
        )
    return Path(found.submodule_search_locations[0])


def load(name: str) -> types.ModuleType:
    """Import ``recbole.<name>`` without TensorBoard (a third of the seconds of the import).

    Raises:
        InputError: RecBole, or a package that it imports, is not installed.
    """
    folder()
    full = f"recbole.{name}"
    if full in sys.modules:
        return sys.modules[full]
    with undisturbed(), _no_tensorboard():
        try:
            return importlib.import_module(full)
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if package in ("", "recbole"):
                raise
            raise missing_extra(package, "recbole") from None


@contextlib.contextmanager
def _no_tensorboard() -> Iterator[None]:
    """Put a writer that writes nothing in TensorBoard's place, unless it has been imported already."""
    if _TENSORBOARD in sys.modules:
        yield
        return
    module = types.ModuleType(_TENSORBOARD)
    module.SummaryWriter = _NoWriter  # type: ignore[attr-defined]
    sys.modules[_TENSORBOARD] = module
    try:
        yield
    finally:
        del sys.modules[_TENSORBOARD]


class _NoWriter:
    """A SummaryWriter that writes nothing: RecBole's makes a folder in the working directory."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def add_scalar(self, *args: Any, **kwargs: Any) -> None:
        pass

    def add_hparams(self, *args: Any, **kwargs: Any) -> None:
        pass

    def close(self) -> None:
        pass


def properties_text(name: str) -> str:
    """Return a yaml file of RecBole's ``properties`` folder, such as "model/BPR", as text; "" where there is none."""
    path = folder() / "properties" / name
    # two of RecBole's files are not spelled as their models
    found = [p for p in path.parent.glob("*.yaml") if p.stem.lower() == path.name.lower()]
    return found[0].read_text(encoding="utf-8") if found else ""


def read_properties(name: str) -> dict[str, Any]:
    """Return the values of such a file; {} where there is none."""
    # ruamel reads YAML 1.2, where 1e-4 is a number, as RecBole means it
    return dict(_properties(name))


@cache
def _properties(name: str) -> dict[str, Any]:
    return YAML(typ="safe", pure=True).load(properties_text(name)) or {}


@cache
def models() -> dict[str, str]:
    """Return every model of RecBole with its kind: general, sequential, context_aware, knowledge_aware or exlib."""
    kinds = {}
    for kind in _SUBMODULES:
        for path in (folder() / "model" / f"{kind}_recommender").glob("[!_]*.py"):
            names = re.findall(r"^class (\w+)\(", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
            kinds.update({name: kind for name in names if name.lower() == path.stem})
    return kinds


def model_class(name: str) -> type[torch.nn.Module]:
    """Import a model of RecBole."""
    return getattr(load(f"model.{models()[name]}_recommender.{name.lower()}"), name)


def adapted(model: type[torch.nn.Module]) -> Any:
    """Return a model's class, or one of ours with another part: one that no longer runs, or that scores by chance."""

    class KTUP(model):  # type: ignore[misc, valid-type]
        def st_gumbel_softmax(self, logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
            if self.training:
                return super().st_gumbel_softmax(logits, temperature)
            # RecBole draws a preference in scoring, too: no two evaluations agree; here it is the most likely one
            return torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)

    class RippleNet(model):  # type: ignore[misc, valid-type]
        def _build_ripple_set(self) -> Any:
            found = super()._build_ripple_set()
            nothing = torch.zeros(self.n_memory, dtype=torch.int64, device=self.device)
            for user in range(self.n_users):  # RecBole fails on a user without a row in training
                found[user] = found.get(user) or [(nothing, nothing, nothing)] * self.n_hop
            return found

    class KGAT(model):  # type: ignore[misc, valid-type]
        def init_graph(self) -> torch.Tensor:
            shape = (int(self.matrix_size[0]), int(self.matrix_size[1]))
            coo = coo_matrix((self.all_rs.numpy(), (self.all_hs.numpy(), self.all_ts.numpy())), shape=shape)
            return relation_mean_graph(coo, self.matrix_size).to(self.device)

    return {"KTUP": KTUP, "KGAT": KGAT, "RippleNet": RippleNet}.get(model.__name__, model)
