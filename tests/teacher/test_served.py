"""A served teacher teaches what the same one does at home; what it is asked, and what becomes of it
when servers die, are replaced, or are asked for what they have not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from safetensors.torch import load
from tests.arrange import command, config, gap, odd_length, problems, weights_of
from tests.conftest import save_tiny_model
from transformers import TrainerCallback

from opsd import OPSDTrainer, methods
from opsd.lm.forward import causal_lm, score
from opsd.lm.layout import ModelInput, continued
from opsd.lm.loading import load_model, load_tokenizer
from opsd.methods.signals import Sum
from opsd.preview.measure import _Measured
from opsd.rollout.sources import OnPolicy
from opsd.teacher.served import ServedReader
from opsd.teacher.server import ServedModel, TeacherServer
from opsd.teacher.weights import External, Served, Weights
from opsd.types import RunFailed, UserError

ROWS = [replace(p, prompt=p.text * (1 + i % 3), id="") for i, p in enumerate(problems(8))]
INPUTS = [
    continued(tuple(range(5, 9 + 7 * i % 30)), tuple(range(40, 42 + 5 * i % 20))) for i in range(12)
]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, tokenizer) -> Path:
    """Another width and depth than the student's, and a head of its own."""
    folder = tmp_path_factory.mktemp("models") / "teacher"
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "tie_word_embeddings": False}
    return save_tiny_model(folder, tokenizer, **shape)


