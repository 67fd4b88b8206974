"""What a method's teachers read: in a pass each distinct text once, and rows of weights that stand
still once for as long as the same rollouts are learned from."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn

from opsd.lm.forward import lent_head, score
from opsd.lm.layout import Layout
from opsd.lm.sharding import is_sharded
from opsd.lm.shared_prefix import score_shared, worth_sharing
from opsd.objective.head import Head
from opsd.teacher.copies import TeacherWeights
from opsd.teacher.weights import AnyWeights


class TeacherOutputs(NamedTuple):
    """What was read in a pass: each text's rows `[tokens, D]`, and the heads that read them."""

    rows: dict[Text, Tensor]
    heads: dict[AnyWeights, Head]


@dataclass
class Plan:
    """What is to be read in a pass: batches of texts by the weights that read them, those of them
    that are `kept` already, and the forward passes that the others take on the process where they
    take most."""

    batches: dict[AnyWeights, list[list[Text]]] = field(default_factory=dict)
    kept: list[Text] = field(default_factory=list)
    forwards: dict[AnyWeights, int] = field(default_factory=dict)


@dataclass
class TeacherScorer:
    """The teachers, by their weights. `forking` are those whose architecture lets completions go on
    from one reading of their prompt; `layouts` say how each one's sequences are laid out.

    Rows of `lasting` weights that it is to `remember` are kept until it is to `forget` them:
    `[tokens, D]` for every taught rollout and view of a step, in the type that the model computes
    in, in the host's memory. For 32 rollouts of 2,048 tokens and D = 4,096 in bfloat16 that is
    0.5 GiB per view.
    """

    keepers: Mapping[AnyWeights, TeacherWeights]
    vocab: int
    pad_id: int
    layouts: Mapping[AnyWeights, Layout]
    forking: frozenset[AnyWeights] = frozenset()
    lasting: frozenset[AnyWeights] = frozenset()
    autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    kept: dict[Text, Tensor] = field(default_factory=dict)

    def remember(self, pages: TeacherOutputs) -> None:
        """The same rollouts may be learned from once more."""
        for text, rows in pages.rows.items():
            if text.weights in self.lasting and text not in self.kept:
                self.kept[text] = rows.cpu()

    def forget(self) -> None:
        """The rollouts are spent."""
        self.kept.clear()

    def plan(self, texts: Iterable[Text], size: int) -> Plan:
        """How to read those of the texts that were not read before, at most `size` at a time."""
        asked = list(dict.fromkeys(texts))
        plan = Plan(kept=[text for text in asked if text in self.kept])
        for weights in dict.fromkeys(text.weights for text in asked):
            fresh = [t for t in asked if t.weights == weights and t not in self.kept]
            if len(fresh) > size:  # prompts of a length, and the same ones, together
                fresh.sort(key=lambda t: (len(t.prompt), t.prompt, len(t.completion)))
            plan.batches[weights] = [fresh[i : i + size] for i in range(0, len(fresh), size)]
            plan.forwards[weights] = sum(map(self._forwards, plan.batches[weights]))
        return plan

    def read(self, plan: Plan, model: nn.Module) -> TeacherOutputs:
        """Reads what is planned, and takes what is kept.

        A sharded model's layers are gathered by all processes together: where others read more,
        nothing is read as often as it takes.
        """
        device = next(model.parameters()).device
        pages = TeacherOutputs({text: self.kept[text].to(device) for text in plan.kept}, {})
        for weights, keeper in self.keepers.items():
            if weights in (plan.forwards if is_sharded(model) else plan.batches):
                # The student's forward brings the Trainer's autocast; a reader beside it needs its
                # own, a new one: autocast remembers casts by parameter, and keepers swap values.
                with keeper.use(model) as reader, self.autocast():
                    self._read(plan, weights, reader, pages)
        return pages

    def _read(
        self, plan: Plan, weights: AnyWeights, reader: nn.Module, pages: TeacherOutputs
    ) -> None:
        batches = plan.batches.get(weights, [])
        for batch in batches:
            prompts, completions = [t.prompt for t in batch], [t.completion for t in batch]
            known = (reader, prompts, completions, self.pad_id, self.vocab)
            forks = self._forwards(batch) > 1
            rows_ND, head = score_shared(*known) if forks else score(*known, self.layouts[weights])
            read = zip(batch, rows_ND.split([len(c) for c in completions]), strict=True)
            pages.rows.update(read)
            pages.heads[weights] = head
        idle = plan.forwards[weights] - sum(map(self._forwards, batches))
        for _ in range(idle if is_sharded(reader) else 0):
            _, pages.heads[weights] = score(reader, [(self.pad_id,)], [()], self.pad_id, self.vocab)
        if weights not in pages.heads:
            pages.heads[weights] = lent_head(reader, self.vocab)

    def _forwards(self, batch: Sequence[Text]) -> int:
        """How many forward passes a batch takes."""
        weights = batch[0].weights
        if weights not in self.forking:
            return 1
        prompts, completions = [t.prompt for t in batch], [t.completion for t in batch]
        return 1 + worth_sharing(prompts, completions, self.layouts[weights])


def together(own: Sequence[Plan], gather: Callable[[list[Any]], list[Any]]) -> list[Plan]:
    """The plans of this process's passes, brought into step with all others': as many passes as the
    longest has, the last ones together, and of each the most forward passes."""
    everyone = gather([[plan.forwards for plan in own]])
    most = max(map(len, everyone))
    level = [[{}] * (most - len(forwards)) + forwards for forwards in everyone]
    plans = [*(Plan() for _ in range(most - len(own))), *own]
    for plan, of_pass in zip(plans, zip(*level, strict=True), strict=True):
        every = dict.fromkeys(itertools.chain(*of_pass))
        plan.forwards = {w: max(forwards.get(w, 0) for forwards in of_pass) for w in every}
    return plans


class Text(NamedTuple):
    """All that a teacher's rows depend on, but for what the weights are by now."""

    weights: AnyWeights
    prompt: tuple[int, ...]
    completion: tuple[int, ...]
