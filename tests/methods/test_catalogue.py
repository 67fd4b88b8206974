"""Every method of the catalogue: documented, a value, and able to learn."""

from __future__ import annotations

import inspect
import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from tests.arrange import config, every_second, gap, metrics, odd_length, problems, weights_of

from opsd import methods
from opsd.authors.skill_bank import BankUpdate, SkillAuthor
from opsd.methods import FUNCTIONS, Method, catalogue
from opsd.methods.description import describe
from opsd.methods.signals import Sum, Teacher, loss_terms
from opsd.objective.divergences import jsd, reverse_kl
from opsd.objective.total import Reduction
from opsd.parts import parts_of
from opsd.prompts.contexts import Careless, Hints, Majority
from opsd.recipe import schema as recipe
from opsd.recipe.files import shipped
from opsd.rollout.engine import Decoding
from opsd.training.trainer import OPSDTrainer
from opsd.types import Problem, UserError

HEADINGS = ("What it is", "What differs from the paper", "What it needs", "One command")
MEASURED = "What we measured"
EVIDENCE = Path(__file__).parents[2] / "evidence" / "arms.json"
# The study, and its arms in the order in which a docstring has them.
MEASURED_ARMS = {
    "opsd": ("miniature-long", "opsd", "opsd, unclipped reverse KL", "opsd_v1"),
    "rcsd": ("miniature-long", "rcsd", "rcsd, unclipped"),
    "op2sd": ("miniature-long", "op2sd", "op2sd, unclipped"),
    "purified_opsd": ("miniature-long", "purified_opsd"),
    "copsd": ("miniature", "copsd", "copsd, forward KL", "copsd, reverse KL"),
}
ADAPTER = TypeAdapter(Method)
BANK = str(Path(__file__).parents[1] / "data" / "skills.yaml")
BY_TAG = SkillAuthor(BANK, k=2, by="tag", update=BankUpdate(every=1, max_tokens=20))
VARIANTS = {
    **catalogue(),
    # Retrieval by embedding needs a model of the hub.
    "sgsd": replace(methods.sgsd(), authors=(BY_TAG,)),
    # A tiny model that writes at random hardly comes to an end by itself.
    "step_critique": methods.step_critique(max_tokens=24),
    # Blocks that are small beside the canvas: the last one is not taught.
    "d_opsd": methods.d_opsd(decoding=Decoding(block_length=2, tokens_per_step=1)),
    "nsd": methods.nsd(max_tokens=24),
    "grpo(beta)": methods.grpo(beta=0.1),
    "grpo(reuse)": methods.grpo(group=2, reuse=2),
    "copsd(reverse_kl)": methods.copsd(divergence=reverse_kl),
    "opsd(jsd)": methods.opsd(divergence=jsd(0.3)),
    "off_policy_distillation(likelihood)": methods.off_policy_distillation(likelihood=True),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_method_says_what_it_is_differs_in_needs_and_is_run_by(name: str):
    text = inspect.getdoc(FUNCTIONS[name])
    first, *lines = text.splitlines()
    assert ": " in first and first.endswith(".")
    starts = [line.partition(":")[0] for line in lines]
    found = [start for start in starts if start in (*HEADINGS, MEASURED)]
    assert [start for start in found if start != MEASURED] == list(HEADINGS)
    assert found.index(MEASURED) == 3 if MEASURED in found else True
    assert lines[-1] == f"One command: opsd train {name}"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_a_method_says_that_was_measured_is_what_the_stored_run_has(name: str):
    text = " ".join((FUNCTIONS[name].__doc__ or "").split())
    told = text.partition(f"{MEASURED}: ")[2]
    assert bool(told) == (name in MEASURED_ARMS)
    study, *arms = MEASURED_ARMS.get(name, ("miniature",))
    gains = {
        row["arm"]: row["gains"]["avg@k"]
        for row in json.loads(EVIDENCE.read_text())[study]
        if row["gains"]
    }
    stored = [(f"{gains[arm][0]:+.2f}", *(f"{x:.2f}" for x in gains[arm][1:])) for arm in arms]
    assert re.findall(r"([+-]0\.\d\d) \((-?0\.\d\d) to (-?0\.\d\d)\)", told) == stored


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_methods_name_is_its_functions_and_its_paper_is_named(name: str):
    method = FUNCTIONS[name]()
    assert method.name == name == FUNCTIONS[name].__name__
    assert "arXiv" in method.paper
    assert catalogue()[name] == method


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_recipe_of_its_own_name_trains_it(name: str):
    assert name in shipped()
    assert recipe.load(name).method.name == name


@pytest.mark.parametrize("name", VARIANTS)
def test_a_method_goes_to_json_and_back(name: str):
    method = VARIANTS[name]
    assert ADAPTER.validate_json(ADAPTER.dump_json(method)) == method
    assert ADAPTER.validate_python(ADAPTER.dump_python(method, mode="json")) == method


def test_no_two_methods_are_the_same():
    values = [(m.source, m.signal, m.student, m.reuse) for m in VARIANTS.values()]
    assert all(one != other for i, one in enumerate(values) for other in values[:i])


@pytest.mark.parametrize("name", VARIANTS)
def test_a_description_has_every_part_by_its_type_and_every_number(name: str):
    method = VARIANTS[name]
    text = describe(method, 1.1)
    for x in parts_of(method):
        if not isinstance(x, Method | Sum | Teacher | Reduction):
            assert getattr(x, "formula", getattr(x, "type", "")) in text, x
    for _, leaf in loss_terms(method.signal):
        reduction = leaf.reduction
        assert f"averaged per {reduction.unit}, over {reduction.over} units" in text
    assert f"reuse: each batch of rollouts for {method.reuse} optimizer step" in text


def test_what_the_catalogue_has_is_credited_to_the_paper_alone():
    for name, method in catalogue().items():
        text = describe(method, 1.0)
        assert text.startswith(f"method {name} ({method.paper})\n") and "changed" not in text


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"source": {"horizon": {"type": "truncated"}}}, "source.horizon.type: full -> truncated"),
        ({"source": {"group": 4}}, "source.group: 1 -> 4"),
        ({"reuse": 3}, "reuse: 1 -> 3"),
        (
            {"signal": {"teacher": {"weights": {"type": "ema", "decay": 0.5}}}},
            "signal.teacher.weights.type: frozen -> ema",
        ),
        (
            {"signal": {"teacher": {"support": {"type": "top_k"}}}},
            "signal.teacher.support.type: full -> top_k",
        ),
        ({"signal": {"weighting": [{"type": "pass_rate"}]}}, "signal.weighting"),
        ({"signal": {"reduction": {"unit": "group"}}}, "signal.reduction.unit: token -> group"),
        ({"divergence": "reverse_kl"}, "signal.divergence.type: pointwise_clip -> reverse_kl"),
        ({"student": {"prefill": "Hm"}}, "student.prefill: '' -> Hm"),
    ],
)
def test_what_is_changed_from_the_paper_is_said(given: dict, told: str):
    if "divergence" in given:
        given = {"divergence": {"type": "reverse_kl"}}
    method = recipe.method({"name": "opsd", **given})
    text = describe(method, 1.0)
    changed = [line for line in text.splitlines() if "changed from the paper: " in line]
    assert len(changed) == 1 + ("weighting" in told) and told in changed[0]
    assert text.splitlines()[0] == f"method opsd ({method.paper}, changed as below)"


