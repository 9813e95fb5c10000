"""LanguageModel: a decoder or encoder-decoder with its head; what it says next after a prompt, read once and kept."""

from __future__ import annotations

import copy
import inspect
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.llm.backbone import Backbone

Vectors = tuple[Tensor, ...]
# a key that is copied for a row weighs as so many tokens in the size of a pass: on a CPU, passes that stay in its cache
# are a quarter faster (100 candidates of 12 tokens behind 200: 0.78 s by tens, 1.04 s at once)
KEPT_COST = 4


@dataclass
class State:
    """What a language model keeps of B texts that it has read, in order to read on.

    Attributes:
        logits: (B, V) float32 of the next token.
        mask: (B, P), 1 at the real tokens of what was read (seq2seq: of the prompt).
        length: (B,) int64, number of real tokens that were read; the position of the next one.
        cache: keys and values of a decoder.
        memory: (B, P, d) what the encoder of a seq2seq model made of the prompt.
        said: (B, S) int64, tokens its decoder was given so far.
    """

    logits: Tensor
    mask: Tensor
    length: Tensor
    cache: Any = None
    memory: Tensor | None = None
    said: Tensor | None = None

    def take(self, rows: Tensor) -> State:
        """Return the state of ``rows`` (R,), in that order; a row may be taken many times."""
        cache = self.cache
        if cache is not None:
            cache = copy.copy(cache)
            cache.layers = [copy.copy(layer) for layer in cache.layers]
            cache.batch_select_indices(rows)

        def of(value: Tensor | None) -> Tensor | None:
            return None if value is None else value[rows]

        return State(self.logits[rows], self.mask[rows], self.length[rows], cache, of(self.memory), of(self.said))


