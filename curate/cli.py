"""The command line: parses and prints, decides nothing."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from curate import __version__
from curate.concepts.metadata_command import metadata_app
from curate.errors import CurateError
from curate.subsets.subset_commands import subsets

if TYPE_CHECKING:
    from curate.pipeline_file.schema import Config

app = typer.Typer(
    name="curate",
    help="Web-scale curation of image-text data: one YAML from URLs to a curated training set.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(subsets)
app.add_typer(metadata_app)

File = Annotated[str, typer.Argument(help="The pipeline file.")]
Work = Annotated[str, typer.Argument(help="The work folder of a run, or its URL.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a field: steps.clip_score.top_fraction=0.2."),
]
Limit = Annotated[
    int | None,
    typer.Option("--limit", min=1, help="Only so many samples, the first by uid hash, elsewhere."),
]


def echo(text: str = "") -> None:
    """Print for people."""
    typer.echo(text)


def _advise(config: Config) -> None:
    """Say what is allowed and yet hardly meant."""
    from curate.pipeline_file.advice import advice

    for line in advice(config):
        typer.echo(f"warning: {line}", err=True)


@app.command()
def check(file: File, set_: Set = None, limit: Limit = None) -> None:
    """Find everything that is wrong with a pipeline file, before any work."""
    from curate.check import compile_pipeline
    from curate.pipeline_file.config import load

    loaded = load(file, set_ or [], limit=limit)
    plan = compile_pipeline(loaded)
    _advise(loaded.config)
    steps = "1 step" if len(plan.steps) == 1 else f"{len(plan.steps)} steps"
    echo(f"{file} is fine: {steps}, work folder {plan.work}")


@app.command()
def run(  # noqa: PLR0913 - one parameter is one option of the command
    file: File,
    set_: Set = None,
    limit: Limit = None,
    recompute: Annotated[
        list[str] | None, typer.Option(help="Throw away what a step made, and make it again.")
    ] = None,
    *,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Fetch failed URLs again.")
    ] = False,
    steal: Annotated[
        bool, typer.Option("--steal", help="Take the folder from a dead run.")
    ] = False,
    brief: Annotated[
        bool, typer.Option("--brief", help="Report counts now; `curate report` adds the rest.")
    ] = False,
) -> None:
    """Run a pipeline, or finish one that was interrupted."""
    from curate.display import Display, summary
    from curate.pipeline import Options
    from curate.pipeline import run as run_pipeline
    from curate.pipeline_file.config import load

    loaded = load(file, set_ or [], limit=limit)
    known = {step.name for step in loaded.config.steps}
    for name in recompute or []:
        if name not in known:
            raise CurateError(
                f"--recompute {name}: no step is named so; there are: {', '.join(sorted(known))}"
            )
    options = Options(
        tuple(recompute or ()),
        "steal" if steal else "refuse",
        "retry" if retry_failed else "keep",
        "brief" if brief else "whole",
    )
    _advise(loaded.config)
    began = time.monotonic()
    with Display(sys.stderr) as display:
        outcome = run_pipeline(loaded, options, display.show)
    elapsed = time.monotonic() - began
    echo(summary(outcome.report, loaded.config.work))
    if outcome.reused == "everything":
        echo(f"Nothing to do: this very run was finished before ({elapsed:.1f} s to make sure).")
    raise typer.Exit(outcome.exit_code)


@app.command()
def plan(file: File, set_: Set = None, limit: Limit = None) -> None:
    """Say what a run would do, reuse or compute again, and why."""
    from curate.check import compile_pipeline
    from curate.pipeline_file.config import load
    from curate.plan import describe
    from curate.pools.pool import pool_columns

    loaded = load(file, set_ or [], limit=limit)
    compiled = compile_pipeline(loaded, columns=pool_columns(loaded.config.work) or None)
    _advise(loaded.config)
    for line in describe(compiled):
        echo(line)


@app.command()
def sweep(  # noqa: PLR0913 - one parameter is one option of the command
    file: File,
    vary: Annotated[
        list[str], typer.Option(help="path=start:stop:step or path=a,b,c; several make a grid.")
    ],
    set_: Set = None,
    until: Annotated[str | None, typer.Option(help="The last step to look at.")] = None,
    *,
    frozen_state: Annotated[
        bool,
        typer.Option(
            "--frozen-state", help="Later filters keep what they learnt in the file as written."
        ),
    ] = False,
    steal: Annotated[
        bool, typer.Option("--steal", help="Take the folder from a dead run.")
    ] = False,
) -> None:
    """Decide a pipeline at many values over stored columns: a subset for each, and a table."""
    from curate.display import Display
    from curate.sweep.command import Options
    from curate.sweep.command import sweep as sweep_values
    from curate.sweep.table import lines_of

    fits: Literal["each", "frozen"] = "frozen" if frozen_state else "each"
    taken: Literal["refuse", "steal"] = "steal" if steal else "refuse"
    options = Options(tuple(vary), tuple(set_ or ()), until, fits, taken)
    with Display(sys.stderr) as display:
        swept = sweep_values(file, options, display.show)
    for line in lines_of(swept.table, swept.estimates):
        echo(line)
    echo(f"subsets and table: {swept.folder}")


@app.command()
def status(work: Work) -> None:
    """Say how far the run in a work folder is."""
    from curate.display import status_lines

    lines = status_lines(work)
    if not lines:
        raise CurateError(f"{work}: no run was started there")
    for line in lines:
        echo(line)


@app.command()
def report(work: Work) -> None:
    """Print the funnel of a run, and where its page is; of one that stopped, as far as it came."""
    from curate.display import summary
    from curate.report.halfway import report_of

    echo(summary(report_of(work), work))


@app.command()
def diff(
    a: Annotated[str, typer.Argument(help="The work folder of a finished run, or a subset file.")],
    b: Annotated[str, typer.Argument(help="Another one.")],
    out: Annotated[
        str | None,
        typer.Option(help="The folder to write to; `diff-<a>-<b>` in this one if absent."),
    ] = None,
    columns: Annotated[
        list[str] | None, typer.Option(help="One more column to compare: STEP.FIELD.")
    ] = None,
    words: Annotated[int, typer.Option(min=1, help="Words of each side that are listed.")] = 30,
) -> None:
    """Say what sets two runs or subsets apart: who is in, why, pictures, numbers, words."""
    from curate.comparison.command import Asked
    from curate.comparison.command import diff as compare
    from curate.comparison.text import lines_of
    from curate.runner import LocalRunner

    folder, found = compare(a, b, Asked(out, tuple(columns or ()), words), LocalRunner())
    for line in lines_of(found):
        echo(line)
    echo(f"page: {folder}/index.html, numbers: {folder}/diff.json")


@app.command()
def concepts(  # noqa: PLR0913 - one parameter is one option of the command
    work: Work,
    step: Annotated[str | None, typer.Option(help="One `concepts` step; all if absent.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Entries and classes of a list.")] = 30,
    classes: Annotated[
        str | None, typer.Option(help="Class names, a class on each line, or `imagenet`.")
    ] = None,
    wordnet: Annotated[
        str | None, typer.Option(help="WordNet's folder, for plurals; looked for if absent.")
    ] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say how often a finished run's concepts occur, before and after each step."""
    import json

    from curate.frequencies.command import Asked, answer
    from curate.frequencies.text import lines_of
    from curate.runner import LocalRunner

    found = answer(work, Asked(step, top, classes, wordnet), LocalRunner())
    if as_json:
        echo(json.dumps(found, indent=1, ensure_ascii=False))
        return
    for line in lines_of(found, top):
        echo(line)


