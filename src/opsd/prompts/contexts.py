"""Contexts: what a reader is shown. A context turns rollout i of a group into views, or into None
if the rollout is not taught, which is counted and costs no teacher pass. For a group without
rollouts, a context returns what can be shown before there are any.

Most contexts show something from the dataset; the last ones show something from the group itself.
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
    """The source of a context's random decisions: the optimizer step, from 0, and a seed for this
    rollout. They are the same in a resumed run. The step is number `use` of the `uses` steps that
    train on the same rollouts."""

    step: int = 0
    seed: int = 0
    use: int = 0
    uses: int = 1


class Context(Protocol):
    """What a reader is shown for rollout i of a group: views, or None if the rollout is not taught.
    A custom context inherits the defaults of all attributes that it does not define."""

    needs_reward: bool = False
    """Whether it reads verdicts: every rollout then needs one."""
    needs_states: bool = False
    """Whether it reveals tokens of a masked diffusion model's canvas that are still masked in a
    state."""
    needs_author: str | None = None
    """The name of the author whose texts it needs."""
    texts: tuple[str, ...] = ()
    """The texts of a row that it shows, if it shows nothing else, so that its wording can be
    replaced."""

    def __call__(self, group: Group, i: int, draw: Draw = Draw()) -> tuple[View, ...] | None: ...

    def prepared(self, problems: Sequence[Problem], seed: int) -> Sequence[Problem]:
        """The training set, extended by whatever it shows of other problems with each one, assigned
        once by the run's seed. Most contexts return it unchanged."""
        return problems

    @property
    def label(self) -> str:
        """A short name for the context."""
        return tag(self)


@part
class Prompt(Context):
    """How a view is rendered: a prompt template (the name of a shipped one, a file, or text), the
    forced beginning of the reply, and options of the chat template."""

    template: str = ""
    prefill: str = ""
    template_options: dict[str, Any] = field(default_factory=dict)


@part
class StudentPrompt(Prompt):
    """Only the problem: what the student reads at training and at test time."""

    type: Literal["student"] = "student"
    template: str = "student"

    def __call__(self, group: Group, i: int, draw: Draw = Draw()) -> tuple[View, ...] | None:
        return (self.view(group.problem),)

    def view(self, problem: Problem) -> View:
        """The view of a problem."""
        return _view(self, problem)


@part
class OwnPrompt(Context):
    """The same prompt that the method's student reads. With the starting weights, this is the base
    model, which a student may be kept near to. `Method.signals` sets `prompt`."""

    prompt: StudentPrompt | None = None
    type: Literal["own_prompt"] = "own_prompt"

    def __call__(self, group: Group, i: int, draw: Draw = Draw()) -> tuple[View, ...] | None:
        if self.prompt is None:
            raise UserError("the context 'own_prompt' is for teachers: a student cannot read it")
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

    `include` selects among the three. Any pair of languages works: the student's is the problem's
    own; the other is the language of `privileged["translation"]` and `privileged["solution"]`. The
    shipped labels call it English; for another language, replace the template (COPSD, Liu et al.
    2026, arXiv 2605.09548).

    `languages` are further languages to show, each under its English name: the texts
    `translation_<code>` and `solution_<code>` of every problem, if `include` names them. Raises
    UserError for a problem without them. COPSD has one privileged language; more are our extension.
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
        """A problem's texts in a further language, for the template."""
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
    """The row's own teacher prompt instead of the problem; earlier turns stay.

    The text is `privileged["teacher_prompt"]`, the column of that name in ms-swift's datasets.
    """

    type: Literal["teacher_prompt"] = "teacher_prompt"
    template: str = "{{ teacher_prompt }}"

    def __call__(self, group: Group, i: int, draw: Draw = Draw()) -> tuple[View, ...] | None:
        return (_view(self, group.problem),)


@part
class Instruction(Prompt):
    """The problem and an instruction that is the same for all: by default, to be concise (CRISP,
    2026, arXiv 2603.05433). `text` is in the language of the teacher's instructions."""

    text: str = (
        "Be concise: only the steps that the answer needs, each in as few words as it takes."
    )
    type: Literal["instruction"] = "instruction"
    template: str = "instruction"

    def __call__(self, group: Group, i: int, draw: Draw = Draw()) -> tuple[View, ...] | None:
        return (_view(self, group.problem, text=self.text),)


