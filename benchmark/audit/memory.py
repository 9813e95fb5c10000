"""Memory: whether a backbone knows the data set's titles and lines by heart before it is trained here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmark.audit.finding import Finding, abridged, percent, reason, shown_name
from benchmark.audit.material import Material
from benchmark.audit.probe import BEFORE, Question, Rate, ask, keep, kept, questions
from benchmark.data.schema import TITLE
from benchmark.errors import InputError
from benchmark.experiment import LLM

if TYPE_CHECKING:
    from benchmark.llm.training import LLMConfig

CHECK, HEAD = "memory", "Titles a language model knows by heart"
MANY = 0.05
FEWEST = 20  # questions of a kind, below which a rate says nothing


def memory(material: Material, probe: Console | None) -> list[Finding]:
    """Report, backbone by backbone, how often it completes titles and lines that it has not been shown.

    What is asked hangs on the catalogue alone, so that a backbone is asked once.

    Args:
        material: the models of language model groups that name a backbone are looked at.
        probe: where to ask those that have not been asked, with a bar; None: only what is kept is told.
    """
    users: dict[str, list[str]] = {}
    for label, spec in material.specs.items():
        if material.groups[label] in LLM and hasattr(spec.config, "backbone"):
            users.setdefault(spec.config.backbone, []).append(label)
    if not users:
        return [Finding(CHECK, HEAD, "fine", "No row of this table stands on a language model.")]
    if TITLE not in material.split.items.columns:
        return [Finding(CHECK, HEAD, "unknown", "The items have no titles that a model could be asked for.")]
    asked = {k: q for k, q in questions(material.split.items).items() if len(q) >= FEWEST}
    if not asked:
        said = f"Fewer than {FEWEST} items have titles, too few to ask a model for."
        return [Finding(CHECK, HEAD, "unknown", said)]
    return [_of(material, name, labels, asked, probe) for name, labels in users.items()]


def _of(
    material: Material, name: str, labels: list[str], asked: dict[str, list[Question]], probe: Console | None
) -> Finding:
    """Return what is known of one backbone."""
    from benchmark.llm.loading import kind_of
    from benchmark.llm.locate import resolve

    config: LLMConfig = material.specs[labels[0]].config  # type: ignore[assignment]
    shown = shown_name(name)
    who = f"{shown} ({abridged(labels)})"
    try:
        if kind_of(name, config.trust_remote_code) == "encoder":
            said = (
                f"{who} is an encoder without a language head and cannot be asked to go on with a text, so what it has "
                "read of these titles before is not known; a row on the frozen backbone shows how far that carries."
            )
            return Finding(CHECK, HEAD, "unknown", said)
        source = resolve(name)
        rates = kept(material.root, source, asked)
        if rates is None and probe is None:
            said = f"{who} has not been asked yet: levelfield audit FILE does it, once."
            return Finding(CHECK, HEAD, "unknown", said)
        if rates is None:
            rates = _asked(config, asked, shown, probe)
            keep(material.root, source, asked, rates)
    except InputError as error:
        return Finding(CHECK, HEAD, "unknown", f"{who} cannot be asked: {reason(error, name)}.")
    return finding(who, rates)


def _asked(config: LLMConfig, asked: dict[str, list[Question]], shown: str, console: Console | None) -> dict[str, Rate]:
    """Load the backbone as it comes and ask it."""
    from benchmark.llm.adapters import Peft
    from benchmark.llm.language_model import LanguageModel

    model = LanguageModel(config.backbone, Peft(kind="frozen"), config.loading()).eval()
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task(f"asking {shown} what it knows by heart", total=sum(map(len, asked.values())))
        return ask(model, asked, lambda n: progress.advance(bar, n))


def finding(who: str, rates: dict[str, Rate]) -> Finding:
    """Return what the rates of a backbone say: a warning where they are many, and more than by chance."""
    told, known = [], []
    for kind, control, words, contrast in (
        ("titles", "made_up", "titles from their first half", "made-up titles"),
        ("lines", "mixed", f'lines "item_id,title" after the {BEFORE} before', "titles dealt anew among the ids"),
    ):
        if kind not in rates:
            continue
        rate, chance = rates[kind], rates[control]
        told.append(f"{_rate(rate)} of {rate.asked} {words} ({contrast}: {_rate(chance)})")
        if rate.share > MANY and rate.interval[0] > chance.interval[1]:
            known.append(kind)
    said = f"Untrained, {who} completes {' and '.join(told)}."
    if known:
        said += " It may know the data set from its own training, so its score may be memory (arXiv:2505.10212)."
    numbers = {f"{kind}_rate": rate.share for kind, rate in rates.items()}
    return Finding(CHECK, HEAD, "warning" if known else "fine", said, numbers)


def _rate(rate: Rate) -> str:
    low, high = rate.interval
    return f"{percent(rate.share)} [{100 * low:.1f}, {100 * high:.1f}]"
