"""Our part of a checkpoint: teachers, counters, unused rollouts, sizes of the run's files.

It is written to the checkpoint folder before the Trainer's own files. Sizes and checksums of all
files are written last: a checkpoint is valid if every file matches them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import xxhash
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file
from torch import Tensor

from opsd.console import log
from opsd.runs.files import write_atomically
from opsd.runs.json_files import Damaged, document
from opsd.types import Group, UserError

_STATE, _MANIFEST = "opsd/state.json", "opsd/manifest.json"
_GROUPS = TypeAdapter(dict[int, list[Group]])


def save(
    folder: Path, state: Mapping[str, Any], teachers: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Write the state shared by all processes."""
    for name, tensors in teachers.items():
        if tensors:
            path = folder / "opsd" / f"teacher-{name}.safetensors"
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({k: t.detach().cpu().contiguous() for k, t in tensors.items()}, path)
    write_atomically(folder / _STATE, json.dumps(state, indent=1))


def load_state(folder: Path) -> dict[str, Any]:
    return json.loads((folder / _STATE).read_text("utf-8"))


def has_teacher_state(folder: Path, name: str) -> bool:
    """Whether a checkpoint has a state of these weights."""
    return (folder / "opsd" / f"teacher-{name}.safetensors").is_file()


def load_teacher_state(folder: Path, name: str) -> dict[str, Tensor]:
    path = folder / "opsd" / f"teacher-{name}.safetensors"
    if not path.is_file():
        raise UserError(f"{path} is missing: the checkpoint has no state for the '{name}' teacher")
    return load_file(path)


def save_rollouts(folder: Path, rank: int, unspent: Mapping[int, list[Group]]) -> None:
    """Save a process's unused rollouts, by the step that will train on them, as JSON, which
    preserves floats exactly."""
    rows = _GROUPS.dump_python(dict(unspent), mode="json")
    write_atomically(folder / "opsd" / f"rollouts-{rank}.json", json.dumps(rows))


def load_rollouts(folder: Path, rank: int) -> dict[int, list[Group]]:
    """Load the rollouts that `save_rollouts` has written; empty if there were none."""
    file = folder / "opsd" / f"rollouts-{rank}.json"
    if not file.is_file():
        return {}
    return _GROUPS.validate_python(json.loads(file.read_text("utf-8")))


def clear(folder: Path) -> None:
    """Prepare a checkpoint's folder, removing whatever an earlier attempt has left."""
    (folder / "opsd").mkdir(parents=True, exist_ok=True)
    for file in (folder / _MANIFEST, *folder.glob("opsd/rollouts-*.json")):
        file.unlink(missing_ok=True)


def forget_after(run: Path, step: int) -> None:
    """Invalidate the checkpoints after the step that a run resumes from."""
    for later, folder in _numbered(run).items():
        if later > step:
            (folder / _MANIFEST).unlink(missing_ok=True)


def seal(folder: Path) -> None:
    """Record the size and a checksum of every file of a checkpoint. This is written last; without
    it the checkpoint is not valid."""
    files = {name: [file.stat().st_size, _checksum(file)] for name, file in _files(folder).items()}
    write_atomically(folder / _MANIFEST, json.dumps({"files": files}, indent=1))


def complete(run: Path) -> dict[int, Path]:
    """The complete checkpoints of a run folder, by step, the newest one last."""
    return {step: f for step, f in _numbered(run).items() if (f / _MANIFEST).is_file()}


def kept_step(run: Path) -> int | None:
    """The step whose weights are a finished run's model: the best step, if the newest checkpoint
    records one, else that checkpoint's own. None if it cannot be determined."""
    step, folder = max(complete(run).items(), default=(None, run))
    if step is None:
        return None
    try:
        best = document(folder / "trainer_state.json").get("best_model_checkpoint")
    except Damaged:
        return None
    return step if best is None else int(Path(best).name.removeprefix("checkpoint-"))


def newest(run: Path) -> Path | None:
    """The newest undamaged checkpoint of a run folder, or None. Logs which ones are skipped."""
    for folder in reversed(_numbered(run).values()):
        damage = damaged(folder)
        if damage is None:
            return folder
        log(f"{folder} is skipped: {damage}")
    return None


def damaged(folder: Path) -> str | None:
    """What is wrong with a checkpoint's files; None if it is intact."""
    if not (folder / _MANIFEST).is_file():
        return "it is incomplete"
    if change := changed(folder):
        return change
    written = _written(folder)
    if not any(name.endswith(".safetensors") and "/" not in name for name in written):
        return "it has no weights"
    optimizer = "optimizer.pt" in written or any(name.startswith("global_step") for name in written)
    return None if optimizer else "it has no optimizer state (save_only_model)"


def changed(folder: Path, among: Collection[str] | None = None) -> str | None:
    """The first file of a checkpoint, optionally `among` some, that differs from what was written.
    None also for a folder without checksums."""
    try:
        written = _written(folder)
    except OSError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{_MANIFEST} is damaged"
    for name in written if among is None else [name for name in written if name in among]:
        file, (size, digest) = folder / name, written[name]
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size or _checksum(file) != digest:
            return f"{name} is damaged"
    return None


def _written(folder: Path) -> dict[str, tuple[int, str]]:
    """Sizes and checksums of a checkpoint's files when it was sealed."""
    files = json.loads((folder / _MANIFEST).read_text("utf-8"))["files"]
    return {str(name): (int(size), str(digest)) for name, (size, digest) in files.items()}


def _numbered(run: Path) -> dict[int, Path]:
    """All checkpoint folders, complete or not, by step, the newest one last."""
    folders = {f.name.partition("-")[2]: f for f in run.glob("checkpoint-*") if f.is_dir()}
    return dict(sorted((int(step), f) for step, f in folders.items() if step.isdigit()))


def _files(folder: Path) -> dict[str, Path]:
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    named = {file.relative_to(folder).as_posix(): file for file in files}
    return {n: f for n, f in named.items() if n != _MANIFEST and not n.endswith(".part")}


def _checksum(file: Path) -> str:
    digest = xxhash.xxh3_128()
    with file.open("rb") as content:
        while block := content.read(1 << 24):
            digest.update(block)
    return digest.hexdigest()
