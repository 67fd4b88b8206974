"""`docs/performance.md` and its figures, from the stored results of the benchmarks.

    python -m benchmarks.page

Nothing on the page is written by hand: it is a template (`page.md.jinja`) filled with
`benchmarks/results/*.json`, and with the estimates of `benchmarks.costs`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import matplotlib

from benchmarks.costs import GPU, SETTINGS, estimate
from benchmarks.shapes import SHAPES
from opsd.runs.files import write_atomically

ROOT = Path(__file__).parents[1]
RESULTS, PAGE, IMAGES = (
    ROOT / "benchmarks/results",
    ROOT / "docs/performance.md",
    ROOT / "docs/images",
)
BENCHMARKS = (
    *("loss", "loss_value", "step", "rollouts", "startup", "scaling", "real_shapes", "targets"),
    *("real_model", "gpu", "fleet"),
)
GPUS = (1, 4, 8, 64)
Result = Mapping[str, Any]


def stored(folder: Path = RESULTS) -> dict[str, Result]:
    """The stored results, by the name of the benchmark."""
    files = {name: folder / f"{name}.json" for name in BENCHMARKS}
    found = {name: json.loads(f.read_text("utf-8")) for name, f in files.items() if f.is_file()}
    return {name: Found(name, content) for name, content in found.items()}


class Found(dict):
    """A stored result. Its rows are selected by their values."""

    def __init__(self, name: str, content: Mapping[str, Any]) -> None:
        unsaid = {"date": "earlier", "command": f"python -m benchmarks.{name}"}
        super().__init__(unsaid | dict(content))

    def pick(self, **values: Any) -> list[dict[str, Any]]:
        rows = self["rows"]
        return [row for row in rows if all(row.get(k) == v for k, v in values.items())]

    @property
    def missed(self) -> list[dict[str, Any]]:
        return self.pick(ok=False)

    @property
    def targets(self) -> int:
        """The number of rows that have one."""
        return sum(row.get("target") is not None for row in self["rows"])

    @property
    def load(self) -> str:
        load = self["machine"].get("load")
        return "not noted" if load is None else f"{load[0]:g}"


def number(value: float | None) -> str:
    """Three significant digits, in the usual notation."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def mib(value: float) -> str:
    return number(value / 2**20)


def render(results: Mapping[str, Result]) -> str:
    """The page."""
    made = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined, autoescape=False
    )
    made.filters |= {"number": number, "mib": mib, "thousands": "{:,}".format}
    file = Path(__file__).with_name("page.md.jinja")
    text = made.from_string(file.read_text("utf-8")).render(
        **{name: results.get(name) for name in BENCHMARKS},
        results=results,
        machine=next(iter(results.values()))["machine"],
        costs=[estimate(m, s, n) for s in SETTINGS for m in SHAPES for n in GPUS],
        settings=SETTINGS,
        shapes=SHAPES,
        assumed=GPU(),
    )
    return text.rstrip("\n") + "\n"


def draw(results: Mapping[str, Result], folder: Path) -> None:
    """The figures, as SVG whose bytes depend only on the numbers."""
    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams |= {"svg.hashsalt": "opsd", "svg.fonttype": "none", "font.size": 9}
    figures = {
        "loss": ("loss_peaks", _peaks),
        "step": ("step_ratios", _ratios),
        "fleet": ("fleet", _fleet),
    }
    for name, figure in [figures[needed] for needed in figures if needed in results]:
        shown, axes = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
        figure(results, axes)
        axes.spines[["top", "right"]].set_visible(False)
        shown.savefig(folder / f"{name}.svg", metadata={"Date": None})
        plt.close(shown)


def _peaks(results: Mapping[str, Result], axes: Any) -> None:
    """Peak memory over the number of tokens, one line per implementation."""
    rows = results["loss"].pick(measure="growth")  # type: ignore[attr-defined]
    for i, label in enumerate(dict.fromkeys(row["name"] for row in rows)):
        points = [row for row in rows if row["name"] == label]
        # Each line is thinner than the last, so that lines below remain visible.
        style = {"linewidth": 5 - 0.8 * i, **({"color": "black"} if i == 0 else {})}
        tokens, peaks = zip(*((p["rows"], p["peak_bytes"] / 2**20) for p in points), strict=True)
        axes.plot(tokens, peaks, marker="o", markersize=3, label=label, **style)
    axes.set(xscale="log", yscale="log", xlabel="taught tokens", ylabel="peak, MiB")
    axes.set_xticks(tokens, [f"{n:,}" for n in tokens])
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def _ratios(results: Mapping[str, Result], axes: Any) -> None:
    """TRL's step over ours: one bar for time and one for memory."""
    rows = results["step"]["rows"]
    names = list(dict.fromkeys((row["name"], row["vocab"]) for row in rows))
    for i, measure in enumerate(("time", "peak")):
        values = [_ratio(rows, measure, *name) for name in names]
        places = [place + (i - 0.5) * 0.38 for place in range(len(names))]
        bars = axes.barh(
            places,
            [value - 1 for value in values],
            0.36,
            left=1,
            label=measure,
            color=("#4477aa", "#ccbb44")[i],
        )
        axes.bar_label(bars, [number(value) for value in values], padding=2, fontsize=8)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(names)), [f"{name}, V={vocab:,}" for name, vocab in names])
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel="TRL's over ours (above 1: ours takes less)")
    ticks = [
        n for n in (1, 2, 5, 10, 20, 50, 100, 200) if n <= 2 * max(row["ratio"] for row in rows)
    ]
    axes.set_xticks(ticks, [str(n) for n in ticks])
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def _fleet(results: Mapping[str, Result], axes: Any) -> None:
    """Steps per hour over the number of engines: one colour per number of trainers, one line style
    per staleness."""
    found = results["fleet"]
    rows = found.pick(measure="fleet")  # type: ignore[attr-defined]
    shades, dashes = (
        ("#ccbb44", "#4477aa", "#aa3377"),
        (":", "-.", "-", "--", (0, (6, 1, 1, 1, 1, 1))),
    )
    colors = dict(zip(sorted({r["ranks"] for r in rows}), shades, strict=False))
    strokes = dict(zip(sorted({r["staleness"] for r in rows}), dashes, strict=False))
    for (ranks, color), (staleness, stroke) in itertools.product(colors.items(), strokes.items()):
        points = [r for r in rows if (r["ranks"], r["staleness"]) == (ranks, staleness)]
        engines, rates = zip(*((r["engines"], r["steps_per_hour"]) for r in points), strict=True)
        axes.plot(engines, rates, color=color, linestyle=stroke, marker="o", markersize=2.5)
    for ranks, color in colors.items():
        axes.plot([], [], color=color, label=f"{ranks} trainers")
    for staleness, stroke in strokes.items():
        axes.plot([], [], color="black", linestyle=stroke, label=f"staleness {staleness}")
    axes.set(xscale="log", yscale="log", xlabel="engines", ylabel="steps per hour")
    axes.set_xticks(engines, [f"{n:,}" for n in engines])
    axes.set_yticks([10, 20, 50, 100, 200], ["10", "20", "50", "100", "200"])
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def _ratio(rows: Sequence[Mapping[str, Any]], measure: str, name: str, vocab: int) -> float:
    wanted = (measure, name, vocab)
    return next(r["ratio"] for r in rows if (r["measure"], r["name"], r["vocab"]) == wanted)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.parse_args(arguments)
    results = stored()
    draw(results, IMAGES)
    write_atomically(PAGE, render(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
