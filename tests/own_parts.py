"""Parts of somebody's own, as a module beside a recipe has them: none of them is known to the
package, and each says only what it must."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from opsd.objective.credit import Credit
from opsd.objective.table import TokenTable
from opsd.objective.targets import Target, TargetLogits, log_pool
from opsd.objective.weighting import Weighting
from opsd.parts import part
from opsd.prompts.contexts import Context, Draw, is_right
from opsd.prompts.prompt import view
from opsd.rollout.engine import Completion, Engine, EngineChoice, EngineSetup, Sampling
from opsd.rollout.engines import HF
from opsd.types import Group, View


@part
class Sharper(Target):
    """The teacher's distribution to a power."""

    power: float = 1.5

    def __call__(self, views: Sequence[Tensor], student: Tensor) -> TargetLogits:
        logp = log_pool([(views[0], self.power)])
        return TargetLogits(logp, {"surest": logp.amax(-1).exp()})


@part
class RandomSibling(Context):
    """A random right rollout of the group, never the one that is read; none where none is right."""

    needs_reward = True

    def __call__(self, group: Group, i: int, draw: Draw = Draw()) -> tuple[View, ...] | None:
        right = [r for k, r in enumerate(group.rollouts) if k != i and is_right(r)]
        if not right:
            return None
        told = random.Random(draw.seed).choice(right).text
        return (view("sibling", group.problem, "demonstration", demonstration=told),)


class EitherTeacher(Credit):
    """The first view's log-ratio for right rollouts, the second one's for wrong ones. No dataclass:
    it has nothing to be told."""

    needs_reward = True
    reads_views = True

    def __call__(self, table: TokenTable) -> Tensor:
        one, other = (table.view(name) - table.column("logp_student") for name in table.scales)
        table.log("views_apart", (one - other).abs())
        return torch.where(table.reward_R[table.rollout] > 0, one, other)


def hellinger(student_logp: Tensor, target_logp: Tensor) -> Tensor:
    """The squared Hellinger distance; its value alone."""
    return 1 - torch.exp((student_logp + target_logp) / 2).sum(-1)


@part
class Hesitant(Weighting):
    """Counts tokens by how undecided the student is."""

    share: float = 1.0

    def __call__(self, table: TokenTable) -> Tensor:
        weight = 1 + self.share * table.column("entropy_student")
        table.log("hesitation", weight)
        return weight


class Recorder(Engine):
    """The model itself, which counts the tokens of prompts that it is asked with."""

    def __init__(self, inner: Engine) -> None:
        self.inner, self.asked = inner, 0

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        seeds: Sequence[int],
        progress: Any = None,
    ) -> list[Completion]:
        self.asked += sum(map(len, prompts))
        return self.inner.generate(prompts, sampling, seeds, progress)

    def sync(self, model: Any) -> None:
        self.inner.sync(model)


@part
class Recording(EngineChoice):
    """Starts a `Recorder`."""

    def start(self, setup: EngineSetup) -> Engine:
        return Recorder(HF().start(setup))


class Plain(Target):
    """The teacher's distribution; no dataclass."""

    def __init__(self, power: float = 1.0) -> None:
        self.power = power

    def __call__(self, views: Sequence[Tensor], student: Tensor) -> TargetLogits:
        return TargetLogits(views[0])


PLAIN = Plain(2.0)


class Broken(Plain):
    """Fails when it is made."""

    def __init__(self) -> None:
        raise RuntimeError("on purpose")


class TooFew(Context):
    """A context as nobody calls it."""

    def __call__(self, group: Group, i: int) -> tuple[View, ...] | None:  # type: ignore[override]
        return None
