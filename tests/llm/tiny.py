"""A tiny random BERT as a local folder, for tests in which weights do not matter."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path


@functools.cache
def tiny_bert() -> str:
    """Return the folder of a 2-layer BERT with MiniLM's tokenizer and seeded random weights."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    from benchmark.llm.backbone import DEFAULT_BACKBONE, resolve

    folder = Path(tempfile.mkdtemp(prefix="tiny-bert-"))
    tokenizer = AutoTokenizer.from_pretrained(resolve(DEFAULT_BACKBONE))
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
