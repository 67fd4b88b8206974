"""Projects keys and values onto the subspace that a capability needs (SPD, Hao et al. 2026, arXiv
2605.22675), spanned by the gradients of the answers' loss. The projection is folded into the
weights, so that any engine can generate with it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from opsd.grade.answer import gold_answer
from opsd.lm.forward import causal_lm, evaluating
from opsd.lm.layout import Ids
from opsd.lm.sharding import is_sharded, swapped
from opsd.teacher.copies import TeacherWeights
from opsd.types import UserError


@dataclass(frozen=True)
class Answered:
    """A text whose tokens at `positions` state the answer."""

    ids: tuple[int, ...]
    positions: tuple[int, ...]


def answered(tokenizer: Any, prompt: Ids, solution: str, *, whole: bool = False) -> Answered:
    """A worked solution after its prompt, with the positions of its answer's tokens (in its last
    box, or after ####), or, with `whole`, of all the solution's tokens."""
    told = tokenizer(solution, add_special_tokens=False, return_offsets_mapping=True)
    answer = gold_answer(solution)
    start = solution.rfind(answer) if answer and answer != solution.strip() else -1
    end = start + len(answer)
    inside = [
        len(prompt) + i
        for i, (first, last) in enumerate(told["offset_mapping"])
        if whole or (start >= 0 and first < end and last > start)
    ]
    return Answered((*prompt, *told["input_ids"]), tuple(inside))


def projections(model: nn.Module, texts: Sequence[Answered], share: float) -> dict[str, Tensor]:
    """The projector `[d, d]` of each key and value projection in the middle and the last layer, by
    module name. It projects onto the leading right singular vectors of the gradients of the
    answers' mean negative log-likelihood, at all positions of the texts. It keeps a `share` of the
    d directions, or as many as the gradients span.

    Raises UserError for a model without such modules, and if no text has an answer.
    """
    texts = [text for text in texts if text.positions]
    if not texts:
        raise UserError(
            "the projection needs solutions that state an answer (in a box, or after ####): give"
            " the dataset such a column"
        )
    modules = _projected(model)
    grams = {name: torch.zeros(m.out_features, m.out_features).double() for name, m in modules}
    for text in texts:
        for name, gradient_TD in _gradients(model, modules, text).items():
            grams[name] += gradient_TD.T @ gradient_TD
    return {name: _projector(gram, share) for name, gram in grams.items()}


def folded(model: nn.Module, projectors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights and biases of the key and value projections with the projectors folded in."""
    made = {}
    for name, module in _projected(model):
        projector = projectors[name].to(module.weight.device)
        for key, parameter in module.named_parameters():
            value = (projector.T @ parameter.detach().double()).to(parameter.dtype)
            made[f"{name}.{key}"] = value
    return made


@dataclass
class ProjectedStart(TeacherWeights):
    """The starting weights, with projections folded into some of them."""

    start: TeacherWeights
    weights: dict[str, Tensor]

    @contextlib.contextmanager
    def use(self, model: nn.Module) -> Iterator[nn.Module]:
        with self.start.use(model) as reader, swapped(reader, self.weights):
            yield reader


def _projected(model: nn.Module) -> list[tuple[str, nn.Linear]]:
    """The modules that compute keys and values in the middle and the last layer, without adapters
    around them."""
    if is_sharded(model):
        raise UserError("projected weights do not support sharded models: train with DDP")
    last = causal_lm(model).config.num_hidden_layers - 1
    layers = {(last + 1) // 2, last}
    found = []
    for name, module in model.named_modules():
        *before, own = name.removesuffix(".base_layer").split(".")
        if own in ("k_proj", "v_proj") and not hasattr(module, "base_layer"):
            number = next((int(word) for word in reversed(before) if word.isdigit()), None)
            if number in layers:
                found.append((name, module))
    plain = all(type(module) is nn.Linear for _, module in found)
    if not found or not plain:
        raise UserError(
            "projected weights need linear layers named k_proj and v_proj, unquantized; this model"
            f" has {'quantized ones' if found else 'none'}"
        )
    return found


def _gradients(
    model: nn.Module, modules: Sequence[tuple[str, nn.Linear]], text: Answered
) -> dict[str, Tensor]:
    """The gradients of the answer's mean negative log-likelihood with respect to each module's
    output `[T, d]`."""
    given: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            given[name] = output if output.requires_grad else output.requires_grad_()
            return given[name]

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in modules]
    try:
        with evaluating(model), torch.enable_grad():
            device = next(model.parameters()).device
            ids = torch.tensor([text.ids], device=device)
            logp = model(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)
            at = torch.tensor(text.positions, device=device)
            loss = -logp[at - 1, ids[0, at]].mean()
            gradients = torch.autograd.grad(loss, list(given.values()))
    finally:
        for handle in handles:
            handle.remove()
    return {name: g[0].double().cpu() for name, g in zip(given, gradients, strict=True)}


def _projector(gram_DD: Tensor, share: float) -> Tensor:
    values, vectors = torch.linalg.eigh(gram_DD)  # ascending
    rank = int((values > 1e-12 * values[-1]).sum())
    kept = vectors[:, -max(1, min(round(share * len(values)), rank)) :]
    return kept @ kept.T
