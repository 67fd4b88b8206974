"""The engine of masked diffusion models against a plain loop over canvases, one at a time."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from tests.conftest import save_tiny_diffusion_model

from opsd.lm.diffusion import refuse_masked_diffusion
from opsd.lm.loading import load_model, load_tokenizer
from opsd.rollout.denoise import DenoisingEngine, decoding_of, keep_decoding
from opsd.rollout.engine import Decoding, Sampling
from opsd.types import Finish, UserError

BY_FOUR = Decoding(block_length=4, tokens_per_step=2)
GREEDY = Sampling(max_tokens=12, temperature=0.0, decoding=BY_FOUR)
PLAIN = replace(GREEDY, temperature=0.8)
SEEDS = [5, 6, 7]


@pytest.fixture(scope="module")
def masker(diffusion_folder):
    return load_tokenizer(str(diffusion_folder))


@pytest.fixture(scope="module")
def model(diffusion_folder):
    return load_model(str(diffusion_folder))


def engine_for(model, masker, **changes) -> DenoisingEngine:
    own = {"pad_id": masker.pad_token_id, "vocab": len(masker)}
    return DenoisingEngine(model, eos_ids=[masker.eos_token_id], **own, **changes)


@pytest.fixture
def engine(model, masker) -> DenoisingEngine:
    return engine_for(model, masker)


@pytest.fixture(scope="module")
def prompts(masker) -> list[list[int]]:
    texts = ("How many?", "Musa has 14 chickens.", "Zodwa sells 3 eggs and then 4 more eggs.")
    return [masker(text)["input_ids"] for text in texts]


def read(model, ids: list[int]) -> torch.Tensor:
    """Log-probabilities [T, V] of a canvas that is read alone."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0]
    return logits.double().log_softmax(-1)


def test_a_canvas_is_read_in_both_directions(model, masker, prompts):
    one = read(model, prompts[1])
    other = read(model, [*prompts[1][:-1], prompts[0][0]])
    assert (one[0] - other[0]).abs().max() > 1e-3


def test_the_greedy_canvas_is_what_a_plain_loop_writes(engine, model, masker, prompts):
    vocab, mask = len(masker), masker.mask_token_id
    made = engine.generate(prompts, GREEDY, SEEDS)
    for prompt, completion in zip(prompts, made, strict=True):
        canvas, steps, step = [mask] * 12, [-1] * 12, 0
        for start in (0, 4, 8):
            for _ in range(2):
                logp = read(model, [*prompt, *canvas])[len(prompt) :, :vocab]
                logp[:, mask] = float("-inf")
                best, token = logp.max(-1)
                left = [i for i in range(start, start + 4) if canvas[i] == mask]
                for i in sorted(left, key=lambda i: -float(best[i]))[:2]:
                    canvas[i], steps[i] = int(token[i]), step
                step += 1
            if any(i in engine.eos_ids for i in canvas[: start + 4]):
                break
        written = completion.trajectory
        assert [i for i, s in zip(written.ids, written.steps, strict=True) if s < step] == [
            token for token in canvas if token != mask
        ]
        assert list(written.steps) == [step if s < 0 else s for s in steps]


def test_log_probabilities_are_of_the_whole_distribution_in_the_state(engine, model, prompts):
    vocab = engine.vocab
    for prompt, completion in zip(prompts, engine.generate(prompts, PLAIN, SEEDS), strict=True):
        written = completion.trajectory
        for step in written.states:
            masked = written.masked(step)
            canvas = [
                model.config.mask_token_id if i in masked else token
                for i, token in enumerate(written.ids)
            ]
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([[*prompt, *canvas]])).logits[0]
            logp = (logits[len(prompt) :, :vocab] / 0.8).log_softmax(-1)
            for i in masked:
                if written.steps[i] == step:
                    told = written.logprobs[i]
                    assert told == pytest.approx(float(logp[i, written.ids[i]]), abs=1e-4)


def test_a_row_does_not_depend_on_the_rows_beside_it(engine, masker, prompts):
    together = engine.generate(prompts, PLAIN, SEEDS)
    alone = [engine.generate([p], PLAIN, [s])[0] for p, s in zip(prompts, SEEDS, strict=True)]
    assert [c.ids for c in together] == [c.ids for c in alone]
    assert [c.trajectory.steps for c in together] == [c.trajectory.steps for c in alone]
    small = engine_for(engine.model, masker, batch_tokens=30)
    assert [c.ids for c in small.generate(prompts, PLAIN, SEEDS)] == [c.ids for c in together]
    again = engine.generate(prompts, PLAIN, [9, 10, 11])
    assert [c.ids for c in again] != [c.ids for c in together]


