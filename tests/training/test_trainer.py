"""The trainer: which splits of a step change nothing, what is saved, what users may plug in."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from datasets import Dataset
from peft import LoraConfig, PeftModel
from tests.arrange import config, gap, odd_length, problems, weights_of
from tests.conftest import tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from opsd import methods
from opsd.data.problems import load_problems
from opsd.lm.loading import load_model
from opsd.methods.signals import Likelihood, Sum
from opsd.objective.divergences import forward_kl
from opsd.prompts.contexts import StudentPrompt
from opsd.recipe.schema import load, parse
from opsd.rollout.sources import OnPolicy
from opsd.runs import checkpoint
from opsd.runs.files import read_jsonl
from opsd.runs.folder import RunFolder
from opsd.teacher.weights import EMA, Frozen
from opsd.training.trainer import OPSDTrainer
from opsd.types import Problem, UserError, Verdict

LORA = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear")
# Lengths differ, so that a wrong share of a micro-batch or of padding would show.
ROWS = [replace(p, prompt=p.text * (1 + i % 3), id="") for i, p in enumerate(problems(8))]


def trained(folder: Path, model: object, method: Any = None, **changes: Any) -> OPSDTrainer:
    """A run of two steps on eight problems, four rollouts a step."""
    extra = {
        key: changes.pop(key)
        for key in ("peft_config", "callbacks", "verifier", "eval_dataset", "train_dataset")
        if key in changes
    }
    extra = {"train_dataset": ROWS, "verifier": odd_length, **extra}
    trainer = OPSDTrainer(
        model if isinstance(model, torch.nn.Module) else str(model),
        method or methods.opsd(),
        config(folder, **changes),
        **extra,
    )
    trainer.train()
    return trainer


def test_the_same_seed_gives_the_same_weights_and_another_does_not(tmp_path, tiny_folder):
    one = weights_of(trained(tmp_path / "1", tiny_folder).model)
    torch.rand(3)
    assert gap(one, weights_of(trained(tmp_path / "2", tiny_folder).model)) == 0
    assert gap(one, weights_of(trained(tmp_path / "3", tiny_folder, seed=1).model)) > 1e-5


@pytest.mark.parametrize(
    "method",
    [methods.opsd(), methods.grpo(beta=0.1, group=4), methods.star()],
    ids=lambda method: method.name,
)
def test_gradient_accumulation_changes_no_weight(tmp_path, tiny_folder, method):
    runs = [
        trained(
            tmp_path / str(steps),
            tiny_folder,
            method,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=steps,
            verifier=odd_length,
            optim="sgd",
            learning_rate=0.1,
            max_steps=1 + (method.name == "opsd"),
        )
        for batch, steps in [(8, 1), (2, 4)]
    ]
    start = weights_of(load_model(str(tiny_folder)))
    first = weights_of(runs[0].model)
    assert gap(start, first) > 1e-4
    for other in runs[1:]:
        assert gap(first, weights_of(other.model)) < 1e-6
        for a, b in zip(runs[0].state.log_history, other.state.log_history, strict=True):
            if "loss" in a:
                names = a.keys() & {"loss", "divergence", "entropy/student", "grad_norm"}
                assert {n: b[n] for n in names} == pytest.approx(
                    {n: a[n] for n in names}, rel=1e-4, abs=1e-6
                )


def test_the_loss_of_a_token_mean_is_the_mean_divergence(tmp_path, tiny_folder):
    run = trained(
        tmp_path, tiny_folder, methods.opsd(divergence=forward_kl), gradient_accumulation_steps=2
    )
    rows = [row for row in run.state.log_history if "loss" in row]
    assert len(rows) == 2 and rows[0]["loss"] > 0
    for row in rows:
        assert row["loss"] == pytest.approx(row["divergence"], rel=1e-5)


@pytest.fixture(scope="module")
def plain_runs(tmp_path_factory, tiny_folder):
    """What settings that only save memory are compared with: whole, and under an adapter."""
    folder = tmp_path_factory.mktemp("plain")
    sgd = {"optim": "sgd", "learning_rate": 0.1}
    return {
        peft: trained(folder / str(peft), tiny_folder, **sgd, peft_config=LORA if peft else None)
        for peft in (False, True)
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"max_tokens_per_pass": 1},
        {"max_tokens_per_pass": 120},
        {"gradient_checkpointing": True},
        {"loss_chunk_rows": 3},
        pytest.param(
            {"loss_kernel": "compiled"},
            marks=pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning"),
        ),
        {"generation_batch_tokens": 1},
        {"packing": "on"},
        {"packing": "on", "max_tokens_per_pass": 120, "gradient_checkpointing": True},
    ],
    ids=lambda changes: " ".join(f"{k}={v}" for k, v in changes.items()),
)
@pytest.mark.parametrize("peft", [False, True], ids=["whole", "lora"])
def test_what_saves_memory_changes_no_weight(tmp_path, tiny_folder, plain_runs, changes, peft):
    sgd = {"optim": "sgd", "learning_rate": 0.1, "peft_config": LORA if peft else None}
    saving = trained(tmp_path, tiny_folder, **sgd, **changes)
    assert gap(weights_of(plain_runs[peft].model), weights_of(saving.model)) < 1e-6


def test_the_kernel_is_the_one_that_was_asked_for(tmp_path, tiny_folder):
    pytest.importorskip("triton")
    with pytest.raises(UserError, match="the loss kernel 'triton' needs a GPU"):
        trained(tmp_path, tiny_folder, loss_kernel="triton", use_cpu=True)


def test_the_runs_that_are_compared_have_learned(tiny_folder, plain_runs):
    start = weights_of(load_model(str(tiny_folder)))
    assert gap(start, weights_of(plain_runs[False].model)) > 1e-4
    moved = [p for n, p in plain_runs[True].model.named_parameters() if "lora_B" in n]
    assert max(p.abs().max().item() for p in moved) > 1e-5  # they start at 0


@pytest.mark.parametrize("peft", [None, LORA], ids=["whole", "lora"])
def test_bfloat16_learns_about_the_same(tmp_path, tiny_folder, peft):
    exact = trained(tmp_path / "1", tiny_folder, peft_config=peft)
    rough = trained(tmp_path / "2", tiny_folder, peft_config=peft, bf16=True)
    losses = [
        [row["loss"] for row in run.state.log_history if "loss" in row] for run in (exact, rough)
    ]
    assert losses[1][0] == pytest.approx(losses[0][0], rel=0.1)
    masters = {p.dtype for p in rough.model.parameters() if p.requires_grad}
    assert masters == {torch.float32}


def test_in_bfloat16_a_teacher_that_is_the_student_agrees_with_it(tmp_path, tiny_folder):
    """Both read under autocast: one of them in float32 would differ by rounding alone."""
    signal = methods.opsd().signal
    teacher = replace(signal.teacher, context=StudentPrompt(template_options={}))
    method = replace(methods.opsd(), signal=replace(signal, teacher=teacher))
    method = replace(method, student=StudentPrompt(template_options={}))
    run = trained(tmp_path, tiny_folder, method, bf16=True, max_steps=1)
    (row, _) = run.state.log_history
    assert abs(row["divergence"]) < 1e-9


def test_several_teachers_under_autocast_each_read_with_their_own_weights(tmp_path, tiny_folder):
    """Autocast remembers casts of parameters, whose values the teachers swap."""
    own = methods.opsd().student
    base = methods.opsd().signal

    def distill(weights: Any) -> Any:
        return replace(base, teacher=replace(base.teacher, context=own, weights=weights))

    # The first teacher is the student itself, the second one its start.
    terms = ((1.0, distill(EMA(decay=0.0))), (1.0, distill(Frozen())), (1.0, Likelihood()))
    method = replace(methods.opsd(), signal=Sum(terms))
    told = {}
    for bf16 in (False, True):
        run = trained(tmp_path / str(bf16), tiny_folder, method, bf16=bf16, learning_rate=1e-2)
        told[bf16] = [row for row in run.state.log_history if "loss" in row][-1]["divergence"]
    assert told[False] > 0.01
    assert told[True] == pytest.approx(told[False], rel=0.2)


def test_an_adapter_is_saved_alone_and_loads_again(tmp_path, tiny_folder):
    run = trained(tmp_path / "run", tiny_folder, peft_config=LORA)
    run.save_model(str(tmp_path / "out"))
    assert (tmp_path / "out" / "adapter_config.json").is_file()
    assert not (tmp_path / "out" / "model.safetensors").exists()
    ids = torch.tensor([[1, 2, 3, 4]])
    loaded = load_model(str(tmp_path / "out")).eval()
    run.model.eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, run.model(ids).logits)
        base = load_model(str(tiny_folder))(ids).logits
        assert (loaded(ids).logits - base).abs().max() > 1e-5
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template


def test_training_goes_on_with_a_saved_adapter(tmp_path, tiny_folder):
    """Its frozen teacher is the adapter as it was saved, not the base without it."""
    first = trained(tmp_path / "run", tiny_folder, peft_config=LORA)
    first.save_model(str(tmp_path / "out"))
    saved = weights_of(first.model)
    second = OPSDTrainer(str(tmp_path / "out"), methods.opsd(), config(tmp_path / "b"), ROWS)
    assert isinstance(second.model, PeftModel)
    assert gap(saved, weights_of(second.model)) == 0
    second.train()
    moved = {
        name for name, p in second.model.named_parameters() if not p.detach().equal(saved[name])
    }
    assert moved and all("lora_" in name for name in moved)
    with second.weights[Frozen()].use(second.model):
        assert gap(saved, weights_of(second.model)) == 0


def test_a_second_adapter_on_an_adapter_is_refused(tmp_path, tiny_folder):
    first = trained(tmp_path / "run", tiny_folder, peft_config=LORA, max_steps=1)
    first.save_model(str(tmp_path / "out"))
    with pytest.raises(UserError, match="has an adapter already"):
        OPSDTrainer(str(tmp_path / "out"), methods.opsd(), config(tmp_path), ROWS, peft_config=LORA)


def test_a_saved_model_loads_and_carries_its_tokenizer(tmp_path, tiny_folder):
    run = trained(tmp_path / "run", tiny_folder)
    run.save_model(str(tmp_path / "out"))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert gap(weights_of(run.model), weights_of(loaded)) == 0
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template


def test_under_an_adapter_a_run_goes_on_after_other_things_were_drawn(tmp_path, tiny_folder):
    """The adapter starts from the run's seed, not from what its process drew before."""
    saved = {"save_strategy": "steps", "save_steps": 1, "peft_config": LORA}
    whole = trained(tmp_path / "a", tiny_folder, **saved, max_steps=3)
    trained(tmp_path / "b", tiny_folder, **saved, max_steps=1)
    torch.rand(7)
    args = config(tmp_path / "b", max_steps=3, save_strategy="steps", save_steps=1)
    again = OPSDTrainer(str(tiny_folder), methods.opsd(), args, ROWS, peft_config=LORA)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 3
    assert gap(weights_of(whole.model), weights_of(again.model)) == 0


