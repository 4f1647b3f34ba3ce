"""Texts of strangers in Markdown: shown as they are, and never as markup."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from curate.page.texts import brief, number, visible

LONGEST = 120  # characters of a value
# Signs of markup, and what makes a link of a text: `http:`, `a@b`, `www.`
_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|~$<>&:@]|(?<=www)\.)", re.IGNORECASE)


def plain(text: str) -> str:
    """A text in a paragraph: every sign that may mean something is an entity."""
    return _SPECIAL.sub(lambda found: f"&#{ord(found[1])};", visible(brief(text, LONGEST)))


def code(value: Any) -> str:
    """A value as it stands, in a table or in a paragraph."""
    if value is None:
        return "*none*"
    text = visible(brief(value if isinstance(value, str) else number(value), LONGEST))
    if not text.strip():
        return "*empty*"
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence, space = "`" * (longest + 1), " " if longest or text != text.strip() else ""
    return f"{fence}{space}{text.replace('|', _PIPE)}{space}{fence}"


_PIPE = "\\|"  # in a table it would end the cell, in code too


def block(text: str, language: str) -> str:
    """A text of several lines as it stands."""
    longest = max((len(run) for run in re.findall("`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return "\n".join([fence + language, *map(visible, text.splitlines()), fence])


def table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are Markdown already."""
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
