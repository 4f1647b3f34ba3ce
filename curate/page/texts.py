"""How a page spells numbers, shares and the texts of strangers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

BRIEF = 140  # characters of a caption that are shown; the rest is in its title

# Controls that would move, hide or override the text around them. Marks that scripts need to be
# read (joiners, left-to-right mark) stay.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufff9-\ufffb]")
_BREAKS = re.compile("[\t\n\r\u2028\u2029]+")


def count(value: int | None) -> str:
    """12,345."""
    return "not known" if value is None else f"{value:,}"


def number(value: Any) -> str:
    """Four significant digits of a float; anything else as it is."""
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def precise(value: Any) -> str:
    """Seven significant digits of a float, float32's: scores beside a threshold differ late."""
    return f"{value:.7g}" if isinstance(value, float) and math.isfinite(value) else number(value)


def many(value: int, noun: str) -> str:
    """1 shard, 12,345 shards."""
    return f"{count(value)} {noun}" + ("" if value == 1 else "s")


def share(part: float, whole: float = 1.0) -> str:
    """12.3 %, never rounded to nothing or to all."""
    if whole == 0:
        return "-"
    percent = 100 * part / whole
    if 0 < percent < 0.05:
        return "<0.1 %"
    if 99.95 <= percent < 100:
        return ">99.9 %"
    return f"{percent:.1f} %"


def points(change: float) -> str:
    """+1.2 pp: a change of a share (0 to 1) in percentage points; the sign is always there."""
    value = 100 * change
    if 0 < abs(value) < 0.05:
        return f"{'+' if value > 0 else '-'}<0.1 pp"
    return f"{value:+.1f} pp"


def duration(seconds: float) -> str:
    """0.4 s, 3:07 min, 2:05:00 h."""
    if 0 < seconds < 0.05:
        return "<0.1 s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d} h" if hours else f"{minutes}:{rest:02d} min"


def visible(text: str) -> str:
    """A text on one line, with its control characters written out."""
    return _CONTROLS.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", _BREAKS.sub(" ", text))


def brief(text: str, longest: int = BRIEF) -> str:
    """The beginning of a long text; an ellipsis stands for the rest."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def parts(name: str) -> list[str]:
    """The pieces of a column's name between which a line may break."""
    return re.split(r"(?<=[._])", name)


def as_json(value: Any) -> str:
    """A value in JSON, for people."""
    lines = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False).splitlines()
    return "\n".join(visible(line) for line in lines)


def listed(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """The commonest first."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
