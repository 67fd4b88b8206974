"""The Triton form against float64, the eager form, and itself in bfloat16. Triton decides when it
is imported whether it interprets, as it must without a GPU: it runs in a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.objective.test_divergences import logits
from tests.objective.test_fused import Case
from tests.oracle import Oracle, assert_gradients, assert_values, magnitude

from opsd.objective.divergences import (
    forward_kl,
    jsd,
    pointwise_clip,
    reverse_kl,
    rows_from_logits,
)
from opsd.objective.fused import fused_divergence
from opsd.objective.head import Head

pytest.importorskip("triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
EVERY = {
    "forward_kl": (forward_kl, Oracle("forward_kl")),
    "reverse_kl": (reverse_kl, Oracle("reverse_kl")),
    "jsd(0.1)": (jsd(0.1), Oracle("jsd", 0.1)),
    "jsd(0.9)": (jsd(0.9), Oracle("jsd", 0.9)),
    "clip(forward_kl)": (pointwise_clip(forward_kl, 0.05), Oracle("forward_kl", cap=0.05)),
    "clip(reverse_kl)": (pointwise_clip(reverse_kl, 1e-3), Oracle("reverse_kl", cap=1e-3)),
    "clip(jsd)": (pointwise_clip(jsd(0.5), 0.05), Oracle("jsd", 0.5, 0.05)),
}
TEMPERATURE, BLOCK = 1.1, 128
REGIMES = [(0.5, 1e-6), (2.0, 1e-3), (6.0, 0.03), (2.0, 0.3), (6.0, 1.0), (6.0, 3.0), (2.0, 10.0)]


def rows() -> tuple[torch.Tensor, torch.Tensor]:
    """Rows near and far, from sure to unsure; the last three differ by 40, 100 and 200 nats."""
    pairs = [logits(s, d, rows=1, vocab=301, seed=i) for i, (s, d) in enumerate(REGIMES)]
    for height in (40.0, 100.0, 200.0):
        student, target = logits(1.0, 0.5, rows=1, vocab=301)
        student[0, 7] += height
        target[0, 299] += height
        pairs.append((student, target))
    student, target = (torch.cat(side) for side in zip(*pairs, strict=True))
    # A constant of a row is immaterial, but adding it rounds the nearest rows' differences away.
    target[3:] += 5.0
    return student, target


TOKENS = torch.tensor([0, 299, 300, 127, 128, 7, 5, 299, 7, 300])


def work(results: str) -> None:
    """What the tests look at, computed where Triton runs."""
    from opsd.objective.triton_rows import divergence_rows

    made = {}
    student, target = (x.to(DEVICE) for x in rows())
    tokens = TOKENS.to(DEVICE)
    for name, (divergence, _) in EVERY.items():
        gradient = student.clone()
        columns = divergence_rows(gradient, target, tokens, divergence, TEMPERATURE, BLOCK)
        made[name] = gradient, columns
    for label, some in (("one row", slice(3, 4)), ("no row", slice(0, 0))):
        gradient = student[some].clone()
        columns = divergence_rows(gradient, target[some], tokens[some], jsd(0.5), 1.0)
        made[label] = gradient, columns
    for dtype in (torch.float32, torch.bfloat16):
        case = Case(vocab=200, hidden=8)
        inputs = (case.student.detach(), case.teacher, case.head.weight)
        hidden, teacher, weight = (x.to(DEVICE, dtype) for x in inputs)
        hidden.requires_grad_()
        head = Head(weight)
        values = fused_divergence(hidden, teacher, head, jsd(0.5), chunk_rows=8, kernel="triton")
        (values * case.weights.to(DEVICE)).sum().backward()
        made[str(dtype)] = hidden.grad, {"value": values.detach()}
    torch.save(made, results)


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict:
    path = tmp_path_factory.mktemp("triton") / "results.pt"
    program = f"from {__name__} import work; work({str(path)!r})"
    environment = os.environ | ({} if DEVICE == "cuda" else {"TRITON_INTERPRET": "1"})
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", program], check=True, cwd=root, env=environment)
    return torch.load(path, map_location="cpu")


@pytest.mark.parametrize("name", EVERY)
def test_rows_equal_float64(results, name):
    gradient, columns = results[name]
    true = EVERY[name][1]
    student, target = rows()
    value, by_logits = true(student, target, TEMPERATURE)
    summed = 0.0 if true.cap is None else magnitude(true, student, target, TEMPERATURE)
    assert_values(columns["value"], value, summed=summed)
    assert_values(columns["divergence"], Oracle(true.kind, true.beta)(student, target, 1.1)[0])
    # The floor is for rows in which both sides are sure of different tokens.
    floor = torch.where(torch.arange(len(student)) < 6, 1e-12, 2e-8).numpy()
    assert torch.isfinite(gradient).all()
    for i in range(len(student)):
        assert_gradients(gradient[i : i + 1], by_logits[i : i + 1], floor=floor[i])


@pytest.mark.parametrize("name", EVERY)
def test_statistics_equal_the_eager_form(results, name):
    student, target = rows()
    made, statistics = rows_from_logits(student, target, TEMPERATURE, TOKENS)
    closed_form = EVERY[name][0].closed_form(made)
    statistics |= {"divergence": closed_form.unclipped, "clipped": closed_form.clipped.float()}
    columns = results[name][1]
    assert columns.keys() == statistics.keys() | {"value"}
    for column, expected in statistics.items():
        torch.testing.assert_close(columns[column], expected, rtol=1e-5, atol=2e-6, msg=column)


@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
@pytest.mark.parametrize("logits", ["*bf16", "*fp32"])
def test_compiles_for_a_gpu_that_is_not_here(logits):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from opsd.objective.triton_rows import _kernel

    chosen = {"KIND": "jsd", "BETA": 0.5, "CAP": 0.05, "CLIP": True, "BLOCK": 4096}
    names = _kernel.arg_names
    signature = dict.fromkeys(names, "i32") | dict.fromkeys(chosen, "constexpr")
    signature |= {"student": logits, "target": logits, "tokens": "*i64", "out": "*fp32"}
    source = ASTSource(
        fn=_kernel,
        signature=signature | {"inverse": "fp32"},
        constexprs={(names.index(name),): value for name, value in chosen.items()},
    )
    compiled = compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 8})
    assert ".target sm_90" in compiled.asm["ptx"]


def test_some_rows_are_clipped_and_some_are_not(results):
    for name in ("clip(forward_kl)", "clip(reverse_kl)", "clip(jsd)"):
        assert 0 < results[name][1]["clipped"].sum() < len(TOKENS)


def test_one_row_in_one_block_and_no_row(results):
    student, target = rows()
    gradient, columns = results["one row"]
    value, by_logits = Oracle("jsd", 0.5)(student[3:4], target[3:4])
    assert_values(columns["value"], value)
    assert_gradients(gradient, by_logits)
    gradient, columns = results["no row"]
    assert gradient.shape == (0, 301) and columns["value"].shape == (0,)


def test_inside_the_fused_loss(results):
    gradient, columns = results["torch.float32"]
    case = Case(vocab=200, hidden=8)
    values = fused_divergence(case.student, case.teacher, case.head, jsd(0.5), kernel="eager")
    (values * case.weights).sum().backward()
    torch.testing.assert_close(columns["value"], values.detach(), rtol=1e-5, atol=0)
    assert (gradient - case.student.grad).abs().max() <= 1e-5 * gradient.abs().max()


def test_bfloat16_logits_are_read_as_they_are(results):
    gradient, columns = results["torch.bfloat16"]
    case = Case(vocab=200, hidden=8)
    student = case.student.detach().bfloat16().requires_grad_()
    head = Head(case.head.weight.bfloat16())
    values = fused_divergence(student, case.teacher.bfloat16(), head, jsd(0.5), kernel="eager")
    (values * case.weights).sum().backward()
    # Both round the same logits; the gradient is rounded once more where it takes their place.
    torch.testing.assert_close(columns["value"], values.detach(), rtol=1e-5, atol=0)
    error = np.abs(gradient.double().numpy() - student.grad.double().numpy()).max()
    assert error <= 0.01 * gradient.abs().max()
