"""Adapters: every way to fine-tune a model's weights with PEFT: put in, trained, merged, saved and loaded."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from torch import Tensor, nn

from benchmark.errors import InputError, missing_extra, nearest

PeftKind = Literal["lora", "rslora", "dora", "adalora", "vera", "ia3", "prefix", "prompt", "ptuning", "full", "frozen"]
SOFT = ("prefix", "prompt", "ptuning")  # kinds that train virtual tokens before the text, and no weight of the model
WHOLE = ("full", "frozen")  # kinds without an adapter
# shares of the training steps in which AdaLoRA keeps its first ranks, and its last ones
ADALORA_START, ADALORA_END = 0.1, 0.3
_NAME = "default"  # PEFT's name of the one adapter


class Peft(BaseModel):
    """How the backbone is fine-tuned."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: PeftKind = Field(
        default="lora",
        description=(
            "lora (arXiv:2106.09685), rslora (arXiv:2312.03732), dora (arXiv:2402.09353), adalora (arXiv:2303.10512), "
            "vera (arXiv:2310.11454), ia3 (arXiv:2205.05638), prefix (arXiv:2101.00190), prompt (arXiv:2104.08691), "
            "ptuning (arXiv:2103.10385), full (every weight) or frozen (none)."
        ),
    )
    rank: int = Field(default=8, ge=1, description="Rank of the adapter's matrices; of adalora the mean at the end.")
    alpha: float = Field(default=16, gt=0, description="lora, dora, adalora are scaled by alpha / rank.")
    dropout: float = Field(default=0.05, ge=0, lt=1, description="Dropout on the input of lora-like adapters.")
    virtual_tokens: int = Field(default=16, ge=1, description="Trained tokens of prefix, prompt and ptuning.")
    target_modules: tuple[str, ...] | None = Field(
        default=None,
        description="Names of the adapted linear layers; None: PEFT's choice for the architecture, else all of them.",
    )
    adapter: str | None = Field(default=None, description="Folder of a trained adapter of this kind to start from.")

    @property
    def soft(self) -> bool:
        """Whether virtual tokens are trained."""
        return self.kind in SOFT


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


def adapted(base: Any, peft: Peft, task: str, steps: int = 1_000_000) -> Any:
    """Freeze what is not trained, and put the adapter in.

    Args:
        base: a transformers model; its layers are replaced in place.
        peft: the kind and its settings.
        task: name of PEFT's TaskType: FEATURE_EXTRACTION, CAUSAL_LM or SEQ_2_SEQ_LM.
        steps: training steps of adalora's schedule, see ``set_steps``.

    Returns:
        A PeftModel, or ``base`` itself without an adapter.

    Raises:
        InputError: an unknown target module, or a kind that this architecture does not take.
    """
    if peft.kind in WHOLE:
        return base.requires_grad_(peft.kind == "full")
    try:
        from peft import get_peft_model
    except ImportError as error:
        raise missing_extra("peft", "llm") from error
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="fan_in_fan_out")  # found by PEFT itself
            model = get_peft_model(base, _config(base, peft, task, steps))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        kind = base.config.model_type
        raise InputError(f"peft.kind: '{peft.kind}' does not fit a {kind} model: {_one_line(error)}") from error
    for layer in tuner_layers(model):
        for name in ("lora_dropout", "vera_dropout"):
            for key, dropout in getattr(layer, name, {}).items():
                if isinstance(dropout, nn.Dropout):
                    getattr(layer, name)[key] = AdapterDropout(dropout.p)
    return model


def _config(base: Any, peft: Peft, task: str, steps: int) -> Any:
    """Return PEFT's own configuration object."""
    import peft as library

    common: dict[str, Any] = {"task_type": library.TaskType[task]}
    if peft.soft:
        common["num_virtual_tokens"] = peft.virtual_tokens
        if peft.kind == "prompt":
            # begins with embeddings of real tokens: as large as those that the model knows (section 3.2 of the paper)
            config = library.PromptTuningConfig(**common)
            config.prompt_tuning_init = library.PromptTuningInit.SAMPLE_VOCAB
            return config
        kind = library.PrefixTuningConfig if peft.kind == "prefix" else library.PromptEncoderConfig
        return kind(**common, encoder_hidden_size=base.config.get_text_config().hidden_size)
    targets, feedforward = _target_modules(base, peft)
    common["target_modules"] = targets
    if peft.kind == "ia3":
        return library.IA3Config(**common, feedforward_modules=feedforward)
    if peft.kind == "vera":
        return library.VeraConfig(**common, r=peft.rank, vera_dropout=peft.dropout)
    common |= {"lora_alpha": peft.alpha, "lora_dropout": peft.dropout}
    if peft.kind == "adalora":
        first = math.ceil(1.5 * peft.rank)  # PEFT's own proportion: 12 to 8
        return library.AdaLoraConfig(**common, target_r=peft.rank, init_r=first, total_step=steps)
    return library.LoraConfig(**common, r=peft.rank, use_rslora=peft.kind == "rslora", use_dora=peft.kind == "dora")


