"""One pass over a list of training examples: the teachers' forward passes, then the student's trunk
and the loss, in one function that runs inside the wrapped model's forward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from opsd.console import log
from opsd.lm.forward import head_of, hidden_rows
from opsd.lm.layout import PADDED, Layout, continued
from opsd.lm.shared_prefix import trained_rows
from opsd.methods.signals import LossTerm
from opsd.objective.fused import head_products
from opsd.objective.head import Head, TeacherHidden
from opsd.objective.kernels import KernelName
from opsd.objective.table import TokenTable
from opsd.objective.terms import mixed_before
from opsd.objective.total import TermInputs, count_term, total
from opsd.schedule import at
from opsd.teacher.scorer import ScoringPlan, TeacherOutputs, TeacherScorer
from opsd.training.examples import TeacherInput, TrainingExample
from opsd.training.metrics import Metrics

Results = list[tuple[Tensor, TokenTable]]


@dataclass
class Learner:
    """A method's loss terms, bound to a model's vocabulary and to its teachers. `special_ids` are
    the ids of special tokens, thinking tags and bare line breaks. `quiet` suppresses the log line
    about the cost of the loss."""

    signals: Sequence[tuple[float, LossTerm]]
    scorer: TeacherScorer
    vocab: int
    pad_id: int
    temperature: float
    chunk_rows: int | None
    metrics: Metrics
    special_ids: Tensor
    layout: Layout = PADDED
    kernel: KernelName = "auto"
    quiet: bool = False

    def __post_init__(self) -> None:
        self.terms = list(self.signals)

    def begin(self, step: int, total_steps: int) -> None:
        """Replace schedules by their numbers at an optimizer step, which counts from 0."""
        self.terms = at(self.signals, step, total_steps)

    def objective(
        self,
        part: Sequence[TrainingExample],
        reader: nn.Module,
        device: torch.device,
        plan: ScoringPlan,
    ) -> tuple[Callable[[nn.Module], Tensor], Results]:
        """A function of the student that computes the pass's loss, and a list that it fills with
        each loss term's token losses and table. This call runs the planned teacher passes, with
        `reader`'s architecture."""
        with self.metrics.timed("teacher"):
            outputs = self.scorer.read(plan, reader)
        results: Results = []

        def run(student: nn.Module) -> Tensor:
            if not part:
                nothing = [continued((self.pad_id,), ())]
                hidden_ND = hidden_rows(student, self.layout.collate(nothing, self.pad_id))
                head = head_of(student, self.vocab)
                # Every trained parameter must take part, or the other processes would wait for it
                # forever.
                parts = [hidden_ND, head.weight, *([] if head.bias is None else [head.bias])]
                return sum(tensor.sum() * 0.0 for tensor in parts)  # pyright: ignore
            read = [example.input for example in part]
            hidden_ND = trained_rows(student, read, self.pad_id, self.layout)
            head = head_of(student, self.vocab)  # after the pass, which gathers sharded weights
            if outputs.coming:  # from servers, which were scoring in the meantime
                with self.metrics.timed("waiting"):
                    outputs.wait()
            self.scorer.remember(outputs)
            inputs = [self._inputs(part, i, outputs, device) for i in range(len(self.terms))]
            self._tell_costs(inputs, hidden_ND, head)
            with self.metrics.timed("loss"):
                loss, seen = total(
                    hidden_ND,
                    head,
                    torch.tensor([t for x in part for t in x.rows.tokens], device=device),
                    table_of(part, self.special_ids, device),
                    inputs,
                    chunk_rows=self.chunk_rows,
                    kernel=self.kernel,
                )
            results.extend(seen)
            return loss

        return run, results

    def _tell_costs(self, inputs: Sequence[TermInputs], hidden_ND: Tensor, head: Head) -> None:
        """Logs once what the loss costs, in matrix products with the output layer."""
        if self.quiet:
            return
        self.quiet = True
        live = [own for own in inputs if bool(own.taught_R.any())]
        terms = [own.loss_term.term(own.views, own.temperature) for own in live]
        folded = [mixed_before(term, hidden_ND, head) for term in terms]
        planned = all(own.loss_term.slope is not None for own in live)
        n = head_products(head, folded, planned)
        log(
            f"cost of the loss: {n} matrix products with the output layer per taught token, forward"
            " and backward"
        )

    def denominators(
        self, made: Sequence[TrainingExample], limit: int, reduce: Callable[[Tensor], Tensor]
    ) -> None:
        """Sets every example's loss factors. Called once per step; `reduce` sums counts over the
        processes. `limit` is the completion limit in tokens."""
        counted = [
            count_term(
                term,
                [(_positions(x), _special(x, self.special_ids)) for x in made],
                [example.group for example in made],
                [example.teacher_inputs[i] is not None for example in made],
                limit,
            )
            for i, (_, term) in enumerate(self.terms)
        ]
        counts = reduce(torch.tensor([c.count for c in counted])).clamp(min=1).tolist()
        for row, example in enumerate(made):
            example.factors = [
                c.factor_R[row].item() / count for c, count in zip(counted, counts, strict=True)
            ]

    def note(self, part: Sequence[TrainingExample], results: Results) -> list[list[float] | None]:
        """Adds a pass to the metrics; returns each example's divergence per token, in nats."""
        per_token: Tensor | None = None
        self._compare(part, results)
        for i, (losses, table) in enumerate(results):
            taught = [example.teacher_inputs[i] is not None for example in part]
            inside = torch.tensor(taught, device=losses.device)
            term = self.terms[i][1]
            mask = inside[table.rollout] & term.taught(table.position, table.special)
            self.metrics.tokens(table, mask, [example.problem.language for example in part])
            per_token = table.statistics.get("divergence", per_token)
        if per_token is None:
            return [None] * len(part)
        lengths = [len(example.rows.tokens) for example in part]
        return [row.tolist() for row in per_token.cpu().split(lengths)]

    def _compare(self, part: Sequence[TrainingExample], results: Results) -> None:
        """Measures the difference between the student's and the sampler's log-probabilities, as
        computed by the first loss term that uses the sampling temperature. Rollouts from other
        weights, or from another prompt than the one that is trained on, are left out."""
        read = (
            table
            for i, (_, table) in enumerate(results)
            if "logp_student" in table.statistics
            and self.temperature_of(self.terms[i][1]) == self.temperature
        )
        table = next(read, None)
        if table is None:
            return
        told = [
            example.rows.logprobs is not None
            and example.rollout.weights_version is not None
            and example.prompt_ids == example.rollout.prompt_ids
            for example in part
        ]
        inside = torch.tensor(told, device=table.rollout.device)[table.rollout]
        gap = table.statistics["logp_student"] - table.logp_sampler
        if inside.any():
            self.metrics.sampled(gap[inside], table.rollout[inside])

    def temperature_of(self, term: LossTerm) -> float:
        """The temperature that the term divides logits by."""
        return self.temperature if term.temperature == "sampling" else term.temperature

    def plan(self, part: Sequence[TrainingExample]) -> ScoringPlan:
        """The scoring plan of a pass: what the teachers of all loss terms must read."""
        every = range(len(self.terms))
        requests = (request for x in part for i in every for request in x.requests(i))
        return self.scorer.plan(requests, size=len(part))

    def _inputs(
        self,
        part: Sequence[TrainingExample],
        i: int,
        outputs: TeacherOutputs,
        device: torch.device,
    ) -> TermInputs:
        coefficient, term = self.terms[i]
        return TermInputs(
            coefficient=coefficient,
            loss_term=term,
            views=views_of(part, i, outputs),
            taught_R=torch.tensor([x.teacher_inputs[i] is not None for x in part], device=device),
            factor_R=torch.tensor([x.factors[i] for x in part], device=device),
            temperature=self.temperature_of(term),
            scales=scales_of([x.teacher_inputs[i] for x in part], device),
        )

    def views(self, example: TrainingExample, i: int, model: nn.Module) -> list[TeacherHidden]:
        """The hidden states of one loss term's teacher on one rollout, one entry per view."""
        plan = self.scorer.plan(example.requests(i), size=1)
        outputs = self.scorer.read(plan, model)
        outputs.wait()
        return views_of([example], i, outputs)


