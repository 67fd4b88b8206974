"""Recipes: what ships loads, what is written comes back, and mistakes are one line."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests import arrange

from opsd import methods
from opsd.data.problems import Data
from opsd.languages.registry import language
from opsd.methods.signals import loss_terms
from opsd.objective.divergences import PointwiseClip, jsd, reverse_kl
from opsd.prompts.contexts import StudentPrompt
from opsd.recipe import schema as recipe
from opsd.recipe.content import Model, Sampling
from opsd.recipe.files import shipped
from opsd.recipe.schema import Recipe, dump, load, parse
from opsd.teacher.weights import EMA
from opsd.types import Group, UserError

SMALL: dict[str, Any] = {"model": "miniature", "method": "opsd", "data": {"source": "miniature"}}


def message(content: dict[str, Any] | None = None, **changes: Any) -> str:
    """The one line that a recipe ends with."""
    with pytest.raises(UserError) as error:
        parse({**SMALL, **(content or {}), **changes}, "r.yaml")
    told = str(error.value)
    assert told.startswith("r.yaml: ") and "\n" not in told
    return told.removeprefix("r.yaml: ")


def write(tmp_path: Path, content: Any = SMALL) -> str:
    path = tmp_path / "r.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return str(path)


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_recipe_is_short_loads_and_comes_back(name: str):
    assert len(shipped()[name].read_text("utf-8").splitlines()) <= 40
    loaded = load(name)
    assert parse(yaml.safe_load(dump(loaded))) == loaded
    assert dump(parse(yaml.safe_load(dump(loaded)))) == dump(loaded)


def test_a_recipe_of_a_published_setting_is_named_after_its_method():
    for name in shipped():
        assert name.startswith(("quickstart", "smollm2", load(name).method.name))


def comment(name: str) -> str:
    """What a recipe's file says before its first key, as one line."""
    lines = shipped()[name].read_text("utf-8").splitlines()
    return " ".join(line.removeprefix("# ") for line in takewhile(lambda x: x[:1] == "#", lines))


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_recipe_says_how_many_rollouts_a_step_has(name: str):
    loaded = load(name)
    rollouts, batch = loaded.train["rollouts_per_step"], loaded.train["per_device_train_batch_size"]
    assert "gradient_accumulation_steps" not in loaded.train
    assert rollouts % batch == 0 and rollouts % loaded.method.source.group == 0
    assert "rollouts" not in comment(name) and "processes" not in comment(name)


SAID = [
    (name, found.rstrip(".,;:").strip("'"))
    for name in shipped()
    for found in re.findall(r"--set ('[^']+'|\S+)", comment(name))
]


@pytest.mark.parametrize(("name", "said"), SAID)
def test_what_a_recipe_tells_to_set_can_be_set(name: str, said: str):
    assert load(name, [said]) != load(name)


def test_recipes_say_what_to_set():
    assert len(SAID) > 10


@pytest.mark.parametrize("name", shipped())
def test_published_numbers_say_of_what(name: str):
    suites = {"aime24", "aime25", "hmmt25", "amo_bench", "afrimgsm", "polymath"}
    suites |= {f"sciknoweval_{x}" for x in ("biology", "chemistry", "materials", "physics")}
    suites |= {"openmathreasoning_30"}
    numbers = load(name).published
    ours = ("quickstart", "star", "off_policy_distillation", "copsd-joint", "topd", "popd", "sdpo")
    ours += ("sdft", "ssopd", "rlsd", "hdpo", "paced", "opcd", "crisp", "rcsd")
    ours += ("beta_opsd-qwen3", "sgsd-qwen3", "copsd-more_languages", "grpo-frontier")
    ours += (
        "nsd",
        "op2sd",
        "opsa",
        "opsd-teacher_right",
        "opsd_ectr",
        "rlcsd",
        "sdpg",
        "u_opsd",
        "opcod",
        "d_opsd",
        "diffu_grpo",
        "diffusion_sft",
        "ssd",
        "trajectory_grpo",
        "dopsd_trajectory",
        "spd",
        "smollm2",
    )
    assert bool(numbers) != name.startswith(ours)
    for number in numbers:
        assert number.suite in suites
        assert re.search(r"Table|Figure|table|step \d+", number.where)
        if number.language is not None:
            assert len(number.language) == 3
    keys = [(n.suite, n.metric, n.where, n.language, n.split, n.budget) for n in numbers]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("name", [name for name in shipped() if "copsd" in name])
