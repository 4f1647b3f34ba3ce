"""`curate subset ...`: what a subset file holds, and subsets made from subsets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from curate.errors import ConfigError

if TYPE_CHECKING:
    from curate.subsets.algebra import Comparison, Info, Rule
    from curate.subsets.subset_file import Form, Sequential

subsets = typer.Typer(
    name="subset",
    help="""Look into subset files of any size, and make new ones from them.

    A subset is a sorted `u8,u8` .npy file, as DataComp's tools and DFN's lists have it; a uid
    that stands in it n times is a sample to be seen n times. DataComp's rows without a header
    are read too, and lists of uids in hex: text (one per line), csv or parquet (--column).""",
    no_args_is_help=True,
    rich_markup_mode=None,
)

One = Annotated[str, typer.Argument(help="A subset file or its URL, or a list of uids.")]
Several = Annotated[list[str], typer.Argument(help="Two or more subset files or lists of uids.")]
Out = Annotated[str, typer.Option("--out", help="The file to write; replaced if there is one.")]
Column = Annotated[str, typer.Option("--column", help="Column of uids in a csv or parquet list.")]
Text = Annotated[bool, typer.Option("--text", help="Write text, one uid in hex per line.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@subsets.command()
def info(file: One, column: Column = "uid", *, as_json: Json = False) -> None:
    """Say how many rows, distinct uids and copies a subset file has, and whether it is sorted."""
    from curate.storage import entry
    from curate.subsets.algebra import describe
    from curate.subsets.subset_file import form_of, opened

    with opened([file], column) as (subset,):
        found, form = describe(subset), form_of(file)
    size = entry(file).bytes
    if as_json:
        ordered = {"sorted": found.unsorted_row is None}
        shown = {"file": file, "form": form, "bytes": size, **ordered, **asdict(found)}
        typer.echo(json.dumps(shown, indent=1))
        return
    typer.echo(f"{file}: {size:,} bytes")
    for line in _info_lines(file, form, found):
        typer.echo(line)


FORMS: dict[Form, str] = {
    "npy": ".npy, `u8,u8`",
    "raw": "bare rows of 16 bytes without an .npy header, as DataComp's resharder maps them",
    "text": "text, one uid per line; what follows is of the sorted list",
    "csv": "csv; what follows is of the sorted list",
    "parquet": "parquet; what follows is of the sorted list",
}


def _info_lines(file: str, form: Form, found: Info) -> list[str]:
    lines = [
        f"  form           {FORMS[form]}",
        f"  rows           {found.rows:,}",
    ]
    if found.unsorted_row is not None:
        return [
            *lines,
            f"  sorted         NO: row {found.unsorted_row:,} belongs before the row ahead of it,",
            "                 so tools that search it lose samples without a word. Sort it:",
            f"                 curate subset sort {file} --out sorted.npy",
            f"  first row      {found.first_uid}",
            f"  last row       {found.last_uid}",
        ]
    return [
        *lines,
        f"  distinct uids  {found.uids:,}",
        f"  most copies    {found.most_copies:,} of one uid",
        "  sorted         yes",
        f"  first uid      {found.first_uid or '-'}",
        f"  last uid       {found.last_uid or '-'}",
    ]


@subsets.command()
def union(
    files: Several,
    out: Out,
    copies: Annotated[
        Literal["max", "sum"],
        typer.Option(help="Of a uid in several files: the most copies, or all together."),
    ] = "max",
    column: Column = "uid",
    *,
    text: Text = False,
) -> None:
    """Write the uids that are in any of the files."""
    from curate.subsets import algebra

    _combine(files, algebra.union(copies), out, column, text=text)


@subsets.command()
def intersect(files: Several, out: Out, column: Column = "uid", *, text: Text = False) -> None:
    """Write the uids that are in all files, as often as in the file with the fewest copies."""
    from curate.subsets import algebra

    _combine(files, algebra.intersect(), out, column, text=text)


@subsets.command()
def minus(
    files: Several,
    out: Out,
    copies: Annotated[
        Literal["all", "each"],
        typer.Option(
            help="all: a uid of another file is gone with every copy; "
            "each: every copy there takes away one copy."
        ),
    ] = "all",
    column: Column = "uid",
    *,
    text: Text = False,
) -> None:
    """Write the uids of the first file that are in none of the others."""
    from curate.subsets import algebra

    _combine(files, algebra.minus(copies), out, column, text=text)


def _combine(files: Sequence[str], rule: Rule, out: str, column: str, *, text: bool) -> None:
    from curate.subsets.algebra import combined
    from curate.subsets.subset_file import opened

    if len(files) < 2:
        raise ConfigError(f"{files[0]}: name two files at least")
    with opened(files, column) as subsets:
        _write(out, combined(subsets, rule), text=text)


def _write(out: str, content: Sequential, *, text: bool) -> None:
    from curate.subsets.subset_file import write

    rows = write(out, content, "text" if text else "npy")
    typer.echo(f"{out}: {rows:,} rows")


@subsets.command()
def sample(  # noqa: PLR0913 - one parameter is one option of the command
    file: One,
    out: Out,
    count: Annotated[int | None, typer.Option(min=0, help="So many rows.")] = None,
    fraction: Annotated[
        str | None, typer.Option(metavar="DECIMAL", help="This share of the rows, rounded down.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed draws other rows.")] = 0,
    column: Column = "uid",
    *,
    text: Text = False,
) -> None:
    """Draw rows by a hash of seed, uid and number of the copy: a larger share draws those too."""
    from curate.subsets.subset_file import opened
    from curate.subsets.subset_sample import rows_of
    from curate.subsets.subset_sample import sample as draw

    if (count is None) == (fraction is None):
        raise ConfigError("give either --count or --fraction")
    with opened([file], column) as (subset,):
        rows = count if fraction is None else rows_of(fraction, subset.rows)
        assert rows is not None
        _write(out, draw(subset, rows, seed), text=text)


@subsets.command()
def diff(  # noqa: PLR0913 - one parameter is one option of the command
    a: Annotated[str, typer.Argument(help="A subset file or its URL, or a list of uids.")],
    b: Annotated[str, typer.Argument(help="Another one.")],
    out_only_a: Annotated[
        str | None, typer.Option(help="Write the uids that are only in A, with their copies.")
    ] = None,
    out_only_b: Annotated[
        str | None, typer.Option(help="Write the uids that are only in B, with their copies.")
    ] = None,
    column: Column = "uid",
    *,
    text: Text = False,
    as_json: Json = False,
) -> None:
    """Say what two subsets share: counts, Jaccard index, and how much of each is in the other."""
    from curate.subsets import algebra
    from curate.subsets.subset_file import opened, write

    with opened([a, b], column) as (first, second):
        found = algebra.compare(first, second)
        for out, files in ((out_only_a, [first, second]), (out_only_b, [second, first])):
            if out is not None:
                only = algebra.combined(files, algebra.minus("all"))
                write(out, only, "text" if text else "npy")
    if as_json:
        typer.echo(json.dumps({"a": a, "b": b, **asdict(found), **found.shares()}, indent=1))
        return
    for line in _diff_lines(a, b, found):
        typer.echo(line)


def _diff_lines(a: str, b: str, found: Comparison) -> list[str]:
    share = found.shares()
    return [
        f"A = {a}: {found.rows_a:,} rows, {found.uids_a:,} uids",
        f"B = {b}: {found.rows_b:,} rows, {found.uids_b:,} uids",
        f"  uids only in A          {found.uids_only_in_a:>15,}",
        f"  uids only in B          {found.uids_only_in_b:>15,}",
        f"  uids in both            {found.uids_in_both:>15,}",
        f"  ... with other copies   {found.uids_with_other_copies:>15,}",
        f"  rows in both            {found.rows_in_both:>15,}   (the fewer copies of each uid)",
        "                             as sets     counting copies",
        f"  Jaccard index           {share['jaccard']:>12.6f}    {share['jaccard_rows']:>12.6f}",
        f"  share of A that is in B {share['a_in_b']:>12.6f}    {share['a_in_b_rows']:>12.6f}",
        f"  share of B that is in A {share['b_in_a']:>12.6f}    {share['b_in_a_rows']:>12.6f}",
    ]


@subsets.command()
def sort(file: One, out: Out, column: Column = "uid", *, text: Text = False) -> None:
    """Write the rows of a file, or a list of uids, in ascending order."""
    from curate.subsets.subset_file import sort_listed

    rows = sort_listed(file, out, column, "text" if text else "npy")
    typer.echo(f"{out}: {rows:,} rows")
