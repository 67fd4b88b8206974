"""Which of several models is better on the same problems, and how sure that is.

Models are compared problem by problem, which is much sharper than two separate intervals: what
makes a problem hard is the same for both.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from opsd.console import log
from opsd.evaluate.contamination import shared
from opsd.evaluate.results import (
    METRICS,
    Judged,
    counted,
    groups,
    label_sets,
    refuse_missing,
    split_weights,
)
from opsd.evaluate.samples import PROTOCOL, Row, claims, judged_rows, trained_from, unlike
from opsd.evaluate.show import show_comparisons
from opsd.evaluate.weighted import shares
from opsd.grade.intervals import CHANGE, estimate
from opsd.grade.metrics import false_discovery, mean, permutation_test
from opsd.lm.built_in import resolve
from opsd.runs.json_files import document
from opsd.suites.labels import UPSTREAM
from opsd.suites.loading import SUITES
from opsd.types import UserError

T = TypeVar("T", str, int)

POOLED = "all"
"""Stands for the unweighted mean over languages."""

Cell = Mapping[str, Sequence[Judged]]
"""The samples of each problem, by its key."""

Pair = tuple[Cell, Cell]
"""The baseline's samples, and the other model's."""

Part = tuple[float, Sequence[str]]
"""A split's share of a language's score, and the keys of its problems."""


@dataclass(frozen=True)
class Sampled:
    """One model's samples on one suite. `rows` are by language; `base` is the model that it was
    trained from, if that is known."""

    folder: Path
    model: str
    suite: str
    claim: Row
    rows: Mapping[str, Sequence[Row]]
    base: str | None = None

    @property
    def budgets(self) -> list[int]:
        return list(self.claim["protocol"]["budgets"])

    @property
    def weights(self) -> dict[str, float]:
        """The weights of the suite's splits; empty for a suite without splits."""
        if self.suite in SUITES:
            return dict(SUITES[self.suite].splits)
        return split_weights(self.folder) | self.claim["splits"]

    @property
    def aside(self) -> tuple[str, ...]:
        """Languages that are not part of the pooled score."""
        if self.suite in SUITES:
            return SUITES[self.suite].aside
        return tuple(self.claim["aside"] or ())

    def parts(
        self, language: str, problems: Iterable[str], weights: Mapping[str, float]
    ) -> list[Part]:
        """These problems by their splits, each split with its share of the language's score."""
        splits = {row["problem"]: str(row.get("split", "")) for row in self.rows[language]}
        own: dict[str, list[str]] = defaultdict(list)
        for problem in sorted(problems):
            own[splits[problem]].append(problem)
        made = shares(own, weights, str(self.folder))
        return [(made[split], keys) for split, keys in own.items()]


@dataclass(frozen=True)
class Stratum:
    """The baseline's and the model's scores on the problems of one language and split, in the same
    order. `share` is the stratum's share of the language's score."""

    share: float
    base: Sequence[float]
    model: Sequence[float]

    @property
    def differences(self) -> list[float]:
        return [b - a for a, b in zip(self.base, self.model, strict=True)]


def compare(folders: Sequence[Path], *, common: bool = False) -> dict[str, Any]:
    """Returns the result of `compared`, and prints it as a table."""
    told = compared(folders, common=common)
    whys = {
        "trained from": "another model was trained from it",
        "first": "the first one named, or the first one evaluated",
    }
    log(f"baseline: {told['baseline']} ({whys[told['baseline_is']]})")
    show_comparisons(told["comparisons"], told["baseline"])
    return told


def compared(folders: Sequence[Path], *, common: bool = False) -> dict[str, Any]:
    """Every model against the first one: `avg@k`, `pass@k` and `maj@k` per suite, language,
    budget and set of labels, and pooled over the languages.

    `folders` contain samples, at any depth. Models must have answered the same problems equally
    often in the same languages; with `common`, what they have in common is compared. Raises
    UserError for what does not match, and for models that were evaluated under different protocols.
    """
    found = [sampled for folder in folders for sampled in _sampled(folder)]
    models = _models(found)
    baseline = next(iter(models))
    if len(models) < 2:
        raise UserError(f"only {baseline} has samples: a comparison needs two models")
    known = dict.fromkeys(suite for suites in models.values() for suite in suites)
    for line in shared(SUITES[name] for name in known if name in SUITES):
        log(f"contamination: {line}")
    comparisons = [
        comparison
        for name, suites in models.items()
        if name != baseline
        for comparison in _against(models[baseline], suites, name, common)
    ]
    start = next(iter(models[baseline].values())).model
    why = "trained from" if _is_base(start, found) else "first"
    return {"baseline": baseline, "baseline_is": why, "comparisons": _corrected(comparisons)}