def test_more_steps_than_a_finished_run_had_are_taken(tmp_path, tiny_folder):
    saved = {"save_strategy": "steps", "save_steps": 2}
    trained(tmp_path / "b", tiny_folder, **saved, max_steps=2)
    whole = trained(tmp_path / "a", tiny_folder, **saved, max_steps=4)
    args = config(tmp_path / "b", **saved, max_steps=4)
    again = OPSDTrainer(str(tiny_folder), methods.opsd(), args, ROWS)
    again.train(resume_from_checkpoint=True)
    assert gap(weights_of(whole.model), weights_of(again.model)) == 0


@pytest.mark.parametrize("stop", [{"max_steps": 2}, {"max_steps": 9, "max_generated_tokens": 30}])
def test_a_finished_run_takes_no_further_step(tmp_path, tiny_folder, stop):
    saved = {"save_strategy": "steps", "save_steps": 1, **stop}
    first = trained(tmp_path, tiny_folder, **saved)
    end = first.state.global_step
    assert end == 2 or first.generator.sampler.counts.generated_tokens >= 30
    before = (tmp_path / "metrics.jsonl").read_bytes()
    again = OPSDTrainer(str(tiny_folder), methods.opsd(), config(tmp_path, **saved), ROWS)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == end < 9
    assert gap(weights_of(first.model), weights_of(again.model)) == 0
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_other_weights_than_the_run_began_with_are_refused(tmp_path, tiny_folder, tokenizer):
    saved = {"save_strategy": "steps", "save_steps": 1}
    trained(tmp_path, tiny_folder, **saved, max_steps=1)
    other = tiny_model(len(tokenizer))
    other.lm_head.weight.data.add_(1e-3)
    again = OPSDTrainer(
        other, methods.opsd(), config(tmp_path, **saved), ROWS, processing_class=tokenizer
    )
    with pytest.raises(UserError, match="trained from other weights"):
        again.train(resume_from_checkpoint=True)


