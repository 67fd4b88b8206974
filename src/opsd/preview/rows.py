"""What student and teachers will read for a recipe's real rows, and which tokens of a reply are
trained on. Needs a model's tokenizer and configuration, never its weights."""

from __future__ import annotations

import contextlib
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

from opsd.console import counting
from opsd.data import problems
from opsd.data.batches import StepShape
from opsd.data.filters import DataReport
from opsd.data.problems import SCANNED, varied
from opsd.data.stream import ProblemStream
from opsd.grade.gold import gold_remarks
from opsd.lm.gguf import is_gguf
from opsd.lm.loading import (
    adapter_folder,
    base_of,
    context_length,
    load_config,
    load_tokenizer,
    locate,
)
from opsd.methods import Method
from opsd.methods.signals import LossTerm
from opsd.parts import tag
from opsd.prompts import boundary, prompt
from opsd.prompts.boundary import eos_ids
from opsd.prompts.contexts import Context, Draw
from opsd.prompts.prompt import prompt_parts
from opsd.prompts.tokens import Token, token, tokens
from opsd.recipe.schema import Recipe
from opsd.training.config import DEFAULT_PASSES, OPSDConfig, passes_per_step
from opsd.types import Finish, Group, Problem, Rollout, UserError, Verdict, View

SHOWN = 20_000
"""How many characters of a longer prompt are shown at either end, and of a reply at least."""

_LEAK = 20
"""From how many characters on a privileged text in the student's prompt is not a coincidence."""


@dataclass(frozen=True)
class Role:
    """A reader: a context, its weights (one for all views, or one per view), and its loss term."""

    name: str
    context: Context
    weights: tuple[str, ...]
    term: LossTerm | None = None


@dataclass(frozen=True)
class PreviewContext:
    """A recipe with everything that a preview needs; `end_id` closes a written reply, `limit` is in
    tokens, prompt and completion together."""

    recipe: Recipe
    tokenizer: Any
    roles: tuple[Role, ...]
    end_id: int
    limit: int

    @property
    def method(self) -> Method:
        return self.recipe.method

    @property
    def horizon(self) -> int:
        return self.recipe.sampling.max_completion_length

    def setting(self, name: str) -> Any:
        return self.recipe.train.get(name, getattr(OPSDConfig, name))

    @property
    def written(self) -> bool:
        """Whether replies come from the dataset and are not sampled."""
        return self.method.source.written is not None

    def begins(self, text: str) -> str:
        """The part of a reply that is examined: of an example that is far longer than any rollout,
        only the beginning."""
        return text if self.written else text[: max(SHOWN, 10 * self.horizon)]

    def longest(self, reply: Rollout) -> int:
        """The number of tokens for which a prompt must leave room."""
        return len(reply.completion_ids) if self.written else self.horizon


@dataclass(frozen=True)
class PromptReading:
    """A role's view of a row, its weights, its token ids, and whether the longest reply fits after
    it."""

    role: Role
    view: View
    weights: str
    ids: tuple[int, ...]
    fits: bool


@dataclass(frozen=True)
class PreviewRow:
    """One row as every role reads it, the student first, with an example of a reply and its
    origin."""

    problem: Problem
    reply: Rollout
    origin: str
    reads: list[PromptReading]
    notes: list[str]


def preview(recipe: Recipe, rows: int = 2) -> dict[str, Any]:
    """The first rows token by token, the lengths of the first `SCANNED`, and remarks on them.

    Returns plain values. Raises UserError, like training, if no prompt can be built for a row that
    is shown; further such rows are counted.
    """
    context = _context(recipe)
    account = DataReport()
    train, _ = problems.load_problems(recipe.data, account)
    train = recipe.method.prepared(train, context.setting("seed"))
    given = train.head(SCANNED) if isinstance(train, ProblemStream) else train
    shown = varied(given, rows)
    made = {problem.id: _read_row(problem, context) for problem in shown}
    return {
        "model": recipe.model.name,
        "method": recipe.method.name,
        "data": recipe.data.source,
        "problems": None if isinstance(train, ProblemStream) else len(train),
        "left_out": account.lines(),
        "limits": {
            "limit": context.limit,
            "max_length": context.setting("max_length"),
            "max_completion_length": context.horizon,
            "prompt_too_long": context.setting("prompt_too_long"),
        },
        "step": _step(context).described,
        "tokens": _special_tokens(context),
        "rows": [_row(made[problem.id], context) for problem in shown],
        "scan": _scan(given[:SCANNED], context, made),
    }


