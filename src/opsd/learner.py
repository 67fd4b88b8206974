"""One pass over a list of lessons: teachers read, then the student's trunk and the loss, in one
function that runs inside the wrapped model's forward."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from opsd.journal import Meter
from opsd.objective.fused import head_products
from opsd.objective.head import Head, View
from opsd.objective.kernels import KernelName
from opsd.objective.signals import Leaf, taught
from opsd.objective.table import TokenTable
from opsd.objective.terms import mixed_before
from opsd.objective.total import Share, tally, total
from opsd.rollout.collate import Ids, pad_right
from opsd.run import log
from opsd.sharding import is_sharded
from opsd.teacher.keeper import Keeper
from opsd.teacher.lessons import Lesson, Reading
from opsd.teacher.score import head_of, hidden_rows, score
from opsd.teacher.weights import AnyWeights

Results = list[tuple[Tensor, TokenTable]]

Shown = list[tuple[AnyWeights, ...]]
"""The weights that read each view of each signal."""


@dataclass
class Learner:
    """A method's signals, bound to a model's vocabulary and to the teachers' weights. `markup` are
    the ids of special tokens, thinking tags and bare line breaks; `told` says that what the loss
    costs has been said."""

    signals: Sequence[tuple[float, Leaf]]
    keepers: Mapping[AnyWeights, Keeper]
    vocab: int
    pad_id: int
    temperature: float
    chunk_rows: int | None
    meter: Meter
    markup: Tensor
    kernel: KernelName = "auto"
    autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    told: bool = False

    def objective(
        self, part: Sequence[Lesson], reader: nn.Module, device: torch.device, shown: Shown
    ) -> tuple[Callable[[nn.Module], Tensor], Results]:
        """A function of the student that gives the pass's loss, and a list that it fills with each
        signal's token losses and table. The teachers read here, with `reader`'s architecture;
        `shown` is what they are to read on the process where they read most."""
        with self.meter.timed("teacher"):
            shares = [
                self._share(part, i, reader, device, shown[i]) for i in range(len(self.signals))
            ]
        results: Results = []

        def run(student: nn.Module) -> Tensor:
            prompts = [lesson.prompt_ids for lesson in part] or [(self.pad_id,)]
            completions = [lesson.rollout.completion_ids for lesson in part] or [()]
            hidden_ND = hidden_rows(student, pad_right(prompts, completions, self.pad_id))
            head = head_of(student, self.vocab)
            if not part:
                # Every trained parameter takes part, or the other processes wait for it forever.
                parts = [hidden_ND, head.weight, *([] if head.bias is None else [head.bias])]
                return sum(tensor.sum() * 0.0 for tensor in parts)  # pyright: ignore
            self._tell_costs(shares, hidden_ND, head)
            with self.meter.timed("loss"):
                loss, seen = total(
                    hidden_ND,
                    head,
                    torch.tensor([t for c in completions for t in c], device=device),
                    table_of(part, self.markup, device),
                    shares,
                    chunk_rows=self.chunk_rows,
                    kernel=self.kernel,
                )
            results.extend(seen)
            return loss

        return run, results

    def _tell_costs(self, shares: Sequence[Share], hidden_ND: Tensor, head: Head) -> None:
        """Says once what the loss costs, in products with the output layer."""
        if self.told:
            return
        self.told = True
        live = [share for share in shares if bool(share.taught_R.any())]
        terms = [share.leaf.term(share.views, share.temperature) for share in live]
        folded = [mixed_before(term, hidden_ND, head) for term in terms]
        planned = all(share.leaf.slope is not None for share in live)
        n = head_products(head, folded, planned)
        log(f"the loss takes {n} products with the output layer per token, forward and backward")

    def denominators(
        self, made: Sequence[Lesson], limit: int, reduce: Callable[[Tensor], Tensor]
    ) -> None:
        """Gives every lesson the factors of its tokens; counts once per step, `reduce` adding up
        the processes. `limit` is the completion limit in tokens."""
        tallies = [
            tally(
                leaf,
                [_marked(lesson, self.markup) for lesson in made],
                [lesson.group for lesson in made],
                [lesson.readings[i] is not None for lesson in made],
                limit,
            )
            for i, (_, leaf) in enumerate(self.signals)
        ]
        counts = reduce(torch.tensor([t.count for t in tallies])).clamp(min=1).tolist()
        for row, lesson in enumerate(made):
            lesson.factors = [
                t.factor_R[row].item() / count for t, count in zip(tallies, counts, strict=True)
            ]

    def note(self, part: Sequence[Lesson], results: Results) -> list[list[float] | None]:
        """Adds a pass to the meter; returns each lesson's divergence per token, in nats."""
        per_token: Tensor | None = None
        for i, (losses, table) in enumerate(results):
            inside = torch.tensor([x.readings[i] is not None for x in part], device=losses.device)
            leaf = self.signals[i][1]
            mask = inside[table.rollout] & taught(leaf, table.position, table.markup)
            self.meter.tokens(table, mask, [lesson.problem.language for lesson in part])
            per_token = table.statistics.get("divergence", per_token)
        if per_token is None:
            return [None] * len(part)
        lengths = [len(lesson.rollout.completion_ids) for lesson in part]
        return [row.tolist() for row in per_token.cpu().split(lengths)]

    def temperature_of(self, leaf: Leaf) -> float:
        return self.temperature if leaf.temperature == "sampling" else leaf.temperature

    def shown(self, part: Sequence[Lesson]) -> Shown:
        """What the teachers of every signal read in a pass: the weights of each view."""
        every = range(len(self.signals))
        readings = [next((x.readings[i] for x in part if x.readings[i]), ()) for i in every]
        return [tuple(reading.weights for reading in of_one or ()) for of_one in readings]

    def _share(
        self,
        part: Sequence[Lesson],
        i: int,
        reader: nn.Module,
        device: torch.device,
        shown: tuple[AnyWeights, ...],
    ) -> Share:
        coefficient, leaf = self.signals[i]
        return Share(
            coefficient=coefficient,
            leaf=leaf,
            views=self.views(part, i, reader, shown),
            taught_R=torch.tensor([x.readings[i] is not None for x in part], device=device),
            factor_R=torch.tensor([x.factors[i] for x in part], device=device),
            temperature=self.temperature_of(leaf),
            scales=scales_of([lesson.readings[i] for lesson in part], device),
        )

    def views(
        self,
        part: Sequence[Lesson],
        i: int,
        model: nn.Module,
        shown: tuple[AnyWeights, ...] = (),
    ) -> list[View]:
        """Each view's hidden states; rows of rollouts that the signal does not teach stay 0.

        A sharded model's layers are gathered by all processes together: where `shown` has more
        views than there are here, nothing is read as often as it takes.
        """
        pupils = [lesson for lesson in part if lesson.readings[i]]
        own = (pupils[0].readings[i] or ()) if pupils else ()
        completions = [lesson.rollout.completion_ids for lesson in pupils]
        taught = [bool(x.readings[i]) for x in part for _ in x.rollout.completion_ids]
        mask = torch.tensor(taught, dtype=torch.bool)
        views = []
        for k, reading in enumerate(own):
            prompts = [(lesson.readings[i] or ())[k].ids for lesson in pupils]
            taught_ND, head = self._read(reading.weights, prompts, completions, model)
            hidden_ND = taught_ND.new_zeros(len(mask), taught_ND.shape[1])
            hidden_ND[mask.to(hidden_ND.device)] = taught_ND
            views.append(View(reading.view.name, hidden_ND, head))
        for weights in shown[len(own) :] if is_sharded(model) else ():
            self._read(weights, [(self.pad_id,)], [()], model)
        return views

    def _read(
        self,
        weights: AnyWeights,
        prompts: Sequence[Ids],
        completions: Sequence[Ids],
        model: nn.Module,
    ) -> tuple[Tensor, Head]:
        # The student's forward brings the Trainer's autocast; a reader beside it needs its own,
        # each a new one: autocast remembers casts by parameter, and keepers swap their values.
        with self.keepers[weights].use(model) as reader, self.autocast():
            return score(reader, prompts, completions, self.pad_id, self.vocab)


