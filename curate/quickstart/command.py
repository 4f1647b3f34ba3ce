"""The quickstart: draw a pool with known defects, serve it, curate it, and say what was caught."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import polars as pl

from curate import ledger
from curate.display import summary
from curate.errors import ConfigError
from curate.pipeline import Options, Outcome, run
from curate.pipeline_file.config import load
from curate.pools.shard_table import load_table
from curate.quickstart.plant import Planted, catches, plant, write_url_list
from curate.quickstart.serve import DEFAULT_PORT, serve
from curate.records import Observe

SEED = 0
LAST_SYSTEM_PORT = 1023  # below lies the port on which connections are refused, on purpose


def pipeline_file() -> Path:
    """pipelines/quickstart.yaml: inside the installed package, or in a checkout."""
    here = Path(__file__).parent
    inside = here / "quickstart.yaml"
    return inside if inside.exists() else here.parents[1] / "pipelines" / "quickstart.yaml"


def run_quickstart(folder: Path, observe: Observe) -> tuple[Outcome, list[str]]:
    """Run it in a folder; the outcome, and what to print.

    Running it again in the same folder finishes, or repeats, the same run: the pool is drawn from
    a fixed seed and its list is written only once, so that its addresses stay what they were.
    """
    planted = plant(SEED)
    folder.mkdir(parents=True, exist_ok=True)
    urls = folder / "urls.parquet"
    with serve(planted.answers, _port(urls)) as base_url:
        if not urls.exists():
            write_url_list(planted, base_url, urls)
        elif not _lists(urls, base_url):
            raise ConfigError(
                f"{urls} names a server on a port that another program has taken since: stop that "
                "program, or use another `--folder`"
            )
        overrides = (f"pool.urls={urls}", f"work={folder / 'work'}")
        loaded = load(str(pipeline_file()), overrides)
        outcome = run(loaded, Options(), observe)
    work = loaded.config.work
    lines = [summary(outcome.report, work), "", *_caught(planted, base_url, work)]
    lines += ["", f"The report: {folder / 'work' / 'report' / 'index.html'}"]
    return outcome, lines


def _port(urls: Path) -> int:
    """The port of the list that is there, or the usual one."""
    if not urls.exists():
        return DEFAULT_PORT
    found = (urlsplit(url) for url in pl.read_parquet(urls)["url"])
    ports = (url.port or 0 for url in found)
    return next(port for port in ports if port > LAST_SYSTEM_PORT)


def _lists(urls: Path, base_url: str) -> bool:
    """Whether a list names this server (another port means other uids)."""
    return bool(pl.read_parquet(urls)["url"].str.starts_with(base_url).any())


def _caught(planted: Planted, base_url: str, work: str) -> Iterator[str]:
    """What was planted, and how much of it was removed."""
    kept = _kept_rows(planted, base_url, work)
    yield f"{'planted':<16}  {'rows':>5}  {'removed':>7}"
    for catch in catches(planted, kept):
        name = catch.defect or "nothing wrong"
        yield f"{name:<16}  {catch.planted:>5}  {catch.removed:>7}"


def _kept_rows(planted: Planted, base_url: str, work: str) -> list[int]:
    """Numbers of the planted rows that the ledger says were kept."""
    numbers = {(row.url(base_url), row.caption): n for n, row in enumerate(planted.rows)}
    kept = []
    for block in range(int(load_table(work)["block"].max()) + 1):  # type: ignore[arg-type]  # a column of ints
        fate = ledger.read_ledger(work, block)["fate"].to_list()
        pool = pl.read_parquet(Path(work) / "pool" / f"block-{block:04d}.parquet")
        pairs = pool.select("url", "caption").rows()
        kept += [numbers[pair] for pair, what in zip(pairs, fate, strict=True) if what == "kept"]
    return kept
