"""Traces: what student, teachers and target predict, token by token, for a few rollouts of a
run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from opsd.lm.forward import score
from opsd.methods.signals import LossTerm
from opsd.objective.divergences import Divergence, reverse_kl, without_clip
from opsd.objective.fused import fused_terms
from opsd.objective.head import Head, TeacherHidden
from opsd.objective.table import TokenTable
from opsd.objective.targets import STUDENT, Target
from opsd.parts import tag
from opsd.prompts.tokens import pieces
from opsd.rollout.rows import TaughtRows
from opsd.training.examples import TrainingExample
from opsd.training.learner import Learner, scales_of, table_of
from opsd.training.metrics import rollout_row

TOP = 8
_ROWS = 16  # for every reader at once: with a large vocabulary a row takes megabytes

_STUDENT, _TARGET = STUDENT, -2
"""Readers that are not views of a loss term; views count from 0."""
_VOTE = "token/vote/"


@torch.no_grad()
def trace(
    example: TrainingExample, learner: Learner, model: nn.Module, tokenizer: Any, step: int
) -> dict:
    """One rollout, or one state of a diffusion model's rollout, as one line of `traces/*.jsonl`:
    its line in `rollouts/`, the problem's text as `question`, and per token of the completion

    - `tokens`: its text, "" for a further token of the same character;
    - `readers`: for the student, and in every signal for every view and a target that is no view's
      own, the `TOP` likeliest tokens with their probabilities, the entropy (nats) and the sampled
      token's log-probability;
    - `signals`: what each one teaches, see `_taught`; only `{"type"}` if it teaches nothing;
    - `masked`: whether it is still masked in the state.

    If a token is not taught, its values are None and its likeliest tokens an empty list.
    """
    ids = example.rows.tokens
    with learner.scorer.autocast():
        known = ([example.input], learner.pad_id, learner.vocab, learner.layout)
        student_ND, head = score(model, *known)
    traced = _TracedRollout(
        torch.tensor(ids, device=student_ND.device),
        TeacherHidden("student", student_ND, head),
        table_of([example], learner.special_ids, student_ND.device),
        _TokenTexts(tokenizer, example.rows.ids),
        example.rows.positions,
    )
    alone = _TraceReader(traced, temperature=learner.temperature)
    readers = [{"name": "student", **alone.reader(_STUDENT)}]
    signals = []
    for i, (_, term) in enumerate(learner.terms):
        teacher_inputs = example.teacher_inputs[i]
        if teacher_inputs is None:
            signals.append({"type": tag(term)})
            continue
        views = learner.views(example, i, model)
        scales = scales_of([teacher_inputs], student_ND.device)
        reading = _TraceReader(traced, term, views, learner.temperature_of(term))
        for k, read in enumerate(teacher_inputs):
            about = {"name": read.view.name, "weights": tag(read.weights), "signal": i}
            readers.append({**about, **reading.reader(k)})
        if reading.has_target:
            readers.append({"name": "target", "signal": i, **reading.reader(_TARGET)})
        signals.append(_taught(term, reading, replace(traced.table, scales=scales)))
    divergences = [signal["columns"].get("divergence") for signal in signals if "columns" in signal]
    divergence = next((found for found in reversed(divergences) if found), None)
    length, masked = len(example.rollout.completion_ids), example.rows.masked
    return {
        **rollout_row(example, step, tokenizer, divergence),
        "question": example.problem.text,
        "tokens": traced.texts.tokens[:length],
        **({"masked": [i in masked for i in range(length)]} if masked else {}),
        "readers": [_spread(reader, example.rows, length) for reader in readers],
        "signals": [_spread(signal, example.rows, length) for signal in signals],
    }


def _spread(part: Any, rows: TaughtRows, length: int, name: str = "") -> Any:
    """Expand a trace's lists from the taught tokens to all tokens of the completion."""
    if isinstance(part, dict):
        return {key: _spread(value, rows, length, key) for key, value in part.items()}
    if not isinstance(part, list):
        return part
    if name == "pairs":
        return [_spread(pair, rows, length) for pair in part]
    blank = [] if name == "top" else None
    return [blank if value is None else value for value in rows.spread(part, length)]


