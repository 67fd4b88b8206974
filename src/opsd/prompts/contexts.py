"""What a reader is shown. A context turns rollout i of a group into views, or into None:
None says that this rollout is not taught, which is counted and costs no teacher pass. A group
without rollouts asks what can be shown before there are any.

Most tell something that the dataset has; those at the end tell what came of the group itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from functools import lru_cache, partial
from random import Random
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Protocol

from pydantic import Field

from opsd.grade.answer import answers_agree
from opsd.grade.format import extract_boxed
from opsd.grade.metrics import majority
from opsd.languages.registry import language, resolve
from opsd.parts import Slot, changed, part, tag
from opsd.prompts.prompt import LacksText, answered, view
from opsd.types import Group, Problem, Rollout, Trajectory, UserError, View

Include = Literal["problem", "translation", "solution"]


class Draw(NamedTuple):
    """The optimizer step, from 0, and a seed of this rollout's own: what a context decides by that
    is not settled by the group alone. The same in a resumed run. The step is number `use` of the
    `uses` that learn from the same rollouts."""

    step: int = 0
    seed: int = 0
    use: int = 0
    uses: int = 1


class Context(Protocol):
    """What a reader is shown of rollout i of a group: views, or None where the rollout is not
    taught. A context of your own inherits what it does not say otherwise."""

    needs_reward: bool = False
    """Whether it goes by verdicts: every rollout then needs one."""
    needs_states: bool = False
    """Whether it shows tokens of a masked diffusion model's canvas that are to come in a state."""
    needs_author: str | None = None
    """The author without whom it shows nothing, by name."""
    texts: tuple[str, ...] = ()
    """What it shows of a row, where that is all it shows, so that other words can be put around
    it."""

    def __call__(self, group: Group, i: int, draw: Draw = Draw()) -> tuple[View, ...] | None: ...

    def prepared(self, problems: Sequence[Problem], seed: int) -> Sequence[Problem]:
        """The training set with whatever of other problems it shows beside each one, dealt once, by
        a run's seed; most contexts leave it as it is."""
        return problems

    @property
    def label(self) -> str:
        """What the context is, in a word."""
        return tag(self)


@part
class Prompt(Context):
    """How a view is written: a prompt template (a shipped one's name, a file, or text), the forced
    beginning of the reply, and options of the chat template."""

    template: str = ""
    prefill: str = ""
    template_options: dict[str, Any] = field(default_factory=dict)


@part
class StudentPrompt(Prompt):
    """The problem alone: what the student reads at training and at test time."""

    type: Literal["student"] = "student"
    template: str = "student"

    def __call__(self, group: Group, i: int, draw: Draw = Draw()) -> tuple[View, ...] | None:
        return (self.view(group.problem),)

    def view(self, problem: Problem) -> View:
        """The one view that every problem has."""
        return _view(self, problem)


@part
class OwnPrompt(Context):
    """The very prompt that the method's student reads, whatever that is: with the starting weights
    it is the base model that a student may be kept near to. `Method.signals` sets `prompt`."""

    prompt: StudentPrompt | None = None
    type: Literal["own_prompt"] = "own_prompt"

    def __call__(self, group: Group, i: int, draw: Draw = Draw()) -> tuple[View, ...] | None:
        if self.prompt is None:
            raise UserError("the context 'own_prompt' is for teachers, not for what students read")
        return (replace(self.prompt.view(group.problem), name=self.type),)


@part
class Solution(Prompt):
    """The problem and a reference solution to it (OPSD, Zhao et al. 2026, arXiv 2601.18734)."""

    type: Literal["solution"] = "solution"
    template: str = "solution"
    texts: ClassVar[tuple[str, ...]] = ("problem", "solution")

    def __call__(self, group: Group, i: int, draw: Draw = Draw()) -> tuple[View, ...] | None:
        return (_view(self, group.problem),)


