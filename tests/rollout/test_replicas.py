"""Several servers of one model: who is asked, what becomes of a server that goes, hangs or lies,
and when one that is back is used again."""

from __future__ import annotations

import itertools
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from pydantic import ValidationError
from tests.arrange import config, engine_for, problems
from tests.rollout.contract import PLAIN, ids_of
from tests.rollout.model_server import ModelServer, serving

from opsd import OPSDTrainer, VLLMServer, methods
from opsd.lm.loading import load_model
from opsd.rollout.engine import EngineDown, EngineSetup
from opsd.rollout.sglang_server import SGLangServer
from opsd.runs.files import read_jsonl
from opsd.types import UserError

LORA = {"task_type": "CAUSAL_LM", "r": 4, "target_modules": "all-linear"}
PROMPTS = [(9, 8, n) for n in range(12)]
SEEDS = list(range(12))


@pytest.fixture
def replicas(tiny_folder, tokenizer) -> Iterator[Sequence[ModelServer]]:
    with serving(load_model(str(tiny_folder)).eval(), tokenizer, 3) as made:
        yield made


@pytest.fixture
def model(tiny_folder) -> Any:
    made = get_peft_model(load_model(str(tiny_folder)), LoraConfig(**LORA))
    return stirred(made.eval(), 0)


def stirred(model: Any, seed: int) -> Any:
    """Another adapter than one that changes nothing."""
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.2)
    return model


@pytest.fixture(params=[VLLMServer, SGLangServer])
def start(model, tokenizer, request) -> Any:
    """Makes a client of replicas that has handed over the model's weights."""

    def client(replicas: Sequence[ModelServer], **choice: Any) -> Any:
        setup = EngineSetup(model, tokenizer, [tokenizer.eos_token_id], len(tokenizer), 64)
        engine = request.param([replica.url for replica in replicas], **choice).start(setup)
        engine.sync(model)
        return engine

    return client


def slowly(replicas: Sequence[ModelServer], seconds: float = 0.02) -> None:
    for replica in replicas:
        replica.heard = lambda: time.sleep(seconds)


def test_load_is_spread_and_the_whole_is_what_the_model_writes(replicas, start, model, tokenizer):
    slowly(replicas)
    engine, told = start(replicas, concurrency=2), []
    made = engine.generate(PROMPTS, PLAIN, SEEDS, lambda *news: told.append(news))
    assert ids_of(made) == ids_of(engine_for(model, tokenizer).generate(PROMPTS, PLAIN, SEEDS))
    assert sorted(told) == sorted((1, len(completion.ids)) for completion in made)
    asked = [[seed for seed, _ in replica.asked] for replica in replicas]
    assert sorted(itertools.chain(*asked)) == SEEDS
    assert min(map(len, asked)) >= 2
    assert [replica.busiest for replica in replicas] == [2, 2, 2]
    assert {name for replica in replicas for _, name in replica.asked} == {
        name for replica in replicas for name in replica.adapters
    }


def test_fewer_prompts_than_slots_are_shared_out(replicas, start):
    engine = start(replicas)
    gate = threading.Barrier(6)  # all six are under way at once
    for replica in replicas:
        replica.heard = lambda: gate.wait(60)
    engine.generate(PROMPTS[:6], PLAIN, SEEDS[:6])
    assert [len(replica.asked) for replica in replicas] == [2, 2, 2]


def go(replica: ModelServer) -> None:
    replica.kill()


def fail(replica: ModelServer) -> None:
    replica.status = 503


def hang(replica: ModelServer) -> None:
    replica.hangs.set()


@pytest.mark.parametrize(
    ("trouble", "told"),
    [
        (go, r"does not respond \("),
        (fail, r"fails \(503"),
        (hang, r"does not respond \(timed out\)"),
    ],
)
def test_the_prompts_of_one_that_is_lost_are_asked_again(
    replicas, start, model, tokenizer, capsys, trouble, told
):
    engine = start(replicas, timeout=60.0)
    if trouble is hang:
        engine.up[replicas[1].url].http.timeout = 2.0
    replicas[1].heard = lambda: trouble(replicas[1])
    made = engine.generate(PROMPTS, PLAIN, SEEDS)
    assert ids_of(made) == ids_of(engine_for(model, tokenizer).generate(PROMPTS, PLAIN, SEEDS))
    assert list(engine.up) == [replicas[0].url, replicas[2].url]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and replicas[1].url in lines[0]
    assert re.search(told, lines[0])
    assert lines[0].endswith("2 of 3 servers are in use")
    engine.generate(PROMPTS, PLAIN, SEEDS)
    assert not capsys.readouterr().err


