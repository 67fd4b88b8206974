"""To the hub and back, against a hub on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import LoraConfig
from tests.fake_hub import TOKENS, Hub, Repository, oid, serving

from opsd.lm.loading import load_model, with_adapter
from opsd.publish.export import export

pytestmark = pytest.mark.slow

WRITER, READER = TOKENS
ROOT = Path(__file__).parents[2]
Steps = Callable[..., list[Any]]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as running:
        yield running
        assert running.unknown == []


@pytest.fixture
def steps(hub: Hub, tmp_path: Path) -> Steps:
    """Runs steps of `tests.publish.hub_client` at the hub; each is a name and its options."""

    def run(
        *wanted: tuple[str, dict[str, Any]], token: str | None = None, **environment: str
    ) -> list[Any]:
        listed = [(name, {"token": token, **options}) for name, options in wanted]
        names = {
            "HF_ENDPOINT": hub.address,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            "OMP_NUM_THREADS": "1",
        }
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
        done = subprocess.run(
            [sys.executable, "-m", "tests.publish.hub_client", json.dumps(listed)],
            env={**inherited, **names, **environment},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        for secret in TOKENS:
            assert secret not in done.stderr
        return json.loads(done.stdout)

    return run


def refused(told: Any, *words: str) -> None:
    assert isinstance(told, str) and "\n" not in told, told
    assert not any(secret in told for secret in TOKENS)
    for word in words:
        assert word in told, told


@pytest.fixture(scope="module")
def model(tmp_path_factory, tiny_folder) -> Path:
    """An export, with things beside it that nobody should see."""
    folder = export(tiny_folder, tmp_path_factory.mktemp("hub") / "model", max_shard="100KB")
    for name in ("training_args.bin", "optimizer.pt", "rollouts/rank0.jsonl", ".env", "notes.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(WRITER)
    return folder


@pytest.fixture(scope="module")
def adapter(tmp_path_factory, model) -> Path:
    """An adapter that says that its base is on the hub."""
    folder = tmp_path_factory.mktemp("hub") / "adapter"
    lora = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear")
    wrapped = with_adapter(load_model(str(model)), lora, seed=0)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    wrapped.save_pretrained(folder)
    path = folder / "adapter_config.json"
    about = json.loads(path.read_text()) | {"base_model_name_or_path": "someone/m"}
    path.write_text(json.dumps({**about, "revision": oid(1)}))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def test_what_is_pushed_is_the_model_and_loads_again(hub, steps, model, adapter):
    url, here, there, pinned, _, ours, base = steps(
        ("push", {"folder": str(model), "repository": "someone/m", "private": True}),
        ("load", {"name": str(model)}),
        ("load", {"name": "someone/m"}),
        ("load", {"name": f"someone/m@{oid(1)}"}),
        ("push", {"folder": str(adapter), "repository": "someone/a"}),
        ("load", {"name": "someone/a"}),
        ("load", {"name": "someone/m", "revision": "main"}),
        token=WRITER,
    )
    assert url == f"{hub.address}/someone/m"
    assert here == there == pinned == base != ours
    assert hub.repositories["someone/m"].private and not hub.repositories["someone/a"].private
    secret = {"training_args.bin", "optimizer.pt", ".env", "notes.txt"}
    files = {name: b for name, b in contents(model).items() if name not in secret}
    assert hub.files("someone/m") == files and len(files) > 8
    assert len(hub.repositories["someone/m"].commits) == 2  # all of it in one commit
    assert yaml.safe_load(files["README.md"].decode().split("---")[1])["tags"] == ["opsd"]
    assert set(hub.files("someone/a")) >= {"adapter_config.json", "adapter_model.safetensors"}
    # Without the hub, what was downloaded still loads.
    names = [("load", {"name": name}) for name in ("someone/m", "someone/a", "someone/other")]
    *cached, other = steps(*names, HF_HUB_OFFLINE="1")
    assert cached == [there, ours]
    refused(other, "not in the download cache, and the Hub cannot be reached")


def test_a_push_that_is_refused_says_why_and_loses_nothing(hub, steps, model):
    before = contents(model)
    hub.repositories["someone/public"] = Repository()
    hub.failures = {"/commit/": [500], "/lfs/": [503]}
    folder = str(model)
    nobody, wrong, reader, public, name, broken, again = steps(
        ("push", {"folder": folder, "repository": "someone/m", "token": None}),
        ("push", {"folder": folder, "repository": "someone/m", "token": "hf_cccccccccccccccc"}),
        ("push", {"folder": folder, "repository": "someone/m", "token": READER}),
        ("push", {"folder": folder, "repository": "someone/public", "private": True}),
        ("push", {"folder": folder, "repository": "a/b/c"}),
        ("push", {"folder": folder, "repository": "someone/m"}),
        ("push", {"folder": folder, "repository": "someone/m"}),
        token=WRITER,
    )
    for told in (nobody, wrong):
        refused(told, "no valid token", "hf auth login", f"hf upload someone/m {folder}")
    refused(reader, "the token has no write access")
    refused(public, "exists already, and is public")
    assert hub.files("someone/public") == {}
    refused(name, "cannot push to 'a/b/c'")
    refused(broken, "the Hub answered 500", f"{folder} is complete")
    assert again == f"{hub.address}/someone/m" and "README.md" in hub.files("someone/m")
    assert hub.failures == {"/commit/": [], "/lfs/": []}  # what was busy was asked again
    assert contents(model) == before


def test_a_model_that_cannot_be_had_is_one_line(hub, steps, model, adapter):
    files = contents(model)
    orphan = contents(adapter)
    orphan["adapter_config.json"] = orphan["adapter_config.json"].replace(
        b"someone/m", b"someone/x"
    )
    lost = {name: b for name, b in contents(adapter).items() if name.endswith(".json")}
    pickled = {n: b for n, b in files.items() if not n.startswith("model")} | {
        "pytorch_model.bin": b""
    }
    hub.repositories |= {
        "someone/m": Repository(commits=[{}, files]),
        "someone/gated": Repository(gated=True, commits=[files]),
        "someone/private": Repository(private=True, commits=[files]),
        "someone/lost": Repository(commits=[lost]),
        "someone/orphan": Repository(commits=[orphan]),
        "someone/pickled": Repository(commits=[pickled]),
    }
    misspelt, gated, private, revision, empty, pickle, alone = steps(
        ("load", {"name": "someone/misspelt"}),
        ("load", {"name": "someone/gated"}),
        ("load", {"name": "someone/private", "token": READER}),
        ("load", {"name": "someone/m@v2"}),
        ("load", {"name": "someone/lost"}),
        ("load", {"name": "someone/pickled"}),
        ("load", {"name": "someone/orphan"}),
    )
    refused(misspelt, "'someone/misspelt': neither a folder here nor a Hub repository")
    refused(gated, "it is gated", "hf auth login")
    refused(private, "that you may read")
    refused(revision, "no such revision")
    refused(empty, "no adapter_model.safetensors")
    refused(pickle, "no weights in safetensors", "Convert them")
    refused(alone, "changes the model 'someone/x', which cannot be loaded", "check the spelling")


def test_a_run_pushes_its_model_and_card_and_nothing_else(hub, steps, tmp_path, model):
    hub.repositories["someone/base"] = Repository(commits=[{}, contents(model)])
    run = {"model": "someone/base", "repository": "someone/run"}
    name, here, there, strategy, wrong = steps(
        ("train", {**run, "folder": str(tmp_path / "run")}),
        ("load", {"name": str(tmp_path / "run" / "model")}),
        ("load", {"name": "someone/run"}),
        ("train", {**run, "folder": str(tmp_path / "b"), "hub_strategy": "checkpoint"}),
        ("train", {**run, "folder": str(tmp_path / "c"), "token": READER}),
        token=WRITER,
    )
    assert name == "someone/run" and here == there and isinstance(here, list)
    refused(strategy, "hub_strategy 'checkpoint' uploads the optimizer's state, a pickle")
    refused(wrong, "the token has no write access")
    commits = hub.repositories["someone/run"].commits
    assert len(commits) == 4  # none yet, two checkpoints, the end
    files = {"adapter_config.json", "adapter_model.safetensors", "README.md"}
    files |= {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert all(set(commit) == files for commit in commits[1:])
    assert commits[2]["adapter_model.safetensors"] != commits[1]["adapter_model.safetensors"]
    assert commits[3] == contents(tmp_path / "run" / "model")
    about = json.loads(commits[3]["adapter_config.json"])
    assert (about["base_model_name_or_path"], about["revision"]) == ("someone/base", oid(1))
    card = commits[3]["README.md"].decode()
    assert "base_model: someone/base" in card and "library_name: peft" in card
    assert "arxiv.org/abs/2605.09548" in card and 'from_pretrained("someone/run")' in card
    assert not list((tmp_path / "run").rglob("training_args.bin"))
    assert (tmp_path / "run" / "checkpoint-2" / "optimizer.pt").is_file()


def test_a_push_that_fails_beside_the_training_is_said_and_does_not_end_it(
    hub, steps, tmp_path, tiny_folder
):
    hub.failures = {"/commit/": [500]}
    run = {"model": str(tiny_folder), "repository": "someone/run", "folder": str(tmp_path / "run")}
    name, said = steps(("train", run), ("said", {}), token=WRITER)
    assert name == "someone/run" and len(hub.repositories["someone/run"].commits) == 3
    assert "the last push to 'someone/run' failed" in said and "500" in said
