"""Odd input of every kind, made from a seed, and what becomes of it: for the tests beside this
file, and for as many examples as a runner likes."""

from __future__ import annotations

import itertools
import random
import tempfile
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

from opsd.authors.skills import read_bank
from opsd.languages import registry as languages
from opsd.languages.files import Labels, Language
from opsd.methods import FUNCTIONS
from opsd.prompts.prompt import fill
from opsd.recipe import schema as recipes
from opsd.recipe.schema import Recipe
from opsd.suites import files as suite_files
from opsd.training.config import OPSDConfig
from opsd.types import Problem, UserError


class Outcome(Enum):
    FINE = "fine"
    ONE_LINE = "one line"
    TRACEBACK = "traceback"


LEAVES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**63, 10**30, 0.0, -0.5, 1e308, float("nan"), float("inf")),
    *(
        "",
        " ",
        "a",
        "no",
        "~",
        "../",
        "/dev/null",
        "\t",
        "a\nb",
        "x" * 10_000,
        "\u202e",
        "\U0001f600",
    ),
    *("[", "{{ problem }}", "{% if %}", "{language}", "student", "miniature", "swa", "hf", "opsd"),
    *("2024-13-45", "0o99", "1e-4", "${HOME}", "a.yaml", "a:b", "--set", "%s", "\x1b[2J", "'", '"'),
)
RAW = (
    *("2024-13-45", "9" * 5000, "0x_", "0b_", "!!int x", "!!timestamp x", "!!bool x", "!!map [a]"),
    *("!!binary x", "!!set {a}", "!!python/name:os.system", "*a", "&a [*a]", "<<", "=", "? [a]"),
    *(
        "[" * 300,
        "{a: " * 300,
        '"\\0"',
        '"\\ud800"',
        "\t",
        "\0",
        "\x07",
        "|",
        ">",
        "%",
        "@",
        "`",
        "- ",
    ),
    *(
        "'",
        '"',
        "# a",
        "---",
        "...",
        "a: b: c",
        "{{a}}",
        "1:2:3",
        ".inf",
        "-.nan",
        "0o99",
        "\ufeff",
    ),
)
PIECES = (
    *("{{", "}}", "{%", "%}", "{#", "#}", "{{ problem }}", "{{ nothing }}", "{{ labels.begin }}"),
    *("{% for x in problem %}", "{% endfor %}", "{% if answer %}", "{% endif %}", "{% raw %}"),
    *(
        "{{ problem | upper }}",
        "{{ 1 / 0 }}",
        "{{ 'a' * 9 }}",
        "{{ problem.__class__ }}",
        "|",
        "''",
    ),
    *(
        "{% macro f() %}",
        "{% endmacro %}",
        "{{ f() }}",
        "{% set x = 1 %}",
        "{% include 'a' %}",
        "\0",
    ),
    *(
        "{{ x",
        "~ 1 }}",
        "student",
        "\n",
        " ",
        "{{ range(3) | list }}",
        "{{ ''.join(1) }}",
        "\U0001f600",
    ),
)
KEYS = tuple(
    dict.fromkeys(
        itertools.chain(
            Recipe.model_fields,
            ("extends",),
            ("name", "source", "signal", "student", "teacher", "context", "template", "prefill"),
            ("type", "terms", "weights", "divergence", "lora", "r", "columns", "language", "dev"),
            ("template_options", "horizon", "group", "beta", "reduction", "suite", "metric"),
            OPSDConfig.__dataclass_fields__,
        )
    )
)


def outcome(call: Callable[[], object]) -> Outcome:
    """What becomes of a call."""
    try:
        call()
    except UserError as error:
        return Outcome.ONE_LINE if "\n" not in str(error) and str(error) else Outcome.TRACEBACK
    except Exception:
        return Outcome.TRACEBACK
    return Outcome.FINE


def value(draw: random.Random, keys: tuple[str, ...] = KEYS, depth: int = 3) -> Any:
    """Any plain value: a leaf, a list, or a mapping of known keys."""
    kind = draw.random()
    if depth == 0 or kind < 0.5:
        return draw.choice(LEAVES)
    if kind < 0.6:
        return [value(draw, keys, depth - 1) for _ in range(draw.randrange(4))]
    odd: tuple[Any, ...] = (1, None, "", "a.b", True)
    names = [draw.choice(keys if draw.random() < 0.9 else odd) for _ in range(draw.randrange(4))]
    return {name: value(draw, keys, depth - 1) for name in names}


