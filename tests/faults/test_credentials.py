"""Passwords, keys and tokens: in the user's recipe and environment, and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from tests.faults.test_folders import recipe

from opsd.console import log
from opsd.credentials import cleaned, without_credentials
from opsd.publish.card import card
from opsd.publish.export import export
from opsd.recipe import schema as recipes
from opsd.recipe.train import train
from opsd.report.page import write_report
from opsd.rollout.endpoint import shown
from opsd.rollout.engines import HF

SECRETS = ("swordfish", "hf_abcdefghijklmnop", "sk-1234567890abcdef", "opensesame")
URL = f"http://me:{SECRETS[0]}@localhost:1/v1?key={SECRETS[3]}"


def told(text: str) -> list[str]:
    return [secret for secret in SECRETS if secret in text]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (URL, "http://localhost:1/v1"),
        (f"see {URL}, please", "see http://localhost:1/v1 please"),
        ("token hf_abcdefghijklmnop!", "token hf_***!"),
        ("Bearer abcdefghijkl123", "Bearer ***"),
        ("https://arxiv.org/abs/2601.18734", "https://arxiv.org/abs/2601.18734"),
        ("a sk-learn model, max_tokens: 5", "a sk-learn model, max_tokens: 5"),
        ("12:30 user@host", "12:30 user@host"),
    ],
)
def test_texts(text: str, expected: str):
    assert cleaned(text) == expected
    assert cleaned(expected) == expected


@pytest.mark.parametrize(
    "name",
    [
        *("hub_token", "token", "HF_TOKEN", "hf-token", "api_key", "apikey", "wandb_api_key"),
        *("aws_secret_access_key", "private_key", "password", "auth", "Authorization"),
    ],
)
def test_names_of_what_is_left_out(name: str):
    assert without_credentials({name: "x"}) == {}


@pytest.mark.parametrize(
    "name", ["pad_token", "eos_token", "max_tokens", "key_variable", "generation_batch_tokens"]
)
def test_names_of_what_stays(name: str):
    assert without_credentials({name: "x"}) == {name: "x"}


def test_values_keep_their_shape():
    value = {"max_tokens": 5, "hub_token": "x", "api_key": "y", "a": [URL, 1, None, {"secret": 2}]}
    kept = {"max_tokens": 5, "a": ["http://localhost:1/v1", 1, None, {}]}
    assert without_credentials(value) == kept
    assert without_credentials({"hub_token": None}) == {"hub_token": None}


def test_no_file_of_a_run_and_nothing_made_of_it_holds_them(tmp_path: Path, tiny_folder, capsys):
    content = yaml.safe_load(recipes.dump(recipe(tiny_folder, max_steps=1)))
    content["train"] |= {"hub_token": SECRETS[1], "run_name": SECRETS[2]}
    content["engine"] = {"type": "vllm_server", "url": URL}
    assert told(yaml.safe_dump(content)) == list(SECRETS)
    given = recipes.parse(content)
    run = tmp_path / "run"
    train(given.model_copy(update={"engine": HF()}), run)
    (run / "recipe.yaml").write_text(recipes.dump(given))
    assert "localhost:1/v1" in (run / "recipe.yaml").read_text()
    (tmp_path / "card.md").write_text(card(run, adapter=False))
    export(run, tmp_path / "out")
    write_report([run], tmp_path / "report.html")
    texts = [
        f for f in tmp_path.rglob("*") if f.suffix in (".yaml", ".json", ".jsonl", ".md", ".html")
    ]
    assert len(texts) > 8
    for file in texts:
        assert told(file.read_text("utf-8")) == [], file
    output = capsys.readouterr()
    assert told(output.out + output.err) == []


@pytest.mark.parametrize("url", [URL, [URL, URL.replace("localhost", "elsewhere")]])
def test_a_written_recipe_is_the_same_recipe_but_for_them(tiny_folder, url):
    content = yaml.safe_load(recipes.dump(recipe(tiny_folder)))
    content["engine"] = {"type": "vllm_server", "url": url}
    written = recipes.dump(recipes.parse(content))
    assert not told(written)
    assert type(yaml.safe_load(written)["engine"]["url"]) is type(url)
    assert recipes.dump(recipes.parse(yaml.safe_load(written))) == written


def test_messages_are_clean(capsys):
    log(f"asking {URL} with {SECRETS[1]}")
    assert told(capsys.readouterr().err) == []
    assert told(shown(URL)) == [] and "localhost:1/v1" in shown(URL)
    assert json.loads(json.dumps(without_credentials({"url": URL}))) == {"url": shown(URL)}
