"""To the hub: a folder of a finished model, or what training saves as it goes.

What is uploaded is listed by name: weights in safetensors, configuration, tokenizer, recipe, card.
A run's rollouts, its optimizer and pickles of any kind stay where they are.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

# The client's own error, whichever HTTP client the hub's library uses.
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,  # pyright: ignore[reportPrivateImportUsage]
)
from transformers import Trainer
from transformers.trainer_utils import HubStrategy
from transformers.utils.hub import PushInProgress

from opsd.console import log
from opsd.lm.loading import nonfinite, reason
from opsd.methods.method import Method
from opsd.publish.card import card
from opsd.runs.files import write_atomically
from opsd.types import RunFailed, UserError

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
    403: "the token may not write there",
    404: "no such repository, or a token that may not see it",
}


def push(folder: Path, repository: str, *, private: bool = False) -> str:
    """Uploads a finished model, to a repository that is made where there is none; returns its
    address. Raises UserError where the hub refuses; the folder stays as it is."""
    api = HfApi()
    with _refusals(repository, folder):
        address = api.create_repo(repository, private=private or None, exist_ok=True)
        if private and not api.model_info(repository).private:
            raise UserError(f"'{repository}' is there already, and public: choose another name")
        upload(folder, repository, "Upload by opsd")
    return str(address)


def upload(folder: Path, repository: str, message: str, **options: Any) -> Any:
    """Commits the folder's model files; `options` are `HfApi.upload_folder`'s."""
    return HfApi().upload_folder(
        repo_id=repository,
        folder_path=folder,
        commit_message=message,
        allow_patterns=list(MODEL_FILES),
        **options,
    )


class Publishing(Trainer):
    """Saves without pickles; pushes `<output_dir>/model`, or a checkpoint's model, and a card."""

    method: Method
    save_total_limit: int | None
    push_in_progress: PushInProgress | None = None

    def init_hf_repo(self, token: str | None = None) -> None:
        if self.args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            raise UserError(
                f"hub_strategy '{self.args.hub_strategy.value}' uploads the optimizer's state, a"
                " pickle; choose every_save or end"
            )
        with _refusals(self.args.hub_model_id or str(self.args.output_dir)):
            super().init_hf_repo(token)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        weights = self.model.state_dict() if state_dict is None else state_dict
        if name := nonfinite(weights):
            raise RunFailed(
                f"the weight '{name}' holds numbers that are none (NaN, infinite), so nothing is"
                " saved: go on from the last checkpoint with a lower learning_rate"
            )
        folder = Path(output_dir or str(self.args.output_dir))
        # Beside its place first: no file that a kill has left half-written ever stands there.
        draft = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(draft, ignore_errors=True)
        super()._save(str(draft), state_dict)
        # The arguments as a pickle: opening it runs code, and nothing reads it again.
        (draft / "training_args.bin").unlink(missing_ok=True)
        if folder.is_dir():
            shutil.copytree(draft, folder, dirs_exist_ok=True, copy_function=os.replace)
            shutil.rmtree(draft)
        else:
            draft.rename(folder)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Writes the card of the run's final model, `<output_dir>/model/README.md`."""
        if self.is_world_process_zero():
            self._describe(Path(str(self.args.output_dir), "model"))

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Saves the model with its card in `<output_dir>/model`, and uploads that folder."""
        folder = Path(str(self.args.output_dir), "model")
        if self.hub_model_id is None:
            self.init_hf_repo(token)
        self.save_model(str(folder), _internal_call=True)
        if not self.is_world_process_zero():
            return None
        self._describe(folder)
        self._finish_current_push()
        with _refusals(str(self.hub_model_id), folder):
            return upload(
                folder,
                str(self.hub_model_id),
                commit_message or "End of training",
                token=token or self.args.hub_token,
                revision=revision or self.args.hub_revision,
                run_as_future=not blocking,
            )

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        busy = self.push_in_progress is not None and not self.push_in_progress.is_done()
        # A folder that is on its way must not be rotated away: where old ones are, this waits.
        if busy and not self.args.hub_always_push and self.save_total_limit is None:
            return
        self._finish_current_push()
        folder = Path(checkpoint_folder)
        self._describe(folder)
        job: Any = upload(
            folder,
            str(self.hub_model_id),
            f"Training in progress, step {self.state.global_step}",
            token=self.args.hub_token,
            revision=self.args.hub_revision,
            run_as_future=True,
        )
        self.push_in_progress = PushInProgress([job])  # pyright: ignore

    def _finish_current_push(self) -> None:
        super()._finish_current_push()
        # A push that fails beside the training must not end it, nor go unnoticed.
        for job in getattr(self.push_in_progress, "jobs", ()):
            if job.done() and job.exception():
                log(f"the last push to '{self.hub_model_id}' failed: {reason(job.exception())}")
        self.push_in_progress = None

    def _describe(self, folder: Path) -> None:
        adapter = (folder / "adapter_config.json").is_file()
        base = self.accelerator.unwrap_model(self.model).config._name_or_path
        text = card(
            Path(str(self.args.output_dir)),
            base=base,
            adapter=adapter,
            method=self.method,
            repository=self.hub_model_id,
        )
        write_atomically(folder / "README.md", text)


@contextlib.contextmanager
def _refusals(repository: str, folder: Path | None = None) -> Iterator[None]:
    """What the hub refuses, as one line that says what is left to do."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, HTTPError) as error:
        again = f"; {folder} is whole: hf upload {repository} {folder}" if folder else ""
        raise UserError(f"cannot push to '{repository}': {_answer(error)}{again}") from error


def _answer(error: BaseException) -> str:
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, HfHubHTTPError):
            status = link.response.status_code
            return _ANSWERS.get(status, f"the hub answered {status}")
        if isinstance(link, HTTPError):
            return "the hub cannot be reached"
        link = link.__cause__ or link.__context__
    return reason(error)