def _sampled(folder: Path) -> list[Sampled]:
    """The evaluations in a folder: first those of the model that others were trained from, then the
    others, in the order in which they were started."""
    found = []
    start = _started_from(folder)
    for place, claim in claims(folder):
        rows: dict[str, list[Row]] = defaultdict(list)
        for row in sorted(judged_rows(place), key=_place):
            rows[row["language"]].append(row)
        refuse_missing(place, {language: len(own) for language, own in rows.items()})
        suite = next(iter(rows.values()))[0]["suite"]
        model = claim["model"]
        base = claim["trained_from"] or trained_from(Path(model)) or start
        base = None if base is None or _same(base, model) else base
        found.append(Sampled(place, model, suite, claim, rows, base))

    def order(sampled: Sampled) -> tuple[bool, bool, float]:
        trained = any(sampled.base and _same(sampled.base, other.model) for other in found)
        return not _is_base(sampled.model, found), trained, sampled.claim["begun"]

    return sorted(found, key=order)


def _is_base(model: str, found: Iterable[Sampled]) -> bool:
    """Whether any of these models was trained from this one."""
    return any(other.base and _same(other.base, model) for other in found)


def _same(one: str, other: str) -> bool:
    return os.path.normpath(resolve(one)) == os.path.normpath(resolve(other))


def _started_from(folder: Path) -> str | None:
    """The model that a run folder, or the run around an `eval` folder, started from."""
    for place in (folder, folder.resolve().parent):
        if (place / "env.json").is_file():
            return document(place / "env.json").get("model")
    return None


def _place(row: Row) -> tuple[str, str, int]:
    return row["language"], row["problem"], row["sample"]


def _models(found: Sequence[Sampled]) -> dict[str, dict[str, Sampled]]:
    """Suites by model, in the order found. One model in two output folders counts as two models."""
    distinct = {sampled.folder.resolve(): sampled for sampled in found}.values()
    homes: dict[str, list[Path]] = defaultdict(list)
    for sampled in distinct:
        home = sampled.folder.parent.resolve()
        if home not in homes[sampled.model]:
            homes[sampled.model].append(home)
    models: dict[str, dict[str, Sampled]] = defaultdict(dict)
    for sampled in distinct:
        several = len(homes[sampled.model]) > 1
        name = f"{sampled.model} ({sampled.folder.parent})" if several else sampled.model
        models[name][sampled.suite] = sampled
    return models


def _against(
    base: Mapping[str, Sampled], other: Mapping[str, Sampled], model: str, common: bool
) -> Iterator[dict[str, Any]]:
    for suite in _shared(list(base), list(other), "suites", model, common):
        one, two = base[suite], other[suite]
        where = f"{two.folder} and {one.folder}"
        _refuse_another_protocol(one, two)
        spoken = _shared(list(one.rows), list(two.rows), "languages", where, common)
        for budget in _shared(one.budgets, two.budgets, "budgets", where, common):
            pairs: dict[str, dict[str, Pair]] = defaultdict(dict)
            for language in spoken:
                for labels in label_sets(one.rows[language]):
                    here, there = (groups(s.rows[language], budget, labels) for s in (one, two))
                    pairs[labels][language] = _paired(here, there, f"{where}, {language}", common)
            about = {"model": model, "suite": suite, "budget": budget}
            yield from _compared(pairs, about, one, two)


def _shared(ours: Sequence[T], theirs: Sequence[T], what: str, where: str, common: bool) -> list[T]:
    """The items that both have, in the baseline's order; without `common` these must be all."""
    both = [item for item in ours if item in theirs]
    rest = [str(item) for item in (*ours, *theirs) if item not in both]
    if not both:
        raise UserError(f"{where}: no {what} in common with the baseline ({', '.join(rest)})")
    if rest and not common:
        raise UserError(
            f"{where}: other {what} than the baseline's ({', '.join(rest)} on one side only);"
            " --common compares the rest"
        )
    return both


def _refuse_another_protocol(one: Sampled, two: Sampled) -> None:
    parts = unlike(_way(one.claim), _way(two.claim))
    if parts:
        raise UserError(
            f"{two.folder} and {one.folder} have different protocols ({', '.join(parts)}; see"
            f" {PROTOCOL} in both): evaluate both under one protocol"
        )


