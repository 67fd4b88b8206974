"""The shipped models load offline like any other, solve English, and can be rebuilt."""

from dataclasses import replace

import pytest
import torch
from tools.miniature.build import save
from tools.miniature.measure import Remarked, accuracy, measure_denoising, sample
from tools.miniature.pretrain import PRETRAININGS, Texts, pretrain
from transformers import AutoModelForCausalLM, AutoTokenizer

from opsd.lm.built_in import NAMES, model_path
from opsd.lm.loading import load_model
from opsd.miniature.tokenizer import build_tokenizer
from opsd.miniature.world import HORIZON, LOW_RESOURCE, problems
from opsd.prompts.contexts import Crosslingual, StudentPrompt
from opsd.prompts.prompt import prompt_ids
from opsd.types import Group


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def miniature():
    folder = model_path("miniature")
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def test_other_names_are_not_built_in():
    assert model_path("Qwen/Qwen3-1.7B") is None
    assert all(model_path(name).name == name for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_loads_like_any_model(name):
    folder = model_path(name)
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
    )
    assert type(model).__name__ == "Qwen3ForCausalLM"
    assert model.config.max_position_embeddings == 8192
    assert model.dtype == torch.float32 and model.num_parameters() < 1_500_000
    ends = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert model.generation_config.eos_token_id == ends
    built = build_tokenizer(PRETRAININGS[name].world)
    assert tokenizer.backend_tokenizer.to_str() == built.backend_tokenizer.to_str()
    assert tokenizer.chat_template == build_tokenizer().chat_template
    assert (folder / "card.md").is_file()


def test_solves_english_problems_greedily(miniature):
    model, tokenizer = miniature
    given = problems("miniature", "test", "eng", 20)
    (views,) = zip(*(StudentPrompt()(Group(p, ()), 0) for p in given), strict=True)
    prompts = [list(prompt_ids(tokenizer, view)) for view in views]
    batch = tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
    out = model.generate(**batch, do_sample=False, max_new_tokens=HORIZON["miniature"])
    texts = [[row] for row in out[:, batch["input_ids"].shape[1] :].tolist()]
    assert accuracy(tokenizer, given, texts) > 0.8


@pytest.mark.parametrize("code", LOW_RESOURCE)
def test_knows_more_when_told_more_and_answers_in_the_problems_language(miniature, code):
    model, tokenizer = miniature
    given = problems("miniature", "dev", code, 40)
    alone = sample(model, tokenizer, given, StudentPrompt(), 2, HORIZON["miniature"])
    told = sample(model, tokenizer, given, Crosslingual(), 2, HORIZON["miniature"])
    assert accuracy(tokenizer, given, alone) < 0.6 < 0.8 < accuracy(tokenizer, given, told)
    first = problems("miniature", "dev", code, 1)[0].metadata["trace"].split()[0]
    for texts in (alone, told):
        starts = [tokenizer.decode(ids).startswith(first) for rows in texts for ids in rows]
        assert sum(starts) / len(starts) > 0.9


def test_the_diffusion_model_is_right_about_as_often_as_wrong():
    """By its own generation config: in blocks of four, two tokens a step."""
    folder = model_path("miniature-diffusion")
    model, tokenizer = load_model(str(folder)), AutoTokenizer.from_pretrained(folder)
    shares = measure_denoising(model, tokenizer, "miniature-diffusion", 60)
    assert 0.3 < shares["greedy"] < 0.7
    assert shares["temperature 0.9"] < shares["greedy"] + 0.1


@pytest.mark.parametrize(
    ("name", "own", "other"), [("swahili", "swa", "yor"), ("yoruba", "yor", "swa")]
)
def test_a_specialist_knows_its_language_and_learns_from_remarks_in_the_other(name, own, other):
    folder = model_path(f"miniature-{name}")
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    right = {}
    for code in (own, other):
        given = problems("miniature-pair", "dev", code, 40)
        for context in (StudentPrompt(), Remarked()):
            texts = sample(model, tokenizer, given, context, 2, HORIZON["miniature-pair"])
            right[code, context.label] = accuracy(tokenizer, given, texts)
    assert right[own, "student"] > 0.85 > 0.75 > right[other, "student"]
    assert right[other, Remarked().label] > right[other, "student"] + 0.1


@pytest.mark.parametrize("name", ["miniature", "miniature-diffusion"])
def test_two_builds_give_the_same_bytes(name, tmp_path):
    recipe = replace(PRETRAININGS[name], steps=3, batch=6)
    files = []
    for run in ("a", "b"):
        tokenizer = build_tokenizer(recipe.world)
        save(pretrain(recipe, tokenizer), tokenizer, tmp_path / run)
        files.append({f.name: f.read_bytes() for f in sorted((tmp_path / run).iterdir())})
    assert files[0] == files[1]
    assert {"model.safetensors", "tokenizer.json", "config.json"} <= files[0].keys()


def test_another_seed_gives_other_texts():
    tokenizer = build_tokenizer()
    texts = [
        Texts(replace(PRETRAININGS["miniature"], seed=s), tokenizer).batch() for s in (0, 0, 1)
    ]
    assert texts[0] == texts[1] != texts[2]
