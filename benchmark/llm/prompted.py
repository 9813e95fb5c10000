"""What the ways that ask in prompts share: the prompt's settings, the reader of batches, examples for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from pydantic import Field
from torch import Tensor

from benchmark.data.batch import Batch, BatchSpec
from benchmark.data.schema import Catalogue
from benchmark.llm.buckets import TOKENS_PER_PASS, length_buckets
from benchmark.llm.loading import Kind, check_loading, kind_of, load_tokenizer
from benchmark.llm.prompts import TokenBatch
from benchmark.llm.reader import Reader
from benchmark.llm.templates import Prompt, Template, Way
from benchmark.llm.training import LanguageRecommender, LLMConfig


class PromptConfig(LLMConfig):
    prompt: Prompt = Field(default_factory=Prompt, description="Template with named slots.")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share of an answer that goes to the other ones.")
    tokens_per_pass: int = Field(TOKENS_PER_PASS, gt=0, description="Tokens scored at once; bounds the memory.")

    @property
    def longest_history(self) -> int:
        """Items of a history that are read: those that are listed, or those that a taste is counted over."""
        return max(self.max_history, self.prompt.taste.history if self.prompt.taste else 0)


class PromptRecommender(LanguageRecommender):
    """Base of the ways that ask in prompts.

    Subclasses set:
        way: which shipped template they use, and which slots theirs may have.

    Attributes:
        reader: makes token lists of batches.
    """

    way: ClassVar[Way]
    reader: Reader

    @classmethod
    def needs_head(cls, config: Any, kind: Kind) -> bool:
        """Return whether the backbone's language model head answers."""
        return True

    @classmethod
    def keeps_head(cls, kind: Kind) -> bool:
        return kind != "encoder"

    @classmethod
    def answer_words(cls, config: Any, catalogue: Catalogue, template: Template) -> Sequence[str]:
        """Return the words that the model chooses from with one token; none where it writes, or has a head."""
        return ()

    @classmethod
    def shown(cls, config: Any, catalogue: Catalogue, batch: Batch) -> dict[str, Tensor]:
        """Return what examples of prompts hold beside the history, as arguments of ``Reader.read``."""
        return {}

    @classmethod
    def check(cls, config: Any, catalogue: Catalogue) -> None:
        kind = kind_of(config.backbone, config.trust_remote_code)
        cls.check_language(config, kind)
        check_loading(config.backbone, config.used_peft(), config.loading(), kind, cls.needs_head(config, kind))
        cls._reader(config, catalogue, load_tokenizer(config.backbone, config.trust_remote_code), kind)

    @classmethod
    def examples(cls, config: Any, catalogue: Catalogue, batch: Batch, n: int) -> list[tuple[str, int, int]]:
        kind = kind_of(config.backbone, config.trust_remote_code)
        reader = cls._reader(config, catalogue, load_tokenizer(config.backbone, config.trust_remote_code), kind)
        return reader.show(batch, n, **cls.shown(config, catalogue, batch))

    def make_reader(self, template: Template | None = None, answer_length: int = 0) -> Reader:
        """Return the reader of this model's prompts, which leaves ``answer_length`` tokens of the window free."""
        model = self.backbone
        room = model.max_length - answer_length
        known = self.config, self.catalogue, model.tokenizer, model.kind, model.n_tokens, room, template
        reader = self._reader(*known)
        self.reads_queries = bool(reader.profiles)
        return reader

    @classmethod
    def _reader(
        cls,
        config: Any,
        catalogue: Catalogue,
        tokenizer: Any,
        kind: Kind,
        n_tokens: int | None = None,
        room: int | None = None,
        template: Template | None = None,
    ) -> Reader:
        template = template or config.prompt.filled(cls.way)
        return Reader(
            template,
            tokenizer,
            catalogue,
            config.max_length if room is None else min(config.max_length, room),
            config.item_fields,
            n_tokens=n_tokens,
            answer_follows=kind == "decoder",
            max_history=config.max_history,
            answers=cls.answer_words(config, catalogue, template) if cls.needs_head(config, kind) else (),
        )

    def batch_spec(self) -> BatchSpec:
        spec = super().batch_spec()
        return replace(spec, max_history=max(spec.max_history, self.config.longest_history))

    def read(self, batch: Batch, **options: Any) -> TokenBatch:
        """Return the prompts of a batch, see ``Reader.read``; it may hold longer histories, for the model's stages."""
        return self.reader.read(batch, **options)

    def scoring_passes(self, lengths: np.ndarray) -> list[np.ndarray]:
        """Return the rows of passes of like length that hold as many tokens as are scored at once."""
        return length_buckets(lengths, tokens_per_batch=self.config.tokens_per_pass, seed=None)

    def report(self) -> dict[str, float]:
        return {**super().report(), **self.reader.report()}