def recipes_(draw: random.Random) -> Any:
    """A recipe that works, with a few of its parts replaced."""
    made: dict[Any, Any] = {
        "model": "miniature",
        "method": {"name": draw.choice(sorted(FUNCTIONS))},
        "data": {"source": "miniature", "language": "swa"},
    }
    for _ in range(draw.randrange(4)):
        level, keys = made, list(made)
        if draw.random() < 0.7:
            key = draw.choice(keys)
            level = made[key] if isinstance(made[key], dict) else made
        parts = (*made["data"], *KEYS) if isinstance(made.get("data"), dict) else KEYS
        level[draw.choice(parts)] = value(draw)
    return made


def settings(draw: random.Random) -> str:
    """What stands after `--set`."""
    if draw.random() < 0.3:
        key = draw.choice(("train.seed", "train.max_steps", "sampling.top_k", "data.limit"))
        return f"{key}={draw.choice(('1', '7', '-1', 'x', '1e2', '', '[', '2024-13-45'))}"
    odd = ("", "0", " ", "a\nb", "=")
    path = ".".join(draw.choice((*KEYS, *odd)) for _ in range(draw.randrange(5)))
    given = draw.choice((*map(str, LEAVES), *RAW, "{a: 1}", "[1, 2]", "{type: x}"))
    return path + draw.choice(("=", "=", "=", "", "==")) + given


def templates(draw: random.Random) -> str:
    """A prompt template."""
    return "".join(draw.choice(PIECES) for _ in range(draw.randrange(1, 7)))


def yaml_texts(draw: random.Random, keys: tuple[str, ...], whole: dict[str, Any]) -> str:
    """A file: what is right, with keys replaced, and perhaps something that is no YAML."""
    made = dict(whole)
    for _ in range(draw.randrange(3)):
        made[draw.choice(keys)] = value(draw, keys)
    text = yaml.safe_dump(made, allow_unicode=True)
    if draw.random() < 0.5:
        at = draw.randrange(len(text))
        text = text[:at] + draw.choice(RAW) + text[at + draw.randrange(3) :]
    return text


LANGUAGE = {
    **{"code": "som", "name": "Somali", "script": "Latn", "transition": "Hadda."},
    **{"instruction": r"Jawaab \boxed{}.", "think_prefix": "Waxaan"},
    "labels": {name: f"L {name}" for name in Labels.model_fields},
}
SUITE = {"source": "a/b", "languages": ["swa"], "columns": {"prompt": "q", "answer": "a"}}


def tried_recipe(seed: int) -> Outcome:
    made = recipes_(random.Random(seed))
    return outcome(lambda: recipes.dump(recipes.parse(made)))


def tried_recipe_file(seed: int) -> Outcome:
    draw = random.Random(seed)
    return _tried_file(yaml_texts(draw, KEYS, recipes_(draw)), lambda path: recipes.load(str(path)))


def tried_setting(seed: int) -> Outcome:
    text = settings(random.Random(seed))
    return outcome(lambda: recipes.load("quickstart", [text]))


def tried_template(seed: int) -> Outcome:
    problem = Problem("1 + 1 = ?", answer="2", language="swa", privileged={"solution": "It is 2."})
    text = templates(random.Random(seed))
    return outcome(lambda: fill(text, problem))


def tried_language_file(seed: int) -> Outcome:
    keys = (*Language.model_fields, *Labels.model_fields)
    text = yaml_texts(random.Random(seed), keys, LANGUAGE)
    return _tried_file(text, lambda path: (languages.check(path), languages.remarks(path)))


def tried_suite_file(seed: int) -> Outcome:
    keys = (*suite_files.Suite.__dataclass_fields__, "where", "values", "metric", "answer")
    return _tried_file(yaml_texts(random.Random(seed), keys, SUITE), suite_files.load_suite)


def tried_skill_bank(seed: int) -> Outcome:
    keys = ("skills", "mistakes", "id", "tags", "title", "principle", "description")
    text = yaml_texts(
        random.Random(seed), keys, {"skills": [{"id": "a", "title": "b", "principle": "c"}]}
    )
    return _tried_file(text, lambda path: read_bank(str(path)))


TRIED: dict[str, Callable[[int], Outcome]] = {
    name.removeprefix("tried_"): made
    for name, made in list(globals().items())
    if name.startswith("tried_")
}


def _tried_file(text: str, read: Callable[[Path], object]) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        path = Path(folder) / "mine.yaml"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        return outcome(lambda: read(path))