def test_another_models_tokenizer_is_refused(tmp_path, tokenizer):
    with pytest.raises(UserError, match="it belongs to another model"):
        OPSDTrainer(
            tiny_model(100), methods.opsd(), config(tmp_path), ROWS, processing_class=tokenizer
        )


def test_a_step_of_which_nothing_fits_has_no_loss_and_is_counted(tmp_path, tiny_folder):
    long = {"max_length": 20, "prompt_too_long": "skip"}
    run = trained(tmp_path, tiny_folder, **long)
    start = load_model(str(tiny_folder))
    assert gap(weights_of(start), weights_of(run.model)) == 0
    rows = [row for row in run.state.log_history if "loss" in row]
    assert [row["loss"] for row in rows] == [0.0, 0.0]
    assert [row["skipped_prompts"] for row in rows] == [4, 8]
    assert [row["rollouts_learned"] for row in rows] == [0, 0]
    assert [row["generated_tokens"] for row in rows] == [0, 0]


def test_prompts_that_do_not_fit_are_not_tried_again_when_a_batch_is_reused(tmp_path, tiny_folder):
    long = {"max_length": 20, "prompt_too_long": "skip", "per_device_train_batch_size": 4}
    args, method = config(tmp_path, **long), methods.grpo(group=2, reuse=2)
    run = OPSDTrainer(str(tiny_folder), method, args, ROWS)
    run.train()
    rows = [row for row in run.state.log_history if "loss" in row]
    assert [row["skipped_prompts"] for row in rows] == [2, 2]


