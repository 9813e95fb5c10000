"""The command line: levelfield prepare | run | table. Heavy imports stay inside the commands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmark.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from benchmark.experiment import Experiment

app = typer.Typer(
    name="levelfield",
    help="One level field for fine-tuned LLM recommenders and classical ones: same data, split, candidates, metrics.",
    epilog="Start with: levelfield run experiments/quickstart.yaml --dry-run",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: drawing it with rich takes longer than all the rest of `--help`
)
File = Annotated[
    Path, typer.Argument(metavar="FILE", help="Experiment file (YAML), such as experiments/quickstart.yaml.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Overrides, such as models.ease.l2=100 'seeds=[0]'."),
]
Runs = Annotated[Path, typer.Option("--runs", help="Folder of run records and of the data cache.")]
Results = Annotated[Path, typer.Option("--results", help="Folder the tables are written under.")]


@app.command()
def prepare(
    file: File,
    overrides: Overrides = None,
    show: Annotated[int, typer.Option("--show", min=0, help="Show so many prompts of each language model.")] = 0,
    runs: Runs = Path("runs"),
) -> None:
    """Load, filter and split the data; show what each step dropped, what the split leaks, what prompts look like."""
    console = _console()
    for experiment in _load(file, overrides):
        from benchmark.reports.data import show_data
        from benchmark.runs.run import prepare as prepare_data

        data = prepare_data(experiment, runs)
        show_data(experiment, data, console)
        if show:
            from benchmark.reports.prompts import show_prompts

            show_prompts(experiment, data, show, console)


@app.command()
def run(
    file: File,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan (cached or to do) and stop.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed ones again.")] = False,
    runs: Runs = Path("runs"),
    results: Results = Path("results"),
) -> None:
    """Run every (model, seed) that is not done yet, then show and write the table.

    Finished runs are taken from the store, interrupted ones go on from their last checkpoint, a failed one is recorded
    and does not stop the others. An override that changes a run makes it a new one.
    """
    console = _console()
    experiments = _load(file, overrides)
    from benchmark.runs import run as runner
    from benchmark.runs.record import RunStore

    store = RunStore(runs)
    failed = 0
    ready = []
    for experiment in experiments:  # everything is checked before anything runs
        data = runner.prepare(experiment, runs)
        ready.append((experiment, data, runner.plan(experiment, data, store)))
    for experiment, data, planned in ready:
        earlier = _earlier_seconds(results / experiment.name)
        times = runner.expected_seconds(store, planned, earlier)
        todo = [p for p in planned if p.state in ("to do", "to continue")]
        if dry_run or todo:
            runner.show_plan(experiment, planned, times, console)
        else:
            console.print(f"{experiment.name}: all {len(planned)} runs are cached in {runs}/; nothing to compute")
        if dry_run:
            continue
        records = runner.run(experiment, runs, console, retry_failed, earlier, data)
        failed += sum(record.status == "failed" for record in records)
        written = _write_table(experiment, records, store, results, console)
        console.print(f"written: {', '.join(map(str, written))}", highlight=False)
    if dry_run:
        return
    name = experiments[0].name
    console.print("what to do next:")
    console.print(f"  read the table      {results / name / 'table.md'} (.tex and .csv beside it)", highlight=False)
    console.print(f"  change a model      edit {file}, or append e.g. 'seeds=[0]' to the command", highlight=False)
    console.print("  bring your own data README.md, 'Add a data set'", highlight=False)
    if failed:
        console.print(f"{failed} run(s) failed; their tracebacks: {runs}/<key>/error.log", style="red", highlight=False)
        raise typer.Exit(1)


@app.command()
def table(
    file: File, overrides: Overrides = None, runs: Runs = Path("runs"), results: Results = Path("results")
) -> None:
    """Rebuild the table from the stored records alone; nothing is run."""
    console = _console()
    from benchmark.runs.record import RunStore
    from benchmark.runs.run import finished_records, named

    for experiment in _load(file, overrides):
        planned, _ = finished_records(experiment, runs)
        records = [named(p.record, p.spec) if p.record is not None else None for p in planned]
        if not any(records):
            raise InputError(
                f"{file}: no run of {experiment.name} is stored under {runs}/; first: levelfield run {file}"
            )
        written = _write_table(experiment, records, RunStore(runs), results, console)
        console.print(f"written: {', '.join(map(str, written))}", highlight=False)


def _console() -> Console:
    """Return the console; wide where no terminal is, so that a log keeps whole rows."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=150)


def _load(file: Path, overrides: list[str] | None) -> list[Experiment]:
    from benchmark.experiment import load_all

    return load_all(file, overrides or [])


def _write_table(experiment: Experiment, records: Any, store: Any, results: Path, console: Console) -> list[Path]:
    from benchmark.reports.render import show, write
    from benchmark.reports.table import build

    built = build(experiment, records, store)
    show(built, console)
    return write(built, records, results / experiment.name)


def _earlier_seconds(folder: Path) -> dict[str, float]:
    """Return seconds a run by model from a committed manifest, to tell the time left on a first run."""
    import json

    try:
        runs = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["runs"].values()
        return {
            r["model"]: sum(v for k, v in r["seconds"].items() if k in ("build", "fit", "save", "test")) for r in runs
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def main() -> None:
    """Run the command line; bad input is one line on standard error and exit code 2."""
    try:
        app()
    except InputError as error:
        print(f"levelfield: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("levelfield: stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
