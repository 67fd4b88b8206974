"""The losses of diffusion methods against float64 NumPy, state by state of what was recorded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.arrange import config, gap, metrics, odd_length, problems, weights_of

from opsd import methods
from opsd.lm.loading import load_model
from opsd.methods.method import Method
from opsd.methods.signals import Distill, Teacher
from opsd.objective.divergences import forward_kl, reverse_kl
from opsd.objective.support import Full
from opsd.prompts.contexts import LaterState, Solution, Suffix
from opsd.rollout.engine import Decoding
from opsd.rollout.sources import Denoise, OnPolicy
from opsd.teacher.weights import Live
from opsd.training.trainer import OPSDTrainer
from opsd.types import Verdict

MASK = 983
BY_FOUR = Decoding(block_length=4, tokens_per_step=2)
SIZE = 16


@pytest.fixture
def both_ways(diffusion_folder: Path) -> Path:
    return diffusion_folder


def all_of(reward: float):
    return lambda problem, completion: Verdict(reward, reward > 0, True)


def trainer_of(folder: Path, out: Path, method: Method, verifier, **changes) -> OPSDTrainer:
    own = {
        "per_device_train_batch_size": 2 * method.source.group,
        "max_completion_length": SIZE,
        "temperature": 0.9,
        "max_steps": 1,
        "logging_steps": 1,
        "rollout_log_steps": 1,
        "trace_steps": 1,
        "learning_rate": 0.01,
    }
    return OPSDTrainer(
        str(folder), method, config(out, **own | changes), problems(8), verifier=verifier
    )


def first_loss(trainer: OPSDTrainer) -> tuple[float, list]:
    """The first step's loss, and the examples that it is of."""
    seen: list = []
    gather = trainer.training_step

    def kept(model, inputs, count=None):
        seen.extend(inputs)
        return gather(model, inputs, count)

    trainer.training_step = kept
    trainer.train()
    return trainer.state.log_history[0]["loss"], seen


