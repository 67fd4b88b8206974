"""Claims as files, and a reproduction: rows, verdicts, what is kept, what is run again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from opsd.cli.commands import app
from opsd.experiments.claim import Claim, ClaimArm, chosen, claims
from opsd.experiments.claims_page import write
from opsd.experiments.measures import Difference, MeasureTerm
from opsd.experiments.reproduce import reproduce, trials_of
from opsd.experiments.trials import Trial, file_of, problems_of
from opsd.miniature.lexicon import LANGUAGES
from opsd.parts import parts_of
from opsd.prompts.contexts import Prompt
from opsd.types import UserError

SMALL = {"languages": ("swa",), "tokens": 900, "problems": 5, "samples": 2}
CLAIM = Claim(
    name="small",
    claim="Something is at least as good as nothing.",
    paper="none",
    world="miniature",
    arms={
        "base": ClaimArm(**SMALL, budgets=(20,)),
        "sft": ClaimArm(method="sft", **SMALL | {"points": (0.5, 1.0)}, train={"max_steps": 1}),
        "copsd": ClaimArm(method="copsd", **SMALL | {"points": (0.5, 1.0)}),
    },
    measure=Difference(plus=(MeasureTerm(arm="copsd"),), minus=(MeasureTerm(arm="base"),)),
    at_least=-2.0,
)


@pytest.mark.parametrize("name", claims())
def test_a_claim_is_an_experiment_that_can_be_run(name):
    claim = claims()[name]
    assert claim.name == name and len(claim.paper) > 10 and claim.claim.endswith((".", "nats."))
    for arm in claim.arms.values():
        assert set(arm.languages) <= set(LANGUAGES)
        assert list(arm.points) == sorted(arm.points) and arm.points[-1] == 1.0
        assert len(problems_of(claim.world, "test", "eng", arm.test_on)) >= 50
    for trial in trials_of(claim):
        for prompt in parts_of(trial.recipe().method):
            if isinstance(prompt, Prompt):
                assert prompt.prefill == "" and prompt.template_options == {
                    "enable_thinking": False
                }


def test_arms_are_shared_by_what_they_are_not_by_their_names():
    of = {name: trials_of(claim) for name, claim in claims().items()}
    every = [trial.key for trials in of.values() for trial in trials]
    assert len(set(every)) < 0.7 * len(every)
    one = Trial("a", "miniature", ClaimArm(method="copsd"), "swa", 0)
    assert one.key == Trial("b", "miniature", ClaimArm(method="copsd"), "swa", 0).key
    for other in (
        Trial("a", "miniature", ClaimArm(method="copsd"), "swa", 1),
        Trial("a", "miniature", ClaimArm(method="copsd"), "yor", 0),
        Trial("a", "miniature-long", ClaimArm(method="copsd"), "swa", 0),
        Trial("a", "miniature", ClaimArm(method="copsd", tokens=10), "swa", 0),
        Trial("a", "miniature", ClaimArm(method="copsd", told="another"), "swa", 0),
        Trial("a", "miniature", ClaimArm(method="opsd"), "swa", 0),
    ):
        assert other.key != one.key


@pytest.mark.slow
def test_a_small_reproduction_is_kept_and_goes_on_where_it_stopped(tmp_path, capsys):
    (row,) = reproduce([CLAIM], tmp_path)
    assert row["verdict"] == "reproduced" and row["seeds"] == 3 and row["name"] == "small"
    low, high = row["interval"]
    assert low <= row["measured"]["effect"] <= high
    arms = row["measured"]["arms"]
    assert {*arms["base"]["tokens"], *arms["sft"]["tokens"]} == {0}
    assert arms["copsd"]["tokens"][-1] >= 900
    assert json.loads((tmp_path / "claims.json").read_text()) == [row]
    trials = trials_of(CLAIM)
    content = json.loads(file_of(trials[0], tmp_path).read_text())
    assert content["fields"][-3:] == ["correct at 20", "passed at 20", "format_ok at 20"]
    kept = {t.key: file_of(t, tmp_path).read_text() for t in trials}
    # What a kill leaves behind of a trial is no trial.
    file_of(trials[-1], tmp_path).rename(file_of(trials[-1], tmp_path).with_suffix(".json.part"))
    capsys.readouterr()
    (again,) = reproduce([CLAIM], tmp_path)
    assert "9 trials, 1 of them to run" in capsys.readouterr().err
    for trial in trials:
        old, new = json.loads(kept[trial.key]), json.loads(file_of(trial, tmp_path).read_text())
        assert old["points"] == new["points"]
    assert {k: v for k, v in again.items() if k != "seconds"} == {
        k: v for k, v in row.items() if k != "seconds"
    }
    write([row], tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    assert "**reproduced**" in page and CLAIM.claim in page and "1 claims: 1 reproduced" in page
    assert json.loads((tmp_path / "page.json").read_text()) == [row]


def test_unknown_claims_and_arms_are_told(tmp_path, capsys):
    with pytest.raises(UserError, match="no claim 'nothing'; there are"):
        chosen(["nothing"])
    with pytest.raises(ValueError, match="the measure names no arm of the claim: copsd"):
        Claim(**CLAIM.model_dump() | {"arms": {"base": ClaimArm()}})
    assert any(command.callback.__name__ == "reproduce" for command in app.registered_commands)


def test_the_stored_claims_are_those_of_the_files():
    """`docs/claims.json` comes from a run of claims as they are now."""
    rows = json.loads((Path(__file__).parents[2] / "docs" / "claims.json").read_text())
    assert {row["name"] for row in rows} <= set(claims()) and len(rows) > 20
    for row in rows:
        claim = claims()[row["name"]]
        said = [row["claim"], row["paper"], row["world"], row["at_least"], row["seeds"]]
        assert said == [claim.claim, claim.paper, claim.world, claim.at_least, claim.seeds]
        low, high = row["interval"]
        verdict = "inconclusive"
        if low >= row["at_least"]:
            verdict = "reproduced"
        elif high < row["at_least"]:
            verdict = "not reproduced"
        assert row["verdict"] == verdict
