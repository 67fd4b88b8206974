"""Rebuild the shipped models: `python -m tools.miniature.build [NAME ...] [--out FOLDER]`.

Each model's folder gets weights, tokenizer, configuration and a card with measured accuracies.
"""

from __future__ import annotations

import argparse
import platform
import time
from pathlib import Path

import tokenizers
import torch
import transformers
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen3ForCausalLM,
)

from opsd.languages.registry import language
from opsd.lm.built_in import NAMES, model_path
from opsd.lm.loading import load_model
from opsd.miniature.tokenizer import SPECIAL, build_tokenizer
from opsd.miniature.world import HORIZON, SIZES, WORLDS
from tools.miniature.measure import measure, measure_denoising
from tools.miniature.pretrain import PRETRAININGS, Pretraining, pretrain

CARD = """\
# {name}

A toy: a Qwen3-architecture language model of {parameters:,} parameters, trained from nothing on
synthetic word problems in {languages}. It knows eight names, eight
nouns, two dozen sentences per language and sums up to 40, and nothing else. The sentences were
written by hand and, English apart, no speaker has read them. It exists so that a whole
post-training run fits into a test.

Built by `python -m tools.miniature.build {name}`: seed {seed}, {steps} steps of {batch} texts, one
thread, {versions}.
The same versions on the same type of processor give the same bytes.

Share of right answers over the first {n} test problems, {samples} samples each at temperature 1.
The teacher reads the same problem with {told}. Tokens are the student's, on average.

| language | student | teacher | tokens |
|---|---|---|---|
{rows}
"""


TOLD = "an English reference solution and, outside English, with\nits translation"
REMARKED = "a remark: a solution that\nlacks what the last sum comes to"
"""What a teacher is told besides, in most worlds and in one of peers."""

DECODING = {"miniature-diffusion": {"block_length": 4, "tokens_per_step": 2}}
"""How a masked diffusion model writes, unless it is told otherwise."""


DIFFUSION_CARD = """\
# {name}

A toy: a masked diffusion language model of {parameters:,} parameters (Qwen3's architecture, looking
both ways), trained from nothing by LLaDA's loss on synthetic word problems in English. It knows
eight names, eight nouns, two dozen sentences and sums up to 30, and nothing else. It exists so that
a whole post-training run fits into a test.

Built by `python -m tools.miniature.build {name}`: seed {seed}, {steps} steps of {batch} texts, one
thread, {versions}.
The same versions on the same type of processor give the same bytes.

It writes {length} tokens in blocks of 4, two tokens a step, unless it is told otherwise. Share of
right answers over the first {n} test problems, one completion each:

| written | right |
|---|---|
{rows}
"""


def save(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write what `from_pretrained` reads; a completion ends at either end token."""
    ends = tokenizer.convert_tokens_to_ids([SPECIAL[2], SPECIAL[0]])
    model.generation_config = GenerationConfig(
        eos_token_id=ends, pad_token_id=tokenizer.pad_token_id, **DECODING.get(folder.name, {})
    )
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def build(recipe: Pretraining, folder: Path) -> None:
    """Pre-train one model and save it."""
    torch.set_num_threads(1)
    tokenizer = build_tokenizer(recipe.world)
    started = time.monotonic()

    def log(step: int, loss: float) -> None:
        if step % 50 == 0:
            seconds = time.monotonic() - started
            print(f"step {step:5d}  loss {loss:.4f}  {seconds:6.0f} s", flush=True)

    save(pretrain(recipe, tokenizer, log), tokenizer, folder)


def describe(name: str, recipe: Pretraining, folder: Path, n: int = 100, samples: int = 4) -> str:
    """Measure a saved model and write its card, which is also returned."""
    model, tokenizer = load_model(str(folder)), AutoTokenizer.from_pretrained(folder)
    about = {
        "name": name,
        "parameters": model.num_parameters(),
        "seed": recipe.seed,
        "steps": recipe.steps,
        "batch": recipe.batch,
        "versions": _versions(),
    }
    if WORLDS[recipe.world].diffusion:
        n = SIZES["test"]
        shares = measure_denoising(model, tokenizer, recipe.world, n)
        lines = [f"| {way} | {share:.2f} |" for way, share in shares.items()]
        own = {"n": n, "length": HORIZON[recipe.world], "rows": "\n".join(lines)}
        card = DIFFUSION_CARD.format(**about, **own)
    else:
        rows = measure(model, tokenizer, recipe.world, n, samples)
        lines = [
            f"| {r.language} | {r.student:.2f} | {r.teacher:.2f} | {r.tokens:.0f} |" for r in rows
        ]
        names = [language(code).name for code in WORLDS[recipe.world].languages]
        own = {
            "languages": f"{', '.join(names[:-1])} and {names[-1]}",
            "told": REMARKED if WORLDS[recipe.world].peers else TOLD,
            "rows": "\n".join(lines),
        }
        card = CARD.format(**about, n=n, samples=samples, **own)
    (folder / "card.md").write_text(card, "utf-8")
    return card


def _versions() -> str:
    return (
        f"Python {platform.python_version()}, torch {torch.__version__},"
        f" transformers {transformers.__version__}, tokenizers {tokenizers.__version__}"
    )


def main() -> None:
    """Build the named models, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--out", type=Path, help="parent folder (default: the package itself)")
    options = parser.parse_args()
    for name in options.names or NAMES:
        if name not in NAMES:
            parser.error(f"no model '{name}'; there are {', '.join(NAMES)}")
        folder = options.out / name if options.out else model_path(name)
        build(PRETRAININGS[name], folder)
        print(describe(name, PRETRAININGS[name], folder))


if __name__ == "__main__":
    main()
