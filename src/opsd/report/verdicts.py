"""Did training help: yes, no or cannot tell; by how much, how surely, where, and at what cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from opsd.grade.intervals import CHANGE, FEWEST, Estimate, estimate
from opsd.pages.scale import Scale, scale
from opsd.report import outcomes, tables
from opsd.report.outcomes import LEVEL, Outcome
from opsd.report.runs import Comparison, Evidence, Run, Score, language_name, listed
from opsd.report.tables import points
from opsd.runs.json_files import mapping, number, sequence

Word = Literal["Yes", "No", "Cannot tell"]
COLOURS: dict[Word, str] = {"Yes": "good", "No": "bad", "Cannot tell": "muted"}
"""The CSS class of each answer's colour."""


@dataclass(frozen=True)
class Gain:
    """The gain in avg@k in a language, between -1 and 1, with its 95 % interval."""

    name: str
    value: float
    interval: tuple[float, float]
    # p-value, if the samples of both models exist.
    p: float | None = None

    @property
    def word(self) -> Word:
        """The answer for this gain; the interval and the test, if there is one, must agree."""
        low, high = self.interval
        if low <= 0 <= high or (self.p is not None and self.p > LEVEL):
            return "Cannot tell"
        return "Yes" if low > 0 else "No"

    @property
    def colour(self) -> str:
        return COLOURS[self.word]

    @property
    def effect(self) -> tuple[float, float, float]:
        return self.value, *self.interval

    @property
    def said(self) -> str:
        """The gain and its interval, in points."""
        low, high = self.interval
        return f"{points(self.value)} ({points(low)} to {points(high)})"


@dataclass(frozen=True)
class Answer:
    """One model, or one method, compared with the model before training. `facts` are sentences,
    each with the question that it answers."""

    about: str
    word: Word
    lead: str
    facts: tuple[tuple[str, str], ...]
    gains: tuple[Gain, ...] = ()

    @property
    def colour(self) -> str:
        return COLOURS[self.word]


def common_scale(answers: Sequence[Answer]) -> Scale:
    """One scale for the gains of all answers, so that they are comparable."""
    return scale(x for answer in answers for gain in answer.gains for x in gain.effect)


def verdicts(evidence: Evidence, found: Sequence[Outcome]) -> list[Answer]:
    """An answer for each method of a comparison and for each evaluated model; and one for all runs
    that were not compared with their base."""
    runs = {run.label: run for run in evidence.runs}
    answers = [
        answer for comparison in evidence.comparisons for answer in _compared(comparison, runs)
    ]
    answers += [_evaluated(outcome, runs[outcome.run]) for outcome in found]
    known = {outcome.run for outcome in found}
    compared = bool(evidence.comparisons)
    rest = [r for r in evidence.runs if r.label not in known and not (compared and r.compared)]
    return [*answers, *([_unknown(rest)] if rest else [])]


def _evaluated(outcome: Outcome, run: Run) -> Answer:
    pooled = outcome.pooled
    whole = _gain(pooled, "All languages")
    about = f"{outcome.name} on {outcome.suite}"
    few = pooled["n_problems"] < FEWEST
    word: Word = "Cannot tell" if few else whole.word
    how, *others = outcomes.told(outcome)
    facts = [("How surely", outcomes.sureness(outcome)), *others, *_cost([run])]
    gains = [
        _gain(row, language_name(row["language"]), "p_adjusted")
        for row in outcome.at()
        if row["language"] in outcome.languages
    ]
    gains += [whole] if len(gains) > 1 else []
    return Answer(about, word, how[1], tuple(facts), tuple(gains))


def _gain(row: outcomes.Row, name: str, p: str = "p") -> Gain:
    low, high = row["interval"]
    return Gain(name, row["difference"], (low, high), row[p])


def _compared(comparison: Comparison, runs: dict[str, Run]) -> Iterator[Answer]:
    """Yields an answer for each method of a quickstart, over seeds and problems together."""
    scores = comparison.scores
    bases = {s.language: s for s in scores if s.method == tables.BASE and s.scores}
    methods = [*dict.fromkeys(s.method for s in scores if s.method != tables.BASE)]
    for place, method in enumerate(methods):
        own = [s for s in scores if s.method == method and s.average is not None]
        strata = {
            code: np.array([s.scores for s in seeds]) - np.array(bases[code].scores)
            for code, seeds in _by_language(own).items()
            if code in bases and {len(s.scores) for s in seeds} == {len(bases[code].scores)}
        }
        if not strata:
            continue
        made = {code: estimate([cells], None, CHANGE) for code, cells in strata.items()}
        whole = _of(estimate(list(strata.values()), None, CHANGE), "All languages")
        gains = [_of(one, language_name(code)) for code, one in made.items()]
        problems = sum(cells.shape[1] for cells in strata.values())
        spoken = [s for s in own if s.language in strata]
        before = tables.mean_of_known([bases[code].average for code in strata])
        after = tables.mean_of_known(
            [tables.mean_of_known([s.average for s in spoken if s.language == c]) for c in strata]
        )
        trained = [r for r in runs.values() if r.compared and r.method == method]
        word: Word = "Cannot tell" if problems < FEWEST else whole.word
        facts = [
            ("How surely", _sureness(whole, problems, len({s.seed for s in spoken}))),
            *([("Where", where(gains))] if len(gains) > 1 else []),
            *(fact for other in methods[:place] for fact in _against(other, own, scores)),
            *_cost([r for r in trained if r.path.parent == comparison.path]),
        ]
        lead = _lead(before or 0.0, after or 0.0, whole.value, len(strata))
        gains += [whole] if len(gains) > 1 else []
        yield Answer(method, word, lead, tuple(facts), tuple(gains))


