"""`samples.jsonl` of one model on one suite: its contents, and the check that all its samples were
drawn in the same way.

A row is one completion, judged at every budget. Rows are keyed by problem and sample, in any order.
A last line that a killed process left half-written is cut off before more are added.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from opsd.data.examples import Example
from opsd.grade.choice import options_of
from opsd.grade.fidelity import fidelity
from opsd.grade.judge import judge, named
from opsd.grade.traits import repetition
from opsd.grade.verifiers import DEFAULT, written
from opsd.languages.registry import language
from opsd.lm.built_in import resolve
from opsd.parts import tag
from opsd.prompts.contexts import StudentPrompt
from opsd.prompts.prompt import template_text
from opsd.prompts.tokens import completion_text
from opsd.rollout.engine import Completion, Sampling
from opsd.runs.evaluation_files import CLAIM, PROTOCOL, RESULT, SAMPLE, SAMPLES
from opsd.runs.files import held, write_atomically
from opsd.runs.json_files import Damaged, as_type, document, mapping, rows, sealed
from opsd.types import Attempt, Finish, Problem, UserError, Verdict
from opsd.validation import mapping as yaml_mapping

Row = dict[str, Any]
_LONG = ("prompt", "completion", "choices")
_MERGED = ("languages", "splits")
"""Parts of a claim that later calls may add to."""
_ASIDE = ("begun", "trained_from")
"""Parts of a claim that may differ between samples of one kind."""
_REDRAWN = "; delete that line, and `opsd evaluate` draws the sample again"
_TEXTS = {"instruction", "transition", "think_prefix", "labels"}


@dataclass(frozen=True)
class Protocol:
    """How a model is prompted and judged: prompt, sampling, budgets in tokens, seed, verifier, and
    the worked examples that come before every problem.

    `sampling.max_tokens` is the largest budget: one generation serves the smaller budgets, too, as
    its prefixes. Results are comparable only under one protocol.
    """

    prompt: StudentPrompt
    sampling: Sampling
    budgets: tuple[int, ...]
    seed: int = 0
    verifier: Any = DEFAULT
    examples: tuple[Example, ...] = ()


def protocol(
    prompt: StudentPrompt, sampling: Sampling, budgets: Sequence[int], **rest: Any
) -> Protocol:
    """A protocol that samples once, with the largest of the budgets."""
    ordered = tuple(sorted(set(budgets)))
    return Protocol(prompt, replace(sampling, max_tokens=ordered[-1]), ordered, **rest)


def keyed(problems: Iterable[Problem]) -> dict[str, Problem]:
    """Problems by the key of their samples: the id, with a number if the row occurred before.

    >>> list(keyed([Problem("2 + 2", id="a"), Problem("2 + 2", id="a")]))
    ['a', 'a-2']
    """
    seen: Counter[str] = Counter()
    keys = {}
    for problem in problems:
        seen[problem.id] += 1
        again = f"-{seen[problem.id]}" if seen[problem.id] > 1 else ""
        keys[f"{problem.id}{again}"] = problem
    return keys


@dataclass(frozen=True)
class Sample:
    """A completion of a problem; `about` contains its row's keys: model, suite, problem, sample."""

    about: Mapping[str, Any]
    problem: Problem
    completion: Completion


def sample_rows(samples: Sequence[Sample], tokenizer: Any, protocol: Protocol) -> list[Row]:
    """Samples as rows. At every budget, the text up to it is judged. UserError if the verifier
    gives no verdict on a sample."""
    attempts = [
        Attempt(s.problem, completion_text(tokenizer, ids), tuple(ids))
        for s in samples
        for ids in (s.completion.ids[:budget] for budget in protocol.budgets)
    ]
    verdicts = judge(protocol.verifier, attempts)
    pairs = list(zip(attempts, verdicts, strict=True))
    each = len(protocol.budgets)
    return [
        _row(sample, pairs[i * each : (i + 1) * each], tokenizer, protocol)
        for i, sample in enumerate(samples)
    ]


