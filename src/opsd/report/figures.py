"""Figures as inline SVG: small panels whose colours are the page's, in light, dark and print.

Matplotlib draws with placeholder colours, which become CSS variables of the page. No text from a
run enters a figure: titles, legends and descriptions are the page's, where they are escaped.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from opsd.report.series import Curve, Third, smoothed

_INK, _MUTED, _GRID = "#000101", "#000202", "#000303"
_SERIES = tuple(f"#0004{i:02x}" for i in range(7))
_VARIABLES = {
    _INK: "var(--ink)",
    _MUTED: "var(--muted)",
    _GRID: "var(--grid)",
    **{colour: f"var(--series-{i})" for i, colour in enumerate(_SERIES)},
}
_DASHES = ("-", (0, (5, 1.6)), (0, (1.2, 1.4)), (0, (6, 1.5, 1.2, 1.5)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_STAGES = {
    "start": {"alpha": 0.5, "linestyle": _DASHES[2]},
    "middle": {"alpha": 0.75, "linestyle": _DASHES[1]},
    "end": {"linestyle": "-", "marker": "o", "markersize": 3, "markeredgewidth": 0},
}
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "opsd",
    "text.parse_math": False,
    "font.size": 9,
    "axes.edgecolor": _MUTED,
    "axes.labelcolor": _MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.linewidth": 0.7,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "text.color": _INK,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "lines.linewidth": 1.7,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}

# Stands before every id of a figure until `placed` numbers the figure.
_OWN = "figure-to-be-placed-"

STEPS, TOKENS = "optimizer step", "generated tokens"


@dataclass(frozen=True)
class Panel:
    """One small figure. `alt` says in words what it shows; `svg` is safe markup."""

    title: str
    alt: str
    svg: str


def lines(
    title: str,
    curves: Sequence[Curve | None],
    *,
    x: str,
    y: str,
    share: bool = False,
    from_zero: bool = False,
) -> list[Panel]:
    """A panel with the curves that exist; none where no run has this number.

    `share` is for quantities between 0 and 1, drawn from 0 to 100 %. `from_zero` keeps the zero
    in sight, so that panels side by side do not magnify noise.
    """
    drawn = [curve for curve in curves if curve is not None]
    if not drawn:
        return []

    def draw(axes: Axes) -> None:
        for curve in drawn:
            _draw_curve(axes, curve, many=len(drawn) > 8)
        axes.set(xlabel=x, ylabel=y)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        if share:
            axes.set_ylim(-0.02, 1.02)
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        elif from_zero:
            top = max(max(curve.y) for curve in drawn)
            axes.set_ylim(0, 1.06 * top if top > 0 else 1.0)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))

    form = "{:.1%}" if share else "{:.3g}"
    said = "; ".join(
        f"{curve.label}: {form.format(curve.y[0])} to {form.format(curve.y[-1])}" for curve in drawn
    )
    alt = f"Line chart: {title}, by {x}. From first to last point: {said}."
    return [Panel(title, alt, _svg(draw))]


def positions(title: str, thirds: Sequence[Third], style: int) -> list[Panel]:
    """The divergence along the completion, at up to three stages of training."""
    if not thirds:
        return []
    colour = _SERIES[style % len(_SERIES)]

    def draw(axes: Axes) -> None:
        for third in thirds:
            axes.plot(range(5, 100, 10), third.deciles, color=colour, **_STAGES[third.stage])
        axes.set(xlabel="position in the completion", ylabel="nats per token", xlim=(0, 100))
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        axes.xaxis.set_major_formatter(PercentFormatter(100, decimals=0))

    said = "; ".join(
        f"{third.stage} (steps {third.steps[0]} to {third.steps[1]}): {_ends(third.deciles)}"
        for third in thirds
    )
    return [Panel(title, f"Line chart: divergence by position, {title}. {said}.", _svg(draw))]


def swatch(style: int) -> str:
    """The line of a legend entry, drawn as in the panels."""

    def draw(axes: Axes) -> None:
        look = _look(style)
        axes.plot([0, 0.5, 1], [0, 0, 0], markersize=5, markevery=[1], clip_on=False, **look)
        axes.set_axis_off()

    return _svg(draw, width=0.5, height=0.16, frame=(0.02, 0.0, 0.96, 1.0))


def stage_swatch(stage: str) -> str:
    """The line of a stage of training, as in `positions`."""

    def draw(axes: Axes) -> None:
        axes.plot([0, 0.5, 1], [0, 0, 0], color=_MUTED, markevery=[1], **_STAGES[stage])
        axes.set_axis_off()

    return _svg(draw, width=0.5, height=0.16, frame=(0.02, 0.0, 0.96, 1.0))


def placed(svg: str, number: int) -> str:
    """The figure with ids of its own: the same one may stand in several places of a page."""
    return svg.replace(_OWN, f"figure-{number}-")


def _draw_curve(axes: Axes, curve: Curve, many: bool) -> None:
    look = _look(curve.style)
    trend = None if curve.marked else smoothed(curve.y)
    if trend is not None and not many:
        axes.plot(curve.x, curve.y, color=look["color"], alpha=0.28, linewidth=0.7)
    markers: dict[str, Any] = {"markersize": 3.6 if many else 4.4}
    if not curve.marked:
        markers["markevery"] = (0, max(1, len(curve.x) // 6))
    axes.plot(curve.x, trend or curve.y, linewidth=1.1 if many else 1.7, **markers, **look)


def _look(style: int) -> dict[str, Any]:
    return {
        "color": _SERIES[style % len(_SERIES)],
        "linestyle": _DASHES[style % len(_DASHES)],
        "marker": _MARKERS[style % len(_MARKERS)],
        "markeredgewidth": 0,
    }


def _ends(deciles: Sequence[float]) -> str:
    """The first and the last value; tenths without a token have none."""
    known = [value for value in deciles if value == value]
    return f"first tenth {known[0]:.3g}, last tenth {known[-1]:.3g}" if known else "no tokens"


def _short(value: float) -> str:
    """12000 as `12k`, so that ticks do not collide."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:g}{name}"
    return f"{value:g}"


def _svg(
    draw: Callable[[Axes], None],
    width: float = 4.3,
    height: float = 2.5,
    frame: tuple[float, float, float, float] = (0.155, 0.175, 0.83, 0.795),
) -> str:
    """An SVG of a size in inches, which the page scales; `frame` is the axes' share of it."""
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(width, height))
        # Fixed margins: panels side by side keep their axes on one line.
        axes = figure.add_axes(frame)
        draw(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    return _for_a_page(buffer.getvalue())


def _for_a_page(text: str) -> str:
    """Matplotlib's document as an element: no prolog, metadata, styles or names of its own."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r' (?:xmlns(?::xlink)?|version)="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*"', r"\1", text, count=1)
    text = re.sub(r" font-family: [^;\"]*;", "", text)
    # Matplotlib numbers its groups anew in every figure, and names shapes by their hash.
    text = re.sub(r' id="[a-z2.]+_\d+"', "", text)
    text = re.sub(r'(id="|href="#|url\(#)', rf"\1{_OWN}", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    return re.sub(r"\s*\n\s*", "\n", text).strip()