class Counted(ServedModel):
    """Keeps what it was asked."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.asked: list[int] = []
        self.sent = 0

    def rows(self, question: Any) -> bytes:
        self.asked.append(sum(len(x.ids) for x in question.sequences))
        body = super().rows(question)
        self.sent += len(body)
        return body


@contextmanager
def serving(folder: Path, batch_tokens: int = 4096, kind: type = Counted) -> Iterator[Any]:
    """A server in this process, and its address as `url`."""
    model = load_model(str(folder), dtype="float32")
    served = kind(model, load_tokenizer(str(folder)), folder.name, batch_tokens)
    with TeacherServer(served, "127.0.0.1", 0) as server:
        served.url = server.url
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield served
        server.shutdown()


@pytest.fixture(scope="module")
def served(teacher: Path) -> Iterator[Any]:
    with serving(teacher) as served:
        yield served


@contextmanager
def process(folder: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen]]:
    """The command in a process of its own: its address."""
    ran = subprocess.Popen(
        [sys.executable, "-m", "opsd", "serve-teacher", str(folder), "--port", "0", *options],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    try:
        assert ran.stderr is not None
        told = next(line for line in ran.stderr if "serving" in line)
        yield told.split(" at ")[1].split(",")[0], ran
    finally:
        ran.kill()
        ran.wait()
        ran.stderr.close()  # type: ignore[union-attr]


class Steps(TrainerCallback):
    """The gradients of every step."""

    def __init__(self) -> None:
        self.gradients: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        named = model.named_parameters()
        self.gradients.append({n: p.grad.clone() for n, p in named if p.grad is not None})


def taught(weights: Weights, reuse: int = 1, group: int = 2) -> Any:
    own = methods.opsd()
    signal = replace(own.signal, teacher=replace(own.signal.teacher, weights=weights))
    return replace(own, signal=signal, reuse=reuse, source=OnPolicy(group=group))


def run(folder: Path, student: Path, method: Any, **changes: Any) -> tuple[OPSDTrainer, Steps]:
    steps = Steps()
    trainer = OPSDTrainer(
        str(student),
        method,
        config(folder, **changes),
        ROWS,
        verifier=odd_length,
        callbacks=[steps],
    )
    return trainer, steps


def losses(trainer: OPSDTrainer) -> list[float]:
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def at_home(folder: Path, inputs: list[ModelInput]) -> tuple[list[torch.Tensor], Any]:
    model = load_model(str(folder), dtype="float32").eval()
    read = [score(model, [x], 0, 10**9) for x in inputs]
    return [rows for rows, _ in read], read[0][1]


@pytest.mark.slow
@pytest.mark.parametrize("head", [False, True], ids=["head sent", "head read"])
def test_a_server_of_its_own_teaches_what_the_teacher_at_home_does(
    head, tmp_path, tiny_folder, teacher
):
    """Losses, gradients and weights of whole steps, in float32; passes and reuse included."""
    with process(teacher, "--dtype", "float32", "--max-num-batched-tokens", "512") as (url, _):
        weights = Served(url, head=str(teacher) if head else None)
        kept = {}
        for name, own in (("home", External(str(teacher), "float32")), ("served", weights)):
            changes = {"max_steps": 4, "max_tokens_per_pass": 300, "learning_rate": 1e-2}
            trainer, steps = run(tmp_path / name, tiny_folder, taught(own, reuse=2), **changes)
            start = weights_of(trainer.model)
            trainer.train()
            kept[name] = losses(trainer), steps.gradients, weights_of(trainer.model)
            assert gap(start, kept[name][2]) > 1e-3
    (one, grads, end), (other, others, arrived) = kept["home"], kept["served"]
    assert len(one) == 4 and min(one) > 0.01
    assert one == pytest.approx(other, abs=1e-6)
    assert max(gap(a, b) for a, b in zip(grads, others, strict=True)) < 1e-5
    assert gap(end, arrived) < 1e-4


def test_rows_and_head_are_the_models(served, teacher, tokenizer):
    reader = ServedReader([served.url], tokenizer)
    rows, head = at_home(teacher, INPUTS)
    for own, home in zip(reader.ask(INPUTS)(), rows, strict=True):
        torch.testing.assert_close(own, home, atol=1e-5, rtol=0)
    assert reader.head(torch.device("cpu")).weight.equal(head.weight)
    nothing = reader.ask([continued((5, 6), ())])()
    assert [tuple(own.shape) for own in nothing] == [(0, 32)]


def test_positions_may_be_any(served, teacher, tokenizer):
    inputs = [ModelInput((5, 6, 7, 8, 9), (0, 3)), ModelInput((9, 8), (1,))]
    rows, _ = at_home(teacher, inputs)
    for own, home in zip(ServedReader([served.url], tokenizer).ask(inputs)(), rows, strict=True):
        torch.testing.assert_close(own, home, atol=1e-5, rtol=0)


def test_few_bytes_cross_the_wire(served, teacher, tokenizer):
    """D numbers per taught token, in two bytes, where logits would be V in four."""
    before = served.sent
    rows = ServedReader([served.url], tokenizer, dtype="bfloat16").ask(INPUTS)()
    tokens, width = sum(map(len, rows)), rows[0].shape[1]
    assert all(own.dtype == torch.bfloat16 for own in rows)
    assert tokens * width * 2 <= served.sent - before <= tokens * width * 2 + 200
    for own, home in zip(rows, at_home(teacher, INPUTS)[0], strict=True):
        torch.testing.assert_close(own, home.bfloat16(), atol=1e-5, rtol=1e-2)


def test_a_request_is_read_in_batches_of_so_many_tokens(teacher, tokenizer):
    shapes: list[tuple[int, ...]] = []
    with serving(teacher, batch_tokens=64) as small:
        small.shares = False
        small.model.model.register_forward_pre_hook(
            lambda trunk, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)),
            with_kwargs=True,
        )
        reader = ServedReader([small.url], tokenizer)
        rows = reader.ask(INPUTS)()
        assert len(small.asked) > 1 and max(small.asked) <= 64
        direct = {"fingerprint": small.about.fingerprint, "dtype": "float32"}
        whole = [{"ids": x.ids, "read": list(x.read)} for x in INPUTS]
        reply = httpx2.post(f"{small.url}/rows", json=direct | {"sequences": whole})
    assert max(rows * width for rows, width in shapes) <= 64
    torch.testing.assert_close(load(reply.content)["rows"], torch.cat(rows), atol=1e-5, rtol=0)


def test_rollouts_that_are_used_twice_are_read_once(tmp_path, tiny_folder, teacher):
    with serving(teacher) as own:
        run(tmp_path, tiny_folder, taught(Served(own.url), reuse=2), max_steps=2)[0].train()
        assert len(own.asked) == 1
        run(tmp_path / "2", tiny_folder, taught(Served(own.url)), max_steps=2)[0].train()
        assert len(own.asked) == 3


def test_two_signals_of_one_teacher_ask_once(tmp_path, tiny_folder, teacher):
    with serving(teacher) as own:
        one = taught(Served(own.url))
        both = replace(one, signal=Sum(((1.0, one.signal), (0.5, one.signal))))
        run(tmp_path, tiny_folder, both, max_steps=1)[0].train()
        assert len(own.asked) == 1


class Late(ServedModel):
    """Answers once the student has been read."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.student_read = threading.Event()

    def rows(self, question: Any) -> bytes:
        if not self.student_read.wait(300):
            raise RuntimeError("the student waits for its teacher")
        return super().rows(question)


