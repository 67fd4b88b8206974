"""Two trainers that write for each other: what crosses, what does not, and how both end."""

from __future__ import annotations

import contextlib
import shutil
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.arrange import config, gap, metrics, odd_length, problems, weights_of
from transformers import TrainerCallback

from opsd import methods
from opsd.authors.peer import PeerAuthor
from opsd.lm.loading import load_model
from opsd.runs import checkpoint
from opsd.runs.files import read_jsonl
from opsd.training.peers import Turns, common_checkpoint, sharing_parameters, train_peers
from opsd.training.stopping import Stopped
from opsd.training.trainer import OPSDTrainer
from opsd.types import RunFailed, UserError, Verdict

SWAHILI, YORUBA = "miniature-swahili", "miniature-yoruba"
BOTH = [*problems(4, "swa"), *problems(4, "yor")]
STEPS = 3


def trainer(folder: Path, model: Any, method=None, rows=BOTH, **changes: Any) -> OPSDTrainer:
    settings = {
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "max_completion_length": 40,
        "max_steps": STEPS,
        "save_strategy": "steps",
        "save_steps": 1,
    }
    callbacks, adapter = changes.pop("callbacks", None), changes.pop("adapter", None)
    verifier = changes.pop("verifier", None)
    return OPSDTrainer(
        model,
        method or methods.opcod(group=4, max_tokens=64),
        config(folder, **settings | changes),
        rows,
        verifier=verifier,
        callbacks=callbacks,
        peft_config=adapter,
    )


def pair(folder: Path, models=(SWAHILI, YORUBA), **changes: Any) -> dict[str, OPSDTrainer]:
    names = ("first", "second")
    return {n: trainer(folder / n, m, **changes) for n, m in zip(names, models, strict=True)}


def measured(row: dict[str, Any], name: str) -> float:
    return row[f"author/peer/{name}"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, dict[str, OPSDTrainer]]:
    """Two specialists after three steps."""
    folder = tmp_path_factory.mktemp("pair")
    both = pair(folder)
    train_peers(both)
    return folder, both


def test_each_is_an_ordinary_run_whose_teacher_reads_the_others_remarks(trained):
    folder, both = trained
    told = 0
    for name, one in both.items():
        assert [row["step"] for row in metrics(folder / name)] == [1, 2, 3]
        last = metrics(folder / name)[-1]
        assert last["loss"] > 0 and one.state.global_step == STEPS
        assert measured(last, "asked") == 8 * STEPS
        reasons = ("unsolved", "cut_off", "form", "concept", "short", "written")
        assert sum(measured(last, reason) for reason in reasons) == 8 * STEPS
        for row in read_jsonl(folder / name / "rollouts" / "rank0.jsonl"):
            assert "remarks" not in row["prompt"]  # the student reads the problem alone
            told += any("remarks:\n" in view["prompt"] for view in row["views"])
    assert told > 0
    # What one writes the other is shown.
    shown = {n: sum(r["author/peer/accepted"] for r in metrics(folder / n)) for n in both}
    written = {n: measured(metrics(folder / n)[-1], "written") for n in both}
    assert shown["first"] * 8 == written["second"] and shown["second"] * 8 == written["first"]


def test_a_swap_of_the_two_swaps_all_that_they_are(trained, tmp_path):
    folder, both = trained
    swapped = pair(tmp_path, (YORUBA, SWAHILI))
    train_peers(swapped)
    for mine, theirs in (("first", "second"), ("second", "first")):
        assert gap(weights_of(both[mine].model), weights_of(swapped[theirs].model)) == 0
        assert metrics(folder / mine) == metrics(tmp_path / theirs)


def test_shut_gates_leave_two_runs_that_know_nothing_of_each_other(tmp_path):
    method = methods.opcod(group=4)
    # At this temperature no two rollouts are alike, and none of the groups is right throughout.
    shut = replace(method, authors=(PeerAuthor(min_pass_rate=1.0),))
    settings = {"verifier": odd_length, "temperature": 2.0}
    both = pair(tmp_path / "pair", method=shut, **settings)
    train_peers(both)
    alone = replace(method, authors=())
    for (name, one), model in zip(both.items(), (SWAHILI, YORUBA), strict=True):
        last = metrics(tmp_path / "pair" / name)[-1]
        assert measured(last, "unsolved") == measured(last, "asked") == 8 * STEPS
        by_itself = trainer(tmp_path / name, model, alone, **settings)
        by_itself.train()
        assert gap(weights_of(one.model), weights_of(by_itself.model)) == 0
        told = [{k: v for k, v in r.items() if "author" not in k} for r in metrics(one.run.path)]
        assert told == metrics(tmp_path / name) and all(row["loss"] > 0 for row in told)


