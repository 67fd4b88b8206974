"""One pass over a list of lessons: teachers read, then the student's trunk and the loss, in one
function that runs inside the wrapped model's forward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from opsd.console import log
from opsd.lm.forward import head_of, hidden_rows
from opsd.lm.layout import PADDED, Layout
from opsd.methods.signals import LossTerm, taught
from opsd.objective.fused import head_products
from opsd.objective.head import Head, View
from opsd.objective.kernels import KernelName
from opsd.objective.table import TokenTable
from opsd.objective.terms import mixed_before
from opsd.objective.total import TermInputs, count_term, total
from opsd.teacher.scorer import Plan, TeacherOutputs, TeacherScorer
from opsd.training.examples import TeacherInput, TrainingExample
from opsd.training.metrics import Metrics

Results = list[tuple[Tensor, TokenTable]]


@dataclass
class Learner:
    """A method's signals, bound to a model's vocabulary and to its teachers. `markup` are
    the ids of special tokens, thinking tags and bare line breaks; `told` says that what the loss
    costs has been said."""

    signals: Sequence[tuple[float, LossTerm]]
    readers: TeacherScorer
    vocab: int
    pad_id: int
    temperature: float
    chunk_rows: int | None
    metrics: Metrics
    markup: Tensor
    layout: Layout = PADDED
    kernel: KernelName = "auto"
    told: bool = False

    def objective(
        self, part: Sequence[TrainingExample], reader: nn.Module, device: torch.device, plan: Plan
    ) -> tuple[Callable[[nn.Module], Tensor], Results]:
        """A function of the student that gives the pass's loss, and a list that it fills with each
        signal's token losses and table. The teachers read here what is planned, with `reader`'s
        architecture."""
        with self.metrics.timed("teacher"):
            pages = self.readers.read(plan, reader)
            self.readers.remember(pages)
            inputs = [self._share(part, i, pages, device) for i in range(len(self.signals))]
        results: Results = []

        def run(student: nn.Module) -> Tensor:
            prompts = [example.prompt_ids for example in part] or [(self.pad_id,)]
            completions = [example.rollout.completion_ids for example in part] or [()]
            hidden_ND = hidden_rows(student, self.layout.lay(prompts, completions, self.pad_id))
            head = head_of(student, self.vocab)
            if not part:
                # Every trained parameter takes part, or the other processes wait for it forever.
                parts = [hidden_ND, head.weight, *([] if head.bias is None else [head.bias])]
                return sum(tensor.sum() * 0.0 for tensor in parts)  # pyright: ignore
            self._tell_costs(inputs, hidden_ND, head)
            with self.metrics.timed("loss"):
                loss, seen = total(
                    hidden_ND,
                    head,
                    torch.tensor([t for c in completions for t in c], device=device),
                    table_of(part, self.markup, device),
                    inputs,
                    chunk_rows=self.chunk_rows,
                    kernel=self.kernel,
                )
            results.extend(seen)
            return loss

        return run, results

    def _tell_costs(self, inputs: Sequence[TermInputs], hidden_ND: Tensor, head: Head) -> None:
        """Says once what the loss costs, in products with the output layer."""
        if self.told:
            return
        self.told = True
        live = [term_inputs for term_inputs in inputs if bool(term_inputs.taught_R.any())]
        terms = [
            term_inputs.leaf.term(term_inputs.views, term_inputs.temperature)
            for term_inputs in live
        ]
        folded = [mixed_before(term, hidden_ND, head) for term in terms]
        planned = all(term_inputs.leaf.slope is not None for term_inputs in live)
        n = head_products(head, folded, planned)
        log(f"the loss takes {n} products with the output layer per token, forward and backward")

    def denominators(
        self, made: Sequence[TrainingExample], limit: int, reduce: Callable[[Tensor], Tensor]
    ) -> None:
        """Gives every lesson the factors of its tokens; counts once per step, `reduce` adding up
        the processes. `limit` is the completion limit in tokens."""
        tallies = [
            count_term(
                leaf,
                [_marked(example, self.markup) for example in made],
                [example.group for example in made],
                [example.readings[i] is not None for example in made],
                limit,
            )
            for i, (_, leaf) in enumerate(self.signals)
        ]
        counts = reduce(torch.tensor([t.count for t in tallies])).clamp(min=1).tolist()
        for row, example in enumerate(made):
            example.factors = [
                t.factor_R[row].item() / count for t, count in zip(tallies, counts, strict=True)
            ]

    def note(self, part: Sequence[TrainingExample], results: Results) -> list[list[float] | None]:
        """Adds a pass to the meter; returns each lesson's divergence per token, in nats."""
        per_token: Tensor | None = None
        for i, (losses, table) in enumerate(results):
            inside = torch.tensor([x.readings[i] is not None for x in part], device=losses.device)
            leaf = self.signals[i][1]
            mask = inside[table.rollout] & taught(leaf, table.position, table.markup)
            self.metrics.tokens(table, mask, [example.problem.language for example in part])
            per_token = table.statistics.get("divergence", per_token)
        if per_token is None:
            return [None] * len(part)
        lengths = [len(example.rollout.completion_ids) for example in part]
        return [row.tolist() for row in per_token.cpu().split(lengths)]

    def temperature_of(self, leaf: LossTerm) -> float:
        return self.temperature if leaf.temperature == "sampling" else leaf.temperature

    def plan(self, part: Sequence[TrainingExample]) -> Plan:
        """What the teachers of all signals are to read in a pass."""
        every = range(len(self.signals))
        texts = (text for example in part for i in every for text in example.texts(i))
        return self.readers.plan(texts, size=len(part))

    def _share(
        self, part: Sequence[TrainingExample], i: int, pages: TeacherOutputs, device: torch.device
    ) -> TermInputs:
        coefficient, leaf = self.signals[i]
        return TermInputs(
            coefficient=coefficient,
            leaf=leaf,
            views=views_of(part, i, pages),
            taught_R=torch.tensor([x.readings[i] is not None for x in part], device=device),
            factor_R=torch.tensor([x.factors[i] for x in part], device=device),
            temperature=self.temperature_of(leaf),
            scales=scales_of([example.readings[i] for example in part], device),
        )

    def views(self, example: TrainingExample, i: int, model: nn.Module) -> list[View]:
        """What the teacher of one signal says of one rollout."""
        plan = self.readers.plan(example.texts(i), size=1)
        return views_of([example], i, self.readers.read(plan, model))


