"""The reducer: denominators, micro-batches, and GRPO's loss as TRL computes it."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from tests.peers import GRPOTrainer
from torch.nn.functional import log_softmax

from opsd.methods.signals import Advantage, Distill, Likelihood, Sum, Teacher, loss_terms
from opsd.objective.credit import GroupNormalised
from opsd.objective.divergences import forward_kl, jsd, pointwise_clip, reverse_kl
from opsd.objective.head import Head, TeacherHidden
from opsd.objective.table import TokenTable
from opsd.objective.total import Reduction, TermInputs, count_term, total
from opsd.objective.weighting import ClipTokens, ImportanceWeight, SkipFirst, SkipSpecialTokens
from opsd.prompts.contexts import Solution

HIDDEN, VOCAB, LIMIT = 12, 40, 9
LENGTHS, GROUPS = [5, 2, 7, 1, 4, 3], [0, 0, 0, 1, 1, 2]
PLAIN = [(torch.arange(n), torch.zeros(n, dtype=torch.bool)) for n in LENGTHS]
REWARDS = [1.0, 0.0, 0.5, 1.0, 0.0, 1.0]
TEACHER = Teacher(Solution())


class Step:
    """Six rollouts of a step: hidden states of both sides, tokens, sampling log-probabilities."""

    def __init__(self, trained: bool = False, dtype: torch.dtype = torch.float32) -> None:
        generator = torch.Generator().manual_seed(0)
        n = sum(LENGTHS)
        self.student = torch.randn(n, HIDDEN, generator=generator).to(dtype)
        self.teacher = self.student + 0.3 * torch.randn(n, HIDDEN, generator=generator).to(dtype)
        self.weight = torch.randn(VOCAB, HIDDEN, generator=generator).to(dtype)
        self.weight.requires_grad_(trained)
        self.tokens = torch.randint(VOCAB, (n,), generator=generator)
        drift = 0.3 * torch.randn(n, generator=generator)
        self.sampler = self.logp(self.student).gather(-1, self.tokens[:, None])[:, 0] + drift
        self.starts = [sum(LENGTHS[:i]) for i in range(len(LENGTHS) + 1)]

    def logp(self, hidden: torch.Tensor) -> torch.Tensor:
        return log_softmax(hidden @ self.weight.detach().t(), -1)

    def rows(self, rollouts: list[int]) -> torch.Tensor:
        parts = [torch.arange(self.starts[i], self.starts[i + 1]) for i in rollouts]
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.long)

    def table(self, rollouts: list[int]) -> TokenTable:
        rewards, groups = torch.tensor(REWARDS), torch.tensor(GROUPS)
        of = [rewards[groups == g] for g in GROUPS]
        lengths = torch.tensor([LENGTHS[i] for i in rollouts], dtype=torch.long)
        own = torch.tensor(rollouts, dtype=torch.long)
        return TokenTable(
            rollout=torch.repeat_interleave(torch.arange(len(rollouts)), lengths),
            position=torch.cat([torch.arange(n) for n in lengths.tolist()]),
            logp_sampler=self.sampler[self.rows(rollouts)],
            reward_R=rewards[own],
            group_R=groups[own],
            reward_mean_R=torch.stack([x.mean() for x in of])[own],
            reward_std_R=torch.stack([x.std() if len(x) > 1 else x[0] * 0 for x in of])[own],
            pass_rate_R=torch.zeros(len(rollouts)),
            special=torch.zeros(int(lengths.sum()), dtype=torch.bool),
        )

    def learn(self, signal, taught, batches, temperature=1.0):
        """The loss and its gradients over the micro-batches given as lists of rollouts."""
        student = self.student.clone().requires_grad_()
        head, loss = Head(self.weight), torch.zeros(())
        self.weight.grad = None
        tallies = [
            count_term(leaf, PLAIN, GROUPS, t, LIMIT)
            for (_, leaf), t in zip(loss_terms(signal), taught, strict=True)
        ]
        for rollouts in batches:
            at = self.rows(rollouts)
            inputs = []
            for (coefficient, leaf), t, counted in zip(
                loss_terms(signal), taught, tallies, strict=True
            ):
                inside = torch.tensor([t[i] for i in rollouts])
                view = TeacherHidden("teacher", self.teacher[at], Head(self.weight.detach()))
                factor = counted.factor_R[rollouts] / max(counted.count, 1.0)
                views = (view,) if leaf.teacher is not None and inside.any() else ()
                inputs.append(TermInputs(coefficient, leaf, views, inside, factor, temperature))
            part, seen = total(
                student[at], head, self.tokens[at], self.table(rollouts), inputs, chunk_rows=4
            )
            assert len(seen) == len(inputs)
            part.backward()
            loss = loss + part.detach()
        return loss, student.grad, self.weight.grad


EVERYONE = [True] * 6
SOME = [True, False, True, True, False, False]
REDUCTIONS = [
    Reduction(unit=unit, over=over)
    for unit in ("token", "sequence", "group", "constant")
    for over in ("taught", "all")
]


def by_hand(step: Step, reduction: Reduction, taught: list[bool], skip: int) -> torch.Tensor:
    """Forward KL under a reduction, one token and one rollout at a time."""
    divergence = forward_kl(step.logp(step.student.double()), step.logp(step.teacher.double()))
    sums, kept = [], []
    for i, n in enumerate(LENGTHS):
        losses = divergence[step.rows([i])][skip:] if taught[i] else torch.zeros(1)
        sums.append(losses.sum().item())
        counts = max(0, n - skip)
        kept.append(counts if taught[i] or reduction.over == "all" else 0)
    if reduction.unit == "token":
        return torch.tensor(sum(sums) / sum(kept))
    if reduction.unit == "sequence":
        means = [s / n for s, n in zip(sums, kept, strict=True) if n]
        return torch.tensor(sum(means) / len(means))
    if reduction.unit == "constant":
        return torch.tensor(sum(sums) / LIMIT / sum(n > 0 for n in kept))
    means = []
    for group in range(3):
        members = [i for i, g in enumerate(GROUPS) if g == group]
        if sum(kept[i] for i in members):
            # A group's mean is over what is taught of it; one that is only counted has a mean of 0.
            tokens = sum(kept[i] for i in members if taught[i])
            means.append(sum(sums[i] for i in members) / max(1, tokens))
    return torch.tensor(sum(means) / len(means))


@pytest.mark.parametrize("skip", [0, 2])
@pytest.mark.parametrize("taught", [EVERYONE, SOME], ids=["everyone", "some"])
@pytest.mark.parametrize("reduction", REDUCTIONS, ids=lambda r: f"{r.unit}-{r.over}")
def test_reductions_by_hand(reduction, taught, skip):
    weighting = (SkipFirst(skip),) if skip else ()
    signal = Distill(TEACHER, forward_kl, weighting, reduction)
    step = Step(dtype=torch.float64)
    loss, _, _ = Step().learn(signal, [taught], [list(range(6))])
    torch.testing.assert_close(
        loss.double(), by_hand(step, reduction, taught, skip).double(), rtol=1e-5, atol=1e-8
    )


SIGNALS = {
    "distill": Distill(TEACHER, pointwise_clip(forward_kl, 0.05)),
    "distill, weighted": Distill(
        TEACHER, jsd(0.5), (SkipFirst(1), ClipTokens(0.1), ImportanceWeight(1.1))
    ),
    "likelihood": Likelihood(reduction=Reduction(unit="sequence")),
    "advantage": Advantage(reduction=Reduction(unit="group", over="all")),
    "sum": Sum(
        (
            (1.0, Advantage(reduction=Reduction(unit="constant"))),
            (0.3, Distill(TEACHER, reverse_kl, reduction=Reduction(unit="sequence"))),
        )
    ),
}


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("name", SIGNALS)
def test_micro_batches_change_nothing(name, trained):
    signal, step = SIGNALS[name], Step(trained)
    taught = [EVERYONE, SOME][: len(loss_terms(signal))]
    whole, by_student, by_weight = step.learn(signal, taught, [list(range(6))])
    for batches in ([[0, 1, 2, 3], [4, 5]], [[3], [0, 5], [1, 2, 4]], [[i] for i in range(6)]):
        loss, in_parts, weight_in_parts = step.learn(signal, taught, batches)
        torch.testing.assert_close(loss, whole, rtol=1e-5, atol=1e-7)
        assert (in_parts - by_student).abs().max() <= 5e-6 * by_student.abs().max()
        if trained:
            assert (weight_in_parts - by_weight).abs().max() <= 1e-5 * by_weight.abs().max()


def test_distill_and_likelihood_gradients_by_autograd():
    step = Step(trained=True)
    taught = [[True, False, True, True, False, True], EVERYONE]
    signal = Sum(((0.7, Distill(TEACHER, jsd(0.3))), (0.2, Likelihood())))
    loss, by_student, by_weight = step.learn(signal, taught, [list(range(6))], 1.1)
    student = step.student.double().requires_grad_()
    weight = step.weight.detach().double().requires_grad_()
    logp = log_softmax(student @ weight.t() / 1.1, -1)
    target = log_softmax(step.teacher.double() @ weight.detach().t() / 1.1, -1)
    inside = step.rows([0, 2, 3, 5])
    nll = -logp.gather(-1, step.tokens[:, None]).mean()
    true = 0.7 * jsd(0.3)(logp, target)[inside].mean() + 0.2 * nll
    true.backward()
    torch.testing.assert_close(loss.double(), true.detach(), rtol=1e-5, atol=1e-9)
    assert (by_student - student.grad).abs().max() <= 1e-5 * student.grad.abs().max()
    assert (by_weight - weight.grad).abs().max() <= 1e-5 * weight.grad.abs().max()


def test_importance_weights_have_no_gradient():
    step = Step()
    weighted = Distill(TEACHER, forward_kl, (ImportanceWeight(1.2),))
    loss, by_student, _ = step.learn(weighted, [EVERYONE], [list(range(6))])
    student = step.student.clone().requires_grad_()
    logp = log_softmax(student @ step.weight.t(), -1)
    ratio = (logp.gather(-1, step.tokens[:, None])[:, 0] - step.sampler).exp().clamp(max=1.2)
    true = (ratio.detach() * forward_kl(logp, step.logp(step.teacher))).mean()
    true.backward()
    torch.testing.assert_close(loss, true.detach(), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(by_student, student.grad, rtol=1e-4, atol=1e-7)


def test_what_lies_outside_a_signal_may_be_anything():
    step = Step()
    signal = Distill(TEACHER, forward_kl, (ImportanceWeight(),))
    clean, gradient, _ = step.learn(signal, [SOME], [list(range(6))])
    step.sampler[step.rows([1])] = float("nan")
    step.sampler[step.rows([4])] = -float("inf")
    loss, other, _ = step.learn(signal, [SOME], [list(range(6))])
    assert torch.equal(loss, clean) and torch.equal(other, gradient)
    assert not other[step.rows([1, 4, 5])].any()


def test_a_signal_that_teaches_nothing_costs_nothing():
    step = Step(trained=True)
    only, both = SIGNALS["sum"].terms[0][1], SIGNALS["sum"]
    nobody = [False] * 6
    alone = step.learn(only, [EVERYONE], [list(range(6))])
    for a, b in zip(alone, step.learn(both, [EVERYONE, nobody], [list(range(6))]), strict=True):
        torch.testing.assert_close(a, b)
    loss, by_student, _ = step.learn(both, [nobody, nobody], [list(range(6))])
    assert loss == 0 and not by_student.any()


def test_a_step_counts_all_its_tokens_before_any_gradient():
    leaf = Distill(TEACHER, weighting=(SkipFirst(2),))
    counted = count_term(leaf, PLAIN, GROUPS, SOME, LIMIT)
    assert counted.count == 3 + 5 and counted.factor_R.tolist() == [1, 0, 1, 0, 0, 0]
    empty = count_term(leaf, [], [], [], LIMIT)
    assert empty.count == 0 and empty.factor_R.shape == (0,)


def test_special_tokens_are_counted_only_where_they_are_taught():
    marked = [(torch.arange(n), torch.arange(n) % 2 == 0) for n in LENGTHS]
    without = count_term(
        Distill(TEACHER, weighting=(SkipSpecialTokens(),)), marked, GROUPS, SOME, LIMIT
    )
    plain = count_term(Distill(TEACHER), marked, GROUPS, SOME, LIMIT)
    taught = [n for n, yes in zip(LENGTHS, SOME, strict=True) if yes]
    assert without.count == sum(n // 2 for n in taught) and plain.count == sum(taught)


def trl_grpo(loss_type: str, logp_BT, sampler_BT, mask_BT, advantages_B):
    """TRL's own loss from per-token log-probabilities, its model left out."""
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *a, **k: (
            logp_BT,
            torch.zeros_like(logp_BT),
            None,
        ),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        beta=0.0,
        loss_type=loss_type,
        epsilon_low=0.2,
        epsilon_high=0.28,
        use_vllm=False,
        max_completion_length=LIMIT,
        current_gradient_accumulation_steps=1,
        _entropy_bonus_enabled=False,
        model=SimpleNamespace(training=True),
        accelerator=Accelerator(cpu=True),
        args=SimpleNamespace(delta=None, steps_per_generation=1),
        _metrics={"train": _Anything()},
    )
    ids = torch.zeros_like(mask_BT, dtype=torch.long)
    inputs = {
        "prompt_ids": ids[:, :1],
        "prompt_mask": ids[:, :1] + 1,
        "completion_ids": ids,
        "completion_mask": mask_BT,
        "advantages": advantages_B,
        "old_per_token_logps": sampler_BT,
        "num_items_in_batch": mask_BT.sum(),
    }
    return GRPOTrainer._compute_loss(trainer, None, inputs)


