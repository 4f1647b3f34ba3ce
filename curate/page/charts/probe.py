"""Heat maps: whom two filters both remove, and how alike two scores order samples."""

from __future__ import annotations

from typing import Any

import altair as alt

Chart = alt.LayerChart | alt.FacetChart

_CELL_PX = 30  # height of a row
_WRITTEN = 12  # filters above which the cells have no numbers: they would not fit a phone
_DEEPEST = 0.6  # of a cell's colour: the number in it stays readable, light or dark
_OPPOSITE = alt.Scale(domain=["alike", "opposite"], range=["var(--kept)", "var(--removed)"])


_ALL = "all samples"  # the row of what filters remove of anybody


def overlap_chart(probe: dict[str, Any]) -> Chart | None:
    """Of those that the filter of a row removes, the share that the one of a column removes too.

    The first row is of all samples: what filters that have nothing to do with each other share.
    None without a pair of which one removes somebody.
    """
    pairs, cells = probe["overlap"], []
    for pair in pairs:
        for a, b in (("a", "b"), ("b", "a")):
            removed = pair[f"{a}_removed"]
            if removed:
                share = pair["both"] / removed
                told = {"removed": removed, "both": pair["both"], "share": share, "depth": share}
                cells.append({"row": pair[a], "column": pair[b], **told})
    if not cells:
        return None
    for one in probe["filters"]:
        rows, count, share = (one["alone"][key] for key in ("rows", "count", "share"))
        told = {"removed": rows, "both": count, "share": share, "depth": share}
        cells.append({"row": _ALL, "column": one["filter"], **told})
    tooltip = [
        alt.Tooltip("row:N", title="removed by"),
        alt.Tooltip("removed:Q", title="samples", format=","),
        alt.Tooltip("column:N", title="too by"),
        alt.Tooltip("both:Q", title="of these", format=","),
        alt.Tooltip("share:Q", format=".1%"),
    ]
    text = alt.Text("share:Q", format=".0%")
    names = [_ALL, *_names(pairs)]
    return _heat(cells, names, text, tooltip, alt.value("var(--removed)"))


def correlation_chart(pairs: list[dict[str, Any]]) -> Chart | None:
    """Spearman's rho of each pair of scores; None without one."""
    cells = []
    for pair in pairs:
        told = {key: pair[key] for key in ("rho", "low", "high", "rows")}
        told |= {"depth": abs(pair["rho"]), "sign": "alike" if pair["rho"] >= 0 else "opposite"}
        for a, b in (("a", "b"), ("b", "a")):
            cells.append({"row": pair[a], "column": pair[b], **told})
    tooltip = [
        alt.Tooltip("row:N", title="score"),
        alt.Tooltip("column:N", title="other score"),
        alt.Tooltip("rho:Q", format="+.3f"),
        alt.Tooltip("low:Q", title="at least", format="+.3f"),
        alt.Tooltip("high:Q", title="at most", format="+.3f"),
        alt.Tooltip("rows:Q", title="samples", format=","),
    ]
    text = alt.Text("rho:Q", format="+.2f")
    color = alt.Color("sign:N", scale=_OPPOSITE, legend=None)
    return _heat(cells, _names(pairs), text, tooltip, color)


def _names(pairs: list[dict[str, Any]]) -> list[str]:
    """In order of the pipeline: pairs are."""
    return list(dict.fromkeys([pair["a"] for pair in pairs] + [pair["b"] for pair in pairs]))


def _heat(
    cells: list[dict[str, Any]],
    names: list[str],
    text: alt.Text,
    tooltip: list[alt.Tooltip],
    color: Any,
) -> Chart | None:
    """A square of cells, the deeper the colour the larger `depth` (0 to 1)."""
    if not cells:
        return None
    axis: dict[str, Any] = {
        "domain": False,
        "ticks": False,
        "title": None,
        "labelLimit": 120,
        "labelPadding": 6,
    }
    base = alt.Chart(alt.InlineData(values=cells)).encode(
        x=alt.X("column:N", sort=names, axis=alt.Axis(orient="top", labelAngle=-90, **axis)),
        y=alt.Y("row:N", sort=names, axis=alt.Axis(**axis)),
        tooltip=tooltip,
    )
    depth = alt.Scale(domain=[0, 1], range=[0.03, _DEEPEST])
    rects = base.mark_rect(cornerRadius=3, stroke="var(--card)", strokeWidth=2).encode(
        color=color, opacity=alt.Opacity("depth:Q", scale=depth, legend=None)
    )
    layers = [rects, base.mark_text(fontSize=11).encode(text=text)]
    chart = alt.layer(*(layers if len(names) <= _WRITTEN else layers[:1]))
    return chart.properties(width="container", height=_CELL_PX * len(names))