def test_roles_of_crosslingual_recipes_think_in_the_problems_language(name: str):
    method = load(name).method
    hausa = arrange.problems(1, "hau")[0]
    french = {"translation_fra": "Combien ?", "solution_fra": "17 + 25 = 42"}
    hausa = replace(hausa, privileged={**hausa.privileged, **french})
    views = [method.student.view(hausa)]
    views += [
        view
        for _, leaf in loss_terms(method.signal)
        if leaf.teacher is not None
        for view in leaf.teacher.context(Group(hausa, ()), 0)
    ]
    assert len(views) == (1 if name.startswith("grpo") else 2)
    for view in views:
        assert view.prefill == f"<think>\n{language('hau').think_prefix}"
        assert view.template_options == {"enable_thinking": True}


def test_the_documentation_lists_every_recipe_once_with_its_numbers():
    text = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text("utf-8")
    rows = re.findall(r"^\| \[`(.+?)`\].*", text, re.M)
    assert sorted(rows) == sorted(shipped())
    for name in rows:
        (row,) = re.findall(rf"^\| \[`{name}`\].*", text, re.M)
        numbers = load(name).published
        printed = re.findall(r"\*\*(.+?)\*\*", row)
        assert sorted(printed) == sorted(str(number.value) for number in numbers)
        assert all(number.where in row for number in numbers)


def test_every_command_of_the_documentation_names_a_recipe_and_settings_that_exist():
    text = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text("utf-8")
    commands = re.findall(r"opsd train (\S+)((?: --set (?:'[^']+'|\S+))+)", text)
    assert len(commands) > 3
    for name, said in commands:
        settings = [x.strip("'") for x in re.findall(r"--set ('[^']+'|\S+)", said.rstrip("`|. "))]
        for setting in settings:
            assert load(name, [setting]) != load(name), (name, setting)


def test_a_number_is_published_for_a_suite_by_a_metric():
    number = {"suite": "aime24", "metric": "avg@12", "value": 57.2, "where": "Table 2"}
    assert parse({**SMALL, "published": [number]}).published[0].budget is None
    for key, wrong in (("suite", "AIME 24"), ("metric", "accuracy"), ("value", 572)):
        told = message(published=[number | {key: wrong}])
        assert told.startswith(f"published.0.{key}: ")


def test_what_python_writes_comes_back_from_the_file(tmp_path: Path):
    method = methods.copsd(divergence=reverse_kl)
    changed = type(method)(
        name="copsd",
        paper=method.paper,
        signal=method.signal,
        student=StudentPrompt(template_options={"other": 1}, prefill=""),
        reuse=3,
    )
    plain = type(method)("copsd", method.signal, student=StudentPrompt())
    for value in (changed, plain, methods.grpo(beta=0.1, group=4, reuse=2)):
        made = Recipe(model=Model(name="miniature"), method=value, data=Data(source="miniature"))
        assert load(write(tmp_path, dump(made))) == made


def test_a_models_name_alone_is_a_model():
    assert parse(SMALL).model == Model(name="miniature")
    assert parse({**SMALL, "model": {"name": "m", "lora": {"r": 8}}}).model.lora.r == 8


def test_a_methods_name_alone_is_the_catalogues():
    assert parse(SMALL).method == methods.opsd()


def test_arguments_of_the_catalogues_function_are_taken():
    given = {"name": "grpo", "beta": 0.1, "group": 2}
    assert parse({**SMALL, "method": given}).method == methods.grpo(beta=0.1, group=2)
    given = {"name": "opsd", "divergence": {"type": "jsd", "beta": 0.3}}
    assert parse({**SMALL, "method": given}).method == methods.opsd(divergence=jsd(0.3))


def test_parts_are_changed_key_by_key_and_replaced_where_the_type_changes():
    teacher = {"weights": {"type": "ema", "decay": 0.5}}
    made = recipe.method({"name": "opsd", "signal": {"teacher": teacher}})
    signal = methods.opsd().signal
    assert made.signal.teacher.weights == EMA(0.5)
    assert made.signal.teacher.context == signal.teacher.context
    assert made.signal.divergence == signal.divergence
    clip = recipe.method({"name": "opsd", "signal": {"divergence": {"cap": 0.1}}})
    assert clip.signal.divergence == PointwiseClip(signal.divergence.divergence, 0.1)
    other = recipe.method({"name": "opsd", "signal": {"type": "likelihood"}})
    assert [leaf.type for _, leaf in loss_terms(other.signal)] == ["likelihood"]