def _target_modules(model: Any, peft: Peft) -> tuple[list[str] | str, list[str]]:
    """Return PEFT's target modules, checked against the model's own names, and those of them that IA3 scales before."""
    from peft.utils import constants

    kind = peft.kind.upper() if peft.kind in ("adalora", "vera", "ia3") else "LORA"
    tables = [
        getattr(constants, f"TRANSFORMERS_MODELS_TO_{name}_TARGET_MODULES_MAPPING", {}) for name in (kind, "LORA")
    ]
    before = constants.TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING.get(model.config.model_type, [])
    if peft.target_modules is None:
        names = [name for name, _ in model.named_modules()]
        for table in tables[:1] if peft.kind == "ia3" else tables:
            known = table.get(model.config.model_type)
            if isinstance(known, list) and any(_matches(name, target) for name in names for target in known):
                return known, [name for name in before if name in known]
        return "all-linear", []
    adaptable = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d)
    linear = {
        name
        for name, module in model.named_modules()
        if isinstance(module, adaptable) or type(module).__name__ == "Conv1D"
    }
    options = {name.rsplit(".", 1)[-1] for name in linear} | {
        ".".join(name.rsplit(".", 2)[-2:]) for name in linear if name.count(".") > 1
    }
    for target in peft.target_modules:
        if not any(_matches(name, target) for name in linear):
            short = options if "." in target else {name for name in options if "." not in name}
            raise InputError(
                f"peft.target_modules: the backbone has no linear layer '{target}'{nearest(target, short)}"
            )
    return list(peft.target_modules), [name for name in before if name in peft.target_modules]


