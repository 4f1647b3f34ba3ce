"""What a page says of clusters: cards in groups, with the pictures of their samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from curate.page import Place
from curate.page.galleries import shown

HEADS = {
    "largest": "The largest",
    "kept_least": "Of which the least was kept",
    "kept_most": "Of which the most was kept",
}
_SIDES = ("central", "outlying")


def clusterings(report: dict[str, Any], pictures: Mapping[Place, str]) -> list[dict[str, Any]]:
    """Each step that makes clusters; `groups` are its cards, each under the first of its heads.

    A group has its `head`, `cards`, and `above`: the cards of an earlier group that belong to it
    too.
    """
    found = []
    for number, own in enumerate(report["clusters"], 1):
        cards = [_card(card, f"cluster-{number}", pictures) for card in own["cards"]]
        groups = [_group(cards, chosen) for chosen in HEADS]
        groups = [group for group in groups if group["cards"] or group["above"]]
        found.append({**own, "groups": groups, "shares": shares(own)})
    return found


def _group(cards: list[dict[str, Any]], chosen: str) -> dict[str, Any]:
    """The cards that were chosen for one reason, by what it says."""
    signs = {"largest": 0, "kept_least": 1, "kept_most": -1}
    own = [card for card in cards if chosen in card["chosen"]]
    own.sort(key=lambda card: signs[chosen] * card["kept"] / card["size"])  # else by size
    return {
        "head": HEADS[chosen],
        "cards": [card for card in own if card["chosen"][0] == chosen],
        "above": [card for card in own if card["chosen"][0] != chosen],
    }


def _card(card: dict[str, Any], prefix: str, pictures: Mapping[Place, str]) -> dict[str, Any]:
    rows = [{"side": side, **shown({"samples": card[side]}, pictures)} for side in _SIDES]
    pictured = any(row["pictured"] for row in rows)
    return {
        **card,
        "id": f"{prefix}-{card['cluster']}",
        "rows": [row for row in rows if row["samples"]],
        "pictured": pictured,
        "held": _held(card),
    }


def _held(card: dict[str, Any]) -> str | None:
    """What a filter, or chance, did to it, in words; None where nothing is to be said."""
    if card["mark"] in ("cap", "floor"):
        return f"at its {card['mark']} in “{card['mark_by']}”"
    return {"everything": "all in the subset", "nothing": "none in the subset"}.get(card["mark"])


def shares(own: dict[str, Any]) -> list[dict[str, Any]]:
    """Clusters by the share of them that was kept, in tenths: `from` and `to` in %, `clusters`."""
    return [
        {"from": 10 * tenth, "to": 10 * tenth + 10, "clusters": count}
        for tenth, count in enumerate(own["kept_shares"])
    ]
