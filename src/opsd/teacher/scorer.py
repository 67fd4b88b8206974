"""The scoring of completions by teachers. Each distinct request runs once per pass; with weights
that do not change, it runs once for as long as the same rollouts are trained on."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from opsd.lm.forward import read_head, score
from opsd.lm.layout import Layout, ModelInput, continued
from opsd.lm.sharding import is_sharded
from opsd.lm.shared_prefix import score_shared, worth_sharing
from opsd.objective.head import Head
from opsd.teacher.copies import TeacherWeights
from opsd.teacher.weights import Weights


class ScoringRequest(NamedTuple):
    """Everything that a teacher's rows depend on, except for the current state of its weights."""

    weights: Weights
    input: ModelInput


Coming = tuple[list[ScoringRequest], Callable[[], list[Tensor]]]
"""Requests that were sent to a server, and the function that waits for their rows."""


class TeacherOutputs(NamedTuple):
    """The teachers' outputs in a pass: each request's rows `[tokens, D]` on a device, and the heads
    that turn them into logits. A server's rows are available after `wait`."""

    rows: dict[ScoringRequest, Tensor]
    heads: dict[Weights, Head]
    coming: list[Coming]
    device: torch.device

    def wait(self) -> None:
        """Wait for the rows that are still in transit."""
        while self.coming:
            requests, receive = self.coming.pop()
            own = (rows.to(self.device) for rows in receive())
            self.rows.update(zip(requests, own, strict=True))


@dataclass
class ScoringPlan:
    """What to score in a pass: batches of requests by their weights; the requests whose rows are
    already `remembered`; `forwards`, the forward passes per weights (by index) on the process that
    needs most; and what is `coming` from servers."""

    batches: dict[Weights, list[list[ScoringRequest]]] = field(default_factory=dict)
    remembered: list[ScoringRequest] = field(default_factory=list)
    forwards: dict[int, int] = field(default_factory=dict)
    coming: dict[Weights, Coming] = field(default_factory=dict)


