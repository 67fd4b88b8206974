r"""Properties of the search for the last `\boxed{}`."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opsd.grade.format import answer_part, extract_boxed, format_ok

balanced = st.recursive(
    st.text("ab1+ ", max_size=4),
    lambda inner: st.one_of(
        inner.map(lambda text: "{" + text + "}"),
        inner.map(lambda text: r"\frac{" + text + r"}{2}"),
        inner.map(lambda text: r"\{" + text + r"\}"),
        st.tuples(inner, inner).map("".join),
    ),
    max_leaves=6,
)
prose = st.text("abc \n$.", max_size=20)


@settings(deadline=None)
@given(prose, balanced, prose)
def test_the_content_of_a_box_is_found_between_any_words(before: str, content: str, after: str):
    found = extract_boxed(f"{before}\\boxed{{{content}}}{after}")
    assert found == (content.strip() or None)


@settings(deadline=None)
@given(st.lists(balanced.filter(str.strip), min_size=2, max_size=4), prose)
def test_the_last_of_several_boxes_wins(contents: list[str], between: str):
    text = between.join(f"\\boxed{{{content}}}" for content in contents)
    assert extract_boxed(text) == contents[-1].strip()


pieces = st.sampled_from(["\\", "{", "}", "\\boxed", "\\boxed{", "5", " ", "$"])


@settings(deadline=None)
@given(st.lists(pieces, max_size=30).map("".join))
def test_no_text_makes_it_fail_and_what_it_finds_is_in_the_text(text: str):
    found = extract_boxed(text)
    assert found is None or (found in text and found == found.strip() != "")


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("", None),
        ("no box, 5", None),
        (r"\boxed{}", None),
        (r"\boxed{ }", None),
        (r"\boxed{5} then \boxed{}", None),
        (r"\boxed{5", None),
        (r"\boxed{4} or \boxed{5", "4"),
        (r"\boxed{4 \boxed{5}", "5"),
        (r"\boxed{x = \boxed{7}}", "7"),
        (r"\boxed {5}", "5"),
        (r"$\boxed 5$.", "5"),
        (r"\boxed 1/2, so", "1/2"),
        (r"written as \boxed{5} in a \boxed command", "5"),
        (r"\boxedx{5}", None),
        (r"\\boxed{5}", "5"),
        (r"a \\ \boxed{5}", "5"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{ 1 \right.}", r"\left\{ 1 \right."),
        (r"\boxed{1 \\{2}}", r"1 \\{2}"),
        (r"} } \boxed{5} { {", "5"),
    ],
)
def test_awkward_boxes(text: str, content: str | None):
    assert extract_boxed(text) == content
    assert format_ok(text) is (content is not None)


@pytest.mark.parametrize(
    "piece", [r"\boxed{", "\\", "{", r"\boxed ", r"\boxed5", "}", r"\boxed{5}"]
)
def test_a_megabyte_costs_no_more_than_a_second(piece: str):
    start = time.process_time()
    extract_boxed(piece * (1_000_000 // len(piece)))
    assert time.process_time() - start < 2.0


def test_only_what_follows_the_last_thought_counts():
    text = r"<think>\boxed{1}</think> so \boxed{2}</think> hm"
    assert answer_part(text, after_think=True) == " hm"
    assert not format_ok(text, after_think=True)
    assert format_ok(text)
    assert answer_part(r"<think>\boxed{1}", after_think=True) == ""
