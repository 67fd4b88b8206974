"""Watches a run while it trains: for a model that unlearns, and for rollouts that teach nothing.

Everything is read from `state.log_history`, which is restored when a run is resumed, so the monitor
has no state of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import TrainerCallback

from opsd.console import log
from opsd.methods.method import Method
from opsd.objective.credit import compares_rewards
from opsd.objective.divergences import without_clip
from opsd.schedule import check
from opsd.training.checks import config_warnings, learns_from_rewards
from opsd.training.setup import Setup

Row = Mapping[str, Any]

FLOOR = 0.02
"""A fall in avg@k of up to this size is negligible, whatever the number of samples."""
ERRORS = 2.5
"""The number of standard errors that a fall must exceed. The best of many evaluations is partly
luck: over 20 evaluations without any trend, two in a row lie this far below the best in under 10 %
of runs if all problems are equally hard, in about 1 % if they are not."""
_WINDOW = 10
_IDLE_STEPS = 5
_CUT = 0.9
_FEWEST = 5


@dataclass(frozen=True)
class ScoreDrop:
    """A fall of the dev score: the best evaluation, the last one, and the training measure's mean
    over recent log lines before the best one and after it (None if there are no such lines)."""

    best: Row
    last: Row
    before: float | None
    since: float | None

    @property
    def size(self) -> float:
        return self.best["eval_avg@k"] - self.last["eval_avg@k"]


def score_drop(
    history: Sequence[Row], draws: int, patience: int, measure: str = "loss"
) -> ScoreDrop | None:
    """The fall of dev avg@k, beyond noise, that the last `patience` evaluations all show.

    `draws` is the number of completions behind an evaluation (problems x samples). An evaluation's
    sampling variance is at most p (1 - p) / draws: it is smaller if problems differ in difficulty,
    or are the same at every evaluation.
    """
    # By step: an evaluation may be repeated, by the user or by a run resumed from before it.
    scored = list({row["step"]: row for row in history if "eval_avg@k" in row}.values())
    earlier, recent = scored[:-patience], scored[-patience:]
    if not earlier:
        return None
    best = max(earlier, key=lambda row: row["eval_avg@k"])
    if not all(_below(row["eval_avg@k"], best["eval_avg@k"], draws) for row in recent):
        return None
    values = [(row["step"], row[measure]) for row in history if row.get(measure) is not None]
    before = [value for step, value in values if step <= best["step"]]
    since = [value for step, value in values if step > best["step"]]
    if not before:  # the untrained model is the best one
        before = since[: len(since) // 2]
    return ScoreDrop(best, recent[-1], _recent_mean(before), _recent_mean(since))


def _below(score: float, best: float, draws: int) -> bool:
    error = math.sqrt((best * (1 - best) + score * (1 - score)) / draws)
    return best - score > max(FLOOR, ERRORS * error)


def _recent_mean(values: Sequence[float]) -> float | None:
    """The mean over the last log lines: single steps are noisy, and early ones say little."""
    last = values[-_WINDOW:]
    return sum(last) / len(last) if last else None


def diagnosis(found: ScoreDrop, measure: str = "loss") -> str:
    """A fall in one line: the numbers, whether training improved meanwhile, and the remedy."""
    best, last = found.best, found.last
    text = (
        f"dev avg@k fell from {best['eval_avg@k']:.3f} (step {best['step']}) to"
        f" {last['eval_avg@k']:.3f} (step {last['step']})"
    )
    changes = [
        f"{name} {best[key]:.{digits}f} to {last[key]:.{digits}f}"
        for key, name, digits in (
            ("eval_format_rate", "format rate", 2),
            ("eval_mean_length", "mean length", 0),
        )
        if key in best and key in last
    ]
    told = f" ({', '.join(changes)})" if changes else ""
    if found.before is None or found.since is None:
        return f"{text}{told}: lower learning_rate"
    trend = f"the {measure} went from {found.before:.4g} to {found.since:.4g}"
    better = found.since < found.before if measure == "loss" else found.since > found.before
    if better:
        return (
            f"collapse: {text} while {trend}{told}: what is optimised is no longer what is wanted."
            " Keep the best checkpoint, or lower learning_rate"
        )
    return f"{text} and {trend}{told}: training diverges. Lower learning_rate or max_grad_norm"


def cut_short(history: Sequence[Row], *, graded: bool) -> str | None:
    """A warning at the first log line if nearly all rollouts hit the length limit. `graded` says
    whether the run learns from correct and wrong answers."""
    ratios = [row[key] for row in history if (key := "completions/clipped_ratio") in row]
    if len(ratios) != 1 or ratios[0] <= _CUT:
        return None
    told = "nearly all count as wrong" if graded else "few of them show how an answer ends"
    return (
        f"{100 * ratios[0]:.0f} % of the rollouts were cut off before they could end with an"
        f" answer, so {told}: raise sampling.max_completion_length"
    )


def never_well_formed(history: Sequence[Row]) -> str | None:
    """A warning at the first dev score if no completion has the required format."""
    rates = [row[key] for row in history if (key := "eval_format_rate") in row]
    if len(rates) != 1 or rates[0] != 0:
        return None
    return (
        "no completion of a dev problem has the expected answer format (a box, unless the verifier"
        " defines another): show it by worked examples before every problem (data.examples;"
        " docs/how-to/pretrained-without-a-hub.md)"
    )


def idle(history: Sequence[Row]) -> str | None:
    """A warning once several steps in a row had no group whose rewards differ."""
    shares = [row[key] for row in history if (key := "frac_reward_zero_std") in row]
    recent, one_before = shares[-_IDLE_STEPS:], shares[:-_IDLE_STEPS][-1:]
    if len(recent) < _IDLE_STEPS or min(recent) < 1 or one_before == [1]:
        return None
    return (
        f"in {_IDLE_STEPS} steps in a row every problem's rollouts got equal rewards, so nothing is"
        " learned: choose problems that are solved sometimes, or raise the group's size"
    )


def clip_turns(history: Sequence[Row]) -> str | None:
    """A warning if a clipped loss falls, or does not rise, while the divergence itself rises."""
    rows = [row for row in history if None not in (row.get("loss"), row.get("divergence"))]
    # After the beginning, test only now and then: frequent tests would find a trend in any noise.
    stride = 1 if len(rows) <= _WINDOW else _FEWEST
    if len(rows) % stride or not _turned(rows[-_WINDOW:]) or _turned(rows[:-stride][-_WINDOW:]):
        return None
    first, last = rows[-_WINDOW:][0], rows[-1]
    below = " (below zero, as no divergence can be)" if last["loss"] < 0 else ""
    return (
        f"the clip reverses the objective: from step {first['step']} to {last['step']} the"
        f" divergence from the teacher rose from {first['divergence']:.4f} to"
        f" {last['divergence']:.4f}, while the clipped loss went from {first['loss']:.4f} to"
        f" {last['loss']:.4f}{below}. {_UNCLIPPED}"
    )


_UNCLIPPED = (
    "Capped summands no longer pull, and the others push away from the teacher: use the divergence"
    " without 'pointwise_clip', raise its cap, cap whole tokens instead (weighting clip_tokens), or"
    " lower learning_rate"
)


def clip_below_zero(history: Sequence[Row]) -> str | None:
    """A warning, given once, if a clipped loss has been below zero for several log lines."""
    losses = [row["loss"] for row in history if row.get("loss") is not None]
    lasting = [
        all(loss < 0 for loss in losses[end - _FEWEST : end])
        for end in range(_FEWEST, len(losses) + 1)
    ]
    if not lasting or not lasting[-1] or any(lasting[:-1]):
        return None
    return (
        f"the clipped loss has been below zero for {_FEWEST} log lines, {losses[-1]:.4f} by now,"
        f" as no divergence can be: its minimum is away from the teacher. {_UNCLIPPED}"
    )


def _turned(rows: Sequence[Row]) -> bool:
    """Kendall's tau against the step, one-sided, over at least 5 log lines. Either both trends are
    significant at the 5 % level, or the divergence rises at the 0.5 % level and the loss has no
    upward trend. A divergence that rises by less than a tenth does not count."""
    from scipy.stats import kendalltau

    if len(rows) < _FEWEST:
        return False

    def trend(key: str, way: str) -> float:
        values = [row[key] for row in rows]
        return float(kendalltau(range(len(rows)), values, alternative=way).pvalue)

    half = len(rows) // 2
    before, after = (
        _recent_mean([row["divergence"] for row in x]) for x in (rows[:half], rows[-half:])
    )
    rises = trend("divergence", "greater")
    if rises >= 0.05 or (after or 0.0) < 1.1 * (before or 0.0):
        return False
    return trend("loss", "less") < 0.05 or (rises < 0.005 and trend("loss", "greater") >= 0.05)


def clips_everything(method: Method) -> bool:
    """Whether every term of the loss is a capped divergence."""
    return all(
        term.divergence is not None and without_clip(term.divergence) is not term.divergence
        for _, term in method.signals
    )


class CollapseMonitor(TrainerCallback):
    """Warns of known problems at the start, of rollouts that teach nothing, and of a falling dev
    score. `write` adds numbers to the run's log.

    `args.collapse="stop"` also ends the run when the score falls. If `load_best_model_at_end` is
    set, as in recipes with dev problems, the Trainer then loads the best checkpoint.
    """

    def __init__(self, setup: Setup, write: Callable[[dict[str, float]], None]) -> None:
        self.setup, self.write = setup, write

    @property
    def measure(self) -> str:
        """The measure that training improves: the reward if the method learns from rewards (its
        loss says nothing then), else the loss."""
        return "reward" if learns_from_rewards(self.setup.method) else "loss"

    def found(self, history: Sequence[Row]) -> ScoreDrop | None:
        """The drop at the end of the history; None if there is none, or if it is not monitored."""
        args, problems = self.setup.args, self.setup.dev_set
        if args.collapse == "ignore" or not problems:
            return None
        draws = len(problems) * args.eval_samples
        return score_drop(history, draws, args.collapse_patience, self.measure)

    def ended(self, history: Sequence[Row]) -> bool:
        """Whether a run with this history was stopped by the monitor, so that there is nothing to
        resume."""
        return self.setup.args.collapse == "stop" and self.found(history) is not None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        check(self.setup.method, state.max_steps)
        if state.is_world_process_zero:
            for line in config_warnings(self.setup, max(args.max_steps, state.max_steps)):
                log(f"note: {line}")

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero or "loss" not in (logs or {}):
            return
        method, history = self.setup.method, state.log_history
        told = [] if self._cuts(state) else [cut_short(history, graded=learns_from_rewards(method))]
        told += [idle(history)] if compares_rewards(method.signal) else []
        if clips_everything(method):
            told.append(clip_turns(history) or clip_below_zero(history))
        for line in filter(None, told):
            log(f"warning: {line}")

    def _cuts(self, state: Any) -> bool:
        """Whether the method itself cuts rollouts at a horizon below the completion limit."""
        limit, step = self.setup.args.max_completion_length, max(state.global_step - 1, 0)
        phases = self.setup.method.source.phases
        return any(phase.horizon(step, state.max_steps, limit) < limit for phase in phases)

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero and (told := never_well_formed(state.log_history)):
            log(f"note: {told}")
        found = self.found(state.log_history)
        if found is None or "eval_avg@k" not in (metrics or {}):
            return
        earlier = [row for row in state.log_history if row["step"] < state.global_step]
        known = self.found(earlier) is not None
        self.write({"eval_collapse": found.size})
        if state.is_world_process_zero and not known:
            ending = ". Training ends here" if args.collapse == "stop" else ""
            log(f"warning: {diagnosis(found, self.measure)}{ending}")
        control.should_training_stop |= self.ended(state.log_history)
