"""Hashes of texts: the same everywhere, whoever asks first."""

import threading

import polars as pl

from curate import siphash


def test_a_hash_is_that_of_its_text_and_key():
    found = siphash.hashed(pl.Series(["a", "", "a", "\u00e9"]), "curate column f0")
    assert found.tolist() == [
        6179593551743784439, 208460906579729886, 6179593551743784439, 12960421932152600053,
    ]  # fmt: skip
    assert (found != siphash.hashed(pl.Series(["a", "", "a", "\u00e9"]), "curate column f1")).all()


def test_one_thread_at_a_time_imports_what_hashes():
    """Two that import pandas first, at once, were seen to deadlock."""
    done = threading.Event()

    def work():
        siphash.hashed(pl.Series(["a"]), "curate column f0")
        done.set()

    with siphash._IMPORTING:
        thread = threading.Thread(target=work)
        thread.start()
        assert not done.wait(0.3)
    assert done.wait(30)
    thread.join()
