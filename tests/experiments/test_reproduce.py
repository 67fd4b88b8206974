"""Studies as files, and a reproduction: what is unfair is refused, rows, verdicts, what is kept."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from opsd.data.controls import wrong
from opsd.experiments.claims_page import Arms, write
from opsd.experiments.reproduce import (
    Plan,
    design_of,
    ends,
    grid,
    kept,
    kept_arms,
    rate_of,
    reproduce,
)
from opsd.experiments.study import (
    Study,
    built_in,
    chosen,
    fingerprint,
    is_base,
    on_model,
    parse,
    studies,
)
from opsd.experiments.trials import (
    FirstStage,
    Trial,
    clusters,
    file_of,
    is_kept,
    outcome,
    problems_of,
    run,
    told,
    train_first,
)
from opsd.lm.built_in import model_path
from opsd.methods.method import Method
from opsd.miniature.world import problems
from opsd.parts import parts_of
from opsd.prompts.contexts import Prompt
from opsd.recipe.schema import load
from opsd.recipe.schema import parse as parse_recipe
from opsd.types import Group, UserError

SMALL: dict[str, Any] = {
    "title": "A small study",
    "world": "miniature",
    "recipe": {
        "model": {"name": "miniature-tiny"},
        "sampling": {"temperature": 1.0, "max_completion_length": 24},
        "train": {"per_device_train_batch_size": 4, "lr_scheduler_type": "constant"},
    },
    "languages": ["swa"],
    "tokens": 200,
    "checkpoints": [0.5, 1.0],
    "early": 0.5,
    "rates": [1e-4, 3e-4, 1e-3],
    "seeds": 8,
    "selection_seed": 100,
    "dev": {"problems": 3, "samples": 1},
    "test": {"problems": 6, "samples": 2},
    "budgets": [12],
    "arms": {
        "base": {},
        "sft": {"steps": 1},
        "copsd": {},
        "copsd, unclipped": {"change": {"divergence": {"type": "forward_kl"}}},
    },
    "papers": [
        {
            "title": "A paper",
            "claims": {
                "small": {
                    "says": "Something is at least as good as nothing.",
                    "plus": ["copsd"],
                    "minus": [{"arm": "base", "at": "final"}],
                    "shown": ["sft", "copsd, unclipped"],
                    "at_least": -2.0,
                    "holds": "Take `a<b`.",
                    "fails": "Leave it.",
                }
            },
        }
    ],
    "questions": {"title": "Our own", "claims": {}},
}


def small(**changes: Any) -> Study:
    return parse(yaml.safe_dump(SMALL | changes), "small.yaml")


def claim(**changes: Any) -> dict[str, Any]:
    own = SMALL["papers"][0]["claims"]["small"]
    return {"papers": [{"title": "A paper", "claims": {"small": own | changes}}]}


def arms(**changes: Any) -> dict[str, Any]:
    return {"arms": SMALL["arms"] | changes}


@pytest.mark.parametrize(
    ("unfair", "reason"),
    [
        ({"rates": [1e-4, 1e-3]}, "at least 3 learning rates"),
        ({"rates": [1e-4, 2e-4, 4e-4]}, "half a decade"),
        ({"seeds": 3}, "at least 8"),
        ({"selection_seed": 7}, "a seed that no test uses"),
        ({"checkpoints": [0.5]}, "the last one 1"),
        ({"early": 0.3}, "one of the checkpoints"),
        # A learning rate, tokens or test problems of its own:
        (arms(grpo={"learning_rate": 1e-4}), "Extra inputs are not permitted"),
        (arms(grpo={"tokens": 10}), "Extra inputs are not permitted"),
        # Called as shipped, and is not:
        (arms(grpo={"change": {"group": 4}}), "not grpo as shipped"),
        (arms(copsd={"told": "another"}), "not copsd as shipped"),
        (arms(**{"grpo, big": {"change": {"name": "sft"}}}), "changes the name of its method"),
        (arms(magic={}), "does not begin with a method"),
        # Another divergence without the shipped one beside it:
        (
            claim(plus=["copsd, unclipped"], shown=[]),
            "'copsd, unclipped' changes the divergence: also show copsd with its own",
        ),
        # More tokens, or other problems, than the arm that it is held against:
        (arms(**{"copsd, unclipped": {"steps": 5}}), "different budgets"),
        (arms(sft={"train_on": ["hold"], "steps": 1}), "train on different problems"),
        (arms(sft={}), "'sft' generates nothing: set `steps`"),
        (claim(minus=[{"arm": "copsd, unclipped", "at": "early"}]), "cut short"),
        # A base that is none, or that the claimed arm does not have:
        (arms(**{"base, bad": {"told": "wrong"}}), "'base, bad' is not trained"),
        (
            arms(copsd={"languages": ["yor"]}, sft={"languages": ["yor"], "steps": 1})
            | claim(minus=["sft"], shown=[]),
            "'copsd' is compared with no base",
        ),
        (arms(copsd={"languages": ["yor"]}), "arms with different models, languages"),
        (claim(minus=[]), "arms with different models, languages"),
        (claim(plus=["nobody"]), "no arm 'nobody'"),
        (claim(metric="luck"), "no metric 'luck'"),
        (claim(metric="avg@k at 99"), "at the study's budgets"),
        (claim(metric="before"), "no metric 'before' for such an arm"),
        ({"test": {"problems": 5, "samples": 1}}, "at least 6 problems"),
        ({"architecture": {"a": 1}, "recipe": SMALL["recipe"]}, "this one is built in"),
        (arms(copsd={"together": ["swa", "yor"]}), "not copsd as shipped"),
        (
            arms(**{"copsd, yor": {"together": ["yor"]}}),
            "is tested in a language that is not in `together`",
        ),
        ({"files": {"train": "a", "test": "b"}}, "world, files: give exactly one of the two"),
        ({"languages": []}, "at least 1 item"),
    ],
)
def test_an_unfair_study_is_refused(unfair, reason):
    small()
    with pytest.raises(UserError, match=reason) as refusal:
        small(**unfair)
    assert str(refusal.value).startswith("studies/small.yaml: ") and "\n" not in str(refusal.value)


@pytest.mark.parametrize("text", ["- a", "a: [", ""])
def test_what_is_no_study_is_told(text):
    with pytest.raises(UserError, match=r"studies/x.yaml: not (a mapping|YAML)"):
        parse(text, "x.yaml")


@pytest.mark.parametrize("name", studies())
def test_a_shipped_study_can_be_run(name, tmp_path, monkeypatch):
    study = studies()[name]
    monkeypatch.setenv("OPSD_DATA", str(tmp_path))
    for file in study.files.values():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text('{"problem": "1 + 1?", "solution": "2", "answer": "2"}\n')
    used = {arm for _, _, c in study.claims() for arm in study.arms_of(c)}
    assert used == set(study.arms)
    for arm in study.arms:
        trial = Trial(study, arm, study.languages_of(arm)[0], 0, 1e-4)
        method = trial.recipe().method
        assert isinstance(method, Method)
        for prompt in parts_of(method):
            if isinstance(prompt, Prompt):
                options = {} if study.pretrained else {"enable_thinking": False}
                assert (prompt.prefill, prompt.template_options) == ("", options)
    for arm in {(a.train_on, a.test_on): a for a in study.arms.values()}.values():
        if not study.pretrained:
            sets = [
                {(p.metadata["template"], tuple(p.metadata["numbers"])) for p in given}
                for given in (problems_of(study, arm, s, "eng") for s in ("train", "dev", "test"))
            ]
            assert all(sets) and not sets[0] & sets[2] and not sets[1] & sets[2]


def test_claims_have_names_of_their_own():
    names = [name for study in studies().values() for name, _, _ in study.claims()]
    assert len(set(names)) == len(names) > 30


def test_trials_are_told_apart_by_what_decides_their_numbers():
    study = small()
    one = Trial(study, "copsd", "swa", 0, 1e-4)
    renamed = small(**arms(**{"copsd, again": {}}), title="Another title")
    assert one.key == Trial(renamed, "copsd, again", "swa", 0, 1e-4).key
    others = [
        Trial(study, "copsd", "swa", 1, 1e-4),
        Trial(study, "copsd", "swa", 0, 3e-4),
        Trial(study, "copsd", "swa", 0, 1e-4, tested=False),
        Trial(study, "copsd", "yor", 0, 1e-4),
        Trial(study, "copsd, unclipped", "swa", 0, 1e-4),
        Trial(small(tokens=100), "copsd", "swa", 0, 1e-4),
        Trial(small(world="miniature-pair"), "copsd", "swa", 0, 1e-4),
        Trial(small(test={"problems": 7, "samples": 2}), "copsd", "swa", 0, 1e-4),
        Trial(small(**arms(grpo={"steps": 3})), "grpo", "swa", 0, 1e-4),
        Trial(small(**arms(grpo={"steps": 4})), "grpo", "swa", 0, 1e-4),
    ]
    assert len({one.key, *(t.key for t in others)}) == 1 + len(others)
    # What a test does not change: how a rate is chosen, and what is not trained.
    tested = {"test": {"problems": 7, "samples": 2}, "budgets": []}
    choosing = [Trial(s, "copsd", "swa", 0, 1e-4, tested=False) for s in (study, small(**tested))]
    bases = [Trial(s, "base", "swa", 0, 0.0) for s in (study, small(tokens=100))]
    assert choosing[0].key == choosing[1].key and bases[0].key == bases[1].key


def test_a_trial_has_the_same_key_in_every_process():
    code = (
        "from opsd.experiments.study import studies; from opsd.experiments.trials import Trial;"
        "trial = Trial(studies()['miniature'], 'copsd', 'swa', 0, 1e-4);"
        "print(trial.key, trial.conditions())"
    )
    trial = Trial(studies()["miniature"], "copsd", "swa", 0, 1e-4)
    made = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert made.strip() == f"{trial.key} {trial.conditions()}"


def test_a_trial_is_run_again_where_a_default_has_changed_and_not_for_what_is_new(tmp_path):
    trial = Trial(small(), "copsd", "swa", 0, 1e-4)
    now = trial.conditions()
    assert "method.signal.divergence.cap" in now and "OPSDConfig.weight_decay" in now
    assert "train.learning_rate" in now and "OPSDConfig.learning_rate" not in now
    assert any(name.endswith("solution.jinja") for name in now)

    def is_kept_with(conditions: dict[str, Any]) -> bool:
        file = file_of(trial, tmp_path)
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(gzip.compress(json.dumps({"conditions": conditions}).encode()))
        return is_kept(trial, tmp_path)

    assert not is_kept(trial, tmp_path)
    assert is_kept_with(now) and is_kept_with({**now, "OPSDConfig.no_longer_there": "1"})
    assert is_kept_with({key: now[key] for key in now if not key.startswith("OPSDConfig.lr")})
    for key in ("method.signal.divergence.cap", "OPSDConfig.weight_decay"):
        assert not is_kept_with({**now, key: "another"})


def test_another_wording_is_the_same_design_and_another_margin_is_not():
    def design(**changes: Any) -> str:
        study = small(**claim(**changes))
        return design_of(study, next(study.claims())[2])

    same = {"says": "Otherwise.", "published": "1", "shown": ["copsd, unclipped"], "holds": "Yes."}
    assert design() == design(**same)
    assert design() != design(at_least=-1.0) != design(minus=["copsd, unclipped"])


@pytest.mark.slow
def test_a_small_reproduction_is_kept_and_goes_on_where_it_stopped(tmp_path, capsys):
    few = {"seeds": 2}  # less than a fair study has, to be quick
    known = {"small": small().model_copy(update=few)}
    (row,) = reproduce([], known, tmp_path)
    assert row["verdict"] in ("reproduced", "not above base")
    value, low, high = row["effect"]
    assert low <= value <= high
    copsd, base = row["arms"]["copsd"], row["arms"]["base"]
    assert copsd["course"]["tokens"][-1] >= 200 and "course" not in base
    assert len(copsd["grid"]) == 3 and base["grid"] == {} and base["rate"] == 0
    assert row["arms"]["sft"]["course"]["tokens"][-1] == 0
    chosen_, base_ = copsd["metrics"]["chosen"]["avg@k"], base["metrics"]["final"]["avg@k"]
    assert value == pytest.approx(chosen_[0] - base_[0], abs=1e-3)
    # The rate is the one whose best dev score is best, and dev chooses the checkpoint.
    study = known["small"]
    best = max(copsd["grid"].values())
    rate = rate_of(study, "copsd", tmp_path)
    assert copsd["grid"][f"{rate:.0e}"] == best
    one = outcome(Trial(study, "copsd", "swa", 0, rate), tmp_path)
    first, last = one["checkpoints"]
    assert (first["share"], last["share"]) == (0.5, 1.0)
    counts = one["counts"]
    assert counts["chosen"] == counts["final" if last["dev"] > first["dev"] else "early"]
    assert len(counts["final"]) == 6 and row["problems"] == 6
    assert one["fields"][-3:] == ["correct at 12", "passed at 12", "format_ok at 12"]
    assert kept(tmp_path) == [row]
    # What a kill leaves behind of a trial is no trial.
    lost = Trial(study, "copsd", "swa", 1, rate)
    file = file_of(lost, tmp_path)
    before = outcome(lost, tmp_path)
    file.rename(file.with_suffix(".gz.part"))
    capsys.readouterr()
    (again,) = reproduce(["small"], known, tmp_path)
    assert "8 trials to test, 1 of them still to run" in capsys.readouterr().err
    assert before["counts"] == outcome(lost, tmp_path)["counts"]
    assert _timeless(again) == _timeless(row)
    # Designed anew, with the old outcome kept.
    (new,) = reproduce(
        ["small"], {"small": small(**claim(at_least=-3.0)).model_copy(update=few)}, tmp_path
    )
    assert [old["at_least"] for old in new["earlier"]] == [-2.0]
    write(tmp_path, known, tmp_path / "page.md")
    for page in (tmp_path / "page.md", tmp_path / "page.html"):
        text = page.read_text()
        assert "Something is at least as good as nothing." in text and new["verdict"] in text
        assert "Before:" in text
        assert ("Take `a<b`." if page.suffix == ".md" else "<code>a&lt;b</code>") in text
    assert json.loads((tmp_path / "page.json").read_text()) == [new]


def test_a_page_says_why_no_arm_of_a_pretrained_model_gained():
    def arm(name: str, right: float, gain: list[float], **trained: Any) -> dict[str, Any]:
        metrics = {"avg@k": right, "format_rate": 0.5, "right_given_format": right / 0.5}
        metrics["length"] = 40.0
        chosen = {metric: [value, 0.0, 1.0] for metric, value in metrics.items()}
        return {"arm": name, "metrics": {"chosen": chosen}, "gains": {"avg@k": gain}, **trained}

    course = {"course": {}, "divergence": [0.2, 0.1], "grid": {"1e-04": 0.0, "3e-04": 1 / 60}}
    untrained = [arm("base", 0.01, []), arm("opsd, its teacher", 0.3, [])]
    study = studies()["smollm2"]
    tuned = arm("sft", 0.1, [0.09, 0.05, 0.13], course={}, grid={"1e-04": 0.1})
    failed = Arms(study, [*untrained, tuned, arm("opsd", 0.02, [0.01, -0.01, 0.03], **course)])
    told = " ".join(failed.reasons)
    assert "as a teacher: base 0.010; opsd, its teacher 0.300." in told
    assert "Tokens per answer" in told and "opsd, its teacher 40" in told
    assert "opsd 0.200 to 0.100." in told and "at most 1 of 60, too few" in told
    gained = Arms(study, [*untrained, arm("opsd", 0.2, [0.19, 0.1, 0.3], **course)])
    assert not gained.reasons and not Arms(study, untrained).reasons
    assert not Arms(studies()["miniature"], failed.rows).reasons


EVIDENCE = Path(__file__).parents[2] / "evidence"
RECIPES = {"opsd": "opsd, unclipped"} | {x: x for x in ("grpo", "sft", "purified_opsd")}


def test_recipes_of_the_pretrained_model_repeat_its_trials():
    trials = [json.loads(gzip.decompress(x.read_bytes())) for x in EVIDENCE.glob("trials/*.gz")]
    ran = {x["arm"]: x for x in trials if x["study"] == "smollm2" and x["rate"]}
    arms = {arm["arm"]: arm["rate"] for arm in kept_arms(EVIDENCE)["smollm2"]}
    for name, arm in RECIPES.items():
        recipe, stored = load(f"smollm2-{name}"), parse_recipe(yaml.safe_load(ran[arm]["recipe"]))
        assert (recipe.method, recipe.model) == (stored.method, stored.model)
        assert (recipe.sampling, recipe.data.examples) == (stored.sampling, stored.data.examples)
        assert recipe.train["learning_rate"] == arms.get(arm, recipe.train["learning_rate"])


def _timeless(row: dict[str, Any]) -> dict[str, Any]:
    arms_ = {
        name: {k: v for k, v in arm.items() if not k.startswith("seconds")}
        for name, arm in row["arms"].items()
    }
    return row | {"arms": arms_}


def test_unknown_claims_are_told():
    known = {"small": small()}
    assert chosen([], known) == chosen(["small"], known) == {"small": ("small",)}
    with pytest.raises(UserError, match="no claim or study 'nothing'; known: small"):
        chosen(["nothing"], known)


def test_every_arm_is_tried_at_every_rate_with_the_seed_that_chooses():
    study = small()
    tried = grid(study, "copsd")
    assert [t.rate for t in tried] == [1e-4, 3e-4, 1e-3]
    assert {t.seed for t in tried} == {100} and not any(t.tested for t in tried)
    assert grid(study, "base") == [] and is_base("base, English")


def test_languages_together_are_trained_in_at_once_with_the_tokens_of_each(tmp_path):
    study = small(**arms(**{"copsd, both": {"together": ["swa", "yor"]}}))
    both = Trial(study, "copsd, both", "swa", 0, 1e-3, tested=False)
    alone = Trial(study, "copsd", "swa", 0, 1e-3, tested=False)
    assert both.data()["language"] == ["swa", "yor"] and both.tokens == 2 * alone.tokens == 400
    run(both, tmp_path)
    assert outcome(both, tmp_path)["checkpoints"][-1]["tokens"] >= 400
    (log,) = tmp_path.glob("runs/*/metrics.jsonl")
    steps = [json.loads(line) for line in log.read_text().splitlines()]
    assert {"accuracy/swa", "accuracy/yor"} <= {key for step in steps for key in step}


def test_steps_in_which_nothing_is_taught_have_no_divergence():
    assert ends([[None, 0.5, 0.1, None], [0.3, 0.3], [None], []]) == {"divergence": [0.4, 0.2]}
    assert ends([[None], []]) == {}


def test_what_a_teacher_is_told_may_be_wrong_or_anothers():
    given = problems("miniature", "train", "swa", 30)
    study = small()
    assert told(given, study.arms["copsd"], 0) == given
    for one, right in zip(wrong(given, 0), given, strict=True):
        solution, own = one.privileged["solution"], right.privileged["solution"]
        assert one.answer == right.answer and one.text == right.text
        assert f"\\boxed{{{right.answer}}}" in own and f"\\boxed{{{right.answer}}}" not in solution
        assert one.privileged["translation"] == right.privileged["translation"]


def pretrained(tmp_path: Path, **changes: Any) -> Study:
    """The small study of a model in a folder, and of rows in files."""
    rows = [
        {"problem": f"{n} + 2 = ?", "solution": f"\\boxed{{{n + 2}}}", "answer": n + 2}
        for n in range(12)
    ]
    for name in ("train", "test"):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(text)
    config = json.loads((model_path("miniature-tiny") / "config.json").read_text())
    own = {
        **{"world": None, "files": {"train": "train.jsonl", "test": "test.jsonl"}, "seeds": 3},
        "architecture": {key: config[key] for key in ("model_type", "hidden_size")},
        "languages": ["eng"],
        "examples": [{"problem": "1 + 1 = ?", "solution": "It is \\boxed{2}."}],
        "prompts": {"student": "{{ problem }}", "crosslingual": "{{ problem }} ({{ solution }})"},
        "recipe": SMALL["recipe"] | {"model": {"name": "someone/small"}},
    }
    return small(**own | changes)


def test_a_pretrained_model_is_recognised_and_run_from_its_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("OPSD_DATA", str(tmp_path))
    study = pretrained(tmp_path)
    folder = str(model_path("miniature-tiny"))
    known = {"small": study, "other": small()}
    assert built_in(known) == {"other": known["other"]}
    placed = on_model(known, folder)["small"]
    trial = Trial(placed, "copsd", "eng", 0, 1e-4, tested=False)
    assert trial.recipe().model.name == "someone/small"
    sets = {
        s: problems_of(placed, placed.arms["copsd"], s, "eng") for s in ("train", "dev", "test")
    }
    assert [len(made) for made in sets.values()] == [9, 3, 6]
    turns = sets["dev"][0].prompt
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]
    (view,) = trial.recipe().method.student(Group(sets["dev"][0], ()), 0)
    assert view.messages[-1]["content"] == "9 + 2 = ?"
    run(trial, tmp_path / "out")
    made = outcome(trial, tmp_path / "out")
    assert len(made["checkpoints"]) == 2 and "counts" not in made
    assert clusters(sets["dev"]) == [0, 0, 0] and not made["failed"]
    with pytest.raises(UserError, match="its weights are not those of small"):
        on_model({"small": pretrained(tmp_path, weights="other")}, folder)
    for changed in (small(), pretrained(tmp_path, architecture={"model_type": "bert"})):
        with pytest.raises(UserError, match="no study of this model"):
            on_model({"small": changed}, folder)
    with pytest.raises(UserError, match=r"it has no config.json"):
        on_model(known, str(tmp_path))
    monkeypatch.delenv("OPSD_DATA")
    with pytest.raises(UserError, match="set OPSD_DATA to its folder"):
        problems_of(placed, placed.arms["copsd"], "dev", "eng")


def test_a_first_stage_is_trained_once_and_all_arms_start_from_it(tmp_path):
    first = {"method": "sft", "language": "eng", "train": {"max_steps": 2, "learning_rate": 0.01}}
    changes = {"world": "miniature", "files": {}, "languages": ["swa"], "examples": []}
    known = {"small": pretrained(tmp_path, **changes, first=first)}
    (study,) = on_model(known, str(model_path("miniature-tiny"))).values()
    plan = Plan(study, ["anything"]).started(tmp_path)
    place = Path(plan.study.start)
    assert fingerprint(str(place)) != fingerprint("miniature-tiny")
    made = (place / "model.safetensors").stat()
    again = FirstStage(study, tmp_path)
    assert train_first(again) == place and (place / "model.safetensors").stat() == made
    # Where the stage's model lies is no part of what a trial is; that there is a stage is.
    bases = [Trial(s, "base", "swa", 0, 0.0) for s in (study, plan.study)]
    assert bases[0].key == bases[1].key
    without = pretrained(tmp_path, **changes).model_copy(update={"folder": study.folder})
    other = Trial(without, "base", "swa", 0, 0.0)
    assert other.key != bases[1].key
    for trial in (bases[1], other):
        run(trial, tmp_path)
    staged, plain = (outcome(trial, tmp_path)["counts"]["final"] for trial in (bases[1], other))
    assert len(staged) == len(plain) == 6 and staged != plain
    with pytest.raises(UserError, match="first: no method 'sfft'"):
        pretrained(tmp_path, **changes, first=first | {"method": "sfft"})
