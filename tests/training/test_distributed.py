"""Processes that share the work, each with the whole model or with a shard of it, learn what one
process learns that sees everything."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from tests.arrange import free_port
from tests.conftest import save_tiny_model
from tests.teacher.test_served import serving

pytestmark = pytest.mark.slow

CASES: dict[str, dict] = {
    # The whole model is trained; its teacher, who also writes, is a copy of all of it.
    "full": {"off_policy": True},
    "lora": {"lora": True},
    "uneven passes": {"lora": True, "ema": True, "max_tokens_per_pass": 130, "checkpointing": True},
    "sum": {"sum": True, "accumulate": 2},
    # The same few problems on both ranks: each time they must be answered anew.
    "repeated": {"lora": True, "repeated": True},
    # A head of its own, and passes that are empty on one rank: its gradient must not be missing.
    "untied": {"untied": True, "max_tokens_per_pass": 130, "checkpointing": True},
    # The second step learns from the first one's rollouts, whose frozen teacher has read them.
    "reused": {"reuse": 2, "max_tokens_per_pass": 130},
    "resumed": {"ema": True, "steps": 4},
    # Each process hands its adapter to an engine of its own.
    "engine": {"lora": True, "engine": True},
    # Each process asks a server for its own rows.
    "served": {"served": True, "reuse": 2, "max_tokens_per_pass": 130},
}
MODES = {"alone": 1, "whole": 2, "sharded": 2}
RESUMED = (("whole", "alone"), ("alone", "sharded"), ("whole", "sharded"), ("sharded", "alone"))
ROLLOUTS, STEPS, RATE = 8, 2, 1.0
SERVER = "OPSD_TEST_TEACHER"
"""The environment variable that has a teacher's address."""


def work(mode: str, folder: str, output: Path) -> None:
    """One process's part of every case."""
    torch.set_num_threads(1)
    for name, case in CASES.items():
        run(name, case, mode, folder, output)
    for wrote in MODES:
        if (output / f"resumed-{wrote}").is_dir() and wrote != mode:
            resume(wrote, mode, folder, output)


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def run(name: str, case: dict, mode: str, folder: str, output: Path) -> None:
    """Trains a case; writes down what is compared."""
    from opsd.lm.sharding import local

    to = output / f"{name}-{mode}"
    trainer, gradients = trainer_for(case, mode, folder, to)
    start = trained(trainer)
    with counted_products() as products:
        trainer.train()
    seen = {
        "start": start,
        "gradients": gradients,
        "end": trained(trainer),
        "held": sum(local(p).numel() for p in trainer.model.parameters()),
        "products": sum(products),
    }
    trainer.save_model(str(to / "model"))
    if "steps" in case:
        trainer.state.best_model_checkpoint = str(to / "checkpoint-2")
        trainer._load_best_model()
        seen["best"] = trained(trainer)
    torch.save(seen, to / f"{rank()}.pt")


def resume(wrote: str, resumes: str, folder: str, output: Path) -> None:
    """Goes on from the middle of another mode's run."""
    to = output / f"resumed-{wrote}-{resumes}"
    if rank() == 0:
        shutil.copytree(output / f"resumed-{wrote}", to)
        shutil.rmtree(to / "checkpoint-4")
    if MODES[resumes] > 1:
        torch.distributed.barrier()
    trainer, _ = trainer_for(CASES["resumed"], resumes, folder, to)
    trainer.train(resume_from_checkpoint=True)
    torch.save({"end": trained(trainer)}, to / f"{rank()}.pt")


@contextlib.contextmanager
def counted_products():
    """Counts products with an output layer that the loss and traces take."""
    from opsd.objective.head import Head

    original, calls = Head.logits, []
    Head.logits = lambda self, hidden: calls.append(1) or original(self, hidden)
    try:
        yield calls
    finally:
        Head.logits = original


def trained(trainer) -> dict[str, torch.Tensor]:
    from opsd.lm.sharding import full_tensor as whole

    parameters = trainer.model.named_parameters()
    return {n: whole(p.detach()).clone() for n, p in parameters if p.requires_grad}