def _taught(term: LossTerm, reading: _TraceReader, table: TokenTable) -> dict[str, Any]:
    """A signal on one rollout, per token: the term's `value`; `unclipped`, the divergence before
    any clip; its `weight`; the `loss` after weighting; whether it is `in_loss`; `columns`, all
    statistics of the term; `pairs` of readers and their divergence; for an advantage, its value and
    the `votes` of gated views."""
    traced, views = reading.traced, reading.views
    values, (columns,) = fused_terms(
        traced.student.hidden_ND,
        traced.student.head,
        [term.term(views, reading.temperature)],
        traced.tokens_N,
    )
    seen = replace(table, statistics=columns, logged={})
    weight, loss = term.weight(seen), term.losses(values[0], seen)
    row = {
        "type": tag(term),
        "value": values[0].tolist(),
        "unclipped": columns.get("divergence", values[0]).tolist(),
        "weight": weight.tolist(),
        "loss": loss.tolist(),
        "in_loss": term.taught(table.position, table.special).tolist(),
        "columns": {name: column.tolist() for name, column in (columns | seen.logged).items()},
        "pairs": reading.pairs(),
    }
    if term.credit is not None:
        row["advantage"] = term.credit(seen).tolist()
    votes = {name: x.tolist() for name, x in seen.logged.items() if name.startswith(_VOTE)}
    if votes:
        row["votes"] = {name.removeprefix(_VOTE): x for name, x in votes.items()}
    return row


class _Distribution(NamedTuple):
    """A summary of one reader's next-token distributions: the likeliest ids and their probabilities
    [N, TOP], entropies [N] in nats, log-probabilities [N] of the sampled tokens."""

    ids: Tensor
    chances: Tensor
    entropy: Tensor
    logp: Tensor