def test_a_step_without_a_right_answer_has_no_loss_for_star(tmp_path, tiny_folder):
    def wrong(problem: Problem, completion: str) -> Verdict:
        return Verdict(0.0, False, False)

    run = trained(tmp_path, tiny_folder, methods.star(), verifier=wrong)
    rows = [row for row in run.state.log_history if "loss" in row]
    assert [row["loss"] for row in rows] == [0.0, 0.0]
    assert gap(weights_of(load_model(str(tiny_folder))), weights_of(run.model)) == 0


def test_some_prompts_too_long_leave_the_others_to_learn_from(tmp_path, tiny_folder):
    rows = [*problems(4), *(replace(p, prompt=p.text * 50, id="") for p in problems(4))]
    run = trained(
        tmp_path,
        tiny_folder,
        train_dataset=rows,
        per_device_train_batch_size=8,
        max_steps=1,
        max_length=600,
        prompt_too_long="skip",
    )
    (row, _) = run.state.log_history
    assert (row["rollouts_learned"], row["skipped_prompts"]) == (4, 4)
    assert row["loss"] > 0


class Noted(TrainerCallback):
    def __init__(self) -> None:
        self.events: list[str] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.events.append(f"step {state.global_step}")

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" in logs:
            self.events.append(f"log {sorted(logs)[0]}")

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any, **kw: Any) -> None:
        self.events.append(f"evaluate {metrics['eval_avg@k']}")


