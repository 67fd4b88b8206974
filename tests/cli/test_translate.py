"""`opsd translate` on the command line: what it prints, and that bad input is one line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from tests.translate.server import english, serving, translated

from opsd.cli.commands import main

pytest.importorskip("openai", reason="endpoints need pip install -e '.[endpoint]'")


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-to-be-seen")
    with serving() as made:
        yield made


@pytest.fixture
def command(monkeypatch, capfd, tmp_path, server):
    """Runs `opsd translate problems.jsonl` with more words: exit code, standard output, lines of
    standard error."""
    monkeypatch.chdir(tmp_path)
    rows = [{"problem": english(n, 9), "answer": n + 9} for n in (2, 3)]
    Path("problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(*words: object, **instead: str | None) -> tuple[int, str, list[str]]:
        usual = {"to": "swa", "model": "m", "endpoint": server.url, "output": "out"} | instead
        options = [x for name, value in usual.items() if value for x in (f"--{name}", value)]
        monkeypatch.setattr(sys, "argv", ["opsd", "translate", *options, *map(str, words)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        shown = capfd.readouterr()
        return int(stop.value.code or 0), shown.out, shown.err.splitlines()

    return run


def test_a_file_is_translated(command):
    code, out, errors = command("problems.jsonl", "--json", to="Swahili,de")
    assert code == 0 and json.loads(out)["languages"]["deu"]["accepted"] == 2
    assert errors[-1] == "out/translated.jsonl, rejected.jsonl and report.json"
    first = json.loads(Path("out/translated.jsonl").read_text().splitlines()[0])
    assert first["problem"] == translated("Swahili", 2, 9)


def test_a_dry_run_says_what_it_would_cost(command, server):
    code, out, errors = command("problems.jsonl", "--dry-run", "--price", "1,10")
    assert code == 0 and errors == [] and server.asked == [] and not Path("out").exists()
    assert "2 problems into swa: 0 translations exist, 2 are missing" in out
    assert "about 2 requests" in out and "$0.00" in out and english(2, 9) in out


@pytest.mark.parametrize(
    ("words", "instead", "told"),
    [
        (["nowhere.jsonl"], {}, "data.source: no file 'nowhere.jsonl'"),
        (["problems.jsonl"], {"to": "klingon"}, "unknown language 'klingon'"),
        (["problems.jsonl"], {"to": "swa,"}, "--to swa,: write codes or names"),
        (["problems.jsonl"], {"to": "eng"}, "--to: the source is English"),
        (["problems.jsonl", "--schema", "copds"], {}, "did you mean 'copsd'"),
        (["problems.jsonl", "--without", "lenght"], {}, "did you mean 'length'"),
        (["problems.jsonl", "--price", "1"], {}, "--price 1: write two numbers"),
        (["problems.jsonl", "--rate", "0"], {}, "--rate 0: write a number above 0"),
        (["problems.jsonl", "--timeout", "-1"], {}, "--timeout -1: write a number above 0"),
        (["problems.jsonl", "--column", "prompt"], {}, "--column prompt: write prompt=COLUMN"),
        (["problems.jsonl", "--code", "twi"], {}, "--code twi: write LANGUAGE=CODE"),
        (["problems.jsonl", "--column", "prompt=q"], {}, "no column 'q' for 'prompt'"),
        (["problems.jsonl", "--template", "no.jinja"], {}, "no prompt template 'no.jinja'"),
        (["problems.jsonl"], {"endpoint": None, "model": "no/such/model"}, "cannot load the model"),
    ],
)
def test_bad_input_is_one_line(command, server, words, instead, told):
    code, out, errors = command(*words, **instead)
    assert (code, out, len(errors)) == (2, "", 1) and told in errors[0], errors
    assert server.asked == [] and not Path("out/attempts.jsonl").exists()


def test_without_a_key_for_openais_own_one_line_says_so(command, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    code, _, _ = command("problems.jsonl")  # a server of one's own needs none
    assert code == 0