def test_the_student_reads_while_the_server_does(tmp_path, tiny_folder, teacher):
    with serving(teacher, kind=Late) as late:
        trainer, _ = run(tmp_path, tiny_folder, taught(Served(late.url)), max_steps=1)

        def read(trunk: Any, args: Any, kwargs: Any, output: Any) -> None:
            if torch.is_grad_enabled():
                late.student_read.set()

        model = causal_lm(trainer.model).model
        model.register_forward_hook(read, with_kwargs=True)
        trainer.train()
    row = trainer.state.log_history[0]
    assert losses(trainer)[0] > 0 and row["time/waiting"] >= 0 and row["time/student"] > 0


def test_several_servers_share_the_tokens(served, teacher, tokenizer, monkeypatch):
    with serving(teacher) as other:
        served.asked.clear()
        reached = {own: threading.Event() for own in (served, other)}
        for own, another in ((served, other), (other, served)):

            def rows(question, own=own, another=another, answer=own.rows):
                reached[own].set()
                assert reached[another].wait(60)  # neither answers before both are asked
                return answer(question)

            monkeypatch.setattr(own, "rows", rows)
        ServedReader([served.url, other.url], tokenizer).ask(INPUTS)()
        one, two = sum(served.asked), sum(other.asked)
    assert one + two == sum(len(x.ids) for x in INPUTS) and min(one, two) > 0.3 * (one + two)


@pytest.mark.slow
def test_what_a_server_that_dies_was_asked_is_asked_again(
    tmp_path, tiny_folder, teacher, served, tokenizer, capfd
):
    """The first server is killed in the middle of training."""
    home, _ = run(tmp_path / "home", tiny_folder, taught(External(str(teacher))), max_steps=4)
    home.train()
    with process(teacher) as (url, ran):
        alone = ServedReader([url], tokenizer)
        alone.timeout = 0.5

        class Kill(TrainerCallback):
            def on_step_end(self, args, state, control, **kwargs):
                if state.global_step == 2:
                    ran.kill()
                    ran.wait()

        trainer, _ = run(
            tmp_path / "two", tiny_folder, taught(Served((url, served.url))), max_steps=4
        )
        trainer.add_callback(Kill())
        trainer.train()
    assert losses(trainer) == pytest.approx(losses(home), abs=1e-5)
    told = [line for line in capfd.readouterr().err.splitlines() if "left out" in line]
    assert len(told) == 1 and told[0].startswith(f"teacher: {url} does not answer (")
    with pytest.raises(RunFailed, match=r"no server is left \(http://.* does not answer"):
        alone.ask(INPUTS)()