def _way(claim: Row) -> Row:
    """A claim's prompt, sampling and scoring, without what may differ: the seed, and the budgets,
    since a smaller budget is part of a larger one."""
    protocol = claim["protocol"]
    sampling = {k: v for k, v in protocol["sampling"].items() if k != "max_tokens"}
    rest = {k: v for k, v in protocol.items() if k not in ("seed", "budgets")}
    told = {part: claim[part] for part in ("template", "languages", "splits", "aside")}
    return {**rest, "sampling": sampling, **told}


def _paired(one: Cell, two: Cell, where: str, common: bool) -> Pair:
    """The samples of both on the same problems, equally many of each."""
    if not common:
        alone = len(one.keys() ^ two.keys())
        if alone:
            raise UserError(
                f"{where}: other problems than the baseline's ({alone} on one side only);"
                " --common compares the rest"
            )
        counts = {len(group) for cell in (one, two) for group in cell.values()}
        if len(counts) > 1:
            raise UserError(
                f"{where}: {min(counts)} samples of a problem here, {max(counts)} there; finish"
                " both evaluations, or compare as many as all have with --common"
            )
        return one, two
    samples = min(max(map(len, cell.values())) for cell in (one, two))
    keys = [k for k in one if len(one[k]) >= samples and len(two.get(k, ())) >= samples]
    if not keys:
        raise UserError(f"{where}: no problem in common with the baseline")
    return {k: one[k][:samples] for k in keys}, {k: two[k][:samples] for k in keys}


def _compared(
    pairs: Mapping[str, Mapping[str, Pair]],
    about: Mapping[str, Any],
    one: Sampled,
    two: Sampled,
) -> Iterator[dict[str, Any]]:
    """Yields the comparisons of single languages, then the pooled one. Under corrected labels, the
    languages without corrections join the pool with their upstream labels."""
    aside = {*one.aside, *two.aside}  # the same ones, unless an older folder does not record them
    weights = one.weights | two.weights
    samples = [s for cell in pairs[UPSTREAM].values() for own in cell[0].values() for s in own]
    for metric in counted(samples):
        score = METRICS[metric]
        for labels, by_language in pairs.items():
            scores = {
                language: _strata(cells, score, two.parts(language, cells[0], weights))
                for language, cells in {**pairs[UPSTREAM], **by_language}.items()
            }
            for language in by_language:
                yield _comparison(about, language, labels, metric, [scores[language]])
            pooled = [own for language, own in scores.items() if language not in aside]
            if len(pooled) > 1:
                yield _comparison(about, POOLED, labels, metric, pooled)


def _strata(
    cells: Pair, score: Callable[[Sequence[Judged]], float], parts: Sequence[Part]
) -> list[Stratum]:
    """A language's scores, by split."""
    return [
        Stratum(share, *([score(cell[key]) for key in keys] for cell in cells))
        for share, keys in parts
    ]


def _comparison(
    about: Mapping[str, Any],
    language: str,
    labels: str,
    metric: str,
    scores: Sequence[Sequence[Stratum]],
) -> dict[str, Any]:
    """One comparison over the `scores` of one or more languages. Languages have equal weights,
    splits their shares."""
    strata = [stratum for own in scores for stratum in own]
    differences = [stratum.differences for stratum in strata]
    made = estimate(differences, [stratum.share for stratum in strata], CHANGE)
    every = [d for group in differences for d in group]
    # The test gives all of its groups equal weights.
    weighed = [[s.share * d for d in s.differences] for s in strata]
    return {
        **about,
        "language": language,
        "labels": labels,
        "n_problems": len(every),
        "metric": metric,
        "baseline": sum(s.share * mean(s.base) for s in strata) / len(scores),
        "value": sum(s.share * mean(s.model) for s in strata) / len(scores),
        "difference": made.value,
        "interval": list(made.interval),
        "p": permutation_test(weighed),
        "wins": sum(d > 0 for d in every),
        "losses": sum(d < 0 for d in every),
        "ties": sum(d == 0 for d in every),
    }


def _corrected(comparisons: Sequence[Row]) -> list[Row]:
    """The comparisons with p-values adjusted for multiple testing: the languages of one model,
    suite, budget, metric and set of labels are one family; the pooled comparison is a family of
    its own."""
    families: dict[tuple, list[int]] = defaultdict(list)
    for i, row in enumerate(comparisons):
        one = (row["model"], row["suite"], row["budget"], row["metric"], row["labels"])
        families[*one, row["language"] == POOLED].append(i)
    adjusted: dict[int, float] = {}
    for family in families.values():
        values = false_discovery([comparisons[i]["p"] for i in family])
        adjusted |= dict(zip(family, values, strict=True))
    return [row | {"p_adjusted": adjusted[i]} for i, row in enumerate(comparisons)]
