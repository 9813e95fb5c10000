"""Backbone: a pretrained Hugging Face model with its tokenizer and its adapter; what encoders and decoders share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.errors import InputError
from benchmark.llm import adapters, precision
from benchmark.llm.adapters import AdapterDropout, Peft
from benchmark.llm.loading import Loading, check_loading, kind_of, load_base, load_tokenizer
from benchmark.llm.locate import DEFAULT_BACKBONE, resolve
from benchmark.llm.prompts import TokenBatch


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
        base = load_base(self.name, self.source, self.peft, self.loading, self.kind, self.head)
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
        """Return numbers about the trained adapter for the record, and in how many bits it computed: that is measured,
        and another machine may choose otherwise.
        """
        bits = torch.finfo(precision.chosen(self.loading.dtype, self.device, self.hidden_size)).bits
        rank = {"adalora_mean_rank": adapters.mean_rank(self.model)} if self.peft.kind == "adalora" else {}
        return {"compute_bits": float(bits), **rank}

    # --- the pretrained model ---------------------------------------------------------------------------------------

    def reference(self) -> Any:
        """Return the pretrained transformers model, loaded anew: frozen, in eval mode, on this model's device."""
        model = load_base(self.name, self.source, self._loaded_as, self.loading, self.kind, self.head)
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


def _model_length(config: Any) -> int:
    """Return the number of positions the model was trained for."""
    positions = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 512
    # the RoBERTa family counts positions from pad_token_id + 1
    offset = config.pad_token_id + 1 if config.model_type in ("roberta", "xlm-roberta", "camembert") else 0
    return int(positions) - offset
