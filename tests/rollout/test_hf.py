"""The engine's contract, on the tiny model: what is sampled, and that nothing else decides it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests.arrange import engine_for
from tests.conftest import tiny_model
from tests.rollout.contract import EngineContract
from torch import nn

from opsd.rollout.decode import PreallocatedLayer
from opsd.rollout.engine import Completion, Sampling, prompt_seed
from opsd.rollout.hf import HFEngine, _Writer
from opsd.types import Finish, UserError

PLAIN = Sampling(max_tokens=12)


@pytest.fixture(scope="module")
def model(tokenizer) -> nn.Module:
    """Sharper than a random model is, so that top-k and the like have something to cut."""
    made = tiny_model(len(tokenizer), tie_word_embeddings=False)
    made.lm_head.weight.data.mul_(12)
    made.generation_config.eos_token_id = tokenizer.eos_token_id
    made.generation_config.pad_token_id = tokenizer.pad_token_id
    return made.eval()


@pytest.fixture(scope="module")
def prompts(tokenizer) -> list[tuple[int, ...]]:
    texts = ["Neema", "Neema has 3 eggs and 4 more.", "1 + 1", "a" * 20, "Kí ni?"]
    return [tuple(tokenizer(text)["input_ids"]) for text in texts]


class TestContract(EngineContract):
    @pytest.fixture
    def engine(self, model, tokenizer) -> HFEngine:
        return engine_for(model, tokenizer)


SEEDS = [11, 22, 33, 44, 55]


def tokens(made: list[Completion]) -> list[tuple[int, ...]]:
    return [c.ids for c in made]


def distribution(model: nn.Module, ids: list[int], vocab: int, temperature: float = 1.0):
    """Log-probabilities of the token after `ids`, by a plain forward pass."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1, :vocab]
    return (logits.float() / temperature).log_softmax(-1)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
def test_log_probs_are_those_of_a_separate_forward_pass(model, tokenizer, prompts, temperature):
    engine = engine_for(model, tokenizer)
    sampling = replace(PLAIN, temperature=temperature, top_k=7, top_p=0.9)
    for prompt, made in zip(prompts, engine.generate(prompts, sampling, SEEDS), strict=True):
        assert len(made.logprobs) == len(made.ids)
        for t, token in enumerate(made.ids):
            logp = distribution(model, [*prompt, *made.ids[:t]], len(tokenizer), temperature)
            assert made.logprobs[t] == pytest.approx(logp[token].item(), abs=1e-4)


def test_neither_batch_nor_order_nor_global_seed_changes_a_rows_tokens(model, tokenizer, prompts):
    engine = engine_for(model, tokenizer)
    together = engine.generate(prompts, PLAIN, SEEDS)
    assert len({c.ids for c in together}) == len(prompts)
    torch.manual_seed(123)
    state = torch.get_rng_state()
    backwards = engine.generate(prompts[::-1], PLAIN, SEEDS[::-1])[::-1]
    assert torch.get_rng_state().equal(state)
    alone = [engine.generate([p], PLAIN, [s])[0] for p, s in zip(prompts, SEEDS, strict=True)]
    assert tokens(together) == tokens(backwards) == tokens(alone)


def test_the_same_seed_draws_the_same_and_another_seed_does_not(model, tokenizer, prompts):
    engine = engine_for(model, tokenizer)
    one, same, other = engine.generate([prompts[1]] * 3, PLAIN, [5, 5, 6])
    assert one.ids == same.ids != other.ids


def test_a_shorter_horizon_gives_a_prefix(model, tokenizer, prompts):
    engine = engine_for(model, tokenizer)
    long = engine.generate(prompts, PLAIN, SEEDS)
    short = engine.generate(prompts, replace(PLAIN, max_tokens=5), SEEDS)
    assert [c.ids for c in short] == [c.ids[:5] for c in long]


