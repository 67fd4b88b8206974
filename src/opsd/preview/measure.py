"""Measures what a method's teacher knows and would teach, before training: whether its privileged
text helps at all, how far teacher and student are apart on the student's own rollouts, and how much
of that is due to the reference, to its form, and to the wording around it.

Everything is measured with the starting weights. Of several loss terms, or views, the first that
has a teacher counts.
"""

from __future__ import annotations

import math
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from opsd.data.controls import coming_to, wrong_answers
from opsd.data.problems import load_problems, varied
from opsd.data.stream import ProblemStream
from opsd.grade.fidelity import fidelity
from opsd.grade.intervals import CHANGE, Estimate, estimate
from opsd.grade.judge import judge
from opsd.lm.forward import score
from opsd.lm.layout import ModelInput
from opsd.methods.signals import LossTerm
from opsd.objective.divergences import forward_kl
from opsd.preview.worth import ALONE, ANOTHER, UNFORCED, WRONG, worth
from opsd.prompts.contexts import Context, Draw
from opsd.prompts.tokens import pieces
from opsd.recipe.schema import Recipe
from opsd.recipe.train import make_trainer
from opsd.rollout.sources import OnPolicy
from opsd.teacher.scorer import ScoringRequest
from opsd.teacher.weights import Weights
from opsd.training.examples import TrainingExample, training_examples
from opsd.types import Attempt, Finish, Group, Problem, UserError, View

FRAMINGS = Path(__file__).with_name("framings")
BINS = 8
"""Number of parts of the longest rollout for which the distance is shown."""
STRONGEST = 8
"""How many tokens are shown, of those at which teacher and student are furthest apart."""
READ = 24
"""How many rollouts all readers read: a pass each, seven in total."""
_ROWS = 64  # how many of a reader's rows at once: with a large vocabulary a row is a megabyte

Told = Mapping[str, Problem]
"""What a reader reads about each problem, by the problem's id: the problem with other texts."""


@dataclass(frozen=True)
class Reader(Context):
    """Reads with the first view of a context, with each problem replaced by the one that `told`
    gives for it. Problems that are missing there are not read."""

    context: Context
    told: Told

    def __call__(self, group: Group, i: int, draw: Draw = Draw()) -> tuple[View, ...] | None:
        other = self.told.get(group.problem.id)
        views = self.context(replace(group, problem=other), i, draw) if other else None
        return views[:1] if views else None


def measure(recipe: Recipe, count: int, samples: int = 1) -> dict[str, Any]:
    """How well student and teacher answer `count` problems of the training set, `samples` times
    each, and how far apart they are on the student's completions; plain values:

    - `answers`, a row per reader (including the student without the forced beginning of its
      replies, if it has one): shares of right and of well-formed answers, of letters in the
      problem's language, and of answers cut off; tokens per answer; for the reader that was told a
      wrong solution, the share of its answers that `follows` this solution;
    - `gain`, the teacher's share of right answers minus the student's, with its 95 % interval over
      problems;
    - `nats`, the mean of KL(teacher || student) per token of at most `READ` rollouts, in nats; the
      same `by_position`, and the `strongest` tokens with their shares of the sum;
    - `explained`: the share of these nats by which a reader with less information is closer to the
      teacher, from KL(teacher || reader); 1 if it predicts the same as the teacher, below 0 if it
      is further away than the student;
    - `wording`: KL(teacher || reader) as a share of KL(teacher || student), for readers of the same
      texts in other words;
    - `verdict` and `reasons`; what was `not_measured`, and why.

    Raises UserError for a method without a teacher, and if no problem is left.
    """
    term = next((term for _, term in recipe.method.signals if term.teacher), None)
    if term is None:
        raise UserError(f"{recipe.method.name} has no teacher that could be measured")
    train, _ = load_problems(recipe.data)
    given = train.head(count) if isinstance(train, ProblemStream) else train
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(recipe, Path(folder), given)
        problems = varied(list({p.id: p for p in trainer.train_dataset}.values()), count)
        return _Measured(trainer, term, problems, samples).content()


