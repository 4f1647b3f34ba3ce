"""The quickstart as a new user runs it: what is planted is caught, and always the same rows stay.

`python -m tests.test_quickstart` writes the golden file anew, after a look at what changed.
"""

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from curate.quickstart.command import run_quickstart
from curate.quickstart.plant import plant

GOLDEN = Path(__file__).parent / "golden" / "quickstart.json"


def came_to(folder: Path) -> dict:
    """The funnel, and the numbers of the planted rows that were kept (whatever the port was)."""
    outcome, _ = run_quickstart(folder, lambda progress: None)
    listed = pl.read_parquet(folder / "urls.parquet").with_row_index("number")
    pool = pl.read_parquet(folder / "work" / "pool" / "block-0000.parquet")
    ledger = pl.read_parquet(folder / "work" / "ledger" / "block-0000.parquet")
    rows = pool.select("url", "caption").with_columns(ledger["fate"])
    kept = listed.join(rows.filter(fate="kept"), on=["url", "caption"], nulls_equal=True)
    steps = {step["name"]: step["removed"] for step in outcome.report["steps"]}
    return {"removed": steps, "kept": sorted(kept["number"].to_list())}


def test_the_same_rows_stay_as_ever(tmp_path):
    found = came_to(tmp_path / "q")
    golden = json.loads(GOLDEN.read_text())
    assert found["removed"] == golden["removed"]
    assert found["kept"] == golden["kept"]
    assert (tmp_path / "q" / "work" / "report" / "index.html").stat().st_size > 50_000


@pytest.mark.slow
def test_the_command_prints_what_was_planted_and_what_was_caught(tmp_path):
    command = [sys.executable, "-m", "curate.cli", "quickstart", "--folder", str(tmp_path / "q")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    caught = {}
    for line in done.stdout.splitlines():
        words = line.split()
        if len(words) >= 3 and words[-1].isdigit() and words[-2].isdigit():
            caught[" ".join(words[:-2])] = (int(words[-2]), int(words[-1]))
    for defect, count in plant(0).counts.items():
        planted, removed = caught[defect]
        assert planted == count
        assert removed == planted or defect == "wrong_caption"
    assert caught["wrong_caption"][1] >= 38
    assert caught["nothing wrong"][1] <= 10
    assert str(tmp_path / "q" / "work" / "report" / "index.html") in done.stdout


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        GOLDEN.write_text(json.dumps(came_to(Path(scratch) / "q"), sort_keys=True) + "\n")
