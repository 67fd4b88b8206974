"""The judge: what is right, what is wrong, and what must not stop or outlive a run."""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opsd.grade import answer as judge
from opsd.grade import answers_match, is_correct, process
from opsd.grade.answer import gold_answer
from opsd.grade.process import Comparer, GraderError
from opsd.grade.verifier import MathVerifier
from opsd.grade.worker import MEMORY_LIMIT_BYTES
from opsd.types import Problem

BOMB = "9^{9^{9^9}}"
SRC = Path(process.__file__).parents[2]


@pytest.fixture(scope="module")
def comparer() -> Iterator[Comparer]:
    comparer = Comparer()
    yield comparer
    comparer.close()


def worker_pid(comparer: Comparer) -> int:
    assert comparer._worker is not None
    return comparer._worker.process.pid


def members(group: int) -> list[int]:
    """Living processes of a process group (Linux)."""
    found: list[int] = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[2]) == group and fields[0] not in "ZX":
            found.append(int(stat.parent.name))
    return found


def gone(group: int, within_s: float = 60.0) -> bool:
    deadline = time.monotonic() + within_s
    while members(group) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not members(group)


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        (r"\frac{1}{2}", "0.5"),
        ("x+1", "1+x"),
        ("(x+1)^2", "x^2+2x+1"),
        (r"\sqrt{2}/2", r"\frac{1}{\sqrt2}"),
        ("2,1", r"\{1,2\}"),
        ("x=5", "5"),
        (r"\text{(B)}", "B"),
        ("5\u00b2", "25"),
        ("10^{10}", "10000000000"),
        (r"\left( 1, 2\right)", "(1,2)"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\ 2\end{pmatrix}"),
        (r"\text{Monday}", "monday"),
        (r"2\text{ and }3", "2,3"),
        ("\u09e7\u09e8", "12"),
        ("1 1/2", "3/2"),
        (r"\boxed{7}", r"thus \boxed{7}"),
    ],
)
def test_same_values_match(answer: str, gold: str):
    assert answers_match(answer, gold)


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        (r"2\sqrt{5}", r"2\sqrt{3}"),
        ("2", r"2\pi"),
        ("3", "3:4"),
        ("4:3", "3:4"),
        ("5x+7", "5x+1"),
        ("3", "3^{10}"),
        ("5t", "5"),
        ("12ab", "12"),
        ("silent", "listen"),
        (r"\text{on}", r"\text{no}"),
        ("12 or 13", "12"),
        (r"5 \text{ or } 6", "5"),
        ("x>5", "x<5"),
        ("[1,2]", "(1,2)"),
        ("(1,234)", "1234"),
        ("x=2", "y=2"),
        ("3 + )", "3"),
        ("1 2", "3"),
        ("2 1/2", "3/2"),
    ],
)
def test_different_values_do_not_match_in_either_direction(answer: str, gold: str):
    assert not answers_match(answer, gold)
    assert not answers_match(gold, answer)


@settings(deadline=None)
@given(st.text(max_size=30))
def test_a_number_never_matches_what_shares_no_digit_with_it(text: str):
    if not any(character.isnumeric() for character in text):
        assert not answers_match(text, "123456")


@settings(deadline=None)
@given(st.integers(), st.integers())
def test_integers_match_exactly_when_equal(a: int, b: int):
    assert answers_match(str(a), str(b)) is (a == b)
    assert answers_match(f"{a:,}", str(a))


def test_the_last_box_is_judged():
    assert is_correct(r"\boxed{3} no, \boxed{4}", "4")
    assert not is_correct(r"\boxed{4} no, \boxed{3}", "4")
    assert not is_correct("the answer is 4", "4")
    assert not is_correct(r"\boxed{}", "4")
    assert not is_correct("", "4") and not is_correct(r"\boxed{4}", "")
    assert is_correct(r"\boxed{1,5}", "1.5", False, "deu") and is_correct(r"\boxed{1,5}", "1.5")


def test_after_think_ignores_the_thoughts():
    thought, answered = r"<think>\boxed{4}", r"<think>\boxed{3}</think> \boxed{4}"
    assert is_correct(thought, "4") and not is_correct(thought, "4", after_think=True)
    assert is_correct(answered, "4", after_think=True)
    assert not is_correct(r"<think>\boxed{4}</think> \boxed{3}", "4", after_think=True)


def test_gold_answers_are_found_in_references():
    assert gold_answer("48/2 = 24\n48+24 = 72\n#### 72") == "72"
    assert gold_answer("#### 1\n#### 2 ") == "2"
    assert gold_answer(r"so \boxed{5}") == "5"
    assert gold_answer(" 5 ") == "5"
    assert is_correct(r"\boxed{1234}", "a + b\n#### 1,234")


