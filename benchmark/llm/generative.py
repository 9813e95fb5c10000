"""Generative: the model writes the title of the next item; what it writes is grounded in the catalogue."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from benchmark.data.batch import Batch, BatchSpec
from benchmark.data.negatives import SamplingKind
from benchmark.data.schema import Catalogue
from benchmark.data.sequences import take
from benchmark.data.text import TokenTable, offsets_of
from benchmark.errors import InputError
from benchmark.llm.beam import NEVER, beam_search
from benchmark.llm.buckets import passes
from benchmark.llm.language_model import KEPT_COST, LanguageModel, State
from benchmark.llm.pieces import special_tokens
from benchmark.llm.prompted import PromptConfig, PromptRecommender
from benchmark.llm.prompts import TokenBatch
from benchmark.llm.templates import Way
from benchmark.llm.trie import Trie
from benchmark.recommender import ModelConfig


class GenerativeConfig(PromptConfig):
    eval_batch_size: int = Field(16, gt=0, description="Users of a scoring batch.")
    grounding: Literal["trie", "embedding"] = Field(
        "trie", description="trie: only titles of the catalogue can be written; embedding: free text, nearest items."
    )
    search: Literal["beam", "exact"] = Field(
        "beam", description="trie only: the best titles by beam search, or the probability of every candidate's title."
    )
    beams: int = Field(20, gt=0, description="Width of the beam search; so many items are ranked.")
    free_beams: int = Field(5, gt=0, description="Width of the search for free text.")
    length_penalty: float = Field(
        0.0,
        ge=0,
        description="Divides log P of a title by its tokens to this power; 0: the probability itself.",
    )
    free_tokens: int = Field(32, gt=1, description="Most tokens of a free title.")
    without_seen: bool = Field(True, description="Titles of items that the user is known to have are not written.")

    @model_validator(mode="after")
    def _fits(self) -> GenerativeConfig:
        if self.grounding == "embedding" and self.search == "exact":
            raise ValueError("search: exact scores titles of the catalogue; it needs grounding: trie")
        return self


class Generative(PromptRecommender):
    """Writes the next item's title, by a decoder or an encoder-decoder.

    Training: every interaction with what came before it; cross entropy on the tokens of the title and the closing
    token alone.

    ``grounding: trie``: a beam search along the tokens of the catalogue's titles (constrained decoding as in GENRE, De
    Cao et al., arXiv:2010.00904, and TIGER, Rajput et al., arXiv:2305.05065). The score of an item is log P of its
    title; what the search did not find stands below, all level. ``search: exact`` takes log P of every candidate's
    title instead, over the keys and values of one pass over the prompt.

    ``grounding: embedding``: a free beam search; every item is scored by the cosine of its title's vector (mean of the
    model's last hidden states) with those of the generations, weighed by their probability (BIGRec, Bao et al.,
    arXiv:2308.08434, takes the nearest to the first generation). ``valid@k`` is the share of the first k generations
    that are titles of the catalogue; along the trie it is 1.
    """

    Config = GenerativeConfig
    batch_kind = "pointwise"
    way: ClassVar[Way] = "generative"
    unseen = frozenset({"users", "items"})
    backbone: LanguageModel

    def __init__(self, config: GenerativeConfig, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        self.backbone = LanguageModel(config.backbone, config.used_peft(), config.loading())
        tokenizer = self.backbone.tokenizer
        if tokenizer.eos_token_id is None:
            raise InputError(f"backbone '{config.backbone}': its tokenizer has no closing token (eos_token)")
        self.end = int(tokenizer.eos_token_id)
        self.reader = self.make_reader()
        titles = self.reader.pieces.answers(self.reader.items)
        self.trie = Trie(titles, self.end)
        self.titles = _closed(titles, self.end)
        # the answer needs room behind the prompt
        self.reader.limit(self.backbone.max_length - int(self.titles.lengths.max()))
        self._vectors: Tensor | None = None

    @classmethod
    def samplings(cls, config: ModelConfig) -> frozenset[SamplingKind]:
        return frozenset({"uniform"})  # it draws none

    def batch_spec(self) -> BatchSpec:
        spec = super().batch_spec()
        if self.config.zero_shot:
            return spec
        return replace(spec, negatives=0, min_history=1, cost=self._cost)

    def _cost(self, batch: Batch) -> Tensor:
        assert batch.item is not None
        return self.read(batch).costs() + torch.from_numpy(self.titles.lengths)[batch.item]

    # --- training --------------------------------------------------------------------------------------------------

    def loss(self, batch: Batch) -> Tensor:
        assert batch.item is not None
        self._vectors = None
        prompts, answers = self.read(batch), self._answers(batch.item)
        parts = passes(prompts.lengths + answers.lengths)
        self.reader.count(prompts, parts)
        total = torch.zeros((), device=self.device)
        for rows in parts:
            ids, mask = self.backbone.pad(prompts, rows)
            answer, real = (t.to(self.device) for t in answers.pad(rows))
            logits = self.backbone.answer_logits(ids, mask, answer, real)[real > 0]
            total = total + F.cross_entropy(
                logits, answer[real > 0], label_smoothing=self.config.label_smoothing, reduction="sum"
            )
        return total / float(answers.lengths.sum())

    def _answers(self, items: Tensor) -> TokenBatch:
        table = self.titles.gather(items.cpu().numpy())
        return TokenBatch(table.tokens, table.offsets, np.zeros(len(table), np.int64), self.reader.pieces.pad_id)

    # --- scoring ---------------------------------------------------------------------------------------------------

    def score(self, batch: Batch) -> Tensor:
        self.trie.to(self.device)
        prompts = self.read(batch)
        out = []
        with torch.no_grad(), self.backbone.merged():
            size = max(1, self.config.tokens_per_pass // max(1, int(prompts.lengths.max())))
            for rows in np.split(np.arange(len(prompts)), range(size, len(prompts), size)):
                state = self.backbone.begin(*self.backbone.pad(prompts, rows))
                if self.config.search == "exact":
                    out.append(self._exact(state, batch, rows))
                elif self.config.grounding == "trie":
                    out.append(self._along_trie(state, batch, rows))
                else:
                    out.append(self._near(state))
        scores = torch.cat(out)
        if self.config.search == "exact" and batch.candidates is not None:
            return scores
        return self.pick(scores, batch)

    def _exact(self, state: State, batch: Batch, rows: np.ndarray) -> Tensor:
        """Return (R, C) log P of the titles of each row's candidates (the catalogue by default)."""
        every = torch.arange(self.n_items, device=self.device).expand(len(rows), -1)
        items = every if batch.candidates is None else batch.candidates[torch.from_numpy(rows).to(self.device)]
        flat = items.reshape(-1)
        row = torch.arange(len(rows), device=self.device).repeat_interleave(items.shape[1])
        answers = self._answers(flat)
        out = torch.empty(len(flat), device=self.device)
        length = answers.lengths + KEPT_COST * int(state.mask.shape[1])
        for part in self.scoring_passes(length):
            at = torch.from_numpy(part).to(self.device)
            answer, real = (t.to(self.device) for t in answers.pad(part))
            log_p = self.backbone.log_probs_after(state.take(row[at]), answer, real).sum(1)
            out[at] = log_p / real.sum(1) ** self.config.length_penalty
        return out.view(items.shape)

    def _along_trie(self, state: State, batch: Batch, rows: np.ndarray) -> Tensor:
        """Return (R, n_items): log P of the titles that the search found; one below the lowest for all others."""
        allowed = None
        if self.config.without_seen and batch.seen is not None:
            allowed = self.trie.open_nodes(take(batch.seen, torch.from_numpy(rows)), len(rows))
        width = min(self.config.beams, self.n_items)
        beams = beam_search(self.backbone, state, width, self.trie.depth, self.end, self.trie, allowed)
        found = beams.log_prob > NEVER
        length = (beams.tokens >= 0).sum(2).clamp(min=1)
        score = beams.log_prob / length**self.config.length_penalty
        lowest = torch.where(found, score, float("inf")).min(1).values
        floor = torch.where(lowest.isfinite(), lowest, 0.0) - 1
        out = floor.unsqueeze(1).repeat(1, self.n_items)
        row, column = found.nonzero(as_tuple=True)
        which, item = self.trie.items_of(beams.node[row, column])
        out[row[which], item] = score[row[which], column[which]]
        if batch.seen is not None and self.config.without_seen:
            # an item of the same title as one that the user has is found with it
            seen = take(batch.seen, torch.from_numpy(rows))
            out[seen.row, seen.values] = floor[seen.row]
        self.note_generations(found)
        return out

    def _near(self, state: State) -> Tensor:
        """Return (R, n_items): cosine of each title with what was generated, weighed by its probability."""
        config = self.config
        width, steps = config.free_beams, config.free_tokens
        beams = beam_search(self.backbone, state, width, steps, self.end, follow=self.trie)
        n = len(beams.tokens)
        last = beams.node.clamp(min=0)
        closed = (beams.tokens == self.end).any(2)
        self.note_generations((beams.node >= 0) & self.trie.is_leaf[last] & closed)
        text = beams.tokens.masked_fill(beams.tokens == self.end, -1).view(n * width, steps)
        # an answer that ends at once is empty: the closing token stands for it
        text[:, 0] = torch.where(text[:, 0] < 0, self.end, text[:, 0])
        vectors = self._embed(text.clamp(min=0), (text >= 0).long()).view(n, width, -1)
        weight = torch.softmax(beams.log_prob, dim=1).unsqueeze(2)
        return (weight * vectors).sum(1) @ self._title_vectors().T

    def _embed(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return (m, d) normalised vectors of texts padded on the right, read by themselves after the opening token."""
        bos, _ = special_tokens(self.backbone.tokenizer)
        if bos and self.backbone.kind == "decoder":
            ids = torch.cat([ids.new_tensor(bos).expand(len(ids), -1), ids], 1)
            mask = torch.cat([mask.new_ones(len(mask), len(bos)), mask], 1)
        hidden = self.backbone.hidden_states(ids, mask)
        weight = mask.unsqueeze(2).to(hidden.dtype)
        return F.normalize((hidden * weight).sum(1) / weight.sum(1), dim=-1)

    def _title_vectors(self) -> Tensor:
        """Return (n_items, d), computed once until the next training step."""
        if self._vectors is None:
            bare = TokenBatch(
                *_without_end(self.titles), np.zeros(len(self.titles), np.int64), self.reader.pieces.pad_id
            )
            vectors = torch.empty(self.n_items, self.backbone.hidden_size, device=self.device)
            for rows in self.scoring_passes(bare.lengths):
                ids, mask = (t.to(self.device) for t in bare.pad(rows))
                vectors[torch.from_numpy(rows).to(self.device)] = self._embed(ids, mask)
            self._vectors = vectors
        return self._vectors

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        self._vectors = None
        return super().load_state_dict(state_dict, strict, assign)


def _closed(titles: TokenTable, end: int) -> TokenTable:
    """Return the titles' tokens with the closing token behind each."""
    return TokenTable(
        np.insert(titles.tokens, titles.offsets[1:], end).astype(np.int32), offsets_of(titles.lengths + 1)
    )


def _without_end(titles: TokenTable) -> tuple[np.ndarray, np.ndarray]:
    keep = np.ones(len(titles.tokens), bool)
    keep[titles.offsets[1:] - 1] = False
    return titles.tokens[keep], offsets_of(titles.lengths - 1)
