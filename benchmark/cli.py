"""The command line: levelfield prepare | run | sweep | status | table. Heavy imports stay inside the commands."""

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
Executor = Annotated[str, typer.Option("--executor", help="local (this machine), or ray (a cluster).")]
NWorkers = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Processes that share the work; on Ray as many as there is room for."),
]
Address = Annotated[
    str | None,
    typer.Option("--address", help="Of the Ray cluster: auto, ray://host:port; RAY_ADDRESS or a local one without it."),
]
Storage = Annotated[
    str | None,
    typer.Option("--storage", help="Database URL of the studies; LEVELFIELD_STORAGE, or a journal under --runs."),
]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Run failed ones again.")]
Defaults = Annotated[bool, typer.Option("--defaults", help="The file's own parameters, whatever a sweep selected.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan (cached or to do) and stop.")]


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
    dry_run: DryRun = False,
    retry_failed: RetryFailed = False,
    defaults: Defaults = False,
    executor: Executor = "local",
    workers: NWorkers = None,
    address: Address = None,
    runs: Runs = Path("runs"),
    results: Results = Path("results"),
) -> None:
    """Run every (model, seed) that is not done yet, then show and write the table.

    Finished runs are taken from the store, interrupted ones go on from their last checkpoint, a failed one is recorded
    and does not stop the others. An override that changes a run makes it a new one. Where a sweep of this experiment is
    finished, its models run with what it selected.
    """
    console = _console()
    _check_executor(executor, workers, address)
    experiments = _load(file, overrides)
    from benchmark.runs import run as runner
    from benchmark.runs.record import RunStore

    store = RunStore(runs)
    failed = 0
    ready = []
    for experiment in experiments:  # everything is checked before anything runs
        data = runner.prepare(experiment, runs)
        chosen, notes = _selected(experiment, data, runs, defaults, console)
        ready.append((chosen, data, runner.plan(chosen, data, store), notes))
    earlier = {e.name: _earlier_seconds(results / e.name) for e, *_ in ready}
    for experiment, _, planned, _ in ready:
        if dry_run or any(p.state in ("to do", "to continue") for p in planned):
            times = runner.expected_seconds(store, planned, earlier[experiment.name])
            runner.show_plan(experiment, planned, times, console)
        else:
            console.print(f"{experiment.name}: all {len(planned)} runs are cached in {runs}/; nothing to compute")
    if len(ready) > 1:
        runner.show_total([planned for _, _, planned, _ in ready], console)
    for experiment, data, planned, notes in [] if dry_run else ready:
        if retry_failed:
            planned = runner.forget_failed(planned, store)
        todo = [p for p in planned if p.state in ("to do", "to continue")]
        if todo and (executor == "ray" or (workers or 1) > 1):
            from benchmark.sweeps.executors import Job

            job = Job(experiment, runs, sweep=False)
            with _workers(job, executor, workers, address) as team:
                expected = earlier[experiment.name]
                runner.watch(experiment, planned, store, console, expected, team.working, team.n or 1)
        records = runner.run(experiment, runs, console, expected=earlier[experiment.name], data=data)
        failed += sum(record.status == "failed" for record in records)
        written = _write_table(experiment, records, store, results, console, notes)
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
def sweep(
    file: File,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    retry_failed: RetryFailed = False,
    executor: Executor = "local",
    workers: NWorkers = None,
    address: Address = None,
    storage: Storage = None,
    runs: Runs = Path("runs"),
    results: Results = Path("results"),
) -> None:
    """Search every model that has a `search:` block, then run what was selected over all seeds and show the table.

    All models get the same number of trials (`sweep.trials`); the first trial has the file's own values. Trials see the
    validation part alone; the test part is read once, by what was selected. A killed sweep goes on where it stopped:
    the same command again, on as many machines as share the storage and the folder of runs.
    """
    console = _console()
    _check_executor(executor, workers, address)
    experiments = [e for e in _load(file, overrides) if any(m.search for m in e.models.values())]
    if not experiments:
        raise InputError(
            f"{file}: no model has a search: block, "
            "such as search: {learning_rate: {low: 1e-5, high: 1e-2, log: true}}"
        )
    from benchmark.runs import run as runner
    from benchmark.runs.record import RunStore
    from benchmark.sweeps import sweep as sweeper

    store = RunStore(runs)
    failed = 0
    ready = []
    for experiment in experiments:  # everything is checked before anything runs
        data = runner.prepare(experiment, runs)
        runner.plan(experiment, data, store)
        spaces = sweeper.spaces(experiment)
        ready.append(
            (experiment, data, spaces, None if dry_run else sweeper.SweepState(experiment, data, runs, storage))
        )
    for experiment, data, spaces, state in ready:
        sweeper.show_plan(experiment, spaces, console)
        if state is None:
            continue
        if retry_failed:
            state.retry_failed()
            tuned = state.selected()
            runner.forget_failed(runner.plan(tuned, data, store), store)
        if executor == "ray" or (workers or 1) > 1:
            from benchmark.sweeps.executors import Job

            job = Job(experiment, runs, sweep=True, storage=storage)
            with _workers(job, executor, workers, address) as team:
                sweeper.watch(state, console, team.working)
                tuned = state.selected()
                runner.watch(tuned, runner.plan(tuned, data, store), store, console, {}, team.working, team.n or 1)
        sweeper.search(state, console)
        selected = state.selected()
        records = runner.run(selected, runs, console, data=data)
        failed += sum(record.status == "failed" for record in records)
        studies = state.snapshots()
        written = _write_table(selected, records, store, results, console, state.notes(), studies)
        console.print(f"written: {', '.join(map(str, written))}", highlight=False)
    if failed:
        console.print(f"{failed} run(s) failed; their tracebacks: {runs}/<key>/error.log", style="red", highlight=False)
        raise typer.Exit(1)


