"""Shows what language models are asked: some prompts of the validation part, with what had no room in them."""

from __future__ import annotations

from rich.console import Console

from benchmark.data.batch import BatchSpec
from benchmark.data.datamodule import RecDataModule
from benchmark.errors import InputError
from benchmark.experiment import Experiment
from benchmark.runs.examples import example_rows
from benchmark.runs.execute import PreparedData


def show_prompts(experiment: Experiment, data: PreparedData, n: int, console: Console) -> None:
    """Print ``n`` prompts of each model that reads some; the candidate is an item of the validation part.

    Raises:
        InputError: a model's prompts cannot be made; the line names the model.
    """
    shown = False
    for spec in experiment.specs()[:: len(experiment.seeds)]:
        try:
            catalogue = data.split.catalogue()
            reads = getattr(spec.config, "longest_history", max(getattr(spec.config, "max_history", 10), 1))
            rows = RecDataModule(data.split, spec.task, BatchSpec("pointwise", max_history=reads)).rows("valid")
            examples = spec.model_class().examples(spec.config, catalogue, example_rows(rows, rows.all[:n]), n)
        except InputError as error:
            raise InputError(f"models.{spec.label}: {error}") from None
        for number, (text, tokens, dropped) in enumerate(examples, 1):
            left_out = f", {dropped} items of the history left out" if dropped else ""
            console.print(f"\n{spec.label}, prompt {number}: {tokens} tokens{left_out}", style="bold", highlight=False)
            console.print(text, markup=False, highlight=False)
            shown = True
    if not shown:
        console.print(f"{experiment.name}: no model of this experiment reads prompts", highlight=False)