def test_temperature_zero_takes_the_likeliest_token(model, tokenizer, prompts):
    made = engine_for(model, tokenizer).generate(prompts, replace(PLAIN, temperature=0.0), SEEDS)
    for prompt, completion in zip(prompts, made, strict=True):
        ids = list(prompt)
        for token in completion.ids:
            assert token == distribution(model, ids, len(tokenizer)).argmax().item()
            ids.append(token)


def allowed(logp: torch.Tensor, sampling: Sampling) -> set[int]:
    """The tokens that a truncation leaves, written from its definition."""
    order = logp.argsort(descending=True).tolist()
    p = logp.exp()
    if sampling.top_k:
        order = order[: sampling.top_k]
    if sampling.top_p < 1:
        before, kept = 0.0, []
        for token in order:
            if before < sampling.top_p:
                kept.append(token)
            before += p[token].item()
        order = kept
    if sampling.min_p:
        order = [i for i in order if p[i] >= sampling.min_p * p.max()]
    return set(order)


@pytest.mark.parametrize("cut", [{"top_k": 3}, {"top_p": 0.2}, {"min_p": 0.3}])
def test_a_truncation_is_never_left_and_all_of_it_is_used(model, tokenizer, prompts, cut):
    sampling = Sampling(max_tokens=1, **cut)
    inside = allowed(distribution(model, list(prompts[1]), len(tokenizer)), sampling)
    assert 1 < len(inside) < 20
    made = engine_for(model, tokenizer).generate([prompts[1]] * 400, sampling, list(range(400)))
    assert {c.ids[0] for c in made} == inside


def test_the_first_token_is_drawn_with_its_probability(model, tokenizer, prompts):
    n = 4000
    engine = engine_for(model, tokenizer)
    made = engine.generate([prompts[1]] * n, Sampling(max_tokens=1, temperature=1.2), range(n))
    p = distribution(model, list(prompts[1]), len(tokenizer), 1.2).exp().double()
    counts = torch.bincount(torch.tensor([c.ids[0] for c in made]), minlength=len(p)).double()
    large = p * n >= 10
    observed = torch.cat([counts[large], counts[~large].sum(0, keepdim=True)])
    expected = torch.cat([p[large], p[~large].sum(0, keepdim=True)]) * n
    cells = len(observed)
    assert cells > 10
    statistic = ((observed - expected) ** 2 / expected).sum().item()
    # The 99.9 % quantile of chi-square, by Wilson and Hilferty.
    df = cells - 1
    assert statistic < df * (1 - 2 / (9 * df) + 3.09 * (2 / (9 * df)) ** 0.5) ** 3


def likeliest(model: nn.Module, prompt: tuple[int, ...], n: int) -> list[int]:
    return distribution(model, list(prompt), 900).topk(n).indices.tolist()


def test_each_of_several_ending_tokens_ends_and_belongs_to_the_completion(
    model, tokenizer, prompts
):
    ends = likeliest(model, prompts[1], 2)
    engine = engine_for(model, tokenizer, eos_ids=ends)
    made = engine.generate([prompts[1]] * 60, PLAIN, range(60))
    stopped = [c for c in made if c.finish is Finish.STOP]
    assert {c.ids[-1] for c in stopped} == set(ends)
    for c in made:
        assert not set(ends) & set(c.ids[:-1])
        assert (c.finish is Finish.STOP) == (c.ids[-1] in ends)
        assert c.finish is Finish.STOP or len(c.ids) == PLAIN.max_tokens


def test_padding_that_is_the_ending_token_changes_nothing(model, tokenizer, prompts):
    (end,) = likeliest(model, prompts[1], 1)
    apart = engine_for(model, tokenizer, eos_ids=[end])
    same = engine_for(model, tokenizer, eos_ids=[end], pad_id=end)
    rows = [prompts[1], prompts[3]] * 10

    def made(engine: HFEngine) -> list[tuple[tuple[int, ...], Finish]]:
        return [(c.ids, c.finish) for c in engine.generate(rows, PLAIN, range(20))]

    assert made(apart) == made(same)
    assert {finish for _, finish in made(apart)} == {Finish.STOP, Finish.LENGTH}


