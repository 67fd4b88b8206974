"""The skill bank: what is retrieved for a problem, with which shares, and what it learns."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from tests.arrange import problems, sampler_for
from tests.authors.test_authors import Given

from opsd.authors.skill_bank import BankUpdate, SkillAuthor, _tags
from opsd.authors.skills import read_bank
from opsd.prompts.contexts import Skills
from opsd.types import Finish, Group, Problem, Rollout, UserError, Verdict

BANK = """
skills:
  - {id: s1, title: Add, principle: sum them., tags: [sum]}
  - {id: s2, title: Scale, principle: multiply., when_to_apply: For rates., tags: [rate, sum]}
  - {id: s3, title: Draw, principle: sketch it., tags: [shape]}
mistakes:
  - {id: m1, description: Forgets the carry., tags: [sum]}
  - {id: m2, description: Mixes units., why_it_happens: Haste., how_to_avoid: Note., tags: [rate]}
"""
SKILL = '{"title": "Carry", "principle": "carry over.", "when_to_apply": "in sums."}'
MISTAKE = '{"description": "Skips.", "why_it_happens": "Haste.", "how_to_avoid": "Slow down."}'


@pytest.fixture
def bank(tmp_path: Path) -> str:
    path = tmp_path / "bank.yaml"
    path.write_text(BANK)
    return str(path)


def group(tags: object, *rights: bool) -> Group:
    problem = Problem("1 + 1 = ?", answer="2", metadata={"tags": tags})
    verdicts = (Verdict(float(right), right, True) for right in rights)
    return Group(problem, tuple(Rollout((1,), (2,), "x", Finish.STOP, verdict=v) for v in verdicts))


def test_pairs_by_rank_with_shares_that_are_a_softmax_of_their_mean_similarity(bank):
    librarian = SkillAuthor(bank, k=8, by="tag", temperature=0.5).begin()
    first, second = librarian.advice(group(["rate", "sum"]).problem)
    # Two of the two tags against one of them; then one tag of two against one of two, by rank.
    assert first.skill == "Scale: multiply. For rates." and first.mistake == "Forgets the carry."
    assert (second.skill, second.mistake) == ("Add: sum them.", "Mixes units. Haste. Note.")
    half = 1 / math.sqrt(2)
    sizes = [math.exp((1 + half) / 2 / 0.5), math.exp((half + half) / 2 / 0.5)]
    assert [first.share, second.share] == pytest.approx([s / sum(sizes) for s in sizes])
    assert len(SkillAuthor(bank, k=1, by="tag").begin().advice(group("sum").problem)) == 1


def test_every_pair_is_a_view_of_its_own_with_its_share(bank, tokenizer):
    librarian = SkillAuthor(bank, by="tag").begin()
    (told,) = librarian([group("sum", True)], sampler_for(Given(tokenizer, []), tokenizer), 0)
    views = Skills()(told, 0)
    assert [v.name for v in views] == ["skills_1", "skills_2"]
    assert sum(v.scale for v in views) == pytest.approx(1)
    shown = views[0].messages[-1]["content"]
    assert told.retrieved[0].skill in shown and told.retrieved[0].mistake in shown
    assert told.retrieved[1].skill not in shown and "1 + 1 = ?" in shown
    # Nobody asked a bank: the row's own texts. A bank that is empty yet: nothing to teach.
    row = Problem("1 + 1 = ?", privileged={"skills": "Add.", "mistakes": "Carry."})
    (own,) = Skills()(Group(row, ()), 0)
    assert "Add." in own.messages[-1]["content"] and own.scale == 1.0
    assert Skills()(replace(told, retrieved=()), 0) is None


def test_a_bank_learns_from_failures_keeps_what_it_began_with_and_forgets_the_oldest(tokenizer):
    update = BankUpdate(every=2, below=0.8, items=2, limit=3, max_tokens=400)
    librarian = SkillAuthor(by="tag", update=update).begin()
    texts = ["no JSON", f"<think>hm</think>{MISTAKE}"]
    engine = Given(tokenizer, texts)
    sampler = sampler_for(engine, tokenizer)
    groups = [group("sum", False, False, True)]
    assert librarian(groups, sampler, 0)[0].retrieved == () and not engine.asked
    librarian(groups, sampler, 1)
    assert [x.text for x in librarian.dynamic] == ["Skips. Haste. Slow down."]
    assert librarian.dynamic[0].id == "dyn_001" and librarian.dynamic[0].tags == ("sum",)
    assert all("wrong" in prompt for prompt, *_ in engine.asked)  # failures come first
    engine.texts += [MISTAKE, SKILL]  # known already; a right rollout's skill
    groups = [group("sum", False, True)]
    librarian(groups, sampler, 2)
    (told,) = librarian(groups, sampler, 3)
    assert [x.id for x in librarian.dynamic] == ["dyn_001", "dyn_002"]
    (pair,) = told.retrieved
    assert (pair.skill, pair.share) == ("Carry: carry over. in sums.", 1.0)
    for number in range(4):
        engine.texts += [MISTAKE.replace("Skips", f"Skips {number}"), SKILL]
        librarian(groups, sampler, 4 + 2 * number)
        librarian(groups, sampler, 5 + 2 * number)
    # The skill was forgotten in between, and could be learned again.
    assert [x.id for x in librarian.dynamic] == ["dyn_005", "dyn_006", "dyn_007"]
    assert librarian.dynamic[-1].text.startswith("Carry")


def test_a_run_that_goes_well_is_left_alone(bank, tokenizer):
    engine = Given(tokenizer, [])
    librarian = SkillAuthor(bank, by="tag", update=BankUpdate(every=1, below=0.5)).begin()
    librarian([group("sum", True, True, False)], sampler_for(engine, tokenizer), 0)
    assert not engine.asked and not librarian.dynamic


def test_what_was_learned_survives_a_checkpoint(tokenizer):
    author = SkillAuthor(by="tag", update=BankUpdate(every=2, items=1, max_tokens=400))
    librarian, again = author.begin(), author.begin()
    sampler = sampler_for(Given(tokenizer, [MISTAKE]), tokenizer)
    for step in range(3):
        librarian([group("sum", False)], sampler, step)
    assert librarian.learned == 2
    again.load_state_dict(librarian.state_dict())
    assert again == librarian and again.tried == (1, 0) and again.written == 1


def test_by_embedding_the_nearest_texts_are_found(bank, tmp_path):
    folder = embedder(tmp_path / "embedder")
    librarian = SkillAuthor(bank, k=2, by="embedding", embedder=str(folder)).begin()
    advice = librarian.advice(Problem("sketch it."))
    assert advice[0].skill == "Draw: sketch it." and advice[0].share > advice[1].share
    assert len(librarian.similar.known) == 1 + 3 + 2  # every text once


def embedder(folder: Path) -> Path:
    """A sentence-embedding model in its own format: the mean of fixed word vectors."""
    sentence_transformers = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer.modules import BoW

    words = ["add", "sum", "them", "scale", "multiply", "draw", "sketch", "it", "forgets", "mixes"]
    model = sentence_transformers.SentenceTransformer(modules=[BoW(vocab=words)])
    model.save(str(folder))
    return folder


@pytest.mark.parametrize(
    ("tags", "expected"),
    [(None, ()), ("sum", ("sum",)), (3, ("3",)), (["a", 1], ("a", "1")), ((), ())],
)
def test_tags_may_be_one_several_or_none(tags, expected, bank):
    librarian = SkillAuthor(bank, by="tag", temperature=0.001).begin()
    advice = librarian.advice(group(tags).problem)
    assert len(advice) == 2 and sum(a.share for a in advice) == pytest.approx(1)
    assert _tags(group(tags).problem, "tags") == expected


@pytest.mark.parametrize("reuse", [3, 5])
def test_a_bank_learns_also_where_batches_are_reused(reuse, tokenizer):
    author = SkillAuthor(by="tag", update=BankUpdate(every=25, items=1, max_tokens=400))
    librarian, engine = author.begin(), Given(tokenizer, [MISTAKE])
    for step in range(0, 31, reuse):
        librarian([group("sum", False)], sampler_for(engine, tokenizer), step)
    assert len(librarian.dynamic) == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("skills: [{id: a}]", "skills.0.title: Field required"),
        ("skills: []\nextra: 1", "extra: Extra inputs"),
        ("[", "not YAML"),
        ("skills: []", "at least one skill and one mistake"),
    ],
)
def test_a_bank_that_is_no_use_is_the_users_error(text, told, tmp_path):
    path = tmp_path / "bank.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=told) as raised:
        SkillAuthor(str(path), by="tag").begin()
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


def test_missing_files_and_models_are_named(tmp_path):
    for name in (str(tmp_path / "none.json"), "nowhere.at.all:bank.yaml", ":bank.yaml"):
        with pytest.raises(UserError, match="skill bank"):
            read_bank(name)
    path = tmp_path / "bank.yaml"
    path.write_text(BANK)
    author = SkillAuthor(str(path), embedder=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="nowhere"):
        author.begin().advice(problems(1)[0])