def test_template_options_are_replaced_and_can_be_emptied():
    made = recipe.method({"name": "opsd", "student": {"template_options": {}}})
    assert made.student == StudentPrompt(template_options={})


def test_overrides_reach_every_level(tmp_path: Path):
    made = load(
        write(tmp_path),
        [
            "method.signal.divergence.cap=0.2",
            "method.student.template=solution",
            "model.lora.r=8",
            "sampling.top_k=5",
            "train.learning_rate=1e-4",
            "train.max_steps=7",
            "data.language=swa",
            "data.columns.prompt=question",
            "sampling.temperature=0.5",
            "sampling.temperature=0.75",
        ],
    )
    assert made.method.signal.divergence.cap == 0.2
    assert made.method.student.template == "solution"
    assert made.model.lora.r == 8
    assert made.sampling == Sampling(top_k=5, temperature=0.75)
    assert made.train == {"learning_rate": 1e-4, "max_steps": 7}
    assert made.data == Data(source="miniature", language="swa", columns={"prompt": "question"})


def test_an_overridden_type_takes_the_other_ones_keys_away(tmp_path: Path):
    divergence = "method={name: opsd, divergence: {type: jsd, beta: 0.3}}"
    made = load(write(tmp_path), [divergence, "method.divergence.type=reverse_kl"])
    assert made.method.signal.divergence == reverse_kl
    again = [divergence, "method.divergence.type=jsd"]
    assert load(write(tmp_path), again).method.signal.divergence == jsd(0.3)


def test_an_override_may_be_a_whole_method(tmp_path: Path):
    assert load(write(tmp_path), ["method=grpo"]).method == methods.grpo()
    assert load(write(tmp_path), ["method={name: grpo, beta: 0.2}"]).method == methods.grpo(0.2)


def test_what_the_recipe_of_copsd_says_of_the_papers_text_works():
    made = load("copsd", ["method.divergence.type=reverse_kl"])
    assert made.method == methods.copsd(divergence=reverse_kl)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("train.max_steps", "write it as key.path=value"),
        ("=3", "write it as key.path=value"),
        ("data.source.file=x", "'source' is a value, not a group of keys"),
        ("method={", "--set method={: not YAML"),
    ],
)
def test_an_override_that_is_none_is_refused(tmp_path: Path, override: str, told: str):
    with pytest.raises(UserError) as error:
        load(write(tmp_path), [override])
    assert str(error.value).startswith(f"--set {override}: ") and told in str(error.value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"colour": "red"}, "colour: unknown key"),
        ({"data": {"source": "x", "colum": {}}}, "data.colum: unknown key"),
        ({"data": {}}, "data.source: Field required"),
        ({"sampling": {"topk": 3}}, "sampling.topk: unknown key"),
        (
            {"sampling": {"temperature": 0}},
            "sampling.temperature: Input should be greater than or equal to 0.001",
        ),
        ({"engine": "vlm"}, "engine: it is hf, vllm, vllm_server"),
        ({"engine": {"type": "vllm", "sleeps": True}}, "engine.sleeps: unknown key"),
        ({"model": {"name": "m", "lora": {"rank": 8}}}, "model.lora.rank: unknown key"),
        ({"method": "opsdd"}, "unknown method 'opsdd'; did you mean 'opsd'? known: beta_opsd"),
        ({"method": None}, "method is a name, or a mapping"),
        ({"method": ["opsd"]}, "method is a name, or a mapping"),
        ({"method": {"name": ["opsd"]}}, "unknown method '['opsd']'"),
        ({"method": {"name": "opsd", "sorce": {}}}, "method.sorce: unknown key"),
        ({"method": {"name": "opsd", "reuse": 0}}, "method.reuse: Input should be greater than 0"),
        (
            {"method": {"name": "opsd", "divergence": {"type": "jsd", "beta": 1}}},
            "method.divergence.beta: Input should be less than 1",
        ),
        (
            {"method": {"name": "opsd", "divergence": {"type": "jsd", "beta": 0}}},
            "method.divergence.beta: Input should be greater than 0",
        ),
        (
            {"method": {"name": "opsd", "divergence": {"type": "kl"}}},
            "method.divergence: it is forward_kl",
        ),
        ({"method": {"name": "grpo", "beta": "much"}}, "method.beta: Input should be a valid num"),
        (
            {"method": {"name": "opsd", "signal": {"teacher": {"weights": {"type": "emma"}}}}},
            "method.signal.teacher.weights: it is frozen",
        ),
        (
            {"method": {"name": "opsd", "signal": {"teacher": {"context": {"prefil": "x"}}}}},
            "method.signal.teacher.context.prefil: unknown key",
        ),
        ({"train": {"max_stpes": 3}}, "train.max_stpes: unknown key; did you mean 'max_steps'?"),
        ({"train": {"max_steps": "ten"}}, "train.max_steps: Input should be a valid integer"),
        ({"train": {"learning_rate": "fast"}}, "train.learning_rate: Input should be a valid num"),
        *(
            ({"train": {key: 1}}, f"train.{key} belongs under 'sampling'")
            for key in Sampling.model_fields
        ),
    ],
)
def test_a_mistake_is_named_with_its_key(change: dict[str, Any], told: str):
    assert message(change).startswith(told)