def scales_of(
    readings: Sequence[tuple[Reading, ...] | None], device: torch.device
) -> dict[str, Tensor]:
    """The scales of every view [R], by its name; 0 for rollouts that are not taught."""
    named = next(filter(None, readings), ())
    return {
        reading.view.name: torch.tensor([r[k].view.scale if r else 0.0 for r in readings]).to(
            device
        )
        for k, reading in enumerate(named)
    }


def _marked(lesson: Lesson, markup: Tensor) -> Tensor:
    return torch.isin(torch.tensor(lesson.rollout.completion_ids), markup)


def table_of(part: Sequence[Lesson], markup: Tensor, device: torch.device) -> TokenTable:
    """The rows of a pass: every completion token of its lessons, in order; `markup` are ids."""
    lengths = torch.tensor([len(lesson.rollout.completion_ids) for lesson in part])
    # Text that nobody sampled has no sampling log-probability: NaN makes any use of it visible.
    sampled = [
        lesson.rollout.logprobs or (float("nan"),) * len(lesson.rollout.completion_ids)
        for lesson in part
    ]

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device)

    return TokenTable(
        rollout=torch.repeat_interleave(torch.arange(len(part)), lengths).to(device),
        position=torch.cat([torch.arange(int(n)) for n in lengths]).to(device),
        logp_sampler=column([p for row in sampled for p in row]),
        group_R=torch.tensor([lesson.group for lesson in part], device=device),
        reward_R=column([lesson.reward for lesson in part]),
        reward_mean_R=column([lesson.reward_mean for lesson in part]),
        reward_std_R=column([lesson.reward_std for lesson in part]),
        pass_rate_R=column([lesson.pass_rate for lesson in part]),
        markup=torch.cat([_marked(lesson, markup) for lesson in part]).to(device),
    )


def passes(part: Sequence[Lesson], budget: int | None) -> list[list[Lesson]]:
    """Lessons split so that each pass, padded, stays within `budget` tokens of the student's."""
    if budget is None:
        return [list(part)]
    split: list[list[Lesson]] = [[]]
    for lesson in part:
        width = max([lesson.tokens, *(x.tokens for x in split[-1])])
        if split[-1] and width * (len(split[-1]) + 1) > budget:
            split.append([lesson])
        else:
            split[-1].append(lesson)
    return split


def together(plans: Sequence[Sequence[Shown]]) -> list[Shown]:
    """What is to be read in every pass, from what each process would read in its own: as many
    passes as the longest has, the last ones together, and of each the most views."""
    most = max(len(plan) for plan in plans)
    nothing: Shown = [()] * max(len(shown) for plan in plans for shown in plan)
    level = [[nothing] * (most - len(plan)) + list(plan) for plan in plans]
    return [
        [max(of_signal, key=len) for of_signal in zip(*of_pass, strict=True)]
        for of_pass in zip(*level, strict=True)
    ]