class LanguageModel(Backbone):
    """A backbone with its language model head.

    Prompts of decoders are padded on the left: the end of each stands in the last column, and logits are computed for
    the last columns alone. Padding between real tokens is masked, and positions count real tokens only. Prompts of
    encoder-decoders are padded on the right.
    """

    head = True

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        known = inspect.signature(self.base.forward).parameters
        self._takes_positions = "position_ids" in known
        self._takes_keep = "logits_to_keep" in known
        self._start = 0
        if self.kind == "seq2seq":
            config = self.base.config
            start = getattr(config, "decoder_start_token_id", None)
            self._start = int(config.pad_token_id if start is None else start)

    # --- one prompt, one answer ------------------------------------------------------------------------------------

    def next_logits(self, ids: Tensor, mask: Tensor, vectors: Vectors = ()) -> Tensor:
        """Return (B, V) float32 logits of the token after each prompt; ids (B, T), see ``pad``."""
        with self.autocast(ids.device):
            if self.kind == "seq2seq":
                return self._say(self._begin(ids), *self._read(ids, mask, vectors)).logits[:, -1].float()
            return self._decode(ids, mask, vectors=vectors).logits[:, -1].float()

    def last_hidden(self, ids: Tensor, mask: Tensor, vectors: Vectors = ()) -> Tensor:
        """Return (B, d) float32: what the decoder has in mind at the end of each prompt."""
        with self.autocast(ids.device):
            if self.kind == "seq2seq":
                out = self._say(self._begin(ids), *self._read(ids, mask, vectors), hidden=True)
                return out.decoder_hidden_states[-1][:, -1].float()
            return self._decode(ids, mask, vectors=vectors, hidden=True).hidden_states[-1][:, -1].float()

    def log_probs(
        self, ids: Tensor, mask: Tensor, answer: Tensor, answer_mask: Tensor, vectors: Vectors = ()
    ) -> Tensor:
        """Return (B, A) log P of each token of an answer, given the prompt and the tokens before it; 0 at padding.

        Args:
            ids, mask: (B, T) prompts, see ``pad``.
            answer, answer_mask: (B, A) answers, padded on the right.
            vectors: see ``Backbone.embed``.
        """
        return _token_log_probs(self.answer_logits(ids, mask, answer, answer_mask, vectors), answer) * answer_mask

    def answer_logits(
        self, ids: Tensor, mask: Tensor, answer: Tensor, answer_mask: Tensor, vectors: Vectors = ()
    ) -> Tensor:
        """Return (B, A, V) float32 logits of each token of an answer; arguments as for ``log_probs``."""
        with self.autocast(ids.device):
            if self.kind == "seq2seq":
                given = torch.cat([self._begin(ids), answer[:, :-1]], 1)
                return self._say(given, *self._read(ids, mask, vectors)).logits.float()
            whole, seen = torch.cat([ids, answer], 1), torch.cat([mask, answer_mask], 1)
            keep = answer.shape[1] + 1
            return self._decode(whole, seen, vectors=vectors, keep=keep).logits[:, -keep:-1].float()

    def hidden_states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return (B, T, d) float32: the last hidden states of texts (of a seq2seq model's encoder)."""
        with self.autocast(ids.device):
            if self.kind == "seq2seq":
                return self._read(ids, mask, ())[0][:, -ids.shape[1] :].float()
            return self._decode(ids, mask, hidden=True).hidden_states[-1][:, -ids.shape[1] :].float()

    # --- one prompt, many answers ----------------------------------------------------------------------------------

    def begin(self, ids: Tensor, mask: Tensor, vectors: Vectors = ()) -> State:
        """Read B prompts (B, T), see ``pad``, and keep what is needed to read on."""
        with self.autocast(ids.device):
            length = mask.sum(1)
            if self.kind == "seq2seq":
                said = self._begin(ids)
                memory, mask = self._read(ids, mask, vectors)
                logits = self._say(said, memory, mask).logits[:, -1].float()
                return State(logits, mask, length, memory=memory, said=said)
            out = self._decode(ids, mask, vectors=vectors, cache=True)
        return State(out.logits[:, -1].float(), self._with_virtual(mask), length, out.past_key_values)

    def read_on(
        self, state: State, ids: Tensor, mask: Tensor, keep: int = 1, vectors: Vectors = ()
    ) -> tuple[Tensor, State]:
        """Read more tokens after a state.

        Args:
            state: is used up; take rows of it first to use it again.
            ids, mask: (B, T) tokens; for decoders padding may stand anywhere, for seq2seq models on the right.
            keep: so many last columns whose logits are wanted.
            vectors: see ``Backbone.embed``.

        Returns:
            (B, keep, V) float32 logits after the last ``keep`` columns, and the new state (whose logits are those
            of the last column).
        """
        with self.autocast(ids.device):
            if self.kind == "seq2seq":
                assert state.said is not None
                assert state.memory is not None
                said = torch.cat([state.said, ids], 1)
                logits = self._say(said, state.memory, state.mask).logits[:, -keep:].float()
                length = state.length + mask.sum(1)
                return logits, State(logits[:, -1], state.mask, length, memory=state.memory, said=said)
            seen = torch.cat([state.mask, mask], 1)
            positions = state.length.unsqueeze(1) + mask.cumsum(1) - 1
            out = self._decode(
                ids, seen, positions.clamp(min=0), past=state.cache, vectors=vectors, keep=keep, cache=True
            )
        logits = out.logits[:, -keep:].float()
        return logits, State(logits[:, -1], seen, state.length + mask.sum(1), out.past_key_values)

    def log_probs_after(self, state: State, answer: Tensor, answer_mask: Tensor) -> Tensor:
        """Return (B, A) log P of each token of an answer, padded on the right, after a state, which is used up."""
        first = state.logits.unsqueeze(1)
        if answer.shape[1] > 1:
            rest, _ = self.read_on(state, answer[:, :-1], answer_mask[:, :-1], keep=answer.shape[1] - 1)
            first = torch.cat([first, rest], 1)
        return _token_log_probs(first, answer) * answer_mask

    # --- the model itself ------------------------------------------------------------------------------------------

    def _begin(self, ids: Tensor) -> Tensor:
        """Return (B, 1): the token a seq2seq model's decoder begins with."""
        return ids.new_full((len(ids), 1), self._start)

    def _with_virtual(self, mask: Tensor) -> Tensor:
        """Return the mask of virtual tokens and text."""
        return torch.cat([mask.new_ones(len(mask), self.peft.virtual_tokens), mask], 1) if self.soft else mask

    def _decode(
        self,
        ids: Tensor,
        mask: Tensor,
        positions: Tensor | None = None,
        past: Any = None,
        vectors: Vectors = (),
        keep: int = 1,
        cache: bool = False,
        hidden: bool = False,
    ) -> Any:
        """Run the decoder over ids (B, T); ``mask`` covers what ``past`` holds and ids.

        Virtual tokens stand before a text, wherever the text begins: PEFT's own forward gives positions to the padding
        in between, so that a text's scores would depend on the others of its batch.
        """
        if positions is None:
            positions = (mask.cumsum(1) - 1).clamp(min=0)
        inputs: dict[str, Any] = {"input_ids": ids}
        if past is None and self.soft:
            positions = positions + self.peft.virtual_tokens
            mask = self._with_virtual(mask)
        elif past is not None and self.soft:
            positions = positions + self.peft.virtual_tokens
        if past is None and self.soft and self.peft.kind == "prefix":
            past = self.model.get_prompt(len(ids))
        virtual = self.virtual(len(ids)) if past is None else None
        if virtual is not None or vectors:
            embeds = self.embed(ids, vectors)
            if virtual is not None:
                embeds = torch.cat([virtual.to(embeds.dtype), embeds], 1)
                first = torch.arange(virtual.shape[1], device=ids.device).expand(len(ids), -1)
                positions = torch.cat([first, positions], 1)
            inputs = {"inputs_embeds": embeds}
        if self._takes_positions:
            inputs["position_ids"] = positions
        if self._takes_keep:
            inputs["logits_to_keep"] = keep
        return self.base(
            attention_mask=mask, past_key_values=past, use_cache=cache, output_hidden_states=hidden, **inputs
        )

    def _read(self, ids: Tensor, mask: Tensor, vectors: Vectors) -> tuple[Tensor, Tensor]:
        """Return (B, P, d), what a seq2seq model's encoder makes of prompts padded on the right, and its mask."""
        inputs: dict[str, Any] = {"input_ids": ids}
        virtual = self.virtual(len(ids))
        if virtual is not None or vectors:
            embeds = self.embed(ids, vectors)
            if virtual is not None:
                embeds, mask = torch.cat([virtual.to(embeds.dtype), embeds], 1), self._with_virtual(mask)
            inputs = {"inputs_embeds": embeds}
        return self.base.get_encoder()(attention_mask=mask, **inputs).last_hidden_state, mask

    def _say(self, said: Tensor, memory: Tensor, mask: Tensor, hidden: bool = False) -> Any:
        """Run a seq2seq model's decoder over what it has said (B, S), given what its encoder read."""
        from transformers.modeling_outputs import BaseModelOutput

        return self.base(
            encoder_outputs=BaseModelOutput(last_hidden_state=memory),
            attention_mask=mask,
            decoder_input_ids=said,
            use_cache=False,
            output_hidden_states=hidden,
        )


def _token_log_probs(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return (B, A) log softmax of logits (B, A, V) at tokens (B, A)."""
    return -F.cross_entropy(logits.transpose(1, 2), tokens, reduction="none")
