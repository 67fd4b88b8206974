"""The inspector as one HTML file that loads nothing: it contains data, style and script; the page's
content security policy lists the hashes of style and script.

Whatever comes from a run is untrusted: it is data, in JSON that no tag can end, and the script
writes it only as text.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from opsd.console import log
from opsd.inspect.measures import LEVELS, Series, measures, reader_label, series_of
from opsd.inspect.rows import Traced, load_traces, within
from opsd.languages.registry import codes, language
from opsd.pages.html import render
from opsd.pages.visible import HIDDEN, UNSEEN
from opsd.runs.files import write_atomically
from opsd.runs.json_files import finite

_REPLACEMENT = "\ufffd"


def write_inspector(runs: Sequence[Path], output: Path, steps: Sequence[int] = ()) -> Path:
    """Writes one HTML file about the traces of these run folders, and returns its path.

    `steps` chooses among a run's traces. Raises UserError for a folder without traces, a step
    without any, and a line that is not a trace.
    """
    traced, left_out = within(load_traces(runs, steps))
    if left_out:
        told = ", ".join(map(str, left_out))
        log(f"too many tokens for one page: steps {told} are left out; choose with --steps")
    write_atomically(output, page(traced, left_out))
    return output


def page(traced: Sequence[Traced], left_out: Sequence[int] = ()) -> str:
    """The page about these traces; `left_out` are steps that did not fit on it."""
    labels = list(dict.fromkeys(one.run for one in traced))
    return render(
        Path(__file__).parent,
        "page",
        title=f"Token by token: {', '.join(labels)}",
        data=embedded(content(traced, left_out)),
        scripts=("rollouts", "page"),
    )


def content(traced: Sequence[Traced], left_out: Sequence[int] = ()) -> dict[str, Any]:
    """What the page shows, as plain values. `texts` contains each token's text once, and everything
    else refers to it by number."""
    texts = _Texts()
    series = [list(series_of(one.row)) for one in traced]
    return {
        "unseen": UNSEEN,
        "levels": LEVELS,
        "left_out": list(left_out),
        "measures": [asdict(measure) for measure in measures(series)],
        "rollouts": [_rollout(one, own, texts) for one, own in zip(traced, series, strict=True)],
        "texts": list(texts.numbers),
    }


def embedded(value: Any) -> str:
    """JSON that is safe between script tags and contains no hidden characters: those that UTF-8
    cannot encode, or that would reorder the file's own text, are escaped."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return HIDDEN.sub(_escaped, re.sub("[<>&]", _escaped, text))


def _escaped(match: re.Match[str]) -> str:
    units = match.group().encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))


class _Texts:
    """Numbers texts, each once."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def __call__(self, text: str) -> int:
        return self.numbers.setdefault(text, len(self.numbers))


def _rollout(traced: Traced, series: Iterable[Series], texts: _Texts) -> dict[str, Any]:
    row = traced.row
    code = str(row.get("language", ""))
    return {
        "run": traced.run,
        "step": traced.step,
        "checkpoint": traced.checkpoint,
        "problem": str(row.get("problem", "")),
        "sample": row.get("sample", 0),
        "state": row.get("state"),
        "masked": [i for i, masked in enumerate(row.get("masked", ())) if masked],
        "language": code,
        "language_name": language(code).name if code in codes() else code,
        "answer": row.get("answer"),
        "finish": row.get("finish"),
        "reward": row.get("reward"),
        "correct": row.get("correct"),
        "format_ok": row.get("format_ok"),
        "question": row.get("question"),
        "prompts": _prompts(row),
        "tokens": [texts(text) for text in _merged(traced.tokens)],
        "readers": [_reader(reader, texts) for reader in row["readers"]],
        "values": {one.key: [_short(v) for v in one.values] for one in series},
        "clipped": _where(row, "clipped"),
        "outside": _outside(row),
    }


def _prompts(row: Mapping[str, Any]) -> list[dict[str, str]]:
    """The prompts of student and teachers, without duplicates if several signals have the same
    view."""
    prompts = [{"reader": "student", "text": row["prompt"]}] if "prompt" in row else []
    prompts += [{"reader": reader_label(v), "text": v["prompt"]} for v in row.get("views", ())]
    return [prompt for i, prompt in enumerate(prompts) if prompt not in prompts[:i]]


def _reader(reader: Mapping[str, Any], texts: _Texts) -> dict[str, Any]:
    return {
        "label": reader_label(reader),
        "entropy": [_short(value) for value in reader["entropy"]],
        "chance": [_chance(value) for value in reader.get("logp", ())],
        "top": [[texts(str(text)) for text, _ in row] for row in reader["top"]],
        "chances": [[_share(p) for _, p in row] for row in reader["top"]],
    }


def _merged(tokens: Sequence[str]) -> list[str]:
    """Merges tokens of older traces that are parts of one character, as newer traces have them: the
    first becomes a mark, the others become empty."""
    parts = [_REPLACEMENT in token for token in tokens]
    return [
        token if not part else "" if i and parts[i - 1] else _REPLACEMENT
        for i, (token, part) in enumerate(zip(tokens, parts, strict=True))
    ]


def _where(row: Mapping[str, Any], column: str) -> list[int]:
    """Indices of tokens at which a column of any signal is set."""
    columns = [signal.get("columns", {}).get(column, ()) for signal in row["signals"]]
    return sorted({i for values in columns for i, value in enumerate(values) if value})


def _outside(row: Mapping[str, Any]) -> list[int]:
    """Indices of tokens that are read, but are not in the loss of any signal."""
    masks = [signal["in_loss"] for signal in row["signals"] if "in_loss" in signal]
    kept = enumerate(zip(*masks, strict=True))
    return [i for i, own in kept if False in own and True not in own]


def _short(value: float | None) -> float | None:
    """Four digits: more than a colour or a reader needs. None for a value that is not finite."""
    known = finite(value)
    return None if known is None else float(f"{known:.4g}")


def _chance(logp: float | None) -> float | None:
    return None if logp is None else _share(math.exp(min(logp, 0.0)))


def _share(value: Any) -> float | None:
    """Five digits; None for a value that is not finite."""
    known = finite(value)
    return None if known is None else round(known, 5)
