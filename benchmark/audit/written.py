"""Written: do training prompts read a text about the user that was written from what they ask for?"""

from __future__ import annotations

import numpy as np

from benchmark.audit.finding import Finding, abridged, listed, percent
from benchmark.audit.material import Material
from benchmark.experiment import RunSpec
from benchmark.experiment.settings import HISTORY, Enrichment

CHECK, TITLE = "written", "Texts about users that know the answer"


def written(material: Material) -> list[Finding]:
    """Check that no trained row reads a text of users that was written from their training histories.

    A user has one such text, written from the newest training interactions: no judged row is among them, but those very
    interactions are learned from.
    """
    known = _from_histories(material.experiment.dataset.enrich)
    if not known:
        return []
    readers = {
        label: columns
        for label, spec in material.specs.items()
        if (columns := [name for name in _read(material, spec) if name in known])
    }
    if not readers:
        shown = listed([f"`{name}`" for name in known])
        said = f"No prompt that is learned from holds what was written from {{{HISTORY}}} ({shown})."
        return [Finding(CHECK, TITLE, "fine", said)]
    most = max(known[name] for columns in readers.values() for name in columns)
    train = material.split.train
    own = int(np.minimum(np.diff(train.offsets), most).sum())
    share = own / max(len(train), 1)
    told = [f"{label} ({', '.join(columns)})" for label, columns in readers.items()]
    said = (
        f"Training prompts read a text that was written from {{{HISTORY}}}, the newest {most:,} training interactions "
        f"of a user, and so may name their own answer: {abridged(told)}. {percent(share)} of the training interactions "
        "were told to the writer; no judged one was. What a row learns to trust there is missing when it is judged."
    )
    return [Finding(CHECK, TITLE, "warning", said, {"rows": float(len(readers)), "training_share": share})]


def _from_histories(columns: dict[str, Enrichment]) -> dict[str, int]:
    """Return the columns of users that were written from histories, or from such a column: name -> interactions."""
    out: dict[str, int] = {}
    for name, settings in columns.items():
        if settings.of != "users":
            continue
        sources = [out[field] for field in (*settings.fields, settings.field) if field in out]
        sources += [settings.history] if HISTORY in settings.fields else []
        if sources:
            out[name] = max(sources)
    return out


def _read(material: Material, spec: RunSpec) -> list[str]:
    """Return the columns of users in the prompts that a row is trained on."""
    from benchmark.llm.collaborative import CollaborativeConfig
    from benchmark.llm.prompted import PromptConfig, PromptRecommender
    from benchmark.llm.templates import Prompt

    cls, config = spec.model_class(), spec.config
    if not issubclass(cls, PromptRecommender) or not isinstance(config, PromptConfig) or config.zero_shot:
        return []
    templates = [config.prompt.filled(cls.way)]
    if isinstance(config, CollaborativeConfig) and config.text_epochs:  # its first stage is in words alone
        templates.append((config.text_prompt or Prompt(language=config.prompt.language)).filled("pointwise"))
    fields = [
        name
        for one in templates
        if "profile" in one.slots
        for name in (material.split.users.columns if one.profile is None else one.profile)
    ]
    return list(dict.fromkeys(fields))
