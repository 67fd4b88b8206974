"""The benchmarks at tiny settings, and the page that their stored results make."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks import page, real_model, rollouts, scaling, startup
from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import attention, loss, verdicts, worker
from benchmarks.gpu.cases import SIZES, parts
from benchmarks.loss import Shape
from benchmarks.rows import command, finish, judged, not_measured
from benchmarks.shapes import network, small
from tests.conftest import tiny_model

from opsd.data.problems import load_problems
from opsd.lm.layout import Layout, pack

KEYS = {"measure", "ratio", "target", "ok"}


def test_a_missed_target_is_exit_code_1_and_what_was_not_measured_is_not(tmp_path: Path, capsys):
    file, machine = tmp_path / "x.json", {"load": [1.0]}
    assert finish([judged("a", 1.23456, 1.0)], file, machine) == 0
    assert finish([judged("a", 0.5, 1.0, ok=False)], None, machine) == 1
    assert finish([not_measured("a", "no such device", name="b")], None, machine) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all(row.keys() >= KEYS for row in printed) and printed[2]["ratio"] is None
    stored = json.loads(file.read_text())
    assert stored["rows"] == [{"measure": "a", "ratio": 1.235, "target": 1.0, "ok": True}]
    assert stored["machine"] == machine and stored["date"].startswith("20")


def test_the_command_is_told_without_where_it_wrote(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["x/step.py", "--rounds", "3", "--json", "out.json"])
    assert command() == "python -m benchmarks.step --rounds 3"


def test_a_process_is_timed_and_one_that_fails_is_told(tmp_path: Path):
    took = startup.timed([sys.executable, "-c", "sum(range(10**6))"], tmp_path)
    assert 0 < took.cpu < 5
    with pytest.raises(RuntimeError, match="told you"):
        startup.timed([sys.executable, "-c", "raise SystemExit('told you')"], tmp_path)


@pytest.mark.parametrize(("name", "cpu", "ok"), [("--help", 0.6, False), ("methods", 2.4, True)])
def test_targets_of_starting(name: str, cpu: float, ok: bool):
    row = startup.row_of(name, [startup.Took(cpu, 1.0)], [startup.Took(2.0, 2.0)])
    assert (row["ok"], row["name"]) == (ok, f"opsd {name}")


def test_the_problems_of_the_start_are_problems(tmp_path: Path):
    startup.write_problems(tmp_path / "rows.jsonl", 20)
    problems, _ = load_problems(startup.recipe(tmp_path / "rows.jsonl").data)
    assert len({p.id for p in problems}) == 20
    assert problems[7].answer == "7" and len(problems[7].privileged["solution"]) > 1000


@pytest.mark.parametrize("group", [1, 2])
def test_both_write_the_same_without_sampling_and_rows_end_at_different_steps(group: int):
    case = rollouts.Case(group, 16, rollouts=4)
    row = rollouts.rollout_row(case, 1)
    assert row.keys() >= KEYS and row["greedy_equal"] and row["ratio"] > 0
    made = rollouts.ours(network(small(rollouts.VOCAB)).eval(), case.ends)(
        case.prompts, case.sampling
    )
    assert len({len(ids) for ids in made}) > 1


def test_evaluation_and_the_loop_draw_as_many_samples():
    row = rollouts.evaluation_row(rollouts.Suite(problems=2, samples=2, budget=4), 1)
    assert row.keys() >= KEYS and row["own_samples_per_cpu_s"] > 0


def test_a_step_is_timed_on_any_number_of_problems():
    took = scaling.step_seconds(scaling.Case(problems=16, completion=8, steps=1))
    assert 0 < took["cpu_s"] < 30


def test_a_models_folder_is_written_and_learned_with(tmp_path: Path, tokenizer):
    model = tiny_model(len(tokenizer))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    row = real_model.writing_row(str(tmp_path), few_shot=True, horizon=3, rounds=1)
    assert row.keys() >= KEYS and row["own_tokens_per_cpu_s"] > 0
    alone = real_model.Shape(str(tmp_path), few_shot=False, horizon=3)
    assert row["prompt_tokens"] > sum(map(len, alone.prompts))
    step = real_model.step_row(str(tmp_path), few_shot=False, horizon=3, checkpointing=False)
    assert step.keys() >= KEYS and 0 < step["products_cpu_s"] < 100 and step["cpu_s"] > 0


@pytest.mark.slow
def test_what_needs_a_gpu_runs_on_a_cpu_at_tiny_shapes(tmp_path: Path, capsys):
    file = tmp_path / "gpu.json"
    words = ["--device", "cpu", "--shapes", "tiny", "--minutes", "60", "--json", str(file)]
    assert gpu.main(words) == 0
    stored = json.loads(file.read_text())
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert stored["rows"] == printed and stored["machine"].keys() >= {"gpus", "driver", "versions"}
    measured = {row["measure"] for row in printed if "not_measured" not in row}
    assert measured == {part.measure for part in parts(SIZES["tiny"], "cpu")} | {"target"}
    unmeasured = {row.get("name") or row["implementation"] for row in rows_without(printed)}
    assert unmeasured == {"ours, triton", "Liger, Triton", "flash_attention_2"}
    (sharded,) = (row for row in printed if row["measure"] == "sharded")
    assert sharded["apart"] < 1e-5 and sharded["whole"]["loss"] > 0


def rows_without(rows: list[dict]) -> list[dict]:
    return [r for r in rows if "not_measured" in r and r["measure"] != "target"]


def test_without_a_gpu_rows_say_so(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert gpu.main(["--json", str(tmp_path / "gpu.json")]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    cases = [row for row in rows if row["measure"] != "target"]
    assert len(cases) == sum(len(part.cases) for part in parts(SIZES["real"], "cuda"))
    assert all(row["not_measured"] == "no CUDA device" for row in cases)
    assert all("not_measured" in row for row in rows) and len(rows) > len(cases)


def test_a_case_that_fails_dies_or_does_not_end_costs_no_other(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(worker, "PATIENCE_S", 15.0)
    shares = ((60, ("fine", "fails", "dies")), (1, ("hangs",)), (39, ("fine",)))
    parts = [
        worker.Part("tests.gpu_cases", share, [{"kind": kind} for kind in kinds])
        for share, kinds in shares
    ]
    rows: list[dict] = []
    worker.run(parts, 400, rows.append)
    told = [(row["kind"], row.get("not_measured")) for row in rows]
    assert told == [
        ("fine", None),
        ("fails", None),
        ("fails", "ValueError: of no use"),
        ("dies", None),
        ("dies", "the process died, exit code 3"),
        ("hangs", None),
        ("hangs", "its time was up"),
        ("fine", None),
    ]


def test_what_no_time_is_left_for_is_a_row():
    rows: list[dict] = []
    worker.run([worker.Part("tests.gpu_cases", 1, [{"kind": "fine"}] * 2)], 0.0, rows.append)
    assert [row["not_measured"] for row in rows] == ["no time was left for it"] * 2


def loss_row(name: str, **more) -> dict:
    about = {"divergence": "jsd(0.5)", "tokens": 8192, "hidden": 4096, "gradient_error": 1.0}
    return judged("loss", more.pop("ratio", 1.2), name=name, **about, **more)


def test_the_table_compares_with_the_floor_and_the_peers():
    rows = [
        loss_row("ours, triton", ratio=1.25, ms=50.0, peak_bytes=100),
        loss_row("TRL", ms=160.0, peak_bytes=90),
        not_measured("loss", "no module named liger_kernel", **{"name": "Liger, Triton"})
        | {"divergence": "jsd(0.5)", "tokens": 8192, "hidden": 4096},
        judged("sharded", None, rollouts=2, apart=0.5),
        judged("largest", None, rollouts=8, fits=True),
        judged("largest", None, rollouts=16, fits=False),
    ]
    judgement = verdicts.verdicts(rows, judges=True)
    seen = [(row.get("measured"), row["ok"]) for row in judgement]
    # Time over the floor, the gradient; TRL's time and peak; Liger; the shards; what fits.
    assert seen == [
        *((1.25, True), (1.0, True), (3.2, True), (0.9, False)),
        *((None, True), (0.5, False), (8, True)),
    ]
    lines = verdicts.table(judgement).splitlines()
    assert "at most 1.3" in lines[1] and lines[1].endswith("met")
    assert lines[4].endswith("MISSED") and "no module named liger_kernel" in lines[5]
    assert all(row["ok"] for row in verdicts.verdicts(rows, judges=False))


def test_sequences_that_see_each_other_are_many_roundings_apart(monkeypatch: pytest.MonkeyPatch):
    case = {"device": "cpu", "shape": "tiny", "layers": 2, "lengths": (9, 3, 14)}
    (right,) = attention.rows(**case, implementation="sdpa")
    leaky = Layout(lambda inputs, pad: replace(pack(inputs, pad), places_BL=None), sum)
    monkeypatch.setattr(attention, "PACKED", leaky)
    (wrong,) = attention.rows(**case, implementation="sdpa")
    assert right["ratio"] < verdicts.ROUNDING < 10 < wrong["ratio"]


def test_a_wrong_gradient_is_many_roundings_off():
    student, teacher, weight = (x.bfloat16() for x in Shape(8, 256, 32, 8).inputs("cpu"))
    exact = loss.defined(student.float(), teacher.float(), weight.float(), "jsd(0.5)")
    ours = loss.defined(student, teacher, weight, "jsd(0.5)")
    off = [loss.apart(g, student, teacher, weight, "jsd(0.5)") for g in (ours, exact, 0.9 * exact)]
    assert off[0] == 1.0 and off[1] == 0.0 and off[2] > verdicts.ROUNDING


def test_the_committed_page_is_what_the_stored_results_give():
    written = page.PAGE.read_text("utf-8")
    assert written == page.render(page.stored())
    for figure in ("loss_peaks.svg", "step_ratios.svg", "fleet.svg"):
        assert (figure in written) == (page.IMAGES / figure).is_file()


def test_a_page_of_less_says_what_to_run():
    some = {name: result for name, result in page.stored().items() if name == "real_shapes"}
    written = page.render(some)
    for name in ("loss", "step", "rollouts", "startup", "scaling", "gpu"):
        assert f"python -m benchmarks.{name} --" in written


def test_the_page_names_every_target_that_was_missed():
    results = page.stored()
    missed = sum(len(result.missed) for result in results.values())
    told = page.render(results).split("## What is measured")[0]
    assert f"{missed or 'none'} missed" in told