def _row(
    sample: Sample,
    judged: Sequence[tuple[Attempt, Verdict | None]],
    tokenizer: Any,
    protocol: Protocol,
) -> Row:
    problem, completion = sample.problem, sample.completion
    boxed = getattr(protocol.verifier, "reads_boxes", False)
    said = getattr(protocol.verifier, "said", None)
    whole = completion_text(tokenizer, completion.ids)
    options = options_of(problem)
    budgets = {}
    for budget, (attempt, verdict) in zip(protocol.budgets, judged, strict=True):
        if verdict is None:
            raise UserError(
                f"{named(protocol.verifier)} gave no verdict on {problem.name}: an evaluation"
                " needs one on every completion; leave such problems out, or choose a --verifier"
            )
        cut = len(completion.ids) > budget
        budgets[str(budget)] = {
            "correct": verdict.correct,
            "format_ok": verdict.format_ok,
            "cut_off": cut or completion.finish is Finish.LENGTH,
            **({"said": said(problem, attempt.completion)} if said else {}),
            **({} if boxed else {"reward": float(verdict.reward)}),
            "repetition": repetition(attempt.completion_ids),
            "fidelity": fidelity(attempt.completion, problem.language),
            # A character whose tokens were cut apart differs from the one in the whole text.
            **({"chars": _alike(whole, attempt.completion)} if cut else {}),
        }
    row = {
        **sample.about,
        **({} if boxed else {"verifier": tag(protocol.verifier)}),
        "language": problem.language,
        "row": problem.metadata.get("row"),
        **({"split": problem.metadata["split"]} if "split" in problem.metadata else {}),
        "prompt": problem.text,
        "answer": problem.answer,
        **({"choices": list(options)} if options else {}),
        "completion": whole,
        "tokens": len(completion.ids),
        "finish": completion.finish.value,
        "budgets": budgets,
    }
    return sealed(row)


def _alike(one: str, other: str) -> int:
    """The length of the common prefix of two texts, in characters."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def sampled_rows(folder: Path) -> Iterator[Row]:
    """The samples of a folder. UserError names a line that is not a sample, or was changed."""
    path = folder / SAMPLES
    for number, row in enumerate(rows(path, _REDRAWN) if path.is_file() else (), 1):
        as_type(SAMPLE, row, f"{path}, line {number}", _REDRAWN)
        yield row


def judged_rows(folder: Path) -> Iterator[Row]:
    """The samples without their texts: what scores are computed from."""
    for row in sampled_rows(folder):
        yield {name: value for name, value in row.items() if name not in _LONG}


def done(folder: Path) -> set[tuple[str, int]]:
    """Keys of the existing samples; cuts off a last line that is incomplete."""
    path = folder / SAMPLES
    if not path.is_file():
        return set()
    with path.open("rb") as file:
        os.truncate(path, sum(len(line) for line in file if line.endswith(b"\n")))
    return {(row["problem"], row["sample"]) for row in judged_rows(folder)}


@contextmanager
def locked(folder: Path, about: Row) -> Iterator[None]:
    """Locks a folder for one evaluation at a time; `about` describes its samples (`described`).

    Raises UserError if another process writes to the folder, and if its samples were drawn from
    other weights or in another way. Their problems and their number per problem may differ.
    """
    with held(folder, "evaluation"):
        before = claim_of(folder)
        if before is not None:
            about = about | {part: {**before[part], **about[part]} for part in _MERGED}
            about["begun"] = before["begun"]
            if about["aside"] is None:
                about["aside"] = before["aside"]
            if unlike(before, about):
                other = ", ".join(_different(before, about))
                raise UserError(
                    f"{folder} contains samples of another kind: {other}"
                    f" (see {folder / PROTOCOL}); choose another --output"
                )
        write_atomically(folder / PROTOCOL, json.dumps(sealed(about), indent=1, sort_keys=True))
        yield


def claim_of(folder: Path) -> Row | None:
    """What the samples of a folder have in common; None if there are none yet. UserError if it is
    not known how they were drawn."""
    samples, written = folder / SAMPLES, folder / PROTOCOL
    if not (samples.is_file() and samples.stat().st_size):
        return None
    hint = f": how {samples} were drawn is not known; put the file back, or choose another --output"
    claim = document(written, hint)
    as_type(CLAIM, claim, str(written), hint)
    # What older folders do not record.
    unsaid = {"languages": {}, "splits": {}, "aside": None, "trained_from": None}
    return unsaid | {"begun": samples.stat().st_mtime} | claim


def claims(folder: Path) -> list[tuple[Path, Row]]:
    """The evaluations in a folder, at any depth, by path, each with what its samples have in
    common. Raises UserError if there are none."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; name one that `opsd evaluate` wrote")
    found = evaluations(folder)
    if not found:
        raise UserError(
            f"{folder} contains no {SAMPLES} next to a {PROTOCOL}; name a folder that"
            " `opsd evaluate` wrote"
        )
    return found