class _Measured:
    def __init__(
        self, trainer: Any, term: LossTerm, problems: Sequence[Problem], samples: int
    ) -> None:
        assert term.teacher is not None
        self.trainer, self.problems, self.samples = trainer, problems, samples
        self.context, self.weights = term.teacher.context, term.teacher.all_weights[0]
        self.temperature = trainer.learner.temperature_of(term)
        self.sampler = trainer.generator.sampler.outside_training(trainer.args.seed)
        self.own, self.wrong = {p.id: p for p in problems}, _wrong(problems)
        self.left_out: list[str] = []

    def content(self) -> dict[str, Any]:
        self.trainer.generator.sync(0)
        groups = {"student": self._groups("student", None)}
        if self.sampler.student.prefill:
            plain = Reader(replace(self.sampler.student, prefill=""), self.own)
            groups[UNFORCED] = self._groups(UNFORCED, plain)
        if not groups["student"]:
            raise UserError("no problem's prompt fits the length limit; raise train.max_length")
        for name, reader in self._answering().items():
            groups[name] = self._groups(name, reader, self.weights)
        groups = {name: found for name, found in groups.items() if found}
        content: dict[str, Any] = {
            **{"problems": len(self.problems), "samples": self.samples},
            "answers": [self._answers(name, found) for name, found in groups.items()],
            "gain": _gain(groups["student"], groups.get("teacher", [])),
            **self._distances(groups["student"]),
        }
        verdict, reasons = worth(content)
        return content | {
            **{"verdict": verdict, "reasons": reasons, "not_measured": self.left_out},
            "generated_tokens": self.sampler.counts.generated_tokens,
        }

    def _answering(self) -> dict[str, Reader]:
        """The readers that answer, besides the student."""
        if self.trainer.weights[self.weights].remote is not None:
            self.left_out.append("the teacher's own answers: a served teacher only reads")
            return {}
        own = Reader(self.context, self.own)
        if not any(own(Group(p, ()), 0) for p in self.problems):
            self.left_out.append(
                f"the teacher's own answers: '{self.context.label}' has nothing to show before"
                " there are rollouts"
            )
            return {}
        readers = {"teacher": own, ANOTHER: Reader(self.context, _another(self.problems))}
        if self.wrong:
            told = {key: problem for key, (problem, _) in self.wrong.items()}
            return readers | {WRONG: Reader(self.context, told)}
        self.left_out.append(f"{WRONG}: none of the solutions states its problem's answer")
        return readers

    def _groups(
        self, name: str, reader: Reader | None, weights: Weights | None = None
    ) -> list[Group]:
        source = OnPolicy(group=self.samples, view=reader, weights=weights)
        return self.sampler.sample(self.problems, source, step=0, phase=name)

    def _answers(self, name: str, groups: Sequence[Group]) -> dict[str, Any]:
        """One reader's row in `answers`."""
        pairs = [(group.problem, rollout) for group in groups for rollout in group.rollouts]
        letters = [fidelity(rollout.text, problem.language) for problem, rollout in pairs]
        own, known = (sum(counts) for counts in zip(*letters, strict=True))
        row = {
            "reader": name,
            "right": _shown(estimate([[group.pass_rate for group in groups]])),
            "format_rate": _share(r.verdict and r.verdict.format_ok for _, r in pairs),
            "fidelity": own / known if known else None,
            "cut_off": _share(r.finish is Finish.LENGTH for _, r in pairs),
            "tokens": sum(len(r.completion_ids) for _, r in pairs) / len(pairs),
        }
        if name == WRONG:
            told = [replace(p, answer=self.wrong[p.id][1]) for p, _ in pairs]
            row["follows"] = _share(
                verdict and verdict.correct
                for verdict in judge(
                    self.trainer.verifier,
                    [
                        Attempt(p, r.text, r.completion_ids)
                        for p, (_, r) in zip(told, pairs, strict=True)
                    ],
                )
            )
        return row

    def _distances(self, groups: Sequence[Group]) -> dict[str, Any]:
        """The distance of the student from its teacher on the student's rollouts, and of the
        readers with less information, or with other words."""
        groups = groups[:READ]
        for author in self.trainer.generator.authors:
            groups = author(groups, self.sampler, 0)
        readers = self._reading()
        distances = _Distances(self.trainer.processing_class)
        for example in training_examples(groups, [], self.sampler):
            inputs = self._inputs(example, groups[example.group], readers)
            if "teacher" in inputs:
                distances.add(example, *self._apart(example, inputs))
        if not distances.lengths:
            raise UserError("the teacher reads none of the rollouts, so nothing can be measured")
        return distances.content()

    def _reading(self) -> dict[str, Reader]:
        """The readers of rollouts besides the student, the teacher first."""
        context, told = self.context, self.own
        readers = {
            "teacher": Reader(context, told),
            ANOTHER: Reader(context, _another(told.values())),
        }
        readers[ALONE] = Reader(context, {key: _without_question(p) for key, p in told.items()})
        if not context.texts:
            self.left_out.append(f"other wordings: '{context.label}' has none")
            return readers
        for file in sorted(FRAMINGS.glob("*.jinja")):
            worded = replace(context, template=file.read_text("utf-8"))
            readers[file.stem] = Reader(worded, told)
        return readers

    def _inputs(
        self, example: TrainingExample, group: Group, readers: Mapping[str, Reader]
    ) -> dict[str, ModelInput]:
        """The model inputs of all readers that read a rollout."""
        draw = self.sampler.draw(group.problem, example.sample, 0)
        length = len(example.rollout.completion_ids)
        inputs = {}
        for name, reader in readers.items():
            for view in reader(group, example.sample, draw) or ():
                ids = self.sampler.read(group.problem, view, length)
                if ids is not None:
                    inputs[name] = example.rows.after(ids)
        return inputs

    @torch.no_grad()
    def _apart(
        self, example: TrainingExample, inputs: Mapping[str, ModelInput]
    ) -> tuple[dict[str, list[float]], list[int]]:
        """KL(teacher || reader) at every token, in nats, for the student and all readers except the
        teacher; and the teacher's likeliest tokens."""
        learner, model = self.trainer.learner, self.trainer.model
        requests = {name: ScoringRequest(self.weights, read) for name, read in inputs.items()}
        read = learner.scorer.read(learner.scorer.plan(requests.values(), size=1), model)
        read.wait()
        with learner.scorer.autocast():
            student_ND, head = score(
                model, [example.input], learner.pad_id, learner.vocab, learner.layout
            )
        hidden = {name: (read.heads[self.weights], read.rows[r]) for name, r in requests.items()}
        hidden["student"] = head, student_ND
        apart: dict[str, list[float]] = {name: [] for name in hidden if name != "teacher"}
        likeliest = []
        for start in range(0, len(student_ND), _ROWS):
            logp = {
                name: (own.logits(rows[start : start + _ROWS]) / self.temperature).log_softmax(-1)
                for name, (own, rows) in hidden.items()
            }
            likeliest += logp["teacher"].argmax(-1).tolist()
            for name, values in apart.items():
                values += forward_kl(logp[name], logp["teacher"]).tolist()
        return apart, likeliest