def test_the_horizon_cuts_off(model, tokenizer, prompts):
    engine = engine_for(model, tokenizer, eos_ids=[len(tokenizer) + 3])  # never sampled
    for c in engine.generate(prompts, PLAIN, SEEDS):
        assert (len(c.ids), c.finish) == (PLAIN.max_tokens, Finish.LENGTH)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rows_of_the_vocabulary_without_a_token_are_never_sampled(
    model, tokenizer, prompts, temperature
):
    vocab = likeliest(model, prompts[1], 1)[0]  # so that the likeliest of all is out of bounds
    engine = engine_for(model, tokenizer, vocab=vocab)
    sampling = Sampling(max_tokens=3, temperature=temperature)
    made = engine.generate([prompts[1]] * 50, sampling, range(50))
    assert max(token for c in made for token in c.ids) < vocab
    logp = distribution(model, list(prompts[1]), vocab)
    assert made[0].logprobs[0] == pytest.approx(logp[made[0].ids[0]].item(), abs=1e-4)


@pytest.mark.parametrize("budget", [1, 40, 75, 150])
def test_a_token_budget_limits_what_is_live_and_changes_no_result(
    model, tokenizer, prompts, budget, monkeypatch
):
    rows = [prompt for prompt in prompts for _ in range(4)]
    (end,) = likeliest(model, prompts[1], 1)  # so that rows end at different steps
    whole = engine_for(model, tokenizer, eos_ids=[end])
    split = engine_for(model, tokenizer, eos_ids=[end], batch_tokens=budget)
    live: list[tuple[int, int]] = []
    write = _Writer.__call__

    def seen(self: _Writer, hidden: torch.Tensor, numbers: list[int]) -> list[int | None]:
        longest = max(len(rows[i]) for i in numbers)
        live.append((len(numbers), longest + PLAIN.max_tokens))
        return write(self, hidden, numbers)

    monkeypatch.setattr(_Writer, "__call__", seen)
    told: list[tuple[int, ...]] = []
    made = split.generate(rows, PLAIN, range(20), lambda *news: told.append(news))
    assert all(n == 1 or n * width <= budget for n, width in live)
    assert sum(done for done, _ in told) == len(rows)
    assert sum(tokens for _, tokens in told) == sum(len(c.ids) for c in made)
    if budget >= 75:
        steps = sum(len(c.ids) for c in made)
        assert len(live) < steps / 1.5  # several at a time
    assert tokens(made) == tokens(whole.generate(rows, PLAIN, range(20)))


def test_a_prompt_is_read_once_for_all_its_rows(model, tokenizer, prompts, monkeypatch):
    read: list[int] = []
    trunk = model.model.forward

    def forward(input_ids: torch.Tensor, **rest: Any) -> Any:
        read.append(input_ids.numel())
        return trunk(input_ids=input_ids, **rest)

    monkeypatch.setattr(model.model, "forward", forward)
    engine_for(model, tokenizer).generate([prompts[3]] * 6, PLAIN, range(6))
    assert read[0] == len(prompts[3]) and max(read[1:]) <= 6


def test_rows_that_end_do_not_make_the_others_be_copied(model, tokenizer, prompts, monkeypatch):
    ends = range(0, len(tokenizer), 6)
    held: list[int] = []
    shrink = PreallocatedLayer.shrink

    def seen(self: PreallocatedLayer, moves: Any, rows: int, left: int) -> None:
        shrink(self, moves, rows, left)
        held.append(self.keys.untyped_storage().data_ptr())

    monkeypatch.setattr(PreallocatedLayer, "shrink", seen)
    engine_for(model, tokenizer, eos_ids=ends).generate(prompts * 8, PLAIN, range(40))
    layers = model.config.num_hidden_layers
    # The prompt's own buffer, then the one with room to grow.
    assert len(held) > 4 * layers and len(set(held)) <= 2 * layers