def _against(
    method: str, own: Sequence[Score], scores: Sequence[Score]
) -> Iterator[tuple[str, str]]:
    """Compares a method's scores with another method's, seed by seed and problem by problem."""
    theirs = {(s.language, s.seed): s.scores for s in scores if s.method == method}
    strata = [
        np.array([s.scores for s in seeds]) - np.array([theirs[code, s.seed] for s in seeds])
        for code, seeds in _by_language(own).items()
        if all(len(theirs.get((code, s.seed), ())) == len(s.scores) for s in seeds)
    ]
    if strata:
        gain = _of(estimate(strata, None, CHANGE), method)
        yield f"Against {method}", f"{gain.said} points: {_AGAINST[gain.word]}."


_AGAINST: dict[Word, str] = {"Yes": "higher", "No": "lower", "Cannot tell": "not told apart"}


def _by_language(scores: Sequence[Score]) -> dict[str, list[Score]]:
    found: dict[str, list[Score]] = {}
    for score in scores:
        found.setdefault(score.language, []).append(score)
    return found


def _of(made: Estimate, name: str) -> Gain:
    return Gain(name, made.value, made.interval)


def _lead(before: float, after: float, gain: float, languages: int) -> str:
    mean = f", as a mean over {languages} languages" if languages > 1 else ""
    return outcomes.lead(before, after, gain) + f"{mean}."


def _sureness(gain: Gain, problems: int, seeds: int) -> str:
    low, high = gain.interval
    of = f" and {seeds} training seeds" if seeds > 1 else ", one training seed"
    return (
        f"The 95% interval is {points(low)} to {points(high)} points, over {problems} problems{of}."
        f" {outcomes.unseen(problems, low, high)}"
    )


def where(gains: Sequence[Gain]) -> str:
    """In which languages training helped, each judged by its own interval."""
    by_word = {word: [gain.name for gain in gains if gain.word == word] for word in COLOURS}
    words: dict[Word, str] = {"Yes": "better in", "No": "worse in", "Cannot tell": "not sure in"}
    parts = [f"{said} {listed(by_word[word])}" for word, said in words.items() if by_word[word]]
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _cost(runs: Sequence[Run]) -> Iterator[tuple[str, str]]:
    """The cost of training, for all of these runs together, as far as they have logged it."""
    seconds = sum(span.seconds for run in runs for span in tables.time_spent(run))
    tokens = sum(run.generated_tokens or 0 for run in runs)
    parts = [f"{tokens:,} generated tokens"] if tokens else []
    if seconds:
        parts += [f"{tokens / seconds:,.0f} tokens/s"] if tokens else []
        parts += [_hours(runs, seconds)]
    if parts:
        each = f" over {len(runs)} runs" if len(runs) > 1 else ""
        yield "At what cost", f"{listed(parts)}{each}, dev evaluation included."


def _hours(runs: Sequence[Run], seconds: float) -> str:
    """GPU-hours if the run used GPUs, otherwise core-hours."""
    gpus = sequence(runs[0].environment.get("gpus"))
    threads = number(runs[0].environment, "threads") or 1
    units, name = (len(gpus), "GPU-hours") if gpus else (threads, "core-hours")
    on = gpus[0] if gpus else runs[0].environment.get("cpu")
    hours = units * seconds / 3600
    spent = f"{hours:,.2f}" if hours >= 0.1 else f"{60 * hours:.1f}"
    name = name if hours >= 0.1 else name.replace("hours", "minutes")
    return f"{spent} {name}{f' ({on})' if on else ''}"


def _unknown(runs: Sequence[Run]) -> Answer:
    labels = listed([run.label for run in runs])
    facts = [("On the dev split", text) for run in runs for text in _dev(run)]
    data = {str(mapping(run.recipe.get("data")).get("language") or "") for run in runs}
    spoken = data.pop() if len(data) == 1 else ""
    asked = f" --language {spoken}" if spoken.replace(",", "").isalpha() else ""
    base = mapping(runs[0].recipe.get("model")).get("name") or "BASE"
    facts.append(
        (
            "To find out",
            f"evaluate both on the same held-out problems (opsd evaluate {base}"
            f" {runs[0].path}/model --data FILE{asked}, or --suite NAME), then report again.",
        )
    )
    lead = f"No evaluation here compares {labels} with the model before training."
    return Answer(labels, "Cannot tell", lead, (*facts, *_cost(runs)))


def _dev(run: Run) -> Iterator[str]:
    scores = [s for s in (number(row, "eval_avg@k") for row in run.dev) if s is not None]
    if len(scores) > 1:
        yield (
            f"{run.label}: accuracy {scores[0]:.1%} at the first measurement, {max(scores):.1%} at"
            f" its best, {scores[-1]:.1%} at the last. The dev problems are held out from training,"
            " but they are few, and there is no interval."
        )
