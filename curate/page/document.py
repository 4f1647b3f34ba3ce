"""A self-contained HTML page: one file, nothing fetched, everything from strangers escaped.

Charts are Vega-Lite, drawn by its own scripts, which the page carries. The policy of the page lets
those scripts run and no other, by their hashes: what a caption brings along does nothing.
"""

from __future__ import annotations

import base64
import hashlib
import html
import importlib
import json
import re
from functools import cache
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from curate.page import texts, vega

# What strangers wrote is escaped: no section can come from them.
_SECTION = re.compile(r'<section id="([a-z_-]+)"[^>]*>\s*<h2[^>]*>([^<]+)')


AXIS = 44  # px: the room that the labels and the title of a chart's lower axis take


class Drawings:
    """The charts of one page, in the order in which its template asked for them."""

    def __init__(self) -> None:
        self.specs: list[dict[str, Any]] = []

    def draw(self, chart: Any, about: str) -> Markup:
        """The place of a chart; it is drawn when it comes into view.

        Args:
            chart: Of altair. Colours may be `var(--kept)`: those of the page, light or dark.
            about: What it shows, in words, for who cannot see it.
        """
        spec = chart.to_dict(validate=False)  # a third of a page's time; the tests draw them
        spec.pop("config", None)  # the page's script has one for all
        self.specs.append(spec)
        # Its words stand there until it is drawn, and its height is kept, so that nothing moves.
        height = spec.get("height")
        room = height + AXIS if isinstance(height, int) else 0
        place = Markup(
            '<div class="chart" data-chart="{}" role="img" aria-label="{}" '
            'style="min-height:{}px"><p>{}</p></div>'
        )
        return place.format(len(self.specs) - 1, about, room, about)


def document(template: str, given: dict[str, Any]) -> str:
    """A page from one of this folder's templates.

    Args:
        template: `report.html.j2`, say. Its head comes from `page.html.j2`.
        given: What the template reads besides the functions of `texts` and `draw`.
    """
    drawings = Drawings()
    page = _environment().get_template(template).render({**given, "draw": drawings.draw})
    scripts = [vega.bundle(), _file("charts.js")] if drawings.specs else []
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts) or "'none'"
    head, marker, rest = page.partition("SCRIPT-HASHES")
    assert marker, f"{template} does not extend page.html.j2"
    page = head + hashes + rest
    tail = [f'<script type="application/json" id="charts">{_inert(drawings.specs)}</script>']
    tail += [f"<script>{script}</script>" for script in scripts]
    return page.replace("</body>", "\n".join(tail if scripts else []) + "</body>", 1)


@cache
def _environment() -> jinja2.Environment:
    """Where the templates are, compiled once for all pages of a process."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("curate.page", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        count=texts.count,
        number=texts.number,
        precise=texts.precise,
        visible=texts.visible,
        brief=texts.brief,
        parts=texts.parts,
        json=texts.as_json,
        listed=texts.listed,
        points=texts.points,
        duration=texts.duration,
    )
    environment.globals.update(
        share=texts.share,
        many=texts.many,
        contents=contents,
        style=Markup(_file("page.css")),
    )
    return environment


def prepare() -> None:
    """Load what all pages of a process share, ahead of the first one: half a second."""
    importlib.import_module("curate.page.render")  # the charts, and their library
    vega.bundle()
    for name in _environment().list_templates(extensions=["j2"]):
        _environment().get_template(name)


def contents(body: str) -> list[tuple[str, str]]:
    """(id, title) of each section of a page, for its navigation."""
    return [(found[1], html.unescape(found[2]).strip()) for found in _SECTION.finditer(body)]


def _file(name: str) -> str:
    return resources.files("curate.page").joinpath(name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _inert(specs: list[dict[str, Any]]) -> str:
    """JSON that cannot end the element it stands in, nor begin another."""
    text = json.dumps(specs, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for mark in "<>&\u2028\u2029":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return text