@dataclass
class _Distances:
    """Sums of the distances at the rollouts' tokens."""

    tokenizer: Any
    lengths: list[int] = field(default_factory=list)
    student: list[list[float]] = field(default_factory=list)
    saved: dict[str, list[float]] = field(default_factory=lambda: defaultdict(lambda: [0.0, 0.0]))
    strongest: dict[tuple[str, str], float] = field(default_factory=lambda: defaultdict(float))

    def add(
        self, example: TrainingExample, apart: Mapping[str, list[float]], likeliest: Sequence[int]
    ) -> None:
        """Adds a rollout: KL(teacher || reader) of its tokens, by reader."""
        own = apart["student"]
        self.lengths.append(len(own))
        self.student.append(own)
        for name, values in apart.items():
            self.saved[name][0] += sum(values)
            self.saved[name][1] += sum(own)
        texts = [
            text
            for text, count in pieces(self.tokenizer.decode, example.rows.tokens)
            for text in [text, *[""] * (count - 1)]
        ]
        for text, token, nats in zip(texts, likeliest, own, strict=True):
            self.strongest[text, self.tokenizer.decode(token)] += nats

    def content(self) -> dict[str, Any]:
        left = {name: part / whole if whole else 1.0 for name, (part, whole) in self.saved.items()}
        total = sum(map(sum, self.student))
        strongest = sorted(self.strongest.items(), key=lambda item: -item[1])[:STRONGEST]
        return {
            "nats": total / sum(self.lengths),
            "by_position": self._by_position(),
            "strongest": [
                {"student": one, "teacher": other, "share": nats / total if total else 0.0}
                for (one, other), nats in strongest
            ],
            "explained": {name: 1 - left[name] for name in (ANOTHER, ALONE) if name in left},
            "wording": {n: x for n, x in left.items() if n not in ("student", ANOTHER, ALONE)},
        }

    def _by_position(self) -> list[dict[str, Any]]:
        size = math.ceil(max(self.lengths) / BINS)
        parts = []
        for start in range(0, max(self.lengths), size):
            values = [x for own in self.student for x in own[start : start + size]]
            parts.append({"from": start, "nats": sum(values) / len(values), "tokens": len(values)})
        return parts


