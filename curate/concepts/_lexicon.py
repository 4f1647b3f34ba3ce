"""A trie over sequences of 64-bit symbols, held in two open-addressed tables of numpy arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NEVER = 0xFF  # no symbol: a word that begins with byte 0xFF has nothing else

LEAF, PART, WHOLE = range(3)  # kinds of a node
WHOLE_FROM = np.uint64(0xFF << 56)  # symbols from here on end a token

_MIXES = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F))  # of both choices
_MIX_NODE = np.uint64(0x165667B19E3779F9)
_SPARE = 2.5  # slots for each key, at least
_ROUNDS = 200  # of moving keys, before there are too few slots


@dataclass(frozen=True)
class Table:
    """{(parent node, symbol): node}, for many look-ups at once.

    Cuckoo hashing (Pagh and Rodler, 2004): a key is in one of two slots, so two looks are enough;
    and in the second only where the first has another key.
    """

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
        slots = _slots(0, symbols, parents, len(self.symbols))
        there = self.symbols.take(slots)
        other = there != symbols
        hits = self._of(np.flatnonzero(~other), slots, parents, other)
        other &= there != NEVER
        rows = np.flatnonzero(other)
        symbols = symbols.take(rows)
        parents = None if parents is None else parents.take(rows)
        again = _slots(1, symbols, parents, len(self.symbols))
        other = self.symbols.take(again) != symbols
        late = self._of(np.flatnonzero(~other), again, parents, other)
        places = np.concatenate([slots.take(hits), again.take(late)])
        return np.concatenate([hits, rows.take(late)]), self.nodes.take(places)

    def _of(
        self, rows: np.ndarray, slots: np.ndarray, parents: np.ndarray | None, other: np.ndarray
    ) -> np.ndarray:
        """Those of the rows with the right symbol whose parent is right too; the rest are other."""
        if parents is None:
            return rows
        right = self.parents.take(slots.take(rows)) == parents.take(rows)
        other[rows] = ~right
        return rows.compress(right)


def table(symbols: np.ndarray, parents: np.ndarray | None, nodes: np.ndarray) -> Table:
    """The table of K different keys: [K] uint64, [K] int32 or None, [K] int32."""
    size = 1 << max(4, int(_SPARE * len(symbols)).bit_length())
    owner = _placed(symbols, parents, size)
    while owner is None:
        size *= 2
        owner = _placed(symbols, parents, size)
    used = np.flatnonzero(owner >= 0)
    own = owner.take(used)
    known = np.zeros(0, dtype=np.int32)
    return Table(
        _spread(size, used, symbols.take(own), NEVER),
        known if parents is None else _spread(size, used, parents.take(own), -1),
        _spread(size, used, nodes.take(own), -1),
    )


def _placed(symbols: np.ndarray, parents: np.ndarray | None, size: int) -> np.ndarray | None:
    """[size] int64: the key in each slot, -1 for none; None where they find no place."""
    slots = np.stack([_slots(choice, symbols, parents, size) for choice in (0, 1)])
    owner = np.full(size, -1, dtype=np.int64)
    choice = np.zeros(len(symbols), dtype=np.int64)
    homeless = np.arange(len(symbols))
    for _ in range(_ROUNDS):
        if not len(homeless):
            return owner
        wanted = slots[choice[homeless], homeless]
        before = owner.take(wanted)
        owner[wanted] = homeless  # of those that want the same slot the last has it
        lost = homeless[owner.take(wanted) != homeless]
        homeless = np.union1d(lost, before[before >= 0])
        choice[homeless] ^= 1
    return None


def _spread(size: int, places: np.ndarray, values: np.ndarray, other: int) -> np.ndarray:
    whole = np.full(size, other, dtype=values.dtype)
    whole[places] = values
    return whole


def _slots(choice: int, symbols: np.ndarray, parents: np.ndarray | None, size: int) -> np.ndarray:
    """[K] int64: where each is looked for first (0) or else (1)."""
    mixed = symbols * _MIXES[choice]
    if parents is not None:
        mixed ^= parents.astype(np.uint64) * _MIX_NODE
        mixed *= _MIXES[choice]
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
    kinds: np.ndarray  # [nodes] uint8: LEAF; or PART, or WHOLE where its last symbol ends a token


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
    nodes = np.concatenate([level[2] for level in levels] or [nothing[2]])
    whole = np.zeros(used, dtype=bool)
    whole[nodes] = np.concatenate([level[0] for level in levels] or [nothing[0]]) >= WHOLE_FROM
    kinds = np.zeros(used, dtype=np.uint8)
    kinds[later[1]] = np.where(whole[later[1]], WHOLE, PART)
    return Trie(
        count,
        table(first[0], None, first[2].astype(np.int32)),
        table(later[0], later[1].astype(np.int32), later[2].astype(np.int32)),
        kinds,
    )