def test_further_mistakes_are_counted():
    assert message(colour="red", shape="round") == "colour: unknown key (and 1 more)"


@pytest.mark.parametrize("text", ["a: [", "- 1", "just text", "", "\x00"])
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, text: str):
    path = write(tmp_path, text)
    with pytest.raises(UserError) as error:
        load(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_names_and_files_that_are_not_there_are_refused():
    with pytest.raises(UserError, match=r"no recipe file 'no/such\.yaml'"):
        load("no/such.yaml")
    with pytest.raises(UserError, match=r"no recipe 'opds': neither a \.yaml file"):
        load("opds")


def test_a_file_is_guessed_by_more_than_its_folder_and_suffix(tmp_path: Path):
    (tmp_path / "words.yaml").touch()
    for name, guess in (("nosuch", ""), ("wrods", f"; did you mean '{tmp_path / 'words.yaml'}'?")):
        with pytest.raises(UserError) as error:
            load(str(tmp_path / f"{name}.yaml"))
        assert str(error.value) == f"no recipe file '{tmp_path / name}.yaml'{guess}"


def folder(tmp_path: Path, **files: Any) -> str:
    """Recipes in a folder, each under its key; the path of the one called `child`."""
    for name, content in files.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return str(tmp_path / "child.yaml")


def extended(tmp_path: Path, child: dict[str, Any], parent: dict[str, Any]) -> Recipe:
    return load(folder(tmp_path, child={"extends": "parent.yaml", **child}, parent=parent))


def test_null_takes_away_what_the_parent_says_of_the_data(tmp_path: Path):
    parent = {**SMALL, "data": {"source": "rows.jsonl", "dev": 4, "columns": {"answer": "a"}}}
    made = extended(tmp_path, {"data": {"dev": None, "columns": None}}, parent)
    assert made.data == Data(source="rows.jsonl")


def test_whole_numbers_are_written_as_such():
    made = parse({**SMALL, "data": {"source": "miniature", "dev": 6}, "train": {"save_steps": 2}})
    assert "dev: 6\n" in dump(made) and "save_steps: 2\n" in dump(made)
    shares = {"data": {"source": "miniature", "dev": 0.5}, "train": {"save_steps": 0.5}}
    written = dump(parse({**SMALL, **shares}))
    assert "dev: 0.5\n" in written and "save_steps: 0.5\n" in written


def test_a_recipe_differs_from_the_one_it_extends_in_what_it_says(tmp_path: Path):
    parent = {
        **SMALL,
        "model": {"name": "big", "lora": {"r": 8}},
        "method": {"name": "opsd", "signal": {"divergence": {"cap": 0.1}}},
        "data": {"source": "rows.jsonl", "language": ["hau", "swa"], "columns": {"answer": "a"}},
        "train": {"max_steps": 5, "seed": 1},
    }
    child = {
        "model": {"name": "small"},
        "method": {"signal": {"teacher": {"weights": {"type": "ema", "decay": 0.5}}}},
        "data": {"language": ["zul"], "columns": {"problem": "p"}},
        "train": {"max_steps": 7},
    }
    made = extended(tmp_path, child, parent)
    assert (made.model.name, made.model.lora.r) == ("small", 8)
    assert made.method.signal.divergence.cap == 0.1
    assert made.method.signal.teacher.weights == EMA(0.5)
    assert made.data.language == ("zul",)
    assert made.data.columns == {"answer": "a", "problem": "p"}
    assert made.train == {"max_steps": 7, "seed": 1}


@pytest.mark.parametrize(
    ("parent", "child", "same_as"),
    [
        # A value replaces, a mapping is laid over; a name that is given alone is a mapping's.
        ("opsd", {"reuse": 2}, {"name": "opsd", "reuse": 2}),
        ({"name": "opsd", "reuse": 2}, "opsd", "opsd"),
        (
            {"name": "opsd", "reuse": 2},
            {"name": "opsd", "signal": {"divergence": {"cap": 1}}},
            None,
        ),
        ({"name": "grpo", "group": 4, "beta": 0.1}, {"beta": 0.2}, None),
        # Parts of one method say nothing of another.
        ({"name": "opsd", "reuse": 2}, {"name": "grpo", "group": 4}, {"name": "grpo", "group": 4}),
        ({"name": "opsd", "reuse": 2}, "grpo", "grpo"),
        # Nor do those of a part of another type.
        (
            {"name": "opsd", "divergence": {"type": "jsd", "beta": 0.3}},
            {"divergence": {"type": "forward_kl"}},
            {"name": "opsd", "divergence": {"type": "forward_kl"}},
        ),
        (
            {"name": "opsd", "student": {"template_options": {"enable_thinking": True}}},
            {"student": {"template_options": {}}},
            {"name": "opsd", "student": {"template_options": {}}},
        ),
    ],
)
def test_a_method_is_laid_over_one_of_its_name(
    parent: Any, child: Any, same_as: Any, tmp_path: Path
):
    made = extended(tmp_path, {"method": child}, {**SMALL, "method": parent})
    assert made.method == recipe.method(same_as or {**parent, **child})


def test_an_engine_of_another_type_replaces_the_parents(tmp_path: Path):
    vllm = {**SMALL, "engine": {"type": "vllm", "sleep": True}}
    assert extended(tmp_path, {"engine": "hf"}, vllm).engine == parse(SMALL).engine
    assert extended(tmp_path, {"engine": {"type": "hf"}}, vllm).engine == parse(SMALL).engine
    changed = extended(tmp_path, {"engine": {"sleep": True}}, {**SMALL, "engine": "vllm"})
    assert changed == parse(vllm)


@pytest.mark.parametrize("same", ["vllm", {"type": "vllm"}])
def test_a_part_by_its_name_alone_is_the_mapping_that_says_no_more(same: Any, tmp_path: Path):
    vllm = {**SMALL, "engine": {"type": "vllm", "sleep": True}}
    assert extended(tmp_path, {"engine": same}, vllm) == parse(vllm)
    lora = {**SMALL, "model": {"name": "big", "lora": {"r": 8}}}
    assert extended(tmp_path, {"model": "small"}, lora).model == Model(name="small", lora={"r": 8})


@pytest.mark.parametrize("model", ["small", {"name": "small"}])
def test_what_is_said_of_one_repository_is_not_of_another(model: Any, tmp_path: Path):
    pinned = {"name": "big", "revision": "abc", "trust_remote_code": True, "dtype": "float32"}
    parent = {**SMALL, "model": pinned}
    made = extended(tmp_path, {"model": model}, parent).model
    assert made == Model(name="small", dtype="float32")
    own = {"name": "small", "revision": "def"}
    assert extended(tmp_path, {"model": own}, parent).model.revision == "def"
    for same in ({"dtype": "float32"}, {"name": "big"}, "big"):
        assert extended(tmp_path, {"model": same}, parent).model == Model(**pinned)


def test_published_numbers_are_not_inherited(tmp_path: Path):
    number = {"suite": "aime24", "metric": "avg@12", "value": 57.2, "where": "Table 2"}
    parent = {**SMALL, "published": [number, number | {"suite": "aime25"}]}
    assert extended(tmp_path, {}, parent).published == []
    (own,) = extended(tmp_path, {"published": [number | {"value": 3}]}, parent).published
    assert own.value == 3


def test_a_shipped_recipe_is_extended_by_its_name_and_chains_end(tmp_path: Path):
    path = folder(
        tmp_path,
        child={"extends": "middle.yaml", "train": {"seed": 3}},
        middle={"extends": "opsd-qwen3-4b", "train": {"seed": 2, "max_steps": 7}},
    )
    shipped, made = load("opsd-qwen3-4b"), load(path, ["train.save_steps=9"])
    assert made.train == shipped.train | {"seed": 3, "max_steps": 7, "save_steps": 9}
    assert (made.model, made.method, made.data) == (shipped.model, shipped.method, shipped.data)
    assert "extends" not in dump(made) and load(write(tmp_path, dump(made))) == made


def test_paths_and_templates_are_of_the_folder_of_the_file_that_names_them(tmp_path: Path):
    (tmp_path / "base").mkdir()
    (tmp_path / "own").mkdir()
    (tmp_path / "base" / "ask.jinja").write_text("Base: {{ problem }}")
    (tmp_path / "own" / "ask.jinja").write_text("Own: {{ problem }}")
    student = {"template": "ask.jinja"}
    folder(tmp_path / "base", parent={**SMALL, "method": {"name": "opsd", "student": student}})
    extends = {"extends": "../base/parent.yaml"}
    path = folder(tmp_path / "own", child=extends)
    assert load(path).method.student.template == "Base: {{ problem }}\n"
    path = folder(tmp_path / "own", child={**extends, "method": {"student": student}})
    assert load(path).method.student.template == "Own: {{ problem }}\n"


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"child": {"extends": "no.yaml"}}, "extends: no file '{0}/no.yaml'; the path is"),
        ({"child": {"extends": f"{'x' * 300}.yaml"}}, "extends: no file '{0}/xxx"),
        ({"child": {"extends": "opds"}}, "extends: no recipe 'opds': neither a .yaml file"),
        ({"child": {"extends": ["opsd"]}}, "extends: a shipped recipe's name, or the path of a"),
        (
            {"child": {"extends": "a\nb"}},
            "extends: a shipped recipe's name, or the path of a .yaml",
        ),
        ({"child": {"extends": None}}, "extends: a shipped recipe's name, or the path of a .yaml"),
        ({"child": {"extends": "child.yaml"}}, "extends: 'child.yaml' extends this recipe in turn"),
        (
            {"child": {"extends": "b.yaml"}, "b": {"extends": "../{1}/child.yaml"}},
            "extends: '../{1}/child.yaml' extends this recipe in turn; remove one of the two",
        ),
        ({"child": {"extends": "b.yaml"}, "b": [1]}, "extends: {0}/b.yaml: not a mapping of keys"),
        (
            {"child": {"extends": "b.yaml", "train": {"sed": 1}}, "b": SMALL},
            "train.sed: unknown key; did you mean 'seed'?",
        ),
    ],
)
def test_what_cannot_be_extended_is_said_in_one_line(
    files: dict[str, Any], told: str, tmp_path: Path
):
    named = yaml.safe_load(yaml.safe_dump(files).replace("{1}", tmp_path.name))
    path = folder(tmp_path, **named)
    with pytest.raises(UserError) as error:
        load(path)
    at = f"{tmp_path / ('b' if '{1}' in told else 'child')}.yaml"
    expected = told.replace("{0}", str(tmp_path)).replace("{1}", tmp_path.name)
    assert str(error.value).startswith(f"{at}: {expected}") and "\n" not in str(error.value)


