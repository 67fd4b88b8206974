"""Models on this machine: how they call languages, tiny sequence-to-sequence ones, and a causal
one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.translate.server import english
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    M2M100Config,
    M2M100ForConditionalGeneration,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from opsd.data.problems import Data
from opsd.languages.registry import codes
from opsd.translate.asking import Question, Sampled
from opsd.translate.codes import Told, told
from opsd.translate.local import Causal, SequenceToSequence, load
from opsd.translate.run import Job, planned, translate
from opsd.types import UserError

# Of NLLB-200's list of languages, those of ours that it has, as its model card writes them.
_NLLB = """
    amh_Ethi arb_Arab ben_Beng deu_Latn eng_Latn ewe_Latn fra_Latn hau_Latn ibo_Latn ind_Latn
    ita_Latn jpn_Jpan kin_Latn kor_Hang lin_Latn lug_Latn gaz_Latn por_Latn rus_Cyrl sna_Latn
    sot_Latn spa_Latn swh_Latn tel_Telu tha_Thai twi_Latn vie_Latn wol_Latn xho_Latn yor_Latn
    zho_Hans zsm_Latn zul_Latn
"""
NLLB = _NLLB.split()
MADLAD = "am ar bn de en ee fr ha ig id it ja rw ko ln lg om pt ru sn st es sw te th ak vi wo zh zu"
WORDS = "Juma has 2 3 9 eggs and buys more at the market . How many does he have now ? ana mayai"


def test_nllb_has_a_token_for_all_but_one_of_our_languages():
    vocabulary = {token: i for i, token in enumerate(NLLB)}
    found = {code: told(code, vocabulary).first for code in codes() if code != "vai"}
    assert sorted(map(str, found.values())) == sorted(NLLB)
    assert found["swa"] == "swh_Latn" and found["orm"] == "gaz_Latn" and found["kor"] == "kor_Hang"
    with pytest.raises(UserError, match=r"no token for Vai \(vai\).*--code vai=TOKEN"):
        told("vai", vocabulary)


def test_others_are_told_before_the_text():
    vocabulary = {f"<2{code}>": i for i, code in enumerate(MADLAD.split())}
    assert told("swa", vocabulary) == Told(prefix="<2sw> ")
    assert told("zho", vocabulary) == Told(prefix="<2zh> ")
    assert told("yor", {"__yo__": 1}) == Told(first="__yo__")
    assert told("swa", {">>swa<<": 1}) == Told(prefix=">>swa<< ")
    assert told("twi", vocabulary, "<2ak>") == Told(prefix="<2ak> ")
    assert told("swa", {"a": 1}) == Told()  # a model of one language
    with pytest.raises(
        UserError, match="--code twi=<2akk>: not a token of the model; did you mean '<2ak>'"
    ):
        told("twi", vocabulary, "<2akk>")


def tokenizer(extra: list[str]) -> PreTrainedTokenizerFast:
    words = ["<s>", "<pad>", "</s>", "<unk>", *extra, *WORDS.split()]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit()])
    special = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, additional_special_tokens=extra, **special
    )


@pytest.fixture(scope="module")
def nllb(tmp_path_factory) -> Path:
    """NLLB's architecture, tiny, with weights at random."""
    folder = tmp_path_factory.mktemp("nllb")
    made = tokenizer(["eng_Latn", "swh_Latn", "deu_Latn"])
    torch.manual_seed(0)
    config = M2M100Config(
        vocab_size=len(made),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=64,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
    )
    M2M100ForConditionalGeneration(config).save_pretrained(folder)
    made.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def madlad(tmp_path_factory) -> Path:
    """MADLAD-400's architecture, tiny, with weights at random."""
    folder = tmp_path_factory.mktemp("madlad")
    made = tokenizer(["<2sw>", "<2en>"])
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(made),
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=2,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    made.save_pretrained(folder)
    return folder


def question(text: str, wanted: str = "swa", sample: int = 0) -> Question:
    return Question(text, "eng", wanted, ({"role": "user", "content": text},), sample)


