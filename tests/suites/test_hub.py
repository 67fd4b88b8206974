"""Published suites in the forms that the hub has them in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from tests.fake_datasets import serving

PROGRAM = """
import json, sys
from opsd.suites.loading import parts, read, suite
told = []
for name, language, splits in json.loads(sys.argv[1]):
    found = read(parts(suite(name), splits), [language])
    told.append([[p.text, p.answer, p.language, p.metadata.get("split")] for p in found])
print(json.dumps(told))
"""


def lines(*rows: dict[str, Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def card(configs: dict[str, dict[str, str]]) -> bytes:
    """A dataset card that says which file is which split of which config."""
    listed = [
        {
            "config_name": name,
            "data_files": [{"split": split, "path": path} for split, path in files.items()],
        }
        for name, files in configs.items()
    ]
    return f"---\n{yaml.safe_dump({'configs': listed})}---\n".encode()


LEVELS = ("low", "medium", "high", "top")
POLYMATH = {
    "README.md": card({"sw": {level: f"sw/{level}.jsonl" for level in LEVELS}}),
    **{
        f"sw/{level}.jsonl": lines({"id": f"{level}-sw-0", "question": level, "answer": f"${n}$"})
        for n, level in enumerate(LEVELS)
    },
}
AFRIMGSM = {
    "README.md": card({"swa": {"train": "data/swa/dev.tsv", "test": "data/swa/test.tsv"}}),
    "data/swa/dev.tsv": b"question\tanswer\tanswer_number\tequation_solution\nno\t0\t0\t\n",
    "data/swa/test.tsv": b"question\tanswer\tanswer_number\tequation_solution\n"
    b'"Pili\nana 2?"\t\t2\t\n',
}
HMMT = {
    "data/train.jsonl": lines(
        {"problem_idx": 1, "problem": "?", "answer": r"\frac{1}{2}", "problem_type": ["Algebra"]}
    )
}
GPQA = {
    "README.md": card({"gpqa_diamond": {"train": "gpqa_diamond.csv"}}),
    "gpqa_diamond.csv": b"Question,Correct Answer,Incorrect Answer 1,Incorrect Answer 2,"
    b"Incorrect Answer 3,Explanation\nWhich?,yes,no,never,perhaps,because\n",
}


def test_suites_are_read_as_the_hub_has_them(tmp_path: Path):
    hub = {
        "Qwen/PolyMath": POLYMATH,
        "masakhane/afrimgsm": AFRIMGSM,
        "MathArena/hmmt_feb_2025": HMMT,
        "Idavidrein/gpqa": GPQA,
    }
    asked = [
        ("polymath", "swa", []),
        ("polymath", "Swahili", ["high"]),
        ("afrimgsm", "swa", []),
        ("hmmt25", "eng", []),
        ("gpqa_diamond", "eng", []),
    ]
    with serving(hub) as address:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, json.dumps(asked)],
            env={**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path)}
            | {"HF_HUB_OFFLINE": "0"},
            capture_output=True,
            text=True,
            timeout=600,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    polymath, high, african, hmmt, gpqa = json.loads(done.stdout)
    assert polymath == [[level, f"${n}$", "swa", level] for n, level in enumerate(LEVELS)]
    assert high == [["high", "$2$", "swa", "high"]]
    assert african == [["Pili\nana 2?", "2", "swa", None]]
    assert hmmt == [["?", r"\frac{1}{2}", "eng", None]]
    ((text, letter, *_),) = gpqa
    assert text.startswith("Which?\n\nA. ") and f"\n{letter}. yes\n" in text
    assert "polymath swa low: 1 problems, but the suite has 125" in done.stderr