@app.command()
def explain(
    work: Work,
    sample: Annotated[
        str, typer.Argument(help="Its uid (or the first 8 digits), URL, key, or tar/key.")
    ],
    picture: Annotated[
        str | None,
        typer.Option(help="The file for its picture; <uid>.<ending> here if absent."),
    ] = None,
    *,
    no_picture: Annotated[bool, typer.Option("--no-picture", help="Write no picture.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say all that is known of one sample: values, every step's verdict and why, its picture."""
    import json

    from curate.explanation import Wish
    from curate.explanation import explain as explain_sample
    from curate.explanation.text import lines_of
    from curate.runner import LocalRunner

    found = explain_sample(work, sample, Wish(picture, write=not no_picture), LocalRunner())
    if as_json:
        # In ASCII: controls that strangers wrote must not reach a terminal.
        echo(json.dumps(found.model_dump(mode="json"), indent=1))
        return
    for line in lines_of(found):
        echo(line)


@app.command()
def card(
    work: Work,
    out: Annotated[
        str | None,
        typer.Option(help="The file; README.md beside the shards, or in WORK, if absent."),
    ] = None,
) -> None:
    """Write a dataset card from a finished run's report, as the Hugging Face hub reads it."""
    from curate.card import write_card

    written = write_card(work, out)
    said = {
        "nothing": "written",
        "the same": "was up to date",
        "older": "was of another report, and is written anew",
    }
    echo(f"{written.url} {said[written.before]}")


@app.command()
def write(  # noqa: PLR0913 - one parameter is one option of the command
    subset: Annotated[str, typer.Option(help="The subset: a `u8,u8` .npy of uids.")],
    shards: Annotated[str, typer.Option(help="Tars: a folder, path, glob or braces.")],
    out: Annotated[str, typer.Option(help="The folder to write to.")],
    samples_per_shard: Annotated[int, typer.Option(min=1, help="Of one output shard.")] = 10_000,
    boxes: Annotated[
        str | None, typer.Option(help="Metadata parquet with face_bboxes; implies --blur.")
    ] = None,
    blur_format: Annotated[
        Literal["keep", "webp"], typer.Option(help="What blurred pictures become.")
    ] = "keep",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads here, or CPUs of Ray where it is local.")
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster: auto, host:port, or local to start one here.")
    ] = None,
    *,
    blur: Annotated[bool, typer.Option("--blur", help="Blur the faces that are known.")] = False,
    require_all: Annotated[
        bool, typer.Option("--require-all", help="Stop, exit 4, if a uid is not found.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Throw away what another subset left there.")
    ] = False,
    steal: Annotated[
        bool, typer.Option("--steal", help="Take the folder from a dead run.")
    ] = False,
) -> None:
    """Write the samples of a subset file as shards, straight from a pool's shards."""
    from curate.resharding.blur import Blur
    from curate.resharding.reshard import Options, Reshard, report, reshard
    from curate.runner import LocalRunner, RayRunner
    from curate.write import Write

    chosen = Blur(format=blur_format) if blur or boxes is not None else None
    spec = Reshard(subset, shards, out, Write(samples_per_shard=samples_per_shard), chosen, boxes)
    options = Options(
        "overwrite" if overwrite else "refuse",
        "steal" if steal else "refuse",
        "refuse" if require_all else "list",
    )
    runner: LocalRunner | RayRunner = LocalRunner(workers)
    if address is not None:
        runner = RayRunner(None if address == "local" else address, workers=workers)
    try:
        outcome = reshard(spec, runner, options, lambda line: typer.echo(line, err=True))
    finally:
        runner.close()
    for line in report(outcome, spec):
        echo(line)
    raise typer.Exit(outcome.result.exit_code)


@app.command()
def clean(
    file: File,
    *,
    delete: Annotated[bool, typer.Option("--delete", help="Really delete.")] = False,
) -> None:
    """List what a work folder holds that its pipeline no longer uses; `--delete` removes it."""
    from curate.clean import remove, unused
    from curate.pipeline_file.config import load

    config = load(file).config
    found = unused(config)
    for url, size in found:
        echo(f"{size / 1e6:10.1f} MB  {url}")
    if not found:
        echo("Nothing is unused.")
    elif delete:
        remove(config)
        echo(f"Deleted {len(found)}.")
    else:
        echo("Add --delete to remove these.")


@app.command()
def quickstart(
    folder: Annotated[
        str, typer.Option(help="Where to put the pictures, the run and its report.")
    ] = "quickstart",
) -> None:
    """Curate a small drawn pool with known defects: no network, no GPU, about a minute."""
    from curate.display import Display
    from curate.quickstart.command import run_quickstart

    with Display(sys.stderr) as display:
        outcome, lines = run_quickstart(Path(folder), display.show)
    for line in lines:
        echo(line)
    raise typer.Exit(outcome.exit_code)


@app.command()
def version() -> None:
    """Print the version."""
    echo(__version__)


def main(arguments: list[str] | None = None) -> None:
    """Run a command; what the user can mend is printed without a traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    sys.exit(_guarded(arguments))


def _guarded(arguments: list[str] | None) -> Literal[0, 1, 2, 3, 4] | int:
    try:
        result: Any = app(arguments, standalone_mode=False)
    except CurateError as error:
        typer.echo(str(error), err=True)
        return error.exit_code
    except typer.Exit as stop:
        return stop.exit_code
    except typer.Abort:
        return 130
    except _usage_errors() as error:
        error.show()
        return 2
    return result if isinstance(result, int) else 0


def _usage_errors() -> tuple[type[Any], ...]:
    """The parser's own errors: typer carries its parser inside, or uses click."""
    modules = (sys.modules.get(name) for name in ("typer._click.exceptions", "click.exceptions"))
    return tuple(module.ClickException for module in modules if module is not None)


if __name__ == "__main__":
    main()