def test_callbacks_and_trackers_see_what_is_logged(tmp_path, tiny_folder):
    noted = Noted()
    run = trained(
        tmp_path,
        tiny_folder,
        callbacks=[noted],
        eval_dataset=problems(2, "yor"),
        eval_strategy="steps",
        eval_steps=2,
    )
    kinds = [event.split()[0] for event in noted.events]
    assert kinds == ["step", "log", "step", "log", "evaluate"]
    assert noted.events[-1] == "evaluate 0.5"
    logged = list(read_jsonl(tmp_path / "metrics.jsonl"))
    assert [row["step"] for row in logged] == [1, 2, 2]
    assert {"loss", "divergence", "completions/mean_length", "generated_tokens", "reward"} <= (
        logged[0].keys()
    )
    assert logged[2]["eval_avg@k"] == 0.5
    assert run.args.report_to == []


def test_a_tracker_named_in_report_to_is_one_of_the_callbacks(tmp_path, tiny_folder, monkeypatch):
    from transformers import integrations

    class Tracker(TrainerCallback):
        """Stands where a tracker of a hosted service would."""

    monkeypatch.setitem(
        integrations.integration_utils.INTEGRATION_TO_CALLBACK, "codecarbon", Tracker
    )
    args = config(tmp_path, report_to=["codecarbon"])
    run = OPSDTrainer(str(tiny_folder), methods.opsd(), args, ROWS)
    assert any(isinstance(c, Tracker) for c in run.callback_handler.callbacks)


def test_the_best_checkpoint_on_the_dev_problems_is_loaded_at_the_end(tmp_path, tiny_folder):
    """The verdicts fall from evaluation to evaluation, so that the first checkpoint is the best."""
    judged: list[str] = []

    def falling(problem: Problem, completion: str) -> Verdict:
        if problem.language != "yor":
            return Verdict(1.0, True, True)
        rounds, i = divmod(len(judged), 6)
        judged.append(completion)
        return Verdict(float(i < 4 - 2 * rounds), i < 4 - 2 * rounds, True)

    kept: dict[int, dict[str, torch.Tensor]] = {}

    class Keep(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kw: Any) -> None:
            kept[state.global_step] = weights_of(kw["model"])

    run = trained(
        tmp_path,
        tiny_folder,
        max_steps=3,
        verifier=falling,
        callbacks=[Keep()],
        eval_dataset=problems(3, "yor"),
        eval_samples=2,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
    )
    assert len(judged) == 3 * 6
    assert run.state.best_metric == pytest.approx(4 / 6)
    assert run.state.best_model_checkpoint.endswith("checkpoint-1")
    assert gap(weights_of(run.model), kept[1]) == 0
    assert gap(weights_of(run.model), kept[3]) > 0


def test_dev_scores_change_nothing_of_the_run(tmp_path, tiny_folder):
    plain = trained(tmp_path / "1", tiny_folder, max_steps=3)
    scored = trained(
        tmp_path / "2",
        tiny_folder,
        max_steps=3,
        eval_dataset=problems(2, "yor"),
        eval_strategy="steps",
        eval_steps=1,
    )
    assert gap(weights_of(plain.model), weights_of(scored.model)) == 0
    assert (
        plain.generator.sampler.counts.generated_tokens
        == scored.generator.sampler.counts.generated_tokens
    )


def test_off_policy_rollouts_come_from_the_start_and_not_from_the_student(tmp_path, tiny_folder):
    method = methods.off_policy_distillation()
    own = replace(method, source=OnPolicy(view=method.source.view))
    frozen = trained(tmp_path / "1", tiny_folder, method)
    still = trained(tmp_path / "2", tiny_folder, method, learning_rate=0.0)
    live = trained(tmp_path / "3", tiny_folder, own, learning_rate=0.01)

    def written(run: OPSDTrainer) -> dict[tuple[int, str], list[int]]:
        rows = read_jsonl(run.run.path / "rollouts" / "rank0.jsonl")
        return {(row["step"], row["problem"]): row["completion_ids"] for row in rows}

    assert written(frozen) == written(still)
    assert written(live) != written(still)
    assert frozen.generator.engine.model is frozen.model