def evaluations(folder: Path) -> list[tuple[Path, Row]]:
    """Like `claims`, but empty if there are none. UserError if a file of an evaluation is gone."""
    named = {file.parent for name in (PROTOCOL, SAMPLES) for file in folder.rglob(name)}
    places = [place for place in sorted(named) if (place / PROTOCOL).exists() or _judged(place)]
    for place in places:
        samples = place / SAMPLES
        if (place / RESULT).exists() and not (samples.exists() and samples.stat().st_size):
            raise Damaged(f"{samples}: gone or empty, while {RESULT}, computed from it, exists")
    found = [(place, claim) for place in places if (claim := claim_of(place)) is not None]
    return [(place, claim) for place, claim in found if any(judged_rows(place))]


def _judged(place: Path) -> bool:
    """Whether a folder's samples come from an evaluation: a quickstart writes another kind."""
    return "budgets" in next(rows(place / SAMPLES), {})


def unlike(one: Row, other: Row) -> list[str]:
    """The parts in which two claims disagree, as far as they cover the same languages and splits. A
    claim that does not record the languages aside agrees with any."""
    return [part for part in one | other if not _same(part, one.get(part), other.get(part))]


def _same(part: str, one: Any, other: Any) -> bool:
    if part in _ASIDE or (part == "aside" and None in (one, other)):
        return True
    if part in _MERGED:
        return all(one[name] == other[name] for name in one.keys() & other.keys())
    return one == other


def _different(before: Row, about: Row) -> list[str]:
    """The differences between two claims, in words."""
    words = {"source": "another file", "weights": "other weights", "languages": "other prompts"}
    words |= {"splits": "other weights of splits", "aside": "other languages aside"}
    changed = [key for key in unlike(before, about) if key != "protocol"]
    was, now = before["protocol"], about["protocol"]
    inner = {**{f"sampling.{k}": v for k, v in now["sampling"].items()}, **now}
    old = {**{f"sampling.{k}": v for k, v in was["sampling"].items()}, **was}
    changed += [k for k, v in inner.items() if k != "sampling" and old.get(k) != v]
    return [words.get(key, f"another {key.removeprefix('sampling.')}") for key in changed]


def base_of(model: Path) -> str | None:
    """The base model that an adapter's folder names; None for a folder without an adapter."""
    file = model / "adapter_config.json"
    return document(file).get("base_model_name_or_path") if file.is_file() else None


def trained_from(model: Path) -> str | None:
    """The model that a model was trained from, according to the recipe in its folder or its run's
    folder, or to the adapter's configuration; None if neither says."""
    for folder in (model, model.parent):
        recipe = folder / "recipe.yaml"
        if model.is_dir() and recipe.is_file():
            named = yaml_mapping(recipe).get("model")
            return str(mapping(named).get("name", named))
    return base_of(model)


def _written(protocol: Protocol) -> Row:
    """A protocol as plain values; of the default verifier only `after_think`."""
    verifier = written(protocol.verifier)
    plain = asdict(replace(protocol, verifier=None))
    plain |= {"after_think": verifier.get("after_think", False), "verifier": verifier}
    if verifier["type"] == DEFAULT.type:
        del plain["verifier"]
    del plain["examples"]
    if protocol.examples:
        plain["examples"] = [example.model_dump() for example in protocol.examples]
    return plain


def described(
    protocol: Protocol,
    model: str,
    languages: Iterable[str],
    source: str = "",
    splits: Mapping[str, float] | None = None,
    aside: Iterable[str] | None = None,
) -> Row:
    """What all samples of a folder have in common: weights, sampling, the texts of prompts (those
    of each language as a hash), and how the suite is scored: its `splits` and languages `aside`."""
    path = Path(resolve(model))
    base = base_of(path)
    folders = [path, *([Path(resolve(base))] if base else [])]
    files = [file for folder in folders for file in sorted(folder.glob("*.safetensors"))]
    files += [file for file in folders if file.is_file()]  # GGUF
    texts = {c: language(c).model_dump_json(include=_TEXTS) for c in dict.fromkeys(languages)}
    about = {
        "model": model,
        "source": source,
        "weights": [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files],
        "protocol": _written(protocol),
        "template": template_text(protocol.prompt.template),
        "languages": {c: hashlib.sha256(t.encode()).hexdigest()[:16] for c, t in texts.items()},
        "splits": dict(splits or {}),
        "aside": None if aside is None else sorted(aside),
        "trained_from": trained_from(Path(model)),
        "begun": time.time(),
    }
    return json.loads(json.dumps(about))
