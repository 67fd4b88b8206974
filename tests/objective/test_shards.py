"""A head divided over processes gives every one of them what one process alone computes."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from tests.objective.test_fused import Case

from opsd.objective.divergences import forward_kl, jsd, pointwise_clip, reverse_kl
from opsd.objective.fused import chunk_rows_for, fused_divergence, fused_terms
from opsd.objective.head import Head, View
from opsd.objective.shards import Shard
from opsd.objective.support import TopK
from opsd.objective.targets import Mixture
from opsd.objective.terms import ChunkDivergence, ChunkLogProb
from opsd.types import UserError

EVERY = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jsd(0.3)": jsd(0.3),
    "jsd(0.8)": jsd(0.8),
    **{f"clip {d.type}": pointwise_clip(d, 0.01) for d in (forward_kl, reverse_kl, jsd(0.5))},
}
HEADS = {
    "frozen": {},
    "trained": {"trained": True, "bias": True, "padded": 9},
    "softcap": {"softcap": 8.0, "scale": 0.5},
}
SIZES = {1: [70], 2: [50, 20], 3: [7, 40, 23]}


def case_of(name: str) -> Case:
    """Rows near and far: every third one's sides are sure of different tokens."""
    case = Case(**HEADS[name])
    with torch.no_grad():
        case.teacher[::3] *= 12
    return case


def shard_of(head: Head, rank: int, world: int) -> Head:
    """A rank's rows of a head, as parameters of its own; the last rank's end in padding."""
    start = sum(SIZES[world][:rank])
    last = rank == world - 1
    own = slice(start, None if last else start + SIZES[world][rank])

    def part(whole):
        return None if whole is None else whole.detach()[own].requires_grad_(whole.requires_grad)

    return Head(part(head.weight), part(head.bias), SIZES[world][rank], head.softcap, head.scale)


def outcome(case: Case, head: Head, divergence) -> dict[str, torch.Tensor]:
    """Values, statistics and gradients on one rank."""
    view = View("teacher", case.teacher, head)
    term = ChunkDivergence((view,), divergence, temperature=1.1)
    (values,), (columns,) = fused_terms(case.student, head, [term], case.tokens, chunk_rows=5)
    (values * case.weights).sum().backward()
    result = {"values": values.detach(), **columns, "student": case.student.grad}
    if head.trained:
        result |= {"weight": head.weight.grad, "bias": head.bias.grad}
    return result


def every(rank: int, world: int) -> dict:
    made = {}
    for name in HEADS:
        for label, divergence in EVERY.items():
            case = case_of(name)
            head = shard_of(case.head, rank, world)
            head = head.sharded(dist.group.WORLD) if world > 1 else head
            made[name, label] = outcome(case, head, divergence)
    return made


def refusals(head: Head, case: Case) -> list[str]:
    view, whole = View("teacher", case.teacher, head), View("teacher", case.teacher, case.head)
    terms = [
        ChunkDivergence((view,), support=TopK(5)),
        ChunkDivergence((view, view), target=Mixture((0.5, 0.3))),
        ChunkDivergence((whole,)),
        ChunkLogProb(),
    ]
    told = []
    for i, term in enumerate(terms):
        if i == 1:
            head, term = Head(head.weight, softcap=8.0, across=head.across), terms[1]
        try:
            fused_terms(case.student, head, [term], case.tokens)
        except UserError as error:
            told.append(str(error))
    return told


def work(rank: int, world: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    address = f"tcp://localhost:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=world)
    case = case_of("frozen")
    own = shard_of(case.head, rank, world)
    values = fused_divergence(
        case.student, case.teacher, own.weight, jsd(0.5), group=dist.group.WORLD
    )
    values.sum().backward()
    shard = own.sharded(dist.group.WORLD)
    view = View("teacher", case.teacher, shard)
    made = {
        "every": every(rank, world),
        "by group": (values.detach(), case.student.grad),
        "chunk": chunk_rows_for(shard, [ChunkDivergence((view,))], "cuda"),
        "refused": refusals(shard, case),
    }
    try:
        Shard.among(dist.group.WORLD, rank)
    except UserError as error:
        made["empty"] = str(error)
    torch.save(made, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=[2, 3])
def ranks(request, tmp_path_factory) -> list[dict]:
    folder, world = tmp_path_factory.mktemp("shards"), request.param
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    mp.spawn(work, (world, port, str(folder)), nprocs=world)
    return [torch.load(folder / f"{rank}.pt") for rank in range(world)]


@pytest.fixture(scope="module")
def alone() -> dict:
    return every(0, 1)


def close(ours: torch.Tensor, true: torch.Tensor, relative: float = 1e-6) -> bool:
    return bool((ours - true).abs().max() <= relative * true.abs().max())


@pytest.mark.parametrize("label", EVERY)
@pytest.mark.parametrize("name", HEADS)
def test_processes_together_equal_one(ranks, alone, name, label):
    true = alone[name, label]
    # What a clip leaves of a gradient is small beside what it sums.
    relative = 5e-6 if "clip" in label else 1e-6
    for made in ranks:
        ours = made["every"][name, label]
        assert ours.keys() == true.keys()
        for column in ours.keys() - {"weight", "bias"}:
            assert close(ours[column], true[column], relative), column
            assert torch.equal(ours[column], ranks[0]["every"][name, label][column]), column
    for column in true.keys() & {"weight", "bias"}:
        joined = torch.cat([made["every"][name, label][column] for made in ranks])
        assert close(joined, true[column], relative), column


def test_the_rows_that_are_compared_reach_far_and_are_clipped(alone):
    assert alone["frozen", "reverse_kl"]["divergence"].max() > 30
    assert alone["frozen", "clip jsd"]["clipped"].any()


def test_a_bare_weight_and_a_group_are_enough(ranks):
    case = case_of("frozen")
    values = fused_divergence(case.student, case.teacher, case.head, jsd(0.5))
    values.sum().backward()
    for made in ranks:
        assert close(made["by group"][0], values.detach())
        assert close(made["by group"][1], case.student.grad)


def test_all_ranks_cut_chunks_alike(ranks):
    assert len({made["chunk"] for made in ranks}) == 1


def test_what_is_not_covered_is_refused(ranks):
    for made in ranks:
        top_k, mixture, whole, sampled = made["refused"]
        assert "from one teacher over the whole vocabulary" in top_k
        assert mixture == sampled == top_k
        assert "must be divided over the same ranks alike" in whole
        assert "every rank of a divided head needs an id of its own" in made["empty"]
