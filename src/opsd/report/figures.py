"""Figures as inline SVG: small panels in the page's colours, in light, dark and print.

Matplotlib draws with placeholder colours, which become CSS variables of the page. No text from a
run enters a figure: titles, legends and descriptions are written by the page, which escapes them.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from markupsafe import escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from opsd.pages.html import STYLE
from opsd.report.series import Curve, Third, smoothed


@dataclass(frozen=True)
class Palette:
    """Colours of a figure, in Matplotlib's notation."""

    ink: str
    muted: str
    grid: str
    series: tuple[str, ...]


_PAGE = Palette("#000101", "#000202", "#000303", tuple(f"#0004{i:02x}" for i in range(7)))
"""Placeholders for the page's colours."""

_VARIABLES = {
    _PAGE.ink: "var(--ink)",
    _PAGE.muted: "var(--muted)",
    _PAGE.grid: "var(--grid)",
    **{colour: f"var(--series-{i})" for i, colour in enumerate(_PAGE.series)},
}
Draw = Callable[[Axes, Palette], None]
Point = tuple[float, float, str]

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
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.linewidth": 0.7,
    "grid.linewidth": 0.6,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "lines.linewidth": 1.7,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}

# Prefix of every id of a figure, until `placed` numbers the figure.
_OWN = "figure-to-be-placed-"

STEPS, TOKENS = "optimizer step", "generated tokens"


@dataclass(frozen=True)
class Panel:
    """One small figure. `alt` says in words what it shows; `labels` name its lines, by style;
    `points` are places in its own coordinates, each with the text of its tooltip.

    If no value changes, `draw` is None, and only the words are shown.
    """

    title: str
    alt: str
    draw: Draw | None
    labels: tuple[tuple[str, int], ...] = ()
    points: tuple[Point, ...] = ()

    @property
    def svg(self) -> str:
        """The figure as safe markup for a page, without the title and the legend."""
        return "" if self.draw is None else _svg(self.draw, points=self.points)


def save(panel: Panel, path: Path) -> None:
    """Saves the figure as a PNG or SVG file, by its ending, with its title and legend, in the
    page's light colours. ValueError for a panel that has nothing to draw."""
    if panel.draw is None:
        raise ValueError(f"nothing to draw: {panel.alt}")
    palette = _light()
    with matplotlib.rc_context(_settings(palette)):
        figure = Figure(figsize=(5.2, 3.4), layout="constrained")
        axes = figure.add_subplot()
        panel.draw(axes, palette)
        axes.set_title(panel.title, fontsize=10, loc="left")
        if len(panel.labels) > 1:
            handles = [Line2D([], [], label=x, **_look(i, palette)) for x, i in panel.labels]
            axes.legend(handles=handles, frameon=False, fontsize=8)
        form = path.suffix.removeprefix(".")
        dates = {"metadata": {"Date": None}} if form == "svg" else {}
        figure.savefig(path, format=form, dpi=200, facecolor="white", **dates)


def lines(
    title: str,
    curves: Sequence[Curve | None],
    *,
    x: str,
    y: str,
    share: bool = False,
    from_zero: bool = False,
) -> list[Panel]:
    """A panel with the curves that exist; empty if no run has this number.

    `share` is for quantities between 0 and 1, drawn from 0 to 100 %. `from_zero` includes zero in
    the axis, so that panels next to each other do not magnify noise.
    """
    drawn = [curve for curve in curves if curve is not None]
    if not drawn:
        return []
    form = "{:.1%}" if share else "{:.3g}"
    if all(_constant(curve.y) for curve in drawn):
        values = [(curve.label, form.format(curve.y[0])) for curve in drawn]
        return [_still(title, values, max(len(curve.y) for curve in drawn))]

    def draw(axes: Axes, palette: Palette) -> None:
        for curve in drawn:
            _draw_curve(axes, curve, palette, many=len(drawn) > 8)
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

    said = "; ".join(
        f"{curve.label}: {form.format(curve.y[0])} to {form.format(curve.y[-1])}" for curve in drawn
    )
    alt = f"Line chart: {title}, by {x}. From first to last point: {said}."
    points = tuple(
        (a, b, f"{x} {a:,.3g}: {form.format(b)}" if a % 1 else f"{x} {a:,.0f}: {form.format(b)}")
        for curve in drawn
        for a, b in _some(list(zip(curve.x, curve.y, strict=True)))
    )
    return [Panel(title, alt, draw, _labels(drawn), points)]


