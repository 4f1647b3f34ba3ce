"""A trie over sequences of 64-bit symbols, held in two open-addressed tables of numpy arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NEVER = 0xFF  # no symbol: a word that begins with byte 0xFF has nothing else

_MIX = np.uint64(0x9E3779B97F4A7C15)  # Fibonacci hashing: 2^64 / golden ratio
_MIX_NODE = np.uint64(0xC2B2AE3D27D4EB4F)
_SPARE = 4  # slots for each key, at least: two of three look-ups end with the first


@dataclass(frozen=True)
class Table:
    """{(parent node, symbol): node}, for many look-ups at once."""

    symbols: np.ndarray  # [slots] uint64; NEVER where the slot is free
    parents: np.ndarray  # [slots] int32; [0] where all have the same parent
    nodes: np.ndarray  # [slots] int32

    def find(
        self, symbols: np.ndarray, parents: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Which of K look-ups find something, and the nodes: [M] int64, [M] int32, in any order.

        Args:
            symbols: [K] uint64.
            parents: [K] int32; None asks for children of the one parent that all have.
        """
        slots = _slots(symbols, parents, len(self.symbols))
        rows: np.ndarray | None = None  # which of the K are still looked for; None: all
        found_rows, found_nodes = [], []
        while True:
            there = self.symbols.take(slots)
            hits = np.flatnonzero(there == symbols)
            if parents is not None:
                hits = hits[self.parents.take(slots.take(hits)) == parents.take(hits)]
            found_nodes.append(self.nodes.take(slots.take(hits)))
            found_rows.append(hits if rows is None else rows.take(hits))
            open_ = there != NEVER
            open_[hits] = False
            others = np.flatnonzero(open_)
            if not len(others):
                return np.concatenate(found_rows), np.concatenate(found_nodes)
            rows = others if rows is None else rows.take(others)
            symbols = symbols.take(others)
            parents = parents if parents is None else parents.take(others)
            slots = slots.take(others)
            slots += 1
            slots &= len(self.symbols) - 1


def table(symbols: np.ndarray, parents: np.ndarray | None, nodes: np.ndarray) -> Table:
    """The table of K different keys: [K] uint64, [K] int32 or None, [K] int32."""
    size = 1 << max(4, (_SPARE * len(symbols) - 1).bit_length())
    owner = np.full(size, -1, dtype=np.int64)
    rows = np.arange(len(symbols))
    slots = _slots(symbols, parents, size)
    while len(rows):
        free = owner.take(slots) < 0
        owner[slots[free]] = rows[free]  # of those that want the same slot the last has it
        late = owner.take(slots) != rows
        rows, slots = rows[late], (slots[late] + 1) & (size - 1)
    used = np.flatnonzero(owner >= 0)
    own = owner.take(used)
    return Table(
        _spread(size, used, symbols.take(own), NEVER),
        np.zeros(0, dtype=np.int32)
        if parents is None
        else _spread(size, used, parents.take(own), -1),
        _spread(size, used, nodes.take(own), -1),
    )


def _spread(size: int, places: np.ndarray, values: np.ndarray, other: int) -> np.ndarray:
    whole = np.full(size, other, dtype=values.dtype)
    whole[places] = values
    return whole


def _slots(symbols: np.ndarray, parents: np.ndarray | None, size: int) -> np.ndarray:
    """[K] int64: where each is looked for first."""
    mixed = symbols * _MIX
    if parents is not None:
        mixed ^= parents.astype(np.uint64) * _MIX_NODE
        mixed *= _MIX
    mixed >>= np.uint64(65 - size.bit_length())
    return mixed.view(np.int64)


@dataclass(frozen=True)
class Trie:
    """E sequences by their symbols; the node where a sequence ends has the sequence's number.

    All other nodes have numbers from E on.
    """

    count: int  # E
    first: Table  # of first symbols
    later: Table
    inner: np.ndarray  # [nodes] bool: whether more may follow


def trie(symbols: np.ndarray, offsets: np.ndarray) -> Trie:
    """The trie of E different sequences, none empty.

    Args:
        symbols: [S] uint64, one sequence after the other.
        offsets: [E + 1] int64.
    """
    count = len(offsets) - 1
    lengths = np.diff(offsets)
    rows = np.arange(count)
    nodes = np.zeros(count, dtype=np.int64)  # where each sequence has come to
    levels: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    used, depth = count, 0
    while len(rows):
        key = symbols.take(offsets.take(rows) + depth)
        order = np.lexsort((key, nodes.take(rows)))
        rows, key = rows.take(order), key.take(order)
        parent = nodes.take(rows)
        new = np.ones(len(rows), dtype=bool)
        new[1:] = (key[1:] != key[:-1]) | (parent[1:] != parent[:-1])
        group = np.cumsum(new) - 1
        node = np.full(int(new.sum()), -1, dtype=np.int64)
        ended = lengths.take(rows) == depth + 1
        node[group[ended]] = rows[ended]
        unnamed = np.flatnonzero(node < 0)
        node[unnamed] = used + np.arange(len(unnamed))
        used += len(unnamed)
        levels.append((key[new], parent[new], node))
        nodes[rows] = node.take(group)
        rows, depth = rows[~ended], depth + 1
    return _assembled(count, used, levels)


def _assembled(
    count: int, used: int, levels: list[tuple[np.ndarray, np.ndarray, np.ndarray]]
) -> Trie:
    nothing = (np.zeros(0, np.uint64), np.zeros(0, np.int64), np.zeros(0, np.int64))
    first, *rest = levels or [nothing]
    later = [np.concatenate(parts) for parts in zip(nothing, *rest, strict=True)]
    inner = np.zeros(used, dtype=bool)
    inner[later[1]] = True
    return Trie(
        count,
        table(first[0], None, first[2].astype(np.int32)),
        table(later[0], later[1].astype(np.int32), later[2].astype(np.int32)),
        inner,
    )
