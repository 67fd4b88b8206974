"""What is taught of a rollout, by properties over random denoisings."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsd.lm.layout import continued
from opsd.prompts.contexts import Draw, LaterState, Suffix
from opsd.rollout.rows import (
    TOKENS,
    Canvas,
    Commits,
    MeanField,
    RandomMask,
    States,
    TaughtRows,
    refuse_unfit,
)
from opsd.types import Finish, Rollout, Trajectory, UserError

MASK, END, PROMPT = 999, 0, (7, 8, 9)


@dataclass(frozen=True)
class Case:
    """A denoising, and the block that each of its steps wrote."""

    rollout: Rollout
    canvas: Canvas
    quota: int
    blocks: list[int]

    @property
    def written(self) -> Trajectory:
        assert self.rollout.trajectory is not None
        return self.rollout.trajectory


@st.composite
def denoisings(draw: st.DrawFn) -> Case:
    """Blocks written in random order, a few tokens at a time, up to the one with the first end."""
    length, count = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    quota = draw(st.integers(1, length))
    n = length * count
    end = draw(st.integers(0, n))
    random = Random(draw(st.integers(0, 2**16)))
    ids = [random.randint(1, 90) if i < end else END for i in range(n)]
    steps, step, blocks = [-1] * n, 0, []
    for b in range(count):
        places = list(range(b * length, (b + 1) * length))
        random.shuffle(places)
        for first in range(0, length, quota):
            for place in places[first : first + quota]:
                steps[place] = step
            step += 1
            blocks.append(b)
        if end < (b + 1) * length:
            break
    steps = [step if s < 0 else s for s in steps]
    logprobs = tuple(-random.random() for _ in range(n))
    written = Trajectory(tuple(ids), tuple(steps), logprobs, length, end)
    stop = Finish.STOP if end < n else Finish.LENGTH
    rollout = Rollout(PROMPT, tuple(ids[: end + 1]), "", stop, None, None, written)
    return Case(rollout, Canvas(n, MASK, END, draw(st.booleans())), quota, blocks)


def canvas_of(rows: TaughtRows) -> list[int]:
    """What a reader of the rows sees behind the prompt."""
    assert rows.after(PROMPT).ids[:3] == PROMPT
    return list(rows.after(PROMPT).ids[3:])


def recorded(case: Case) -> list[int]:
    """States in which a token up to the first end is to come, by going through the steps."""
    written = case.written
    return [
        s
        for s in range(len(case.blocks))
        if any(committed >= s for committed in written.steps[: written.end + 1])
    ]


def test_a_completions_tokens_are_taught_each_after_those_before_it():
    rollout = Rollout(PROMPT, (3, 4, 5), "", Finish.STOP, (-1.0, -2.0, -3.0))
    (rows,) = TOKENS(rollout, Draw(), None)
    assert rows.after(PROMPT) == continued(PROMPT, (3, 4, 5))
    assert (rows.tokens, tuple(rows.positions)) == ((3, 4, 5), (0, 1, 2))
    assert rows.logprobs == (-1.0, -2.0, -3.0) and rows.state is None
    assert TOKENS(Rollout(PROMPT, (), "", Finish.STOP), Draw(), None) == []


@given(denoisings())
def test_a_state_shows_what_is_committed_and_teaches_the_rest_of_its_block(case: Case):
    written, size = case.written, case.written.block_length
    made = States("block")(case.rollout, Draw(), case.canvas)
    last = len(written.ids) // size - 1
    assert [rows.state for rows in made] == [s for s in recorded(case) if case.blocks[s] != last]
    for rows in made:
        shown, block = canvas_of(rows), case.blocks[rows.state]
        for i, token in enumerate(shown):
            assert token == (written.ids[i] if written.steps[i] < rows.state else MASK)
        inside = range(block * size, (block + 1) * size)
        assert list(rows.positions) == [i for i in inside if written.steps[i] >= rows.state]
        assert rows.tokens == tuple(written.ids[i] for i in rows.positions)
        offset = -1 if case.canvas.shifted else 0
        assert list(rows.after(PROMPT).read) == [3 + i + offset for i in rows.positions]


@given(denoisings(), st.integers(1, 4))
def test_each_use_of_a_rollout_takes_the_next_part_of_its_states(case: Case, uses: int):
    whole = States("block")(case.rollout, Draw(), case.canvas)
    parts = [States("block")(case.rollout, Draw(0, 0, k, uses), case.canvas) for k in range(uses)]
    assert [rows for part in parts for rows in part] == whole
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


@given(denoisings(), st.floats(0, 0.9), st.integers(1, 3), st.integers(0, 99))
def test_whole_canvases_above_a_share_of_masks_a_few_of_them_drawn(
    case: Case, share: float, count: int, seed: int
):
    written = case.written
    made = States("canvas", count, share)(case.rollout, Draw(0, seed), case.canvas)
    masked = {s: [i for i, c in enumerate(written.steps) if c >= s] for s in recorded(case)}
    fitting = [s for s, own in masked.items() if len(own) > share * len(written.ids)]
    assert len(made) == min(count, len(fitting))
    assert made == States("canvas", count, share)(case.rollout, Draw(0, seed), case.canvas)
    for rows in made:
        assert rows.state in fitting and list(rows.positions) == masked[rows.state]


@given(denoisings())
def test_commits_are_every_written_token_once_with_its_log_probability(case: Case):
    written = case.written
    made = Commits()(case.rollout, Draw(), case.canvas)
    assert [rows.state for rows in made] == recorded(case)
    seen = Counter(i for rows in made for i in rows.positions)
    assert seen == Counter(i for i, s in enumerate(written.steps) if s in recorded(case))
    for rows in made:
        assert 0 < len(rows.positions) <= case.quota
        assert rows.logprobs == tuple(written.logprobs[i] for i in rows.positions)
        assert all(canvas_of(rows)[i] == MASK for i in rows.positions)


@given(denoisings(), st.floats(0, 1), st.integers(0, 99))
def test_a_suffix_shows_a_share_of_what_follows_the_block_and_never_the_block(
    case: Case, share: float, seed: int
):
    written, size = case.written, case.written.block_length
    for rows in States("block")(case.rollout, Draw(), case.canvas):
        shown = Suffix(share).revealed(written, rows.state, Random(seed))
        assert shown == Suffix(share).revealed(written, rows.state, Random(seed))
        suffix = range((case.blocks[rows.state] + 1) * size, len(written.ids))
        assert set(shown) <= set(suffix) and len(shown) == len(set(shown))
        expected = math.floor(share * len(suffix)) if suffix.start < written.end else 0
        assert len(shown) == expected
        student, teacher = rows.after(PROMPT), rows.after(PROMPT, shown)
        assert teacher.read == student.read
        for i, (own, told) in enumerate(zip(student.ids, teacher.ids, strict=True)):
            assert told == (written.ids[i - 3] if i - 3 in shown else own)


@given(denoisings(), st.none() | st.integers(1, 4), st.integers(0, 99))
def test_a_later_state_shows_what_was_committed_by_then(case: Case, ahead: int | None, seed: int):
    written = case.written
    last = max(written.steps)  # the last state in which anything is to come
    for state in recorded(case):
        shown = set(LaterState(ahead).revealed(written, state, Random(seed)))
        thens = range(state + 1, last + 1) if ahead is None else [min(state + ahead, last)]
        by = [{i for i, s in enumerate(written.steps) if state <= s < then} for then in thens]
        assert shown in (by or [set()])
        assert any(s >= state and i not in shown for i, s in enumerate(written.steps))


@given(st.integers(1, 9), st.integers(0, 4), st.integers(0, 999))
def test_a_random_mask_hides_one_to_all_tokens_of_a_canvas_that_ends_fill(
    n: int, room: int, seed: int
):
    rollout = Rollout(PROMPT, tuple(range(1, n + 1)), "", Finish.STOP)
    canvas = Canvas(n + room, MASK, END)
    (rows,) = RandomMask()(rollout, Draw(0, seed), canvas)
    assert rows.ids == (*range(1, n + 1), *[END] * room)
    assert 1 <= len(rows.positions) <= n + room
    hidden = [i for i, token in enumerate(canvas_of(rows)) if token == MASK]
    assert list(rows.positions) == hidden


def test_numbers_of_masks_are_uniform():
    rollout, canvas = Rollout(PROMPT, (1, 2, 3, 4), "", Finish.STOP), Canvas(4, MASK, END)
    counts = Counter(
        len(RandomMask()(rollout, Draw(0, seed), canvas)[0].positions) for seed in range(4000)
    )
    assert set(counts) == {1, 2, 3, 4}
    assert all(abs(count - 1000) < 110 for count in counts.values())  # four standard errors


def test_a_mean_field_hides_the_whole_completion_and_a_share_of_the_prompt():
    rollout = Rollout(tuple(range(100, 300)), (1, 2, END), "", Finish.STOP)
    canvas = Canvas(6, MASK, END)
    (rows,) = MeanField(0.15)(rollout, Draw(0, 5), canvas)
    read = rows.after(rollout.prompt_ids)
    assert read.ids[200:] == (MASK,) * 6
    assert rows.tokens == (1, 2, END)
    assert 10 < sum(token == MASK for token in read.ids[:200]) < 55
    assert all(token in (MASK, 100 + i) for i, token in enumerate(read.ids[:200]))
    (other,) = MeanField(0.15)(rollout, Draw(0, 6), canvas)
    assert other.hidden != rows.hidden
    (plain,) = MeanField(0.0)(rollout, Draw(0, 5), canvas)
    assert plain.after(rollout.prompt_ids).ids[:200] == rollout.prompt_ids


@given(denoisings())
def test_rows_without_some_positions_teach_the_others(case: Case):
    for rows in Commits()(case.rollout, Draw(), case.canvas):
        fewer = rows.without(set(rows.positions[:1]))
        assert fewer.positions == rows.positions[1:] and fewer.tokens == rows.tokens[1:]
        assert fewer.logprobs == rows.logprobs[1:]
        assert canvas_of(fewer) == canvas_of(rows)


def test_values_of_the_taught_stand_among_the_completion():
    rows = TaughtRows((5, 6, 7, 0, 0), (1, 3), offset=0)
    assert rows.spread([0.1, 0.2], 3) == [None, 0.1, None]


@pytest.mark.parametrize("rows", [States(), RandomMask(), MeanField(), Commits()])
def test_rows_are_of_one_kind_of_model(rows):
    with pytest.raises(UserError, match="generates left to right"):
        refuse_unfit(rows, None)
    refuse_unfit(rows, Canvas(4, MASK, END))
    refuse_unfit(TOKENS, None)
    with pytest.raises(UserError, match="masked diffusion model"):
        refuse_unfit(TOKENS, Canvas(4, MASK, END))