def test_a_method_of_ones_own_name_is_compared_with_none():
    text = describe(replace(methods.opsd(), name="mine", reuse=2), 1.0)
    assert "changed" not in text


def test_the_kl_of_grpo_is_a_second_signal_with_its_own_coefficient():
    signal = methods.grpo(beta=0.1).signal
    assert isinstance(signal, Sum)
    assert [coefficient for coefficient, _ in loss_terms(signal)] == [1.0, 0.1]


def taught(n: int) -> list[Problem]:
    """Rows with every text that a method asks for."""
    names = ("demonstration", "document", "rubric")
    texts = [dict.fromkeys(names, p.privileged["solution"]) for p in problems(n)]
    return [
        replace(p, privileged={**p.privileged, **more}, id="")
        for p, more in zip(problems(n), texts, strict=True)
    ]


@pytest.fixture
def student_of(tiny_folder: Path, diffusion_folder: Path) -> Callable[[Method], tuple[str, int]]:
    """A model that writes at random, of the kind that a method is for, and how many tokens; one
    that has learned to read and answer, and time for it, where the signal depends on that."""

    def chosen(method: Method) -> tuple[str, int]:
        if any(isinstance(x, Hints | Majority | Careless) for x in parts_of(method.signal)):
            return "miniature-tiny", 32
        return str(diffusion_folder if method.source.rows.of_canvas else tiny_folder), 6

    return chosen


@pytest.mark.parametrize("name", VARIANTS)
def test_two_steps_change_the_weights_by_a_finite_loss(name: str, tmp_path: Path, student_of):
    method = VARIANTS[name]
    model, length = student_of(method)
    size = method.source.group
    args = config(tmp_path, per_device_train_batch_size=size, max_completion_length=length)
    trainer = OPSDTrainer(model, method, args, taught(8), verifier=every_second())
    start = weights_of(trainer.model)
    trainer.train()
    logged = [row for row in trainer.state.log_history if "loss" in row]
    assert len(logged) == 2
    assert all(math.isfinite(row["loss"]) and math.isfinite(row["grad_norm"]) for row in logged)
    # What an untrained model writes of its rollouts is no critique, and teaches nothing.
    learned = name != "step_critique"
    assert (logged[0]["grad_norm"] > 0) == learned
    assert (gap(start, weights_of(trainer.model)) > 1e-5) == learned


@pytest.mark.parametrize("name", VARIANTS)
def test_a_resumed_run_ends_bit_for_bit_as_the_whole_one(name: str, tmp_path: Path, student_of):
    method = VARIANTS[name]
    saved = {"save_strategy": "steps", "save_steps": 1, "max_steps": 3, "logging_steps": 1}

    def run(resume: bool) -> OPSDTrainer:
        model, length = student_of(method)
        size = {"per_device_train_batch_size": method.source.group}
        args = config(tmp_path, **saved, **size, max_completion_length=length)
        # Verdicts that depend on the completion alone, whatever was judged before.
        trainer = OPSDTrainer(model, method, args, taught(8), verifier=odd_length)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole, before = weights_of(run(False).model), metrics(tmp_path)
    for step in (2, 3):
        shutil.rmtree(tmp_path / f"checkpoint-{step}")
    assert gap(whole, weights_of(run(True).model)) == 0
    assert metrics(tmp_path) == before


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            {"signal": {"weighting": [{"type": "contrasted"}]}},
            "the weighting 'contrasted' needs the target 'contrastive'",
        ),
        (
            {
                "signal": {
                    "teacher": {
                        "context": {
                            "type": "filtered",
                            "where": "teacher_right",
                            "context": {"type": "solution"},
                        }
                    }
                }
            },
            "needs what the author 'attempt' writes, but the method has no author of that name",
        ),
    ],
)
def test_parts_that_miss_one_another_are_refused_in_a_line(given: dict, told: str):
    with pytest.raises(UserError, match=told) as refused:
        recipe.method({"name": "opsd", **given})
    assert "\n" not in str(refused.value)
