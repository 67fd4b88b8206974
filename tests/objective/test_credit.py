"""Credits and surrogates."""

import pytest
import torch

from opsd.objective.credit import Clipped, GroupNormalised, LogRatio, PolicyGradient
from opsd.objective.table import TokenTable
from opsd.objective.terms import SampledTerm


def table_of(rewards, groups, lengths, logp_sampler=None, **statistics) -> TokenTable:
    """A table as a step makes it: group means and deviations by the textbook."""
    reward, group = torch.tensor(rewards), torch.tensor(groups)
    of = [reward[group == g] for g in groups]
    rollout = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    return TokenTable(
        rollout=rollout,
        position=torch.cat([torch.arange(n) for n in lengths]),
        logp_sampler=torch.zeros(len(rollout)) if logp_sampler is None else logp_sampler,
        reward_R=reward,
        group_R=group,
        reward_mean_R=torch.stack([x.mean() for x in of]),
        reward_std_R=torch.stack([x.std() if len(x) > 1 else torch.zeros(()) for x in of]),
        pass_rate_R=torch.stack([(x > 0).float().mean() for x in of]),
        statistics=statistics,
    )


def test_group_normalised():
    table = table_of([1.0, 0.0, 0.0, 1.0, 1.0], [0, 0, 0, 1, 1], [2, 1, 3, 1, 2])
    advantage = GroupNormalised()(table)
    std = (2 / 9 * 3 / 2) ** 0.5
    expected = [(2 / 3) / (std + 1e-4)] * 2 + [(-1 / 3) / (std + 1e-4)] * 4 + [0.0] * 3
    torch.testing.assert_close(advantage, torch.tensor(expected))
    plain = GroupNormalised(scale="none")(table)
    torch.testing.assert_close(plain, torch.tensor([2 / 3] * 2 + [-1 / 3] * 4 + [0.0] * 3))


def test_log_ratio_reads_what_the_term_saw():
    logp = torch.randn(3, generator=torch.Generator().manual_seed(0))
    table = table_of([0.0], [0], [3], logp_student=logp, logp_target=logp - 0.5)
    torch.testing.assert_close(LogRatio()(table), torch.full((3,), -0.5))
    with pytest.raises(ValueError, match="records no 'logp_target' \\(it records: logp_student\\)"):
        LogRatio()(table_of([0.0], [0], [3], logp_student=logp))


def test_log_ratio_points_down_the_reverse_kl():
    """In expectation over the student's tokens, -A grad log p is the reverse KL's gradient."""
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(1, 9, generator=generator, dtype=torch.float64).requires_grad_()
    target = torch.randn(1, 9, generator=generator, dtype=torch.float64).log_softmax(-1)
    logp = student.log_softmax(-1)
    (logp.exp() * (logp - target)).sum().backward()
    p = student.detach().softmax(-1)
    expected = torch.zeros(1, 9, dtype=torch.float64)
    for token in range(9):
        row = SampledTerm()(student.detach().clone(), [], torch.tensor([token]))
        advantage = target[0, token] - row.value
        expected += p[0, token] * PolicyGradient()(row.gradient, torch.zeros(()), advantage)
    torch.testing.assert_close(expected, student.grad)


def test_clipped_is_pessimistic_and_flat_outside():
    logp = torch.tensor([0.5, 0.5, -0.5, -0.5, 0.05]).requires_grad_()
    advantage = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0])
    loss = Clipped(low=0.2, high=0.3)(logp, torch.zeros(5), advantage)
    ratio = logp.detach().exp()
    expected = [-1.3, ratio[1], -ratio[2], 0.8, -ratio[4]]
    torch.testing.assert_close(loss.detach(), torch.tensor(expected))
    loss.sum().backward()
    expected = torch.tensor([0.0, ratio[1], -ratio[2], 0.0, -ratio[4]])
    torch.testing.assert_close(logp.grad, expected)


def test_at_the_sampling_policy_clipped_is_the_policy_gradient():
    logp = torch.randn(6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    advantage = torch.linspace(-1, 1, 6)
    gradients = [
        torch.autograd.grad(surrogate(logp, logp.detach(), advantage).sum(), logp)[0]
        for surrogate in (Clipped(), PolicyGradient())
    ]
    torch.testing.assert_close(*gradients)
