"""What a command leaves behind, as values that compare, whenever and wherever it was written."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open

from opsd.runs import checkpoint
from opsd.runs.files import read_jsonl

End = Mapping[str, Sequence[tuple[Any, Any]]]
"""By the name of what is left: its parts, each with a key, of which every one is there once."""
KEPT = "teachers of checkpoints"
"""Those of the checkpoints that both ends have: which are kept depends on when a run stopped."""
CLOCKS = {"seconds", "begun", "eval_runtime", "train_runtime", "seconds_of_grid"}


def trained(run: Path) -> End:
    """Numbers but for the clock, rollouts and traces to the byte, weights of student and teachers
    to the bit."""
    steps = [(_step(row), _timeless(row)) for row in read_jsonl(run / "metrics.jsonl")]
    return {
        "metrics": steps,
        "rollouts": _lines(run / "rollouts" / "rank0.jsonl"),
        "traces": _lines(run / "traces" / "rank0.jsonl"),
        "data.json": [("all", json.loads((run / "data.json").read_text("utf-8")))],
        **learned(run),
    }


def learned(run: Path) -> End:
    """What a run has made of its model and its teachers."""
    teachers = sorted(run.glob("checkpoint-*/opsd/*.safetensors"))
    return {
        "model": weights(run / "model"),
        "files of the model": [(f.name, "") for f in sorted((run / "model").iterdir())],
        KEPT: [(str(file.relative_to(run)), _tensors(file)) for file in teachers],
    }


def evaluated(folder: Path) -> End:
    """Samples and scores of every evaluation in a folder."""
    found: dict[str, list[tuple[Any, Any]]] = {"samples": [], "scores": []}
    for file in sorted(folder.rglob("samples.jsonl")):
        place = str(file.parent.relative_to(folder))
        found["samples"] += sorted(
            ((place, r["problem"], r["sample"]), _timeless(r)) for r in read_jsonl(file)
        )
        found["scores"].append((place, _document(file.with_name("result.json"))))
    return found


def reproduced(folder: Path) -> End:
    trials = sorted((folder / "trials").glob("*.json.gz"))
    return {
        "trials": [
            (file.name, _timeless(json.loads(gzip.decompress(file.read_bytes()))))
            for file in trials
        ],
        "claims": [(row["name"], _timeless(row)) for row in _read(folder / "claims.json")],
    }


def started_quickly(folder: Path) -> End:
    result = _read(folder / "result.json")
    rows = [*result["results"], *result["control"]]
    return {
        "arms": [((r["language"], r["method"], r["seed"]), r) for r in rows],
        "samples": _lines(folder / "samples.jsonl"),
        "page": [("report.html", (folder / "report.html").is_file())],
    }


def shown(folder: Path) -> End:
    """Pages, of which only that they are there and whole."""
    files = sorted(folder.glob("*.html"))
    return {"pages": [(f.name, f.read_text("utf-8").rstrip()[-7:]) for f in files]}


def exported(folder: Path) -> End:
    return {"weights": weights(folder), "files": [(f.name, "") for f in sorted(folder.iterdir())]}


def weights(folder: Path) -> list[tuple[str, dict[str, str]]]:
    """The tensors of a model's files."""
    return [(file.name, _tensors(file)) for file in sorted(folder.glob("*.safetensors"))]


def lost(ours: End, whole: End) -> str:
    """What of a whole end is missing, there twice, or too much; empty where all is there once."""
    for part, rows in whole.items():
        if part == KEPT:
            continue
        there, due = (Counter(str(key) for key, _ in end) for end in (ours[part], rows))
        for key in there | due:
            if there[key] != due[key]:
                return f"{part}: {key} is there {there[key]} times instead of {due[key]}"
    return ""


def unequal(ours: End, whole: End) -> str:
    """The first value that differs from a whole end's; empty where none does."""
    for part, rows in whole.items():
        own = {str(key): value for key, value in ours[part]}
        for key, value in rows:
            if str(key) in own and own[str(key)] != value:
                return f"{part}: {key} differs: {_shortly(own[str(key)])}, {_shortly(value)}"
    return ""


def unreadable(folder: Path) -> str:
    """The first file that no reader could make sense of, whatever moment a kill has come at: of a
    checkpoint that does not count, and of drafts, nothing is expected."""
    counted = set(checkpoint.complete(folder).values())
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        of = next((p for p in file.parents if p.name.startswith("checkpoint-")), None)
        drafts = any(".part" in part for part in file.relative_to(folder).parts)
        if drafts or (of is not None and of not in counted):
            continue
        try:
            if file.suffix == ".jsonl":
                list(read_jsonl(file))
            elif file.suffix == ".json":
                _read(file)
            elif file.suffix == ".safetensors":
                _tensors(file)
        except Exception as error:
            return f"{file}: {error}"
    return ""


def _step(row: Mapping[str, Any]) -> tuple[int, str]:
    dev = any(key.startswith("eval_") for key in row)
    return row["step"], "dev" if dev else "train"


def _timeless(value: Any) -> Any:
    if isinstance(value, Mapping):
        kept = {k: v for k, v in value.items() if k not in CLOCKS and not k.startswith("time/")}
        return {k: _timeless(v) for k, v in kept.items() if k not in ("check", "model")}
    return [_timeless(v) for v in value] if isinstance(value, list) else value


def _lines(path: Path) -> list[tuple[int, bytes]]:
    return list(enumerate(path.read_bytes().splitlines())) if path.is_file() else []


def _read(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def _document(path: Path) -> Any:
    return _timeless(_read(path))


def _tensors(path: Path) -> dict[str, str]:
    return dict(_digests(path))


def _digests(path: Path) -> Iterator[tuple[str, str]]:
    with safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118
            content = file.get_tensor(name).contiguous().view(-1).numpy().tobytes()
            yield name, hashlib.sha256(content).hexdigest()


def _shortly(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 200 else f"{text[:200]}..."