def test_without_remarks_and_siblings_nothing_is_learned(tmp_path):
    both = pair(tmp_path, verifier=lambda problem, text: Verdict(0.0, False, True))
    before = {name: weights_of(one.model) for name, one in both.items()}
    train_peers(both)
    for name, one in both.items():
        assert [row["loss"] for row in metrics(tmp_path / name)] == [0.0] * STEPS
        assert gap(before[name], weights_of(one.model)) == 0


def test_a_base_of_two_adapters_is_in_memory_once_and_gradients_stay_apart(tmp_path):
    from peft import LoraConfig

    base = load_model(SWAHILI)
    adapter = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear")
    models = (base, sharing_parameters(base))
    both = pair(tmp_path, models, adapter=adapter, save_strategy="no", max_steps=1)
    one, other = (dict(x.model.named_parameters()) for x in both.values())
    frozen = [name for name, p in one.items() if not p.requires_grad]
    assert frozen and all(one[n].data_ptr() == other[n].data_ptr() for n in frozen)
    learned = [name for name, p in one.items() if p.requires_grad]
    assert learned and all(one[n].data_ptr() != other[n].data_ptr() for n in learned)
    assert both["first"].model.get_base_model() is not both["second"].model.get_base_model()

    # A step of one leaves the other as it is: its weights, and its gradients.
    kept = {name: p.detach().clone() for name, p in other.items()}
    both["first"].train()
    assert all(p.grad is None for p in other.values())
    assert all(p.equal(kept[name]) for name, p in other.items())
    assert any(not torch.equal(p, kept[name]) for name, p in one.items() if name in learned)


def test_two_adapters_on_one_base_learn_what_two_on_a_base_each_do(tmp_path):
    from peft import LoraConfig

    adapter = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear")
    settings = {"adapter": adapter, "save_strategy": "no", "max_steps": 2, "learning_rate": 1e-2}
    base = load_model(SWAHILI)
    shared = pair(tmp_path / "shared", (base, sharing_parameters(base)), **settings)
    apart = pair(tmp_path / "apart", (SWAHILI, SWAHILI), **settings)
    for both in (shared, apart):
        train_peers(both)
    for name in shared:
        assert metrics(tmp_path / "shared" / name) == metrics(tmp_path / "apart" / name)


class Told(TrainerCallback):
    """A signal, or a mistake, that comes in one of the two, after a step or in the midst of one."""

    def __init__(self, step: int, event: str, what: Any = signal.SIGTERM) -> None:
        self.step, self.event, self.what = step, event, what

    def _come(self, event: str, state: Any) -> None:
        if event == self.event and state.global_step == self.step:
            if isinstance(self.what, Exception):
                raise self.what
            signal.raise_signal(self.what)

    def on_step_begin(self, args, state, control, **kwargs):
        self._come("step_begin", state)

    def on_step_end(self, args, state, control, **kwargs):
        self._come("step_end", state)


@pytest.mark.parametrize(("event", "step"), [("step_begin", 1), ("step_end", 1), ("step_end", 2)])
@pytest.mark.parametrize("logging_steps", [1, 2])
def test_a_signal_saves_both_at_one_step_and_they_go_on_bit_for_bit(
    event, step, logging_steps, tmp_path
):
    settings = {"logging_steps": logging_steps, "save_steps": STEPS}
    whole = pair(tmp_path / "whole", **settings)
    train_peers(whole)
    broken = {
        "first": trainer(tmp_path / "first", SWAHILI, callbacks=[Told(step, event)], **settings),
        "second": trainer(tmp_path / "second", YORUBA, **settings),
    }
    with pytest.raises(SystemExit, match="143"):
        train_peers(broken)
    saved = [list(checkpoint.complete(tmp_path / name)) for name in broken]
    assert saved[0] == saved[1] and len(saved[0]) == 1
    again = {
        n: trainer(tmp_path / n, m, **settings)
        for n, m in zip(broken, (SWAHILI, YORUBA), strict=True)
    }
    train_peers(again, resume=True)
    for name in again:
        assert gap(weights_of(whole[name].model), weights_of(again[name].model)) == 0
        ours, theirs = metrics(tmp_path / name), metrics(tmp_path / "whole" / name)
        assert ours[-1] == theirs[-1]
        assert logging_steps > 1 or ours == theirs


