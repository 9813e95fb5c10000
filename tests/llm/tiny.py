"""Tiny random models of every family as local folders, for tests in which weights do not matter."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

from tests.planted import WORDS

CHAT = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# words that prompts are made of, so that they are single tokens; the letters A to Z too
_CORPUS = [
    "User: unknown. Liked: nothing. Disliked: nothing. History: nothing. Options:",
    "Will the user like The and the? Answer Yes or No: Yes No",
    "Which option will the user choose next? Answer with its letter: The next title is: 20 years old",
    "用户：未知。喜欢：无。不喜欢：无。该用户会喜欢吗？请回答是或否：",
    *[f"The {word} and the {word}" for words in WORDS for word in words.split()],
]


@functools.cache
def tokenizer(chat: bool = False) -> Any:
    """Return a byte-level BPE tokenizer with <s>, </s>, <unk> and <pad>, which puts <s> before a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "</s>", "<unk>", "<|user|>", "<|system|>", "<|assistant|>"]
    inner = Tokenizer(models.BPE(unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    letters = [f" {chr(65 + i)} {chr(65 + i)}." for i in range(26)]
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator([*_CORPUS, *letters, "Yes", "No", "是", "否"] * 20, trainer)
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    if chat:
        fast.chat_template = CHAT
    return fast


@functools.cache
def tiny(family: str, chat: bool = False) -> str:
    """Return the folder of a 2-layer model of a family (llama, qwen2, gpt2, t5, bart, bert) with seeded weights."""
    import torch
    import transformers as t

    text = tokenizer(chat)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    common = {"vocab_size": len(text), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    decoder = {**common, **sizes, "num_key_value_heads": 2, "max_position_embeddings": 512}
    t5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
    bart = {
        "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 512,
        "decoder_start_token_id": 2, "dropout": 0.0,
    }  # fmt: skip
    gpt2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}
    make = {
        "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**decoder)),
        "qwen2": lambda: t.Qwen2ForCausalLM(t.Qwen2Config(**decoder)),
        "gpt2": lambda: t.GPT2LMHeadModel(t.GPT2Config(**common, **gpt2)),
        "t5": lambda: t.T5ForConditionalGeneration(t.T5Config(**common, **t5, dropout_rate=0.0)),
        "bart": lambda: t.BartForConditionalGeneration(t.BartConfig(**common, **bart)),
        "bert": lambda: t.BertModel(t.BertConfig(**common, **sizes, max_position_embeddings=512)),
    }
    folder = Path(tempfile.mkdtemp(prefix=f"tiny-{family}-"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        make[family]().save_pretrained(folder)
    text.save_pretrained(folder)
    return str(folder)


@functools.cache
def tiny_bert() -> str:
    """Return the folder of a 2-layer BERT with MiniLM's tokenizer and seeded random weights."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    from benchmark.llm.locate import DEFAULT_BACKBONE, resolve

    folder = Path(tempfile.mkdtemp(prefix="tiny-bert-"))
    text = AutoTokenizer.from_pretrained(resolve(DEFAULT_BACKBONE))
    config = BertConfig(
        vocab_size=len(text),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        pad_token_id=text.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    text.save_pretrained(folder)
    return str(folder)