def views_of(part: Sequence[TrainingExample], i: int, pages: TeacherOutputs) -> list[View]:
    """Each view's hidden states in signal `i`; rows of rollouts that it does not teach are 0."""
    own = next((example.readings[i] for example in part if example.readings[i]), None) or ()
    views = []
    for k, reading in enumerate(own):
        read = [pages.rows[x.texts(i)[k]] if x.readings[i] else None for x in part]
        like = next(rows for rows in read if rows is not None)
        blank = [like.new_zeros(len(x.rollout.completion_ids), like.shape[1]) for x in part]
        rows = [b if r is None else r for r, b in zip(read, blank, strict=True)]
        views.append(View(reading.view.name, torch.cat(rows), pages.heads[reading.weights]))
    return views


def scales_of(
    readings: Sequence[tuple[TeacherInput, ...] | None], device: torch.device
) -> dict[str, Tensor]:
    """The scales of every view [R], by its name; 0 for rollouts that are not taught."""
    named = next(filter(None, readings), ())
    return {
        reading.view.name: torch.tensor([r[k].view.scale if r else 0.0 for r in readings]).to(
            device
        )
        for k, reading in enumerate(named)
    }


def _marked(example: TrainingExample, markup: Tensor) -> Tensor:
    return torch.isin(torch.tensor(example.rollout.completion_ids), markup)


def table_of(part: Sequence[TrainingExample], markup: Tensor, device: torch.device) -> TokenTable:
    """The rows of a pass: every completion token of its lessons, in order; `markup` are ids."""
    lengths = torch.tensor([len(example.rollout.completion_ids) for example in part])
    # Text that nobody sampled has no sampling log-probability: NaN makes any use of it visible.
    sampled = [
        example.rollout.logprobs or (float("nan"),) * len(example.rollout.completion_ids)
        for example in part
    ]

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device)

    return TokenTable(
        rollout=torch.repeat_interleave(torch.arange(len(part)), lengths).to(device),
        position=torch.cat([torch.arange(int(n)) for n in lengths]).to(device),
        logp_sampler=column([p for row in sampled for p in row]),
        group_R=torch.tensor([example.group for example in part], device=device),
        reward_R=column([example.reward for example in part]),
        reward_mean_R=column([example.reward_mean for example in part]),
        reward_std_R=column([example.reward_std for example in part]),
        pass_rate_R=column([example.pass_rate for example in part]),
        markup=torch.cat([_marked(example, markup) for example in part]).to(device),
    )


def passes(
    part: Sequence[TrainingExample], budget: int | None, layout: Layout
) -> list[list[TrainingExample]]:
    """Lessons split so that each pass, laid out, stays within `budget` tokens of the student's."""
    if budget is None:
        return [list(part)]
    split: list[list[TrainingExample]] = [[]]
    for example in part:
        lengths = [example.tokens, *(x.tokens for x in split[-1])]
        if split[-1] and layout.tokens(lengths) > budget:
            split.append([example])
        else:
            split[-1].append(example)
    return split