def test_where_all_have_gone_the_engine_is_down(replicas, start):
    engine = start(replicas)
    for replica in replicas:
        replica.heard = replica.kill
    with pytest.raises(EngineDown, match=r"^http://127.0.0.1:\d+ does not respond \("):
        engine.generate(PROMPTS, PLAIN, SEEDS)
    with pytest.raises(EngineDown, match=r"^http://127.0.0.1:\d+ does not respond \("):
        engine.generate(PROMPTS, PLAIN, SEEDS)


def test_one_that_is_back_has_the_newest_weights_before_it_is_used(
    replicas, start, model, tokenizer, capsys
):
    engine = start(replicas)
    lost = replicas[0]
    lost.kill()
    engine.generate(PROMPTS, PLAIN, SEEDS)
    lost.begin()
    lost.asked.clear()
    engine.generate(PROMPTS, PLAIN, SEEDS)
    assert not lost.asked  # nobody knows its weights
    stirred(model, 1)
    capsys.readouterr()
    engine.sync(model)
    assert capsys.readouterr().err == f"engine: {lost.url} is back, 3 of 3 servers are in use\n"
    made = engine.generate(PROMPTS, PLAIN, SEEDS)
    assert ids_of(made) == ids_of(engine_for(model, tokenizer).generate(PROMPTS, PLAIN, SEEDS))
    assert {name.partition("-")[2][0] for _, name in lost.asked} == {"2"}
    assert [len(replica.adapters) for replica in replicas] == [1, 1, 1]
    assert len(list(engine.folder.iterdir())) == 1


def test_pinned_weights_stay_at_one_that_is_back(replicas, start, model, tokenizer):
    engine = start(replicas)
    before = ids_of(engine.generate(PROMPTS, PLAIN, SEEDS))
    with engine.pinned() as then:
        replicas[0].status = 503  # it is there, adapters and all
        replicas[1].kill()
        engine.generate(PROMPTS, PLAIN, SEEDS)
        assert list(engine.up) == [replicas[2].url]
        replicas[0].status = 200
        replicas[1].begin()
        engine.sync(stirred(model, 1))
        assert len(engine.up) == 3
        for replica in replicas:
            replica.asked.clear()
        assert ids_of(then.generate(PROMPTS, PLAIN, SEEDS)) == before
        after = ids_of(engine.generate(PROMPTS, PLAIN, SEEDS))
        assert after == ids_of(engine_for(model, tokenizer).generate(PROMPTS, PLAIN, SEEDS))
        assert [len(replica.asked) for replica in replicas] == [8, 8, 8]
    engine.sync(model)
    assert [len(replica.adapters) for replica in replicas] == [1, 1, 1]


def test_one_that_is_still_away_is_no_news(replicas, start, model, capsys):
    engine = start(replicas)
    replicas[2].kill()
    engine.sync(model)
    engine.sync(model)
    assert len(capsys.readouterr().err.splitlines()) == 1 and len(engine.up) == 2


def test_one_that_began_anew_unnoticed_is_taken_for_lost(replicas, start, model, capsys):
    engine = start(replicas)
    replicas[0].kill()
    replicas[0].begin()
    engine.generate(PROMPTS, PLAIN, SEEDS)
    assert "has restarted, without the adapter" in capsys.readouterr().err
    engine.sync(model)
    replicas[0].kill()
    replicas[0].begin()
    engine.sync(model)  # which hands over all that it lacks
    assert len(engine.up) == 3


@pytest.mark.parametrize("back", [False, True])
def test_one_that_reads_otherwise_ends_the_run(replicas, start, model, back: bool):
    engine = start(replicas)
    if back:
        replicas[1].kill()
        engine.sync(model)
        replicas[1].begin()

    def other(own: Any) -> None:
        own.get_input_embeddings().weight.data.mul_(1.5)

    replicas[1].disturb = other
    with pytest.raises(UserError, match=f"nats from the trainer's.*; {replicas[1].url}: start it"):
        engine.sync(model)


@pytest.mark.parametrize("kind", [VLLMServer, SGLangServer])
def test_whole_weights_reach_all(kind, replicas, tiny_folder, tokenizer):
    model = load_model(str(tiny_folder)).eval()
    setup = EngineSetup(model, tokenizer, [tokenizer.eos_token_id], len(tokenizer), 64)
    engine: Any = kind(tuple(replica.url for replica in replicas)).start(setup)
    engine.sync(model)
    before = engine.generate(PROMPTS, PLAIN, SEEDS)
    for name, parameter in model.named_parameters():
        if "embed" not in name:
            parameter.data.mul_(1.3)
    engine.sync(model)
    after = engine.generate(PROMPTS, PLAIN, SEEDS)
    assert ids_of(after) != ids_of(before)
    assert ids_of(after) == ids_of(engine_for(model, tokenizer).generate(PROMPTS, PLAIN, SEEDS))
    assert len(list(engine.folder.iterdir())) == 1  # the weights of steps before are gone


