"""The claims as an HTML and a Markdown page, and as JSON, all from a stored run."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
from markdown_it import MarkdownIt
from markupsafe import Markup

from opsd.experiments.reproduce import COLLAPSED, OVERVIEW, kept, kept_arms
from opsd.experiments.study import LEAST, Study, is_base
from opsd.pages.html import render
from opsd.pages.scale import Scale, scale
from opsd.runs.files import to_json, write_atomically

Row = Mapping[str, Any]
FOLDER = Path(__file__).parent
VERDICTS = {
    "reproduced": "good",
    "not reproduced": "bad",
    "not above base": "bad",
    "inconclusive": "muted",
    "not measurable": "muted",
}
"""The CSS class of each verdict's colour."""

FEW = 5
"""With fewer right answers on dev problems, choosing by them is choosing by chance."""


def write(output: Path, studies: Mapping[str, Study], page: Path) -> None:
    """Writes the stored results in `output` of some studies as a page: `page` as Markdown, and next
    to it the same as HTML, and its rows as `.json`."""
    toys = any(not study.pretrained for study in studies.values())
    rows = [r for r in kept(output) if (r["study"] in studies if "study" in r else toys)]
    known = _known(rows, kept_arms(output), studies, page, toys)
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # Markdown; all texts come from the shipped studies
    )
    text = made.get_template("claims.md.jinja").render(**known)
    rules = made.get_template("rules.md.jinja").render(**known)
    html = render(
        FOLDER, "claims", filters={"html": _html, "inline": _inline}, rules=rules, **known
    )
    write_atomically(page.with_suffix(".html"), html)
    write_atomically(page.with_suffix(".md"), text.rstrip("\n") + "\n")
    write_atomically(page.with_suffix(".json"), to_json(rows, indent=1))


_MARKDOWN = MarkdownIt("commonmark", {"html": False})


def _html(text: str) -> Markup:
    """A Markdown text as HTML. Its links lead to pages of the same kind."""
    return Markup(_MARKDOWN.render(text).replace('.md"', '.html"'))


def _inline(text: str) -> Markup:
    """A line of Markdown as HTML."""
    return Markup(_MARKDOWN.renderInline(text))


@dataclass(frozen=True)
class Shown:
    """A claim's row as the page shows it."""

    row: Row

    def __getattr__(self, name: str) -> Any:
        return self.row[name]

    @property
    def colour(self) -> str:
        return VERDICTS[self.row["verdict"]]

    @property
    def setting(self) -> str:
        """The size of the test, in words."""
        row = self.row
        return f"{row['problems']} test problems, {row['samples']} samples, {row['seeds']} seeds"

    @property
    def cost(self) -> str:
        """The time that its arms took, in words."""
        seconds = sum(arm["seconds"] for arm in self.row["arms"].values())
        return f"{seconds / 3600:.1f} core-hours, including the choice of learning rates"

    def trials(self, arm: str) -> int:
        """How many of an arm's trials were tested."""
        return self.row["seeds"] * self.row["arms"][arm]["languages"]


@dataclass(frozen=True)
class Gained:
    """An arm's results, and how far they are above the untrained model."""

    row: Row
    at_least: float = 0.0

    def __getattr__(self, name: str) -> Any:
        return self.row[name]

    @property
    def effect(self) -> Sequence[float | None]:
        """The gain in accuracy, with its interval."""
        return self.row["gains"]["avg@k"]

    @property
    def verdict(self) -> str:
        _, low, high = self.effect
        if low is None or high is None or low <= 0 <= high:
            return "cannot tell"
        return "helped" if low > 0 else "hurt"

    @property
    def colour(self) -> str:
        return {"helped": "good", "hurt": "bad", "cannot tell": "muted"}[self.verdict]