@part
class ReferenceOnly(Prompt):
    """The reference solution without the problem: a probe of what the reference alone induces
    (Purified OPSD, Shen et al. 2026, arXiv 2607.02234). Earlier turns are not shown either."""

    type: Literal["reference_only"] = "reference_only"
    template: str = "reference_only"

    def __call__(self, group: Group, i: int, draw: Draw = Draw()) -> tuple[View, ...] | None:
        shown = _view(self, group.problem)
        return (replace(shown, messages=shown.messages[-1:]),)


@part
class Crosslingual(Prompt):
    """The problem, its translation, and a solution in the translation's language.

    `include` chooses among the three. Any pair of languages: the student's is the problem's own,
    the other one is whatever `privileged["translation"]` and `privileged["solution"]` are in. The
    shipped labels call it English; for another one, replace the template
    (COPSD, Liu et al. 2026, arXiv 2605.09548).

    `languages` are further ones that are shown as well, each under its English name: the texts
    `translation_<code>` and `solution_<code>` of every problem, as far as `include` names them.
    Raises UserError for a problem without them. COPSD has one privileged language; more are ours.
    """

    type: Literal["crosslingual"] = "crosslingual"
    template: str = "crosslingual"
    include: tuple[Include, ...] = ("problem", "translation", "solution")
    languages: tuple[str, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        return self.include

    def __call__(self, group: Group, i: int, draw: Draw = Draw()) -> tuple[View, ...] | None:
        further = [self._told_in(resolve(name), group.problem) for name in self.languages]
        return (_view(self, group.problem, include=self.include, further=further),)

    def _told_in(self, code: str, problem: Problem) -> dict[str, str]:
        """What a problem tells in a further language, for the template."""
        told = {"language": language(code).name}
        for name in ("translation", "solution"):
            if name in self.include:
                text = problem.privileged.get(f"{name}_{code}")
                if text is None:
                    raise LacksText(problem, f"{name}_{code}", f"the context '{self.type}' shows")
                told[name] = text
        return told


@part
class TeacherPrompt(Prompt):
    """The row's own prompt for its teacher, in place of the problem; earlier turns stay.

    The text is `privileged["teacher_prompt"]`, the column of that name in ms-swift's datasets.
    """

    type: Literal["teacher_prompt"] = "teacher_prompt"
    template: str = "{{ teacher_prompt }}"

    def __call__(self, group: Group, i: int, draw: Draw = Draw()) -> tuple[View, ...] | None:
        return (_view(self, group.problem),)


@part
class Instruction(Prompt):
    """The problem and how to go about it, the same for all: by default, to be concise (CRISP, 2026,
    arXiv 2603.05433). `text` is in the language that the teacher is told in."""

    text: str = (
        "Be concise: only the steps that the answer needs, each in as few words as it takes."
    )
    type: Literal["instruction"] = "instruction"
    template: str = "instruction"

    def __call__(self, group: Group, i: int, draw: Draw = Draw()) -> tuple[View, ...] | None:
        return (_view(self, group.problem, text=self.text),)


@part
class Careless(Prompt):
    """The problem, and the wish that it be solved badly: a reader to move away from. The wish is
    what the author `careless` wrote for this rollout, or without one `text`, the same for all (NSD,
    Pei et al. 2026, arXiv 2609.11699, has the model write it)."""

    text: str = (
        "Solve it as a careless reasoner would: jump to conclusions, skip steps, check nothing, and"
        " never go back on what you have written."
    )
    type: Literal["careless"] = "careless"
    template: str = "instruction"

    def __call__(self, group: Group, i: int, draw: Draw = Draw()) -> tuple[View, ...] | None:
        written = group.note(i, "careless") if group.rollouts else None
        return (_view(self, group.problem, text=written or self.text),)


@part
class OtherProblem(Prompt):
    """The problem after another one of its language and that one's solution, as a worked example:
    what of a teacher is owed to the solution's being the problem's own? (OP2SD, Ichihara et al.
    2026, arXiv 2608.09228.)

    Every problem has one other, dealt once by the run's seed; each is dealt as often as any other.
    Raises UserError where there is none, and for a problem without a solution.
    """

    type: Literal["other_problem"] = "other_problem"
    template: str = "other_problem"

    def __call__(self, group: Group, i: int, draw: Draw = Draw()) -> tuple[View, ...] | None:
        return (_view(self, group.problem),)

    def prepared(self, problems: Sequence[Problem], seed: int) -> Sequence[Problem]:
        if not isinstance(problems, Sequence):
            raise UserError(
                f"the context '{self.type}' shows problems beside one another, and a stream does"
                " not know them all: leave data.streaming out"
            )
        others = _dealt(problems, seed)
        return [
            replace(p, privileged={**p.privileged, **_as_example(problems[other])})
            for p, other in zip(problems, others, strict=True)
        ]


@part
class Document(Prompt):
    """The problem after a document that helps with it, the privileged text `document` (OPCD, 2026,
    arXiv 2602.12275)."""

    type: Literal["document"] = "document"
    template: str = "document"

    def __call__(self, group: Group, i: int, draw: Draw = Draw()) -> tuple[View, ...] | None:
        return (_view(self, group.problem),)


@part
class Demonstration(Prompt):
    """The problem and an answer to it as a demonstration.

    `of="dataset"` shows the privileged text `demonstration` (SDFT, 2026, arXiv 2601.19897).
    `"sibling"` shows a correct rollout of the same group, the next one after the rollout itself,
    never itself; without one the rollout is not taught (SDPO, 2026, arXiv 2601.20802). What it
    thought before its answer is left out unless `thinking`.
    """

    of: Literal["dataset", "sibling"] = "sibling"
    thinking: bool = False
    type: Literal["demonstration"] = "demonstration"
    template: str = "demonstration"

    @property
    def needs_reward(self) -> bool:
        return self.of == "sibling"

    def __call__(self, group: Group, i: int, draw: Draw = Draw()) -> tuple[View, ...] | None:
        if self.of == "dataset":
            return (_view(self, group.problem),)
        sibling = correct_sibling(group, i)
        if sibling is None:
            return None
        return (_view(self, group.problem, demonstration=_told(sibling, self.thinking)),)


@part
class Feedback(Prompt):
    """What the environment said of the rollout, its verdict's `feedback`, and what its group knows.

    A correct sibling is shown first, the feedback only without one, as in SDPO (2026, arXiv
    2601.20802); `demonstration` may show both, or feedback alone. A rollout with neither is not
    taught. With an `author`, by name, the feedback is what it wrote of the rollout.
    """

    demonstration: Literal["first", "both", "never"] = "first"
    thinking: bool = False
    author: str | None = None
    type: Literal["feedback"] = "feedback"
    needs_reward: ClassVar[bool] = True
    template: str = "feedback"

    def __call__(self, group: Group, i: int, draw: Draw = Draw()) -> tuple[View, ...] | None:
        said = self._said(group, i) if group.rollouts else None
        sibling = None if self.demonstration == "never" else correct_sibling(group, i)
        if sibling is not None and self.demonstration == "first":
            said = None
        if sibling is None and not said:
            return None
        shown = _told(sibling, self.thinking) if sibling else None
        return (_view(self, group.problem, demonstration=shown, feedback=said),)

    def _said(self, group: Group, i: int) -> str | None:
        """The feedback on rollout i."""
        if self.author is not None:
            return group.note(i, self.author)
        verdict = group.rollouts[i].verdict
        return verdict.feedback if verdict else None


@part
class Witness(Prompt):
    """The group's shortest correct rollout, shown for its longest wrong one alone; no other rollout
    is taught, and none of a group that is all right or all wrong (SSOPD, Tan and Hong 2026, arXiv
    2605.17497). Of rollouts of one length the first counts."""

    thinking: bool = True
    type: Literal["witness"] = "witness"
    needs_reward: ClassVar[bool] = True
    template: str = "solution"

    def __call__(self, group: Group, i: int, draw: Draw = Draw()) -> tuple[View, ...] | None:
        pair = witness_and_target(group)
        if pair is None or pair[1] != i:
            return None
        witness = group.rollouts[pair[0]]
        return (_view(self, group.problem, solution=_told(witness, self.thinking)),)


@part
class Majority(Prompt):
    """The group's shortest rollout with the answer that most give, shown for the longest one with
    another answer alone: a witness without labels (u-OPSD, Li et al. 2026, arXiv 2608.06296).

    Nothing of a group is taught where less than `threshold` of all its rollouts give that answer,
    or none another. Rollouts that state no answer vote for nothing and are not taught. Of answers
    given equally often, and of rollouts of one length, the first counts.
    """

    threshold: Annotated[float, Field(gt=0, le=1)] = 0.5
    thinking: bool = True
    type: Literal["majority"] = "majority"
    template: str = "solution"

    def __call__(self, group: Group, i: int, draw: Draw = Draw()) -> tuple[View, ...] | None:
        pair = self._pair(group)
        if pair is None or pair[1] != i:
            return None
        witness = group.rollouts[pair[0]]
        return (_view(self, group.problem, solution=_told(witness, self.thinking)),)

    def _pair(self, group: Group) -> tuple[int, int] | None:
        """The rollout that is shown, and the one that is taught, by number."""
        if not group.rollouts:
            return None
        answers = tuple(extract_boxed(answered(r.text)) for r in group.rollouts)
        alike = _votes(answers, group.problem.language)
        if len(alike) < self.threshold * len(answers):
            return None
        others = [i for i, a in enumerate(answers) if a is not None and i not in alike]
        return _shortest_and_longest(group, alike, others)


@part
class Hints(Prompt):
    """The problem and a right solution in the view `right`, and beside it wrong ones, in `wrong_1`
    and on, all under one template, so that what any hint does to the style is the same (RLCSD,
    2026, arXiv 2606.11709; `wrong` 4).

    Hints are other rollouts of the group, drawn by chance, never the rollout itself; wrong ones
    state an answer. `right="dataset"` shows the text `solution` instead. Where fewer than `wrong`
    are wrong, they come again with the scale 0, which costs no reading; the others' scales are
    alike and sum to 1. A rollout without a right or a wrong hint is not taught.
    """

    wrong: Annotated[int, Field(gt=0)] = 4
    right: Literal["sibling", "dataset"] = "sibling"
    thinking: bool = True
    type: Literal["hints"] = "hints"
    template: str = "solution"
    needs_reward: ClassVar[bool] = True

    def __call__(self, group: Group, i: int, draw: Draw = Draw()) -> tuple[View, ...] | None:
        random = Random(f"{draw.seed} {self.type}")
        others = [r for number, r in enumerate(group.rollouts) if number != i]
        right = [r for r in others if is_right(r)]
        wrong = [r for r in others if not is_right(r) and extract_boxed(answered(r.text))]
        random.shuffle(right)
        random.shuffle(wrong)
        if not wrong or not (right or self.right == "dataset"):
            return None
        known = min(self.wrong, len(wrong))
        own = _view(self, group.problem) if self.right == "dataset" else self._hint(group, right[0])
        hints = [self._hint(group, r) for r in wrong[:known]]
        return (
            replace(own, name="right"),
            *(
                replace(hints[k % known], name=f"wrong_{k + 1}", scale=float(k < known) / known)
                for k in range(self.wrong)
            ),
        )

    def _hint(self, group: Group, rollout: Rollout) -> View:
        return _view(self, group.problem, solution=_told(rollout, self.thinking))


@part
class Rubric(Prompt):
    """The problem and what a good answer has and avoids: the column `rubric`, or what an author
    wrote. `solution` shows the reference solution as well, as RCSD's released code does; its paper
    does not (Gu et al. 2026, arXiv 2606.19327)."""

    solution: bool = False
    type: Literal["rubric"] = "rubric"
    template: str = "rubric"

    def __call__(self, group: Group, i: int, draw: Draw = Draw()) -> tuple[View, ...] | None:
        return _written(self, group, i, "rubric", reference=self.solution)


@part
class Critique(Prompt):
    """The problem and the rollout itself, corrected step by step: right steps word for word, from
    the first wrong one on a better way (Kara and Ersoy 2026, arXiv 2606.11173)."""

    type: Literal["critique"] = "critique"
    template: str = "critique"

    def __call__(self, group: Group, i: int, draw: Draw = Draw()) -> tuple[View, ...] | None:
        return _written(self, group, i, "critique")


@part
class ReasonFirst(Prompt):
    """The problem, its solution, and the analysis that the teacher wrote of them before it reads
    the rollout (RCSD's released code, 2026)."""

    type: Literal["reason_first"] = "reason_first"
    template: str = "reason_first"

    def __call__(self, group: Group, i: int, draw: Draw = Draw()) -> tuple[View, ...] | None:
        return _written(self, group, i, "analysis")


@part
class Skills(Prompt):
    """The problem, and skills and common mistakes that fit it, as soft guidance: one view per
    retrieved pair, each with its share, or one of the row's own texts `skills` and `mistakes`
    (SGSD, Huang et al. 2026, arXiv 2605.28791)."""

    type: Literal["skills"] = "skills"
    template: str = "skills"

    def __call__(self, group: Group, i: int, draw: Draw = Draw()) -> tuple[View, ...] | None:
        if group.retrieved is None:
            absent = not group.rollouts and "skills" not in group.problem.privileged
            return None if absent else (_view(self, group.problem),)
        return (
            tuple(
                replace(
                    _view(self, group.problem, skills=pair.skill, mistakes=pair.mistake),
                    name=f"skills_{number}",
                    scale=pair.share,
                )
                for number, pair in enumerate(group.retrieved, start=1)
            )
            or None
        )


@part
class Suffix(Context):
    """What a context shows, and on the canvas a `share` of the student's own tokens behind the
    block that is being written, drawn anew for every state; nothing once those are behind the first
    end (d-OPSD, Luo et al. 2026, arXiv 2606.18195; its share is 0.25)."""

    share: Annotated[float, Field(ge=0, le=1)] = 0.25
    context: OwnPrompt | StudentPrompt | Solution = OwnPrompt()
    type: Literal["suffix"] = "suffix"
    needs_states: ClassVar[bool] = True

    def __call__(self, group: Group, i: int, draw: Draw = Draw()) -> tuple[View, ...] | None:
        views = self.context(group, i, draw)
        return views and tuple(replace(v, name=self.type, reveals=self) for v in views)

    def revealed(self, written: Trajectory, step: int, random: Random) -> Sequence[int]:
        suffix = range(written.block(step).stop, len(written.ids))
        if suffix.start >= written.end:
            return ()
        return random.sample(suffix, int(self.share * len(suffix)))


@part
class LaterState(Context):
    """What a context shows, and the canvas as it was `steps` denoising steps later, or at a later
    step that is drawn for every state. What is written by then is not taught.

    In expectation the gradient of the forward KL to a drawn state's distribution is that to the
    mean of the later ones, at the price of one reading (dOPSD, Dat et al. 2026, arXiv 2607.04428).
    """

    steps: Annotated[int, Field(gt=0)] | None = None
    context: OwnPrompt | StudentPrompt | Solution = OwnPrompt()
    type: Literal["later_state"] = "later_state"
    needs_states: ClassVar[bool] = True

    def __call__(self, group: Group, i: int, draw: Draw = Draw()) -> tuple[View, ...] | None:
        views = self.context(group, i, draw)
        return views and tuple(replace(v, name=self.type, reveals=self) for v in views)

    def revealed(self, written: Trajectory, step: int, random: Random) -> Sequence[int]:
        last = max(written.steps)
        if last <= step:
            return ()
        later = random.randint(step + 1, last) if self.steps is None else step + self.steps
        return [i for i in written.masked(step) if written.steps[i] < min(later, last)]


_PLAIN = (
    StudentPrompt,
    OwnPrompt,
    Solution,
    ReferenceOnly,
    Crosslingual,
    TeacherPrompt,
    Instruction,
    Careless,
    OtherProblem,
    Document,
    Demonstration,
    Feedback,
    Witness,
    Majority,
    Hints,
    Rubric,
    Critique,
    ReasonFirst,
    Skills,
    Suffix,
    LaterState,
)
AnyPlainContext = Annotated[Context, Slot("context", Context, _PLAIN)]


@part
class Filtered(Context):
    """A context for some rollouts alone: those of groups in which every rollout is wrong
    (`all_wrong`), the `wrong` or the `right` ones, those rewarded above their group's mean
    (`positive_advantage`), or those of problems that the teacher itself gets right
    (`teacher_right`: the author `attempt` has a text of them, which the method then names)."""

    context: AnyPlainContext
    where: Literal["all_wrong", "wrong", "right", "positive_advantage", "teacher_right"]
    type: Literal["filtered"] = "filtered"

    @property
    def label(self) -> str:
        return f"{self.context.label} ({self.where})"

    needs_reward: ClassVar[bool] = True

    @property
    def needs_author(self) -> str | None:
        return "attempt" if self.where == "teacher_right" else None

    def __call__(self, group: Group, i: int, draw: Draw = Draw()) -> tuple[View, ...] | None:
        if not group.rollouts:
            return None
        right = is_right(group.rollouts[i])
        taught = {
            "all_wrong": group.pass_rate == 0,
            "wrong": not right,
            "right": right,
            "positive_advantage": _above_mean(group, i),
            "teacher_right": bool(group.notes and group.notes[i].get("attempt")),
        }
        return self.context(group, i, draw) if taught[self.where] else None

    def prepared(self, problems: Sequence[Problem], seed: int) -> Sequence[Problem]:
        return self.context.prepared(problems, seed)


@part
class MultiView(Context):
    """Several contexts side by side, whose views a target joins; where one has nothing to show, the
    rollout is not taught. Each may be read with weights of its own: the teacher's, in order."""

    contexts: Annotated[tuple[AnyPlainContext, ...], Field(min_length=1)]
    type: Literal["multi_view"] = "multi_view"

    @property
    def label(self) -> str:
        return " + ".join(context.label for context in self.contexts)

    def prepared(self, problems: Sequence[Problem], seed: int) -> Sequence[Problem]:
        for context in self.contexts:
            problems = context.prepared(problems, seed)
        return problems

    def __call__(self, group: Group, i: int, draw: Draw = Draw()) -> tuple[View, ...] | None:
        made: list[View] = []
        for context in self.contexts:
            views = context(group, i, draw)
            if views is None:
                return None
            made += views
        seen: Counter[str] = Counter()
        for number, v in enumerate(made):
            seen[v.name] += 1
            if seen[v.name] > 1:
                made[number] = replace(v, name=f"{v.name}_{seen[v.name]}")
        return tuple(made)


AnyContext = Annotated[Context, Slot("context", Context, (*_PLAIN, Filtered, MultiView))]


def is_right(rollout: Rollout) -> bool:
    """Whether a verifier found the rollout correct; False for one that nobody graded."""
    return rollout.verdict is not None and rollout.verdict.correct


def correct_sibling(group: Group, i: int) -> Rollout | None:
    """The next correct rollout after `i` in its group, round and round; None without one."""
    n = len(group.rollouts)
    others = (group.rollouts[(i + k) % n] for k in range(1, n))
    return next(filter(is_right, others), None)


def witness_and_target(group: Group) -> tuple[int, int] | None:
    """The shortest correct rollout and the longest wrong one, by number; None where either is
    missing."""
    right = [i for i, r in enumerate(group.rollouts) if is_right(r)]
    wrong = [i for i in range(len(group.rollouts)) if i not in right]
    return _shortest_and_longest(group, right, wrong)


def _shortest_and_longest(
    group: Group, some: Sequence[int], others: Sequence[int]
) -> tuple[int, int] | None:
    """The shortest of some rollouts and the longest of others, by number; None where either are
    missing."""
    lengths = [len(r.completion_ids) for r in group.rollouts]
    if not some or not others:
        return None
    return min(some, key=lengths.__getitem__), max(others, key=lengths.__getitem__)


@lru_cache(1024)  # a group is asked about once for each of its rollouts
def _votes(answers: tuple[str | None, ...], language: str) -> tuple[int, ...]:
    """The rollouts that give the most frequent answer, by number."""
    same = partial(answers_agree, language=language)
    first = majority(answers, same)
    if first is None:
        return ()
    chosen = str(answers[first])
    return tuple(
        i for i, a in enumerate(answers) if a is not None and (a == chosen or same(a, chosen))
    )


def _above_mean(group: Group, i: int) -> bool:
    """Whether a rollout's reward is above its group's mean."""
    rewards = [r.verdict.reward for r in group.rollouts if r.verdict is not None]
    own = group.rollouts[i].verdict
    return own is not None and own.reward > sum(rewards) / len(rewards)


def _dealt(problems: Sequence[Problem], seed: int) -> list[int]:
    """For each problem the number of another one, of its language and with another text; each
    number once."""
    others = list(range(len(problems)))
    for code in sorted({p.language for p in problems}):
        texts: dict[str, list[int]] = {}
        for i, p in enumerate(problems):
            if p.language == code:
                texts.setdefault(p.text, []).append(i)
        alike = [texts[text] for text in sorted(texts)]
        Random(f"{seed} {code}").shuffle(alike)
        order = [i for same in alike for i in same]
        # As far ahead as the most frequent text occurs, no problem meets a copy of itself.
        ahead = max(map(len, alike))
        if 2 * ahead > len(order):
            raise UserError(
                f"{problems[order[0]].name}: too few other problems in '{code}' to show one beside"
                " each; train on more, or leave copies of a problem out"
            )
        for place, i in enumerate(order):
            others[i] = order[(place + ahead) % len(order)]
    return others


def _as_example(problem: Problem) -> dict[str, str]:
    """A problem and its solution, as texts that another one's teacher may read."""
    if "solution" not in problem.privileged:
        raise UserError(
            f"{problem.name} has no text 'solution' to be shown beside another problem; map"
            " data.columns.solution to a column, and leave rows without one out"
            " (filters.complete)"
        )
    return {"other_problem": problem.text, "other_solution": problem.privileged["solution"]}


def with_own_prompt(value: Any, student: StudentPrompt) -> Any:
    """A part with the student's prompt in every `own_prompt` that it is made of."""
    return changed(value, lambda x: OwnPrompt(student) if isinstance(x, OwnPrompt) else x)


def with_prompts(value: Any, templates: Mapping[str, str], **fields: Any) -> Any:
    """A part with `fields` (`prefill`, `template_options`) in every prompt it is made of, and with
    the `templates` of their contexts' types."""

    def own(x: Any) -> Any:
        if not isinstance(x, Prompt):
            return x
        return replace(x, **fields, template=templates.get(x.type, x.template))

    return changed(value, own)


def _written(
    context: Any, group: Group, i: int, name: str, **extra: Any
) -> tuple[View, ...] | None:
    """A view that shows a text somebody wrote; None where there is none. Before there are rollouts
    only the dataset's own can be shown."""
    text = group.note(i, name) if group.rollouts else group.problem.privileged.get(name)
    return None if not text else (_view(context, group.problem, **{name: text}, **extra),)


def _told(rollout: Rollout, thinking: bool) -> str:
    """What a rollout says, without what it thought before."""
    answer = answered(rollout.text)
    return rollout.text.strip() if thinking or not answer else answer


def _view(context: Any, problem: Problem, **extra: Any) -> View:
    return view(
        context.type,
        problem,
        context.template,
        prefill=context.prefill,
        template_options=context.template_options,
        **extra,
    )
