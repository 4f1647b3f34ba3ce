"""A sweep over pairs and quotas: each subset is what a run with that value selects."""

import itertools

import pytest
from embedding_pool import embed
from tiny_pool import Pipeline

from curate.errors import ConfigError
from curate.sweep.command import Options, sweep

STEPS = (
    {"random_sample": {"fraction": 0.9}},
    {"clusters": {"name": "fine", "of": "l14_img", "count": 6}},
    {"neighbours": {"of": "l14_img", "within": "fine", "floor": 0.4}},
    {"semantic_duplicates": {"threshold": 0.7, "keep": {"highest": "clip_l14_similarity_score"}}},
    {"concept_prune": {"clusters": "fine", "keep": 0.5}},
)
THRESHOLDS, SHARES = ("0.6", "0.8"), ("0.2", "0.9")


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pool")
    pool = embed(400, noise=0.3).write(folder / "in", 3)
    made = Pipeline(folder, pool, STEPS, fields=(("rows_per_block", 150),))
    assert made.run().exit_code == 0
    return made


def test_every_value_selects_what_a_run_selects(pipe):
    vary = (
        f"steps.semantic_duplicates.threshold={','.join(THRESHOLDS)}",
        f"steps.concept_prune.keep={','.join(SHARES)}",
    )
    sweep(pipe.file(), Options(vary), lambda progress: None)
    (folder,) = (pipe.work / "sweep").iterdir()
    sizes = set()
    for threshold, share in itertools.product(THRESHOLDS, SHARES):
        own = pipe.run(
            f"steps.semantic_duplicates.threshold={threshold}", f"steps.concept_prune.keep={share}"
        )
        sizes.add(own.report["totals"]["kept"])
        said = (folder / f"{threshold}+{share}.npy").read_bytes()
        assert said == (pipe.work / "subset.npy").read_bytes()
    assert len(sizes) == 4


def test_a_threshold_below_the_floor_is_refused(pipe):
    with pytest.raises(ConfigError, match=r"threshold 0\.3 is below the floor 0\.4 of neighbours"):
        sweep(
            pipe.file(),
            Options(("steps.semantic_duplicates.threshold=0.3",)),
            lambda progress: None,
        )
