"""The model card: what was trained, how, on what, how good it is, and how to use it.

It is written from a run folder. Whatever comes from data, recipes or models is untrusted text: it
is put on one line and cannot open a table cell, a link or a tag; paths on this machine and access
tokens are left out.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import yaml
from huggingface_hub import EvalResult, ModelCardData

from opsd.credentials import cleaned, without_credentials
from opsd.data.filters import languages_of
from opsd.methods import FUNCTIONS, Method, parsing
from opsd.methods.description import describe
from opsd.methods.signals import loss_terms
from opsd.runs.evaluation_files import RESULT, read
from opsd.runs.json_files import document, mapping, number, rows, sequence
from opsd.suites.published import ours
from opsd.types import UserError
from opsd.validation import mapping as yaml_mapping

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_FILES = {".json", ".jsonl", ".csv", ".tsv", ".parquet"}
_ARXIV = re.compile(r"\b\d{4}\.\d{5}(?:v\d+)?\b")
_PLACE = re.compile(r"/[^/]+(/[^/]+)+/?|[A-Za-z]:\\.+")
_PATH = re.compile(r"(?<![\w./])/(?:[^\s,()/]+/)+([^\s,()/]+)")
"""A path in a line of text; its last name is kept."""
_MARKS = re.compile(r"([\\`*_\[\]<>|#])")


def card(
    run: Path,
    *,
    adapter: bool,
    base: str | None = None,
    method: Method | None = None,
    repository: str | None = None,
    step: int | None = None,
) -> str:
    """The README.md of the model that a run has trained.

    `step` is the training step of the model's weights, if it is known. `base` is the model that
    training began with, by default the recipe's; `adapter` says whether it is still needed.
    `method` is needed for a run that no recipe describes; `repository` is where the model will be
    pushed.
    """
    recipe = _content(run / "recipe.yaml")
    data = mapping(recipe.get("data"))
    account = _content(run / "data.json")
    results, dev = _results(run), _dev(run, step)
    method = method or _method(recipe)
    described = describe(method, _temperature(recipe)).splitlines() if method else []
    described = [_PATH.sub(r"\1", cleaned(line)) for line in described]
    base = base or str(mapping(recipe.get("model")).get("name", "A model"))
    dropped = [mapping(drop) for drop in sequence(account.get("dropped"))]
    text = shown(recipe)
    place = repository if repository and _HUB_NAME.fullmatch(repository) else "PATH_OR_REPOSITORY"
    return _template().render(
        front=_front(run, recipe, method, results, base=base, adapter=adapter),
        name=plain(_name(run, repository)),
        base=_public(base),
        adapter=adapter,
        what=_what(method),
        description=described,
        papers=_ARXIV.findall(method.paper) if method else [],
        data=data,
        source=_public(str(data.get("source", ""))),
        languages=sorted(languages_of(data, account)),
        account=account,
        trained=next((row for row in reversed(_metrics(run)) if "loss" in row), {}),
        kept=_total(mapping(account.get("kept")).values()) or None,
        dropped=dropped,
        left_out=_total(drop.get("count") for drop in dropped),
        results=results,
        dev=dev,
        published=[
            {**row, "ours": _ours(row, results)}
            for row in map(mapping, sequence(recipe.get("published")))
        ],
        place=place,
        options=_options(method),
        recipe=text,
        fence="`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0)),
        versions=mapping(_content(run / "env.json").get("versions")),
    )


def plain(text: Any) -> str:
    """A text on one line, with Markdown and HTML escaped."""
    return _MARKS.sub(r"\\\1", _line(text))


def _line(text: Any) -> str:
    return cleaned(" ".join(str(text).split()))


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, undefined=jinja2.ChainableUndefined
    )
    environment.filters |= {
        "plain": plain,
        "cell": lambda value: plain(value) if value not in (None, "") else "-",
        "share": lambda value: f"{value:.3f}" if isinstance(value, float | int) else "-",
    }
    source = (resources.files("opsd.publish") / "card.jinja").read_text("utf-8")
    return environment.from_string(source)


def _front(
    run: Path,
    recipe: Mapping[str, Any],
    method: Method | None,
    results: Sequence[Mapping[str, Any]],
    *,
    base: str,
    adapter: bool,
) -> str:
    """The Hub's metadata. It has no licence: the user must choose one, which depends on the base
    model's."""
    source = str(mapping(recipe.get("data")).get("source", ""))
    scores = [
        EvalResult(
            task_type="text-generation",
            dataset_type=_line(row["suite"]),
            dataset_name=_line(f"{row['suite']} ({row['language']}, {row.get('labels')} labels)"),
            dataset_config=_line(row["language"]),
            metric_type="accuracy",
            metric_name=f"{kind}@{row['samples']}, {row['budget']} tokens",
            metric_value=round(float(row[f"{kind}@k"]), 4),
        )
        for row in results
        for kind in ("avg", "pass")
    ]
    languages = sorted(languages_of(mapping(recipe.get("data")), _content(run / "data.json")))
    # An adapter needs its base; for a local folder, only the folder's name can be given.
    known = _on_hub(base) or (adapter and _NAME.fullmatch(_public(base)))
    named = _public(base) if known else None
    taught = method is not None and any(term.teacher for _, term in loss_terms(method.signal))
    return ModelCardData(
        base_model=named,
        base_model_relation=("adapter" if adapter else "finetune") if named else None,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        tags=[
            "opsd",
            *(["on-policy-self-distillation"] if taught else []),
            *([method.name] if method else []),
        ],
        language=[code for code in languages if re.fullmatch("[a-z]{2,3}", code)] or None,
        datasets=[source] if _on_hub(source) else None,
        eval_results=scores or None,
        model_name=run.resolve().name if scores else None,
    ).to_yaml(line_break="\n")