@dataclass
class _TokenTexts:
    """A completion's tokens as text; `before` are the preceding tokens that belong to the same
    character."""

    tokenizer: Any
    ids: Sequence[int]
    tokens: list[str] = field(default_factory=list)
    before: list[Sequence[int]] = field(default_factory=list)
    known: dict[tuple[int, ...], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for text, count in pieces(
            partial(self.tokenizer.decode, skip_special_tokens=False), self.ids
        ):
            start = len(self.tokens)
            self.tokens += [text, *[""] * (count - 1)]
            self.before += [self.ids[start : start + k] for k in range(count)]

    def candidate(self, token: int, position: int) -> str:
        """The text of a token at a position: the text that it would complete there, or its name in
        the vocabulary if it is only part of a character."""
        ids = (*self.before[position], token)
        if ids not in self.known:
            text = self.tokenizer.decode(ids)
            part = f"⟨{self.tokenizer.convert_ids_to_tokens(token)}⟩"
            self.known[ids] = part if "\ufffd" in text else text
        return self.known[ids]


@dataclass(frozen=True)
class _TracedRollout:
    """One rollout: its taught tokens [N], the student's hidden states, the token table, the texts
    of all its tokens, and the positions of the taught ones."""

    tokens_N: Tensor
    student: TeacherHidden
    table: TokenTable
    texts: _TokenTexts
    positions: Sequence[int]


class _TraceReader:
    """The predictions of the student, a signal's views and its target on a rollout, computed a few
    rows at a time.

    Readers are numbered: views from 0, `_STUDENT`, `_TARGET`. Distributions are over the whole
    vocabulary, whatever the signal's support.
    """

    def __init__(
        self,
        traced: _TracedRollout,
        term: LossTerm | None = None,
        views: Sequence[TeacherHidden] = (),
        temperature: float = 1.0,
    ) -> None:
        self.traced, self.term, self.views, self.temperature = traced, term, views, temperature
        distributions: dict[int, list[_Distribution]] = {}
        apart: dict[tuple[int, int], list[Tensor]] = {pair: [] for pair in self._pairs()}
        for start in range(0, len(traced.tokens_N), _ROWS):
            rows = slice(start, start + _ROWS)
            logp = self._rows(rows)
            for reader, logp_CV in logp.items():
                distributions.setdefault(reader, []).append(
                    _distribution(logp_CV, traced.tokens_N[rows])
                )
            for one, other in apart:
                apart[one, other].append(self._divergence(logp[one], logp[other]))
        self.distributions = {
            reader: _Distribution(*map(torch.cat, zip(*s, strict=True)))
            for reader, s in distributions.items()
        }
        self.apart = {pair: torch.cat(parts) for pair, parts in apart.items()}

    @property
    def has_target(self) -> bool:
        """Whether the target is a distribution other than a view's."""
        target = self._target
        return target is not None and target.joins_views and not target.is_view

    @property
    def _target(self) -> Target | None:
        teacher = self.term.teacher if self.term else None
        return None if teacher is None else teacher.target

    def reader(self, number: int) -> dict[str, Any]:
        """A reader's part of a trace."""
        distributions = self.distributions[number]
        rows = zip(distributions.ids.tolist(), distributions.chances.tolist(), strict=True)
        return {
            "top": [
                [(self.traced.texts.candidate(i, t), p) for i, p in zip(*row, strict=True)]
                for t, row in zip(self.traced.positions, rows, strict=True)
            ],
            "entropy": distributions.entropy.tolist(),
            "logp": distributions.logp.tolist(),
        }

    def pairs(self) -> list[dict[str, Any]]:
        """The distances between readers at each token: the `divergence` of the first from the
        second, without any clip, and `log_ratio`, the log of how much likelier the second finds the
        sampled token."""
        return [
            {
                "from": self._name(one),
                "to": self._name(other),
                "part": self._part(one, other),
                "divergence": values.tolist(),
                "log_ratio": (
                    self.distributions[other].logp - self.distributions[one].logp
                ).tolist(),
            }
            for (one, other), values in self.apart.items()
        ]

    def _pairs(self) -> Iterator[tuple[int, int]]:
        for k in range(len(self.views)):
            yield _STUDENT, k
        yield from (pair for pair in self._comparisons if pair[0] != _STUDENT)
        if self.has_target:
            yield _STUDENT, _TARGET

    @property
    def _comparisons(self) -> Mapping[tuple[int, int], str]:
        return {} if self._target is None else self._target.comparisons

    def _part(self, one: int, other: int) -> str:
        """Which part of the teacher's signal a pair shows: all of it, what the reference alone
        induces, what the question adds to that (the two add up to the whole, in log-ratios), or
        what is left to learn."""
        if other == _TARGET:
            return "target"
        return self._comparisons.get((one, other), "whole")

    def _name(self, number: int) -> str:
        return {_STUDENT: "student", _TARGET: "target"}.get(number) or self.views[number].name

    @property
    def _divergence(self) -> Divergence:
        """The signal's own divergence without its clip; for an advantage, the divergence whose
        gradient its log-ratio estimates."""
        own = None if self.term is None else self.term.divergence
        return reverse_kl if own is None else without_clip(own)

    def _rows(self, rows: slice) -> dict[int, Tensor]:
        """Log-probabilities [C, V] of every reader on some rows."""
        logits = {
            number: self._logits(view.head, view.hidden_ND[rows])
            for number, view in [(_STUDENT, self.traced.student), *enumerate(self.views)]
        }
        if self.has_target:
            views = [logits[k] for k in range(len(self.views))]
            logits[_TARGET] = self.term.teacher.target(views, logits[_STUDENT]).logits  # pyright: ignore
        return {number: z.log_softmax(-1) for number, z in logits.items()}

    def _logits(self, head: Head, hidden_CD: Tensor) -> Tensor:
        return head.logits(hidden_CD) / self.temperature


def _distribution(logp_CV: Tensor, tokens_C: Tensor) -> _Distribution:
    best = logp_CV.topk(min(TOP, logp_CV.shape[-1]), dim=-1)
    entropy = -(logp_CV.exp() * logp_CV).sum(-1)
    at = logp_CV.gather(-1, tokens_C.unsqueeze(-1)).squeeze(-1)
    return _Distribution(best.indices, best.values.exp(), entropy, at)
