"""Interpolated: a row whose backbone stands between the pretrained weights and the fine-tuned ones of another row."""

from __future__ import annotations

import torch
from pydantic import Field

from benchmark.data.task import Task
from benchmark.derived import Derived, DerivedConfig
from benchmark.errors import InputError
from benchmark.llm.adapters import WHOLE, Peft, tuner_layers
from benchmark.llm.backbone import Backbone
from benchmark.llm.training import LLMConfig
from benchmark.recommender import Below, ModelConfig, Recommender


class InterpolatedConfig(DerivedConfig):
    share: float = Field(0.5, ge=0, le=1, description="Of the fine-tuned weights; the pretrained ones have the rest.")


class Interpolated(Derived):
    """WiSE-FT (Wortsman et al., CVPR 2022, arXiv:2109.01903): share * tuned + (1 - share) * pretrained weights.

    Interpolated is the backbone; what stands beside it (heads, projections) stays as it was trained. Adapters in the
    layers are merged for it: of LoRA and what else adds to the weights this is the adapter scaled by ``share``; of IA3
    and DoRA, which multiply, it is the line between the weights before and after. The copy is a plain model without an
    adapter. Virtual tokens are no weights of the model: prefix, prompt and P-tuning are refused.
    """

    Config = InterpolatedConfig

    @classmethod
    def check_below(cls, config: ModelConfig, below: dict[str, Below], task: Task) -> None:
        row = below["of"]
        if isinstance(row.config, LLMConfig):
            _check(row.config.used_peft(), row.config.quantization, row.label)
        elif not issubclass(row.model, Derived):  # what a derived row has is seen when it is there
            raise InputError(f"of: '{row.label}' is no fine-tuned language model: it has no backbone")

    def change(self, model: Recommender) -> Recommender:
        backbone = getattr(model, "backbone", None)
        if not isinstance(backbone, Backbone):
            raise InputError(f"of: '{self.config.of}' is no fine-tuned language model: it has no backbone")
        interpolate(backbone, self.config.share, self.config.of)
        model.forget()
        return model


def _check(peft: Peft, quantization: str | None, label: str) -> None:
    """Refuse a row whose weights no line leads back from."""
    if peft.kind == "frozen":
        raise InputError(f"of: '{label}' is frozen: there is nothing between its weights and the pretrained ones")
    if peft.soft:
        raise InputError(f"of: '{label}' trains virtual tokens (peft.kind: {peft.kind}) and no weights to interpolate")
    if quantization is not None:
        raise InputError(f"of: '{label}' is quantised ({quantization}): its weights cannot be moved")


@torch.no_grad()
def interpolate(backbone: Backbone, share: float, label: str = "backbone") -> None:
    """Set a backbone's weights to share * tuned + (1 - share) * pretrained, without an adapter.

    Raises:
        InputError: its kind of fine-tuning changes no weights, or they are quantised.
    """
    _check(backbone.peft, backbone.loading.quantization, label)
    if backbone.peft.kind not in WHOLE:
        for layer in tuner_layers(backbone.model):
            base = layer.get_base_layer()
            tensors = [t for t in (base.weight, getattr(base, "bias", None)) if t is not None]
            first = [tensor.data.clone() for tensor in tensors]
            layer.merge(safe_merge=True)
            for tensor, before in zip(tensors, first, strict=True):
                tensor.data = torch.lerp(before, tensor.data, share)
            layer.merged_adapters.clear()  # what is taken out below is the layer, not the change
        backbone.model = backbone.model.unload()
        # from here on it is a model with weights of its own, whose pretrained ones are read from the files
        backbone.peft = backbone.peft.model_copy(update={"kind": "full"})
        return
    pretrained = dict(backbone.reference().named_parameters())
    for name, p in backbone.base.named_parameters():
        p.data = torch.lerp(pretrained[name].to(p), p.data, share)
