"""The figures of a report, in order: which curves share a panel, and what to look for in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from opsd.report import series
from opsd.report.figures import (
    STEPS,
    TOKENS,
    Panel,
    lines,
    positions,
    scatter,
    stage_swatch,
    swatch,
)
from opsd.report.runs import Run, language_name
from opsd.report.series import Curve
from opsd.report.tables import Span, time_spent

_ACTIVITIES = {
    "rollout": "rollouts",
    "teacher": "teacher",
    "student": "student",
    "loss": "loss",
    "waiting": "waiting for a served teacher",
    "evaluate": "dev evaluation",
    "unaccounted": "everything else",
}

_NEGLIGIBLE = 0.0005

_LOGGED_BY_PARTS = ("target/", "support/", "token/")
"""Prefixes of the metrics that targets, supports, credits and weightings log."""


@dataclass(frozen=True)
class Key:
    """An entry of a legend: `swatch` is safe markup."""

    name: str
    swatch: str


@dataclass(frozen=True)
class Section:
    """A heading, a sentence on how to read it, panels, and warnings about the numbers."""

    name: str
    title: str
    reading: str
    panels: tuple[Panel, ...]
    keys: tuple[Key, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bar:
    """Where a run's time went: seconds per step, and each activity's seconds and share."""

    label: str
    per_step: float
    total: float
    parts: tuple[tuple[str, float, float, int], ...]


@dataclass(frozen=True)
class _Scheme:
    """Which runs share a panel, and the style of each run's curves. If runs are compared by method,
    a panel shows one language, and styles are by method; otherwise there is a single panel, and
    styles are by run."""

    runs: tuple[Run, ...]
    names: tuple[str, ...]
    by_method: bool

    def style(self, run: Run) -> int:
        return self.names.index(run.method if self.by_method else run.label)

    def groups(self) -> list[tuple[str, list[Run]]]:
        """The runs of each panel, with the suffix of the panel's title."""
        if not self.by_method:
            return [("", list(self.runs))]
        languages = dict.fromkeys(run.language for run in self.runs)
        return [
            (f", {language_name(code)}", [run for run in self.runs if run.language == code])
            for code in languages
        ]

    def panels(
        self,
        title: str,
        curve: Callable[[Run, str, int], Curve | None],
        metric: str,
        *,
        x: str,
        y: str,
        share: bool = False,
        from_zero: bool = False,
    ) -> list[Panel]:
        """The metric of every run, one panel per group."""
        return [
            panel
            for suffix, runs in self.groups()
            for panel in lines(
                title + suffix,
                [curve(run, metric, self.style(run)) for run in runs],
                x=x,
                y=y,
                share=share,
                from_zero=from_zero,
            )
        ]


def sections(runs: Sequence[Run]) -> list[Section]:
    """The sections for which at least one run has numbers."""
    scheme = _scheme(runs)
    keys = tuple(Key(name, swatch(i)) for i, name in enumerate(scheme.names))
    keys = keys if len(keys) > 1 else ()
    made = [
        _accuracy(scheme, keys),
        _format(scheme, keys),
        _loss(scheme, keys),
        _positions(scheme),
        _entropy(scheme, keys),
        _completions(scheme, keys),
        _diagnostics(scheme, keys),
    ]
    return [section for section in made if section.panels]


def bars(runs: Sequence[Run]) -> list[Bar]:
    """Where each run's time went; runs that logged no times are left out."""
    spent = [(run, time_spent(run)) for run in runs]
    names = list(_ACTIVITIES)
    for _, spans in spent:
        names += [span.name for span in spans if span.name not in names]
    return [_bar(run, spans, names) for run, spans in spent if sum(s.seconds for s in spans) > 0]


def _bar(run: Run, spans: Sequence[Span], names: Sequence[str]) -> Bar:
    total = sum(span.seconds for span in spans)
    return Bar(
        label=run.label,
        per_step=total / max(1, run.steps),
        total=total,
        parts=tuple(
            (_ACTIVITIES.get(s.name, s.name), s.seconds, s.seconds / total, names.index(s.name) % 7)
            for s in spans
            if s.seconds / total >= _NEGLIGIBLE
        ),
    )


def _scheme(runs: Sequence[Run]) -> _Scheme:
    by_method = len(runs) > 1 and all(run.compared for run in runs)
    names = dict.fromkeys(run.method if by_method else run.label for run in runs)
    return _Scheme(tuple(runs), tuple(names), by_method)


def _accuracy(scheme: _Scheme, keys: tuple[Key, ...]) -> Section:
    look = {"x": TOKENS, "y": "accuracy", "share": True}
    return Section(
        name="accuracy",
        title="Accuracy",
        reading=(
            "Against generated tokens, so that methods are compared at equal sampling cost. The"
            " dev split is problems held out from training (mean over samples, avg@k); training"
            " accuracy is that of the rollouts themselves."
        ),
        panels=(
            *scheme.panels("Dev accuracy", series.dev_against_tokens, "eval_avg@k", **look),
            *scheme.panels(
                "Dev accuracy by time",
                series.dev_against_minutes,
                "eval_avg@k",
                **look | {"x": "minutes of training"},
            ),
            *scheme.panels("Training accuracy", series.against_tokens, "accuracy", **look),
        ),
        keys=keys,
    )


