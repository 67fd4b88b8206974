"""Languages are files: every one is complete, is found under its names, and can be one's own."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml

from opsd.cli.languages import AFRIMGSM, POLYMATH, check_file, listing, show
from opsd.languages import registry as languages
from opsd.languages.registry import check, codes, language, remarks, resolve
from opsd.prompts.prompt import fill, prompt_ids, view
from opsd.types import Problem, UserError

SHIPPED = resources.files("opsd.languages")

# Digests of the strings that the miniature models have learned to read: new strings, new models.
TRAINED_ON = {
    "eng": "71e473a7ba88aca9",
    "hau": "b39ea3c9e50f9481",
    "swa": "dafcda20420a0f2c",
    "yor": "d4612af8f722f22f",
    "zul": "51ccd8f7ae48866c",
}

DOCS = (Path(__file__).parents[2] / "docs" / "languages.md").read_text("utf-8")
SOMALI: dict[str, Any] = yaml.safe_load(DOCS.split("```yaml som.yaml\n")[1].split("```")[0])
ARABIC: dict[str, Any] = {
    "code": "arb",
    "name": "Arabic",
    "script": "Arab",
    "direction": "rtl",
    "instruction": "فكر خطوة خطوة واكتب الجواب النهائي في \\boxed{}.",
    "final_instruction": "حل بالعربية خطوة خطوة واكتب الجواب النهائي في \\boxed{}.",
    "transition": "افهم كل خطوة أعلاه ثم حل المسألة بنفسك.",
    "think_prefix": "كما طلب مني، أفكر بالعربية.",
    "labels": {
        "problem": "المسألة",
        "translation": "المسألة بالإنجليزية",
        "solution": "الحل",
        "begin": "[بداية الحل]",
        "end": "[نهاية الحل]",
    },
}


@pytest.fixture(autouse=True)
def _own_languages_of_this_test_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(languages, "_OWN", {})


def written(folder: Path, base: dict[str, Any] = SOMALI, **changes: Any) -> Path:
    """A language file with some keys changed; `None` takes a key out, `labels` is merged."""
    labels = {**base["labels"], **changes.pop("labels", {})}
    content = {**base, "labels": labels, **changes}
    path = folder / f"{base['code']}.yaml"
    kept = {key: value for key, value in content.items() if value is not None}
    path.write_text(yaml.safe_dump(kept, allow_unicode=True), "utf-8")
    return path


@pytest.mark.parametrize("code", codes())
def test_every_shipped_file_passes_the_check(code: str, tmp_path: Path):
    path = tmp_path / f"{code}.yaml"
    path.write_text((SHIPPED / path.name).read_text("utf-8"), "utf-8")
    assert check(path) == []
    assert language(code).code == code


def test_what_the_suites_and_the_built_in_world_need_is_there():
    assert set(codes()) == {*AFRIMGSM, *POLYMATH}
    assert (len(AFRIMGSM), len(POLYMATH), len(codes())) == (17, 18, 34)
    assert set(TRAINED_ON) == {
        row["code"] for row in listing() if "built-in world" in row["used_in"]
    }


@pytest.mark.parametrize("code", TRAINED_ON)
def test_the_strings_that_shipped_models_were_trained_on_stay(code: str):
    keys = {"instruction", "transition", "think_prefix", "labels"}
    strings = json.dumps(language(code).model_dump(include=keys), sort_keys=True)
    assert hashlib.sha256(strings.encode()).hexdigest()[:16] == TRAINED_ON[code]
    assert language(code).closing == language(code).instruction


def test_no_two_languages_share_a_name_or_a_prefix():
    read = [language(code) for code in codes()]
    names = [name for one in read for name in one.names]
    assert len(set(names)) == len(names)
    assert len({one.think_prefix for one in read}) == len(read)


def test_only_english_has_been_read_by_a_speaker():
    assert [row["code"] for row in listing() if row["verified"]] == ["eng"]


def test_the_teachers_last_line_asks_for_the_language_where_the_file_says_so():
    told = {code for code in codes() if language(code).final_instruction is not None}
    assert told == set(POLYMATH) - {"eng", "swa"}
    assert language("deu").closing == language("deu").final_instruction
    assert "Deutsch" in language("deu").closing
    assert language("amh").closing == language("amh").instruction


def test_the_decimal_mark_is_a_comma_where_the_docs_say_so():
    with_comma = [code for code in codes() if language(code).decimal_mark == ","]
    assert with_comma == ["deu", "fra", "ind", "ita", "lin", "por", "rus", "spa", "vie", "wol"]


@pytest.mark.parametrize("code", ["xxx", "", "SWA", "../eng", "en", "swahili"])
def test_an_unknown_code_names_the_known_ones(code: str):
    with pytest.raises(UserError) as error:
        language(code)
    told = str(error.value)
    assert told.startswith(f"unknown language '{code}'; ") and "\n" not in told
    assert all(f"{known} ({language(known).name})" in told for known in codes())


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("swa", "swa"),
        ("SWA", "swa"),
        ("sw", "swa"),
        ("Swahili", "swa"),
        ("kiSwahili", "swa"),
        ("swh", "swa"),
        (" yoruba ", "yor"),
        ("Yorùbá", "yor"),
        (unicodedata.normalize("NFD", "Yorùbá"), "yor"),
        ("አማርኛ", "amh"),
        ("ꕙꔤ", "vai"),
        ("Русский", "rus"),
        ("afaan oromoo", "orm"),
        ("ganda", "lug"),
        ("zh-CN", "zho"),
        ("BN", "ben"),
    ],
)
def test_a_language_is_found_by_code_alias_and_name(name: str, code: str):
    assert resolve(name) == code


@pytest.mark.parametrize(
    ("name", "near"),
    [("swahilli", "swa (Swahili)"), ("Yorubaa", "yor (Yoruba)"), ("germn", "deu (German)")],
)
def test_an_unknown_name_suggests_a_near_one(name: str, near: str):
    with pytest.raises(UserError, match="unknown language") as error:
        resolve(name)
    assert f"did you mean {near}?" in str(error.value)
    assert "path of a language file" in str(error.value)


def test_nothing_near_is_not_suggested():
    with pytest.raises(UserError) as error:
        resolve("Klingon")
    assert "did you mean" not in str(error.value)


def test_a_language_of_ones_own_is_found_after_its_file_was_named(tmp_path: Path):
    path = written(tmp_path)
    with pytest.raises(UserError):
        language("som")
    assert resolve(str(path)) == "som"
    assert language("som").name == "Somali" and "som" in codes()
    assert resolve("so") == resolve("SOMALI") == resolve("som") == "som"
    assert fill("student", Problem("1 + 1?", language="som")).endswith(SOMALI["instruction"])


def test_a_file_with_a_shipped_code_takes_its_place(tmp_path: Path):
    shipped = language("vai").instruction
    own = "Ordinary words of ours, and the answer in \\boxed{}."
    path = written(
        tmp_path, {**SOMALI, "code": "vai", "name": "Vai", "aliases": []}, instruction=own
    )
    assert resolve(str(path)) == "vai"
    assert language("vai").instruction == own != shipped
    assert codes().count("vai") == 1 and resolve("Vai") == "vai"


def test_of_two_files_for_one_language_the_one_named_last_counts(tmp_path: Path):
    first = written(tmp_path)
    (tmp_path / "other").mkdir()
    second = written(tmp_path / "other", think_prefix="Af Soomaali.")
    for path, prefix in [(first, SOMALI["think_prefix"]), (second, "Af Soomaali.")] * 2:
        resolve(str(path))
        assert language("som").think_prefix == prefix


def test_a_file_is_read_once(tmp_path: Path):
    path = written(tmp_path)
    resolve(str(path))
    path.unlink()
    assert resolve(str(path)) == "som"


def test_a_file_with_faults_is_refused_with_the_first_of_them(tmp_path: Path):
    path = written(tmp_path, think_prefix="", transition=None)
    with pytest.raises(UserError) as error:
        resolve(str(path))
    told = str(error.value)
    assert told.startswith(f"{path}, transition: is missing") and "(1 more" in told
    assert "som" not in codes()


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(UserError, match=r"no/such\.yaml: cannot be read: No such file"):
        resolve("no/such.yaml")


BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"transition": None}, "transition: is missing"),
    ({"labels": {"begin": ["x"]}}, "labels.begin: is not a text; put it in single quotes"),
    ({"think_prefx": "Haa."}, "think_prefx: unknown key; did you mean 'think_prefix'?"),
    ({"labels": {"colour": "Haa"}}, "labels.colour: unknown key; known: problem, translation"),
    ({"decimal_mark": ";"}, "decimal_mark: input should be '.' or ','"),
    ({"verified": "perhaps"}, "verified: input should be a valid boolean"),
    ({"aliases": "so"}, "aliases: input should be a valid tuple"),
    ({"aliases": ["so", "sw"]}, "aliases.1: 'sw' already names swa"),
    ({"name": "swahili"}, "name: 'swahili' already names swa"),
    ({"code": "so"}, "code: 'so' is not an ISO 639-3 code"),
    ({"code": "SOM"}, "code: 'SOM' is not an ISO 639-3 code"),
    ({"script": "latin"}, "script: 'latin' is not an ISO 15924 code"),
    ({"direction": "rtl"}, "direction: is rtl, and Latn is written ltr; write ltr"),
    ({"instruction": "Fakar oo qor."}, "instruction: contains no \\boxed{}"),
    ({"instruction": "Ku qor \\boxed{x}."}, "instruction: contains no \\boxed{}"),
    ({"final_instruction": "Ku qor Soomaali."}, "final_instruction: contains no \\boxed{}"),
    ({"transition": ""}, "transition: is empty"),
    ({"transition": "  "}, "transition: is empty"),
    ({"aliases": [" "]}, "aliases.0: is empty"),
    ({"labels": {"solution": ""}}, "labels.solution: is empty"),
    ({"transition": "Faham.\n"}, "transition: begins or ends with a space or a line break"),
    ({"think_prefix": ""}, "think_prefix: is empty"),
    ({"think_prefix": "Haa.\nWaan fakarayaa."}, "think_prefix: contains a line break"),
    ({"think_prefix": "<think> Haa."}, "think_prefix: contains a tag"),
    ({"think_prefix": "Haa \\boxed{}."}, "think_prefix: contains \\boxed"),
    ({"transition": "Faham {{ problem }}."}, "transition: contains the template mark '{{'"),
    ({"transition": "Faham {% raw %}."}, "transition: contains the template mark '{%'"),
    ({"transition": "Разберись."}, "transition: 9 of its 9 letters are not of the script Latn"),
    ({"think_prefix": "Haa \u202eenab."}, "contains U+202E (RIGHT-TO-LEFT OVERRIDE)"),
    ({"labels": {"end": "dhammaad\u200f"}}, "labels.end: contains U+200F (RIGHT-TO-LEFT MARK)"),
    ({"transition": "Faham \x08oxed."}, "transition: contains U+0008 (a control character)"),
    ({"think_prefix": "Cafe\u0301."}, "think_prefix: is not NFC-normalised"),
    ({"labels": {"begin": "[xal]", "end": "[xal]"}}, "labels.end: is the same as labels.begin"),
    ({"numerals": {0: None}}, "numerals.0.0: is not a text; put it in single quotes"),
    ({"numerals": {1: "kow", 2: ["laba", "Kow"]}}, "numerals.2: 'Kow' is 1 as well"),
    ({"numerals": {3: ["saddex", " sadex"]}}, "numerals.3: begins or ends with a space"),
    ({"numerals": {-1: "kow"}}, "numerals.-1.[key]: input should be greater than or equal to 0"),
    ({"numerals": ["kow"]}, "numerals: input should be a valid dictionary"),
]


@pytest.mark.parametrize(("changes", "told"), BROKEN, ids=[told for _, told in BROKEN])
def test_the_check_names_file_key_and_cure(changes: dict[str, Any], told: str, tmp_path: Path):
    path = written(tmp_path, **changes)
    found = check(path)
    assert all(line.startswith(f"{path}, ") and "\n" not in line for line in found)
    assert any(told in line for line in found), found
    assert len(found) == 1


def test_every_string_in_another_script_is_named(tmp_path: Path):
    found = check(written(tmp_path, script="Ethi"))
    assert len(found) == 8 and all("letters are not of the script Ethi" in line for line in found)


@pytest.mark.parametrize("changes", [{}, {"direction": None}, {"script": "Zzzz"}])
def test_a_right_to_left_file_is_checked_against_its_direction(changes, tmp_path: Path):
    found = check(written(tmp_path, ARABIC, **changes))
    wrong = f"{tmp_path / 'arb.yaml'}, direction: is ltr, and Arab is written rtl; write rtl"
    assert found == ([wrong] if "direction" in changes else [])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "has no keys"),
        ("- code\n", "has no keys"),
        ("code: som\nlabels: [", "not YAML"),
        ("transition: Fahamka: dhammaad\n", "not YAML"),
        (b"name: \xff\xfe", "not UTF-8 text"),
    ],
)
def test_a_file_that_is_no_mapping_is_told_apart(text: str | bytes, told: str, tmp_path: Path):
    path = tmp_path / "som.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    (found,) = check(path)
    assert found.startswith(f"{path}: ") and told in found and "\n" not in found


def test_double_quotes_spoil_the_box_and_the_check_says_how_to_write_it(tmp_path: Path):
    path = written(tmp_path)
    text = path.read_text("utf-8")
    line = next(line for line in text.splitlines() if line.startswith("instruction"))
    path.write_text(text.replace(line, 'instruction: "Ku qor \\boxed{}."'), "utf-8")
    assert any("add it, and do not use double quotes" in found for found in check(path))


def test_strings_that_no_speaker_has_read_are_remarked_upon(tmp_path: Path):
    assert remarks(written(tmp_path)) == [
        f"{tmp_path / 'som.yaml'}, verified: no speaker has read these strings;"
        " set it to true when one has"
    ]
    assert remarks(written(tmp_path, verified=True)) == []


def test_the_command_prints_every_finding_and_counts_them(tmp_path: Path, capsys):
    path = written(tmp_path, think_prefix="", transition=None)
    with pytest.raises(UserError) as error:
        check_file(path)
    assert str(error.value) == f"{path}: 2 faults; fix what is listed"
    assert capsys.readouterr().out.splitlines() == check(path)


def test_the_command_says_that_a_file_can_be_used(tmp_path: Path, capsys):
    path = written(tmp_path)
    check_file(path)
    remark, verdict = capsys.readouterr().out.splitlines()
    assert remark == remarks(path)[0]
    assert verdict == f"{path}: Somali (som) can be used"


def test_the_listing_is_plain_data_and_the_table_shows_it(capsys):
    rows = {row["code"]: row for row in json.loads(json.dumps(listing()))}
    assert rows["swa"]["used_in"] == ["AfriMGSM", "PolyMath", "built-in world"]
    assert rows["amh"] == {
        "code": "amh",
        "name": "Amharic",
        "aliases": ["am", "amharic", "አማርኛ"],
        "script": "Ethi",
        "direction": "ltr",
        "decimal_mark": ".",
        "verified": False,
        "note": "",
        "used_in": ["AfriMGSM"],
    }
    show()
    shown = capsys.readouterr().out
    assert all(row["code"] in shown and row["name"] in shown for row in rows.values())
    assert f"vai: {rows['vai']['note'][:30]}" in shown


@pytest.mark.parametrize("code", ["arb", "amh", "tha", "jpn", "vai"])
def test_prompts_in_other_scripts_hold_what_they_are_given(code: str, tmp_path: Path, tokenizer):
    if code == "arb":
        resolve(str(written(tmp_path, ARABIC)))
    known = language(code)
    problem = Problem(
        "3 × 4 = ?",
        language=code,
        privileged={"translation": "What is 3 × 4?", "solution": "\\boxed{12}"},
    )
    assert fill("student", problem) == f"3 × 4 = ?\n\n{known.instruction}"
    lines = fill(
        "crosslingual", problem, include=("problem", "translation", "solution")
    ).splitlines()
    assert lines[:8] == [
        f"{known.labels.problem}: 3 × 4 = ?",
        "",
        f"{known.labels.translation}: What is 3 × 4?",
        "",
        f"{known.labels.solution}:",
        known.labels.begin,
        "\\boxed{12}",
        known.labels.end,
    ]
    assert lines[8:10] == ["", known.transition]
    thinking = {"enable_thinking": True}
    prefill = "<think>\n{{ think_prefix }}"
    asked = view("student", problem, "student", prefill=prefill, template_options=thinking)
    text = tokenizer.decode(prompt_ids(tokenizer, asked))
    assert known.instruction in text and text.endswith(f"<think>\n{known.think_prefix}")