@pytest.mark.parametrize("who", ["first", "second"])
def test_an_error_of_one_ends_both_with_its_line(who, tmp_path):
    fails = [Told(1, "step_begin", RunFailed("the disk is full"))]
    both = {
        name: trainer(tmp_path / name, m, callbacks=fails if name == who else None, save_steps=1)
        for name, m in (("first", SWAHILI), ("second", YORUBA))
    }
    with pytest.raises(RunFailed, match="the disk is full"):
        train_peers(both)
    assert 1 in common(tmp_path)


def common(folder: Path) -> set[int]:
    return set.intersection(*(set(checkpoint.complete(folder / n)) for n in ("first", "second")))


def test_they_go_on_from_the_newest_step_that_is_whole_in_both(trained, tmp_path, capsys):
    folder, both = trained
    for name in both:
        shutil.copytree(folder / name, tmp_path / name)
    shutil.rmtree(tmp_path / "second" / "checkpoint-3")
    (tmp_path / "first" / "checkpoint-2" / "optimizer.pt").write_text("x")
    runs = {name: tmp_path / name for name in both}
    assert common_checkpoint(runs) == {n: str(tmp_path / n / "checkpoint-1") for n in both}
    assert "checkpoint-2 is skipped: optimizer.pt is damaged" in capsys.readouterr().err
    again = pair(tmp_path)
    train_peers(again, resume=True)
    for name in both:
        assert gap(weights_of(both[name].model), weights_of(again[name].model)) == 0
        assert metrics(folder / name) == metrics(tmp_path / name)
        ours, theirs = (x / name / "rollouts" / "rank0.jsonl" for x in (folder, tmp_path))
        assert ours.read_bytes() == theirs.read_bytes()
    for step in (1, 2, 3):
        shutil.rmtree(tmp_path / "first" / f"checkpoint-{step}")
    with pytest.raises(UserError, match="no complete checkpoint of the same step"):
        common_checkpoint(runs)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"max_generated_tokens": 9}, "first: max_generated_tokens: peers end together"),
        ({"collapse": "stop"}, "first: collapse: peers end together"),
        ({"save_total_limit": 1}, "first: save_total_limit: one of the two is saved first"),
        ({"max_steps": -1}, "first: max_steps: peers take the same steps"),
    ],
)
def test_what_would_part_the_two_is_refused(changes, told, tmp_path):
    with pytest.raises(UserError, match=told):
        train_peers(pair(tmp_path, **changes))


def test_two_that_differ_in_their_steps_or_that_nobody_writes_for_are_refused(tmp_path):
    both = {
        "first": trainer(tmp_path / "first", SWAHILI),
        "second": trainer(tmp_path / "second", YORUBA, max_steps=STEPS + 1),
    }
    with pytest.raises(UserError, match="max_steps is 3 for one and 4 for the other"):
        train_peers(both)
    with pytest.raises(UserError, match="first: no author of sdpo is another model"):
        train_peers(pair(tmp_path / "sdpo", method=methods.sdpo(group=4)))
    reused = replace(methods.opcod(group=4), reuse=2)
    with pytest.raises(UserError, match="reuse: peers write before every step"):
        train_peers(pair(tmp_path / "reuse", method=reused))


def test_one_runs_at_a_time_and_each_gets_what_the_other_gave_in_the_same_step():
    order: list[str] = []
    told: list[int] = []
    turns = Turns((told.append, told.append))
    got: dict[int, list[Any]] = {0: [], 1: []}

    def run(own: int, steps: int) -> None:
        side = turns.side(own)
        with contextlib.suppress(Stopped):
            for step in range(steps):
                for what in ("attempts", "texts"):
                    order.append(f"{own} gives {what} {step}")
                    got[own].append(side.trade(step, (own, what, step)))
        turns.end(own, len(got[own]) // 2, None)

    def second() -> None:
        turns.begin(1)
        run(1, 3)

    thread = threading.Thread(target=second)
    thread.start()
    run(0, 2)
    thread.join(10)
    assert not thread.is_alive()
    for own in (0, 1):
        expected = [(1 - own, what, step) for step in range(2) for what in ("attempts", "texts")]
        assert got[own] == expected  # the second ends after as many steps as the first
    assert order[:5] == [
        *("0 gives attempts 0", "1 gives attempts 0", "1 gives texts 0"),
        *("0 gives texts 0", "0 gives attempts 1"),
    ]
    assert told == []