def broken(served: Any, times: int) -> None:
    """The server fails, so many times."""
    left = [times]
    rows = type(served).rows

    def fails(question: Any) -> bytes:
        if left[0]:
            left[0] -= 1
            raise MemoryError("no room")
        return rows(served, question)

    served.rows = fails


def test_a_server_that_is_back_is_asked_again(teacher, tokenizer, capfd):
    with serving(teacher) as own:
        reader = ServedReader([own.url], tokenizer, timeout=60)
        broken(own, times=1)
        assert len(reader.ask(INPUTS)()) == len(INPUTS)
        assert "fails (500: no room); it is left out; waiting" in capfd.readouterr().err
        broken(own, times=99)
        with pytest.raises(RunFailed, match=r"fails \(500: no room\); --resume continues"):
            reader.ask(INPUTS)()


def test_a_run_goes_on_once_its_teacher_is_back(tmp_path, tiny_folder, teacher):
    """What was learned until it went is saved, though no checkpoint was due."""
    with serving(teacher) as own:
        method = taught(Served(own.url))
        whole, _ = run(tmp_path / "whole", tiny_folder, method, max_steps=4)
        whole.train()

        class Break(TrainerCallback):
            def on_step_end(self, args, state, control, **kwargs):
                if state.global_step == 2:
                    broken(own, times=99)

        halved, _ = run(tmp_path / "halved", tiny_folder, method, max_steps=4)
        halved.add_callback(Break())
        with pytest.raises(RunFailed, match="--resume continues from the last checkpoint"):
            halved.train()
        del own.rows
        again, _ = run(tmp_path / "halved", tiny_folder, method, max_steps=4)
        again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 4
    assert losses(again) == pytest.approx(losses(whole), abs=1e-5)
    assert gap(weights_of(again.model), weights_of(whole.model)) < 1e-4


def test_a_teacher_must_be_there_and_be_one(teacher, tokenizer, served, tmp_path):
    with pytest.raises(UserError, match=r"http://127.0.0.1:9 does not answer .*; start it with"):
        ServedReader(["http://127.0.0.1:9"], tokenizer, timeout=0.3)
    other = save_tiny_model(tmp_path / "other", tokenizer, hidden_size=48)
    with (
        serving(other) as another,
        pytest.raises(
            UserError, match=r"serves other \(.*\), http.* teacher \(.*\): serve the same"
        ),
    ):
        ServedReader([served.url, another.url], tokenizer)
    with serving(teacher) as rounded:
        rounded.about = rounded.about.model_copy(update={"dtype": "bfloat16"})
        with pytest.raises(UserError, match=r"bfloat16\), http.* float32\): serve the same model"):
            ServedReader([served.url, rounded.url], tokenizer)
    with pytest.raises(UserError, match=r"the head of '.*other' is not that of teacher"):
        ServedReader([served.url], tokenizer, str(other)).head(torch.device("cpu"))


def test_another_tokenizer_is_refused_by_what_it_does(teacher, tokenizer, tmp_path):
    folder = save_tiny_model(tmp_path / "other", tokenizer)
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    one, two = sorted(t for t in vocabulary if t.isdigit())[:2]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    file.write_text(json.dumps(content))
    with (
        serving(folder) as other,
        pytest.raises(UserError, match=r"has a different tokenizer from the student: '.*' is \["),
    ):
        ServedReader([other.url], tokenizer)


def test_another_model_under_the_same_address_is_refused(teacher, tokenizer, served):
    reader = ServedReader([served.url], tokenizer)
    reader.about = reader.about.model_copy(update={"fingerprint": "0123"})
    with pytest.raises(UserError, match=r"refuses \(409: teacher is served, with the .* not 0123"):
        reader.ask(INPUTS)()


