"""Backbone: a pretrained Hugging Face model with its tokenizer and its adapter; what encoders and decoders share."""

from __future__ import annotations

import copy
import importlib.util
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from benchmark.errors import InputError, missing_extra
from benchmark.llm import adapters, precision
from benchmark.llm.adapters import AdapterDropout, Peft
from benchmark.llm.locate import DEFAULT_BACKBONE, resolve
from benchmark.llm.precision import DType
from benchmark.llm.prompts import TokenBatch

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


class Backbone(nn.Module):
    """A pretrained language model with an adapter; ``Encoder`` and ``LanguageModel`` read texts with it.

    Weights are read from safetensors only. While an adapter is trained, the frozen model runs without its own dropout,
    whose masks are expensive on a CPU (decoders have none anyway); ``peft.dropout`` remains, and ``full`` fine-tuning
    keeps the model's own.

    Args:
        name: hub name or local folder, see ``resolve``.
        peft: how it is fine-tuned.
        loading: how it is brought into memory.
        max_length: most tokens of a text; None: as many as the model takes (512 where it does not say).
        seed: of the adapter's first weights; None: torch's global generator.

    Attributes:
        tokenizer: with a pad token.
        kind: encoder, decoder or seq2seq, by the model's architecture.
        hidden_size: d of the vectors.
        max_length: most tokens of a text.
        model: the transformers model, or the PeftModel around it.
        base: the transformers model itself, with an adapter's layers in it.

    Raises:
        InputError: the model cannot be found or loaded, an unknown target module, or a kind of PEFT it does not take.
    """

    base: Any
    head: ClassVar[bool] = False  # load the model with its language model head

    def __init__(
        self,
        name: str | Path = DEFAULT_BACKBONE,
        peft: Peft | None = None,
        loading: Loading | None = None,
        *,
        max_length: int | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self.name = str(name)
        self.peft = Peft() if peft is None else peft
        self.loading = Loading() if loading is None else loading
        self.source = resolve(name)
        self.kind = kind_of(name, self.loading.trust_remote_code)
        check_loading(self.name, self.peft, self.loading, self.kind, self.head)
        self.tokenizer = load_tokenizer(self.name, self.loading.trust_remote_code)
        base = _load(self.name, self.source, self.peft, self.loading, self.kind, self.head)
        # PEFT writes this name into adapter folders, which travel: no path of this machine where a hub name will do
        base.name_or_path = base.config._name_or_path = self.name
        config = base.config.get_text_config()
        self.hidden_size = int(config.hidden_size)
        virtual = self.peft.virtual_tokens if self.peft.soft else 0
        longest = min(_model_length(config), int(self.tokenizer.model_max_length)) - virtual
        if max_length is not None and max_length > longest:
            raise InputError(f"backbone '{self.name}': max_length {max_length} is over the model's {longest}")
        self.max_length = max_length or longest
        self._merged = False
        self._as_pretrained = False
        self._loaded_as = self.peft
        with torch.random.fork_rng(enabled=seed is not None):
            if seed is not None:
                torch.manual_seed(seed)
            self.model = adapters.adapted(base, self.peft, self._task())
        self.__dict__["base"] = base  # not a second submodule: its weights would stand twice in a checkpoint
        if self.peft.adapter is not None:
            adapters.load(self.model, self.peft, self.peft.adapter)
        if self.loading.gradient_checkpointing:
            base.gradient_checkpointing_enable({"use_reentrant": False})
        self.train()

    def _task(self) -> str:
        """Return the name of PEFT's task type, by which it chooses the class around the model."""
        if not self.head:
            return "FEATURE_EXTRACTION"
        return "SEQ_2_SEQ_LM" if self.kind == "seq2seq" else "CAUSAL_LM"

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def train(self, mode: bool = True) -> Backbone:
        super().train(mode)
        if mode and self.peft.kind != "full" and not self.loading.frozen_dropout:
            self.model.eval()
            for module in self.model.modules():
                # checkpointing layers look at their own flag alone; it does not reach the dropout inside of them
                if isinstance(module, AdapterDropout) or getattr(module, "gradient_checkpointing", False):
                    module.training = True
        return self

    def autocast(self, device: torch.device | str) -> AbstractContextManager[Any]:
        """Return the context to compute in, see ``precision.autocast``."""
        return precision.autocast(self.loading.dtype, device, self.hidden_size)

    def n_trainable(self) -> int:
        """Return the number of parameters that are trained."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def pad(self, prompts: TokenBatch, rows: np.ndarray | None = None) -> tuple[Tensor, Tensor]:
        """Return ids and mask (R, T) of prompts on this model's device: padded on the side that it reads them from."""
        ids, mask = prompts.pad(rows, left=self.head and self.kind == "decoder")
        return ids.to(self.device), mask.to(self.device)

    @property
    def n_tokens(self) -> int:
        """Rows of the embedding table; ids from here on stand for the vectors that ``embed`` is given."""
        return int(self.base.get_input_embeddings().num_embeddings)

    def embed(self, ids: Tensor, vectors: Sequence[Tensor] = ()) -> Tensor:
        """Return (B, T, d) input embeddings of ids (B, T); id ``n_tokens + j`` is row b of ``vectors[j]`` (B, d)."""
        table = self.base.get_input_embeddings()
        n = table.num_embeddings
        out = table(ids.clamp(max=n - 1))
        for j, values in enumerate(vectors):
            out = torch.where((ids == n + j).unsqueeze(-1), values.unsqueeze(1).to(out.dtype), out)
        return out

    @property
    def soft(self) -> bool:
        """Whether virtual tokens are read before a text."""
        return self.peft.soft and not self._as_pretrained

    def virtual(self, n: int) -> Tensor | None:
        """Return the (n, v, d) trained virtual tokens of prompt and P-tuning, None for other kinds."""
        if self.peft.kind not in ("prompt", "ptuning") or not self.soft:
            return None
        return self.model.get_prompt(n)[:, : self.peft.virtual_tokens]

    # --- what a training loop has to tell some adapters ------------------------------------------------------------

    def set_steps(self, steps: int) -> None:
        """Tell the adapter how many optimizer steps the training has (AdaLoRA's schedule)."""
        if self.peft.kind == "adalora":
            adapters.set_steps(self.model, steps)

    def after_step(self, step: int) -> None:
        """To be called after each optimizer step, before gradients are cleared (AdaLoRA lowers its ranks)."""
        if self.peft.kind == "adalora":
            adapters.step_ranks(self.model, step)

    def regularization(self) -> Tensor | float:
        """Return what the adapter adds to the loss (AdaLoRA's orthogonality)."""
        return adapters.orthogonality(self.model) if self.peft.kind == "adalora" else 0.0

    def report(self) -> dict[str, float]:
        """Return numbers about the trained adapter for the record."""
        return {"adalora_mean_rank": adapters.mean_rank(self.model)} if self.peft.kind == "adalora" else {}

    # --- the pretrained model ---------------------------------------------------------------------------------------

    def reference(self) -> Any:
        """Return the pretrained transformers model, loaded anew: frozen, in eval mode, on this model's device."""
        model = _load(self.name, self.source, self._loaded_as, self.loading, self.kind, self.head)
        return model.requires_grad_(False).eval().to(self.device)

    def keep_reference(self, keep: bool) -> None:
        """Hold the pretrained model beside a ``full`` fine-tuned one, so that ``pretrained`` need not load it again."""
        # not a submodule: its weights are not this model's own
        self.__dict__["_reference"] = self.reference() if keep and self.peft.kind == "full" else None

    @contextmanager
    def pretrained(self) -> Iterator[Backbone]:
        """Read inside as the pretrained model does: adapter off, no virtual tokens; nothing is trained inside.

        A ``full`` fine-tuned backbone has lost its first weights: they are loaded again for the block, or kept
        (``keep_reference``). What was begun inside (``LanguageModel.begin``) must be read on inside.

        Raises:
            RuntimeError: inside of ``merged``, where the first weights are not at hand.
        """
        if self._merged:
            raise RuntimeError("pretrained() inside of merged(): the adapter is part of the weights there")
        layers, tuned = adapters.tuner_layers(self.model), self.base
        if self.peft.kind == "full":
            self.__dict__["base"] = self.__dict__.get("_reference") or self.reference()
        self._as_pretrained = True
        for layer in layers:
            # PEFT's own switch, enable_adapters, also changes what is trained
            layer._disable_adapters = True
        try:
            yield self
        finally:
            for layer in layers:
                layer._disable_adapters = False
            self._as_pretrained = False
            self.__dict__["base"] = tuned

    # --- merging, saving, loading ----------------------------------------------------------------------------------

    def save_adapter(self, folder: Path | str) -> None:
        """Write what was trained, as safetensors: a PEFT folder, the whole model (full), nothing (frozen).

        ``peft.PeftModel.from_pretrained(base, folder)`` loads a PEFT folder.
        """
        adapters.save(self.model, self.peft, folder)

    def load_adapter(self, folder: Path | str) -> None:
        """Read what ``save_adapter`` wrote into this backbone.

        Raises:
            InputError: the folder has no such file, or one of another architecture, rank or kind.
        """
        adapters.load(self.model, self.peft, folder)

    def merge_for_good(self) -> None:
        """Put the adapter into the weights and away; virtual tokens stay, since there are no weights to put them in."""
        if self.peft.soft:
            return
        self.model = adapters.merged_for_good(self.model)
        self.__dict__["base"] = self.model
        # a model with weights of its own: what it was is read from the files, see ``pretrained``
        self.peft = Peft(kind="full")

    @contextmanager
    def merged(self) -> Iterator[Backbone]:
        """Score inside with the adapter merged into the weights; outside the weights are the same bits as before.

        Inside another ``merged`` block, or without an adapter in the layers, it changes nothing.
        """
        if self._merged:
            yield self
            return
        self._merged = True
        try:
            with adapters.merged(self.model):
                yield self
        finally:
            self._merged = False


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


def _load(name: str, source: Path | str, peft: Peft, loading: Loading, kind: Kind, head: bool) -> Any:
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


def _model_length(config: Any) -> int:
    """Return the number of positions the model was trained for."""
    positions = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 512
    # the RoBERTa family counts positions from pad_token_id + 1
    offset = config.pad_token_id + 1 if config.model_type in ("roberta", "xlm-roberta", "camembert") else 0
    return int(positions) - offset
