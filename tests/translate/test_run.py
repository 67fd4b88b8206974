"""Translation from end to end, against a real server on this machine: what fails, what is rejected,
and a kill at any moment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.translate.server import Server, answer, english, serving, translated

from opsd.data.problems import Data, read
from opsd.runs.files import read_jsonl
from opsd.translate.asking import Endpoint, EndpointAsker, Sampled
from opsd.translate.checks import Checks
from opsd.translate.run import REJECTED, REPORT, TRANSLATED, Job, planned, translate
from opsd.types import RunFailed, UserError

pytest.importorskip("openai", reason="endpoints need pip install -e '.[endpoint]'")
KEY = "sk-not-to-be-seen"


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving() as made:
        yield made


def source(folder: Path, rows: int = 4) -> Path:
    """English problems in GSM8K's columns."""
    path = folder / "problems.jsonl"
    made = [
        {
            "question": english(n + 2, 9),
            "answer": f"{n + 2} + 9 = {n + 11}\n#### {n + 11}",
            "id": f"q{n}",
        }
        for n in range(rows)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return path


def job(server: Server, folder: Path, rows: int = 4, **changes) -> Job:
    endpoint = Endpoint(server.url, timeout=10.0, retries=3, cache=folder / "cache")
    made = Job(Data(source=str(source(folder, rows))), ("swa", "deu"), "translator-1", endpoint)
    return replace(made, **changes)


def lines(path: Path) -> list[dict]:
    return list(read_jsonl(path))


def test_problems_come_in_their_languages_beside_the_english_ones(server, tmp_path, capsys):
    report = translate(job(server, tmp_path, price=(1.0, 10.0)), tmp_path / "out")
    rows = lines(tmp_path / "out" / TRANSLATED)
    assert [(row["row"], row["language"]) for row in rows] == [
        (n, code) for n in range(4) for code in ("swa", "deu")
    ]
    assert rows[0] == {
        "problem": translated("Swahili", 2, 9),
        "translation": english(2, 9),
        "solution": "2 + 9 = 11\n\\boxed{11}",
        "answer": "11",
        "language": "swa",
        "id": "q0",
        "row": 0,
    }
    assert lines(tmp_path / "out" / REJECTED) == []
    assert report["languages"]["swa"] == {
        **{"problems": 4, "accepted": 4, "rejected": 0, "missing": 0, "gates": {}}
    }
    assert report["spent"] == {
        **{"requests": 8, "cached": 0, "prompt_tokens": 800, "completion_tokens": 160}
    }
    assert report["cost"] == pytest.approx((800 + 1600) / 1e6)
    assert json.loads((tmp_path / "out" / REPORT).read_text())["cost"] == report["cost"]
    assert "swa: 4 of 4 accepted" in capsys.readouterr().err
    # What is there is neither asked again nor counted twice.
    again = translate(job(server, tmp_path, price=(1.0, 10.0)), tmp_path / "out")
    assert len(server.asked) == 8 and again["spent"] == report["spent"]
    assert lines(tmp_path / "out" / TRANSLATED) == rows


@pytest.mark.parametrize("schema", ["ours", "copsd", "copsd-wide"])
def test_what_is_written_is_read_as_crosslingual_data(schema, server, tmp_path):
    translate(job(server, tmp_path, schema=schema), tmp_path / "out")
    path = str(tmp_path / "out" / TRANSLATED)
    problems = read(Data(source=path, language=("swa", "deu")))
    assert Counter(p.language for p in problems) == {"swa": 4, "deu": 4}
    (first, *_) = [p for p in problems if p.language == "deu"]
    assert first.text == translated("German", 2, 9) and first.answer == "11"
    assert first.privileged["translation"] == english(2, 9)
    assert first.privileged["solution"].endswith("\\boxed{11}")
    columns = set(lines(Path(path))[0])
    assert (
        columns
        >= {
            "ours": {"problem", "translation", "solution", "answer", "language"},
            "copsd": {"problem", "solution", "problem_translated", "language", "Answer"},
            "copsd-wide": {"problem", "solution", "problem_swa", "problem_swa_ok", "Answer"},
        }[schema]
    )


@pytest.mark.parametrize(
    "faults",
    [["429"], ["500", "500"], ["cut"], ["malformed"], ["empty", "kind"], ["half"], ["429", "cut"]],
    ids="-".join,
)
def test_a_failure_is_tried_again(faults, server, tmp_path):
    server.faults = list(faults)
    once = replace(job(server, tmp_path), languages=("swa",), limit=1)
    translate(once, tmp_path / "out")
    (row,) = lines(tmp_path / "out" / "attempts.jsonl")
    if faults == ["half"]:  # an answer, though a bad one
        assert row["text"] == "?" and len(server.asked) == 1
    else:
        assert row["text"] == translated("Swahili", 2, 9)
        assert len(server.asked) == 1 + len(faults)


def test_an_endpoint_that_asks_to_wait_is_waited_for(server, tmp_path):
    server.faults = ["429"]
    translate(replace(job(server, tmp_path), languages=("swa",), limit=1), tmp_path / "out")
    assert server.times[1] - server.times[0] >= 0.2


def test_a_slow_answer_is_given_up_and_asked_for_again(server, tmp_path):
    server.faults = ["slow"]
    asked = job(server, tmp_path)
    quick = replace(asked.endpoint, timeout=3.0)
    translate(replace(asked, endpoint=quick, languages=("swa",), limit=1), tmp_path / "out")
    assert len(server.asked) == 2 and len(lines(tmp_path / "out" / TRANSLATED)) == 1


def test_what_has_no_answer_is_asked_for_by_the_same_command(server, tmp_path):
    one = replace(Endpoint(server.url, retries=0, concurrency=1))
    asked = replace(job(server, tmp_path), endpoint=one, languages=("swa",))
    server.faults = ["", "500", ""]
    with pytest.raises(RunFailed, match=r"1 of 4 translations got no answer .*same command"):
        translate(asked, tmp_path / "out")
    assert [row["row"] for row in lines(tmp_path / "out" / TRANSLATED)] == [0, 2, 3]
    report = translate(asked, tmp_path / "out")
    assert report["languages"]["swa"]["missing"] == 0 and len(server.asked) == 5
    assert [row["row"] for row in lines(tmp_path / "out" / TRANSLATED)] == [0, 1, 2, 3]


def test_an_endpoint_that_answers_nothing_ends_it_soon(server, tmp_path):
    server.faults = ["500"] * 1000
    none = replace(Endpoint(server.url, retries=0, concurrency=2))
    with pytest.raises(RunFailed, match="no request is answered"):
        translate(replace(job(server, tmp_path, rows=400), endpoint=none), tmp_path / "out")
    assert len(server.asked) < 400


def test_a_refusal_is_one_line_without_the_key(server, tmp_path):
    server.faults = ["401"] * 100
    with pytest.raises(UserError, match="refuses model 'translator-1'") as raised:
        translate(job(server, tmp_path), tmp_path / "out")
    assert KEY not in str(raised.value)


def test_what_is_rejected_is_kept_with_its_reasons_and_asked_for_again(server, tmp_path):
    server.faults = ["wrong", "long"]
    one = replace(Endpoint(server.url, concurrency=1))
    asked = replace(job(server, tmp_path), endpoint=one, languages=("swa",))
    report = translate(asked, tmp_path / "out")
    assert report["languages"]["swa"]["rejected"] == 2
    wrong, long = lines(tmp_path / "out" / REJECTED)
    assert wrong["problem"] == "The answer is 13." and wrong["translation"] == english(2, 9)
    assert {"gate": "numbers", "why": "13 is not in the English text (2, 9)"} in wrong["faults"]
    assert {"gate": "complete", "why": "cut off at --max-tokens"} in long["faults"]
    assert report["languages"]["swa"]["gates"]["complete"] == 1
    translate(asked, tmp_path / "out")
    assert len(server.asked) == 4  # not without being told to
    report = translate(asked, tmp_path / "out", retry_rejected=True)
    assert len(server.asked) == 6 and report["languages"]["swa"]["accepted"] == 4
    assert server.asked[-1]["temperature"] == 0.7 and server.asked[-1]["seed"] == 1
    assert server.asked[0]["temperature"] == 0.0 and "seed" not in server.asked[0]
    assert len(lines(tmp_path / "out" / "attempts.jsonl")) == 6


def test_answers_of_the_cache_are_not_asked_for(server, tmp_path):
    translate(job(server, tmp_path), tmp_path / "one")
    report = translate(job(server, tmp_path), tmp_path / "two")
    assert len(server.asked) == 8 and report["spent"]["cached"] == 8
    assert lines(tmp_path / "two" / TRANSLATED) == lines(tmp_path / "one" / TRANSLATED)
    (file, *_) = sorted((tmp_path / "cache").glob("*/*.json"))
    file.write_text('{"text": "Ju')  # cut off by a kill
    translate(job(server, tmp_path), tmp_path / "three")
    assert len(server.asked) == 9


def test_questions_are_asked_side_by_side_and_not_too_often(server, tmp_path):
    server.meet = threading.Barrier(3)
    asked = job(server, tmp_path, rows=6)
    translate(replace(asked, endpoint=replace(asked.endpoint, concurrency=3)), tmp_path / "out")
    assert server.most == 3
    server.meet = None
    server.times.clear()
    paced = Endpoint(server.url, per_minute=600.0)
    begun = time.monotonic()
    translate(replace(asked, endpoint=paced), tmp_path / "paced")
    assert len(server.times) == 12
    assert all(at - begun >= 0.1 * i for i, at in enumerate(sorted(server.times)))


def test_every_try_counts_for_the_rate(server):
    server.faults = ["500", "500"]
    asker = EndpointAsker("m", Endpoint(server.url, per_minute=120.0, retries=2), Sampled())
    from opsd.translate.asking import Question

    asker([Question("x", "eng", "swa", ({"role": "user", "content": "x"},))])
    assert len(server.times) == 3 and server.times[2] - server.times[0] >= 0.9


def test_a_text_that_does_not_come_back_or_is_solved_to_another_answer_is_rejected(
    server, tmp_path
):
    pytest.importorskip("sacrebleu", reason="needs pip install -e '.[translate]'")

    def poor(body: dict) -> str:
        asked = body["messages"][-1]["content"]
        if "into English" in asked and " 2 " in asked:
            return "Somebody walked to another town on Tuesday."
        return answer(body).replace("boxed{12}", "boxed{13}")

    server.answer = poor
    report = translate(
        job(server, tmp_path, languages=("swa",), back="b", solver="s"), tmp_path / "out"
    )
    assert report["languages"]["swa"]["gates"] == {"back": 1, "solver": 1}
    back, solver = lines(tmp_path / "out" / REJECTED)
    assert back["row"] == 0 and back["faults"][0]["why"].startswith("chrF ")
    assert solver["row"] == 1 and solver["faults"][0]["why"] == "solved to 13, not 12"
    assert Counter(body["model"] for body in server.asked) == {"translator-1": 4, "b": 4, "s": 3}


def test_a_dry_run_asks_nobody_and_writes_nothing(server, tmp_path):
    asked = job(server, tmp_path, price=(1.0, 10.0))
    found = planned(asked, tmp_path / "out")
    assert server.asked == [] and not (tmp_path / "out").exists()
    assert (found["problems"], found["there"], found["missing"]) == (4, 0, 8)
    assert found["requests"] == 8 and 8 * 100 < found["prompt_tokens"] < 8 * 300
    assert found["cost"] == pytest.approx(
        (found["prompt_tokens"] + 10 * found["completion_tokens"]) / 1e6
    )
    assert english(2, 9) in found["prompt"][0]["content"]
    assert "from English into Swahili" in found["prompt"][0]["content"]
    translate(replace(asked, limit=3), tmp_path / "out")
    assert planned(asked, tmp_path / "out")["missing"] == 2
    checked = planned(replace(asked, back="b", solver="s"), tmp_path / "new")
    assert checked["requests"] == 24 and checked["cost"] > 2 * found["cost"]


def test_a_template_of_ones_own_asks(server, tmp_path):
    own = tmp_path / "own.jinja"
    own.write_text("Say it from {{ given }} into {{ wanted }}.\n\n{{ problem }}\n")
    translate(job(server, tmp_path, template=str(own)), tmp_path / "out")
    assert server.questions[0].startswith("Say it from English into ")
    with pytest.raises(UserError, match=r"translations of another kind: template"):
        translate(job(server, tmp_path), tmp_path / "out")


def test_a_source_that_has_changed_is_refused(server, tmp_path):
    translate(job(server, tmp_path), tmp_path / "out")
    asked = job(server, tmp_path)
    path = Path(asked.data.source)
    path.write_text("\n".join(reversed(path.read_text().splitlines())) + "\n")
    with pytest.raises(UserError, match="the source has changed"):
        translate(asked, tmp_path / "out")


def test_gates_may_be_left_out(server, tmp_path):
    server.faults = ["wrong"] * 4
    lax = Checks(("numbers", "language", "length", "sentences", "names", "copied"))
    report = translate(job(server, tmp_path, languages=("swa",), checks=lax), tmp_path / "out")
    assert report["languages"]["swa"]["accepted"] == 4
    with pytest.raises(UserError, match="unknown gate 'number'; did you mean 'numbers'"):
        Checks(("number",))


@pytest.mark.parametrize("after", [1, 7, 23])
def test_a_kill_loses_and_doubles_no_row(after, server, tmp_path):
    rows = 30
    server.pause = 0.02
    command = [
        *(sys.executable, "-m", "opsd", "translate", str(source(tmp_path, rows))),
        *("--to", "swa,deu", "--model", "m", "--endpoint", server.url, "--concurrency", "4"),
        *("--output", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")),
    ]
    journal = tmp_path / "out" / "attempts.jsonl"
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=tmp_path)
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and process.poll() is None:
        if journal.is_file() and journal.read_bytes().count(b"\n") >= after:
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    written = journal.read_bytes()
    assert after <= written.count(b"\n") < 2 * rows
    # As if the kill had come in the middle of a line.
    os.truncate(journal, written.rstrip(b"\n").rfind(b"\n") + 20 if after > 1 else 20)
    kept = journal.read_bytes().count(b"\n")
    before = len(server.asked)
    assert subprocess.run(command, stderr=subprocess.DEVNULL, cwd=tmp_path).returncode == 0
    made = lines(tmp_path / "out" / TRANSLATED)
    places = [(n, code) for n in range(rows) for code in ("swa", "deu")]
    assert [(row["row"], row["language"]) for row in made] == places
    attempts = lines(journal)
    assert Counter((a["row"], a["language"]) for a in attempts) == Counter(places)
    assert all(
        row["problem"]
        == translated("Swahili" if row["language"] == "swa" else "German", row["row"] + 2, 9)
        for row in made
    )
    # What was there, and what the cache has, is not asked for again; four requests may have been
    # under way at the kill.
    assert len(server.asked) - before <= 2 * rows - kept + 4
    assert len({(q, b["model"]) for q, b in zip(server.questions, server.asked, strict=True)}) == 60
