"""Code that nobody has read is kept away from the machine, and ends when its time is up."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from opsd.sandbox.code import Limits, run_tests


def test_tests_are_told_apart():
    readable, *failures = run_tests(
        "def f(x): return x + 1", ["assert f(1) == 2", "assert f(0)==0"]
    )
    assert readable is None and failures == [None, "AssertionError"]
    assert run_tests("def f(: pass", ["1"])[0].startswith("SyntaxError")


@pytest.mark.parametrize(
    ("source", "limits", "told"),
    [
        ("while True: pass", Limits(cpu_s=1, wall_s=120), "no end within the CPU time"),
        ("import time\ntime.sleep(60)", Limits(wall_s=1.5), "no end within 1.5 s"),
        ("x = bytearray(1 << 31)", Limits(), "MemoryError"),
        ("import os\nos._exit(0)", Limits(), "the code ended its process"),
        ("raise SystemExit(0)", Limits(), "SystemExit: 0"),
        ("raise KeyboardInterrupt", Limits(), "KeyboardInterrupt"),
    ],
)
def test_nothing_passes_after_an_end(source: str, limits: Limits, told: str):
    start = time.monotonic()
    assert run_tests(source, ["1", "1"], limits)[1:] == [told, told]
    assert time.monotonic() - start < 240


def test_the_network_is_out_of_reach():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        asked = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 2)"
        _, failure = run_tests(asked, ["1"])
        assert failure is not None and ("not allowed" in failure or "OSError" in failure)
        server.settimeout(0.2)
        with pytest.raises(TimeoutError):
            server.accept()


def test_files_elsewhere_stay_as_they_are(tmp_path: Path):
    kept = tmp_path / "kept.txt"
    kept.write_text("mine")
    for attack in (
        f"open({str(kept)!r}, 'w').write('gone')",
        f"import os\nos.remove({str(kept)!r})",
        f"import os\nos.rename({str(kept)!r}, {str(kept)!r} + '2')",
        f"import shutil\nshutil.rmtree({str(tmp_path)!r})",
        f"import pathlib\npathlib.Path({str(tmp_path / 'new')!r}).mkdir()",
    ):
        _, failure = run_tests(attack, ["1"])
        assert failure is not None, attack
        assert kept.read_text() == "mine" and os.listdir(tmp_path) == ["kept.txt"]
    assert run_tests("open('own', 'w').write('x')", ["assert open('own').read() == 'x'"])[1] is None


def test_no_process_outlives_it_and_no_secret_is_handed_over(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    source = "import os, subprocess"
    tests = [
        "assert 'HF_TOKEN' not in os.environ",
        "subprocess.run(['true'])",
        "os.fork()",
        "os.system('true')",
        "os.kill(os.getppid(), 9)",
    ]
    _, secret, *processes = run_tests(source, tests)
    assert secret is None and all("not allowed" in str(failure) for failure in processes)


def test_one_solution_leaves_nothing_to_the_next():
    run_tests("import builtins\nbuiltins.sum = lambda x: 0\nopen('left', 'w').write('x')", ["1"])
    assert run_tests("", ["assert sum([1]) == 1", "import os; assert os.listdir() == []"])[1:] == [
        None,
        None,
    ]