@dataclass(frozen=True)
class Arms:
    """The results of a study's arms."""

    study: Study
    rows: Sequence[Row]

    @cached_property
    def trained(self) -> list[Gained]:
        made = [Gained(row) for row in self.rows if "course" in row and row["gains"]]
        return sorted(made, key=lambda arm: -(arm.effect[0] or 0.0))

    @property
    def all(self) -> list[Row]:
        """All rows: untrained arms first, then the trained ones, the best first."""
        return [row for row in self.rows if "course" not in row] + [a.row for a in self.trained]

    @property
    def unit(self) -> Unit:
        return Unit("avg@k", self.trained)

    def that(self, verdict: str) -> list[Gained]:
        """The trained arms with a verdict."""
        return [arm for arm in self.trained if arm.verdict == verdict]

    @property
    def reasons(self) -> list[str]:
        """The numbers that say why no arm that learns from a teacher is surely above a pretrained
        model, if so."""
        bases = [row for row in self.rows if is_base(row["arm"])]
        distilled = [arm for arm in self.trained if "divergence" in arm.row]
        helped = any(arm.verdict == "helped" for arm in distilled)
        if not (self.study.pretrained and bases and distilled) or helped:
            return []
        by_teacher = [x for x in self.rows if self.study.arms[x["arm"]].subject == "teacher"]
        learners = [arm.row for arm in self.trained]
        dev = self.study.dev.problems * self.study.dev.samples
        most = max(round(dev * score) for arm in distilled for score in arm.grid.values())
        said = {
            "Right answers of the untrained model, and of the same model as a teacher": [
                *(_told(row, "avg@k") for row in (*bases, *by_teacher))
            ],
            "Divergence of the student from its teacher, in nats per token, at the first and at the"
            " last step": [
                f"{arm.arm} {' to '.join(map(number, arm.divergence))}" for arm in distilled
            ],
            "Share of answers in the requested format": [
                *(_told(row, "format_rate") for row in (*bases, *learners))
            ],
            "Share of right answers among those": [
                *(_told(row, "right_given_format") for row in (*bases, *learners))
            ],
            "Tokens per answer, few if a model answers without reasoning": [
                *(_told(row, "length") for row in (*bases, *by_teacher, *learners))
            ],
            "Right answers on dev problems, for any arm with a teacher and any learning rate": [
                f"at most {most} of {dev}"
                + (", too few to choose rates and checkpoints by" if most < FEW else "")
            ],
        }
        return [f"{what}: {'; '.join(numbers)}." for what, numbers in said.items() if numbers]


def _told(row: Row, metric: str) -> str:
    """An arm and its value of a metric."""
    return f"{row['arm']} {number(row['metrics']['chosen'][metric][0])}"


@dataclass(frozen=True)
class Unit:
    """Effects that are drawn on one scale: a study's claims in one metric, or its arms."""

    metric: str
    claims: Sequence[Shown | Gained]

    @cached_property
    def scale(self) -> Scale:
        return scale(x for claim in self.claims for x in (*claim.effect, claim.at_least))


def _known(
    rows: Sequence[Row],
    arms: Mapping[str, list[Row]],
    studies: Mapping[str, Study],
    page: Path,
    toys: bool,
) -> dict[str, Any]:
    asked = [name for study in studies.values() for name, _, _ in study.claims()]
    tested = {row["name"]: Shown(row) for row in rows if "study" in row}
    now = [tested[name] for name in asked if name in tested]
    versions = [json.dumps(v, sort_keys=True) for one in now for v in one.versions]
    return {
        "title": "Do the papers' claims hold" + ("?" if toys else " on pretrained models?"),
        "toys": toys,
        "page": page.with_suffix(".html").name,
        "counts": [(v, sum(s.verdict == v for s in now), VERDICTS[v]) for v in VERDICTS],
        "parts": [
            (
                *(studies[name], _by(group, "paper")),
                [Unit(metric, own) for metric, own in _by(group, "metric")],
                Arms(studies[name], arms.get(name, [])),
            )
            for name, group in _by(now, "study")
        ],
        "metrics": OVERVIEW,
        "before": _before(rows, asked),
        "collapsed": COLLAPSED,
        "least": LEAST["built in" if toys else "pretrained"],
        "versions": [json.loads(text) for text in dict.fromkeys(versions)],
        "number": number,
        "points": points,
    }


def _by(shown: Sequence[Shown], key: str) -> list[tuple[str, list[Shown]]]:
    """The claims that share a value of their rows, in order."""
    made: dict[str, list[Shown]] = {}
    for one in shown:
        made.setdefault(one.row[key], []).append(one)
    return [*made.items()]


def _before(rows: Sequence[Row], asked: Container[str]) -> list[tuple[str, str, str]]:
    """The claims with another verdict under an earlier design, or that are no longer tested: name,
    the earlier verdict, and the present one."""
    made = []
    for row in rows:
        here = row["name"] in asked and "study" in row
        now = row["verdict"] if here else "no longer tested"
        past = row["earlier"] if here else [*row["earlier"], row]
        made += [(row["name"], old["verdict"], now) for old in past if old["verdict"] != now]
    return made


def number(value: float | None) -> str:
    """A number in the page's format."""
    if value is None:
        return "-"
    return f"{value:,.3g}" if abs(value) >= 1 else f"{value:.3f}"


def points(course: Mapping[str, Sequence[float]]) -> str:
    """Dev scores by tokens as the points of a polyline, 100 wide and 40 high, with larger scores at
    the top."""
    most = max(course["share"])
    return " ".join(
        f"{100 * share / most:.1f},{40 - 40 * score:.1f}"
        for share, score in zip(course["share"], course["dev"], strict=True)
    )