def test_plain_answers_start_no_process(monkeypatch: pytest.MonkeyPatch):
    def refuse(answer: str, gold: str) -> bool:
        raise AssertionError(f"{answer} and {gold} went to the worker")

    monkeypatch.setattr(judge._comparer, "compare", refuse)
    judge._same_value.cache_clear()
    assert answers_match("12 km", "12") and answers_match("1.234,5", "1234.5", "deu")
    for wrong in ("13", "13 km", "1/2", "14%", "thirteen", "-12", "KSh 13", "\u09e7\u09e9"):
        assert not answers_match(wrong, "12")
    assert answers_match("Monday", "monday") and answers_match("x^2", "x^2")
    with pytest.raises(AssertionError, match="went to the worker"):
        answers_match("x+1", "1+x")


def test_long_answers_are_wrong_at_once():
    start = time.process_time()
    assert not is_correct(r"\boxed{" + "1+" * 500_000 + "1}", "500001")
    assert not is_correct(r"\boxed{" + "(" * 1_000_000 + "}", "5")
    assert time.process_time() - start < 2.0


@pytest.mark.parametrize(
    "content",
    ["1," * 990 + "1", "1 " * 990 + "1", "{" * 1000 + "1" + "}" * 1000, "\u137c" * 1990, "9" * 1990,
     r"\text{" * 300 + "1" + "}" * 300, r"\boxed{" * 300 + "1" + "}" * 300, r"\frac{" * 300,
     "\u202e" * 1000 + "1", "\u200b" * 1000, "1\u0966" * 990, r"\text{" + "a'" * 900 + "}",
     "-" * 1990, "10^{10^{10}} km", "0." + "9" * 1900 + "%", "1/" + "0" * 1900, "\x00" * 100,
     "\ud800"],
)  # fmt: skip
def test_adversarial_answers_are_wrong_within_the_limits(content: str):
    start = time.monotonic()
    for code in ("eng", "deu"):
        assert not is_correct(rf"\boxed{{{content}}}", "5", language=code)
    assert time.monotonic() - start < 60


def test_nested_and_large_boxes_stall_nothing():
    start = time.process_time()
    assert is_correct(r"\boxed{" * 50_000 + "5" + "}" * 50_000, "5")
    assert not is_correct(r"\boxed{" + "\u09e7," * 500_000 + "1}", "5")
    assert not answers_match("\u137c" * 1_000_000, "5")
    assert time.process_time() - start < 20


