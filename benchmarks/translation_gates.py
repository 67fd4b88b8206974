r"""How well the quality gates of translations separate corrupted ones from good ones.

    python -m benchmarks.translation_gates [--half figures --json out.json]
    python -m benchmarks.translation_gates --measure

Good pairs are the questions of AfriMGSM and MGSM with their English originals, except those known
to be wrong; `OPSD_DATA` names the folder of both. Every pair is also corrupted once, by a rule: a
digit changed, a sentence dropped, half or all left in English, the text of another language, LaTeX
broken, a placeholder or a name lost, a currency changed. LaTeX and placeholders are first put into
both texts, in the good pair as well.

Even rows are for development: what is usual in a language is measured on them (`--measure` writes
`src/opsd/translate/measured.yaml`), and thresholds are chosen on them. The figures are from odd
rows. A row is a gate: `recall` is the fraction that it rejects of the pairs corrupted in its own
way, `precision` the fraction of corrupted pairs among all that it rejects. Together the gates must
reach a precision of 0.95 and a recall of 0.90.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import re
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from benchmarks.rows import Row, finish, judged, machine, note
from opsd.grade.fidelity import identified
from opsd.suites.labels import fixes
from opsd.suites.loading import read, suite
from opsd.translate.gates import GATES, Fault, Pair, Usual
from opsd.translate.gates import judged as found_by
from opsd.translate.marks import lost_names, names
from opsd.translate.numbers import numbers, spelled_in_east, values
from opsd.translate.sentences import asks, split
from opsd.types import UserError

DATA = "OPSD_DATA"
MEASURED = Path(__file__).parents[1] / "src/opsd/translate/measured.yaml"
PRECISION, RECALL = 0.95, 0.90
AFRICAN = (
    *("amh", "ewe", "hau", "ibo", "kin", "lin", "lug", "orm"),
    *("sna", "sot", "swa", "twi", "wol", "xho", "yor", "zul"),
)
OTHERS = ("ben", "deu", "fra", "jpn", "rus", "spa", "tel", "tha", "zho")
LEFT_IN_ENGLISH = {("twi", 170), ("twi", 197), ("twi", 200), ("twi", 235), ("ibo", 1)}
DIGITS = (1, 13, 100)
"""The smallest number that a language may write in digits: all, above a dozen, of three digits."""
TAKEN = 0.01
"""If the identifier takes at least this fraction of a language's letters for another language, the
two are confused."""
RARE = 0.015
"""The fraction of good pairs that a rule may reject and still be a rule of the language; twice that
for names, which no other rule would catch."""
HALVES = {"development": 0, "figures": 1}
FORMULAS = (
    r"\(x^{2} + 1 = \frac{a}{b}\)",
    r"$\sqrt{n} \le 7$",
    r"$y_{1} = \text{total} \times z$",
    r"\[\sum_{i} a_{i} = \frac{1}{2}\]",
)
PLACEHOLDERS = ("{name}", "<b>", "%s", "[CITY]", "{{ item }}", "___")
NAMES = ("Aurora", "Bjorn", "Chidinma", "Delphine", "Evander", "Fatoumata")
_SENTENCE = re.compile("(?<=[.!?\u3002\uff01\uff1f\u0964\u1362\u1367])\\s*(?=\\S)")


class Case(NamedTuple):
    """A pair, the way it was corrupted (None if it is good), and its row."""

    pair: Pair
    kind: str | None
    row: int


@dataclass(frozen=True)
class Spoiler:
    """A way to corrupt a pair: a change to both texts first, then a change to the translation, or
    None if it does not apply. `gate` is the one that should detect it."""

    gate: str
    spoil: Callable[[Pair, random.Random, Sequence[str]], str | None]
    insert: Sequence[str] = ()


def another_number(pair: Pair, draw: random.Random, others: Sequence[str]) -> str | None:
    """One digit of one number is changed."""
    found = list(re.finditer(r"[0-9]", pair.target))
    if not found:
        return None
    place = draw.choice(found)
    digit = draw.choice([d for d in "123456789" if d != place[0]])
    return pair.target[: place.start()] + digit + pair.target[place.end() :]


def without_a_sentence(pair: Pair, draw: random.Random, others: Sequence[str]) -> str | None:
    pieces = _SENTENCE.split(pair.target)
    if len(pieces) < 3:
        return None
    del pieces[draw.randrange(len(pieces))]
    return " ".join(pieces)


def left_in_english(pair: Pair, draw: random.Random, others: Sequence[str]) -> str | None:
    """All of it, or its second half, is the English text."""
    english, own = _SENTENCE.split(pair.source), _SENTENCE.split(pair.target)
    if len(own) < 2 or len(english) < 2 or draw.random() < 0.5:
        return pair.source
    return " ".join([*own[: len(own) // 2], *english[len(english) // 2 :]])


def another_language(pair: Pair, draw: random.Random, others: Sequence[str]) -> str | None:
    return draw.choice(others) if others else None


def broken_latex(pair: Pair, draw: random.Random, others: Sequence[str]) -> str | None:
    """A brace, a delimiter, a backslash or a formula is lost, or a command is replaced by
    another."""
    marks = [m.span() for m in re.finditer(r"[{}]|\\[()\[\]]|\\(?=[a-z])", pair.target)]
    if draw.random() < 0.2:
        formula = next((f for f in FORMULAS if f in pair.target), None)
        return pair.target.replace(formula, "") if formula else None
    start, end = draw.choice(marks)
    return pair.target[:start] + pair.target[end:]


def lost_placeholder(pair: Pair, draw: random.Random, others: Sequence[str]) -> str | None:
    """It is missing, or was translated."""
    own = next((p for p in PLACEHOLDERS if p in pair.target), None)
    if own is None:
        return None
    return pair.target.replace(
        own, "" if draw.random() < 0.5 else own.replace(own.strip("{}<>[]%_ "), "jina") + ""
    )


def another_name(pair: Pair, draw: random.Random, others: Sequence[str]) -> str | None:
    """Every name that both texts contain is replaced by another one."""
    inside = re.findall(r"(?<=[a-z,] )[A-Z][a-z]{2,}|[A-Z][a-z]{2,}(?=['\u2019]s)", pair.source)
    own = [name for name in dict.fromkeys(inside) if name in pair.target]
    made = pair.target
    for name, new in zip(own, draw.sample(NAMES, len(NAMES)), strict=False):
        made = made.replace(name, new)
    return made if made != pair.target else None


def another_currency(pair: Pair, draw: random.Random, others: Sequence[str]) -> str | None:
    return pair.target.replace("$", "\u20ac") if "$" in pair.target else None


SPOILERS = {
    "a number changed": Spoiler("numbers", another_number),
    "a sentence dropped": Spoiler("sentences", without_a_sentence),
    "left in English": Spoiler("copied", left_in_english),
    "another language": Spoiler("language", another_language),
    "LaTeX broken": Spoiler("latex", broken_latex, FORMULAS),
    "a placeholder lost": Spoiler("placeholders", lost_placeholder, PLACEHOLDERS),
    "a name lost": Spoiler("names", another_name),
    "a currency changed": Spoiler("units", another_currency),
}


def pairs(folder: Path) -> dict[tuple[int, str], Pair]:
    """All pairs, by row and language. Raises UserError if the folder has none."""
    given = (("afrimgsm", AFRICAN), ("mgsm", OTHERS))
    english = {p.metadata["row"]: p.text for p in read(suite("mgsm"), ["eng"], folder / "mgsm")}
    found: dict[tuple[int, str], Pair] = {}
    for name, codes in given:
        for problem in read(suite(name), list(codes), folder / name):
            row, code = problem.metadata["row"], problem.language
            wrong = name == "afrimgsm" and row in fixes(name, code)
            if not wrong and (code, row) not in LEFT_IN_ENGLISH:
                found[row, code] = Pair(english[row], problem.text, code)
    return dict(sorted(found.items()))


def cases(given: dict[tuple[int, str], Pair], half: int) -> Iterator[Case]:
    """Every pair of a half twice: unchanged, and corrupted."""
    kinds = list(SPOILERS)
    turns: Counter[str] = Counter()
    for (row, code), pair in given.items():
        if row % 2 != half:
            continue
        draw = random.Random(f"{row} {code}")
        others = [p.target for (r, c), p in given.items() if r == row and c != code]
        turns[code] += 1
        for step in range(len(kinds)):
            kind = kinds[(turns[code] + step) % len(kinds)]
            spoiler = SPOILERS[kind]
            base = _inserted(pair, draw.choice(spoiler.insert)) if spoiler.insert else pair
            made = spoiler.spoil(base, draw, others)
            if made is not None and made != base.target:
                yield Case(base, None, row)
                yield Case(replace(base, target=made), kind, row)
                break


def _inserted(pair: Pair, what: str) -> Pair:
    return replace(pair, source=f"{pair.source} {what}", target=f"{pair.target} {what}")


def rows_of(judgements: Sequence[tuple[Case, list[Fault]]]) -> list[Row]:
    """All gates together, then each gate, each way to corrupt, and each language."""
    together = _scored(judgements, set(GATES), None)
    made = [
        judged(
            "together",
            together["recall"],
            RECALL,
            together["recall"] >= RECALL and together["precision"] >= PRECISION,
            **together,
            target_precision=PRECISION,
        )
    ]
    for gate in GATES:
        kinds = {kind for kind, spoiler in SPOILERS.items() if spoiler.gate == gate}
        own = _scored(judgements, {gate}, kinds or None)
        made.append(judged("gate", own["recall"] if kinds else None, name=gate, **own))
    for kind in SPOILERS:
        own = [j for j in judgements if j[0].kind == kind]
        share = sum(bool(found) for _, found in own) / len(own)
        made.append(judged("kind", share, name=kind, pairs=len(own)))
    for code in dict.fromkeys(case.pair.language for case, _ in judgements):
        own = [j for j in judgements if j[0].pair.language == code]
        made.append(judged("language", None, name=code, **_scored(own, set(GATES), None)))
    return made


def _scored(
    judgements: Iterable[tuple[Case, list[Fault]]], gates: set[str], kinds: set[str] | None
) -> dict[str, Any]:
    """Precision over all pairs, recall over those that were corrupted in certain ways."""
    counts: Counter[str] = Counter()
    for case, found in judgements:
        flagged = any(fault.gate in gates for fault in found)
        counts["good" if case.kind is None else "spoiled"] += 1
        counts["good rejected"] += flagged and case.kind is None
        counts["spoiled rejected"] += flagged and case.kind is not None
        if case.kind is not None and (kinds is None or case.kind in kinds):
            counts["own"] += 1
            counts["own rejected"] += flagged
    rejected = counts["good rejected"] + counts["spoiled rejected"]
    return {
        "precision": round(counts["spoiled rejected"] / rejected, 4) if rejected else 1.0,
        "recall": round(counts["own rejected"] / max(counts["own"], 1), 4),
        "good": counts["good"],
        "good_rejected": counts["good rejected"],
        "spoiled": counts["own"],
        "spoiled_rejected": counts["own rejected"],
    }


def measured(given: dict[tuple[int, str], Pair]) -> dict[str, dict[str, Any]]:
    """What is usual in each language, on the rows for development."""
    found = {}
    for code in dict.fromkeys(code for _, code in given):
        own = [p for (row, c), p in given.items() if c == code and row % 2 == HALVES["development"]]
        ratios = [math.log(len(p.target) / len(p.source)) for p in own]
        middle = statistics.median(ratios)
        away = statistics.median(abs(ratio - middle) for ratio in ratios)
        asked = [p for p in own if asks(p.source)]
        found[code] = Usual(
            round(middle, 3),
            round(1.4826 * away, 3),
            digits_from=next((n for n in DIGITS if _share(own, partial(_lacks, n)) < RARE), None),
            sentences=_share(own, lambda p: len(split(p.target)) < len(split(p.source))) < 0.25,
            question_mark=_share(asked, lambda p: not asks(p.target)) < RARE,
            names=_share(own, _lacks_names) < 2 * RARE,
            taken_for=tuple(_taken_for(own, code)),
        )._asdict()
        found[code]["taken_for"] = list(found[code]["taken_for"])
    return found


def _taken_for(own: Sequence[Pair], code: str) -> Iterator[str]:
    spoken = sum((identified(pair.target) for pair in own), Counter[str]())
    for other, letters in sorted(spoken.items()):
        if other not in (code, "eng") and letters > TAKEN * spoken.total():
            yield other


def _lacks(least: int, pair: Pair) -> bool:
    """Whether a number of the English text that is at least this large is missing."""
    there = values(numbers(pair.target)) | spelled_in_east(pair.target)
    large = [n for n in numbers(pair.source) if min(n.readings) >= least]
    return any(not n.within(there) for n in large)


def _lacks_names(pair: Pair) -> bool:
    told = names(pair.source)
    return bool(told) and len(lost_names(pair.source, pair.target)) == len(told)


def _share(given: Sequence[Pair], is_so: Callable[[Pair], bool]) -> float:
    return sum(map(is_so, given)) / max(len(given), 1)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--half", choices=HALVES, default="figures")
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--show", type=int, default=0, help="pairs that are judged wrongly")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    if DATA not in os.environ:
        raise UserError(f"the environment variable {DATA} names no folder of real data")
    before, given = machine(), pairs(Path(os.environ[DATA]))
    if options.measure:
        text = "# Written by `python -m benchmarks.translation_gates --measure`.\n"
        MEASURED.write_text(text + yaml.safe_dump(measured(given), sort_keys=False), "utf-8")
        return 0
    judgements = [(c, found_by(c.pair)) for c in cases(given, HALVES[options.half])]
    for case, found in [j for j in judgements if bool(j[1]) != bool(j[0].kind)][: options.show]:
        told = "; ".join(map(str, found)) or f"{case.kind}: not seen"
        note(f"{case.pair.language} {case.row}: {told}\n  {case.pair.source}\n  {case.pair.target}")
    return finish(rows_of(judgements), options.json, before)


if __name__ == "__main__":
    sys.exit(main())
