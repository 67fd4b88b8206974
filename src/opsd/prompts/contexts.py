"""What a reader is shown. A context turns rollout i of a group into views, or into None:
None says that this rollout is not taught, which is counted and costs no teacher pass. A group
without rollouts asks what can be shown before there are any.

Most tell something that the dataset has; those at the end tell what came of the group itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import field, replace
from random import Random
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Protocol

from pydantic import Field

from opsd.parts import Slot, changed, part, tag
from opsd.prompts.prompt import answered, view
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
    of_canvas: bool = False
    """Whether it shows tokens of a masked diffusion model's canvas."""

    def __call__(self, group: Group, i: int, draw: Draw = Draw()) -> tuple[View, ...] | None: ...

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
    """

    type: Literal["crosslingual"] = "crosslingual"
    template: str = "crosslingual"
    include: tuple[Include, ...] = ("problem", "translation", "solution")

    def __call__(self, group: Group, i: int, draw: Draw = Draw()) -> tuple[View, ...] | None:
        return (_view(self, group.problem, include=self.include),)


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
    taught.
    """

    demonstration: Literal["first", "both", "never"] = "first"
    thinking: bool = False
    type: Literal["feedback"] = "feedback"
    needs_reward: ClassVar[bool] = True
    template: str = "feedback"

    def __call__(self, group: Group, i: int, draw: Draw = Draw()) -> tuple[View, ...] | None:
        verdict = group.rollouts[i].verdict if group.rollouts else None
        said = verdict.feedback if verdict else None
        sibling = None if self.demonstration == "never" else correct_sibling(group, i)
        if sibling is not None and self.demonstration == "first":
            said = None
        if sibling is None and not said:
            return None
        shown = _told(sibling, self.thinking) if sibling else None
        return (_view(self, group.problem, demonstration=shown, feedback=said),)


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
    of_canvas: ClassVar[bool] = True

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
    of_canvas: ClassVar[bool] = True

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
    Document,
    Demonstration,
    Feedback,
    Witness,
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
    """A context for some rollouts alone: those of groups in which every rollout is wrong, or for
    the wrong, or for the right ones."""

    context: AnyPlainContext
    where: Literal["all_wrong", "wrong", "right"]
    type: Literal["filtered"] = "filtered"

    @property
    def label(self) -> str:
        return f"{self.context.label} ({self.where})"

    needs_reward: ClassVar[bool] = True

    def __call__(self, group: Group, i: int, draw: Draw = Draw()) -> tuple[View, ...] | None:
        if not group.rollouts:
            return None
        right = is_right(group.rollouts[i])
        taught = {"all_wrong": group.pass_rate == 0, "wrong": not right, "right": right}
        return self.context(group, i, draw) if taught[self.where] else None


@part
class MultiView(Context):
    """Several contexts side by side, whose views a target joins; where one has nothing to show, the
    rollout is not taught. Each may be read with weights of its own: the teacher's, in order."""

    contexts: Annotated[tuple[AnyPlainContext, ...], Field(min_length=1)]
    type: Literal["multi_view"] = "multi_view"

    @property
    def label(self) -> str:
        return " + ".join(context.label for context in self.contexts)

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
    lengths = [len(r.completion_ids) for r in group.rollouts]
    right = [i for i, r in enumerate(group.rollouts) if is_right(r)]
    wrong = [i for i in range(len(group.rollouts)) if i not in right]
    if not right or not wrong:
        return None
    return min(right, key=lengths.__getitem__), max(wrong, key=lengths.__getitem__)


def with_own_prompt(value: Any, student: StudentPrompt) -> Any:
    """A part with the student's prompt in every `own_prompt` that it is made of."""
    return changed(value, lambda x: OwnPrompt(student) if isinstance(x, OwnPrompt) else x)


def with_prompts(value: Any, **fields: Any) -> Any:
    """A part with `fields` (`prefill`, `template_options`) in every prompt it is made of."""
    return changed(value, lambda x: replace(x, **fields) if isinstance(x, Prompt) else x)


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
