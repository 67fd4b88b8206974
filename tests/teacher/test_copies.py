"""Teachers' weights: where they start, how they move, and that the student's come back."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from tests.arrange import config, gap, problems, weights_of
from tests.conftest import tiny_model
from torch import Tensor, nn

from opsd import methods
from opsd.lm.agreement import starts_as_base
from opsd.lm.forward import head_of, hidden_rows
from opsd.lm.layout import continued, pad_right
from opsd.lm.loading import load_model
from opsd.lm.parameters import fingerprint, trainable
from opsd.teacher.copies import Other, ParameterCopy, Unchanged
from opsd.teacher.weights import EMA, External, Frozen, Live, Snapshot, Start
from opsd.training.trainer import OPSDTrainer
from opsd.types import UserError

IDS = [5, 6, 7, 8, 9, 10]


def teacher_inputs(model: nn.Module) -> Tensor:
    """What a model says of some fixed text: log-probabilities."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        hidden = hidden_rows(model, pad_right([continued(IDS[:1], IDS[1:])], 0))
        logp = head_of(model, 10**6).logits(hidden).log_softmax(-1)
    model.train(was_training)
    return logp


def lora(**changes: Any) -> LoraConfig:
    settings = {"task_type": "CAUSAL_LM", "r": 4, "target_modules": "all-linear"}
    return LoraConfig(**{**settings, **changes})


def adapted(**changes: Any) -> nn.Module:
    return get_peft_model(tiny_model(900), lora(**changes))


def moved(model: nn.Module, step: int = 1) -> None:
    """Something like an optimizer step."""
    generator = torch.Generator().manual_seed(step)
    for parameter in trainable(model).values():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)


def kept(choice: Any, model: nn.Module) -> Any:
    as_base = starts_as_base(model, IDS, 900)
    return choice.begin(Start(model, as_base, lambda other: load_model(other.path)))


@pytest.mark.parametrize("make", [lambda: tiny_model(900), adapted], ids=["whole", "lora"])
def test_a_frozen_teacher_reads_as_the_start_after_the_student_moved(make):
    model = make()
    start = teacher_inputs(model)
    keeper = kept(Frozen(), model)
    for step in (1, 2):
        moved(model, step)
        keeper.update(model, step)
    with keeper.use(model) as reader:
        torch.testing.assert_close(teacher_inputs(reader), start, atol=1e-6, rtol=0)
    assert (teacher_inputs(model) - start).abs().max() > 0.01


def test_under_lora_a_frozen_teacher_needs_no_copy_and_whole_training_one():
    assert kept(Frozen(), adapted()) == Unchanged(adapter_off=True)
    assert isinstance(kept(Frozen(), tiny_model(900)), ParameterCopy)


@pytest.mark.parametrize("init", [False, "pissa"])
def test_an_adapter_that_does_not_start_as_the_base_is_copied(init: Any):
    """Random B matrices, and PiSSA: switching them off is another model than the start."""
    torch.manual_seed(1)
    model = adapted(init_lora_weights=init)
    start = teacher_inputs(model)
    keeper = kept(Frozen(), model)
    assert isinstance(keeper, ParameterCopy)
    moved(model)
    with keeper.use(model) as reader:
        torch.testing.assert_close(teacher_inputs(reader), start, atol=1e-6, rtol=0)


def test_an_adapter_that_was_trained_before_is_copied():
    model = adapted()
    moved(model)
    start = teacher_inputs(model)
    keeper = kept(Frozen(), model)
    moved(model, 2)
    with keeper.use(model) as reader:
        assert teacher_inputs(reader).equal(start)


def test_trained_parameters_outside_the_adapter_are_copied_too():
    """Switching the adapter off would leave their trained values in place."""
    model = adapted()
    norms = [p for name, p in model.named_parameters() if name.endswith("layernorm.weight")]
    for parameter in norms:
        parameter.requires_grad_(True)
    assert norms and not starts_as_base(model, IDS, 900)
    start = teacher_inputs(model)
    keeper = kept(Frozen(), model)
    moved(model)
    with keeper.use(model) as reader:
        torch.testing.assert_close(teacher_inputs(reader), start, atol=1e-6, rtol=0)


def test_modules_that_peft_saves_whole_are_switched_off_with_the_adapter():
    model = get_peft_model(
        tiny_model(900, tie_word_embeddings=False), lora(modules_to_save=["lm_head"])
    )
    start = teacher_inputs(model)
    keeper = kept(Frozen(), model)
    assert keeper == Unchanged(adapter_off=True)
    moved(model)
    with keeper.use(model) as reader:
        torch.testing.assert_close(teacher_inputs(reader), start, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "peft",
    [
        PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
        PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    ],
    ids=["prefix", "prompt"],
)
def test_a_prompt_learning_adapter_is_refused(peft: Any):
    with pytest.raises(UserError, match="impossible with prompt-learning adapters") as error:
        starts_as_base(get_peft_model(tiny_model(900), peft), IDS, 900)
    assert "\n" not in str(error.value)


def test_a_live_teacher_reads_with_the_students_weights():
    model = tiny_model(900)
    keeper = kept(Live(), model)
    moved(model)
    with keeper.use(model) as reader:
        assert reader is model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_average_is_the_formula_in_float32(dtype: torch.dtype):
    model = adapted().to(dtype)
    keeper = kept(EMA(decay=0.9), model)
    expected = {name: p.detach().float().clone() for name, p in trainable(model).items()}
    for step in range(1, 6):
        moved(model, step)
        keeper.update(model, step)
        for name, p in trainable(model).items():
            expected[name] = 0.9 * expected[name] + (1 - 0.9) * p.detach().float()
    assert {t.dtype for t in keeper.state_dict().values()} == {torch.float32}
    for name, average in keeper.state_dict().items():
        torch.testing.assert_close(average, expected[name], atol=1e-6, rtol=1e-5)
    with keeper.use(model):
        for name, p in trainable(model).items():
            assert p.dtype == dtype and p.data.equal(keeper.weights[name].to(dtype))