def scatter(title: str, clouds: Sequence[Curve | None], *, x: str, y: str) -> list[Panel]:
    """A scatter plot of shares between 0 and 1 against shares; empty if there are no points."""
    drawn = [cloud for cloud in clouds if cloud is not None]
    if not drawn:
        return []
    places = [place for cloud in drawn for place in cloud.x]
    if _constant(places):
        return [_still(f"{x[0].upper()}{x[1:]}", [("", f"{places[0]:.1%}")], len(places))]

    def draw(axes: Axes, palette: Palette) -> None:
        for cloud in drawn:
            look = _look(cloud.style, palette) | {"linestyle": "none"}
            axes.plot(cloud.x, cloud.y, markersize=5, alpha=0.8, **look)
        axes.set(xlabel=x, ylabel=y, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1.0, decimals=0))

    said = "; ".join(f"{cloud.label}: {len(cloud.x)} points" for cloud in drawn)
    points = tuple(
        (a, b, f"{x} {a:.1%}, {y} {b:.1%}")
        for cloud in drawn
        for a, b in _some(list(zip(cloud.x, cloud.y, strict=True)))
    )
    return [
        Panel(title, f"Scatter plot: {title}, {y} by {x}. {said}.", draw, _labels(drawn), points)
    ]


def positions(title: str, thirds: Sequence[Third], style: int) -> list[Panel]:
    """The divergence along the completion, at up to three stages of training."""
    if not thirds:
        return []

    def draw(axes: Axes, palette: Palette) -> None:
        colour = palette.series[style % len(palette.series)]
        for third in thirds:
            axes.plot(range(5, 100, 10), third.deciles, color=colour, **_STAGES[third.stage])
        axes.set(xlabel="position in the completion", ylabel="nats per token", xlim=(0, 100))
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        axes.xaxis.set_major_formatter(PercentFormatter(100, decimals=0))

    points = tuple(
        (place, value, f"{third.stage}, {place}% of the way: {value:.3g} nats")
        for third in thirds
        for place, value in zip(range(5, 100, 10), third.deciles, strict=True)
        if value == value
    )
    said = "; ".join(
        f"{third.stage} (steps {third.steps[0]} to {third.steps[1]}): {_ends(third.deciles)}"
        for third in thirds
    )
    return [
        Panel(title, f"Line chart: divergence by position, {title}. {said}.", draw, points=points)
    ]


def swatch(style: int) -> str:
    """The line of a legend entry, drawn as in the panels."""

    def draw(axes: Axes, palette: Palette) -> None:
        look = _look(style, palette)
        axes.plot([0, 0.5, 1], [0, 0, 0], markersize=5, markevery=[1], clip_on=False, **look)
        axes.set_axis_off()

    return _svg(draw, width=0.5, height=0.16, frame=(0.02, 0.0, 0.96, 1.0))


def stage_swatch(stage: str) -> str:
    """The line of a stage of training, as in `positions`."""

    def draw(axes: Axes, palette: Palette) -> None:
        axes.plot([0, 0.5, 1], [0, 0, 0], color=palette.muted, markevery=[1], **_STAGES[stage])
        axes.set_axis_off()

    return _svg(draw, width=0.5, height=0.16, frame=(0.02, 0.0, 0.96, 1.0))


def placed(svg: str, number: int) -> str:
    """The figure with unique ids, since the same figure may occur several times on a page."""
    return svg.replace(_OWN, f"figure-{number}-")


def _constant(values: Sequence[float]) -> bool:
    """Whether the values differ only by rounding."""
    return max(values) - min(values) <= 1e-9 * max(map(abs, values))


def _still(title: str, values: Sequence[tuple[str, str]], count: int) -> Panel:
    """A panel that states in words what would be a flat line; `values` come with the names of their
    runs."""
    several = len({value for _, value in values}) > 1
    told = ", ".join(f"{value} ({label})" for label, value in values) if several else values[0][1]
    return Panel(
        title, f"{title}: {told}{' throughout' if count > 1 else ', measured once'}.", None
    )