@pytest.mark.parametrize("urls", [[], ["http://a", "http://a"], ["a"], ["http://a", 3]])
def test_addresses_that_are_none(urls: list[Any]):
    with pytest.raises(ValidationError):
        VLLMServer(urls)


class Chaos:
    """Kills one replica after another at random moments, each once the one before has begun anew,
    at another moment, and has been asked again."""

    def __init__(self, replicas: Sequence[ModelServer], seed: int) -> None:
        self.replicas, self.random, self.lock = replicas, Random(seed), threading.Lock()
        self.killed: list[int] = []
        self.asked: list[tuple[int, str]] = []
        self.away: ModelServer | None = None
        self.left = self.random.randint(1, 20)
        for replica in replicas:
            replica.reached = self.reached

    def reached(self) -> None:
        with self.lock:
            before = self.replicas[self.killed[-1]] if self.killed else None
            self.left -= self.away is not None or before is None or bool(before.asked)
            if self.left > 0:
                return
            self.left = self.random.randint(1, 20)
            if self.away is not None:
                self.away.begin()
                self.away = None
                return
            self.killed.append(len(self.killed) % len(self.replicas))
            self.away = self.replicas[self.killed[-1]]
            self.asked += self.away.asked
            self.away.asked.clear()
            self.away.kill()


STEPS = 20


def trained(
    model: Path, folder: Path, replicas: Sequence[ModelServer], **how: Any
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The log lines and the rollouts of a run with an adapter."""
    trainer = OPSDTrainer(
        str(model),
        methods.opsd(),
        config(folder, **{"max_steps": STEPS, "learning_rate": 0.02, **how}),
        problems(32),
        peft_config=LoraConfig(**LORA),
        engine=VLLMServer([replica.url for replica in replicas], timeout=60.0),
    )
    trainer.train()
    logged = [row for row in read_jsonl(folder / "metrics.jsonl") if "loss" in row]
    return logged, list(read_jsonl(folder / "rollouts" / "rank0.jsonl"))


def test_a_run_whose_servers_die_in_turn_learns_what_another_learns(
    replicas, tiny_folder, tmp_path, capsys
):
    whole, theirs = trained(tiny_folder, tmp_path / "whole", replicas[:1])
    chaos = Chaos(replicas, seed=5)
    for replica in replicas:
        replica.asked.clear()
    disturbed, ours = trained(tiny_folder, tmp_path / "disturbed", replicas)
    assert [row["step"] for row in disturbed] == list(range(1, STEPS + 1))
    for key in ("loss", "grad_norm"):
        one, other = ([row[key] for row in run] for run in (whole, disturbed))
        assert other == pytest.approx(one, abs=1e-4) and len(set(one)) == STEPS
    assert [row["completion_ids"] for row in ours] == [row["completion_ids"] for row in theirs]
    counted = Counter((row["step"], row["problem"], row["sample"]) for row in ours)
    assert len(counted) == 4 * STEPS and set(counted.values()) == {1}
    assert len(chaos.killed) >= 6 and set(chaos.killed) == {0, 1, 2}
    lines = capsys.readouterr().err.splitlines()
    assert sum("is back" in line for line in lines) >= 3
    # Every question was put to the weights of its own step, whoever was asked.
    steps: dict[int, set[str]] = {}
    for seed, name in itertools.chain(chaos.asked, *(replica.asked for replica in replicas)):
        steps.setdefault(seed, set()).add(name)
    assert len(steps) == 4 * STEPS and all(len(names) == 1 for names in steps.values())


def test_servers_write_several_steps_ahead_with_the_weights_of_then(
    replicas, tiny_folder, tmp_path
):
    replicas[1].heard = lambda: time.sleep(0.2)
    held: set[int] = set()
    for replica in replicas:
        replica.reached = lambda own=replica: held.add(len(own.adapters))
    ahead = {"async_rollouts": {"max_staleness": 2}, "max_steps": 6}
    logged, written = trained(tiny_folder, tmp_path, replicas, **ahead)
    assert [row["staleness/max"] for row in logged] == [0, 1, 2, 2, 2, 2]
    assert [row["staleness/mean"] for row in logged] == [0, 1, 2, 2, 2, 2]
    # Adapters are numbered by the handovers, one a step. What servers were asked says the same.
    handed = Counter(int(name.split("-")[1]) for r in replicas for _, name in r.asked)
    assert handed == {1: 12, 2: 4, 3: 4, 4: 4}
    assert Counter(row["weights_version"] + 1 for row in written) == handed
    assert max(held) <= 4 and len(replicas[0].adapters) <= 3
