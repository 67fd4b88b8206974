"""The commands and variables of a launch, each taken by the program that it is for; what is
refused."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import yaml
from tests.command_lines import parse_opsd
from torch.distributed.run import get_args_parser

from opsd.cli.commands import main
from opsd.launch.plan import Plan
from opsd.recipe import schema
from opsd.recipe.files import launcher


def plan(name: str = "copsd-qwen3-4b", *settings: str, **how) -> Plan:
    recipe = schema.load(name, settings)
    return Plan(name=name, recipe=recipe, output=Path("runs/big"), settings=settings, **how)


def test_ranks_run_what_a_launcher_would_run():
    made = plan("copsd-qwen3-4b", "train.max_steps=3", trainers=2)
    python, dash, package, *given = made.trainer([], resume=False)
    assert [python, dash, package] == [sys.executable, "-m", "opsd"]
    parse_opsd(given)
    assert given[:4] == ["train", "copsd-qwen3-4b", "--output", "runs/big"]
    assert "--set train.max_steps=3" in " ".join(given) and "engine" not in " ".join(given)
    urls = ["http://10.0.0.1:80", "http://10.0.0.2:80"]
    resumed = made.trainer(urls, resume=True)
    parse_opsd(resumed[3:])
    assert resumed[-1] == "--resume"
    engine = schema.load("copsd-qwen3-4b", [resumed[-2]]).engine
    assert (engine.type, list(engine.urls)) == ("vllm_server", urls)
    assert engine.folder == "runs/big.weights"


def test_what_a_recipe_says_of_its_servers_stays():
    own = "engine={type: vllm_server, url: 'http://a:1', timeout: 900, folder: shared}"
    made = plan("copsd-qwen3-4b", own)
    assert made.weights == Path("runs/big.weights")  # what is removed is the launch's own
    words = made.trainer(["http://b:2"], resume=False)
    engine = schema.load("copsd-qwen3-4b", words[words.index("--set") + 1 :: 2]).engine
    assert (engine.urls, engine.timeout, engine.folder) == (("http://b:2",), 900.0, "shared")


def test_an_engine_is_started_as_the_recipe_needs_it():
    made = plan("copsd-qwen3-4b", "train.async_rollouts={max_staleness: 2}", trainers=2)
    assert made.engine("10.0.0.1", 8000) == [
        *("vllm", "serve", "Qwen/Qwen3-4B", "--host", "10.0.0.1", "--port", "8000"),
        *("--logprobs-mode", "processed_logprobs", "--disable-uvicorn-access-log"),
        *("--enable-lora", "--max-lora-rank", "64", "--max-loras", "6"),
    ]
    whole = ["model={name: miniature, dtype: float32, revision: main}"]
    other = plan("copsd-qwen3-4b", *whole, engine_command="'my vllm' --model").engine("h", 1)
    assert other[:2] == ["my vllm", "--model"] and Path(other[2]).is_dir()
    assert other[10:] == ["--revision", "main", "--dtype", "float32"]
    odd = plan("copsd-qwen3-4b", "model.lora.r=65").engine("h", 1)
    assert odd[odd.index("--max-lora-rank") + 1] == "128"


def test_ranks_are_told_what_torchrun_and_accelerate_tell_them(tmp_path):
    """Compared with what the two launchers set for one process on each of two machines."""
    shows = tmp_path / "shows.py"
    shows.write_text("import json, os\nprint('TOLD', json.dumps(dict(os.environ)))")
    assert get_args_parser().parse_args([str(shows)]).training_script
    for name in ("ddp", "fsdp2"):
        told = plan(trainers=2, engines=0, config=name).rank(1, "10.0.0.1", 29500)
        config = yaml.safe_load(launcher(name).read_text("utf-8"))
        assert told["ACCELERATE_MIXED_PRECISION"] == config["mixed_precision"]
        given = accelerate_tells(name, shows)
        assert {k: v.lower() for k, v in told.items() if k in given and "ACCEL" in k} == {
            k: v.lower() for k, v in given.items() if k in told and "ACCEL" in k
        }
        sharding = {key for key in told if key.startswith("FSDP")}
        assert bool(sharding) == (name == "fsdp2")
        assert all(told[key].lower() == given[key].lower() for key in sharding)
        assert (told["RANK"], told["WORLD_SIZE"], told["LOCAL_RANK"]) == ("1", "2", "0")
        assert (told["MASTER_ADDR"], told["MASTER_PORT"]) == ("10.0.0.1", "29500")
    assert plan().rank(0, "10.0.0.1", 29500) == {}


def accelerate_tells(name: str, script: Path) -> dict[str, str]:
    """The environment that `accelerate launch` gives a process of a configuration."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils import prepare_multi_gpu_env

    given = ["--config_file", str(launcher(name)), "--num_processes", "2", str(script)]
    args, *_ = _validate_launch_command(launch_command_parser().parse_args(given))
    args.main_process_port = 0
    return prepare_multi_gpu_env(args)


WRONG = {
    "a strategy": (["--strategy", "CLOSE"], "--strategy CLOSE: write one of PACK, SPREAD"),
    "a number": (["--trainers", "0"], "greater than or equal to 1"),
    "a command": (["--engine-command", "vllm 'serve"], "--engine-command: No closing quotation"),
    "no command": (["--engine-command", " "], "--engine-command: write the command that starts"),
    "a configuration": (["--config", "fsdp"], "did you mean 'fsdp2'?"),
    "one of another launcher": (["--config", "zero2"], "DEEPSPEED cannot be started by Ray"),
}


def said(monkeypatch, capsys, *options: str) -> str:
    monkeypatch.setattr("sys.argv", ["opsd", "launch", "copsd-qwen3-4b", *options])
    with pytest.raises(SystemExit) as done:
        main()
    assert done.value.code == 2
    return " ".join(capsys.readouterr().err.replace("│", " ").split())


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_one_line(wrong, monkeypatch, capsys):
    options, expected = WRONG[wrong]
    assert expected in said(monkeypatch, capsys, *options)


def test_without_ray_one_line_says_how_it_is_installed(monkeypatch, capsys, tmp_path):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *a: None if name == "ray" else find(name, *a)
    )
    told = said(monkeypatch, capsys, "--output", str(tmp_path / "run"))
    assert told == "opsd: ray is not installed: pip install -e '.[ray]' in the checkout"


def test_a_folder_that_is_taken_is_refused_before_anything_starts(monkeypatch, capsys, tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    assert "contains a run already" in said(monkeypatch, capsys, "--output", str(tmp_path))


def test_an_address_without_a_cluster_is_one_line(monkeypatch, capsys, tmp_path):
    pytest.importorskip("ray", reason="ray is installed with pip install -e '.[ray]'")
    for address in ("127.0.0.1:1", "nowhere"):
        told = said(monkeypatch, capsys, "--address", address, "--output", str(tmp_path / "run"))
        assert told.startswith(f"opsd: --address {address}: no Ray cluster answers there (")