def _step(context: PreviewContext) -> StepShape:
    """An optimizer step on one process."""
    batch = context.setting("per_device_train_batch_size")
    asked = context.setting("rollouts_per_step")
    passes = context.setting("gradient_accumulation_steps") or DEFAULT_PASSES
    if asked is not None:
        passes = passes_per_step(asked, batch, 1)
    method = context.method
    return StepShape(batch * passes, method.source.group, passes, method.reuse)


def _context(recipe: Recipe) -> PreviewContext:
    options = recipe.model.model_dump(include={"revision", "trust_remote_code"})
    tokenizer = load_tokenizer(recipe.model.name, **options)
    shell = _without_weights(recipe.model.name, **options)
    asked = recipe.train.get("max_length", OPSDConfig.max_length)
    ends = eos_ids(shell, tokenizer)
    if not ends:
        raise UserError(f"'{recipe.model.name}' names no end-of-sequence token")
    roles = tuple(_roles(recipe.method))
    return PreviewContext(recipe, tokenizer, roles, ends[0], context_length(shell, asked))


def _without_weights(name: str, revision: str | None, trust_remote_code: bool) -> Any:
    """A stand-in for a model with only its configurations."""
    from transformers import GenerationConfig

    path, revision = locate(name, revision)
    adapter = adapter_folder(path, revision)
    if adapter is not None:
        path, revision = base_of(adapter)
    try:
        config = load_config(path, revision, trust_remote_code)
    except (OSError, ValueError) as error:
        told = str(error).strip().splitlines()[0]
        raise UserError(f"cannot load the configuration of '{name}': {told}") from error
    generation = GenerationConfig.from_model_config(config)
    if not is_gguf(path):
        with contextlib.suppress(OSError):
            generation = GenerationConfig.from_pretrained(path, revision=revision)
    return SimpleNamespace(config=config, generation_config=generation)


def _roles(method: Method) -> Iterator[Role]:
    yield Role("student", method.student, ("student",))
    for name, phase in zip(("sampler", "second try"), method.source.phases, strict=False):
        if phase.view is not None:
            yield Role(name, phase.view, (tag(phase.weights) if phase.weights else "student",))
    teaching = [(term, term.teacher) for _, term in method.signals if term.teacher]
    for number, (term, teacher) in enumerate(teaching, 1):
        name = "teacher" if len(teaching) == 1 else f"teacher {number}"
        yield Role(name, teacher.context, tuple(map(tag, teacher.all_weights)), term)


def _read_row(problem: Problem, context: PreviewContext) -> PreviewRow:
    reply, origin = _reply(problem, context)
    reads = []
    for role in context.roles:
        for number, view in enumerate(role.context(Group(problem, (reply,)), 0, Draw()) or ()):
            weights = role.weights[number % len(role.weights)]
            ids, fits = prompt.read(context.tokenizer, view, context.longest(reply), context.limit)
            reads.append(PromptReading(role, view, weights, ids, fits))
    student, *others = reads
    notes = boundary.prompt_notes(context.tokenizer, student.view)
    for read in others:
        notes += _other_notes(read, student.view, context.tokenizer)
    notes += [*_length_notes(reads, context), *_privilege_notes(problem, student.view)]
    return PreviewRow(problem, reply, origin, reads, list(dict.fromkeys(notes)))


def _other_notes(read: PromptReading, student: View, tokenizer: Any) -> list[str]:
    """Remarks on a teacher's or a sampler's view."""
    term = read.role.term
    if term is None:
        return boundary.prompt_notes(tokenizer, read.view, "method.source.view")
    first = bool(term.taught(torch.zeros(1, dtype=torch.long)))
    return boundary.notes(tokenizer, student, read.view, first_taught=first)


def _reply(problem: Problem, context: PreviewContext) -> tuple[Rollout, str]:
    """An example of a completion: the row's own solution, closed with the end token, or a made-up
    one."""
    source = context.method.source
    name = source.written or "solution"
    written = problem.privileged.get(name)
    text = written or f"An example. \\boxed{{{problem.answer or '?'}}}"
    ids = context.tokenizer(context.begins(text), add_special_tokens=False, verbose=False)[
        "input_ids"
    ]
    verdict = Verdict(1.0, correct=True, format_ok=True) if written else None
    reply = Rollout((), (*ids, context.end_id), text, Finish.STOP, verdict=verdict)
    part = "" if context.begins(text) == text else f", of {len(text):,} characters the first"
    return reply, f"the row's own {name}{part}" if written else "made up"


def _length_notes(reads: Sequence[PromptReading], context: PreviewContext) -> Iterator[str]:
    skips = context.setting("prompt_too_long") == "skip"
    raised = ", or raise train.max_length" if context.limit == context.setting("max_length") else ""
    remedy = "choose shorter rows" if context.written else "lower sampling.max_completion_length"
    for read in reads:
        if not read.fits:
            then = "leaves the row out" if skips else "stops"
            yield (
                f"too long: the {read.role.name}'s prompt and the longest reply exceed"
                f" {context.limit:,} tokens, and training {then} there; {remedy}{raised}"
            )


