"""Credits and surrogates."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from opsd.objective.credit import (
    BoundedUnlikelihood,
    Clipped,
    Contrast,
    EntropyAdaptive,
    Gated,
    GroupNormalised,
    LogRatio,
    NegativeGate,
    PolicyGradient,
    ReturnToGo,
    Shaped,
)
from opsd.objective.table import TokenTable, of_view
from opsd.objective.terms import ChunkLogProb
from opsd.objective.weighting import TopTokens


def table_of(rewards, groups, lengths, logp_sampler=None, special=None, **statistics) -> TokenTable:
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
        special=torch.zeros(len(rollout), dtype=torch.bool) if special is None else special,
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
        row = ChunkLogProb()(student.detach().clone(), [], torch.tensor([token]))
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


LENGTHS = [5, 1, 8, 3]


def random_table(seed: int = 0, **views: float) -> TokenTable:
    generator = torch.Generator().manual_seed(seed)
    n = sum(LENGTHS)
    columns = {
        name: torch.randn(n, generator=generator)
        for name in ("logp_student", "logp_target", *(of_view(view) for view in views))
    }
    table = table_of([1.0, 0.0, 1.0, 0.0], [0, 0, 1, 1], LENGTHS, **columns)
    scales = {name: torch.full((4,), scale) for name, scale in views.items()}
    return replace(table, scales=scales)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.99, 1.0])
def test_return_to_go_is_the_direct_sum_within_each_rollout(gamma):
    table = random_table()
    rho = (table.column("logp_target") - table.column("logp_student")).double().numpy()
    expected, start = [], 0
    for length in LENGTHS:
        own = rho[start : start + length]
        expected += [
            sum(gamma ** (s - t) * own[s] for s in range(t, length)) for t in range(length)
        ]
        start += length
    np.testing.assert_allclose(ReturnToGo(gamma)(table).numpy(), expected, rtol=1e-5, atol=1e-6)


def test_return_to_go_that_forgets_at_once_is_the_log_ratio():
    assert torch.equal(ReturnToGo(0.0)(random_table()), LogRatio()(random_table()))


def test_shaped_keeps_the_rewards_sign_and_bounds_what_the_teacher_does():
    table = random_table()
    reward = GroupNormalised()(table)
    shaped = Shaped(eps=0.2)(table)
    assert torch.equal(shaped.sign(), reward.sign())
    size = shaped / reward
    assert size.min() >= 0.8 - 1e-6 and size.max() <= 1.2 + 1e-6 and size.std() > 0.05
    torch.testing.assert_close(Shaped(eps=0.0)(table), reward)
    # What the teacher finds likelier is rewarded more, and punished less.
    assert torch.equal((size - 1).sign(), reward.sign() * LogRatio()(table).sign())


def gate(gap: np.ndarray, tau: float) -> np.ndarray:
    return np.log(2) - np.logaddexp(0, -gap * gap / (2 * tau))


@pytest.mark.parametrize("tau", [0.5, 1.0, 4.0])
def test_gated_is_the_gradient_of_the_papers_gate(tau):
    x = np.linspace(-12, 12, 2401)
    # A hair's shift makes the teacher favour the rollout, which is correct.
    columns = {of_view("a"): torch.tensor(x + 1e-9), "logp_student": torch.zeros(2401).double()}
    table = table_of([1.0], [0], [2401], torch.zeros(2401).double(), **columns)
    made = Gated(tau=tau, dead_zone=0.0)(replace(table, scales={"a": torch.ones(1)})).numpy()
    np.testing.assert_allclose(made[5:-5], np.gradient(gate(x, tau), x)[5:-5], atol=2e-4)
    peak = np.abs(made).argmax()
    assert abs(x[peak]) / np.sqrt(tau) == pytest.approx(1.2156, abs=0.02)
    assert np.abs(made).max() * np.sqrt(tau) == pytest.approx(0.39295, abs=1e-3)
    assert gate(x, tau).min() >= 0 and gate(x, tau).max() <= np.log(2)
    assert np.abs(made[[0, -1]]).max() < 1e-3  # outliers do not pass


def test_the_verifier_decides_which_teachers_are_followed_and_which_are_fled():
    gap = torch.tensor([0.4, 0.2, 0.4, 0.2, -0.3, -0.1, 0.06, 0.02])
    table = table_of(
        [1.0, 0.0, 1.0, 0.0],
        [0, 0, 1, 1],
        [2] * 4,
        logp_student=torch.zeros(8),
        **{of_view("a"): gap},
    )
    table = replace(table, scales={"a": torch.full((4,), 0.5)})
    g = gap / (1 + torch.exp(gap * gap / 2))
    # Favours a right one: followed. Favours a wrong one, disfavours a right one: fled.
    signs = torch.tensor([1.0, 1.0, -1.0, -1.0, -1.0, -1.0, 0.0, 0.0])
    torch.testing.assert_close(Gated()(table), 0.5 * signs * g)
    outlier = gap.clone()
    outlier[1] = -100.0
    bounded = Gated()(replace(table, statistics={**table.statistics, of_view("a"): outlier}))
    # Clamped to 3, one outlier turns the teacher's verdict, and has itself no weight.
    assert bounded[1] == 0
    torch.testing.assert_close(bounded[0], -0.5 * g[0])


def test_gated_adds_its_teachers_up_by_their_scales():
    both = random_table(a=0.25, b=0.75)
    alone = [replace(both, scales={name: both.scales[name]}) for name in ("a", "b")]
    torch.testing.assert_close(Gated()(both), sum(Gated()(table) for table in alone))


def f64(tensor: torch.Tensor) -> np.ndarray:
    return tensor.double().numpy()


@pytest.mark.parametrize(("tau", "weight", "least"), [(0.02, 0.5, 0.02), (1.0, 2.0, 0.1)])
def test_contrast_is_the_formula_and_keeps_the_verifiers_sign(tau, weight, least):
    table = random_table(right=1.0, wrong_1=0.25, wrong_2=0.75)
    made = f64(Contrast(tau=tau, weight=weight, least=least)(table))
    right, one, other = (f64(table.view(n)) for n in ("right", "wrong_1", "wrong_2"))
    evidence = right - np.log(0.25 * np.exp(one) + 0.75 * np.exp(other))
    shift = weight * np.tanh(evidence / tau)
    advantage = f64(GroupNormalised()(table))
    moved = advantage + np.where(np.abs(shift) > least, shift, 0)
    expected = np.where(advantage > 0, np.maximum(moved, 0), np.minimum(moved, 0))
    np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-6)
    assert (made * advantage >= 0).all() and np.abs(made - advantage).max() > 0.1
    np.testing.assert_allclose(table.logged["token/contrast"], evidence, rtol=1e-5, atol=1e-6)


def test_contrast_without_weight_or_difference_is_the_rewards_advantage():
    table = random_table(right=1.0, wrong_1=1.0)
    torch.testing.assert_close(Contrast(weight=0.0)(table), GroupNormalised()(table))
    same = replace(table, statistics={**table.statistics, of_view("wrong_1"): table.view("right")})
    torch.testing.assert_close(Contrast()(same), GroupNormalised()(table))


def test_a_group_of_one_outcome_is_moved_by_no_hint():
    table = random_table(right=1.0, wrong_1=1.0)
    alike = replace(table, reward_mean_R=table.reward_R)
    assert torch.equal(Contrast()(alike), torch.zeros(sum(LENGTHS)))


def test_a_hint_of_scale_0_has_no_say():
    both = random_table(right=1.0, wrong_1=1.0, wrong_2=0.0)
    alone = {name: both.scales[name] for name in ("right", "wrong_1")}
    torch.testing.assert_close(Contrast()(both), Contrast()(replace(both, scales=alone)))


def entropies(seed: int = 0) -> TokenTable:
    table = random_table(seed)
    generator = torch.Generator().manual_seed(seed)
    columns = {
        "logp_student": -torch.rand(sum(LENGTHS), generator=generator),
        "entropy_student": torch.rand(sum(LENGTHS), generator=generator),
    }
    return replace(table, statistics=columns)


@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
def test_entropy_adaptive_is_the_formula_on_the_least_likely_tokens(share):
    table = entropies()
    made = EntropyAdaptive(TopTokens(share, "surprisal_student"), -0.5, -1.0)(table)
    columns = [table.column(name).split(LENGTHS) for name in ("logp_student", "entropy_student")]
    for own, logp, entropy in zip(made.split(LENGTHS), *columns, strict=True):
        n = len(logp)
        chosen = np.argsort(f64(logp), kind="stable")[: int(np.ceil(share * n))]
        among = f64(entropy)[chosen]
        rank = (among - among.min()) / np.ptp(among) if np.ptp(among) else np.ones(len(chosen))
        expected = np.zeros(n)
        expected[chosen] = -(0.5 + 0.5 * rank) * n / len(chosen)
        np.testing.assert_allclose(own, expected, rtol=1e-5)


def test_entropy_adaptive_rewards_nothing_and_reads_no_reward():
    table = replace(entropies(), reward_R=torch.full((4,), torch.nan))
    made = EntropyAdaptive()(table)
    assert (made <= 0).all() and (made < 0).any() and made.isfinite().all()
    assert not EntropyAdaptive().needs_reward


def test_the_negative_gate_lets_through_what_the_careless_reader_finds_likelier():
    careless, plain = torch.tensor([0.5, 0.2, 0.9]), torch.tensor([0.4, 0.6, 0.9])
    columns = {of_view("careless"): careless.log(), of_view("own_prompt"): plain.log()}
    table = table_of([torch.nan], [0], [3], **columns)
    torch.testing.assert_close(NegativeGate()(table), torch.tensor([-0.1, 0.0, 0.0]))


def test_bounded_unlikelihood_is_the_sigmoid_of_the_unlikelihood():
    logp = torch.linspace(-8, -1e-6, 50, dtype=torch.float64).requires_grad_()
    gate = torch.linspace(-1, 0, 50, dtype=torch.float64)
    loss = BoundedUnlikelihood()(logp, torch.zeros(50), gate)
    p = logp.detach().exp().numpy()
    size, unlikelihood = -gate.numpy(), -np.log1p(-p)
    np.testing.assert_allclose(loss.detach(), size / (1 + np.exp(-unlikelihood)), rtol=1e-9)
    loss.sum().backward()
    # d/dp 1 / (2 - p) = 1 / (2 - p)^2 <= 1: no gradient explodes, even where p is nearly 1.
    np.testing.assert_allclose(logp.grad, size * p / (2 - p) ** 2, rtol=1e-9)
    assert (logp.grad >= 0).all()  # descent makes the token less likely