def test_a_step_has_its_rollouts_or_its_passes(tmp_path: Path):
    both = {"rollouts_per_step": 32, "gradient_accumulation_steps": 4}
    told = message(train=both)
    assert told == (
        "train.gradient_accumulation_steps: it follows from rollouts_per_step; leave one of the two"
        " out, or set it to null"
    )
    passes = {"train": {"gradient_accumulation_steps": 4}}
    rollouts = {**SMALL, "train": {"rollouts_per_step": 32}}
    with pytest.raises(UserError, match="leave one of the two out"):
        extended(tmp_path, passes, rollouts)
    passes["train"]["rollouts_per_step"] = None
    assert extended(tmp_path, passes, rollouts).train == both | {"rollouts_per_step": None}
    without = ["train.gradient_accumulation_steps=null", "train.rollouts_per_step=16"]
    path = write(tmp_path, {**SMALL, "train": {"gradient_accumulation_steps": 4}})
    assert load(path, without).train["rollouts_per_step"] == 16


def test_a_strategy_that_yaml_reads_as_false_is_no():
    recipe = parse({**SMALL, "train": yaml.safe_load("{save_strategy: no, eval_strategy: no}")})
    assert recipe.train == {"save_strategy": "no", "eval_strategy": "no"}


def test_numbers_that_yaml_reads_as_text_are_numbers(tmp_path: Path):
    text = yaml.safe_dump(SMALL) + "train: {learning_rate: 5e-6, adam_epsilon: 1e-8}\n"
    made = load(write(tmp_path, text))
    assert made.train == {"learning_rate": 5e-6, "adam_epsilon": 1e-8}
    assert all(isinstance(value, float) for value in made.train.values())
