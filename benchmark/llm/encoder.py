"""Encoder: token ids -> one vector a text, by any backbone without its language model head."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from benchmark.llm.adapters import Peft
from benchmark.llm.backbone import Backbone
from benchmark.llm.buckets import TOKENS_PER_PASS, in_order, length_buckets
from benchmark.llm.loading import Loading
from benchmark.llm.locate import DEFAULT_BACKBONE
from benchmark.llm.prompts import TokenBatch

Pooling = Literal["mean", "cls", "last"]


class Encoder(Backbone):
    """A backbone pooled to one vector a text; seq2seq models bring their encoder alone.

    Args:
        name, peft, loading, max_length, seed: see ``Backbone``.
        pooling: mean of the tokens, first (``cls``) or last token; None: as the folder of a sentence-transformers model
            says, else last for decoders and mean for others.
    """

    def __init__(
        self,
        name: str | Path = DEFAULT_BACKBONE,
        peft: Peft | None = None,
        loading: Loading | None = None,
        *,
        pooling: Pooling | None = None,
        **options: Any,
    ) -> None:
        super().__init__(name, peft, loading, **options)
        self.pooling: Pooling = pooling or _own_pooling(self.source) or ("last" if self.kind == "decoder" else "mean")

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Same as ``encode``."""
        return self.encode(input_ids, attention_mask)

    def encode(self, input_ids: Tensor, attention_mask: Tensor, vectors: tuple[Tensor, ...] = ()) -> Tensor:
        """Return one vector a text.

        Args:
            input_ids: (B, T) int64, padded on the right.
            attention_mask: (B, T), 1 at real tokens.
            vectors: see ``Backbone.embed``.

        Returns:
            (B, d) float32, not normalised.
        """
        with self.autocast(input_ids.device):
            virtual = self.virtual(len(input_ids))
            inputs: dict[str, Any] = {"input_ids": input_ids}
            mask = attention_mask
            if virtual is not None or vectors:
                embeds = self.embed(input_ids, vectors)
                if virtual is not None:
                    embeds = torch.cat([virtual.to(embeds.dtype), embeds], 1)
                    mask = torch.cat([mask.new_ones(virtual.shape[:2]), mask], 1)
                inputs = {"inputs_embeds": embeds}
            elif self.soft and self.peft.kind == "prefix":
                mask = torch.cat([mask.new_ones(len(mask), self.peft.virtual_tokens), mask], 1)
                inputs["past_key_values"] = self.model.get_prompt(len(mask))
            hidden = self.base(attention_mask=mask, **inputs).last_hidden_state
        # virtual tokens are read, and are no part of the text
        return pool(hidden[:, -input_ids.shape[1] :].float(), attention_mask, self.pooling)

    def encode_all(self, prompts: TokenBatch, tokens_per_pass: int = TOKENS_PER_PASS) -> Tensor:
        """Return (n, d) vectors of n token lists, in their order, by passes of like length.

        Gradients flow where they are switched on.
        """
        parts = length_buckets(prompts.lengths, tokens_per_batch=tokens_per_pass, seed=None)
        out = []
        for rows in parts:
            out.append(self.encode(*self.pad(prompts, rows)))
        return in_order(out, parts)


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
