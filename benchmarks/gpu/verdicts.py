"""Whether the rows meet the targets, as rows and as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from benchmarks.rows import Row, judged, not_measured

FLOOR, AHEAD = 1.3, 1.0
"""Targets: the most time that the loss may take over the bare products, and the least that a peer
must take over ours."""
ROUNDING = 2.0
"""How many bfloat16 rounding errors may lie between a gradient and the exact one, and between
packed and padded. A wrong kernel, or a leak from another sequence, gives many more."""
EQUAL = 1e-4
"""The largest relative difference of a sharded step's loss and gradient norm from the unsharded
ones."""


class Verdict(NamedTuple):
    """A number and its upper or lower bound, or why it is missing."""

    what: str
    measured: float | None = None
    most: float | None = None
    least: float | None = None
    why_not: str = ""

    def row(self, judges: bool) -> Row:
        if self.measured is None:
            return not_measured("target", self.why_not, name=self.what)
        target = self.most if self.least is None else self.least
        if not judges or target is None:
            return judged("target", None, name=self.what, measured=self.measured)
        met = self.measured <= target if self.least is None else self.measured >= target
        sign = "at most" if self.least is None else "at least"
        return judged(
            "target", None, target, met, name=self.what, measured=self.measured, sign=sign
        )


def verdicts(rows: Sequence[Row], judges: bool) -> list[Row]:
    """One row per target; without targets if nothing is judged, as on a CPU."""
    made = [*_loss(rows), *_step(rows), *_rest(rows)]
    return [verdict.row(judges) for verdict in made]


def _loss(rows: Sequence[Row]) -> Iterator[Verdict]:
    """For the most tokens: ours over the lower bound, and peers over ours."""
    losses = [r for r in rows if r["measure"] == "loss" and r["divergence"] == "jsd(0.5)"]
    if not losses:
        return
    most = max(r["tokens"] for r in losses)
    for hidden in dict.fromkeys(r["hidden"] for r in losses):
        here = [r for r in losses if (r["tokens"], r["hidden"]) == (most, hidden)]
        of = f"{most:,} tokens, hidden size {hidden:,}"
        ours = next((r for r in here if r["name"].startswith("ours") and _there(r)), None)
        if ours is None:
            yield Verdict(f"loss, {of}", why_not="no form of ours ran")
            continue
        what = f"loss, {ours['name']}, {of}"
        yield Verdict(f"{what}: time, bare products = 1", ours["ratio"], most=FLOOR)
        yield Verdict(
            f"{what}: gradient's error, rounding = 1", ours["gradient_error"], most=ROUNDING
        )
        for peer in (r for r in here if r["name"].startswith(("TRL", "Liger"))):
            what = f"loss, {of}: {peer['name']}"
            yield from _over(what, peer, ours, "ms")


def _step(rows: Sequence[Row]) -> Iterator[Verdict]:
    """TRL's trainers over ours, on the same rollouts."""
    steps = [r for r in rows if r["measure"] == "step"]
    own = {r["rollouts"]: r for r in steps if r["name"] == "ours"}
    for peer in (r for r in steps if r["name"] != "ours"):
        ours = own[peer["rollouts"]]
        what = f"step, {peer['rollouts']} rollouts: {peer['name']}"
        if _there(ours):
            yield from _over(what, peer, ours, "step_s")
        else:
            yield Verdict(what, why_not=f"ours: {ours['not_measured']}")


def _over(what: str, peer: Row, ours: Row, time: str) -> Iterator[Verdict]:
    if not _there(peer):
        yield Verdict(what, why_not=peer["not_measured"])
        return
    yield Verdict(f"{what}, time, ours = 1", round(peer[time] / ours[time], 3), least=AHEAD)
    peak = round(peer["peak_bytes"] / max(1, ours["peak_bytes"]), 3)
    yield Verdict(f"{what}, peak memory, ours = 1", peak, least=AHEAD)


def _rest(rows: Sequence[Row]) -> Iterator[Verdict]:
    for row in rows:
        if row["measure"] == "attention":
            what = f"packed and padded apart, {row['implementation']}, bfloat16's rounding = 1"
            yield Verdict(what, row["ratio"], most=ROUNDING, why_not=row.get("not_measured", ""))
        if row["measure"] == "sharded":
            what = "FSDP2 on one rank, from the unsharded step, relatively"
            yield Verdict(what, row.get("apart"), most=EQUAL, why_not=row.get("not_measured", ""))
        if row["measure"] == "rollouts" and _there(row):
            what = f"hf, {row['rollouts']} rollouts at once, tokens per second"
            yield Verdict(what, row["tokens_per_s"])
    fits = [r["rollouts"] for r in rows if r["measure"] == "largest" and r.get("fits")]
    if fits:
        yield Verdict("rollouts that fit in one pass", max(fits))


def _there(row: Row) -> bool:
    return "not_measured" not in row


def table(judgement: Sequence[Row]) -> str:
    """The measured value, the target, and whether it is met, in columns."""
    lines = [("", "measured", "target", "")]
    for row in judgement:
        if not _there(row):
            lines.append((row["name"], "-", "-", f"not measured: {row['not_measured']}"))
            continue
        told = f"{row['sign']} {row['target']:g}" if row["target"] else "-"
        met = ("met" if row["ok"] else "MISSED") if row["target"] else ""
        lines.append((row["name"], f"{row['measured']:,.4g}", told, met))
    first, second, third = (max(len(line[i]) for line in lines) for i in range(3))
    return "\n".join(
        f"{a:<{first}}  {b:>{second}}  {c:<{third}}  {d}".rstrip() for a, b, c, d in lines
    )
