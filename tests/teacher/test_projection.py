"""SPD's projection: the projector's algebra, what the gradients depend on, and folded weights
against a hook."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import torch
from tests.arrange import config, gap, odd_length, problems, weights_of
from tests.conftest import tiny_model
from transformers import GPT2Config, GPT2LMHeadModel

from opsd import methods
from opsd.teacher import projection
from opsd.teacher.projection import Answered, answered, folded, projections
from opsd.teacher.weights import Frozen, Start
from opsd.training.trainer import OPSDTrainer
from opsd.types import UserError

VOCAB, D = 40, 32


@pytest.fixture
def model() -> torch.nn.Module:
    return tiny_model(VOCAB, num_hidden_layers=3, initializer_range=0.3).eval()


def texts(count: int, length: int = 12, answers: int = 2) -> list[Answered]:
    random = Random(count)
    return [
        Answered(
            tuple(random.randrange(VOCAB) for _ in range(length)),
            tuple(random.sample(range(length // 2, length), answers)),
        )
        for _ in range(count)
    ]


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([[3, 1, 4, 1, 5, 9]])).logits


def modules(model) -> list:
    return projection._projected(model)


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_a_projector_is_symmetric_idempotent_and_of_its_rank(model, share: float):
    made = projections(model, texts(60, answers=6), share)
    assert set(made) == {f"model.layers.{n}.self_attn.{k}_proj" for n in (1, 2) for k in ("k", "v")}
    for projector in made.values():
        assert projector.shape == (D, D)
        torch.testing.assert_close(projector, projector.T)
        torch.testing.assert_close(projector @ projector, projector)
        assert projector.trace().item() == pytest.approx(round(share * D), abs=1e-6)


def test_it_keeps_the_directions_of_the_largest_gradients(model):
    given = texts(60, answers=6)
    stacked: dict[str, list[torch.Tensor]] = {}
    for text in given:
        for name, gradient in projection._gradients(model, modules(model), text).items():
            stacked.setdefault(name, []).append(gradient)
    for name, projector in projections(model, given, 0.25).items():
        _, _, right = torch.linalg.svd(torch.cat(stacked[name]), full_matrices=False)
        kept = right[: D // 4].T
        torch.testing.assert_close(projector @ kept, kept)
        torch.testing.assert_close(projector @ right[D // 4 :].T, 0 * right[D // 4 :].T)


def test_of_few_gradients_all_directions_are_kept_and_no_others(model):
    (text,) = texts(1, answers=1)
    for name, projector in projections(model, [text], 1.0).items():
        gradient = projection._gradients(model, modules(model), text)[name]
        rank = torch.linalg.matrix_rank(gradient, rtol=1e-5).item()
        assert projector.trace().item() == pytest.approx(rank, abs=1e-6) and rank < D
        torch.testing.assert_close(gradient @ projector, gradient)


def test_gradients_are_those_of_a_small_change_and_end_before_the_answer(model):
    text = Answered((3, 1, 4, 1, 5, 9, 2, 6), (3, 5))
    given = projection._gradients(model, modules(model), text)
    ids = torch.tensor([text.ids])

    def loss(name: str, position: int, direction: int, size: float) -> float:
        module = dict(modules(model))[name]

        def push(module, inputs, output):
            output = output.clone()
            output[0, position, direction] += size
            return output

        handle = module.register_forward_hook(push)
        logp = model.double()(input_ids=ids).logits[0].log_softmax(-1)
        handle.remove()
        return -(logp[2, 1] + logp[4, 9]).item() / 2

    for name, gradient in given.items():
        assert gradient[5:].abs().max() == 0 and gradient[:5].abs().max() > 0
        with torch.no_grad():  # the norms compute in float32: a smaller change drowns
            change = loss(name, 1, 7, 0.02) - loss(name, 1, 7, -0.02)
        assert gradient[1, 7].item() == pytest.approx(change / 0.04, rel=0.02, abs=5e-5)


def test_gradients_depend_on_what_is_answered_alone(model):
    one, other = Answered((3, 1, 4, 1, 5, 9), (3,)), Answered((3, 1, 4, 1, 7, 2), (3,))
    first, second = (projection._gradients(model, modules(model), text) for text in (one, other))
    for name, gradient in first.items():
        torch.testing.assert_close(gradient[:3], second[name][:3])
        assert gradient[3:].abs().max() == 0


def test_folded_weights_are_the_hook_and_leave_nothing_behind(model):
    before, start = logits(model), {k: v.clone() for k, v in model.state_dict().items()}
    projectors = projections(model, texts(20), 0.5)
    handles = [
        module.register_forward_hook(
            lambda m, i, output, name=name: output @ projectors[name].to(output.dtype)
        )
        for name, module in modules(model)
    ]
    hooked = logits(model)
    for handle in handles:
        handle.remove()
    assert (hooked - before).abs().max() > 1e-3
    at_work = projection.ProjectedStart(
        Frozen().begin(Start(model, False, lambda x: x)), folded(model, projectors)
    )
    with at_work.use(model) as reader:
        torch.testing.assert_close(logits(reader), hooked)
    assert torch.equal(logits(model), before)
    assert all(torch.equal(v, start[k]) for k, v in model.state_dict().items())


def test_all_directions_leave_the_model_as_it_is(model):
    whole = projections(model, texts(200, answers=6), 1.0)
    for name, value in folded(model, whole).items():
        torch.testing.assert_close(value, dict(model.named_parameters())[name])


def test_the_answer_is_what_stands_in_the_box(tokenizer):
    prompt, solution = (1, 2, 3), r"First 3 + 4 = 7. The answer is \boxed{7}."
    text = answered(tokenizer, prompt, solution)
    assert text.ids[:3] == prompt
    assert tokenizer.decode([text.ids[i] for i in text.positions]) == "7"
    assert text.positions[0] > len(text.ids) - 4
    gsm = answered(tokenizer, prompt, "3 + 4 = 7\n#### 27")
    assert tokenizer.decode([gsm.ids[i] for i in gsm.positions]).strip() == "27"
    assert answered(tokenizer, prompt, "no answer here").positions == ()
    whole = answered(tokenizer, prompt, "no answer here", whole=True)
    assert whole.positions == tuple(range(3, len(whole.ids)))


def test_spd_learns_from_the_projected_model_and_ssd_from_the_plain_one(
    tmp_path: Path, tiny_folder: Path
):
    ends = {}
    for method in (methods.spd(examples=8), methods.ssd()):
        args = config(tmp_path / method.name, rollout_log_steps=1)
        trainer = OPSDTrainer(str(tiny_folder), method, args, problems(8), verifier=odd_length)
        start = weights_of(trainer.model)
        trainer.train()
        assert gap(start, weights_of(trainer.model)) > 0
        ends[method.name] = weights_of(trainer.model)
    assert gap(ends["spd"], ends["ssd"]) > 0


def test_what_cannot_be_projected_is_told(tmp_path: Path, tiny_folder: Path):
    bare = [type(p)(prompt=p.prompt, answer=p.answer, language="eng") for p in problems(8)]
    with pytest.raises(UserError, match="solutions that state an answer"):
        OPSDTrainer(str(tiny_folder), methods.spd(), config(tmp_path), bare, verifier=odd_length)
    fused = GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_embd=16, n_layer=2, n_head=2))
    with pytest.raises(UserError, match="this model has none"):
        projections(fused, texts(1), 0.5)