def _format(scheme: _Scheme, keys: tuple[Key, ...]) -> Section:
    """Shows whether accuracy rose with the format rate, over a run's own dev evaluations."""
    clouds = [
        (run.label, cloud)
        for run in scheme.runs
        if (cloud := series.format_and_accuracy(run, "eval_avg@k", scheme.style(run)))
        and len(cloud.x) > 1
    ]
    known = [(label, series.correlation(cloud)) for label, cloud in clouds]
    said = "; ".join(f"{label}: {r:+.2f}" for label, r in known if r is not None)
    return Section(
        name="format",
        title="Format and accuracy",
        reading=(
            "A point per dev evaluation. If accuracy rises with the share of completions that state"
            " an answer at all, the model may have learned to finish in time, not to reason."
            + (f" Pearson's correlation: {said}." if said else "")
        ),
        panels=tuple(
            scatter(
                "Dev evaluations", [c for _, c in clouds], x="well-formed answers", y="accuracy"
            )
        ),
        keys=keys,
    )


def _loss(scheme: _Scheme, keys: tuple[Key, ...]) -> Section:
    panels: list[Panel] = []
    methods = list(dict.fromkeys(run.method for run in scheme.runs))
    # Losses of different methods have different units: they never share axes.
    for method in methods:
        part = _Scheme(
            tuple(run for run in scheme.runs if run.method == method),
            scheme.names,
            scheme.by_method,
        )
        title = f"Loss of {method}" if len(methods) > 1 and method else "Loss"
        panels += part.panels(title, series.against_steps, "loss", x=STEPS, y="loss")
    panels += scheme.panels(
        "Divergence",
        series.against_steps,
        "divergence",
        x=STEPS,
        y="nats per token",
        from_zero=True,
    )
    return Section(
        name="loss",
        title="Loss and divergence",
        reading=(
            "The divergence is the unclipped distance between student and teacher. The loss is"
            " what was minimised: it may be clipped, weighted, or something else altogether, so"
            " the two need not move together. The loss of a policy gradient stays around zero"
            " whatever the model learns."
        ),
        panels=tuple(panels),
        keys=keys,
        warnings=tuple(filter(None, map(series.hidden_divergence, scheme.runs))),
    )


def _positions(scheme: _Scheme) -> Section:
    panels: list[Panel] = []
    stages: dict[str, None] = {}
    for title, run in _one_of_each_variant(scheme):
        thirds = series.deciles(run)
        stages |= dict.fromkeys(third.stage for third in thirds)
        panels += positions(title, thirds, scheme.style(run))
    return Section(
        name="positions",
        title="Divergence along the completion",
        reading=(
            "Unclipped divergence by tenth of the completion, from its first token to its last;"
            " each line is the mean of a tenth of the steps. A rise towards the end means that"
            " student and teacher drift apart as the completion grows."
        ),
        panels=tuple(panels),
        keys=tuple(Key(f"{stage} of training", stage_swatch(stage)) for stage in stages),
    )


def _one_of_each_variant(scheme: _Scheme) -> Iterator[tuple[str, Run]]:
    """Yields runs with the titles of their panels. If runs are compared by method, only the first
    seed of each method is shown, since seeds look alike."""
    seen: set[tuple[str, str]] = set()
    for run in scheme.runs:
        if not scheme.by_method:
            yield run.label, run
        elif (run.language, run.method) not in seen and series.deciles(run):
            seen.add((run.language, run.method))
            yield f"{run.method}, {language_name(run.language)} (seed {run.seed})", run


def _entropy(scheme: _Scheme, keys: tuple[Key, ...]) -> Section:
    both = {"student": "entropy/student", "teacher": "entropy/teacher"}
    panels: list[Panel] = []
    if len(scheme.runs) == 1:
        curves = [
            series.against_steps(scheme.runs[0], metric, i)
            for i, metric in enumerate(both.values())
        ]
        named = [c and replace(c, label=who) for c, who in zip(curves, both, strict=True)]
        panels += lines("Entropy", named, x=STEPS, y="nats per token", from_zero=True)
        keys = tuple(Key(c.label, swatch(c.style)) for c in named if c)
    else:
        for who, metric in both.items():
            panels += scheme.panels(
                f"Entropy of the {who}",
                series.against_steps,
                metric,
                x=STEPS,
                y="nats per token",
                from_zero=True,
            )
    return Section(
        name="entropy",
        title="Entropy",
        reading=(
            "How uncertain the next token is. A student with collapsed entropy has stopped"
            " exploring; a teacher far below its student is much more certain of the next token."
        ),
        panels=tuple(panels),
        keys=keys,
    )


def _completions(scheme: _Scheme, keys: tuple[Key, ...]) -> Section:
    curve = series.against_steps
    share = {"x": STEPS, "y": "share of completions", "share": True}
    return Section(
        name="completions",
        title="Completions",
        reading=(
            "Cut off: the completion reached the maximum length. Well formed: it states an answer"
            " at all, right or wrong."
        ),
        panels=(
            *scheme.panels(
                "Mean length",
                curve,
                "completions/mean_length",
                x=STEPS,
                y="tokens",
                from_zero=True,
            ),
            *scheme.panels("Cut off", curve, "completions/clipped_ratio", **share),
            *scheme.panels("Well formed", curve, "format_rate", **share),
        ),
        keys=keys,
    )


def _diagnostics(scheme: _Scheme, keys: tuple[Key, ...]) -> Section:
    names = sorted(
        {
            n
            for run in scheme.runs
            for row in run.train
            for n in row
            if n.startswith(_LOGGED_BY_PARTS)
        }
    )
    return Section(
        name="diagnostics",
        title="What the method's parts log",
        reading=(
            "Metrics that targets, supports, credits and weightings log under their own names, as"
            " means over the taught tokens."
        ),
        panels=tuple(
            panel
            for name in names
            for panel in scheme.panels(name, series.against_steps, name, x=STEPS, y="mean")
        ),
        keys=keys,
    )
