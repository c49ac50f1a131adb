"""The command line: ``gradscope demo``, ``gradscope sweep``, ``gradscope check``, ``gradscope dashboard``.

What a command needs is imported when it runs, so that ``--help`` is there at once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from gradscope import __version__
from gradscope.cli.arguments import function as find_function
from gradscope.cli.arguments import read_grid, values, write_text
from gradscope.cli.tables import demo_table, runs_table
from gradscope.errors import GradscopeError, InvalidValueError

if TYPE_CHECKING:
    from gradscope.runs import Runs

out_console = Console()
error_console = Console(stderr=True)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Out = Annotated[str, typer.Option(help="Folder for the runs; the same command again goes on from there.")]
Workers = Annotated[int, typer.Option(min=0, help="Worker processes, one thread each; 0 or 1: none.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port of the dashboard.")]


class Format(StrEnum):
    """How findings are reported."""

    text = "text"
    junit = "junit"
    sarif = "sarif"
    json = "json"


class FailOn(StrEnum):
    """The mildest severity that makes a check fail."""

    critical = "critical"
    warning = "warning"
    note = "note"
    never = "never"


def main() -> None:
    """Run the command line."""
    app(prog_name="gradscope")


@contextmanager
def reported() -> Iterator[None]:
    """Turn an error of gradscope into one line and exit code 2, and Ctrl-C into its message and 130."""
    try:
        yield
    except GradscopeError as error:
        error_console.print(Text(f"gradscope: {error}"), soft_wrap=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt as stop:
        error_console.print(Text(f"gradscope: {str(stop) or 'stopped'}"), soft_wrap=True)
        raise typer.Exit(130) from None


def _show_version(wanted: bool) -> None:
    if wanted:
        out_console.print(f"gradscope {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def gradscope(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """See where and why gradients vanish or explode in a PyTorch network, while it trains.

    [bold]Start here[/bold]

        gradscope demo             trains 162 small networks on real digits

    [bold]In your own training loop[/bold]

        with gradscope.watch(model, optimizer, out="runs/mine") as probe:
            ...                    the loop as it is; probe.log(loss=loss)

        gradscope dashboard runs   while it trains, or afterwards
    """


@app.command()
def demo(
    out: Out = "runs",
    workers: Workers = 2,
    depth: Annotated[str, typer.Option(help="Numbers of hidden layers.")] = "2,4,8,12,16,32",
    activation: Annotated[str, typer.Option(help="Activation functions.")] = "sigmoid,tanh,relu",
    init: Annotated[str, typer.Option(help="Initializations.")] = "default,xavier,kaiming",
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each combination.")] = 3,
    width: Annotated[int, typer.Option(min=1, help="Units of a hidden layer.")] = 64,
    steps: Annotated[int, typer.Option(min=1, help="Training steps of each run.")] = 100,
    serve: Annotated[
        bool, typer.Option("--serve/--no-serve", help="Open the dashboard on the runs at the end.")
    ] = True,
    port: Port = 8050,
) -> None:
    """Train networks of many depths on real handwritten digits and show how the gradient fares.

    Each combination of depth, activation and initialization is trained for a
    few steps from several seeds. The table shows by which factor the gradient
    changes per layer on its way down, at the first step: below 1 it vanishes
    towards the input, above 1 it explodes.

    [bold]Examples[/bold]

        gradscope demo

        gradscope demo --no-serve --out runs

        gradscope demo --depth 2,50 --activation tanh,selu --out runs/selu
    """
    with reported():
        from gradscope.lab.demo import RULE, SETTINGS, census, check, conclusion, summary

        grid = {"depth": depth, "activation": activation, "init": init}
        varied = {key: values(text, always_list=True) for key, text in grid.items()}
        check(varied)
        settings = {**SETTINGS, "width": width, "steps": steps}
        runs = _train(None, out, workers, {**varied, "seed": list(range(seeds)), **settings})
        cells = summary(runs)
        out_console.print(demo_table(cells))
        out_console.print(RULE, style="dim", highlight=False, soft_wrap=True)
        out_console.print(f"{conclusion(cells)} Over all: {census(cells)}.", highlight=False)
        _end(runs, serve, port)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def sweep(
    context: typer.Context,
    function: Annotated[
        str | None,
        typer.Argument(help="train.py:function or package.module:function; left out: the built-in training."),
    ] = None,
    out: Out = "runs/sweep",
    workers: Workers = 2,
    serve: Annotated[bool, typer.Option("--serve/--no-serve", help="Open the dashboard at the end.")] = False,
    port: Port = 8050,
) -> None:
    """Train every combination of the values given; options are its arguments.

    Values are separated by commas. The built-in training, gradscope.lab.train,
    takes --depth, --width, --activation, --init, --norm, --residual, --bias,
    --weight-var, --bias-var, --gain, --model (mlp or cnn), --steps,
    --batch-size, --optimizer (sgd or adam), --lr, --momentum, --every, --seed.

    Your own is called as function(out=folder, depth=8, ...) and writes a run
    into that folder with gradscope.watch.

    What has finished is not trained again, what failed or was stopped is: the
    same command goes on.

    [bold]Examples[/bold]

        gradscope sweep --depth 2,8,32 --activation sigmoid,relu

        gradscope sweep --depth 20 --weight-var 0.5,1,2,4 --bias-var 0.05

        gradscope sweep train.py:train --lr 0.1,0.01 --out runs/mine
    """
    with reported():
        # What is no option of ours arrives in order, and the first of it as the argument.
        words = [*([function] if function else []), *context.args]
        named = bool(words) and not words[0].startswith("--")
        train = find_function(words.pop(0)) if named else None
        grid = read_grid(words)
        runs = _train(train, out, workers, grid)
        out_console.print(runs_table(runs, [key for key, value in grid.items() if isinstance(value, list)]))
        _end(runs, serve, port)


@app.command()
def check(
    target: Annotated[str, typer.Argument(help="A run, a folder of runs, or script.py:function that makes a model.")],
    form: Annotated[Format, typer.Option("--format", help="How to report.")] = Format.text,
    output: Annotated[Path | None, typer.Option(help="File to write the report to; the letter is printed too.")] = None,
    fail_on: Annotated[FailOn, typer.Option(help="The mildest severity that makes the check fail.")] = FailOn.warning,
    shape: Annotated[
        str | None, typer.Option(help="Shape of one sample, such as 3,32,32, where the function returns none.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=2, help="Samples in a batch that is drawn.")] = 128,
    seed: Annotated[int, typer.Option(help="Of the model's initialization and of a batch that is drawn.")] = 0,
) -> None:
    """Diagnose a model before its first step, or runs; the exit code says how it went.

    The function is called without arguments and returns a model, or (model, x),
    (model, x, y), (model, x, y, loss_fn). Inputs that it leaves out are standard
    normal, targets random. Nothing is trained.

    Exit code 0: nothing as bad as --fail-on was found; 1: something was; 2: it,
    or one of the runs, could not be examined, and why is on the error stream.

    [bold]Examples[/bold]

        gradscope check train.py:make_model

        gradscope check train.py:make_model --shape 3,32,32 --fail-on critical

        gradscope check train.py:make_model --format junit --output gradients.xml

        gradscope check runs/tanh-50 --format sarif
    """
    with reported():
        from gradscope.cli import reports
        from gradscope.cli.check import Batch, examine, shape_of

        batch = Batch(batch_size, None if shape is None else shape_of(shape), seed)
        examined, left_out = examine(target, batch)
        failed = [f"{one.name} failed: {one.failure}" for one in examined if one.failure]
        empty = [one for one in examined if one.findings.unrecorded]
        unseen = [f"{one.name} could not be examined: {one.findings.unrecorded}" for one in empty if not one.failure]
        for remark in [*left_out, *failed, *unseen]:
            error_console.print(Text(f"gradscope: {remark}"), soft_wrap=True)
        report = reports.FORMATS[form.value](examined, fail_on.value)
        if output is not None:
            write_text(output, report)
            report = reports.text(examined, fail_on.value)
        typer.echo(report)
    severities = [finding.severity for one in examined for finding in one.findings]
    if any(reports.failing(severity, fail_on.value) for severity in severities):
        raise typer.Exit(1)
    if left_out or empty:
        raise typer.Exit(2)


@app.command()
def dashboard(
    runs: Annotated[str, typer.Argument(help="A run, or a folder of runs.")] = "runs",
    port: Port = 8050,
) -> None:
    """Look at runs in the browser; runs that are being written grow on screen.

    [bold]Examples[/bold]

        gradscope dashboard runs

        gradscope dashboard runs/tanh-50 --port 8051
    """
    with reported():
        from gradscope.runs import load
        from gradscope.runs.store import Store

        if Store(runs).is_file():
            load(runs)  # which says what a run is
        _serve(runs, port)


def _train(train: Callable[..., Any] | None, out: str, workers: int, grid: dict[str, Any]) -> Runs:
    """Run a sweep, of the built-in training if there is no other."""
    from gradscope.lab.grid import OWN
    from gradscope.lab.sweep import sweep as run_sweep

    if train is None:
        from gradscope.lab.training import train as built_in

        train = built_in
    for name in OWN:
        if name in grid:
            raise InvalidValueError(f"--{name} cannot be an argument of a training in a sweep")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"\d+ of \d+ runs failed")  # _end tells that
        return run_sweep(train, out, workers=workers, **grid)


def _serve(runs: str, port: int) -> None:
    """Serve the dashboard until Ctrl-C."""
    from gradscope.dashboards import serve

    def say(address: str) -> None:
        out_console.print(f"Dashboard of {runs} on {address} (Ctrl-C ends it)", highlight=False, soft_wrap=True)

    serve(runs, port=port, ready=say)


def _end(runs: Runs, serve_them: bool, port: int) -> None:
    """Say where the runs are and what failed; open the dashboard, or say how; exit code 1 if any failed."""
    failed = [run for run in runs if run.status == "failed"]
    for run in failed[:3]:
        last = (run.error or "unknown").strip().splitlines()[-1]
        error_console.print(Text(f"gradscope: {run.name} failed: {last}"), soft_wrap=True)
    ends = f", {len(failed)} of them failed" if failed else ""
    out_console.print(f"{len(runs)} run{'s' * (len(runs) != 1)} in {runs.path}{ends}", highlight=False)
    if serve_them:
        _serve(runs.path, port)
    else:
        out_console.print(f"Look at them: gradscope dashboard {runs.path}", highlight=False)
    if failed:
        raise typer.Exit(1)