@part
class Careless(Prompt):
    """The problem, and an instruction to solve it badly: a reader to move away from. The
    instruction is the text of the author `careless` for this rollout, or, without one, `text`, the
    same for all (NSD, Pei et al. 2026, arXiv 2609.11699, has the model write it)."""

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
    """The problem after another problem in its language with that one's solution, as a worked
    example: a control for how much a teacher gains from seeing the problem's own solution (OP2SD,
    Ichihara et al. 2026, arXiv 2608.09228.)

    Every problem is assigned one other, once, by the run's seed; all are assigned equally often.
    Raises UserError if there is none, and for a problem without a solution.
    """

    type: Literal["other_problem"] = "other_problem"
    template: str = "other_problem"

    def __call__(self, group: Group, i: int, draw: Draw = Draw()) -> tuple[View, ...] | None:
        return (_view(self, group.problem),)

    def prepared(self, problems: Sequence[Problem], seed: int) -> Sequence[Problem]:
        if not isinstance(problems, Sequence):
            raise UserError(
                f"the context '{self.type}' shows other problems of the set, which a stream does"
                " not know: leave data.streaming out"
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
    never itself; if there is none, the rollout is not taught (SDPO, 2026, arXiv 2601.20802). Its
    thinking before the answer is removed unless `thinking`.
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
    """The verifier's `feedback` on the rollout, and a correct rollout of its group.

    By default a correct sibling is shown, and the feedback only if there is none, as in SDPO (2026,
    arXiv 2601.20802). With `demonstration`, both or only the feedback can be shown. A rollout with
    neither is not taught. With `author` (a name), the feedback is that author's text about the
    rollout.
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
    """The group's shortest correct rollout, shown only for its longest wrong one. No other rollout
    is taught, and none in a group that is all correct or all wrong (SSOPD, Tan and Hong 2026, arXiv
    2605.17497). Among rollouts of equal length the first counts."""

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
    """The group's shortest rollout with the most frequent answer, shown only for the longest one
    with another answer: a witness without labels (u-OPSD, Li et al. 2026, arXiv 2608.06296).

    A group is not taught if less than a share of `threshold` of its rollouts give that answer, or
    if none gives another. Rollouts that state no answer do not vote and are not taught. Among
    equally frequent answers, and among rollouts of equal length, the first counts.
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
        """The indices of the rollout that is shown and of the one that is taught."""
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
    """The problem with a correct solution in the view `right`, and with wrong ones in the views
    `wrong_1` and so on. All use one template, so that every hint has the same effect on the style
    (RLCSD, 2026, arXiv 2606.11709; `wrong` 4).

    Hints are other rollouts of the group, drawn at random, never the rollout itself; wrong ones
    must state an answer. `right="dataset"` shows the text `solution` instead. If fewer than `wrong`
    are wrong, they are repeated with the scale 0, which costs no forward pass; the other scales are
    equal and sum to 1. A rollout without a correct or a wrong hint is not taught.
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
    """The problem and a rubric, which says what a good answer contains and avoids: the column
    `rubric`, or an author's text. `solution` also shows the reference solution, as RCSD's released
    code does; its paper does not (Gu et al. 2026, arXiv 2606.19327)."""

    solution: bool = False
    type: Literal["rubric"] = "rubric"
    template: str = "rubric"

    def __call__(self, group: Group, i: int, draw: Draw = Draw()) -> tuple[View, ...] | None:
        return _written(self, group, i, "rubric", reference=self.solution)


@part
class Critique(Prompt):
    """The problem and the rollout itself, corrected step by step: correct steps word for word,
    better ones from the first wrong step on (Kara and Ersoy 2026, arXiv 2606.11173)."""

    type: Literal["critique"] = "critique"
    template: str = "critique"

    def __call__(self, group: Group, i: int, draw: Draw = Draw()) -> tuple[View, ...] | None:
        return _written(self, group, i, "critique")


@part
class ReasonFirst(Prompt):
    """The problem, its solution, and the analysis of them that the teacher wrote before reading the
    rollout (RCSD's released code, 2026)."""

    type: Literal["reason_first"] = "reason_first"
    template: str = "reason_first"

    def __call__(self, group: Group, i: int, draw: Draw = Draw()) -> tuple[View, ...] | None:
        return _written(self, group, i, "analysis")


@part
class Skills(Prompt):
    """The problem, and skills and common mistakes that fit it, as soft guidance: one view per
    retrieved pair, each with its share, or a single view with the row's own texts `skills` and
    `mistakes` (SGSD, Huang et al. 2026, arXiv 2605.28791)."""

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
    """The views of another context, plus a `share` of the student's own tokens on the canvas behind
    the block that is being written, drawn again for every state. Nothing is revealed if those
    tokens are behind the first end token (d-OPSD, Luo et al. 2026, arXiv 2606.18195; its share is
    0.25)."""

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
    """The views of another context, plus the canvas as it was `steps` denoising steps later, or at
    a later step drawn at random for every state. Tokens that are written by then are not taught.

    In expectation, the gradient of the forward KL to a drawn state's distribution equals that to
    the mean over all later states, at the cost of one forward pass (dOPSD, Dat et al. 2026, arXiv
    2607.04428).
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
    """A context for some rollouts only: those of groups in which every rollout is wrong
    (`all_wrong`), the `wrong` or the `right` ones, those with a reward above their group's mean
    (`positive_advantage`), or those of problems that the teacher itself solves (`teacher_right`:
    the author `attempt`, which the method must then have, wrote a text for them)."""

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
    """Several contexts, whose views a target combines. If one of them has nothing to show, the
    rollout is not taught. Each may be read with its own weights: the teacher's weights, in
    order."""

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
    """Whether a verifier found the rollout correct; False if it was not graded."""
    return rollout.verdict is not None and rollout.verdict.correct


def correct_sibling(group: Group, i: int) -> Rollout | None:
    """The next correct rollout after `i` in its group, cyclically; None if there is none."""
    n = len(group.rollouts)
    others = (group.rollouts[(i + k) % n] for k in range(1, n))
    return next(filter(is_right, others), None)


def witness_and_target(group: Group) -> tuple[int, int] | None:
    """The indices of the shortest correct rollout and of the longest wrong one; None if either is
    missing."""
    right = [i for i, r in enumerate(group.rollouts) if is_right(r)]
    wrong = [i for i in range(len(group.rollouts)) if i not in right]
    return _shortest_and_longest(group, right, wrong)


def _shortest_and_longest(
    group: Group, some: Sequence[int], others: Sequence[int]
) -> tuple[int, int] | None:
    """The indices of the shortest of some rollouts and of the longest of others; None if either set
    is empty."""
    lengths = [len(r.completion_ids) for r in group.rollouts]
    if not some or not others:
        return None
    return min(some, key=lengths.__getitem__), max(others, key=lengths.__getitem__)


@lru_cache(1024)  # called once for each rollout of a group
def _votes(answers: tuple[str | None, ...], language: str) -> tuple[int, ...]:
    """The indices of the rollouts that give the most frequent answer."""
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
    """For each problem the index of another one in its language with another text; each index
    occurs once."""
    others = list(range(len(problems)))
    for code in sorted({p.language for p in problems}):
        texts: dict[str, list[int]] = {}
        for i, p in enumerate(problems):
            if p.language == code:
                texts.setdefault(p.text, []).append(i)
        alike = [texts[text] for text in sorted(texts)]
        Random(f"{seed} {code}").shuffle(alike)
        order = [i for same in alike for i in same]
        # Equal texts are adjacent: a shift by the count of the most frequent text never pairs
        # copies.
        ahead = max(map(len, alike))
        if 2 * ahead > len(order):
            raise UserError(
                f"{problems[order[0]].name}: too few other problems in '{code}' to show one with"
                " each; train on more, or remove copies of a problem"
            )
        for place, i in enumerate(order):
            others[i] = order[(place + ahead) % len(order)]
    return others


def _as_example(problem: Problem) -> dict[str, str]:
    """A problem and its solution, as texts for another problem's teacher."""
    if "solution" not in problem.privileged:
        raise UserError(
            f"{problem.name} has no text 'solution' to show with another problem; map"
            " data.columns.solution to a column, and leave out rows without one"
            " (filters.complete)"
        )
    return {"other_problem": problem.text, "other_solution": problem.privileged["solution"]}


def with_own_prompt(value: Any, student: StudentPrompt) -> Any:
    """A part with the student's prompt in every `own_prompt` inside it."""
    return changed(value, lambda x: OwnPrompt(student) if isinstance(x, OwnPrompt) else x)


def with_prompts(value: Any, templates: Mapping[str, str], **fields: Any) -> Any:
    """A part with `fields` (`prefill`, `template_options`) set in every prompt inside it, and with
    new `templates`, given by context type."""

    def own(x: Any) -> Any:
        if not isinstance(x, Prompt):
            return x
        return replace(x, **fields, template=templates.get(x.type, x.template))

    return changed(value, own)


def _written(
    context: Any, group: Group, i: int, name: str, **extra: Any
) -> tuple[View, ...] | None:
    """A view that shows an author's text; None if there is none. Before there are rollouts, only a
    text from the dataset can be shown."""
    text = group.note(i, name) if group.rollouts else group.problem.privileged.get(name)
    return None if not text else (_view(context, group.problem, **{name: text}, **extra),)


def _told(rollout: Rollout, thinking: bool) -> str:
    """A rollout's text, by default without its thinking."""
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
