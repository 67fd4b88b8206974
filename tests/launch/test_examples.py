"""The examples for Slurm and Kubernetes, as far as they can be read without either."""

from __future__ import annotations

import itertools
import shlex
from pathlib import Path

import pytest
import yaml
from tests.command_lines import commands, parse, parse_opsd

CLUSTER = Path(__file__).parents[2] / "examples" / "cluster"


def test_the_slurm_script_starts_ray_on_all_nodes_and_the_launch_once():
    text = (CLUSTER / "ray.slurm.sh").read_text("utf-8")
    found = list(commands(text))
    for words in found:
        parse(words)
    (launch,) = [words for words in found if words[:2] == ["opsd", "launch"]]
    given = dict(itertools.pairwise(launch))
    nodes = int(text.partition("--nodes=")[2].split()[0])
    gpus = int(text.partition("--gpus-per-node=")[2].split()[0])
    assert int(given["--trainers"]) + int(given["--engines"]) == nodes * gpus
    started = [words for words in found if words[0] == "srun"]
    counts = [next(w for w in words if w.startswith("--nodes=")) for words in started]
    assert sum(int(count.partition("=")[2]) for count in counts) == nodes
    cli = pytest.importorskip("ray.scripts.scripts", reason="ray is not installed").cli
    for words in started:
        ray = words[words.index("ray") + 1 :]
        cli.commands[ray[0]].make_context("ray", ray[1:])


def test_the_ray_job_has_a_gpu_for_each_actor_and_one_volume():
    job = yaml.safe_load((CLUSTER / "rayjob.yaml").read_text("utf-8"))
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    program, *given = shlex.split(job["spec"]["entrypoint"])
    assert program == "opsd"
    parse_opsd(given)
    told = dict(itertools.pairwise(given))
    cluster = job["spec"]["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    pods = [cluster["headGroupSpec"]["template"]["spec"], workers["template"]["spec"]]
    (worker,) = pods[1]["containers"]
    gpus = workers["replicas"] * int(worker["resources"]["limits"]["nvidia.com/gpu"])
    assert int(told["--trainers"]) + int(told["--engines"]) == gpus
    for pod in pods:
        (container,) = pod["containers"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts.keys() <= {volume["name"] for volume in pod["volumes"]}
        assert told["--output"].startswith(mounts["shared"] + "/")