def test_rollouts_are_written_with_both_prompts_and_a_divergence_per_token(tmp_path, tiny_folder):
    run = trained(tmp_path, tiny_folder, rollout_log_steps=1)
    rows = list(read_jsonl(tmp_path / "rollouts" / "rank0.jsonl"))
    assert [row["step"] for row in rows] == [0] * 4 + [1] * 4
    for row in rows:
        assert len(row["divergence"]) == len(row["completion_ids"])
        assert run.processing_class.decode(row["prompt_ids"]) == row["prompt"]
        (view,) = row["views"]
        assert view["name"] == "solution" and view["weights"] == "frozen"
        assert "Suluhisho" in view["prompt"] and "Suluhisho" not in row["prompt"]


def test_rollouts_that_are_not_asked_for_are_not_written(tmp_path, tiny_folder):
    trained(tmp_path, tiny_folder, rollout_log_steps=0)
    assert not (tmp_path / "rollouts").exists()


def test_a_model_and_a_tokenizer_without_padding_may_be_passed(tmp_path, tokenizer):
    from opsd.miniature.tokenizer import build_tokenizer

    bare = build_tokenizer()
    bare.pad_token = None
    model = tiny_model(len(tokenizer))
    run = OPSDTrainer(model, methods.opsd(), config(tmp_path), ROWS, processing_class=bare)
    run.train()
    assert bare.pad_token_id == bare.eos_token_id
    assert run.state.global_step == 2


def test_rows_with_the_usual_names_are_problems(tmp_path, tiny_folder):
    """As a dataset of the `datasets` library gives them, and as plain mappings."""
    rows = [
        {"prompt": p.text, "privileged_context": p.privileged["solution"], "language": "swa"}
        for p in problems(8)
    ]
    told = []
    for name, given in (("rows", rows), ("dataset", Dataset.from_list(rows))):
        run = OPSDTrainer(str(tiny_folder), methods.opsd(), config(tmp_path / name), given)
        run.train()
        told.append(weights_of(run.model))
        assert {p.language for p in run.train_dataset} == {"swa"}
    assert gap(*told) == 0
    with pytest.raises(UserError, match="row 2: the column 'prompt' is empty"):
        OPSDTrainer(
            str(tiny_folder), methods.opsd(), config(tmp_path), [rows[0], {**rows[1], "prompt": ""}]
        )


def test_dropout_is_off(tmp_path, tokenizer):
    model = tiny_model(len(tokenizer), attention_dropout=0.5)
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", lora_dropout=0.5)
    run = OPSDTrainer(
        model, methods.opsd(), config(tmp_path), ROWS, processing_class=tokenizer, peft_config=lora
    )
    run.model.train()
    ids = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad():
        assert run.model(ids).logits.equal(run.model(ids).logits)


def test_problems_without_answers_serve_distillation_and_not_rewards(tmp_path, tiny_folder):
    bare = [replace(p, answer=None, id="") for p in problems(8)]
    plain = config(tmp_path)
    OPSDTrainer(str(tiny_folder), methods.opsd(), plain, bare).train()
    grouped = methods.grpo(group=2)
    with pytest.raises(UserError, match="grpo learns from right and wrong answers, but 8 problems"):
        OPSDTrainer(str(tiny_folder), grouped, plain, bare)
    OPSDTrainer(str(tiny_folder), grouped, plain, bare, verifier=odd_length)  # brings its own


def test_dev_problems_without_answers_are_refused_before_the_first_step(tmp_path, tiny_folder):
    bare = [replace(p, answer=None, id="") for p in problems(2)]
    with pytest.raises(UserError, match="dev problems are graded"):
        OPSDTrainer(str(tiny_folder), methods.opsd(), config(tmp_path), ROWS, bare)


WITHOUT = [replace(p, privileged={"translation": "t"}, id="") for p in problems(2, "yor")]


