"""A recipe of two models: how it is read, what it trains, and how that goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file
from tests.arrange import metrics

from opsd.recipe.schema import dump, load, parse
from opsd.recipe.train import train, train_pair
from opsd.runs import checkpoint
from opsd.types import UserError

PAIR: dict[str, Any] = {
    "model": "miniature-swahili",
    "method": {"name": "opcod", "group": 2, "max_tokens": 64},
    "data": {"source": "miniature", "language": ["swa", "yor"], "limit": 6, "dev": 2},
    "sampling": {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_completion_length": 40},
    "train": {
        "max_steps": 4,
        "rollouts_per_step": 4,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-3,
        "save_steps": 1,
        "eval_steps": 2,
        "eval_samples": 1,
        "load_best_model_at_end": False,
        "gradient_checkpointing": False,
        "report_to": [],
    },
    "peers": {"swahili": None, "yoruba": {"model": "miniature-yoruba"}},
}


def test_each_peer_is_the_recipe_with_what_it_says_of_its_own():
    own = {
        "swahili": {"train": {"seed": 3}},
        "yoruba": {"model": {"name": "other", "lora": {"r": 4}}, "data": {"limit": 5}},
    }
    model = {"name": "one", "lora": {"r": 8}}
    recipe = parse(PAIR | {"model": model, "peers": own})
    first, second = recipe.peers.values()
    assert list(recipe.peers) == ["swahili", "yoruba"] and not first.peers
    assert (first.model.name, first.train["seed"], first.model.lora.r) == ("one", 3, 8)
    assert (second.model.name, second.model.lora.r, second.data.limit) == ("other", 4, 5)
    assert second.data.language == ("swa", "yor") and second.train["max_steps"] == 4
    alone = {k: v for k, v in PAIR.items() if k != "peers"} | {"model": model}
    assert recipe.model_copy(update={"peers": {}}) == parse(alone)
    assert parse(yaml.safe_load(dump(recipe))) == recipe
    assert "peers" not in yaml.safe_load(dump(first))


def test_what_is_set_for_a_peer_is_its_own_and_what_is_set_for_all_is_everybodys(tmp_path):
    path = tmp_path / "pair.yaml"
    path.write_text(yaml.safe_dump(PAIR))
    child = tmp_path / "child.yaml"
    child.write_text("extends: pair.yaml\npeers: {yoruba: {train: {seed: 5}}}\n")
    given = ["train.max_steps=9", "peers.yoruba.train.learning_rate=0.1"]
    first, second = load(str(child), given).peers.values()
    assert first.train["max_steps"] == second.train["max_steps"] == 9
    assert (first.train["learning_rate"], second.train["learning_rate"]) == (1e-3, 0.1)
    assert second.train["seed"] == 5 and "seed" not in first.train
    assert second.model.name == "miniature-yoruba"


@pytest.mark.parametrize(
    ("peers", "told"),
    [
        ([], "peers: two names, each with the keys"),
        ("both", "peers: two names"),
        ({"one": {}}, "peers: two names"),
        ({"one": {}, "two": {}, "three": {}}, "peers: two names"),
        ({"a/b": {}, "two": {}}, "peers.a/b: the name is a folder's"),
        ({1: {}, "two": {}}, "peers.1: the name is a folder's"),
        ({"one": "miniature", "two": {}}, "peers.one: a mapping of the keys"),
        ({"one": {"peers": {}}, "two": {}}, "peers.one: a mapping of the keys"),
        ({"one": {"modle": "x"}, "two": {}}, "peers.one: modle: unknown key"),
        ({"one": {"train": {"max_step": 3}}, "two": {}}, "peers.one: train.max_step: unknown key"),
    ],
)
def test_mistakes_in_peers_are_one_line(peers, told):
    with pytest.raises(UserError) as error:
        parse(PAIR | {"peers": peers}, "r.yaml")
    assert told in str(error.value) and "\n" not in str(error.value)


def test_a_method_for_two_is_refused_for_one_and_one_for_one_for_two(tmp_path):
    with pytest.raises(UserError, match=r"opcod is for two models .* under 'peers'"):
        train(parse({k: v for k, v in PAIR.items() if k != "peers"}), tmp_path)
    with pytest.raises(UserError, match="swahili: no author of sdpo is another model"):
        train_pair(parse(PAIR | {"method": "sdpo"}), tmp_path)
    assert not any(tmp_path.iterdir())


def test_two_adapters_on_one_base_share_it(tmp_path):
    shared = {"name": "miniature-swahili", "lora": {"r": 2, "lora_alpha": 4}}
    content = PAIR | {"model": shared, "peers": {"one": {}, "two": {"train": {"seed": 1}}}}
    content["train"] = content["train"] | {"max_steps": 1}
    one, two = (x.model for x in train_pair(parse(content), tmp_path).values())
    frozen = [n for n, p in one.named_parameters() if not p.requires_grad]
    other = dict(two.named_parameters())
    assert frozen and all(
        p.data_ptr() == other[n].data_ptr() for n, p in one.named_parameters() if n in frozen
    )
    for name in ("one", "two"):
        assert (tmp_path / name / "model" / "adapter_model.safetensors").is_file()


def start(recipe: Path, output: Path, *flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "opsd", "train", str(recipe), "--output", str(output)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*command, "--threads", "1", *flags], **pipes)


def stopped(recipe: Path, output: Path, number: int, after: int) -> tuple[int, str]:
    """The command's exit code and messages, when a signal came after so many logged lines."""
    process = start(recipe, output)
    written = output / "yoruba" / "metrics.jsonl"
    while process.poll() is None:
        if written.is_file() and written.read_text().count("\n") >= after:
            process.send_signal(number)
            break
        time.sleep(0.02)
    _, errors = process.communicate(timeout=600)
    return process.returncode, errors


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run that nothing has ended, beside its recipe."""
    folder = tmp_path_factory.mktemp("pair")
    (folder / "pair.yaml").write_text(yaml.safe_dump(PAIR))
    _, errors = start(folder / "pair.yaml", folder / "whole").communicate(timeout=300)
    assert "swahili: step 4/4" in errors and "yoruba: step 4/4" in errors
    return folder / "whole"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_command_that_is_ended_goes_on_bit_for_bit(number, tmp_path, whole):
    recipe, broken = whole.with_name("pair.yaml"), tmp_path / "broken"
    # A signal that is heeded comes early, long before the end; a kill, once steps are saved.
    after = 3 if number == signal.SIGKILL else 2
    code, errors = stopped(recipe, broken, number, after)
    names = ("swahili", "yoruba")
    saved = [set(checkpoint.complete(broken / name)) for name in names]
    assert saved[0] & saved[1]
    if number != signal.SIGKILL:
        assert code == {signal.SIGTERM: 143, signal.SIGINT: 130}[number]
        assert saved[0] == saved[1]
        assert all(f"{name}: stopped after step {max(saved[0])}" in errors for name in names)
    process = start(recipe, broken, "--resume")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    for name in names:
        assert metrics(broken / name) == metrics(whole / name)
        ours, theirs = (
            load_file(run / name / "model" / "model.safetensors") for run in (broken, whole)
        )
        assert all(ours[key].equal(theirs[key]) for key in theirs)


def test_nothing_to_go_on_from_is_one_line(tmp_path):
    with pytest.raises(UserError, match="contains no run to resume"):
        train_pair(parse(PAIR), tmp_path, resume=True)