def test_blocks_come_one_after_another_a_few_tokens_in_each_step(engine, masker, prompts):
    for completion in engine.generate(prompts * 3, PLAIN, range(9)):
        written = completion.trajectory
        done = [s for s in written.steps if s in written.states]
        assert all(done.count(s) <= 2 for s in done)
        blocks = [written.steps[start : start + 4] for start in range(0, 12, 4)]
        for one, next_one in pairwise(blocks):
            assert max(one) < min(next_one) or set(next_one) == {max(written.steps)}
        assert masker.mask_token_id not in written.ids
        ends = [i for i, token in enumerate(completion.ids) if token in engine.eos_ids]
        assert completion.finish == (Finish.STOP if ends else Finish.LENGTH)
        assert ends in ([], [len(completion.ids) - 1])


def test_a_row_ends_with_the_block_that_holds_its_end(engine, prompts):
    """Behind it nothing is written, and counts as ends."""
    kept = engine.eos_ids
    first = engine.generate(prompts[:1], GREEDY, [1])[0]
    engine.eos_ids = (first.ids[1], *kept)
    (made,) = engine.generate(prompts[:1], GREEDY, [1])
    written = made.trajectory
    end = next(i for i, token in enumerate(first.ids) if token == first.ids[1])
    assert (made.finish, written.end, len(made.ids)) == (Finish.STOP, end, end + 1)
    assert set(written.ids[4:]) == {first.ids[1]} and set(written.steps[4:]) == {2}
    assert written.states == range(max(written.steps[: end + 1]) + 1)


def test_random_remasking_commits_whatever_is_sure(engine, prompts):
    by_chance = replace(PLAIN, decoding=replace(BY_FOUR, remasking="random"))
    made, sure = (engine.generate(prompts, how, SEEDS) for how in (by_chance, PLAIN))
    assert [c.trajectory.steps for c in made] != [c.trajectory.steps for c in sure]


def test_a_model_says_how_it_writes_by_its_generation_config(tmp_path):
    model = load_model(str(save_tiny_diffusion_model(tmp_path / "one")))
    assert decoding_of(model) == Decoding()
    keep_decoding(model, None)
    assert decoding_of(model) == Decoding()
    keep_decoding(model, BY_FOUR)
    model.save_pretrained(tmp_path / "two")
    assert decoding_of(load_model(str(tmp_path / "two"))) == BY_FOUR


def test_a_canvas_is_whole_blocks(engine, prompts):
    with pytest.raises(UserError, match="set max_completion_length to 8 or 12"):
        engine.generate(prompts[:1], replace(PLAIN, max_tokens=10), [1])


def test_a_distribution_is_cut_as_for_any_other_model(engine, prompts):
    greedy, cut = (
        engine.generate(prompts, how, SEEDS) for how in (GREEDY, replace(PLAIN, top_k=1))
    )
    assert [c.ids for c in cut] == [c.ids for c in greedy]


def test_a_model_without_an_end_is_refused(model):
    with pytest.raises(UserError, match="no end-of-sequence token"):
        DenoisingEngine(model, eos_ids=[], pad_id=0, vocab=9)


def test_engines_of_other_models_refuse_it(model, tiny_folder):
    with pytest.raises(UserError, match="engine: vllm generates left to right"):
        refuse_masked_diffusion(model, "vllm")
    other = load_model(str(tiny_folder))
    refuse_masked_diffusion(other, "vllm")
    engine = DenoisingEngine(other, eos_ids=[0], pad_id=0, vocab=9)
    with pytest.raises(UserError, match="generates left to right"):
        engine.generate([[1, 2]], PLAIN, [0])


def test_a_token_may_be_predicted_at_the_position_before_it(model, masker, prompts):
    """Dream's shift: with it, the first token of the canvas is read at the prompt's last one."""
    plain = engine_for(model, masker).generate(prompts[:1], GREEDY, [1])[0]
    model.config.predicts_next = True
    try:
        moved = engine_for(model, masker).generate(prompts[:1], GREEDY, [1])[0]
        canvas = [*prompts[0], *[masker.mask_token_id] * 12]
        logp = read(model, canvas)[len(prompts[0]) - 1 :, : len(masker)]
        logp[:, masker.mask_token_id] = float("-inf")
        best = sorted(range(4), key=lambda i: -float(logp[i].max()))[:2]
        assert sorted(i for i, s in enumerate(moved.trajectory.steps) if s == 0) == sorted(best)
        assert [moved.trajectory.ids[i] for i in best] == [int(logp[i].argmax()) for i in best]
    finally:
        del model.config.predicts_next
    assert plain.trajectory != moved.trajectory
