"""The placement group of a launch on a Ray cluster, and the actors in it."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from opsd.console import log
from opsd.launch.host import Host
from opsd.types import UserError
from opsd.validation import install

LOCAL = "local"
"""The address for a temporary cluster that consists only of this machine."""
_ROOM = 600.0
"""Seconds to wait for an autoscaling cluster to make room."""


@dataclass(frozen=True)
class Cluster:
    """A placement group with one bundle per actor, each with these resources."""

    group: Any
    resources: dict[str, float]

    def host(self, bundle: int) -> Any:
        """Create an actor in a bundle; it may have to wait for a machine."""
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        options: dict[str, Any] = {
            "num_cpus": self.resources["CPU"],
            "num_gpus": self.resources.get("GPU", 0),
            "scheduling_strategy": PlacementGroupSchedulingStrategy(self.group, bundle),
            # Other calls, such as ending its command, must be served while `news` waits.
            "max_concurrency": 4,
        }
        return ray.remote(Host).options(**options).remote()


@contextlib.contextmanager
def connected(address: str, bundles: int) -> Iterator[None]:
    """Connect to the cluster at an address until the end of the block, which kills the actors of
    this process. Ray handles signals itself meanwhile, unless they are handled in the block.

    Raises UserError if Ray is not installed, and if no cluster answers.
    """
    if importlib.util.find_spec("ray") is None:
        raise UserError(f"ray is not installed: {install('ray')}")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # the user has not agreed
    own: dict[str, Any] = {}
    if address == LOCAL:
        # CPUs only count places here; two ranks on one CPU are slow, but correct.
        own = {"num_cpus": max(bundles, os.cpu_count() or 1), "include_dashboard": False}
    elif address != "auto":
        _refuse_silent(address)
    import ray

    try:
        ray.init(address, log_to_driver=False, logging_level="ERROR", **own)
    except (ConnectionError, ValueError) as error:
        raise _silent(address, error) from error
    try:
        yield
    finally:
        ray.shutdown()


def _refuse_silent(address: str) -> None:
    """Raises UserError if nothing listens at HOST:PORT, since Ray would end the process itself."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError, OverflowError) as error:
        raise _silent(address, error) from error


def _silent(address: str, error: Exception) -> UserError:
    told = str(error).partition("\n")[0]
    return UserError(f"--address {address}: no Ray cluster answers there ({told})")


@contextlib.contextmanager
def grouped(
    bundles: int, strategy: str, *, grows: bool, leave: Callable[[], None]
) -> Iterator[Cluster]:
    """Create a placement group with this many bundles until the end of the block. `leave` is called
    while waiting for room, and may raise.

    Raises UserError if there is no room; at once on a cluster that does not grow.
    """
    import ray
    from ray.util import placement_group, remove_placement_group

    there = ray.cluster_resources()
    resources = {"CPU": 1.0} | ({"GPU": 1.0} if there.get("GPU") else {})
    scarce = "GPU" if "GPU" in resources else "CPU"
    lacks = f"{bundles} {scarce}s are needed, one per trainer and engine, and the cluster has"
    lacks = f"{lacks} {int(there.get(scarce, 0))}"
    if there.get(scarce, 0) < bundles:
        if not grows:
            raise UserError(f"{lacks}: lower --trainers or --engines")
        log(f"{lacks}; waiting for more")
    group = placement_group([resources] * bundles, strategy=strategy)
    try:
        until = time.monotonic() + _ROOM
        while not group.wait(1):
            leave()
            if time.monotonic() > until:
                raise UserError(f"no room within {_ROOM:g} s ({strategy}): {lacks}")
        yield Cluster(group, resources)
    finally:
        remove_placement_group(group)
