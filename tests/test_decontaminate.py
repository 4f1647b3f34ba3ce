"""Copies of references are removed by how near they are, and the step behind it is found."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters import Batch, Unbound, judge
from filters.decontaminate import COPY, ISC21, Decontaminate

COSINE = {
    "references.similarity": "Float32",
    "references.reference": "String",
    "references.mirrored": "Boolean",
    "clip.similarity": "Float32",
}
HASHES = {"hashes.distance": "UInt32", "hashes.reference": "String", "fine.distance": "Float32"}


def said(filter_, step, **columns):
    """The reasons for samples with these columns of a step."""
    rows = len(next(iter(columns.values())))
    fields = pl.DataFrame({"reference": [f"r{n}" for n in range(rows)], **columns})
    frame = pl.DataFrame({step: fields.to_struct()})
    return judge(
        filter_, Batch(frame, lambda: None, lambda: None, lambda salt: None)
    ).reason.to_list()


def test_by_default_the_threshold_is_the_one_that_datacomp_used():
    similarity = pl.Series([0.604168, 0.604170, -1.0, 1.0, None], dtype=pl.Float32)
    ready = Decontaminate().bind(COSINE)
    assert said(ready, "references", similarity=similarity) == [None, COPY, None, COPY, "unscored"]
    assert ready.shows({}).thresholds == {COPY: 0.604169}
    assert ready.shows({}).columns == ("references.similarity", "references.reference")


def test_a_limit_is_inclusive():
    similarity = pl.Series([0.5, 0.75, 0.751], dtype=pl.Float32)
    ready = Decontaminate(at_most=0.75).bind(COSINE)
    assert said(ready, "references", similarity=similarity) == [None, None, COPY]
    distance = pl.Series([0, 4, 5, 64, None], dtype=pl.UInt32)
    ready = Decontaminate(at_least=5).bind(HASHES)
    assert said(ready, "hashes", distance=distance) == [COPY, COPY, None, None, "unscored"]
    assert ready.shows({}).thresholds == {COPY: 5.0}


@given(st.lists(st.floats(-1, 1, width=32), min_size=1), st.floats(-1, 1), st.floats(-1, 1))
def test_a_lower_limit_adds_nobody(values, one, other):
    similarity = pl.Series(values, dtype=pl.Float32)
    low, high = (Decontaminate(at_most=limit).bind(COSINE) for limit in sorted((one, other)))
    few, many = (said(each, "references", similarity=similarity) for each in (low, high))
    assert all(more is None for more, less in zip(many, few, strict=True) if less is None)


def test_the_step_is_found_or_must_be_named():
    assert Decontaminate().bind(COSINE).needs() == (
        "references.similarity", "references.reference",
    )  # fmt: skip
    with pytest.raises(Unbound, match="several steps give references: references, hashes; name"):
        Decontaminate().bind(COSINE | HASHES)
    named = Decontaminate(of="hashes", at_least=3).bind(COSINE | HASHES)
    assert named.needs() == ("hashes.distance", "hashes.reference")
    with pytest.raises(Unbound, match=r"put `- references: \{...\}` before this step"):
        Decontaminate().bind({"clip.similarity": "Float32"})
    with pytest.raises(Unbound, match="clip is no `references` step; there are: references"):
        Decontaminate(of="clip").bind(COSINE)


def test_a_limit_must_fit_what_is_compared():
    both = Decontaminate(at_most=0.5, at_least=5).problems()
    assert both == ["give one of: at_most (for embeddings), at_least (for hashes)"]
    with pytest.raises(Unbound, match="it counts bits of hashes, and references compares embedd"):
        Decontaminate(at_least=5).bind(COSINE)
    with pytest.raises(Unbound, match=r"^hashes compares hashes: write `at_least:`"):
        Decontaminate().bind(HASHES)
    with pytest.raises(Unbound, match=r"^at_most: it is for the cosine of embeddings; hashes"):
        Decontaminate(at_most=0.5).bind(HASHES)


def test_the_threshold_of_one_model_is_none_for_another():
    def refusals(model, **fields):
        before = {"references": {"of": "image_model.image"}, "image_model": {"model": model}}
        return Decontaminate(**fields).bind(COSINE).refusals(before)

    assert refusals("isc_ft_v107") == []
    assert refusals("vit_large_patch14_dinov2", at_most=ISC21) == []
    assert refusals("vit_large_patch14_dinov2") == [
        "at_most: 0.604169 is the threshold of isc_ft_v107, and image_model.image is by "
        "vit_large_patch14_dinov2: give `at_most:`, the highest cosine that passes"
    ]
    of_pool = {"references": {"of": "dedup"}}  # a column of the pool
    (problem,) = Decontaminate().bind(COSINE).refusals(of_pool)
    assert "dedup is by a model unknown here" in problem
    assert Decontaminate(at_most=ISC21).bind(COSINE).refusals(of_pool) == []
    hashes = {"hashes": {"of": "perceptual_hash.phash"}, "perceptual_hash": {"hash": "phash"}}
    assert Decontaminate(at_least=5).bind(HASHES).refusals(hashes) == []