def trainer_for(case: dict, mode: str, folder: str, run: Path):
    """A trainer, and a list that it fills with every step's gradients."""
    import peft
    from accelerate import DistributedType, PartialState
    from tests.rollout.model_server import ModelServer
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

    from opsd import OPSDConfig, OPSDTrainer, VLLMServer
    from opsd.lm.sharding import full_tensor as whole
    from opsd.methods import Method, grpo
    from opsd.methods.signals import Distill, Sum, Teacher
    from opsd.objective.divergences import jsd
    from opsd.prompts.contexts import Solution
    from opsd.rollout.sources import OnPolicy
    from opsd.teacher.weights import EMA, Frozen, Served
    from opsd.types import Problem, Verdict

    problems = [
        Problem(
            f"{'Count the birds. ' * (i % 5)}{i} + {i + 1} = ?",
            answer=str(2 * i + 1),
            privileged={"solution": f"{i} + {i + 1} = {2 * i + 1}. " * (1 + i % 3)},
        )
        for i in range(2 * ROLLOUTS)
    ]

    def verify(problem, text):
        reward = float(len(text) % 2)
        return Verdict(reward, reward > 0, True)

    class Gradients(TrainerCallback):
        def __init__(self):
            self.seen = []

        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            named = model.named_parameters()
            self.seen.append({n: whole(p.grad).clone() for n, p in named if p.grad is not None})

    world = MODES[mode]
    model = AutoModelForCausalLM.from_pretrained(folder)
    if case.get("untied"):
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
        model.config.tie_word_embeddings = False
    torch.manual_seed(0)
    lora = peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    weights = EMA(decay=0.5) if case.get("ema") else Frozen()
    if case.get("served"):
        weights = Served(os.environ[SERVER])
    distill = Distill(Teacher(Solution(), weights), jsd(0.5))
    signal, source = distill, OnPolicy()
    if case.get("sum"):
        signal, source = Sum(((1.0, grpo().signal), (0.5, distill))), OnPolicy(group=2)
    if case.get("off_policy"):
        source = OnPolicy(view=Solution(), weights=weights)
    accumulate = case.get("accumulate", 1)
    gradients = Gradients()
    args = OPSDConfig(
        output_dir=str(run),
        max_steps=case.get("steps", STEPS),
        per_device_train_batch_size=ROLLOUTS // world // accumulate,
        rollouts_per_step=ROLLOUTS,
        max_tokens_per_pass=case.get("max_tokens_per_pass"),
        gradient_checkpointing=case.get("checkpointing", False),
        max_completion_length=12,
        learning_rate=1e-2 if "steps" in case else RATE,
        max_grad_norm=1.0,
        optim="adamw_torch" if "steps" in case else "sgd",
        # Adam divides by what may be rounding alone.
        adam_epsilon=1e-2,
        save_strategy="steps" if "steps" in case else "no",
        save_steps=2,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    if mode == "sharded":
        # Accelerate shards on GPUs only, PyTorch on any device.
        PartialState().distributed_type = DistributedType.MULTI_GPU
    tokenizer = AutoTokenizer.from_pretrained(folder)
    engine = None
    if case.get("engine"):
        server = ModelServer(AutoModelForCausalLM.from_pretrained(folder).eval(), tokenizer)
        engine = VLLMServer(server.url)
    trainer = OPSDTrainer(
        model,
        Method(name="both", signal=signal, source=source, reuse=case.get("reuse", 1)),
        args,
        train_dataset=problems[: ROLLOUTS // 4] * 8 if case.get("repeated") else problems,
        processing_class=tokenizer,
        verifier=verify,
        engine=engine,
        peft_config=lora if case.get("lora") else None,
        callbacks=[gradients],
    )
    return trainer, gradients.seen


def learned(folder: str, rank: int) -> dict:
    """A skill bank after one failure on every process, of which something else is said on each."""
    from tests.arrange import sampler_for
    from tests.authors.test_authors import Given
    from tests.authors.test_skill_bank import group
    from transformers import AutoTokenizer

    from opsd.authors.skill_bank import BankUpdate, SkillAuthor

    tokenizer = AutoTokenizer.from_pretrained(folder)
    engine = Given(tokenizer, [f'{{"description": "Slips {rank}."}}'])
    author = SkillAuthor(by="tag", update=BankUpdate(every=1, items=2, max_tokens=400))
    librarian = author.begin()
    librarian([group("sum", False)], sampler_for(engine, tokenizer), 0)
    return librarian.state_dict() | {"measured": librarian.measured}


def environments(mode: str) -> list[dict[str, str]]:
    """What a launcher tells the two processes of a mode."""
    settings = {}
    if mode == "sharded":
        config = Path(__file__).parents[2] / "configs" / "fsdp2.yaml"
        settings = yaml.safe_load(config.read_text("utf-8"))["fsdp_config"]
        settings["ACCELERATE_USE_FSDP"] = True
    settings |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    settings |= {"WORLD_SIZE": 2, "OMP_NUM_THREADS": 1, "HF_HUB_OFFLINE": 1}
    roots = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    settings["PYTHONPATH"] = os.pathsep.join(roots)
    shared = os.environ | {key.upper(): str(value) for key, value in settings.items()}
    return [shared | {"RANK": str(i), "LOCAL_RANK": str(i)} for i in (0, 1)]


def launch(mode: str, folder: Path, output: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, mode, str(folder), str(output)],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for environment in environments(mode)
    ]
    try:
        # One that fails takes the other with it, whose complaint is then the less telling one.
        errors = [process.communicate(timeout=1200)[1][-4000:] for process in processes]
        assert not any(process.returncode for process in processes), "\n\n".join(errors)
    finally:
        for process in processes:
            process.kill()


@pytest.fixture(scope="module")
def finished(tiny_folder, tokenizer, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("ranks")
    teacher = save_tiny_model(output / "teacher", tokenizer, hidden_size=32, num_hidden_layers=1)
    with serving(teacher) as served, pytest.MonkeyPatch.context() as patch:
        patch.setenv(SERVER, served.url)
        launch("whole", tiny_folder, output)
        work("alone", str(tiny_folder), output)
        launch("sharded", tiny_folder, output)
        resume("sharded", "alone", str(tiny_folder), output)
        (output / "asked.json").write_text(json.dumps(served.asked))
    return output


def result(output: Path, run: str, rank: int = 0) -> dict:
    return torch.load(output / run / f"{rank}.pt")


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest difference, relative to the largest number."""
    assert one.keys() == other.keys() and one
    largest = max(tensor.abs().max().item() for tensor in one.values())
    return max((one[n] - other[n]).abs().max().item() for n in one) / largest


@pytest.mark.parametrize("mode", ["whole", "sharded"])
@pytest.mark.parametrize("name", CASES)
def test_processes_agree_with_each_other_and_with_one_process(name, mode, finished):
    from opsd.runs.files import read_jsonl

    first, second = (result(finished, f"{name}-{mode}", rank) for rank in (0, 1))
    alone = result(finished, f"{name}-alone")
    steps = CASES[name].get("steps", STEPS)
    assert len(alone["gradients"]) == len(first["gradients"]) == steps
    for step in range(steps):
        mine, others, all_of_it = (x["gradients"][step] for x in (first, second, alone))
        assert apart(mine, others) == 0
        assert apart(all_of_it, mine) < 1e-6, step
    moved = {n: end - alone["start"][n] for n, end in alone["end"].items()}
    assert max(change.abs().max().item() for change in moved.values()) > 1e-4
    written = ROLLOUTS * steps // CASES[name].get("reuse", 1)
    read = {}
    for how, ranks in ((mode, (0, 1)), ("alone", (0,))):
        folder = finished / f"{name}-{how}" / "rollouts"
        rows = [list(read_jsonl(folder / f"rank{rank}.jsonl")) for rank in ranks]
        assert all(len(of_rank) == written // len(ranks) for of_rank in rows)
        key = ("step", "problem", "sample", "completion_ids", "reward")
        read[how] = sorted([row[k] for k in key] for of_rank in rows for row in of_rank)
    assert read["alone"] == read[mode] and len(read[mode]) == written
    assert len({tuple(row[3]) for row in read[mode]}) == written


@pytest.mark.parametrize("mode", ["whole", "sharded"])
@pytest.mark.parametrize("name", CASES)
def test_what_is_logged_and_traced_is_what_one_process_says(name, mode, finished):
    from opsd.runs.files import read_jsonl

    logged = {}
    for how in (mode, "alone"):
        rows = [r for r in read_jsonl(finished / f"{name}-{how}" / "metrics.jsonl") if "loss" in r]
        logged[how] = [[row[k] for k in ("loss", "divergence", "grad_norm")] for row in rows]
    assert len(logged[mode]) == CASES[name].get("steps", STEPS)
    # Log-probabilities at sampling depend on a batch's company in their last digits.
    assert torch.allclose(*map(torch.tensor, logged.values()), rtol=2e-5, atol=1e-7)
    ours, theirs = (
        list(read_jsonl(finished / f"{name}-{how}" / "traces" / "rank0.jsonl"))
        for how in (mode, "alone")
    )
    # Two problems of the first rollouts and, where they are others, of the last.
    written = CASES[name].get("steps", STEPS) // CASES[name].get("reuse", 1)
    assert len(ours) == len(theirs) == 2 * min(written, 2)
    for one, other in zip(ours, theirs, strict=True):
        assert one["problem"] == other["problem"] and one["readers"][0] != one["readers"][1]
        for mine, alone in zip(one["readers"], other["readers"], strict=True):
            assert torch.tensor(mine["logp"]).allclose(torch.tensor(alone["logp"]), atol=1e-4)


@pytest.mark.parametrize("name", [name for name in CASES if name != "engine"])  # it has heads, too
def test_shards_together_are_one_model_and_cost_no_more_products(name, finished):
    alone = result(finished, f"{name}-alone")
    held = [result(finished, f"{name}-sharded", rank)["held"] for rank in (0, 1)]
    assert sum(held) == alone["held"] and max(held) < 0.6 * alone["held"]
    assert result(finished, f"{name}-whole")["held"] == alone["held"]
    if "max_tokens_per_pass" not in CASES[name]:
        assert result(finished, f"{name}-sharded")["products"] == alone["products"] > 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["full", "lora", "untied"])
def test_the_saved_model_is_whole(name, mode, finished):
    from opsd.lm.loading import load_model

    end = result(finished, f"{name}-{mode}")["end"]
    model = load_model(str(finished / f"{name}-{mode}" / "model"), dtype="float32")
    saved = {n.replace(".default", ""): p for n, p in model.named_parameters()}
    assert all(saved[n.replace(".default", "")].equal(p) for n, p in end.items())


@pytest.mark.parametrize("mode", MODES)
def test_the_best_checkpoint_comes_back_at_the_end(mode, finished):
    from opsd.lm.loading import load_model

    best = result(finished, f"resumed-{mode}")["best"]
    model = load_model(str(finished / f"resumed-{mode}" / "checkpoint-2"), dtype="float32")
    assert all(p.equal(best[n]) for n, p in model.named_parameters() if n in best) and best


@pytest.mark.parametrize(("wrote", "resumes"), RESUMED)
def test_a_run_goes_on_with_another_number_of_processes(wrote, resumes, finished):
    from opsd.runs.files import read_jsonl

    straight = result(finished, "resumed-alone")
    folder = f"resumed-{wrote}-{resumes}"
    moved = max((straight["end"][n] - p).abs().max() for n, p in straight["start"].items())
    resumed = result(finished, folder)["end"]
    gap = max((straight["end"][n] - p).abs().max() for n, p in resumed.items())
    assert gap < 1e-4 * moved
    rows = read_jsonl(finished / folder / "metrics.jsonl")
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4]


def test_each_process_asks_a_server_for_its_own_rows(finished):
    """Of two steps with the same rollouts once; the first process once more for its traces."""
    from opsd.runs.files import read_jsonl

    folder = finished / "served-alone"
    traced = [row["problem"] for row in read_jsonl(folder / "traces" / "rank0.jsonl")]
    tokens = {
        row["problem"]: len(row["views"][0]["prompt_ids"]) + len(row["completion_ids"])
        for row in read_jsonl(folder / "rollouts" / "rank0.jsonl")
    }
    assert len(tokens) == ROLLOUTS and len(traced) == 2
    read = sum(tokens.values()) + sum(tokens[problem] for problem in traced)
    asked = json.loads((finished / "asked.json").read_text())
    assert sum(asked) == len(MODES) * read


def test_a_run_does_not_go_on_with_another_batch(finished, tiny_folder):
    from opsd.types import UserError

    folder = finished / "resumed-whole"
    trainer, _ = trainer_for(CASES["resumed"], "alone", str(tiny_folder), folder)
    trainer.args.per_device_train_batch_size //= 2
    told = r"had 8 rollouts, but with 1 process\(es\) it would have 4"
    with pytest.raises(UserError, match=told):
        trainer.train(resume_from_checkpoint=str(folder / "checkpoint-2"))


def test_ranks_share_one_skill_bank(finished):
    first, second = (json.loads((finished / f"bank-{rank}.json").read_text()) for rank in (0, 1))
    assert (first.pop("measured"), second.pop("measured")) == ({"items": 2}, {"items": 0})
    assert first == second
    told = [(item["id"], item["description"]) for _, item in first["dynamic"]]
    assert told == [("dyn_001", "Slips 0."), ("dyn_002", "Slips 1.")]


if __name__ == "__main__":
    mode, folder, output = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    work(mode, folder, output)
    if mode == "whole":
        (output / f"bank-{rank()}.json").write_text(json.dumps(learned(folder, rank())))
    torch.distributed.destroy_process_group()