class _Anything(dict):
    def __missing__(self, key):
        return self.setdefault(key, [])


@pytest.mark.parametrize("batches", [[[0, 1, 2, 3, 4, 5]], [[0, 3], [1, 2, 4], [5]]], ids=len)
@pytest.mark.parametrize(
    ("loss_type", "unit"), [("grpo", "sequence"), ("dapo", "token"), ("dr_grpo", "constant")]
)
def test_grpo_equals_trl(loss_type, unit, batches):
    scale = "none" if loss_type == "dr_grpo" else "group"
    step = Step()
    credit = GroupNormalised(scale=scale)
    signal = Advantage(credit, reduction=Reduction(unit=unit))
    signal = replace(signal, surrogate=replace(signal.surrogate, high=0.28))
    loss, by_student, _ = step.learn(signal, [EVERYONE], batches)

    student = step.student.clone().requires_grad_()
    logp = log_softmax(student @ step.weight.t(), -1).gather(-1, step.tokens[:, None])[:, 0]
    table = step.table(list(range(6)))
    mask = torch.zeros(6, max(LENGTHS))
    mask[table.rollout, table.position] = 1.0
    wide = torch.zeros_like(mask).index_put((table.rollout, table.position), logp)
    sampler = torch.zeros_like(mask).index_put((table.rollout, table.position), step.sampler)
    reward = table.reward_R - table.reward_mean_R
    advantages = reward / (table.reward_std_R + 1e-4) if scale == "group" else reward
    theirs = trl_grpo(loss_type, wide, sampler, mask, advantages)
    theirs.backward()
    torch.testing.assert_close(loss, theirs.detach(), rtol=1e-5, atol=1e-7)
    assert (by_student - student.grad).abs().max() <= 1e-5 * student.grad.abs().max()
