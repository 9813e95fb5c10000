"""Brings a pretrained Hugging Face model and its tokenizer into memory: dtype, quantisation, one copy kept."""

from __future__ import annotations

import copy
import importlib.util
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError

from benchmark.errors import InputError, missing_extra
from benchmark.llm.adapters import Peft
from benchmark.llm.locate import resolve
from benchmark.llm.precision import DType

Attention = Literal["auto", "sdpa", "eager", "flash_attention_2"]
Quantization = Literal["8bit", "4bit"]
Kind = Literal["encoder", "decoder", "seq2seq"]
_NAMES = {"encoder": "an encoder", "decoder": "a decoder", "seq2seq": "an encoder-decoder"}


@dataclass(frozen=True)
class Loading:
    """How a pretrained model is brought into memory.

    Attributes:
        dtype: ``auto`` measures whether bfloat16 pays on the device; ``bfloat16`` also keeps frozen weights in it.
        attention: implementation; ``auto`` leaves the choice to transformers (sdpa where the model has it).
        quantization: frozen weights in 8 or 4 bits (bitsandbytes, QLoRA: arXiv:2305.14314); needs a CUDA GPU.
        gradient_checkpointing: compute activations anew in the backward pass instead of keeping them.
        trust_remote_code: run code that a model's folder brings.
        frozen_dropout: keep the frozen model's own dropout while an adapter is trained.
    """

    dtype: DType = "auto"
    attention: Attention = "auto"
    quantization: Quantization | None = None
    gradient_checkpointing: bool = False
    trust_remote_code: bool = False
    frozen_dropout: bool = False


def load_tokenizer(name: str | Path, trust_remote_code: bool = False) -> Any:
    """Return the tokenizer of a backbone, with a pad token and padding on the right.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise missing_extra("transformers", "llm") from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(resolve(name), trust_remote_code=trust_remote_code)
    except (OSError, ValueError, ImportError) as error:
        raise InputError(f"backbone '{name}' cannot be loaded: {' '.join(str(error).split())[:300]}") from error
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    return tokenizer


def kind_of(name: str | Path, trust_remote_code: bool = False) -> Kind:
    """Return the kind of a backbone, from its configuration alone."""
    try:
        from transformers import AutoConfig
    except ImportError as error:
        raise missing_extra("transformers", "llm") from error
    try:
        return _kind(AutoConfig.from_pretrained(resolve(name), trust_remote_code=trust_remote_code))
    except (OSError, ValueError) as error:
        raise InputError(f"backbone '{name}' cannot be loaded: {' '.join(str(error).split())[:300]}") from error


def _kind(config: Any) -> Kind:
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    if getattr(config, "is_encoder_decoder", False):
        return "seq2seq"
    kind = config.model_type
    causal = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return "decoder" if causal else "encoder"


_KEPT: dict[Any, Any] | None = None  # the last model that was loaded, as it came; None: models are not kept


@contextmanager
def kept_backbone() -> Iterator[None]:
    """Load a backbone once and give copies of it: for many models on one backbone in one process.

    It costs the memory of one more model (on the host, where copies are made too).
    """
    global _KEPT
    outer, _KEPT = _KEPT, _KEPT if _KEPT is not None else {}
    try:
        yield
    finally:
        _KEPT = outer


def load_base(name: str, source: Path | str, peft: Peft, loading: Loading, kind: Kind, head: bool) -> Any:
    """Return the transformers model, read from its files or copied from the one that is kept."""
    key = (str(source), str(_options(peft, loading)), loading.trust_remote_code, head)
    if _KEPT is not None and key in _KEPT:
        return copy.deepcopy(_KEPT[key])
    # weights that the files lack are drawn, always the same, and what is drawn later does not depend on it
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _read(name, source, peft, loading, kind, head)
    if _KEPT is not None and loading.quantization is None:
        _KEPT.clear()
        _KEPT[key] = copy.deepcopy(model)
    return model


def _read(name: str, source: Path | str, peft: Peft, loading: Loading, kind: Kind, head: bool) -> Any:
    """Return the transformers model; a seq2seq model without its head brings its encoder alone."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES
    from transformers.utils import logging

    trust = loading.trust_remote_code
    bar = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=trust)
        # some seq2seq families have their encoder as a model of its own; of the others the decoder is thrown away
        alone = kind == "seq2seq" and config.model_type in MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES
        if head:
            auto: Any = transformers.AutoModelForSeq2SeqLM if kind == "seq2seq" else transformers.AutoModelForCausalLM
        else:
            auto = transformers.AutoModelForTextEncoding if alone else transformers.AutoModel
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            model = auto.from_pretrained(
                source, config=config, use_safetensors=True, trust_remote_code=trust, **_options(peft, loading)
            )
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        raise InputError(f"backbone '{name}' cannot be loaded: {' '.join(str(error).split())[:300]}") from error
    finally:
        if bar:
            logging.enable_progress_bar()
    if kind == "seq2seq" and not head and not alone:
        model = model.get_encoder()
    if kind == "decoder":
        model.config.use_cache = False  # asked for where keys and values are read again
    if loading.quantization is not None:
        from peft import prepare_model_for_kbit_training

        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=loading.gradient_checkpointing)
    return model


def _options(peft: Peft, loading: Loading) -> dict[str, Any]:
    # what is trained stays in float32: small steps would be lost in bfloat16
    low = loading.dtype == "bfloat16" and peft.kind != "full"
    options: dict[str, Any] = {"dtype": torch.bfloat16 if low else torch.float32}
    if loading.attention != "auto":
        options["attn_implementation"] = loading.attention
    if loading.quantization is not None:
        from transformers import BitsAndBytesConfig

        four = loading.quantization == "4bit"
        options["quantization_config"] = (
            BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
            if four
            else BitsAndBytesConfig(load_in_8bit=True)
        )
    return options


def check_loading(name: str, peft: Peft, loading: Loading, kind: Kind, head: bool) -> None:
    """Refuse what cannot be loaded on this machine, or of this kind of backbone, before anything is loaded.

    Raises:
        InputError: the reason, in one line.
    """
    if head and kind == "encoder":
        raise InputError(f"backbone '{name}' is an encoder: this needs a decoder or an encoder-decoder")
    if peft.kind == "prefix" and kind != "decoder":
        # an encoder has no keys and values of an earlier text that a prefix could stand for
        raise InputError(f"peft.kind: prefix needs a decoder, and '{name}' is {_NAMES[kind]}; use prompt")
    wanted = loading.quantization
    if wanted is None:
        return
    if not torch.cuda.is_available():
        raise InputError(f"quantization: {wanted} needs a CUDA GPU, and this machine has none; leave it out here")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise missing_extra("bitsandbytes", "quantization")
    if peft.kind == "full":
        raise InputError(f"quantization: {wanted} weights cannot be trained; choose another peft.kind than full")