def _some(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """At most about sixty of a curve's points, evenly chosen: pointers are not more precise."""
    return points[:: max(1, len(points) // 60)]


def _labels(curves: Sequence[Curve]) -> tuple[tuple[str, int], ...]:
    return tuple(dict.fromkeys((curve.label, curve.style) for curve in curves))


def _draw_curve(axes: Axes, curve: Curve, palette: Palette, many: bool) -> None:
    look = _look(curve.style, palette)
    trend = None if curve.marked else smoothed(curve.y)
    if trend is not None and not many:
        axes.plot(curve.x, curve.y, color=look["color"], alpha=0.28, linewidth=0.7)
    markers: dict[str, Any] = {"markersize": 3.6 if many else 4.4}
    if not curve.marked:
        markers["markevery"] = (0, max(1, len(curve.x) // 6))
    axes.plot(curve.x, trend or curve.y, linewidth=1.1 if many else 1.7, **markers, **look)


def _look(style: int, palette: Palette) -> dict[str, Any]:
    return {
        "color": palette.series[style % len(palette.series)],
        "linestyle": _DASHES[style % len(_DASHES)],
        "marker": _MARKERS[style % len(_MARKERS)],
        "markeredgewidth": 0,
    }


def _ends(deciles: Sequence[float]) -> str:
    """The first and the last value, in words; tenths without a token have no value."""
    known = [value for value in deciles if value == value]
    return f"first tenth {known[0]:.3g}, last tenth {known[-1]:.3g}" if known else "no tokens"


def _short(value: float) -> str:
    """A number such as 12000 as `12k`, so that ticks do not overlap."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:g}{name}"
    return f"{value:g}"


def _settings(palette: Palette) -> dict[Any, Any]:
    return _SETTINGS | {
        "grid.color": palette.grid,
        "text.color": palette.ink,
        **dict.fromkeys(("axes.edgecolor", "axes.labelcolor"), palette.muted),
        **dict.fromkeys(("xtick.color", "ytick.color"), palette.muted),
    }


def _light() -> Palette:
    """The light colours of all pages, which come first in their style sheet."""
    style = STYLE.read_text("utf-8")
    found: dict[str, str] = {}
    for name, colour in re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", style):
        found.setdefault(name, colour)
    series = tuple(found[f"series-{i}"] for i in range(len(_PAGE.series)))
    return Palette(found["ink"], found["muted"], found["grid"], series)


def _svg(
    draw: Draw,
    width: float = 4.3,
    height: float = 2.5,
    frame: tuple[float, float, float, float] = (0.155, 0.175, 0.83, 0.795),
    points: Sequence[Point] = (),
) -> str:
    """An SVG with a size in inches, which the page scales; `frame` is the axes' share of it; each
    of the `points` gets a tooltip."""
    with matplotlib.rc_context(_settings(_PAGE)):
        figure = Figure(figsize=(width, height))
        # Fixed margins: panels next to each other have their axes on one line.
        axes = figure.add_axes(frame)
        draw(axes, _PAGE)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
        marks = "".join(_mark(axes, figure, point) for point in points)
    svg = _for_a_page(buffer.getvalue())
    return svg.replace("</svg>", f'<g class="points">{marks}</g>\n</svg>') if marks else svg


def _mark(axes: Axes, figure: Figure, point: Point) -> str:
    """An invisible place to point at, with a tooltip."""
    x, y, told = point
    across, up = axes.transData.transform((x, y)) * 72 / figure.dpi
    down = figure.get_figheight() * 72 - up
    return f'<circle cx="{across:.1f}" cy="{down:.1f}" r="5"><title>{escape(told)}</title></circle>'


def _for_a_page(text: str) -> str:
    """Matplotlib's document as an element, without its prolog, metadata, styles and ids."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r' (?:xmlns(?::xlink)?|version)="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*"', r"\1", text, count=1)
    text = re.sub(r" font-family: [^;\"]*;", "", text)
    # Matplotlib numbers its groups from 1 in every figure, and names shapes by their hash.
    text = re.sub(r' id="[a-z2.]+_\d+"', "", text)
    text = re.sub(r'(id="|href="#|url\(#)', rf"\1{_OWN}", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    return re.sub(r"\s*\n\s*", "\n", text).strip()