@app.command()
def status(
    file: File,
    overrides: Overrides = None,
    storage: Storage = None,
    runs: Runs = Path("runs"),
) -> None:
    """Show what of an experiment is done, running, failed and to do, with the time left; nothing is run."""
    console = _console()
    from benchmark.sweeps.status import show_status

    for experiment in _load(file, overrides):
        show_status(experiment, runs, storage, console, file)


@app.command()
def table(
    file: File,
    overrides: Overrides = None,
    defaults: Defaults = False,
    runs: Runs = Path("runs"),
    results: Results = Path("results"),
) -> None:
    """Rebuild the table from the stored records alone; nothing is run."""
    console = _console()
    from benchmark.runs.record import RunStore
    from benchmark.runs.run import named, plan, prepare

    for experiment in _load(file, overrides):
        data, store = prepare(experiment, runs), RunStore(runs)
        chosen, notes = _selected(experiment, data, runs, defaults, console)
        planned = plan(chosen, data, store)
        records = [named(p.record, p.spec) if p.record is not None else None for p in planned]
        if not any(records):
            raise InputError(
                f"{file}: no run of {experiment.name} is stored under {runs}/; first: levelfield run {file}"
            )
        written = _write_table(chosen, records, store, results, console, notes)
        console.print(f"written: {', '.join(map(str, written))}", highlight=False)


def _check_executor(executor: str, workers: int | None, address: str | None) -> None:
    from benchmark.errors import nearest

    if executor not in ("local", "ray"):
        raise InputError(f"--executor: found '{executor}', expected local or ray{nearest(executor, ['local', 'ray'])}")
    if address is not None and executor != "ray":
        raise InputError(f"--address {address}: only with --executor ray")


def _workers(job: Any, executor: str, workers: int | None, address: str | None) -> Any:
    from benchmark.sweeps.executors import RayWorkers, Workers

    if executor == "ray":
        return RayWorkers(job, workers, job.experiment.sweep.resources, address)
    return Workers(job, workers or 1)


def _selected(
    experiment: Experiment, data: Any, runs: Path, defaults: bool, console: Console
) -> tuple[Experiment, dict[str, str]]:
    """Return the experiment with what a finished sweep of it selected, and the notes under the table."""
    if defaults or not any(m.search for m in experiment.models.values()):
        return experiment, {}
    from benchmark.sweeps.sweep import with_selections

    chosen, found = with_selections(experiment, data, runs)
    searched = [label for label, entry in experiment.models.items() if entry.search]
    if found:
        console.print(f"as selected by the sweep: {', '.join(s.label for s in found)} (--defaults for the file's own)")
    if missing := [label for label in searched if label not in {s.label for s in found}]:
        console.print(f"not tuned yet, the file's own parameters: {', '.join(missing)} (levelfield sweep tunes them)")
    return chosen, {s.label: s.note() for s in found}


def _console() -> Console:
    """Return the console; wide where no terminal is, so that a log keeps whole rows."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=150)


def _load(file: Path, overrides: list[str] | None) -> list[Experiment]:
    from benchmark.experiment import load_all

    return load_all(file, overrides or [])


def _write_table(
    experiment: Experiment,
    records: Any,
    store: Any,
    results: Path,
    console: Console,
    notes: dict[str, str],
    studies: Any = (),
) -> list[Path]:
    """Write and show the table, and what a sweep found; mirror both."""
    from benchmark.reports.render import show, shown_cells, write
    from benchmark.reports.table import build
    from benchmark.runs.mirror import log_summary

    built = build(experiment, records, store, notes)
    show(built, console)
    paths = write(built, records, results / experiment.name)
    figures: dict[str, Any] = {}
    if studies:
        from benchmark.reports import sweep as report

        report.show(studies, console)
        paths += report.write(studies, results / experiment.name)
        figures = report.named_figures(studies)
    log_summary(experiment.tracking.wandb, store.root / "wandb", experiment.name, shown_cells(built), figures, paths)
    return paths


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