@pytest.mark.parametrize(
    ("method", "shown"),
    [
        (methods.opsd(), "which the teacher's prompt 'solution' shows"),
        (
            replace(methods.grpo(group=2), student=StudentPrompt(template="Say {{ solution }}")),
            "which the student's prompt 'Say {{ solution }}' shows",
        ),
        (methods.sft(), "which is to be learned"),
        (methods.star(), "which the sampler's prompt 'solution' shows"),
    ],
)
def test_texts_that_some_problems_lack_are_told_before_the_first_step(
    tmp_path, tiny_folder, method, shown
):
    rows = [*ROWS[:3], *WITHOUT, *ROWS[3:]]
    with pytest.raises(UserError) as error:
        OPSDTrainer(str(tiny_folder), method, config(tmp_path), rows, verifier=odd_length)
    assert str(error.value) == (
        f"problem {WITHOUT[0].id}: no 'solution', {shown}; 2 of 10 problems lack it: leave them out"
        " with --set data.columns.solution=COLUMN --set data.filters.complete=true, or fill the"
        " column"
    )


def test_a_text_that_no_problem_has_is_a_column_to_be_named(tmp_path, tiny_folder):
    with pytest.raises(UserError, match="2 of 2 problems lack it: say which column it is with"):
        OPSDTrainer(str(tiny_folder), methods.opsd(), config(tmp_path), WITHOUT)


def test_the_way_out_of_an_empty_cell_is_one(tmp_path, tiny_folder):
    lines = [f"{i} + 1 = ?,{i + 1},{'' if i == 2 else 'It is'}" for i in range(6)]
    (tmp_path / "rows.csv").write_text("\n".join(["problem,answer,solution", *lines]))
    data = {"source": str(tmp_path / "rows.csv")}
    content = {"model": str(tiny_folder), "method": "opsd", "data": data}
    rows, _ = load_problems(parse(content).data)
    with pytest.raises(UserError) as error:
        OPSDTrainer(str(tiny_folder), methods.opsd(), config(tmp_path / "run"), rows)
    told = str(error.value)
    assert told.startswith(f"{tmp_path / 'rows.csv'}, row 3: no 'solution', ")
    assert "1 of 6 problems lack it" in told
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(content))
    made = load(str(tmp_path / "r.yaml"), re.findall(r"--set (\S+?)(?:,| )", told))
    rows, _ = load_problems(made.data)
    assert len(rows) == 5
    OPSDTrainer(str(tiny_folder), methods.opsd(), config(tmp_path / "run"), rows)


def test_groups_that_fill_no_step_are_refused_before_the_first_step(tmp_path, tiny_folder):
    with pytest.raises(UserError, match="cannot be split into groups of 3"):
        OPSDTrainer(str(tiny_folder), methods.grpo(group=3), config(tmp_path), ROWS)
    with pytest.raises(UserError, match="the training set is empty"):
        OPSDTrainer(str(tiny_folder), methods.opsd(), config(tmp_path), [])


def test_files_of_the_users_own_survive_in_a_run_folder(tmp_path):
    mine = tmp_path / "problems.jsonl"
    mine.write_text('{"problem": "p"}\n')
    run = RunFolder(tmp_path)
    run.append("metrics.jsonl", [{"step": 1}])
    run.cut_back({})
    assert mine.read_text() == '{"problem": "p"}\n'
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_checkpoint_holds_the_counters_and_the_journals_sizes(tmp_path, tiny_folder):
    run = trained(tmp_path, tiny_folder, save_strategy="steps", save_steps=2)
    state = checkpoint.load_state(checkpoint.newest(tmp_path))
    assert state["generated_tokens"] == run.generator.sampler.counts.generated_tokens > 0
    assert state["skipped"] == 0
    assert state["sizes"].keys() == {"metrics.jsonl", "rollouts/rank0.jsonl"}
    rows = json.dumps(list(read_jsonl(tmp_path / "metrics.jsonl")))
    assert '"step": 2' in rows