def test_what_all_prompts_begin_with_is_read_once(model, tokenizer, prompts, monkeypatch):
    examples = prompts[1] * 3
    few_shot = [(*examples, *prompt) for prompt in prompts]
    read: list[tuple[int, ...]] = []
    trunk = model.model.forward

    def forward(input_ids: torch.Tensor, **rest: Any) -> Any:
        read.append(tuple(input_ids.shape))
        return trunk(input_ids=input_ids, **rest)

    engine = engine_for(model, tokenizer)
    alone = [engine.generate([p], PLAIN, [s])[0] for p, s in zip(few_shot, SEEDS, strict=True)]
    monkeypatch.setattr(model.model, "forward", forward)
    together = engine.generate(few_shot, PLAIN, SEEDS)
    (_, begun), (rows, rest) = read[:2]
    assert begun >= len(examples) and rows == len(prompts)
    assert begun + rest == max(map(len, few_shot))
    assert tokens(together) == tokens(alone)
    for one, other in zip(together, alone, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_settings_that_a_model_ships_do_not_touch_the_distribution(model, tokenizer, prompts):
    engine = engine_for(model, tokenizer)
    plain = engine.generate(prompts, PLAIN, SEEDS)
    shipped = model.generation_config
    changed = type(shipped)(
        do_sample=True,
        temperature=0.3,
        top_k=1,
        top_p=0.5,
        repetition_penalty=3.0,
        no_repeat_ngram_size=1,
        suppress_tokens=[plain[0].ids[0]],
        min_new_tokens=3,
        eos_token_id=plain[1].ids[0],
    )
    model.generation_config = changed
    try:
        assert tokens(engine.generate(prompts, PLAIN, SEEDS)) == tokens(plain)
        assert model.generation_config is changed
    finally:
        model.generation_config = shipped


def test_an_adapter_takes_part_until_it_is_switched_off(tokenizer, prompts):
    torch.manual_seed(0)
    base = tiny_model(len(tokenizer))
    plain = tokens(engine_for(base, tokenizer).generate(prompts, PLAIN, SEEDS))
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", lora_alpha=400)
    adapted = get_peft_model(base, lora)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_()
    engine = engine_for(adapted, tokenizer)
    assert tokens(engine.generate(prompts, PLAIN, SEEDS)) != plain
    with adapted.disable_adapter():
        assert tokens(engine.generate(prompts, PLAIN, SEEDS)) == plain


def test_sync_changes_the_model_that_writes(model, tokenizer, prompts):
    other = tiny_model(len(tokenizer))
    engine = engine_for(model, tokenizer)

    def made(engine: HFEngine) -> list[tuple[int, ...]]:
        return tokens(engine.generate(prompts, PLAIN, SEEDS))

    before = made(engine)
    engine.sync(other)
    assert made(engine) == made(engine_for(other, tokenizer)) != before
    engine.sync(model)
    assert made(engine) == before


def test_the_models_mode_is_as_before(model, tokenizer, prompts):
    model.train()
    engine_for(model, tokenizer).generate(prompts[:1], Sampling(max_tokens=1), [0])
    assert model.training
    model.eval()


def test_a_model_without_an_ending_token_is_refused(model, tokenizer):
    with pytest.raises(UserError, match="end-of-sequence"):
        engine_for(model, tokenizer, eos_ids=[])


def test_seeds_differ_in_everything_that_a_completion_is():
    base = (0, 1, "abc", 2, "rollout")
    others = [
        (1, 1, "abc", 2, "rollout"),
        (0, 2, "abc", 2, "rollout"),
        (0, 1, "abd", 2, "rollout"),
        (0, 1, "abc", 3, "rollout"),
        (0, 1, "abc", 2, "retry"),
    ]
    seeds = {prompt_seed(*key) for key in [base, *others]}
    assert len(seeds) == 6 and prompt_seed(*base) in seeds
    assert all(0 <= seed < 2**63 for seed in seeds)
