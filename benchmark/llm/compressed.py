"""Compressed: a trained row in fewer bits or with fewer layers, with nothing trained anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from benchmark.data.batch import Batch
from benchmark.data.task import Task
from benchmark.derived import Derived, DerivedConfig
from benchmark.errors import InputError
from benchmark.llm.backbone import Backbone
from benchmark.llm.int8 import replace_layers
from benchmark.llm.training import LanguageRecommender
from benchmark.recommender import Below, ModelConfig, Recommender

HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class CompressedConfig(DerivedConfig):
    kind: Literal["int8", "bfloat16", "float16", "drop_layers"] = Field(
        "int8", description="int8 (linear layers and token vectors), bfloat16, float16 or drop_layers."
    )
    layers: int | None = Field(None, gt=0, description="Of drop_layers: how many transformer layers are kept.")
    keep: Literal["first", "even"] | tuple[int, ...] = Field(
        "first",
        description="Of drop_layers: the first ones, evenly spread ones from the first to the last, or their numbers, "
        "counted from 0.",
    )

    @model_validator(mode="after")
    def _layers_are_of_drop_layers(self) -> CompressedConfig:
        if self.kind != "drop_layers":
            if self.layers is not None or ("keep" in self.model_fields_set and self.keep != "first"):
                raise ValueError(f"layers and keep are of kind: drop_layers, and not of {self.kind}")
        elif isinstance(self.keep, tuple):
            if not self.keep or list(self.keep) != sorted(set(self.keep)) or self.keep[0] < 0:
                raise ValueError("keep: expected numbers of layers that rise, counted from 0, such as [0, 2, 4]")
            if self.layers is not None:
                raise ValueError("layers does not go with numbers in keep; leave it out")
        elif self.layers is None:
            raise ValueError("layers: drop_layers needs to know how many layers are kept")
        return self


class Compressed(Derived):
    """A trained language model, or a trained baseline with layers, compressed after its training.

    Of a language model the adapter is merged into the weights first; what stands beside the backbone stays in float32.

    ``int8``: linear layers and what they read in 8 bits (``Int8Linear``), token vectors in 8 bits; the layer that gives
    the logits of the next token stays as it is.
    ``bfloat16``, ``float16``: weights and computation. ``drop_layers``: transformer layers are left out (Sajjad et al.,
    arXiv:2004.03844: ``first`` is their top-layer dropping, ``even`` near to their alternate dropping), which there is
    followed by fine-tuning and here is not.

    ``report`` adds ``layers``, the transformer layers that are left.

    Raises:
        InputError: the row has no such layers, or not so many.
    """

    Config = CompressedConfig

    @classmethod
    def check_below(cls, config: ModelConfig, below: dict[str, Below], task: Task) -> None:
        row = below["of"]
        plain = not issubclass(row.model, (LanguageRecommender, Derived))
        if plain and row.model.batch_kind == "whole":
            raise InputError(
                f"of: '{row.label}' ({row.model.__name__}) has no layers and no embeddings to compress; name a "
                "language model or a model trained by gradients"
            )

    def change(self, model: Recommender) -> Recommender:
        self._compress(_innermost(model))
        return model

    def _compress(self, model: Recommender) -> None:
        model.forget()
        backbone = getattr(model, "backbone", None)
        if isinstance(backbone, Backbone):
            if not isinstance(model, LanguageRecommender):
                raise InputError(f"of: {self._row(model)} keeps the vectors of its items, made once; no layer is asked")
            backbone.merge_for_good()
        kind = self.config.kind
        if kind == "drop_layers":
            self._drop_layers(model)
        elif kind == "int8":
            self._to_int8(model)
        else:
            self._to_half(model, HALVES[kind])

    def _row(self, model: Recommender) -> str:
        return f"'{self.config.of}' ({type(model).__name__})"

    def _to_half(self, model: Recommender, dtype: torch.dtype) -> None:
        backbone = getattr(model, "backbone", None)
        if isinstance(backbone, Backbone):
            backbone.loading = replace(backbone.loading, dtype="float32")  # its weights say what it computes in
            backbone.model.to(dtype)
            return
        if not any(isinstance(module, (nn.Linear, nn.Embedding)) for module in model.modules()):
            raise InputError(
                f"of: {self._row(model)} has neither linear layers nor embeddings to hold in {self.config.kind}; name "
                "a language model or a model trained by gradients"
            )
        model.to(dtype)

    def _to_int8(self, model: Recommender) -> None:
        backbone = getattr(model, "backbone", None)
        of_tokens, to_tokens = None, None
        if isinstance(backbone, Backbone):
            of_tokens, to_tokens = backbone.base.get_input_embeddings(), _output_layer(backbone.base)
        linear = [name for name, m in model.named_modules() if type(m) is nn.Linear and m is not to_tokens]
        if not linear:
            raise InputError(
                f"of: {self._row(model)} has no linear layers to hold in int8; name a language model or a transformer "
                "such as SASRec, or use kind: bfloat16 for one with embeddings"
            )
        tokens = [name for name, m in model.named_modules() if m is of_tokens and type(m) is nn.Embedding]
        replace_layers(model, [*linear, *tokens])

    def _drop_layers(self, model: Recommender) -> None:
        backbone = getattr(model, "backbone", None)
        if isinstance(backbone, Backbone) and backbone.kind == "seq2seq":
            raise InputError(
                f"of: {self._row(model)} stands on an encoder-decoder, whose layers are not dropped; use int8"
            )
        found = _stack(model)
        if found is None:
            raise InputError(
                f"of: {self._row(model)} has no transformer layers to drop; name a language model or SASRec"
            )
        name, stack = found
        kept = self._kept(len(stack))
        parent = model.get_submodule(name.rpartition(".")[0])
        setattr(parent, name.rpartition(".")[2], type(stack)(*_as_arguments(stack, kept)))
        for place, number in enumerate(kept):
            for module in stack[number].modules():
                if hasattr(module, "layer_idx"):  # where decoders keep the keys and values of a layer
                    module.layer_idx = place
        if isinstance(backbone, Backbone):
            config = backbone.base.config.get_text_config()
            config.num_hidden_layers = len(kept)
            if getattr(config, "layer_types", None):
                config.layer_types = [config.layer_types[number] for number in kept]

    def _kept(self, n: int) -> list[int]:
        keep, wanted = self.config.keep, self.config.layers
        if isinstance(keep, tuple):
            if keep[-1] >= n:
                raise InputError(f"keep: found layer {keep[-1]}, and '{self.config.of}' has {n}, counted from 0")
            return list(keep)
        if wanted >= n:
            raise InputError(
                f"layers: found {wanted}, and '{self.config.of}' has {n}; expected 1 to {n - 1} to be kept"
            )
        return list(range(wanted)) if keep == "first" else torch.linspace(0, n - 1, wanted).round().int().tolist()

    @torch.no_grad()
    def score(self, batch: Batch) -> Tensor:
        return super().score(batch).float()

    def report(self) -> dict[str, Any]:
        found = _stack(self.changed)
        return {**super().report(), **({} if found is None else {"layers": float(len(found[1]))})}


def _innermost(model: Recommender) -> Recommender:
    """Return the model that scores: a derived row's changed copy, a distilled row's student."""
    inner = getattr(model, "changed", None) or getattr(model, "student", None)
    return _innermost(inner) if isinstance(inner, Recommender) else model


def _output_layer(base: Any) -> nn.Module | None:
    """Return the layer that gives the logits of the next token, None of a model without one."""
    found = base.get_output_embeddings()
    return found if isinstance(found, nn.Module) else None


def _stack(model: nn.Module) -> tuple[str, Any] | None:
    """Return the name and the list of a model's transformer layers: the longest list of modules of one class that hold
    linear layers.
    """
    found: tuple[str, Any] | None = None
    for name, module in model.named_modules():
        if isinstance(module, (nn.ModuleList, nn.Sequential)) and len(module):
            alike = len({type(layer) for layer in module}) == 1 and len(list(module[0].children())) > 1
            if alike and (found is None or len(module) > len(found[1])):
                found = name, module
    return found


def _as_arguments(stack: Sequence[nn.Module], kept: Sequence[int]) -> list[Any]:
    layers = [stack[number] for number in kept]
    return [layers] if isinstance(stack, nn.ModuleList) else layers