def _content(path: Path) -> dict[str, Any]:
    """A YAML or JSON file's mapping; empty if the file does not exist. UserError for any other
    content."""
    if not path.is_file():
        return {}
    return document(path) if path.suffix == ".json" else yaml_mapping(path)


def _method(recipe: Mapping[str, Any]) -> Method | None:
    """The method of a resolved recipe; None if it has none, or if another version wrote it."""
    try:
        return parsing.method(recipe["method"]) if "method" in recipe else None
    except UserError:
        return None


def _what(method: Method | None) -> str:
    """The catalogue's one sentence on a method."""
    function = FUNCTIONS.get(method.name) if method else None
    return (inspect.getdoc(function) or "").partition("\n")[0] if function else ""


def _temperature(recipe: Mapping[str, Any]) -> float:
    return number(mapping(recipe.get("sampling")), "temperature") or 1.0


def _total(counts: Iterable[Any]) -> int:
    return sum(count for count in counts if isinstance(count, int))


def _options(method: Method | None) -> str:
    """The chat template's options of the student's prompt, as further arguments."""
    options = dict(method.student.template_options) if method else {}
    return "".join(f", {key}={value!r}" for key, value in options.items() if key.isidentifier())


def _name(run: Path, repository: str | None) -> str:
    return repository.split("/")[-1] if repository else run.resolve().name


def _on_hub(name: str) -> bool:
    """Whether this can be a repository's name, and is not a file or folder here."""
    known = _HUB_NAME.fullmatch(name) and Path(name).suffix not in _FILES
    return bool(known) and not Path(name).exists()


def _public(name: str) -> str:
    """A Hub name unchanged; of a path, only the file's or folder's name."""
    return name if _on_hub(name) else Path(name).name


def shown(recipe: Mapping[str, Any]) -> str:
    """The recipe as YAML, without credentials, and without paths of this machine."""

    def without_places(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {k: without_places(v) for k, v in value.items()}
        if isinstance(value, list):
            return [without_places(v) for v in value]
        place = isinstance(value, str) and "\n" not in value and _PLACE.fullmatch(value)
        return Path(value).name if place else value

    if not recipe:
        return ""
    content = without_places(without_credentials(recipe))
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True).strip()


def _results(run: Path) -> list[dict[str, Any]]:
    """Evaluations of this run's model inside its folder."""

    own = (run.resolve().name, "model")
    return [
        row
        for file in sorted(run.glob(f"eval/**/{RESULT}"))
        for row in read(file.parent)
        if Path(row["model"]).parts[-2:] == own
    ]


def _dev(run: Path, step: int | None) -> list[dict[str, Any]]:
    """The dev scores before training, at the step of the model's weights, and at the last step that
    was scored."""
    rows = [row for row in _metrics(run) if number(row, "eval_avg@k") is not None]
    scored = {row["step"]: row for row in rows}
    names: dict[int | None, str] = {max(scored, default=None): "last one scored"}
    names |= {0: "before training", step: "this model"}
    return [{"which": names[at], **row} for at, row in sorted(scored.items()) if at in names]


def _metrics(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    return [*rows(path)] if path.is_file() else []


def _ours(printed: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> str | None:
    """This model's score in percent, if it was measured like a printed number."""
    measured = ours(printed, results)
    return ", ".join(f"{100 * o.value:.1f} at {o.budget:,} tokens" for o in measured) or None