def test_nllb_writes_its_languages_token_first_and_a_sentence_at_a_time(nllb, monkeypatch):
    model = load(str(nllb), Sampled(max_tokens=6), {})
    assert isinstance(model, SequenceToSequence)
    seen: list[dict] = []
    generate = model.model.generate

    def watched(**given):
        made = generate(**given)
        seen.append(given | {"made": made})
        return made

    monkeypatch.setattr(model.model, "generate", watched)
    text = "Juma has 2 eggs . How many eggs ?"
    one, two, again = model([question(text), question(text, "deu"), question(text)])
    ids = model.tokenizer.get_vocab()
    assert [call["forced_bos_token_id"] for call in seen] == [ids["swh_Latn"], ids["deu_Latn"]]
    for call, name in zip(seen, ("swh_Latn", "deu_Latn"), strict=True):
        assert call["input_ids"].shape[0] == 2  # sentences, each once
        assert set(call["made"][:, 1].tolist()) == {ids[name]}
    assert one == again and one.spent.requests == 1 and one.spent.prompt_tokens == 9
    assert isinstance(two.text, str) and "swh_Latn" not in one.text


def test_further_samples_are_drawn_and_repeat_by_themselves(nllb):
    model = load(str(nllb), Sampled(max_tokens=6), {})
    text = "Juma has 2 eggs . How many eggs ?"
    drawn = [model([question(text, sample=n)])[0].text for n in (0, 1, 2, 3)]
    assert len(set(drawn)) > 1
    assert drawn == [model([question(text, sample=n)])[0].text for n in (0, 1, 2, 3)]


def test_madlad_reads_its_languages_token_before_the_text(madlad, monkeypatch):
    model = load(str(madlad), Sampled(max_tokens=6), {})
    seen = []
    generate = model.model.generate
    monkeypatch.setattr(
        model.model, "generate", lambda **given: seen.append(given) or generate(**given)
    )
    model([question("Juma has 2 eggs .")])
    ids = model.tokenizer.get_vocab()
    assert seen[0]["input_ids"][0, 0] == ids["<2sw>"] and "forced_bos_token_id" not in seen[0]
    with pytest.raises(UserError, match="no token for Yoruba"):
        model([question("Juma has 2 eggs .", "yor")])


def source(folder: Path) -> Path:
    path = folder / "problems.jsonl"
    rows = [{"problem": english(n, 9), "answer": n + 9} for n in (2, 3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_translation_model_that_knows_nothing_is_rejected_row_by_row(nllb, tmp_path):
    job = Job(Data(source=str(source(tmp_path))), ("swa", "deu"), str(nllb), sampled=Sampled(8))
    assert planned(job, tmp_path / "out")["prompt_tokens"] > 0
    report = translate(job, tmp_path / "out")
    assert [found["rejected"] for found in report["languages"].values()] == [2, 2]
    assert report["spent"]["requests"] == 4 and report["spent"]["completion_tokens"] > 0
    with pytest.raises(UserError, match="only translates: --solver names another model"):
        load(str(nllb), Sampled(8), {})([Question("x", "swa", "swa", ())])


def test_a_causal_model_is_asked_by_its_chat_template(tiny_folder, tmp_path):
    model = load(str(tiny_folder), Sampled(max_tokens=5), {})
    assert isinstance(model, Causal)
    one, two = model([question("Juma has 2 eggs."), question("Juma has 3 eggs.")])
    assert one.spent.completion_tokens <= 5 and one.spent.prompt_tokens == two.spent.prompt_tokens
    assert (one, two) == tuple(model([question("Juma has 2 eggs."), question("Juma has 3 eggs.")]))
    job = Job(Data(source=str(source(tmp_path))), ("swa",), str(tiny_folder), sampled=Sampled(5))
    report = translate(job, tmp_path / "out")
    assert report["languages"]["swa"]["rejected"] == 2
    with pytest.raises(UserError, match="leave --code out"):
        load(str(tiny_folder), Sampled(5), {"swa": "swh_Latn"})
    with pytest.raises(UserError, match="lower --max-tokens"):
        load(str(tiny_folder), Sampled(100_000), {})([question("x")])


def test_a_model_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(UserError, match="cannot load the model"):
        load(str(tmp_path), Sampled(), {})
