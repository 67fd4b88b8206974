"""Padding, and which positions predict which tokens."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import tiny_model

from opsd.lm.layout import (
    MASKED,
    PACKED,
    PADDED,
    ModelInput,
    continued,
    pack,
    pad_and_mask,
    pad_left,
    pad_right,
)

ids = st.lists(st.integers(1, 9), min_size=1, max_size=6)
pairs = st.lists(st.tuples(ids, st.lists(st.integers(1, 9), max_size=6)), min_size=1, max_size=5)


@settings(max_examples=100, deadline=None)
@given(pairs)
def test_every_completion_token_follows_its_row(rows: list[tuple[list[int], list[int]]]):
    padded = pad_right([continued(p, c) for p, c in rows], 0)
    flat = padded.ids_BL.flatten()
    assert flat[padded.rows_N + 1].tolist() == [token for _, c in rows for token in c]
    for row, (prompt, completion) in zip(padded.ids_BL.tolist(), rows, strict=True):
        n = len(prompt) + len(completion)
        assert row[:n] == prompt + completion and set(row[n:]) <= {0}


@settings(max_examples=100, deadline=None)
@given(st.lists(ids, min_size=1, max_size=5))
def test_padding_on_the_left_is_masked(prompts: list[list[int]]):
    padded, mask = pad_left(prompts, 0)
    width = max(map(len, prompts))
    for row, seen, prompt in zip(padded.tolist(), mask.tolist(), prompts, strict=True):
        gap = width - len(prompt)
        assert row == [0] * gap + prompt and seen == [0] * gap + [1] * len(prompt)


def test_prompts_of_other_lengths_give_rows_of_the_same_tokens():
    completions = [[5, 6], [7]]
    short = pad_right([*map(continued, [[1], [2]], completions)], 0)
    long = pad_right([*map(continued, [[1, 1, 1, 1], [2, 2]], completions)], 0)
    for padded in (short, long):
        assert padded.ids_BL.flatten()[padded.rows_N + 1].tolist() == [5, 6, 7]


@settings(max_examples=100, deadline=None)
@given(pairs)
def test_packed_sequences_stand_one_after_another(rows: list[tuple[list[int], list[int]]]):
    batch = pack([continued(p, c) for p, c in rows], 0)
    assert batch.ids_BL.tolist() == [[token for p, c in rows for token in p + c]]
    assert batch.places_BL.tolist() == [[i for p, c in rows for i in range(len(p) + len(c))]]
    (ids,) = torch.nn.functional.pad(batch.ids_BL, (0, 1))
    assert ids[batch.rows_N + 1].tolist() == [token for _, c in rows for token in c]


@settings(max_examples=100, deadline=None)
@given(pairs)
def test_a_layout_knows_the_size_of_its_sheets(rows: list[tuple[list[int], list[int]]]):
    lengths = [len(p) + len(c) for p, c in rows]
    for layout in (PADDED, PACKED, MASKED):
        ids = layout.collate([continued(p, c) for p, c in rows], 0).ids_BL
        assert ids.numel() == layout.tokens(lengths)


def test_padding_on_the_right_changes_no_row():
    model = tiny_model(50).eval()
    prompts, completions = [[1, 2, 3], [4], [5, 6]], [[7], [8, 9, 10, 11], [12, 13]]

    def states(prompts: list[list[int]], completions: list[list[int]]) -> torch.Tensor:
        padded = pad_right([*map(continued, prompts, completions)], 0)
        with torch.no_grad():
            hidden = model.model(input_ids=padded.ids_BL).last_hidden_state
        return hidden.flatten(0, 1)[padded.rows_N]

    alone = [states([p], [c]) for p, c in zip(prompts, completions, strict=True)]
    torch.testing.assert_close(states(prompts, completions), torch.cat(alone), atol=1e-6, rtol=1e-5)


@settings(max_examples=100, deadline=None)
@given(pairs)
def test_a_prompt_and_its_completion_come_apart_again(rows: list[tuple[list[int], list[int]]]):
    for prompt, completion in rows:
        found = continued(prompt, completion)
        assert [*found.prompt] == prompt and [*found.completion] == completion


@settings(max_examples=100, deadline=None)
@given(pairs)
def test_a_mask_marks_what_is_no_padding(rows: list[tuple[list[int], list[int]]]):
    batch = pad_and_mask([ModelInput((*p, *c), (0,)) for p, c in rows], 0)
    width = max(len(p) + len(c) for p, c in rows)
    assert batch.mask_BL is not None and batch.rows_N.tolist() == [
        i * width for i in range(len(rows))
    ]
    for row, mask in zip(batch.ids_BL.tolist(), batch.mask_BL.tolist(), strict=True):
        assert mask == [int(token != 0) for token in row]
