"""Tiles of products: bits that depend on no place, and what is found in them."""

import numpy as np
import pytest
import torch

from curate.features import _products
from curate.features._products import Products, triangle_at_least, unit

WIDTHS = (1, 24, 100, 513, 768)


def vectors(count, width, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=(count, width)).astype(dtype)


def whole(products, left, right):
    """[N, M] of all products, by what finds everything above a floor below them all."""
    found = products.at_least(products.load(left), products.load(right), -1e30)
    table = np.full((len(left), len(right)), np.nan, dtype=np.float32)
    table[found.left, found.right] = found.value
    return table


@pytest.mark.parametrize("width", WIDTHS)
def test_products_are_right(width):
    left, right = unit(vectors(300, width))[0], unit(vectors(257, width, 1))[0]
    found = whole(Products("cpu"), left, right)
    wanted = left.astype(np.float64) @ right.astype(np.float64).T
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("width", WIDTHS)
def test_no_bit_depends_on_place_or_side(width):
    """Other rows around, another place in the tile, left for right: the same bits."""
    products, rng = Products("cpu"), np.random.default_rng(2)
    left, right = vectors(513, width), vectors(300, width, 1)
    table = whole(products, left, right)
    swapped = whole(products, right, left).T
    assert (swapped == table).all()
    one, other = rng.permutation(513), rng.permutation(300)
    assert (whole(products, left[one], right[other]) == table[one][:, other]).all()
    for rows, columns in ((slice(3, 4), slice(0, 300)), (slice(250, 260), slice(7, 200))):
        assert (whole(products, left[rows], right[columns]) == table[rows, columns]).all()


def test_threads_change_no_bit():
    left, right = vectors(600, 96), vectors(600, 96, 1)
    before, made = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            made.append(whole(Products("cpu"), left, right).tobytes())
            assert torch.get_num_threads() == threads, "opening a device leaves torch as it was"
    finally:
        torch.set_num_threads(before)
    assert made[0] == made[1] == made[2]


def test_a_triangle_has_each_pair_once():
    rows = unit(vectors(600, 8))[0]
    loaded = Products("cpu").load(rows)
    parts = [triangle_at_least(loaded, 0.5, i) for i in range(loaded.tiles)]
    found = {(a, b): v for p in parts for a, b, v in zip(p.left, p.right, p.value, strict=True)}
    exact = rows.astype(np.float64) @ rows.T
    wanted = {(a, b) for a, b in np.argwhere(exact >= 0.5) if a < b}
    assert not np.any(np.abs(exact - 0.5) < 1e-7), "no pair is on the edge"
    assert set(found) == wanted
    assert sum(len(part.left) for part in parts) == len(found)
    assert all(abs(value - exact[pair]) < 1e-6 for pair, value in found.items())


def test_a_product_on_the_floor_is_found():
    rows = np.array([[1.0, 0.0], [0.5, 0.0], [0.25, 9.0]], dtype=np.float32)
    products = Products("cpu")
    found = products.at_least(products.load(rows[:1]), products.load(rows), 0.5)
    assert found.right.tolist() == [0, 1]
    assert found.value.tolist() == [1.0, 0.5]


def test_the_nearest_is_the_first_of_equals():
    left, right = (unit(vectors(count, 16, seed))[0] for count, seed in ((400, 0), (700, 1)))
    right[650] = left[7] = right[3]
    products = Products("cpu")
    row, value = products.nearest(products.load(left), products.load(right))
    table = left.astype(np.float64) @ right.astype(np.float64).T
    assert row[7] == 3
    np.testing.assert_array_equal(row, table.argmax(axis=1))
    np.testing.assert_allclose(value, table.max(axis=1), rtol=1e-5)


def test_padding_is_no_neighbour():
    """Rows of zeros fill up a tile: they are nearest to nobody, however far the others are."""
    left, right = -np.ones((3, 4), dtype=np.float32), np.ones((2, 4), dtype=np.float32)
    products = Products("cpu")
    row, value = products.nearest(products.load(left), products.load(right))
    assert (row == 0).all()
    assert (value == -4).all()
    assert len(products.at_least(products.load(left), products.load(right), -4.5).left) == 6


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_unit_lengths_do_not_depend_on_the_batch(dtype):
    rows = vectors(3000, 70, dtype=dtype)
    made, known = unit(rows)
    assert known.all()
    wanted = rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    np.testing.assert_allclose(made, wanted, atol=1e-7)
    for part in (slice(0, 1), slice(5, 12), slice(1999, 3000)):
        assert (unit(rows[part])[0] == made[part]).all()


def test_what_has_no_direction():
    rows = vectors(6, 4)
    rows[1], rows[2, 3], rows[3, 0], rows[4], rows[5] = 0, np.nan, np.inf, 1e30, 1e-30
    made, known = unit(rows)
    assert known.tolist() == [True, False, False, False, False, False]
    assert (made[1:] == 0).all()
    assert np.isfinite(made).all()


def test_nothing_makes_nothing():
    products = Products("cpu")
    nothing = products.load(np.empty((0, 5), dtype=np.float32))
    some = products.load(vectors(3, 5))
    assert len(products.at_least(nothing, some, 0.0).left) == 0
    assert len(products.at_least(some, nothing, 0.0).left) == 0
    assert len(products.nearest(nothing, some)[0]) == 0
    assert unit(np.empty((0, 5), dtype=np.float16))[0].shape == (0, 5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_finds_the_same():
    rows = unit(vectors(3000, 64))[0]
    cpu, gpu = Products("cpu"), Products("cuda")
    one, other = (whole(made, rows[:100], rows) for made in (cpu, gpu))
    np.testing.assert_allclose(one, other, atol=1e-6)
    assert _products.SIDE["cuda"] > _products.SIDE["cpu"]
