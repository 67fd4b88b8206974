"""Our part of a checkpoint: teachers, counters, unspent rollouts, sizes of the run's files.

It is written into the checkpoint folder before the Trainer's own files, of which
`trainer_state.json` comes last: a folder where both parse is complete.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from opsd.run import log, write_atomically
from opsd.types import Advice, Finish, Group, Problem, Rollout, UserError, Verdict

_STATE = "opsd/state.json"


def save(
    folder: Path, state: Mapping[str, Any], teachers: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Writes the shared state; `state.json` last, since it says that the rest is there."""
    for name, tensors in teachers.items():
        if tensors:
            path = folder / "opsd" / f"teacher-{name}.safetensors"
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({k: t.detach().cpu().contiguous() for k, t in tensors.items()}, path)
    write_atomically(folder / _STATE, json.dumps(state, indent=1))


def load(folder: Path) -> dict[str, Any]:
    return json.loads((folder / _STATE).read_text("utf-8"))


def load_teacher(folder: Path, name: str) -> dict[str, Tensor]:
    path = folder / "opsd" / f"teacher-{name}.safetensors"
    if not path.is_file():
        raise UserError(f"{path} is missing: the checkpoint has no state for the '{name}' teacher")
    return load_file(path)


def save_rollouts(folder: Path, rank: int, groups: Sequence[Group]) -> None:
    """Unspent rollouts of one process, as JSON: floats survive it bit for bit."""
    rows = [asdict(group) for group in groups]
    write_atomically(folder / "opsd" / f"rollouts-{rank}.json", json.dumps(rows))


def load_rollouts(folder: Path, rank: int) -> list[Group] | None:
    """What `save_rollouts` has written; None where there was nothing to write."""
    file = folder / "opsd" / f"rollouts-{rank}.json"
    if not file.is_file():
        return None
    return [_group(row) for row in json.loads(file.read_text("utf-8"))]


def complete(run: Path) -> dict[int, Path]:
    """The complete checkpoints of a run folder by their steps, the newest one last."""
    found = sorted(
        (int(folder.name.split("-")[1]), folder)
        for folder in run.glob("checkpoint-*")
        if folder.name.split("-")[1].isdigit() and _complete(folder)
    )
    return dict(found)


def newest(run: Path) -> Path | None:
    """The newest complete checkpoint of a run folder, or None."""
    return next(reversed(complete(run).values()), None)


def _complete(folder: Path) -> bool:
    """Whether a run can go on from here as if nothing had happened; says so where something is
    missing that a kill does not explain."""
    try:
        for name in (_STATE, "trainer_state.json"):
            json.loads((folder / name).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    optimizer = (folder / "optimizer.pt").is_file() or any(folder.glob("global_step*"))
    weights = [file for file in folder.glob("*.safetensors") if _whole(file)]
    if optimizer and weights:
        return True
    lost = "its weights" if optimizer else "the optimizer's state"
    log(f"{folder} is passed over: {lost} cannot be read")
    return False


def _whole(file: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt"):
            return True
    except (SafetensorError, OSError):
        return False


def _group(row: dict[str, Any]) -> Group:
    problem = dict(row["problem"])
    if not isinstance(problem["prompt"], str):
        problem["prompt"] = tuple(problem["prompt"])
    rollouts = []
    for fields in row["rollouts"]:
        verdict = fields["verdict"]
        logprobs = fields["logprobs"]
        rollouts.append(
            Rollout(
                prompt_ids=tuple(fields["prompt_ids"]),
                completion_ids=tuple(fields["completion_ids"]),
                text=fields["text"],
                finish=Finish(fields["finish"]),
                logprobs=None if logprobs is None else tuple(logprobs),
                verdict=None if verdict is None else Verdict(**verdict),
            )
        )
    told = row["retrieved"]
    retrieved = None if told is None else tuple(Advice(**advice) for advice in told)
    return Group(Problem(**problem), tuple(rollouts), tuple(row["notes"]), retrieved)