@pytest.mark.parametrize("bomb", [BOMB, "99999!!!!", "(" * 1900, "10^{10^{10}}"])
def test_a_bomb_costs_a_second_of_cpu_and_not_the_worker(
    comparer: Comparer, bomb: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(process, "WALL_LIMIT_S", 60.0)
    assert comparer.compare("x+1", "1+x")
    before = worker_pid(comparer)
    start = time.monotonic()
    assert not comparer.compare(bomb, "5")
    assert time.monotonic() - start < 60.0
    assert comparer.compare("x+2", "2+x")
    assert worker_pid(comparer) == before
    assert len(members(before)) == 2


def test_a_bomb_goes_off_once_for_a_whole_group(monkeypatch: pytest.MonkeyPatch):
    compare, asked = judge._comparer.compare, []

    def counted(answer: str, gold: str) -> bool:
        asked.append(answer)
        return compare(answer, gold)

    monkeypatch.setattr(judge._comparer, "compare", counted)
    judge._same_value.cache_clear()
    verdicts = [is_correct(rf"\boxed{{{text}}}", "7") for text in [BOMB, "7"] * 20]
    assert verdicts == [False, True] * 20
    assert len(asked) == 1


def test_the_wall_limit_ends_a_worker_that_gets_no_time(
    comparer: Comparer, monkeypatch: pytest.MonkeyPatch
):
    assert comparer.compare("x+1", "1+x")
    group = worker_pid(comparer)
    os.killpg(group, signal.SIGSTOP)
    monkeypatch.setattr(process, "WALL_LIMIT_S", 0.3)
    start = time.monotonic()
    assert not comparer.compare("x+2", "2+x")
    assert time.monotonic() - start < 3
    assert gone(group)
    monkeypatch.undo()
    assert comparer.compare("x+3", "3+x")


@pytest.mark.parametrize("whole_group", [True, False])
def test_a_killed_worker_is_replaced_and_asked_again(comparer: Comparer, whole_group: bool):
    assert comparer.compare("x+1", "1+x")
    group = worker_pid(comparer)
    if whole_group:
        os.killpg(group, signal.SIGKILL)
    else:
        child = max(pid for pid in members(group) if pid != group)
        os.kill(child, signal.SIGKILL)
    verdicts = [comparer.compare("x+2", f"{2 + n % 2}+x") for n in range(6)]
    assert verdicts == [True, False] * 3


def test_a_worker_killed_in_mid_comparison_does_not_hang_the_caller(comparer: Comparer):
    assert comparer.compare("x+1", "1+x")
    group = worker_pid(comparer)
    killer = threading.Timer(0.3, os.killpg, (group, signal.SIGKILL))
    killer.start()
    assert not comparer.compare(BOMB, "5")
    killer.join()
    assert gone(group)
    assert comparer.compare("x+2", "2+x")


def test_an_interrupted_comparison_does_not_answer_the_next(
    comparer: Comparer, monkeypatch: pytest.MonkeyPatch
):
    assert comparer.compare("x+1", "1+x")

    def interrupted(limit_s: float) -> dict[str, bool]:
        raise KeyboardInterrupt

    monkeypatch.setattr(comparer._worker, "read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        comparer.compare("x+2", "2+x")
    assert not comparer.compare("x+3", "2+x")


STUB_WORKER = """
from opsd.grade import worker

def compare(answer, gold):
    if answer == "large":
        raise MemoryError
    while answer == "long":
        pass
    return answer == gold

worker.CPU_LIMIT_S = 0.2
worker.load_comparison = lambda: compare
worker.main()
"""


def test_out_of_memory_or_time_is_a_verdict_and_the_worker_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    (tmp_path / "stub.py").write_text(STUB_WORKER)
    monkeypatch.setattr(process, "WORKER", tmp_path / "stub.py")
    comparer = Comparer()
    assert comparer.compare("7", "7")
    before = worker_pid(comparer)
    answers = ["large", "7", "long", "7", "8"]
    assert [comparer.compare(answer, "7") for answer in answers] == [
        False,
        True,
        False,
        True,
        False,
    ]
    assert worker_pid(comparer) == before
    comparer.close()
    assert gone(before)


def test_the_comparing_process_may_not_take_all_memory(comparer: Comparer):
    assert comparer.compare("x+1", "1+x")
    for pid in members(worker_pid(comparer)):
        assert resource.prlimit(pid, resource.RLIMIT_AS)[0] == MEMORY_LIMIT_BYTES


def test_threads_share_one_worker():
    pairs = [(f"x+{n}", f"{n + n % 2}+x") for n in range(24)]
    with ThreadPoolExecutor(6) as pool:
        verdicts = list(pool.map(lambda pair: answers_match(*pair), pairs))
    assert verdicts == [n % 2 == 0 for n in range(24)]


def test_a_worker_that_cannot_start_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    broken = tmp_path / "worker.py"
    monkeypatch.setattr(process, "WORKER", broken)
    for script, message in (
        ("raise SystemExit(3)", "status 3"),
        ("""print('{"error": "no math_verify"}')""", "no math_verify"),
    ):
        broken.write_text(script)
        with pytest.raises(GraderError, match=message):
            Comparer().compare("x+1", "1+x")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    with pytest.raises(GraderError, match="no-python"):
        Comparer().compare("x+1", "1+x")


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=os.environ | {"PYTHONPATH": str(SRC)},
        capture_output=True,
        text=True,
        timeout=600,
    )


ASK = """
import json, os, sys
from opsd.grade import answer, answers_match
assert answers_match("x+1", "1+x")
pid = answer._comparer._worker.process.pid
"""


@pytest.mark.parametrize(
    "end", ["", "os._exit(0)", f"""
import threading, time
threading.Thread(target=answers_match, args=("{BOMB}", "5"), daemon=True).start()
time.sleep(0.3)
os.kill(os.getpid(), 9)
"""]
)  # fmt: skip
def test_the_worker_ends_with_its_parent(end: str):
    done = run_python(ASK + "print(pid, flush=True)\n" + end)
    assert done.stderr == ""
    assert gone(int(done.stdout))


def test_a_forked_child_starts_its_own_worker_and_leaves_the_parents_alone():
    done = run_python(
        ASK
        + """
child = os.fork()
if child == 0:
    right = answers_match("x+2", "2+x") and answer._comparer._worker.process.pid != pid
    answer._comparer.close()
    os._exit(0 if right else 1)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
same_worker = answer._comparer._worker.process.pid == pid
print(json.dumps([status, answers_match("x+3", "3+x"), same_worker]))
"""
    )
    assert (done.stderr, json.loads(done.stdout)) == ("", [0, True, True])


def test_grading_imports_neither_torch_nor_sympy():
    done = run_python(
        "import sys, opsd.grade.verifier\n"
        "print({'torch', 'transformers', 'sympy'} & set(sys.modules))"
    )
    assert done.stdout.strip() == "set()", done.stderr


def test_the_verifier_rewards_right_answers():
    problem = Problem("2 + 2 = ?", answer="4")
    right, wrong, silent = MathVerifier().many(
        [(problem, r"\boxed{4}"), (problem, r"\boxed{5}"), (problem, "4")]
    )
    assert (right.reward, right.correct, right.format_ok) == (1.0, True, True)
    assert (wrong.reward, wrong.correct, wrong.format_ok) == (0.0, False, True)
    assert (silent.reward, silent.correct, silent.format_ok) == (0.0, False, False)
    thinking = MathVerifier(after_think=True)(problem, r"\boxed{4}")
    assert (thinking.correct, thinking.format_ok) == (False, False)


def test_a_problem_without_an_answer_is_an_error_that_names_it():
    for answer in (None, " "):
        with pytest.raises(ValueError, match="p17"):
            MathVerifier()(Problem("?", answer=answer, id="p17"), r"\boxed{4}")


def test_the_verifier_refuses_unknown_keys():
    with pytest.raises(ValueError, match="after_thnk"):
        MathVerifier(after_thnk=True)  # type: ignore[call-arg]
