"""The plan of a launch: the commands of trainers and engines, and the environment of ranks."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from opsd.lm.built_in import resolve
from opsd.recipe import schema
from opsd.recipe.files import launcher
from opsd.recipe.schema import Recipe
from opsd.types import UserError
from opsd.validation import mapping

STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")
"""Ray's placement strategies."""
ENGINE = "vllm serve"


@dataclass(frozen=True)
class Plan:
    """A recipe with its settings, as for `opsd train`, and a run folder that all machines see; the
    numbers of trainers and engines, with one GPU each, or one CPU if the cluster has no GPUs.
    `config` is a configuration of `accelerate launch` (ddp, fsdp2, or a file). After a failure the
    trainers are restarted, at most `max_restarts` times."""

    name: str
    recipe: Recipe
    output: Path
    settings: tuple[str, ...] = ()
    trainers: int = 1
    engines: int = 1
    engine_command: str = ENGINE
    config: str | None = None
    strategy: str = "PACK"
    max_restarts: int = 3

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise UserError(f"--strategy {self.strategy}: write one of {', '.join(STRATEGIES)}")
        if not _words(self.engine_command):
            raise UserError("--engine-command: write the command that starts a vLLM server")
        if self.trainers > 1 and self.recipe.peers:
            raise UserError("two models that write for each other are trained by one process")
        self.rank(0, "localhost", 0)  # refuses an invalid configuration

    @property
    def weights(self) -> Path:
        """The launch's own folder for passing weights to engines, if the recipe names no other."""
        return self.output.with_name(f"{self.output.name}.weights")

    @property
    def _engine(self) -> dict[str, Any]:
        """The recipe's engine if it is a vLLM server, else empty."""
        engine = yaml.safe_load(schema.dump(self.recipe))["engine"]
        return engine if engine["type"] == "vllm_server" else {}

    def trainer(self, urls: Sequence[str], resume: bool) -> list[str]:
        """The command of every rank. Rollouts come from the engines at these addresses; without
        addresses, from the recipe's own engine."""
        command = [sys.executable, "-m", "opsd", "train", self.name, "--output", str(self.output)]
        command += [word for setting in self.settings for word in ("--set", setting)]
        if urls:
            own = {**self._engine, "type": "vllm_server", "url": list(urls)}
            own["folder"] = own.get("folder") or str(self.weights)
            command += ["--set", "engine=" + json.dumps(own)]
        return [*command, "--resume"] if resume else command

    def engine(self, address: str, port: int) -> list[str]:
        """The command of an engine, which listens only at this address of its machine."""
        model, lora = self.recipe.model, self.recipe.model.lora
        command = [*_words(self.engine_command), resolve(model.name)]
        command += ["--host", address, "--port", str(port)]
        # A line per prompt would bury the other processes' output.
        command += ["--logprobs-mode", "processed_logprobs", "--disable-uvicorn-access-log"]
        if model.revision:
            command += ["--revision", model.revision]
        if model.dtype:
            command += ["--dtype", model.dtype]
        if model.trust_remote_code:
            command += ["--trust-remote-code"]
        if lora is not None:
            ahead = self.recipe.train.get("async_rollouts")
            held = 1 + (ahead["max_staleness"] if isinstance(ahead, dict) else int(bool(ahead)))
            command += ["--enable-lora", "--max-lora-rank", str(_served(lora.r))]
            command += ["--max-loras", str(held * self.trainers)]
        return command

    def rank(self, rank: int, address: str, port: int) -> dict[str, str]:
        """The environment variables by which a rank finds the others, given the first one's
        address, and those of the configuration. A single rank needs none of the former."""
        found = {}
        if self.trainers > 1:
            # An actor sees only its own device, as the first one.
            found = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
            found |= {"RANK": str(rank), "WORLD_SIZE": str(self.trainers)}
            found |= {"MASTER_ADDR": address, "MASTER_PORT": str(port)}
        return found | ({} if self.config is None else _configuration(self.config))


SERVED = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_SERVER_DEV_MODE": "1"}
"""The environment variables that allow vLLM's server to exchange weights."""


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError as error:
        raise UserError(f"--engine-command: {error}") from error


def _served(rank: int) -> int:
    """The smallest LoRA rank that vLLM supports and that is at least this one."""
    return next((size for size in (8, 16, 32, 64, 128, 256, 320, 512) if size >= rank), rank)


def _configuration(name: str) -> dict[str, str]:
    """The environment variables that `accelerate launch` would set for a configuration."""
    content = mapping(Path(name) if name.endswith((".yaml", ".yml")) else launcher(name))
    kind = str(content.get("distributed_type"))
    if kind not in ("MULTI_GPU", "MULTI_CPU", "FSDP"):
        raise UserError(f"--config {name}: {kind} cannot be started by Ray; use ddp or fsdp2")
    found = {"ACCELERATE_MIXED_PRECISION": str(content.get("mixed_precision", "no"))}
    if kind == "FSDP":
        found["ACCELERATE_USE_FSDP"] = "true"
        found |= {key.upper(): str(value) for key, value in content["fsdp_config"].items()}
    return found
