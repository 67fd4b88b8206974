"""The client of `vllm serve` against real servers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig
from tests.arrange import config, engine_for, free_port, problems
from tests.rollout.contract import PLAIN, SEEDS, EngineContract, assert_log_probs, ids_of
from tests.vllm.test_vllm import WARM, adapted, stirred
from transformers import TrainerCallback

from opsd import OPSDTrainer, VLLMServer
from opsd.lm.loading import load_model, load_tokenizer
from opsd.rollout.engine import EngineDown, EngineSetup
from opsd.rollout.weight_sync import PROBED
from opsd.runs import checkpoint
from opsd.types import UserError

pytest.importorskip("vllm", reason="vllm is not installed: it has an environment of its own")

ALLOWED = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_SERVER_DEV_MODE": "1"}


@pytest.fixture(scope="module")
def prompts(tokenizer) -> list[tuple[int, ...]]:
    texts = ["Neema", "Neema has 3 eggs and 4 more.", "1 + 1", "a" * 20, "Kí ni?"]
    return [tuple(tokenizer(text)["input_ids"]) for text in texts]


@contextmanager
def serving(model: Path, log: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen]]:
    """A server's address and its process, which may not be up yet."""
    port = free_port()
    # What `vllm serve` runs; that command itself does not start from the package for CPUs.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    command += ["--port", str(port), "--host", "127.0.0.1"]
    command += ["--dtype", "float32", "--enforce-eager", "--max-model-len", "512", *options]
    own = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
    with log.open("w") as file:
        process = subprocess.Popen(
            command,
            env={**os.environ, **own, **ALLOWED},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield f"http://127.0.0.1:{port}", process
    finally:
        stop(process)


def stop(process: subprocess.Popen) -> None:
    """Ends a server and the engine that is a process of its own."""
    if process.poll() is None:
        os.killpg(process.pid, 9)
    process.wait()
    time.sleep(0.5)


LORA = ("--enable-lora", "--max-lora-rank", "8")
PROCESSED = ("--logprobs-mode", "processed_logprobs")


Servers = tuple[tuple[str, subprocess.Popen], tuple[str, subprocess.Popen]]


@pytest.fixture(scope="module")
def servers(tiny_folder, tmp_path_factory) -> Iterator[Servers]:
    """One that takes adapters and one that takes whole weights; they come up together."""
    logs = tmp_path_factory.mktemp("servers")
    with (
        serving(tiny_folder, logs / "lora", *LORA, *PROCESSED) as lora,
        serving(tiny_folder, logs / "plain", *PROCESSED) as plain,
    ):
        yield lora, plain


@pytest.fixture
def server(servers: Servers) -> tuple[str, subprocess.Popen]:
    return servers[0]


@pytest.fixture
def plain_server(servers: Servers) -> tuple[str, subprocess.Popen]:
    return servers[1]


def client(model: Any, tokenizer: Any, url: str | list[str], **choice: Any) -> Any:
    setup = EngineSetup(model, tokenizer, [tokenizer.eos_token_id], len(tokenizer), 256)
    engine = VLLMServer(url, **{"timeout": 900.0, **choice}).start(setup)
    engine.sync(model)
    return engine


class TestContract(EngineContract):
    @pytest.fixture(scope="class")
    def model(self, tiny_folder) -> Any:
        return adapted(load_model(str(tiny_folder))).eval()

    @pytest.fixture
    def engine(self, server, model, tokenizer) -> Any:
        return client(model, tokenizer, server[0])


def test_an_adapter_reaches_the_server(server, tiny_folder, tokenizer, prompts):
    model = adapted(load_model(str(tiny_folder))).eval()
    engine = client(model, tokenizer, server[0])
    greedy = replace(PLAIN, temperature=0.0, max_tokens=40)
    before = engine.generate(prompts, greedy, SEEDS)
    assert ids_of(before) == ids_of(engine_for(model, tokenizer).generate(prompts, greedy, SEEDS))
    with model.disable_adapter():
        engine.sync(model)
        base = engine.generate(prompts, greedy, SEEDS)
    stirred(model, 1)
    engine.sync(model)
    after = engine.generate(prompts, greedy, SEEDS)
    assert len({str(ids_of(made)) for made in (before, base, after)}) == 3
    assert len(list(engine.folder.iterdir())) == 1
    warm = replace(PLAIN, temperature=1.3)
    told: list[int] = []
    drawn = engine.generate(prompts, warm, SEEDS, lambda done, *tokens: told.append(done))
    assert sum(told) == len(prompts)
    assert_log_probs(model, prompts, drawn, len(tokenizer), 1.3)
    assert ids_of(engine.generate(prompts[::-1], warm, SEEDS[::-1])[::-1]) == ids_of(drawn)
    cut = engine.generate(prompts, replace(warm, top_k=5), SEEDS)
    assert {c.logprobs for c in cut} == {None}


def test_weights_that_did_not_arrive_are_refused(
    server, tiny_folder, tokenizer, prompts, monkeypatch
):
    from opsd.rollout import servers

    model = adapted(load_model(str(tiny_folder))).eval()
    engine = client(model, tokenizer, server[0])
    save = servers.save_adapter

    def stale(model: Any, folder: Path) -> Path:
        save(model, folder)
        stirred(model, 3)  # what the trainer has is newer than what was written
        return folder

    monkeypatch.setattr(servers, "save_adapter", stale)
    with pytest.raises(UserError, match="nats from the trainer's"):
        engine.sync(model)


def test_a_server_without_what_is_needed_is_told_how_to_start(
    server, tiny_folder, tokenizer, prompts
):
    model = adapted(load_model(str(tiny_folder))).eval()
    engine = client(model, tokenizer, server[0])
    engine.adapter = "nobody"
    with pytest.raises(UserError, match=r"refuses \(404.*start it with .*vllm serve"):
        engine.generate(prompts, PLAIN, SEEDS)


def test_a_server_that_never_comes_is_one_line(tiny_folder, tokenizer):
    model = load_model(str(tiny_folder))
    with pytest.raises(UserError, match=r"no server answers at http://127.0.0.1:\d+ within 0.5 s"):
        client(model, tokenizer, f"http://127.0.0.1:{free_port()}", timeout=0.5)


def test_whole_weights_reach_the_server(plain_server, tiny_folder, tokenizer, prompts):
    model = load_model(str(tiny_folder)).eval()
    engine = client(model, tokenizer, plain_server[0])
    before = engine.generate(prompts, PLAIN, SEEDS)
    for name, parameter in model.named_parameters():
        if "embed" not in name:
            parameter.data.mul_(1.3)
    engine.sync(model)
    after = engine.generate(prompts, PLAIN, SEEDS)
    assert ids_of(after) != ids_of(before)
    assert_log_probs(model, prompts, after, len(tokenizer), 1.0)


def test_replicas_write_what_one_server_writes(
    server, tiny_folder, tokenizer, prompts, tmp_path, capsys
):
    model = adapted(load_model(str(tiny_folder))).eval()
    many, seeds = prompts * 3, range(15)
    one = client(model, tokenizer, server[0]).generate(many, PLAIN, seeds)
    with serving(tiny_folder, tmp_path / "log", *LORA, *PROCESSED) as (url, process):
        engine = client(model, tokenizer, [server[0], url])
        assert ids_of(engine.generate(many, PLAIN, seeds)) == ids_of(one)
        stop(process)
        assert ids_of(engine.generate(many, PLAIN, seeds)) == ids_of(one)
        told = capsys.readouterr().err
        assert f"{url} does not respond" in told and "1 of 2 servers are in use" in told
        stirred(model, 1)
        engine.sync(model)
        after = engine.generate(many, PLAIN, seeds)
    assert list(engine.up) == [server[0]] and ids_of(after) != ids_of(one)
    assert_log_probs(model, many, after, len(tokenizer), 1.0)


class Assassin(TrainerCallback):
    """Kills the server after the second step."""

    def __init__(self, process: subprocess.Popen) -> None:
        self.process = process

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 2:
            stop(self.process)


def test_a_server_that_dies_loses_no_step(plain_server, tiny_folder, tmp_path):
    """All but greedy, so that the run can go on with another engine that writes the same."""

    def trainer(folder: str, engine: VLLMServer | None, *callbacks: TrainerCallback) -> OPSDTrainer:
        model = load_model(str(tiny_folder))
        model.model.embed_tokens.requires_grad_(False)  # see the tied weight on CPUs
        how = config(tmp_path / folder, max_steps=4, temperature=1e-3, learning_rate=1e-3)
        return OPSDTrainer(
            model,
            WARM,
            how,
            problems(16),
            processing_class=load_tokenizer(str(tiny_folder)),
            engine=engine,
            callbacks=list(callbacks),
        )

    def losses(run: OPSDTrainer) -> list[float]:
        return [row["loss"] for row in run.state.log_history if "loss" in row]

    whole = trainer("whole", None)
    whole.train()
    url, process = plain_server
    dying = trainer("dying", VLLMServer(url), Assassin(process))
    with pytest.raises(EngineDown, match=r"does not respond .*; 2 steps are saved: .*--resume"):
        dying.train()
    assert list(checkpoint.complete(tmp_path / "dying")) == [2]
    again = trainer("dying", None)
    again.train(resume_from_checkpoint=True)
    assert len(set(losses(whole))) == 4
    assert losses(again) == pytest.approx(losses(whole), rel=1e-3)


@pytest.mark.parametrize(
    ("ahead", "versions"),
    [(True, [1, 1, 2, 3]), ({"max_staleness": 2}, [1, 1, 1, 2])],
)
def test_a_server_writes_steps_to_come_meanwhile(server, tiny_folder, tmp_path, ahead, versions):
    trainer = OPSDTrainer(
        str(tiny_folder),
        WARM,
        config(tmp_path, max_steps=4, learning_rate=0.02, async_rollouts=ahead),
        problems(32),
        peft_config=LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear"),
        engine=VLLMServer(server[0]),
    )
    engine: Any = trainer.generator.engine
    replica = engine.up[server[0]]
    asked, ask = [], replica.ask

    def noted(prompt: Any, sampling: Any, seed: int, adapter: str) -> Any:
        if sampling.max_tokens != PROBED.max_tokens:
            asked.append(int(adapter.split("-")[1]))
        return ask(prompt, sampling, seed, adapter)

    replica.ask = noted
    trainer.train()
    assert sorted(asked) == [version for version in versions for _ in range(4)]
    assert len([row for row in trainer.state.log_history if "loss" in row]) == 4