def views_of(
    part: Sequence[TrainingExample], i: int, outputs: TeacherOutputs
) -> list[TeacherHidden]:
    """Each view's hidden states in loss term `i`; rows of rollouts that the term does not teach are
    0."""
    own = next((x.teacher_inputs[i] for x in part if x.teacher_inputs[i]), None) or ()
    views = []
    for k, given in enumerate(own):
        read = [outputs.rows[x.requests(i)[k]] if x.teacher_inputs[i] else None for x in part]
        like = next(rows for rows in read if rows is not None)
        blank = [like.new_zeros(len(x.rows.tokens), like.shape[1]) for x in part]
        rows = [b if r is None else r for r, b in zip(read, blank, strict=True)]
        head = outputs.heads[given.weights]
        views.append(TeacherHidden(given.view.name, torch.cat(rows), head))
    return views


def scales_of(
    inputs: Sequence[tuple[TeacherInput, ...] | None], device: torch.device
) -> dict[str, Tensor]:
    """Every view's scales [R], by the view's name; 0 for rollouts that are not taught."""
    named = next(filter(None, inputs), ())
    scales = {}
    for k, given in enumerate(named):
        own = [x[k].view.scale if x else 0.0 for x in inputs]
        scales[given.view.name] = torch.tensor(own).to(device)
    return scales


def _positions(example: TrainingExample) -> Tensor:
    return torch.tensor(example.rows.positions)


def _special(example: TrainingExample, ids: Tensor) -> Tensor:
    return torch.isin(torch.tensor(example.rows.tokens), ids)


def table_of(
    part: Sequence[TrainingExample], special_ids: Tensor, device: torch.device
) -> TokenTable:
    """The token table of a pass: every taught token of its examples, in order."""
    lengths = torch.tensor([len(example.rows.tokens) for example in part])
    # Text that was not sampled has no sampling log-probability: NaN makes any use of it visible.
    sampled = [
        example.rows.logprobs or (float("nan"),) * len(example.rows.tokens) for example in part
    ]

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device)

    return TokenTable(
        rollout=torch.repeat_interleave(torch.arange(len(part)), lengths).to(device),
        position=torch.cat([_positions(x) for x in part]).to(device),
        logp_sampler=column([p for row in sampled for p in row]),
        group_R=torch.tensor([example.group for example in part], device=device),
        reward_R=column([example.reward for example in part]),
        reward_mean_R=column([example.reward_mean for example in part]),
        reward_std_R=column([example.reward_std for example in part]),
        pass_rate_R=column([example.pass_rate for example in part]),
        special=torch.cat([_special(example, special_ids) for example in part]).to(device),
    )


def passes(
    part: Sequence[TrainingExample], budget: int | None, layout: Layout
) -> list[list[TrainingExample]]:
    """Split examples into passes of at most `budget` student tokens each, padding included."""
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