def _privilege_notes(problem: Problem, student: View) -> Iterator[str]:
    read = "\n".join(message["content"] for message in student.messages)
    for name, text in problem.privileged.items():
        if len(text.strip()) >= _LEAK and text.strip() in read:
            yield (
                f"the student's own prompt contains '{name}', too, so it is not privileged:"
                " look at data.columns and at these rows"
            )


def _row(row: PreviewRow, context: PreviewContext) -> dict[str, Any]:
    """A row as plain values."""
    problem, reply = row.problem, row.reply
    reading = [read.role for read in row.reads]
    return {
        "problem": problem.id,
        "language": problem.language,
        "answer": problem.answer,
        "views": [_view(read, context.longest(reply), context.tokenizer) for read in row.reads],
        "not_taught": [role.name for role in context.roles if role not in reading],
        "reply": {
            "origin": row.origin,
            "longer_than_a_rollout": not context.written
            and len(reply.completion_ids) > context.horizon,
            "tokens": [
                *tokens(context.tokenizer, context.begins(reply.text)),
                token(context.tokenizer, context.end_id),
            ],
            "signals": _signals(row, context),
        },
        "notes": row.notes,
    }


def _view(read: PromptReading, longest: int, tokenizer: Any) -> dict[str, Any]:
    template, prefill = prompt_parts(tokenizer, read.view)
    return {
        "role": read.role.name,
        "view": read.view.name,
        "weights": read.weights,
        "length": len(read.ids),
        "reply": longest,
        "fits": read.fits,
        "tokens": _ends(tokenizer, template, prefill),
    }


def _ends(tokenizer: Any, template: str, prefill: str) -> list[Token]:
    """A prompt's tokens; of a long prompt only those at its beginning and its end."""
    text = template + prefill
    if len(text) <= 3 * SHOWN:
        return tokens(tokenizer, text, forced_from=len(template))
    cut = len(text) - SHOWN
    out = {"id": None, "text": f"\n[{cut - SHOWN:,} characters]\n", "kind": "special"}
    first = tokens(tokenizer, text[:SHOWN], forced_from=SHOWN)
    return [*first, out, *tokens(tokenizer, text[cut:], forced_from=max(0, len(template) - cut))]


def _signals(row: PreviewRow, context: PreviewContext) -> list[dict[str, Any]]:
    """Which of the reply's tokens are in the loss of each signal."""
    teaching = [read.role.term for read in row.reads]
    positions = torch.arange(len(row.reply.completion_ids))
    return [
        {
            "signal": tag(term),
            "in_loss": [
                bool(kept) and (term.teacher is None or term in teaching)
                for kept in term.taught(positions).tolist()
            ],
        }
        for _, term in context.method.signals
    ]


def _scan(
    given: Sequence[Problem], context: PreviewContext, made: Mapping[str, PreviewRow]
) -> dict[str, Any]:
    """Prompt lengths by role, and how many rows each remark concerns; `made` contains the rows that
    were read already, by their problems' ids."""
    reads: dict[tuple[str, str], list[PromptReading]] = defaultdict(list)
    tried = getattr(context.recipe.verifier, "reads_boxes", False)
    notes: Counter[str] = Counter(dict(gold_remarks(given)) if tried else {})
    broken = []
    with counting("rows", len(given), "row") as advance:
        for problem in given:
            try:
                row = made.get(problem.id) or _read_row(problem, context)
            except UserError as error:
                broken.append(str(error))
            else:
                notes.update(row.notes)
                for read in row.reads:
                    reads[read.role.name, read.view.name].append(read)
            advance()
    return {
        "rows": len(given),
        "lengths": [
            {
                "role": role,
                "view": view,
                "min": min(len(read.ids) for read in found),
                "median": statistics.median_low(len(read.ids) for read in found),
                "max": max(len(read.ids) for read in found),
                "too_long": sum(not read.fits for read in found),
            }
            for (role, view), found in reads.items()
        ],
        "broken": {"rows": len(broken), "first": broken[0] if broken else None},
        "notes": [{"note": note, "rows": rows} for note, rows in notes.most_common()],
    }


def _special_tokens(context: PreviewContext) -> dict[str, Any]:
    """The tokens that begin a prompt, end a reply, and pad."""
    tokenizer = context.tokenizer
    named = {"begin": tokenizer.bos_token_id, "end": context.end_id, "pad": tokenizer.pad_token_id}
    return {
        name: None if number is None else token(tokenizer, number) for name, number in named.items()
    } | {"chat_template": tokenizer.chat_template is not None}
