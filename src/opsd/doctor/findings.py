"""What can be wrong with problems: each kind is counted, with its first examples and how to fix
it."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from opsd.data.problems import varied
from opsd.grade.answer import answers_match, gold_answer
from opsd.grade.fidelity import identified, known
from opsd.grade.format import extract_boxed
from opsd.grade.gold import gold_fault
from opsd.languages.registry import codes, language
from opsd.types import Problem

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")
EXAMPLES = 3
"""How many rows are shown of each kind."""
IDENTIFIED = 2000
"""How many problems have their language identified, equally many of all languages if possible: a
thousand take about a second."""
_SHOWN = 80
_MARK = re.compile(r"(?<!\d)[.,;:!?'\"]|[.,;:!?'\"](?!\d)")
"""Punctuation that is not part of a number."""
_PART = re.compile(r"\n+|(?<=[.!?])\s+")


@dataclass
class Finding:
    """One kind of fault: how many rows have it, the first of them, and how to fix it."""

    what: str
    level: Level
    mend: str
    of: int
    rows: int = 0
    examples: list[dict[str, str]] = field(default_factory=list)

    def add(self, problem: Problem, told: str) -> None:
        """Counts a problem, and keeps it as an example if it is one of the first."""
        self.rows += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append({"where": where(problem), "told": shown(told)})

    @property
    def order(self) -> tuple[int, int]:
        """Sort key: worst first."""
        return LEVELS.index(self.level), -self.rows


def where(problem: Problem) -> str:
    """A problem's file and row, without the file's folder."""
    file, _, row = problem.name.rpartition(", ")
    return f"{Path(file).name}, {row}" if file else row


def shown(text: str) -> str:
    """A text on one line; only its beginning if it is long."""
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else line[: _SHOWN - 4] + " ..."


def findings(problems: Sequence[Problem]) -> list[Finding]:
    """What is wrong with problems, individually and compared with each other."""
    made = [finding for check in CHECKS for finding in check(problems)]
    return [finding for finding in made if finding.rows]


def duplicates(problems: Sequence[Problem]) -> Iterator[Finding]:
    """Problems of a language that are the same except for case, spaces and punctuation."""
    again = Finding("problems occur more than once", "warning", "remove the copies", len(problems))
    differ = Finding(
        "copies of a problem have another answer",
        "error",
        "one of the two is wrong: look at both",
        len(problems),
    )
    first: dict[tuple[str, str], Problem] = {}
    for problem in problems:
        one = first.setdefault((problem.language, plain(problem.text)), problem)
        if one is problem:
            continue
        again.add(problem, f"as {where(one)}: {problem.text}")
        if None not in (one.answer, problem.answer) and not _same(str(problem.answer), one):
            differ.add(problem, f"{problem.answer}, and {one.answer} in {where(one)}")
    yield again
    yield differ


def answers(problems: Sequence[Problem]) -> Iterator[Finding]:
    """Answers that are missing, or that no completion can match."""
    missing = Finding(
        "have no answer",
        "note",
        "they cannot be graded: no reward, no accuracy; map data.columns.answer",
        len(problems),
    )
    faulty: dict[str, Finding] = {}
    for problem in problems:
        if not problem.answer:
            missing.add(problem, problem.text)
        elif fault := gold_fault(problem):
            kind = faulty.setdefault(
                fault,
                Finding(
                    f"have gold answers that {fault}",
                    "error",
                    "no completion would be right: fix them, or leave these rows out",
                    len(problems),
                ),
            )
            kind.add(problem, str(problem.answer))
    yield missing
    yield from faulty.values()


def texts(problems: Sequence[Problem]) -> Iterator[Finding]:
    """Privileged texts that some problems have and others lack."""
    counts = Counter(name for problem in problems for name in problem.privileged)
    for name, count in counts.items():
        lacking = Finding(
            f"have no {name}, which others have",
            "warning",
            "prompts that show it fail on these rows; filters.complete leaves them out",
            len(problems),
        )
        for problem in problems if count < len(problems) else ():
            if name not in problem.privileged:
                lacking.add(problem, problem.text)
        yield lacking


def references(problems: Sequence[Problem]) -> Iterator[Finding]:
    """Reference solutions that reach another answer than the row's, do not state it in a box, or
    give it away at once."""
    told = [p for p in problems if "solution" in p.privileged]
    of = len(told)
    other = Finding(
        "have a solution that reaches another answer than the row's own",
        "error",
        "the teacher would read an answer that the verifier rejects: look at both",
        of,
    )
    plain = Finding(
        "have a solution that does not state its answer in a box, or after ####",
        "note",
        "methods that train on the text itself (sft, star) do not learn to write a box from it",
        of,
    )
    hasty = Finding(
        "have a solution that gives the answer in its first line",
        "warning",
        "they invite a teacher to answer at once: put the steps first",
        of,
    )
    for problem in told:
        solution = problem.privileged["solution"]
        stated = _stated(solution)
        if stated is None:
            plain.add(problem, solution)
        elif problem.answer and not _same(stated, problem):
            other.add(problem, f"the row's {problem.answer}, the solution's {stated}")
        if problem.answer and _hasty(solution, gold_answer(problem.answer)):
            hasty.add(problem, solution)
    yield from (other, plain, hasty)


def spoken(problems: Sequence[Problem]) -> Iterator[Finding]:
    """Problems that are in another language than their rows say. For a language that the identifier
    does not know, only problems in English are found."""
    asked = varied(problems, IDENTIFIED)
    wrong = Finding(
        "are in another language than the row says",
        "warning",
        "look at data.language and the language column, or leave them out",
        len(asked),
    )
    for problem in asked:
        letters = identified(problem.text)
        own = problem.language
        others = letters.total() - letters[own] if own in known() else letters["eng"]
        if 2 * others > letters.total():
            ((code, _),) = letters.most_common(1)
            wrong.add(problem, f"not {language(own).name} but {_name(code)}: {problem.text}")
    yield wrong


CHECKS: tuple[Callable[[Sequence[Problem]], Iterable[Finding]], ...] = (
    *(duplicates, answers, texts, references, spoken),
)


def _name(code: str) -> str:
    return language(code).name if code in codes() else code


def plain(text: str) -> str:
    """A text without case and punctuation; signs and decimal marks stay, since they distinguish
    formulas."""
    return " ".join(_MARK.sub(" ", unicodedata.normalize("NFKC", text).casefold()).split())


def _same(answer: str, problem: Problem) -> bool:
    """Whether an answer is the problem's own."""
    gold = str(problem.answer)
    if answer.strip() == gold_answer(gold):
        return True
    return answers_match(answer, gold, problem.language)


def _stated(solution: str) -> str | None:
    """The answer that a solution states in a box or after ####; None if it does not."""
    return extract_boxed(solution) or (gold_answer(solution) if "####" in solution else None)


def _hasty(solution: str, answer: str) -> bool:
    """Whether a text of several lines or sentences states its answer in the first: alone, in a box,
    or after the word `answer`. A step that results in the same number does not count."""
    first, *rest = [part for part in _PART.split(solution.strip()) if part] or [""]
    said = rf"(?<![\w.]){re.escape(answer)}(?!\w|\.\d)"
    if not answer or not rest or not re.search(said, first):
        return False
    return "\\boxed" in first or bool(re.search(rf"(?i)\banswer\b.*{said}|^\W*{said}\W*$", first))
