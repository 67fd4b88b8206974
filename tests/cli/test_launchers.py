"""Shipped configurations of `accelerate launch`, as Accelerate reads them; what is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

from opsd.cli.commands import main
from opsd.recipe.files import launcher
from opsd.training.checks import refuse_sharding
from opsd.types import UserError

NAMES = {path.stem for path in (Path(__file__).parents[2] / "configs").glob("*.yaml")}


@pytest.mark.parametrize("name", sorted(NAMES))
def test_accelerate_reads_a_shipped_configuration(name):
    config = load_config_from_file(str(launcher(name)))
    assert isinstance(config, ClusterConfig) and config.num_processes == 8
    kinds = {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "zero2": "DEEPSPEED"}
    assert config.distributed_type == kinds[name]
    if name == "fsdp2":
        assert config.fsdp_config["fsdp_version"] == 2
    if name == "zero2":
        assert config.deepspeed_config["zero_stage"] == 2


def test_the_command_prints_where_it_is(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["opsd", "launcher", "fsdp2"])
    with pytest.raises(SystemExit) as done:
        main()
    assert not done.value.code
    assert Path(capsys.readouterr().out.strip()) == launcher("fsdp2")
    monkeypatch.setattr("sys.argv", ["opsd", "launcher", "fsdp"])
    with pytest.raises(SystemExit) as done:
        main()
    assert done.value.code == 2
    assert "unknown launch configuration 'fsdp'; did you mean 'fsdp2'?" in capsys.readouterr().err


def setup(**changes) -> SimpleNamespace:
    settings = {
        "fsdp_version": 2,
        "state_dict_type": "FULL_STATE_DICT",
        "cpu_ram_efficient_loading": False,
    }
    plugin = FullyShardedDataParallelPlugin(**{**settings, **changes})
    state = SimpleNamespace(fsdp_plugin=plugin)
    accelerator = SimpleNamespace(state=state, distributed_type=DistributedType.FSDP)
    return SimpleNamespace(accelerator=accelerator, model=None)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"fsdp_version": 1}, "set fsdp_version to 2"),
        ({"state_dict_type": "SHARDED_STATE_DICT"}, "fsdp_state_dict_type must be FULL_STATE_DICT"),
        ({"cpu_ram_efficient_loading": True}, "fsdp_cpu_ram_efficient_loading must be False"),
        ({"activation_checkpointing": True}, "fsdp_activation_checkpointing must be False"),
        ({"cpu_offload": True}, "fsdp_offload_params must be False"),
    ],
)
def test_other_ways_of_sharding_are_refused(changes, told, monkeypatch):
    # The plugin writes what it is told into the environment.
    for name in ("ACCELERATE_USE_FSDP", "FSDP_CPU_RAM_EFFICIENT_LOADING"):
        monkeypatch.setenv(name, "False")
    refuse_sharding(setup())
    with pytest.raises(UserError, match=told):
        refuse_sharding(setup(**changes))