def logp(model, ids, vocab: int, temperature: float) -> np.ndarray:
    """Log-probabilities [T, V] of a sequence read alone, with everything visible."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([list(ids)])).logits[0, :, :vocab]
    z = logits.double().numpy() / temperature
    z -= z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def shown_in(example) -> list[int]:
    """The student's sequence, from the rollout's own record of its steps."""
    written, mask = example.rollout.trajectory, 983
    canvas = [
        t if s < example.rows.state else mask
        for t, s in zip(written.ids, written.steps, strict=True)
    ]
    return [*example.prompt_ids, *canvas]


@pytest.mark.parametrize("clipped", [True, False])
def test_d_opsd_is_the_mean_over_states_of_the_surest_tokens(
    clipped: bool, tmp_path: Path, both_ways
):
    plain = {"divergence": reverse_kl, "support": Full()}
    method = methods.d_opsd(
        decoding=BY_FOUR, attempts=2, share=0.5, reuse=1, **({} if clipped else plain)
    )
    trainer = trainer_of(both_ways, tmp_path, method, all_of(1.0))
    loss, examples = first_loss(trainer)
    model, vocab = load_model(str(both_ways)), trainer.setup.vocab
    of_states, differ = [], 0
    for example in examples:
        (read,) = example.teacher_inputs[0]
        first = len(example.prompt_ids)
        student = logp(model, shown_in(example), vocab, 0.9)
        teacher = logp(model, read.input.ids, vocab, 0.9)
        differ += read.input.ids != tuple(shown_in(example))
        surest = sorted(example.rows.positions, key=lambda i: -teacher[first + i].max())[:2]
        losses = []
        for i in surest:
            s, t = student[first + i], teacher[first + i]
            if clipped:
                top = np.argsort(-t)[:20]
                s, t = s[top] - np.log(np.exp(s[top]).sum()), t[top] - np.log(np.exp(t[top]).sum())
            summand = np.exp(s) * (s - t)
            losses.append((np.minimum(summand, 0.05) if clipped else summand).sum())
        of_states.append(np.mean(losses))
    assert differ and len(examples) > 4
    assert loss == pytest.approx(np.mean(of_states), rel=2e-4, abs=1e-8)


def test_dopsd_is_the_forward_kl_to_a_later_state(tmp_path: Path, both_ways):
    method = methods.dopsd_trajectory(decoding=BY_FOUR, states=2)
    trainer = trainer_of(both_ways, tmp_path, method, all_of(0.0))
    loss, examples = first_loss(trainer)
    model, vocab = load_model(str(both_ways)), trainer.setup.vocab
    of_states = []
    for example in examples:
        (read,) = example.teacher_inputs[0]
        first = len(example.prompt_ids)
        student = logp(model, shown_in(example), vocab, 0.9)
        teacher = logp(model, read.input.ids, vocab, 0.9)
        still = [i for i, token in enumerate(read.input.ids[first:]) if token == MASK]
        assert list(example.rows.positions) == still
        rows = [first + i for i in still]
        values = (np.exp(teacher[rows]) * (teacher[rows] - student[rows])).sum(-1)
        of_states.append(values.mean())
    assert loss == pytest.approx(np.mean(of_states), rel=2e-4, abs=1e-8)


def test_a_trajectorys_policy_gradient_starts_at_ratio_one(tmp_path: Path, both_ways):
    method = methods.trajectory_grpo(group=4, decoding=BY_FOUR)
    trainer = trainer_of(both_ways, tmp_path, method, odd_length)
    loss, examples = first_loss(trainer)
    rewards = {(x.group, x.sample): x.reward for x in examples}
    value = tokens = 0
    for example in examples:
        own = [r for (g, _), r in rewards.items() if g == example.group]
        spread = np.std(own, ddof=1)
        advantage = (example.reward - np.mean(own)) / (spread + 1e-4) if spread else 0.0
        value -= advantage * len(example.rows.positions)
        tokens += len(example.rows.positions)
    assert any(len({r for (g, _), r in rewards.items() if g == group}) > 1 for group in (0, 1))
    assert loss == pytest.approx(value / tokens, rel=1e-3, abs=1e-5)


def test_sft_is_the_mean_over_the_masked_tokens(tmp_path: Path, both_ways):
    trainer = trainer_of(
        both_ways, tmp_path, methods.diffusion_sft(), all_of(0.0), max_completion_length=40
    )
    loss, examples = first_loss(trainer)
    model, vocab = load_model(str(both_ways)), trainer.setup.vocab
    means = []
    for example in examples:
        first, masked = len(example.prompt_ids), example.rows.positions
        canvas = [MASK if i in masked else t for i, t in enumerate(example.rows.ids)]
        own = logp(model, [*example.prompt_ids, *canvas], vocab, 1.0)
        means.append(np.mean([-own[first + i, example.rows.ids[i]] for i in masked]))
    assert loss == pytest.approx(np.mean(means), rel=1e-4)


def test_wrong_completions_teach_nothing(tmp_path: Path, both_ways):
    trainer = trainer_of(
        both_ways, tmp_path, methods.d_opsd(decoding=BY_FOUR, attempts=3), all_of(0.0)
    )
    start = weights_of(trainer.model)
    trainer.train()
    assert trainer.state.log_history[0]["grad_norm"] == 0
    assert gap(start, weights_of(trainer.model)) == 0
    # Every problem was tried three times.
    counted = trainer.state.log_history[0]["generated_tokens"]
    assert counted > 2 * 2 * 5


def test_a_live_teacher_that_is_shown_nothing_is_the_student(tmp_path: Path, both_ways):
    method = Method(
        name="mine",
        source=Denoise(decoding=BY_FOUR),
        signal=Distill(Teacher(Suffix(0.0), weights=Live()), forward_kl),
    )
    trainer = trainer_of(both_ways, tmp_path, method, all_of(1.0), max_steps=3)
    trainer.train()
    logged = [row for row in trainer.state.log_history if "divergence" in row]
    assert len(logged) == 3 and all(abs(row["divergence"]) < 1e-6 for row in logged)


def test_each_use_learns_from_the_next_states_and_a_frozen_teacher_stays(tmp_path: Path, both_ways):
    method = methods.d_opsd(decoding=BY_FOUR, share=1.0, reuse=2, divergence=reverse_kl)
    trainer = trainer_of(both_ways, tmp_path, method, all_of(1.0), max_steps=2)
    seen = []
    gather = trainer.training_step

    def kept(model, inputs, count=None):
        seen.append([(x.group, x.rows.state) for x in inputs])
        return gather(model, inputs, count)

    trainer.training_step = kept
    trainer.train()
    first, second = map(set, seen)
    assert first and second and not first & second
    for group in (0, 1):
        one, two = ([s for g, s in part if g == group] for part in (first, second))
        assert not two or max(one) < min(two)
    assert metrics(tmp_path)[1]["grad_norm"] != 0


def test_what_shows_states_needs_a_source_of_states():
    for context in (Suffix(), LaterState()):
        with pytest.raises(ValueError, match="shows states of a denoising"):
            Method(name="mine", source=OnPolicy(), signal=Distill(Teacher(context)))
    Method(name="mine", source=Denoise(), signal=Distill(Teacher(Suffix(context=Solution()))))


def test_a_source_of_groups_tries_nothing_again():
    with pytest.raises(ValueError, match="leave out group or attempts"):
        Denoise(group=2, attempts=2)
    with pytest.raises(ValueError, match="'tokens' are not for a canvas"):
        Denoise(rows=OnPolicy().rows)


@pytest.mark.parametrize("of", ["left to right", "both ways"])
def test_a_method_of_another_kind_of_model_is_refused(
    of: str, tmp_path: Path, tiny_folder, both_ways
):
    folder, method = (
        (tiny_folder, methods.d_opsd()) if of == "left to right" else (both_ways, methods.opsd())
    )
    with pytest.raises(Exception, match="masked diffusion model"):
        trainer_of(folder, tmp_path, method, all_of(1.0))


def test_traces_go_state_by_state_over_the_completion(tmp_path: Path, both_ways):
    method = methods.d_opsd(decoding=BY_FOUR, share=0.5, reuse=1, divergence=reverse_kl)
    trainer_of(both_ways, tmp_path, method, all_of(1.0)).train()
    traced, logged = (
        [json.loads(line) for line in (tmp_path / kind / "rank0.jsonl").read_text().splitlines()]
        for kind in ("traces", "rollouts")
    )
    assert len({(row["problem"], row["sample"]) for row in traced}) == 2
    assert len({row["state"] for row in traced}) > 1
    for row in traced:
        n = len(row["completion_ids"])
        (signal,) = row["signals"]
        assert len(row["tokens"]) == len(row["masked"]) == len(signal["value"]) == n
        for i in range(n):
            taught = signal["value"][i] is not None
            assert taught <= row["masked"][i]
            assert all(bool(reader["top"][i]) == taught for reader in row["readers"])
            assert (row["divergence"][i] is not None) == taught
    assert {row["state"] for row in logged} >= {row["state"] for row in traced}
