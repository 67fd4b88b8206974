"""Each method's gradient on one batch beside its nearest relative's: another one, and the same
where what it adds is neutral."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.arrange import config, every_second, weights_of
from tests.methods.test_catalogue import BANK, taught

from opsd import methods
from opsd.authors.authors import FunctionAuthor
from opsd.authors.skill_bank import SkillAuthor
from opsd.methods import Method
from opsd.methods.signals import Advantage, Distill, Likelihood, Sum, Teacher
from opsd.objective.credit import ReturnToGo
from opsd.objective.divergences import forward_kl, jsd, reverse_kl
from opsd.objective.support import TopK
from opsd.objective.targets import Barycenter, Contrastive, Mixture, Purified
from opsd.objective.total import Reduction
from opsd.objective.weighting import ImportanceWeight
from opsd.prompts.contexts import Careless, Demonstration, Feedback, MultiView, OwnPrompt, Solution
from opsd.rollout.sources import OnPolicy
from opsd.teacher.weights import EMA, Frozen
from opsd.training.trainer import OPSDTrainer
from opsd.types import Problem, Verdict

FOUR = OnPolicy(group=4)


def all_wrong(problem: Problem, completion: str) -> Verdict:
    return Verdict(0.0, False, False)


@pytest.fixture(scope="module")
def gradient(tmp_path_factory, tiny_folder: Path):
    """What one step of plain gradient descent on the same four or eight problems changes, of a
    model that writes at random or of one that has learned to read and `answers`."""
    known: dict = {}

    def of(method: Method, verifier=None, answers: bool = False) -> torch.Tensor:
        key = repr(method), verifier, answers
        if key not in known:
            args = config(
                tmp_path_factory.mktemp("step"),
                max_steps=1,
                per_device_train_batch_size=8,
                max_completion_length=32 if answers else 12,
                learning_rate=1.0,
                max_grad_norm=0.0,
                optim="sgd",
            )
            model = "miniature-tiny" if answers else str(tiny_folder)
            trainer = OPSDTrainer(
                model, method, args, taught(8), verifier=verifier or every_second()
            )
            start = weights_of(trainer.model)
            trainer.train()
            end = weights_of(trainer.model)
            known[key] = torch.cat([(start[n] - end[n]).flatten() for n in start])
        return known[key]

    return of


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return ((one - other).norm() / other.norm()).item()


def of_teacher(method: Method, **changes) -> Method:
    signal = replace(method.signal, teacher=replace(method.signal.teacher, **changes))
    return replace(method, signal=signal)


def in_fours(method: Method) -> Method:
    return replace(method, source=FOUR)


def opsd_by(divergence) -> Method:
    return methods.opsd(divergence)


GRPO = methods.grpo(group=4)
OPSD = methods.opsd()
SIBLING = Method(
    "sibling",
    Distill(Teacher(Demonstration(), EMA(0.95), TopK(100)), reverse_kl, (ImportanceWeight(2.0),)),
    source=FOUR,
)
DEMOPSD = methods.demopsd(group=4)
BETA = methods.beta_opsd()
SGSD = replace(methods.sgsd(), authors=(SkillAuthor(BANK, k=2, by="tag"),))
CRITIC = FunctionAuthor("critique", function="tests.methods.test_relatives:critic")
CRITIQUE = replace(methods.step_critique(), authors=(CRITIC,))


def critic(problem: Problem, completion: str, right: bool | None) -> str:
    return f"<step_1> {problem.answer} <answer>{problem.answer}"


DIFFERENT = {
    "sgsd, the first of its teachers": (
        SGSD,
        replace(SGSD, authors=(SkillAuthor(BANK, k=1, by="tag"),)),
    ),
    "step_critique, opsd": (CRITIQUE, replace(opsd_by(forward_kl), student=CRITIQUE.student)),
    "rcsd, its rubric beside the reference": (methods.rcsd(), methods.rcsd(reference=True)),
    "opsd_v1, opsd": (methods.opsd_v1(), OPSD),
    "purified_opsd, opsd": (methods.purified_opsd(), opsd_by(jsd(0.5))),
    "demopsd, its teacher alone": (methods.demopsd(0.9, beta=1e5, group=4), SIBLING),
    "beta_opsd, sampled_token": (BETA, methods.sampled_token()),
    "topd, opsd": (methods.topd(0.25), OPSD),
    "popd, topd": (methods.popd(start=6), methods.topd(0.25)),
    "sdpo, demopsd": (methods.sdpo(group=4), DEMOPSD),
    "sdft, opsd": (methods.sdft(), opsd_by(methods.sdft().signal.divergence)),
    "ssopd, grpo": (methods.ssopd(group=4), GRPO),
    "rlsd, grpo": (methods.rlsd(group=4), GRPO),
    "paced, opsd in groups": (
        methods.paced(group=4),
        in_fours(opsd_by(methods.paced().signal.divergence)),
    ),
    "opcd, sdft": (methods.opcd(), methods.sdft(reverse_kl)),
    "crisp, opcd": (methods.crisp(), methods.opcd()),
}


# Of a model that answers; GRPO averages tokens there, as its relatives do.
BY_TOKEN = Method("by_token", Advantage(), source=FOUR)
RLCSD = replace(methods.rlcsd(group=4), student=BY_TOKEN.student)
ECTR = methods.opsd_ectr(group=4)
EVEN = replace(ECTR, signal=replace(ECTR.signal, weighting=()))
NSD = methods.nsd(max_tokens=24)
DIFFERENT_ANSWERS = {
    "rlcsd, grpo": (RLCSD, BY_TOKEN),
    "opsd_ectr, its right hint alone": (EVEN, of_teacher(EVEN, target=Mixture((1.0, 0.0)))),
    "opsd_ectr, every token alike": (ECTR, EVEN),
    "sdpg, grpo": (methods.sdpg(beta=1.0, group=4), BY_TOKEN),
    "op2sd, opsd": (methods.op2sd(), OPSD),
    "u_opsd, opsd in groups": (methods.u_opsd(group=4), in_fours(OPSD)),
    "nsd, as careful as before": (NSD, OPSD),
}


@pytest.mark.parametrize("pair", DIFFERENT_ANSWERS)
def test_a_method_of_answers_is_not_its_nearest_relative(pair: str, gradient):
    one, other = (gradient(method, answers=True) for method in DIFFERENT_ANSWERS[pair])
    assert one.norm() > 0 and distance(one, other) > 0.01


@pytest.mark.parametrize("pair", DIFFERENT)
def test_a_method_is_not_its_nearest_relative(pair: str, gradient):
    one, other = (gradient(method) for method in DIFFERENT[pair])
    assert distance(one, other) > 0.01


def test_hdpo_differs_from_grpo_where_all_are_wrong_and_only_there(gradient):
    assert gradient(GRPO, all_wrong).norm() == 0 < gradient(methods.hdpo(group=4), all_wrong).norm()
    assert distance(gradient(methods.hdpo(group=4)), gradient(GRPO)) < 1e-6


STUDENT = OPSD.student
PLAIN = Reduction(unit="sequence")
SAME = {
    "demopsd without a share for the student": (methods.demopsd(alpha_max=0.0, group=4), SIBLING),
    "purified_opsd with the base as its probe, unclipped": (
        of_teacher(
            methods.purified_opsd(clip=None),
            context=MultiView(
                (Solution(template_options={"enable_thinking": True}), STUDENT, STUDENT)
            ),
        ),
        opsd_by(jsd(0.5)),
    ),
    "topd of the whole horizon": (methods.topd(1.0), OPSD),
    "popd that starts at the limit": (methods.popd(start=12), OPSD),
    "beta_opsd of the teacher alone, undiscounted": (
        replace(
            of_teacher(BETA, target=Mixture()),
            signal=replace(of_teacher(BETA, target=Mixture()).signal, credit=ReturnToGo(0.0)),
        ),
        methods.sampled_token(),
    ),
    "ssopd of weight 0": (methods.ssopd(weight=0.0, group=4), GRPO),
    "rlsd that may shape nothing": (methods.rlsd(eps=0.0, group=4), GRPO),
    "sdpo without feedback shows the sibling": (
        of_teacher(methods.sdpo(group=4), context=Feedback(template="demonstration")),
        of_teacher(methods.sdpo(group=4), context=Demonstration()),
    ),
}


SAME_ANSWERS = {
    "rlcsd that may shift nothing": (
        replace(RLCSD, signal=methods.rlcsd(weight=0.0, group=4).signal),
        BY_TOKEN,
    ),
    "opsd_ectr without contrast": (
        of_teacher(EVEN, target=Contrastive(alpha=0.0)),
        of_teacher(EVEN, target=Mixture((1.0, 0.0))),
    ),
    "sdpg of coefficients 0": (methods.sdpg(beta=0.0, alpha=0.0, group=4), BY_TOKEN),
    "op2sd that shows the problem's own solution": (
        of_teacher(methods.op2sd(), context=OPSD.signal.teacher.context),
        OPSD,
    ),
    "opsa of all tokens alike, likelihood the other way round": (
        methods.opsa(1.0, -1.0, -1.0),
        Method("unlikely", Sum(((-1.0, Likelihood()),)), student=OPSD.student),
    ),
}


@pytest.mark.parametrize("pair", SAME_ANSWERS)
def test_a_method_of_answers_is_its_relative_where_what_it_adds_is_neutral(pair: str, gradient):
    one, other = (gradient(method, answers=True) for method in SAME_ANSWERS[pair])
    assert other.norm() > 0 and distance(one, other) < 1e-4


def test_nsd_leaves_a_model_alone_that_carelessness_does_not_change(gradient):
    """The plain prompt as the careless one shuts the gate; the KL from the start has no gradient
    there."""
    (_, anchor), (_, avoid) = NSD.signal.terms
    plain = Careless(template=NSD.student.template, template_options=NSD.student.template_options)
    shut = replace(avoid, teacher=replace(avoid.teacher, context=MultiView((plain, OwnPrompt()))))
    still = replace(NSD, signal=Sum(((1.0, anchor), (0.01, shut))))
    assert gradient(still, answers=True).norm() < 1e-4 * gradient(NSD, answers=True).norm()


@pytest.mark.parametrize("pair", SAME)
def test_a_method_is_its_relative_where_what_it_adds_is_neutral(pair: str, gradient):
    one, other = (gradient(method) for method in SAME[pair])
    assert other.norm() > 0 and distance(one, other) < 1e-4


def test_sgsd_heeds_no_teacher_within_the_dead_zone(gradient):
    deaf = replace(SGSD, signal=methods.sgsd(dead_zone=1e6).signal)
    assert gradient(deaf).norm() == 0 < gradient(SGSD).norm()


def test_a_target_of_the_student_alone_teaches_nothing(gradient):
    still = of_teacher(opsd_by(reverse_kl), target=Mixture((0.0,), student=1.0))
    assert gradient(still).norm() < 1e-5 * gradient(opsd_by(reverse_kl)).norm()


def test_purified_without_what_the_question_adds_draws_to_the_base(gradient):
    """The student is the base at its first step: there is nothing to move it."""
    question_free = MultiView((Solution(), Solution(), STUDENT))
    made = of_teacher(methods.purified_opsd(), context=question_free, weights=Frozen())
    assert isinstance(made.signal.teacher.target, Purified)
    assert gradient(made).norm() < 1e-4 * gradient(methods.purified_opsd()).norm()


def test_a_live_student_makes_a_barycenter_a_weight_between_one_and_its_share(gradient):
    """With the student itself as the second distribution, DemoPSD scales each token's gradient by
    1 - alpha, which lies between 1 - alpha_max and 1."""
    alone = of_teacher(SIBLING, target=Barycenter(alpha_max=0.15, beta=50.0))
    along = (gradient(alone) @ gradient(SIBLING)) / gradient(SIBLING).norm() ** 2
    assert 0.85 - 1e-3 <= along <= 1 + 1e-3


@pytest.mark.parametrize(
    ("method", "logged"),
    [
        (methods.purified_opsd(), {"target/share_reference", "target/p_cosine_question"}),
        (DEMOPSD, {"target/alpha", "target/disagreement"}),
    ],
)
def test_what_a_target_sees_is_logged(method: Method, logged: set, tmp_path: Path, tiny_folder):
    args = config(tmp_path, max_steps=1, per_device_train_batch_size=8)
    trainer = OPSDTrainer(str(tiny_folder), method, args, taught(8), verifier=every_second())
    trainer.train()
    (row,) = [row for row in trainer.state.log_history if "loss" in row]
    assert logged <= row.keys() and all(row[name] >= -1 for name in logged)