def _another(problems: Iterable[Problem]) -> dict[str, Problem]:
    """Every problem with the texts of the next problem in its language, if there is one."""
    alike = defaultdict(list)
    for problem in problems:
        alike[problem.language].append(problem)
    return {
        p.id: replace(p, privileged=same[(i + 1) % len(same)].privileged)
        for same in alike.values()
        for i, p in enumerate(same)
        if len(same) > 1
    }


def _wrong(problems: Sequence[Problem]) -> dict[str, tuple[Problem, str]]:
    """The problems with solutions changed to a wrong answer, if that is possible, and that
    answer."""
    known = [p for p in problems if p.answer is not None and "solution" in p.privileged]
    if len({p.answer for p in known}) < 2:
        return {}
    made = {p.id: (coming_to(p, a), a) for p, a in zip(known, wrong_answers(known, 0), strict=True)}
    return {key: (other, answer) for key, (other, answer) in made.items() if other is not None}


def _without_question(problem: Problem) -> Problem:
    """A problem without its question: only the privileged texts are left."""
    told = {name: "" if name == "translation" else x for name, x in problem.privileged.items()}
    prompt = problem.prompt if isinstance(problem.prompt, str) else problem.prompt[-1:]
    blank = "" if isinstance(prompt, str) else [{**prompt[0], "content": ""}]
    return replace(problem, prompt=blank, privileged=told)


def _gain(student: Sequence[Group], teacher: Sequence[Group]) -> dict[str, float] | None:
    """The teacher's share of right answers minus the student's, on problems that both answer."""
    own = {group.problem.id: group.pass_rate for group in student}
    pairs = [g.pass_rate - own[g.problem.id] for g in teacher if g.problem.id in own]
    return _shown(estimate([pairs], bounds=CHANGE)) if pairs else None


def _shown(found: Estimate) -> dict[str, float]:
    low, high = found.interval
    return {"value": found.value, "low": low, "high": high}


def _share(marks: Iterable[Any]) -> float:
    counted = [bool(mark) for mark in marks]
    return sum(counted) / len(counted)
