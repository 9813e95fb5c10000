"""The command line: prepare, run, sweep, status, table, report, audit, verify, recommend; heavy imports inside."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmark.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from benchmark.experiment import Experiment
    from benchmark.sweeps.standing import Standing

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
Only = Annotated[
    list[str] | None, typer.Option("--only", metavar="MODEL", help="Run this model alone (may be given again).")
]
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

        data = prepare_data(experiment, runs, console)
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
    only: Only = None,
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
    from benchmark.reports.manifest import earlier_seconds
    from benchmark.reports.part import part
    from benchmark.reports.publish import publish, publish_grids
    from benchmark.runs import run as runner
    from benchmark.runs.record import RunStore
    from benchmark.sweeps.standing import standing

    store = RunStore(runs)
    failed = 0
    ready = []
    for experiment in _having(experiments, only or []):  # everything is checked before anything runs
        here = standing(experiment, runs, defaults, console, write=not dry_run)
        chosen, data = here.experiment, here.data
        runner.plan(chosen, data, store)
        few = chosen.only(only) if only else chosen
        ready.append((few, data, runner.plan(few, data, store), here.notes, chosen))
    earlier = {e.name: earlier_seconds(results / e.name) for e, *_ in ready}
    for experiment, _, planned, _, _ in ready:
        if dry_run or any(p.state in ("to do", "to continue") for p in planned):
            times = runner.expected_seconds(store, planned, earlier[experiment.name])
            runner.show_plan(experiment, planned, times, console)
        else:
            console.print(f"{experiment.name}: all {len(planned)} runs are cached in {runs}/; nothing to compute")
    if len(ready) > 1:
        runner.show_total([planned for _, _, planned, _, _ in ready], console)
    parts = []
    for experiment, data, planned, notes, whole in [] if dry_run else ready:
        if retry_failed:
            planned = runner.forget_failed(planned, store)
        todo = [p for p in planned if p.state in ("to do", "to continue")]
        if todo and (executor == "ray" or (workers or 1) > 1):
            from benchmark.sweeps.executors import Job

            job = Job(experiment, runs, sweep=False)
            with _workers(job, executor, workers, address) as team:
                expected = earlier[experiment.name]
                runner.watch(experiment, planned, store, console, expected, team.working, team.n or 1)
        ran = runner.run(experiment, runs, console, expected=earlier[experiment.name], data=data)
        failed += sum(record.status == "failed" for record in ran)
        parts.append(part(whole, runner.stored(whole, data, store) if only else ran, store, notes, split=data.split))
        publish(parts[-1:], store, results, console)
    if dry_run:
        return
    publish_grids(parts, store, results, console)
    name = experiments[0].report.together or experiments[0].name
    console.print("what to do next:")
    console.print(f"  read the table      {results / name / 'table.md'} (.html, .tex, .csv beside it)", highlight=False)
    console.print(f"  look at everything  levelfield report {file}", highlight=False)
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
    from benchmark.reports.part import part
    from benchmark.reports.publish import publish, publish_grids
    from benchmark.runs import run as runner
    from benchmark.runs.record import RunStore
    from benchmark.sweeps import sweep as sweeper

    store = RunStore(runs)
    failed = 0
    ready = []
    for experiment in experiments:  # everything is checked before anything runs
        data = runner.prepare(experiment, runs, console, write=not dry_run)
        runner.plan(experiment, data, store)
        spaces = sweeper.spaces(experiment)
        ready.append(
            (experiment, data, spaces, None if dry_run else sweeper.SweepState(experiment, data, runs, storage))
        )
    parts = []
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
        parts.append(part(selected, records, store, state.notes(), split=data.split))
        publish(parts[-1:], store, results, console, state.snapshots())
    publish_grids(parts, store, results, console)
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
    """Rebuild the table (Markdown, LaTeX, CSV, HTML) and its manifest from the stored records alone; nothing is run.

    The `report:` block of the file chooses the test (permutation, wilcoxon), the correction (holm, bh), the columns of
    cost and those of fairness and exposure (`beyond`); `published:` rows stand beside ours.
    """
    console = _console()
    from benchmark.reports.part import part
    from benchmark.reports.publish import publish, publish_grids
    from benchmark.runs.record import RunStore

    store, parts = RunStore(runs), []
    for here, records in _stored(file, overrides, runs, defaults, console):
        parts.append(part(here.experiment, records, store, here.notes, split=here.data.split))
        publish(parts[-1:], store, results, console)
    publish_grids(parts, store, results, console)


@app.command()
def report(
    file: File,
    overrides: Overrides = None,
    defaults: Defaults = False,
    storage: Storage = None,
    runs: Runs = Path("runs"),
    results: Results = Path("results"),
) -> None:
    """Write report.html: one page, whole in itself, to sort, filter and look into; nothing is run.

    Leaderboard, audit, learning curves over training size, quality against cost, seeds, training curves, what a sweep
    found, user segments, any two models user by user with examples, and every run with the command that repeats it. The
    tables are rebuilt with it.
    """
    console = _console()
    from benchmark.audit.audit import audit as audit_of
    from benchmark.experiment import grids
    from benchmark.reports import report as page
    from benchmark.reports.part import part
    from benchmark.reports.publish import publish
    from benchmark.reports.table import build
    from benchmark.runs.record import RunStore

    store, chapters = RunStore(runs), []
    for here, records in _stored(file, overrides, runs, defaults, console):
        mine = part(here.experiment, records, store, here.notes, targets=True, split=here.data.split)
        findings = audit_of(here.experiment, here.data, records, store, here.trials(storage), outcomes=mine.outcomes)
        told = here.studies(storage), here.values, str(file), overrides or (), findings
        chapters.append(page.Chapter(mine, here.data.split, *told))
    by_name = {chapter.part.experiment.name: chapter for chapter in chapters}
    groups = [[by_name[e.name] for e in group] for group in grids([c.part.experiment for c in chapters])]
    joined = {id(chapter) for group in groups for chapter in group}
    pages = []
    for group in [*groups, *([chapter] for chapter in chapters if id(chapter) not in joined)]:
        table = build([chapter.part for chapter in group])
        pages.append((group, table, page.whole(group, table, store)))  # nothing is written before all can be
    for group in groups:
        for chapter in group:
            publish([chapter.part], store, results, console)
    for group, table, content in pages:
        folder = publish([chapter.part for chapter in group], store, results, console, built=table)
        path = page.write(content, folder)
        console.print(f"report: {path} ({path.stat().st_size / 1e6:.1f} MB; open it in a browser)", highlight=False)


@app.command()
def audit(
    file: File,
    overrides: Overrides = None,
    no_probe: Annotated[
        bool, typer.Option("--no-probe", help="Do not ask language models what they know by heart; it takes a while.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the samples that some checks draw.")] = 0,
    defaults: Defaults = False,
    storage: Storage = None,
    runs: Runs = Path("runs"),
    results: Results = Path("results"),
) -> None:
    """Check what makes a table worth nothing: leaks, duplicates, candidates that tell, too few users, unequal tuning.

    Works before anything is run, on the data alone. Writes audit.md and audit.json; the exit code is 1 if there is a
    fault. A language model is asked once what it knows of the data set by heart; that is kept under --runs.
    """
    console = _console()
    from benchmark.audit.audit import audit as audit_of
    from benchmark.reports import audit as told
    from benchmark.runs.record import RunStore
    from benchmark.sweeps.standing import standing

    store, faults = RunStore(runs), 0
    for experiment in _load(file, overrides):
        here = standing(experiment, runs, defaults, console)
        probe = None if no_probe else console
        told_of = here.experiment, here.data, here.records(), store, here.trials(storage), probe
        findings = audit_of(*told_of, seed=seed)
        told.show(experiment.name, findings, console)
        paths = told.write(experiment.name, findings, results / experiment.name)
        console.print(f"written: {', '.join(map(str, paths))}", highlight=False)
        faults += sum(finding.level == "fault" for finding in findings)
    if faults:
        raise typer.Exit(1)


@app.command()
def verify(
    file: File,
    overrides: Overrides = None,
    rerun: Annotated[int, typer.Option("--rerun", min=0, help="Repeat so many of the runs and compare.")] = 0,
    seed: Annotated[int, typer.Option("--seed", help="Of the choice of the repeated runs.")] = 0,
    tolerance: Annotated[
        float, typer.Option("--tolerance", min=0, help="Difference of a metric that a repeated run may have.")
    ] = 1e-3,
    defaults: Defaults = False,
    runs: Runs = Path("runs"),
    results: Results = Path("results"),
) -> None:
    """Check a written table: data, records and files unaltered, metrics recomputed from the ranks, runs repeated.

    Everything is compared with results/<name>/manifest.json. What is altered or missing is named; then the exit code is
    1.
    """
    console = _console()
    from benchmark.experiment import grids
    from benchmark.reports.verify import check, check_joint, show
    from benchmark.runs.record import RunStore
    from benchmark.sweeps.standing import standing

    store, faults, parts = RunStore(runs), 0, dict[str, Any]()
    experiments = _load(file, overrides)
    for experiment in experiments:
        here, folder = standing(experiment, runs, defaults, console), results / experiment.name
        asked = here.experiment, here.data, store, folder, here.notes
        found, parts[experiment.name] = check(*asked, rerun, seed, tolerance, console)
        faults += show(experiment.name, found, console)
    for group in grids(experiments):
        made = [parts[e.name] for e in group]
        if all(made):  # else its records are at fault, which has been said
            name = str(group[0].report.together)
            faults += show(name, check_joint(made, results / name), console)
    if faults:
        raise typer.Exit(1)


@app.command()
def recommend(
    which: Annotated[
        str,
        typer.Argument(metavar="RUN", help="Key of a run (its first letters do), or an experiment file with --model."),
    ],
    overrides: Overrides = None,
    history: Annotated[
        list[str] | None, typer.Option("--history", metavar="TITLE", help="Something liked (may be given again).")
    ] = None,
    query: Annotated[str | None, typer.Option("--query", help="What is asked for, for models that read text.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Length of the list.")] = 10,
    user: Annotated[str | None, typer.Option("--user", help="Id of a user of the data, with all the history.")] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", help="Of the file; the best one on validation of its first experiment without it."),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of the model's run; the best one without it.")] = None,
    interactive: Annotated[bool, typer.Option("--interactive", "-i", help="Ask, answer, ask again.")] = False,
    defaults: Defaults = False,
    runs: Runs = Path("runs"),
) -> None:
    """Recommend items to somebody with a trained model: by titles, by words, or both; with reasons and the time taken.

    levelfield recommend experiments/quickstart.yaml --history "Toy Story" --history "Aladdin" -k 5
    """
    console = _console()
    from benchmark.reports.recommended import converse, show
    from benchmark.serving.find import trained as trained_model

    trained = trained_model(which, model, seed, runs, overrides or [], defaults, console)

    if history or query or user or not interactive:
        with console.status("loading the model"):
            found = trained.recommend(history or [], query, k, user)
        show(trained, found, console)
    if interactive:
        converse(trained, history or [], query, k, user, console)


def _having(experiments: list[Experiment], labels: list[str]) -> list[Experiment]:
    """Return the experiments of a file that have one of the models at least; all without labels."""
    from benchmark.errors import nearest

    known = {label for experiment in experiments for label in experiment.models}
    for label in labels:
        if label not in known:
            raise InputError(f"--only {label}: no such model in the file{nearest(label, known)}")
    return [e for e in experiments if not labels or not e.models.keys().isdisjoint(labels)]


def _stored(
    file: Path, overrides: list[str] | None, runs: Path, defaults: bool, console: Console
) -> Iterator[tuple[Standing, list[Any]]]:
    """Yield how each experiment of a file stands, and the records of its runs, of which there must be one."""
    from benchmark.sweeps.standing import standing

    for experiment in _load(file, overrides):
        here = standing(experiment, runs, defaults, console)
        records = here.records()
        if not any(records):
            raise InputError(
                f"{file}: no run of {experiment.name} is stored under {runs}/; first: levelfield run {file}"
            )
        yield here, records


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


def _console() -> Console:
    """Return the console; wide where no terminal is, so that a log keeps whole rows."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=150)


def _load(file: Path, overrides: list[str] | None) -> list[Experiment]:
    from benchmark.experiment import load_all

    return load_all(file, overrides or [])


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