def test_a_run_goes_on_with_its_own_teacher_alone(tmp_path, tiny_folder, tokenizer, served):
    saved = {"save_strategy": "steps", "save_steps": 1}
    method = taught(Served(served.url))
    run(tmp_path, tiny_folder, method, max_steps=1, **saved)[0].train()
    again, _ = run(tmp_path, tiny_folder, method, max_steps=2, **saved)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 2
    other = save_tiny_model(tmp_path / "other", tokenizer, hidden_size=48)
    with serving(other) as another:
        changed, _ = run(tmp_path, tiny_folder, taught(Served(another.url)), max_steps=3, **saved)
        with pytest.raises(UserError, match="served teacher had the fingerprint"):
            changed.train(resume_from_checkpoint=True)


@pytest.mark.parametrize(
    ("path", "body", "status", "told"),
    [
        ("/nowhere", {}, 404, "no such route: /nowhere"),
        ("/rows", {"dtype": "float64"}, 400, "Input should be 'float32', 'bfloat16' or 'float16'"),
        ("/rows", {"logits": True}, 400, "logits: Extra inputs are not permitted"),
        ("/rows", {"sequences": []}, 400, "sequences: List should have at least 1 item"),
        ("/rows", {"sequences": [{"ids": [-1], "read": [0]}]}, 400, "sequences.0.ids.0: Input"),
        ("/rows", {"sequences": [{"ids": [10**6], "read": [0]}]}, 400, "has the id 1000000"),
        ("/rows", {"sequences": [{"ids": [5], "read": [1]}]}, 400, "position 1 is requested"),
        ("/rows", {"sequences": [{"ids": [5] * 8193, "read": [0]}]}, 413, "8,193 tokens in a"),
        ("/rows", {"fingerprint": "0"}, 409, "teacher is served, with the fingerprint"),
        ("/rows", b"{", 400, "Invalid JSON"),
        ("/tokenize", {"texts": 3}, 400, "texts: Input should be a valid array"),
    ],
)
def test_a_bad_request_is_refused_in_one_line(path, body, status, told, served):
    whole = {
        "fingerprint": served.about.fingerprint,
        "dtype": "float32",
        "sequences": [{"ids": [5, 6], "read": [0]}],
    }
    given = whole | body if path == "/rows" and isinstance(body, dict) else body
    content = given if isinstance(given, bytes) else json.dumps(given).encode()
    reply = httpx2.post(f"{served.url}{path}", content=content)
    assert reply.status_code == status and told in reply.text and "\n" not in reply.text


def test_a_request_that_is_too_large_is_not_read(served):
    with httpx2.Client(base_url=served.url) as client:
        reply = client.post("/rows", content=b" " * (served.max_bytes + 1))
    assert reply.status_code == 413 and "bytes in a request; at most" in reply.text


def test_it_says_that_it_is_well(served):
    reply = httpx2.get(f"{served.url}/health")
    assert (reply.status_code, reply.content) == (200, b"")


def test_it_only_reads(tmp_path, tiny_folder, served):
    weights = Served(served.url)
    writes = replace(taught(weights), source=OnPolicy(weights=weights))
    with pytest.raises(UserError, match="the weights served only score"):
        run(tmp_path, tiny_folder, writes)
    trainer, _ = run(tmp_path, tiny_folder, taught(weights, group=1))
    (term,) = [term for _, term in trainer.method.signals]
    measured = _Measured(trainer, term, problems(2), 1).content()
    assert measured["nats"] > 0 and [row["reader"] for row in measured["answers"]] == ["student"]
    assert "a served teacher only reads" in measured["not_measured"][0]


def test_the_command_refuses_in_a_line(monkeypatch, capsys, served):
    port = served.url.rpartition(":")[2]
    assert command(monkeypatch, "serve-teacher", "miniature-tiny", "--dtype", "int8") == 2
    assert capsys.readouterr().err == ("opsd: --dtype int8: write float32, bfloat16 or float16\n")
    assert command(monkeypatch, "serve-teacher", "miniature-tiny", "--port", port) == 2
    assert f"cannot listen at 127.0.0.1:{port}" in capsys.readouterr().err
