"""Uploads to the Hub: a finished model's folder, or the checkpoints of a training run.

Only listed files are uploaded: weights in safetensors, configuration, tokenizer, recipe, card. A
run's rollouts, its optimizer and pickles of any kind are not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

# The error of the HTTP client that the Hub's library uses.
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,  # pyright: ignore[reportPrivateImportUsage]
)
from transformers.trainer_utils import HubStrategy

from opsd.console import log
from opsd.lm.loading import reason
from opsd.methods.method import Method
from opsd.publish.card import card
from opsd.runs.files import write_atomically
from opsd.types import UserError

MODEL_FILES = (
    "README.md",
    "recipe.yaml",
    "languages/*",
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "adapter_config.json",
    "adapter_model.safetensors",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.*",
    "merges.txt",
)
_ANSWERS = {
    401: "no valid token: log in (hf auth login) or set HF_TOKEN",
    403: "the token has no write access",
    404: "no such repository, or the token has no access to it",
}


def push(folder: Path, repository: str, *, private: bool = False) -> str:
    """Uploads a finished model to a repository, which is created if it does not exist, and returns
    its URL. Raises UserError if the Hub refuses; the folder stays unchanged."""
    api = HfApi()
    with refusals(repository, folder):
        address = api.create_repo(repository, private=private or None, exist_ok=True)
        if private and not api.model_info(repository).private:
            raise UserError(f"'{repository}' exists already, and is public: choose another name")
        upload(folder, repository, "Upload by opsd")
    return str(address)


def upload(folder: Path, repository: str, message: str, **options: Any) -> Any:
    """Commits the folder's model files; `options` are those of `HfApi.upload_folder`."""
    return HfApi().upload_folder(
        repo_id=repository,
        folder_path=folder,
        commit_message=message,
        allow_patterns=list(MODEL_FILES),
        **options,
    )


@dataclass
class HubPush:
    """Pushes a training run's models to the Hub: the final one, or those of checkpoints, with a
    card. `base` returns the name of the model that training began with."""

    args: Any
    method: Method
    base: Callable[[], str]
    job: Any = None

    def refuse_strategy(self) -> None:
        """Raises UserError for a strategy that would upload a pickle."""
        if self.args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            raise UserError(
                f"hub_strategy '{self.args.hub_strategy.value}' uploads the optimizer's state, a"
                " pickle; choose every_save or end"
            )

    def describe(self, folder: Path, repository: str | None, step: int) -> None:
        """Writes the card of the model in a folder; `step` is the step of its weights."""
        text = card(
            Path(str(self.args.output_dir)),
            base=self.base(),
            adapter=(folder / "adapter_config.json").is_file(),
            method=self.method,
            repository=repository,
            step=step,
        )
        write_atomically(folder / "README.md", text)

    def send(
        self,
        folder: Path,
        repository: str,
        message: str,
        step: int,
        *,
        blocking: bool,
        token: str | None = None,
        revision: str | None = None,
    ) -> Any:
        """Uploads a folder's model with its card, after the previous upload has ended."""
        self.describe(folder, repository, step)
        self.finish(repository)
        with refusals(repository, folder):
            sent = upload(
                folder,
                repository,
                message,
                token=token or self.args.hub_token,
                revision=revision or self.args.hub_revision,
                run_as_future=not blocking,
            )
        self.job = None if blocking else sent
        return sent

    def send_checkpoint(self, folder: Path, repository: str, step: int, *, rotated: bool) -> None:
        """Uploads a checkpoint's model in the background. If another upload is still running, this
        checkpoint is skipped; but if old checkpoints are `rotated`, which could delete the folder
        of that upload, this waits instead."""
        if self.args.hub_strategy == HubStrategy.END:
            return
        busy = self.job is not None and not self.job.done()
        if busy and not self.args.hub_always_push and not rotated:
            return
        self.send(folder, repository, f"Training in progress, step {step}", step, blocking=False)

    def finish(self, repository: str | None) -> None:
        """Waits for the running upload. If it fails, this is logged, and training continues."""
        if self.job is None:
            return
        error = self.job.exception()
        if error:
            log(f"the last push to '{repository}' failed: {reason(error)}")
        self.job = None


@contextlib.contextmanager
def refusals(repository: str, folder: Path | None = None) -> Iterator[None]:
    """Turns errors of the Hub into a UserError, one line that says what to do."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, HTTPError) as error:
        again = f"; {folder} is complete: hf upload {repository} {folder}" if folder else ""
        raise UserError(f"cannot push to '{repository}': {_answer(error)}{again}") from error


def _answer(error: BaseException) -> str:
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, HfHubHTTPError):
            status = link.response.status_code
            return _ANSWERS.get(status, f"the Hub answered {status}")
        if isinstance(link, HTTPError):
            return "the Hub cannot be reached"
        link = link.__cause__ or link.__context__
    return reason(error)