def _matches(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def tuner_layers(model: nn.Module) -> list[Any]:
    """Return the layers of a model that carry an adapter; none where there is no adapter in the layers."""
    return [module for module in model.modules() if hasattr(module, "get_base_layer") and hasattr(module, "merge")]


# --- AdaLoRA ---------------------------------------------------------------------------------------------------------


def set_steps(model: Any, steps: int) -> None:
    """Tell AdaLoRA how many optimizer steps the training has: ranks fall between its first tenth and its last three."""
    config = model.peft_config[_NAME]
    first, last = int(ADALORA_START * steps), int(ADALORA_END * steps)
    config.total_step, config.tinit, config.tfinal = steps, first, last
    config.deltaT = max(1, steps // 100)


def step_ranks(model: Any, step: int) -> None:
    """Lower AdaLoRA's ranks after an optimizer step, while its gradients are still there."""
    config = model.peft_config[_NAME]
    if step > config.total_step - config.tfinal and config.rank_pattern is None:
        config.rank_pattern = _rank_pattern(model)  # the training was interrupted, and its ranks were final by then
    model.base_model.update_and_allocate(step)


def orthogonality(model: Any) -> Tensor:
    """Return AdaLoRA's regularisation (eq. 4 of the paper), weighted, to be added to the loss: a scalar."""
    total: Any = 0.0
    matrices = [(n, p) for n, p in model.named_parameters() if ".lora_A." in n or ".lora_B." in n]
    for name, p in matrices:
        gram = p @ p.T if ".lora_A." in name else p.T @ p
        total = total + torch.linalg.matrix_norm(gram - torch.eye(len(gram), device=p.device, dtype=p.dtype))
    return model.peft_config[_NAME].orth_reg_weight * total / max(len(matrices), 1)


def mean_rank(model: Any) -> float:
    """Return how many singular values an AdaLoRA layer has kept, on average."""
    kept = [float((p != 0).sum()) for name, p in model.named_parameters() if ".lora_E." in name]
    return sum(kept) / max(len(kept), 1)


def _rank_pattern(model: Any) -> dict[str, list[bool]]:
    """Return which singular values are in use, as PEFT writes it down; at least one of each layer."""
    pattern = {}
    for name, p in model.base_model.model.named_parameters():
        if ".lora_E." in name:
            used = (p.detach() != 0).view(-1).tolist()
            pattern[name] = used if any(used) else [True] * len(used)
    return pattern


# --- merging, saving, loading ----------------------------------------------------------------------------------------


@contextmanager
def merged(model: nn.Module) -> Iterator[None]:
    """Score inside with the adapter merged into the weights; outside the weights are the same bits as before."""
    layers = [layer for layer in tuner_layers(model) if not layer.merged]
    # quantised weights would be rounded anew: they stay as they are
    layers = [layer for layer in layers if layer.get_base_layer().weight.is_floating_point()]
    bases = [layer.get_base_layer() for layer in layers]
    tensors = [t for base in bases for t in (base.weight, getattr(base, "bias", None)) if t is not None]
    originals = [tensor.data for tensor in tensors]
    try:
        with torch.no_grad():
            for layer in layers:
                layer.merge(safe_merge=True)  # into a copy: the original tensors stay as they are
        yield
    finally:
        for tensor, original in zip(tensors, originals, strict=True):
            tensor.data = original
        for layer in layers:
            layer.merged_adapters.clear()


def merged_for_good(model: Any) -> Any:
    """Return the transformers model with its adapter merged into the weights and taken away, in place."""
    return model.merge_and_unload(safe_merge=True) if tuner_layers(model) else model


def save(model: Any, peft: Peft, folder: Path | str) -> None:
    """Write what was trained, as safetensors: a PEFT folder, the whole model (full), nothing (frozen).

    ``peft.PeftModel.from_pretrained(base, folder)`` loads a PEFT folder.
    """
    if peft.kind == "frozen":
        return
    if peft.kind == "full":
        model.save_pretrained(str(folder))
        return
    if peft.kind == "adalora":
        # of the weights that are saved, which may be those of an earlier epoch than the last
        model.peft_config[_NAME].rank_pattern = _rank_pattern(model)
    # the hub is asked for a changed vocabulary only where embeddings are to be saved
    model.save_pretrained(str(folder), save_embedding_layers=False)


def load(model: Any, peft: Peft, folder: Path | str) -> None:
    """Read what ``save`` wrote into this model.

    Raises:
        InputError: the folder has no such file, or one of another architecture, rank or kind.
    """
    if peft.kind == "frozen":
        return
    folder, full = Path(folder), peft.kind == "full"
    files = sorted(folder.glob("model*.safetensors")) if full else [folder / "adapter_model.safetensors"]
    if not files or not files[0].is_file():
        raise InputError(f"adapter folder {folder}: expected {'model' if full else 'adapter_model'}.safetensors")
    if not full:
        _check_kind(model, peft, folder)
    from safetensors.torch import load_file

    try:
        saved = {key: tensor for file in files for key, tensor in load_file(file).items()}
    except (OSError, SafetensorError) as error:
        raise InputError(f"adapter folder {folder}: cannot be read ({error})") from error
    if full:
        own = model.state_dict()
        # tied weights are saved once
        tied = list(getattr(model, "all_tied_weights_keys", None) or {})
        saved = {**{key: own[key] for key in tied if key not in saved}, **saved}
    else:
        from peft import get_peft_model_state_dict, set_peft_model_state_dict

        own = get_peft_model_state_dict(model, save_embedding_layers=False)
    wrong = sorted(key for key in own.keys() | saved.keys() if not _fits(own, saved, key, peft.kind))
    if wrong:
        raise InputError(
            f"adapter folder {folder}: {len(wrong)} weights do not fit this backbone, the first is {wrong[0]} "
            f"(expected {_shape(own, wrong[0])}, found {_shape(saved, wrong[0])})"
        )
    if full:
        model.load_state_dict(saved)
    else:
        set_peft_model_state_dict(model, saved)


def _check_kind(model: Any, peft: Peft, folder: Path) -> None:
    try:
        stated = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"adapter folder {folder}: adapter_config.json cannot be read ({_one_line(error)})") from error
    own = model.peft_config[_NAME]
    if stated.get("peft_type") != own.peft_type.value:
        raise InputError(
            f"adapter folder {folder}: holds {stated.get('peft_type')}, expected {own.peft_type.value} "
            f"(peft.kind: {peft.kind})"
        )
    if peft.kind == "ptuning":
        raise InputError(f"adapter folder {folder}: a P-tuning folder holds the result alone; it cannot be trained on")
    if peft.kind == "adalora":
        own.rank_pattern = stated.get("rank_pattern")


def _fits(own: dict[str, Tensor], saved: dict[str, Tensor], key: str, kind: str) -> bool:
    expected, found = _shape(own, key), _shape(saved, key)
    if kind != "adalora" or expected is None or found is None:
        return expected == found
    # ranks have fallen in training; the other side of the matrices must be the same
    return all(e == f or e > f for e, f in zip(expected, found, strict=True))


def _shape(weights: dict[str, Tensor], key: str) -> tuple[int, ...] | None:
    return tuple(weights[key].shape) if key in weights else None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
