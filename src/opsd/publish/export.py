"""Exports a trained model to a self-contained folder: merged into its base or as an adapter, with
its tokenizer and card. The folder only appears when it is complete."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from opsd.console import log
from opsd.languages import registry as languages
from opsd.lm.built_in import NAMES
from opsd.lm.loading import (
    adapter_folder,
    base_of,
    load_config,
    load_model,
    load_tokenizer,
    locate,
    nonfinite,
)
from opsd.publish.card import card, shown
from opsd.runs import checkpoint
from opsd.runs.disk import writing
from opsd.runs.files import write_atomically
from opsd.runs.folder import step_of, trained_model
from opsd.types import UserError

_PROBE = "A train leaves at 9 and arrives at 12. How long is it under way? 12 - 9 = 3 hours."
_EXACT = 1e-2
"""Largest difference, in nats, at which a merged model counts as the base under its adapter."""
_SIZE = re.compile(r"\d+(\.\d+)?[KMGT]B", re.IGNORECASE)


def export(
    source: str | Path,
    output: Path,
    *,
    merge: bool = True,
    dtype: str | None = None,
    max_shard: str = "5GB",
    repository: str | None = None,
    **options: Any,
) -> Path:
    """Writes the folder `output`, and returns it. `source` is a run folder, a checkpoint in one, an
    adapter or a model. `merge` adds an adapter to its base, in float32, and stores the result in
    `dtype`, by default the base's own; without `merge`, the adapter itself is exported.
    `repository` is where it will be pushed; `options` are those of `load_model`.

    Raises UserError if `output` exists, or the source does not fit the options; RunFailed if the
    disk is full.
    """
    if not _SIZE.fullmatch(max_shard):
        raise UserError(f"--max-shard {max_shard}: write a size, as in 5GB or 500MB")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} exists already: choose another folder")
    name = trained_model(source)
    beside = (Path(name), Path(name).parent) if Path(name).is_dir() else ()
    run = next((folder for folder in beside if (folder / "recipe.yaml").is_file()), None)
    adapter = adapter_folder(*locate(name))
    if adapter is None and not merge:
        raise UserError(f"{name} is a whole model: it has no adapter to export")
    # A temporary folder with a unique name: it is removed after a failure, but not after a kill.
    around = {"prefix": f"{output.name[:100]}.", "suffix": ".part", "dir": output.parent}
    base = base_of(adapter)[0] if adapter else None
    tokenizer = load_tokenizer(name, **_only(options, "trust_remote_code"))
    step = next(iter(step_of(Path(name))), None) or (checkpoint.kept_step(run) if run else None)
    text = card(run or output, base=base, adapter=not merge, repository=repository, step=step)
    whole = adapter is None or merge
    model = _whole(name, adapter, tokenizer, dtype, options) if whole else None
    output.parent.mkdir(parents=True, exist_ok=True)
    with writing(output), tempfile.TemporaryDirectory(**around) as place:
        draft = Path(place) / "draft"
        draft.mkdir()
        if model is not None:
            model.save_pretrained(draft, max_shard_size=max_shard)
        else:
            _copy_adapter(adapter, draft, shared=repository is not None)
        tokenizer.save_pretrained(draft)
        write_atomically(draft / "README.md", text)
        if run is not None and (run / "recipe.yaml").is_file():
            _copy_recipe(run, draft)
        draft.replace(output)
    log(f"{output}: {sum(f.stat().st_size for f in output.iterdir()) / 1e6:,.1f} MB")
    return output


def _whole(
    name: str, adapter: Path | None, tokenizer: Any, dtype: str | None, options: dict[str, Any]
) -> Any:
    """The whole model; an adapter is merged in float32, which its small changes need."""
    if adapter is None:
        return load_model(name, dtype=dtype, **options)
    model = load_model(name, dtype="float32", **options)
    kept = _number_type(dtype) if dtype else _own_type(adapter, options)
    ids = torch.tensor([tokenizer(_PROBE)["input_ids"]])
    on = _logp(model, ids)
    with model.disable_adapter():
        off = _logp(model, ids)
    merged = model.merge_and_unload(safe_merge=True)
    exact = (_logp(merged, ids) - on).abs().max().item()
    if exact > _EXACT:
        raise UserError(
            f"{name} cannot be merged: the result is another model (off by {exact:.2g} nats), as"
            " with an adapter on embeddings that the output head shares; export it with --adapter"
        )
    if kept != torch.float32:
        rounded = (_logp(merged.to(kept).to(torch.float32), ids) - on).abs().mean().item()
        learned = (off - on).abs().mean().item()
        kind = str(kept).removeprefix("torch.")
        log(
            f"merged; stored in {kind}, which changes log-probabilities by {rounded:.2g} nats,"
            f" while the adapter changes them by {learned:.2g}"
        )
        if rounded > 0.1 * learned:
            log(f"{kind} rounds away part of the training; --dtype float32 or --adapter keeps it")
    small = merged.to(kept)
    mend = "try --dtype float32 or --adapter, which help if the adapter itself is finite"
    _refuse_nonfinite(small.state_dict(), f"{name}, merged and stored in {kept}", mend)
    return small


def _refuse_nonfinite(weights: Mapping[str, Tensor], where: str, mend: str) -> None:
    if name := nonfinite(weights):
        raise UserError(f"{where}: '{name}' contains NaN or infinite values; {mend}")


@torch.no_grad()
def _logp(model: Any, ids: Tensor) -> Tensor:
    return model(ids).logits.log_softmax(-1)


def _own_type(adapter: Path, options: dict[str, Any]) -> torch.dtype:
    """The dtype of the base's checkpoint."""
    config = load_config(*base_of(adapter), **_only(options, "trust_remote_code"))
    return _number_type(str(config.dtype or "float32").removeprefix("torch."))


def _number_type(name: str) -> torch.dtype:
    kind = getattr(torch, name, None)
    if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
        raise UserError(f"--dtype {name}: write float32, bfloat16 or float16")
    return kind


def _copy_adapter(adapter: Path, draft: Path, *, shared: bool) -> None:
    """Copies PEFT's two files. A built-in base is referred to by its name, since its folder differs
    between machines. A local folder as base is refused if the adapter is to be `shared`."""
    from peft import PeftConfig

    base, _ = base_of(adapter)
    built_in = Path(base).name in NAMES and locate(Path(base).name)[0] == base
    if shared and Path(base).exists():
        raise UserError(
            f"the adapter's base is the local path {base}: nobody else could load it; use --merge"
        )
    weights = adapter / "adapter_model.safetensors"
    _refuse_nonfinite(load_file(weights), str(adapter), "use an earlier checkpoint")
    shutil.copy(weights, draft)
    config = PeftConfig.from_pretrained(str(adapter))
    if built_in:
        config.base_model_name_or_path = Path(base).name
    config.save_pretrained(str(draft))


def _copy_recipe(run: Path, draft: Path) -> None:
    """Copies the recipe, which tells how to prompt the model, and the language files of the user's
    own."""
    recipe = yaml.safe_load((run / "recipe.yaml").read_text("utf-8"))
    write_atomically(draft / "recipe.yaml", shown(recipe) + "\n")
    if (run / languages.FOLDER).is_dir():
        shutil.copytree(run / languages.FOLDER, draft / languages.FOLDER)


def _only(options: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: options[name] for name in names if name in options}