def test_a_small_change_is_not_lost_in_an_average_of_bfloat16_weights():
    model = nn.Linear(4, 4).to(torch.bfloat16)
    nn.init.ones_(model.weight)
    keeper = EMA(decay=0.999).begin(Start(model, False, lambda other: other))
    nn.init.constant_(model.weight, 1.5)
    for step in range(100):
        keeper.update(model, step)
    assert keeper.weights["weight"].mean().item() == pytest.approx(1.5 - 0.5 * 0.999**100, rel=1e-4)


def test_a_snapshot_is_renewed_every_so_many_steps():
    model = tiny_model(900)
    keeper = kept(Snapshot(every=3), model)
    seen = []
    for step in range(1, 8):
        moved(model, step)
        keeper.update(model, step)
        with keeper.use(model) as reader:
            seen.append(weights_of(reader))
        if step % 3 == 0:
            assert gap(seen[-1], weights_of(model)) == 0
    same = [gap(a, b) == 0 for a, b in pairwise(seen)]
    assert same == [True, False, True, True, False, True]  # renewed after steps 3 and 6


@pytest.mark.parametrize("choice", [EMA(decay=0.5), Snapshot(every=2)])
def test_a_state_taken_to_another_process_goes_on_alike(choice: Any):
    model = adapted()
    keeper = kept(choice, model)
    for step in (1, 2, 3):
        moved(model, step)
        keeper.update(model, step)
    state = {name: tensor.clone() for name, tensor in keeper.state_dict().items()}
    fresh = kept(choice, adapted())
    fresh.load_state_dict(state)
    for other in (keeper, fresh):
        other.update(model, 4)
    assert gap(keeper.state_dict(), fresh.state_dict()) == 0


def test_a_state_of_other_parameters_is_refused():
    keeper = kept(EMA(), adapted())
    with pytest.raises(UserError, match="other parameters than those in training"):
        keeper.load_state_dict({"unknown": torch.zeros(1)})


def test_a_frozen_copy_has_no_state_to_save():
    assert kept(Frozen(), tiny_model(900)).state_dict() == {}


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("choice", [Frozen(), EMA(), Snapshot(), Live()])
@pytest.mark.parametrize("make", [lambda: tiny_model(900), adapted], ids=["whole", "lora"])
def test_the_students_weights_come_back_exactly(make, choice: Any, fails: bool):
    model = make()
    keeper = kept(choice, model)
    moved(model)
    before, places = weights_of(model), {n: p.data_ptr() for n, p in model.named_parameters()}
    said = teacher_inputs(model)
    try:
        with keeper.use(model) as reader:
            teacher_inputs(reader)
            if fails:
                raise KeyError
    except KeyError:
        pass
    assert gap(weights_of(model), before) == 0
    assert {n: p.data_ptr() for n, p in model.named_parameters()} == places
    assert teacher_inputs(model).equal(said)
    assert all(p.requires_grad for p in trainable(model).values()) and trainable(model)


def test_an_external_teacher_reads_with_weights_and_head_of_its_own(tmp_path: Path):
    torch.manual_seed(0)
    other = tiny_model(900, hidden_size=32, num_hidden_layers=1)
    other.save_pretrained(tmp_path)
    model = tiny_model(900)
    keeper = kept(External(str(tmp_path)), model)
    assert isinstance(keeper, Other)
    moved(model)
    keeper.update(model, 1)
    with keeper.use(model) as reader:
        torch.testing.assert_close(teacher_inputs(reader), teacher_inputs(other), atol=1e-6, rtol=0)
        assert not any(p.requires_grad for p in reader.parameters()) and not reader.training


def test_a_fingerprint_tells_weights_apart():
    assert fingerprint(tiny_model(900)) == fingerprint(tiny_model(900))
    model = tiny_model(900)
    model.lm_head.weight.data[0, 0] += 1e-3
    assert fingerprint(model) != fingerprint(tiny_model(900))


@pytest.mark.parametrize("peft", [None, lora()], ids=["whole", "lora"])
def test_training_leaves_a_frozen_teacher_at_the_start(tmp_path: Path, tiny_folder, peft):
    trainer = OPSDTrainer(
        str(tiny_folder), methods.opsd(), config(tmp_path), problems(8), peft_config=peft
    )
    start = teacher_inputs(trainer.model)
    trainer.train()
    assert (teacher_inputs(trainer.model) - start).abs().max() > 1e-3
    with trainer.weights[Frozen()].use(trainer.model) as reader:
        torch.testing.assert_close(teacher_inputs(reader), start, atol=1e-6, rtol=0)


def test_training_moves_an_average_after_every_step(tmp_path: Path, tiny_folder):
    method = methods.opsd()
    teacher = type(method.signal.teacher)(method.signal.teacher.context, EMA(decay=0.5))
    method = type(method)("opsd", type(method.signal)(teacher), student=method.student)
    trainer = OPSDTrainer(str(tiny_folder), method, config(tmp_path, max_steps=1), problems(8))
    start = weights_of(trainer.model)
    trainer.train()
    end, average = weights_of(trainer.model), trainer.weights[EMA(decay=0.5)].state_dict()
    for name in average:
        torch.testing.assert_close(average[name], (start[name] + end[name]) / 2)
    assert gap(start, end) > 1e-4
