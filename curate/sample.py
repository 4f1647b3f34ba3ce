"""A sample: its uid, its address, and the names its columns have here and elsewhere."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence

import numpy as np

UID = np.dtype([("f0", "<u8"), ("f1", "<u8")])  # upper and lower 64 bits: DataComp's `u8,u8`

# Every name that other tools give a column of ours. Matching ignores case.
FOREIGN_NAMES: dict[str, tuple[str, ...]] = {
    "uid": ("uid", "sample_id"),
    "url": ("url", "image_url", "uri"),
    "caption": ("caption", "text", "alt", "alt_text", "txt", "title", "description"),
    "key": ("key", "__key__"),
    "width": ("width",),
    "height": ("height",),
    "original_width": ("original_width",),
    "original_height": ("original_height",),
    "sha256": ("sha256",),
    "status": ("status",),
    "error_message": ("error_message",),
}
PICTURE_TAR = "picture_tar"  # which tar of the index has the picture of a row of metadata
INTERNAL = frozenset(("uid_hi", "uid_lo", "pool_problem", "row", PICTURE_TAR))  # what we add
_HEX = re.compile(r"[0-9a-fA-F]{1,32}")


def parse_uid(text: str) -> tuple[int, int]:
    """(upper, lower) 64 bits of a hex name of at most 32 digits, padded on the left with zeros.

    Raises:
        ValueError: the text is not 1 to 32 hexadecimal digits.
    """
    if not _HEX.fullmatch(text):
        raise ValueError(f"uid {text!r} is not 1 to 32 hexadecimal digits")
    value = int(text, 16)
    return value >> 64, value & (2**64 - 1)


def parse_uids(texts: Sequence[str]) -> np.ndarray:
    """[N] UID of N hex names; lower-cased and padded with zeros on the left."""
    padded = [text.zfill(32) for text in texts]
    joined = "".join(padded)
    if len(joined) != 32 * len(texts):
        wrong = next(text for text in padded if len(text) != 32)
        raise ValueError(f"uid {wrong!r} is longer than 32 hexadecimal digits")
    try:
        raw = bytes.fromhex(joined)
    except ValueError:
        raise ValueError(next(_complaint(t) for t in texts if not _HEX.fullmatch(t))) from None
    if len(raw) != 16 * len(texts) or "" in texts:  # fromhex skips blanks, zfill fills nothing
        raise ValueError(next(_complaint(t) for t in texts if not _HEX.fullmatch(t)))
    return np.frombuffer(raw, dtype=">u8").astype("<u8").reshape(-1, 2).view(UID).reshape(-1)


def _complaint(text: str) -> str:
    return f"uid {text!r} is not 1 to 32 hexadecimal digits"


def format_uids(uids: np.ndarray) -> list[str]:
    """32 lower-case hex digits for each of [N] UID."""
    raw = np.stack([uids["f0"], uids["f1"]], axis=1).astype(">u8").tobytes().hex()  # [N, 2]
    return [raw[start : start + 32] for start in range(0, len(raw), 32)]


def uid_of(caption: str | None, url: str | None) -> str:
    """DataComp's uid: md5 of the caption followed by the URL, in hex (cc2dataset)."""
    text = (caption or "") + (url or "")
    return hashlib.md5(text.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()


def make_uids(hi: np.ndarray, lo: np.ndarray) -> np.ndarray:
    """[N] UID from two [N] uint64 halves."""
    uids = np.empty(len(hi), dtype=UID)
    uids["f0"], uids["f1"] = hi, lo
    return uids


def canonical_names(names: Iterable[str], overrides: dict[str, str]) -> dict[str, str]:
    """Map foreign column names to ours: {their name: our name}; others keep their own name.

    Args:
        names: The columns of a file, in order; where two could be the same column of ours (`text`
            and `caption`), the one listed first in `FOREIGN_NAMES` wins. The other keeps its name,
            or gets `their_` before it where that is the name that was won.
        overrides: {our name: their name} as given by the user; these win.
    """
    names = list(names)
    lowered = {name.lower(): name for name in reversed(names)}
    mapping = {theirs: ours for ours, theirs in overrides.items()}
    for ours, candidates in FOREIGN_NAMES.items():
        if ours in overrides:
            continue
        found = next((lowered[name] for name in candidates if name in lowered), None)
        if found is not None and found not in mapping:
            mapping[found] = ours
    taken = set(mapping.values()) | INTERNAL
    result = {}
    for name in names:
        ours = mapping.get(name, name)
        while name not in mapping and ours in taken:
            ours = f"their_{ours}"
        taken.add(ours)
        result[name] = ours
    return result
