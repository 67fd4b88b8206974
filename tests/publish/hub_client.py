"""What tests do at the hub, in a process of its own: the hub's address is read at import.

    python -m tests.publish.hub_client '[["push", {...}], ["load", {...}]]'

Prints a JSON list: what each step returned, or the one line that it was refused with.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from tests.arrange import config, problems

from opsd import OPSDTrainer, methods
from opsd.lm.loading import load_model, load_tokenizer
from opsd.publish.export import export as make
from opsd.publish.hub import push as send
from opsd.types import UserError


def push(folder: str, repository: str, private: bool = False) -> str:
    return send(Path(folder), repository, private=private)


def export(source: str, output: str, **options: Any) -> str:
    return str(make(source, Path(output), **options))


def load(name: str, **options: Any) -> list[float]:
    """A few numbers that only the right weights give."""
    model = load_model(name, **options).eval()
    assert load_tokenizer(name).chat_template
    with torch.no_grad():
        return model(torch.tensor([[1, 2, 3, 4]])).logits[0, -1, :5].tolist()


def train(model: str, folder: str, repository: str, **changes: Any) -> str:
    """Two steps under an adapter, a checkpoint each; then the end of a run."""
    run = OPSDTrainer(
        model=model,
        method=methods.copsd(),
        args=config(
            Path(folder),
            save_strategy="steps",
            save_steps=1,
            push_to_hub=True,
            hub_model_id=repository,
            hub_always_push=True,
            **changes,
        ),
        train_dataset=problems(4),
        peft_config=LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear"),
    )
    run.train()
    return str(run.hub_model_id)


def said() -> str:
    """What was logged until now."""
    return LOG.getvalue()


LOG = io.StringIO()


def main() -> None:
    told = []
    try:
        with contextlib.redirect_stderr(LOG):
            for name, options in json.loads(sys.argv[1]):
                told.append(step(name, options.pop("token", None), options))
    finally:
        print(LOG.getvalue(), file=sys.stderr)
    print(json.dumps(told))


def step(name: str, token: str | None, options: dict[str, Any]) -> Any:
    os.environ.pop("HF_TOKEN", None)
    if token:
        os.environ["HF_TOKEN"] = token
    try:
        return globals()[name](**options)
    except UserError as error:
        return str(error)


if __name__ == "__main__":
    main()
