"""The commands that write for long, on little: what they are called with, how they go on after a
kill, and what they leave behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from tests.conftest import save_tiny_model
from tests.faults import ends
from tests.faults.processes import forked

from opsd.miniature.tokenizer import build_tokenizer
from opsd.miniature.world import problems
from opsd.runs import checkpoint

STEPS = 6
EMA: dict[str, Any] = {"context": {"type": "solution"}, "weights": {"type": "ema", "decay": 0.5}}
SUM = [[1.0, {"type": "advantage"}], [0.5, {"type": "distill", "teacher": EMA}]]
TRAIN = {
    "max_steps": STEPS,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "learning_rate": 1e-3,
    "save_steps": 1,
    "gradient_checkpointing": False,
}
EVERYTHING: dict[str, Any] = {
    "method": {"name": "grpo", "group": 2, "reuse": 3, "signal": {"type": "sum", "terms": SUM}},
    "data": {"source": "miniature", "language": "swa", "limit": 20, "dev": 2},
    "sampling": {"max_completion_length": 8, "top_k": 0, "top_p": 1.0, "temperature": 1.0},
    "train": TRAIN | {"eval_steps": 3, "eval_samples": 2, "load_best_model_at_end": False},
}
LORA = {"lora": {"r": 4, "lora_alpha": 8}}


def recipes(folder: Path) -> dict[str, dict[str, Any]]:
    """Recipes of everything that has state, by what is special about them; models and rows are
    written to `folder`."""
    model = str(save_tiny_model(folder / "tiny", build_tokenizer()))
    rows = folder / "rows.jsonl"
    lines = [
        {"problem": p.text, "answer": p.answer, **p.privileged}
        for p in problems("miniature", "train", "swa", 40)
    ]
    rows.write_text("".join(json.dumps(row) + "\n" for row in lines))
    short = EVERYTHING["data"] | {"dev": 2}
    made = {
        "everything": EVERYTHING | {"model": model},
        "lora": EVERYTHING | {"model": {"name": model, **LORA}, "method": "copsd"},
        "one checkpoint": EVERYTHING | {"model": model, "method": "opsd"},
        "the best": EVERYTHING | {"model": "miniature", "method": "copsd", "data": short},
        "stream": EVERYTHING | {"model": model, "method": "opsd"},
        "built in": EVERYTHING | {"model": "miniature", "method": "copsd"},
    }
    made = {name: deepcopy(content) for name, content in made.items()}
    made["lora"]["train"]["save_total_limit"] = 1
    made["one checkpoint"]["train"]["save_total_limit"] = 1
    made["the best"]["train"] |= {
        "eval_steps": 1,
        "load_best_model_at_end": True,
        "save_total_limit": 1,
    }
    made["stream"]["data"] = {"source": str(rows), "streaming": True, "language": "swa"}
    for name in ("eval_steps", "eval_samples", "load_best_model_at_end"):
        del made["stream"]["train"][name]
    made["the best"]["sampling"]["max_completion_length"] = 32
    made["built in"]["train"]["save_steps"] = 2
    return made


@dataclass(frozen=True)
class Command:
    """`begin` are the arguments that write into a folder, `again` those that go on there, and `end`
    reads what is left in the end."""

    name: str
    begin: Callable[[Path], list[str]]
    again: Callable[[Path], list[str]]
    end: Callable[[Path], ends.End]


@dataclass(frozen=True)
class Whole:
    """A command that ended undisturbed: where, with what, and by when it does its work."""

    folder: Path
    end: ends.End
    seconds: float
    changes: int


class World:
    """Where a campaign works: a folder with models, rows and recipes, made when they are needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._wholes: dict[str, Whole] = {}

    @cached_property
    def recipes(self) -> Mapping[str, Path]:
        made = {}
        for name, content in recipes(self.folder).items():
            made[name] = self.folder / f"{name}.yaml"
            made[name].write_text(yaml.safe_dump(content))
        return made

    @cached_property
    def commands(self) -> list[Command]:
        model, rows = self.folder / "tiny", self.folder / "rows.jsonl"
        how = f"--data {rows} --language swa --samples 16 --budget 4,8 --threads 1".split()

        def evaluate(folder: Path) -> list[str]:
            return ["evaluate", str(model), *how, "--output", str(folder)]

        def reproduce(folder: Path) -> list[str]:
            return ["reproduce", "--output", str(folder)]

        def quickstart(folder: Path) -> list[str]:
            return ["quickstart", "--output", str(folder)]

        def page(name: str) -> Command:
            def arguments(folder: Path) -> list[str]:
                folder.mkdir(exist_ok=True)
                run = self.whole(self.command("train (everything)")).folder
                return [name, str(run), "--output", str(folder / f"{name}.html")]

            return Command(name, arguments, arguments, ends.shown)

        def export(folder: Path) -> list[str]:
            run = self.whole(self.command("train (lora)")).folder
            return ["export", str(run), str(folder)]

        return [
            *(self._train(name, recipe) for name, recipe in self.recipes.items()),
            Command("evaluate", evaluate, evaluate, ends.evaluated),
            Command("reproduce", reproduce, reproduce, ends.reproduced),
            Command("quickstart", quickstart, quickstart, ends.started_quickly),
            Command("export", export, export, ends.exported),
            page("report"),
            page("inspect"),
        ]

    def command(self, name: str) -> Command:
        return next(command for command in self.commands if command.name == name)

    def place(self, name: str) -> Path:
        """An empty folder for one try."""
        made = self.folder / "tries" / name
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(parents=True)
        return made

    def whole(self, command: Command) -> Whole:
        """The command without a fault; it is run once."""
        if command.name not in self._wholes:
            place = self.folder / "whole" / command.name
            place.mkdir(parents=True)
            ended = forked(command.begin(place / "out"), place)
            if ended.code != 0:
                raise AssertionError(f"{command.name} fails by itself: {ended.told}")
            made = Whole(place / "out", command.end(place / "out"), ended.seconds, ended.changes)
            self._wholes[command.name] = made
        return self._wholes[command.name]

    def _train(self, name: str, recipe: Path) -> Command:
        def begin(folder: Path) -> list[str]:
            return ["train", str(recipe), "--output", str(folder), "--threads", "1"]

        def again(folder: Path) -> list[str]:
            return [*begin(folder), *(["--resume"] if checkpoint.complete(folder) else [])]

        return Command(f"train ({name})", begin, again, ends.trained)