@dataclass
class TeacherScorer:
    """The teachers, by their weights. `sharing` are those whose architecture lets several
    completions share one forward pass over their prompt. `layouts` say how each one's sequences are
    laid out.

    Rows of `lasting` weights are kept from `remember` until `forget`: `[tokens, D]` for every
    taught rollout and view of a step, in the model's compute dtype, in host memory. For 32 rollouts
    of 2,048 tokens and D = 4,096 in bfloat16 that is 0.5 GiB per view.
    """

    weights: Mapping[Weights, TeacherWeights]
    vocab: int
    pad_id: int
    layouts: Mapping[Weights, Layout]
    sharing: frozenset[Weights] = frozenset()
    lasting: frozenset[Weights] = frozenset()
    autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    remembered: dict[ScoringRequest, Tensor] = field(default_factory=dict)

    def remember(self, outputs: TeacherOutputs) -> None:
        """Keep rows, as the same rollouts may be trained on again."""
        for request, rows in outputs.rows.items():
            if request.weights in self.lasting and request not in self.remembered:
                self.remembered[request] = rows.cpu()

    def forget(self) -> None:
        """Drop the kept rows, as their rollouts are no longer needed."""
        self.remembered.clear()

    def plan(self, requests: Iterable[ScoringRequest], size: int) -> ScoringPlan:
        """Plan how to score the requests that were not scored before, at most `size` at a time."""
        asked = list(dict.fromkeys(requests))
        plan = ScoringPlan(remembered=[request for request in asked if request in self.remembered])
        for weights in dict.fromkeys(request.weights for request in asked):
            fresh = [t for t in asked if t.weights == weights and t not in self.remembered]
            if len(fresh) > size:  # group equal prompts, and prompts of equal length
                fresh.sort(key=_by_prompt)
            plan.batches[weights] = [fresh[i : i + size] for i in range(0, len(fresh), size)]
            plan.forwards[self._number(weights)] = sum(map(self._passes, plan.batches[weights]))
        return plan

    def read(self, plan: ScoringPlan, model: nn.Module) -> TeacherOutputs:
        """Run the planned forward passes, and add the rows that are kept.

        All processes gather a sharded model's layers together: if others need more forward passes,
        this process runs empty ones. Rows of servers may still be in transit.
        """
        device = next(model.parameters()).device
        self.ask(plan)
        kept = {request: self.remembered[request].to(device) for request in plan.remembered}
        outputs = TeacherOutputs(kept, {}, list(plan.coming.values()), device)
        plan.coming.clear()  # the outputs keep the rows only as long as they are needed
        for number, (weights, own) in enumerate(self.weights.items()):
            if own.remote is not None:
                outputs.heads[weights] = own.remote.head(device)
            elif number in plan.forwards and (is_sharded(model) or weights in plan.batches):
                # The student's forward pass runs under the Trainer's autocast. A teacher needs a
                # new one: autocast caches casts per parameter, and the weights are swapped.
                with own.use(model) as reader, self.autocast():
                    self._read(plan, weights, reader, outputs)
        return outputs

    def ask(self, plan: ScoringPlan) -> None:
        """Send servers their part of a plan, once, so that they score while this process
        computes."""
        for weights, batches in plan.batches.items():
            remote = self.weights[weights].remote
            if remote is not None and batches and weights not in plan.coming:
                requests = [request for batch in batches for request in batch]
                inputs = [request.input for request in requests]
                plan.coming[weights] = requests, remote.ask(inputs)

    def _read(
        self, plan: ScoringPlan, weights: Weights, reader: nn.Module, outputs: TeacherOutputs
    ) -> None:
        batches = plan.batches.get(weights, [])
        for batch in batches:
            inputs = [request.input for request in batch]
            known = (reader, inputs, self.pad_id, self.vocab)
            shares = self._passes(batch) > 1
            rows_ND, head = score_shared(*known) if shares else score(*known, self.layouts[weights])
            read = zip(batch, rows_ND.split([len(x.read) for x in inputs]), strict=True)
            outputs.rows.update(read)
            outputs.heads[weights] = head
        idle = plan.forwards[self._number(weights)] - sum(map(self._passes, batches))
        for _ in range(idle if is_sharded(reader) else 0):
            nothing = [continued((self.pad_id,), ())]
            _, outputs.heads[weights] = score(reader, nothing, self.pad_id, self.vocab)
        if weights not in outputs.heads:
            outputs.heads[weights] = read_head(reader, self.vocab)

    def _number(self, weights: Weights) -> int:
        """The index of weights among all, by which processes refer to them."""
        return list(self.weights).index(weights)

    def _passes(self, batch: Sequence[ScoringRequest]) -> int:
        """The number of forward passes that a batch takes."""
        weights = batch[0].weights
        if weights not in self.sharing:
            return 1
        return 1 + worth_sharing([request.input for request in batch], self.layouts[weights])


def _by_prompt(request: ScoringRequest) -> tuple[int, tuple[int, ...], int]:
    prompt = request.input.prompt
    return len(prompt), prompt, len(request.input.read)


def together(
    own: Sequence[ScoringPlan], gather: Callable[[list[Any]], list[Any]]
) -> list[ScoringPlan]:
    """The plans of this process's passes, synchronised with all other processes: padded at the
    front to the largest number of passes, and with the largest number of forward passes for each
    one."""
    everyone = gather([[plan.forwards for plan in own]])
    most = max(map(len, everyone))
    level = [[{}] * (most - len(forwards)) + forwards for forwards in everyone]
    plans = [*(ScoringPlan() for _ in range(most - len(own))), *own]
    for plan, of_pass in zip(plans, zip(*level, strict=True), strict=True):
        every = dict.fromkeys(itertools.chain(*of_pass))
        plan.forwards = {w: max(forwards.get(w, 0) for forwards in of_pass) for w in every}
    return plans
