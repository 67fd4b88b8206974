"""Translates a source of English problems: requests the missing translations, checks them, and
writes the accepted and the rejected ones."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from opsd.authors.endpoint import Spent
from opsd.console import counting, log
from opsd.data.problems import Data, read
from opsd.languages.registry import language, resolve
from opsd.prompts.prompt import fill, template_text
from opsd.rollout.endpoint import NoAnswer, shown
from opsd.runs.files import to_json, write_atomically
from opsd.translate import journal
from opsd.translate.asking import Asker, Endpoint, EndpointAsker, Question, Reply, Sampled
from opsd.translate.checks import Checks, counted, solved_answer
from opsd.translate.cost import Count, Estimate, by_bytes, counter, estimate
from opsd.translate.gates import Fault
from opsd.translate.journal import Attempt, Place
from opsd.translate.schemas import Translated, rows, schemas, source_id
from opsd.types import Problem, RunFailed, UserError
from opsd.validation import unknown

TRANSLATED, REJECTED, REPORT = "translated.jsonl", "rejected.jsonl", "report.json"
_SOURCE = "eng"
_SAME = ("source", "config", "split", "revision", "columns")


@dataclass(frozen=True)
class Job:
    """What is translated, into which languages (ISO 639-3), and with which models.

    `model` is a name that `endpoint` knows; without an endpoint it is loaded here, by its Hub name
    or folder. `template` is the prompt for a translation: a shipped template's name, a file, or a
    text with `problem`, `given` and `wanted`. `back` names the model that translates back, `solver`
    the model that solves translations; both are served at `check_endpoint`, by default the
    translator's endpoint. `codes` are a model's own tokens for languages, `price` is in dollars for
    a million prompt and a million completion tokens, `tokenizer` counts them for the estimate.
    `limit` keeps the first problems.
    """

    data: Data
    languages: tuple[str, ...]
    model: str
    endpoint: Endpoint | None = None
    template: str = "translator"
    sampled: Sampled = field(default_factory=Sampled)
    codes: Mapping[str, str] = field(default_factory=dict[str, str])
    back: str | None = None
    solver: str | None = None
    check_endpoint: Endpoint | None = None
    checks: Checks = field(default_factory=Checks)
    schema: str = "ours"
    price: tuple[float, float] = (0.0, 0.0)
    tokenizer: str | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.schema not in schemas():
            raise UserError(f"--schema: {unknown('schema', self.schema, schemas())}")
        for code in self.languages:
            if resolve(code) == _SOURCE:
                raise UserError("--to: the source is English; name other languages")
        template_text(self.template)  # refuses a missing template

    @property
    def about(self) -> dict[str, Any]:
        """The settings that all translations in one folder share."""
        data = self.data.model_dump(mode="json")
        return {
            "data": {name: data[name] for name in _SAME},
            "model": self.model,
            "endpoint": self.endpoint and shown(self.endpoint.base_url),
            "template": template_text(self.template),
            "temperature": self.sampled.temperature,
            "max_tokens": self.sampled.max_tokens,
            "back": self.back,
            "solver": self.solver,
        }


def planned(job: Job, output: Path) -> dict[str, Any]:
    """What `translate` would request and what that would cost, and the first prompt. Sends no
    request and writes nothing."""
    problems = _sources(job)
    there = journal.latest(journal.read(output))
    _refuse_changed(problems, there, output)
    missing = _missing(job, problems, there)
    cost = _estimated(job, problems, missing)
    first = _question(job, *missing[0], problems) if missing else None
    return {
        "problems": len(problems),
        "languages": list(job.languages),
        "there": len(problems) * len(job.languages) - len(missing),
        "missing": len(missing),
        **asdict(cost),
        "prompt": first and [dict(message) for message in first.messages],
    }


def translate(job: Job, output: Path, *, retry_rejected: bool = False) -> dict[str, Any]:
    """Translates what is missing in the folder `output`; with `retry_rejected`, also draws another
    sample of what was rejected. Returns the report, which is stored in `report.json`.

    Raises UserError for mistakes in the input and if an endpoint refuses every request, and
    RunFailed if requests were not answered: replies that arrived are kept, and the same command
    continues.
    """
    start = time.monotonic()
    problems = _sources(job)
    with journal.locked(output, job.about):
        there = journal.latest(journal.read(output))
        _refuse_changed(problems, there, output)
        asked = [(place, 0) for place in _missing(job, problems, there)]
        if retry_rejected:
            asked += [(a.place, a.sample + 1) for a in _rejected(job, problems, there)]
        try:
            failed = _ask(job, problems, asked, output) if asked else []
        finally:
            report = _written(job, problems, output)
        report["seconds"] = round(time.monotonic() - start, 1)
        write_atomically(output / REPORT, json.dumps(report, indent=1, ensure_ascii=False))
    for line in _lines(report):
        log(line)
    log(f"{output / TRANSLATED}, {REJECTED} and {REPORT}")
    if failed:
        raise RunFailed(
            f"{len(failed)} of {len(asked)} translations got no answer ({failed[-1]}); run the same"
            " command again to request them"
        )
    return report


def _sources(job: Job) -> dict[int, Problem]:
    """The English problems by the number of their row. Raises UserError for one that is a
    conversation of several turns."""
    problems = read(job.data.model_copy(update={"language": _SOURCE}))[: job.limit]
    for problem in problems:
        if not isinstance(problem.prompt, str) and len(problem.prompt) > 1:
            raise UserError(
                f"{problem.name}: a conversation of {len(problem.prompt)} turns: map"
                " prompt to a column that contains only the problem"
            )
    return {problem.metadata["row"]: problem for problem in problems}


def _lines(report: Mapping[str, Any]) -> Iterator[str]:
    """Yields the lines of a report: one per language, then the requests and their cost."""
    for code, found in report["languages"].items():
        why = ", ".join(f"{gate} {n}" for gate, n in found["gates"].items())
        yield (
            f"{code}: {found['accepted']:,} of {found['problems']:,} accepted,"
            f" {found['rejected']:,} rejected{f' ({why})' if why else ''},"
            f" {found['missing']:,} missing"
        )
    spent = report["spent"]
    cost = f", ${report['cost']:.4f}" if report["cost"] else ""
    yield (
        f"{spent['requests']:,} requests, {spent['cached']:,} more answers from the cache;"
        f" {spent['prompt_tokens']:,} prompt and {spent['completion_tokens']:,} completion"
        f" tokens{cost}"
    )


@dataclass
class _Askers:
    """The models that translate, translate back and solve; None for a check that is not
    requested."""

    translator: Asker
    back: Asker | None
    solver: Asker | None


def _askers(job: Job) -> _Askers:
    known: dict[tuple[str, Endpoint | None], Asker] = {}

    def asker(model: str | None, endpoint: Endpoint | None) -> Asker | None:
        if model is None:
            return None
        if (model, endpoint) not in known:
            known[model, endpoint] = _asker(model, endpoint, job)
        return known[model, endpoint]

    checked_at = job.check_endpoint or job.endpoint
    translator = asker(job.model, job.endpoint)
    assert translator is not None
    return _Askers(translator, asker(job.back, checked_at), asker(job.solver, checked_at))


def _asker(model: str, endpoint: Endpoint | None, job: Job) -> Asker:
    if endpoint is not None:
        return EndpointAsker(model, endpoint, job.sampled)
    from opsd.translate.local import load  # torch and transformers, only for a local model

    return load(model, job.sampled, job.codes)


def _missing(
    job: Job, problems: Mapping[int, Problem], there: Mapping[Place, Attempt]
) -> list[Place]:
    return [(row, code) for row in problems for code in job.languages if (row, code) not in there]


def _rejected(
    job: Job, problems: Mapping[int, Problem], there: Mapping[Place, Attempt]
) -> list[Attempt]:
    return [
        attempt
        for (row, code), attempt in there.items()
        if row in problems and code in job.languages and job.checks.faults(problems[row], attempt)
    ]


def _refuse_changed(
    problems: Mapping[int, Problem], there: Mapping[Place, Attempt], output: Path
) -> None:
    for attempt in there.values():
        problem = problems.get(attempt.row)
        if problem is not None and problem.id != attempt.id:
            raise UserError(
                f"{problem.name} is not the problem that {output} has translations of: the source"
                " has changed; choose another --output"
            )


def _question(
    job: Job, row: int, code: str, problems: Mapping[int, Problem], sample: int = 0
) -> Question:
    return _to_translate(job, problems[row].text, _SOURCE, code, sample)


def _to_translate(job: Job, text: str, given: str, wanted: str, sample: int = 0) -> Question:
    about = {
        "given": language(given).name,
        "wanted": language(wanted).name,
        "latin": language(wanted).script == "Latn",
    }
    content = fill(job.template, Problem(text, language=given), **about)
    return Question(text, given, wanted, ({"role": "user", "content": content},), sample)


def _to_solve(text: str, code: str) -> Question:
    content = fill("student", Problem(text, language=code))
    return Question(text, code, code, ({"role": "user", "content": content},))


def _estimated(job: Job, problems: Mapping[int, Problem], missing: Sequence[Place]) -> Estimate:
    count: Count = by_bytes
    name = job.tokenizer or (job.model if job.endpoint is None else None)
    if name is not None:
        from opsd.lm.loading import load_tokenizer

        count = counter(load_tokenizer(name))
    questions = [_question(job, row, code, problems) for row, code in missing]
    return estimate(
        questions, count, job.price, back=job.back is not None, solver=job.solver is not None
    )


def _ask(
    job: Job, problems: Mapping[int, Problem], asked: Sequence[tuple[Place, int]], output: Path
) -> list[str]:
    """Sends requests, several at a time, and stores the replies; returns why some got no answer.

    Raises UserError at once if the endpoint refuses every request, and RunFailed if none of the
    first requests is answered.
    """
    askers = _askers(job)
    size, side_by_side = askers.translator.batch, askers.translator.concurrency
    batches = _batches(asked, size)
    failed: list[str] = []
    verdicts: Counter[bool] = Counter()
    with (
        counting(f"translating with {job.model}", len(asked), "problem") as advance,
        ThreadPoolExecutor(side_by_side) as pool,
    ):
        waiting = {pool.submit(_attempts, job, problems, askers, b): len(b) for b in batches}
        try:
            for future in as_completed(waiting):
                tokens, about = 0, None
                try:
                    made = future.result()
                    journal.append(output, made)
                    verdicts.update(not job.checks.faults(problems[one.row], one) for one in made)
                    tokens = sum(one.completion_tokens for one in made)
                    about = f"accepted {verdicts[True]:,} of {verdicts.total():,}"
                except NoAnswer as error:
                    failed.append(str(error))
                    if not verdicts and len(failed) >= 2 * side_by_side:
                        raise RunFailed(
                            f"no request is answered ({failed[-1]}); run the same command to go on"
                        ) from error
                advance(waiting[future], tokens, about)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return failed


def _batches(asked: Sequence[tuple[Place, int]], size: int) -> list[list[tuple[Place, int]]]:
    """The requests in batches of at most `size`; all requests of a batch have one sample number."""
    by_sample: dict[int, list[tuple[Place, int]]] = {}
    for item in asked:
        by_sample.setdefault(item[1], []).append(item)
    return [
        own[start : start + size]
        for own in by_sample.values()
        for start in range(0, len(own), size)
    ]


def _attempts(
    job: Job,
    problems: Mapping[int, Problem],
    askers: _Askers,
    batch: Sequence[tuple[Place, int]],
) -> list[Attempt]:
    """Translates a batch, and checks the translations that pass the gates with the other models."""
    questions = [_question(job, *place, problems, sample) for place, sample in batch]
    made = [
        _attempt(problems, place, sample, reply)
        for (place, sample), reply in zip(batch, askers.translator(questions), strict=True)
    ]
    if askers.back is not None:
        good = _passing(job, problems, made)
        backs = [_to_translate(job, made[i].text, made[i].language, _SOURCE) for i in good]
        for i, reply in zip(good, askers.back(backs) if backs else (), strict=True):
            made[i] = _with(made[i], reply, back=reply.text)
    if askers.solver is not None:
        good = [i for i in _passing(job, problems, made) if problems[made[i].row].answer]
        tasks = [_to_solve(made[i].text, made[i].language) for i in good]
        for i, reply in zip(good, askers.solver(tasks) if tasks else (), strict=True):
            made[i] = _with(made[i], reply, solved=solved_answer(reply.text))
    return made


def _passing(job: Job, problems: Mapping[int, Problem], made: Sequence[Attempt]) -> list[int]:
    return [i for i, one in enumerate(made) if not job.checks.faults(problems[one.row], one)]


def _attempt(problems: Mapping[int, Problem], place: Place, sample: int, reply: Reply) -> Attempt:
    row, code = place
    bare = Attempt(row, code, sample, problems[row].id, reply.text, reply.whole)
    return _with(bare, reply)


def _with(attempt: Attempt, reply: Reply, **found: Any) -> Attempt:
    spent = reply.spent
    return replace(
        attempt,
        requests=attempt.requests + spent.requests,
        cached=attempt.cached + spent.cached,
        prompt_tokens=attempt.prompt_tokens + spent.prompt_tokens,
        completion_tokens=attempt.completion_tokens + spent.completion_tokens,
        **found,
    )


def _written(job: Job, problems: Mapping[int, Problem], output: Path) -> dict[str, Any]:
    """Writes the accepted translations, and the rejected ones with their faults; returns the
    report."""
    attempts = journal.read(output)
    there = {place: a for place, a in journal.latest(attempts).items() if place[0] in problems}
    faults: dict[Place, list[Fault]] = {
        place: job.checks.faults(problems[place[0]], attempt) for place, attempt in there.items()
    }
    codes = list(dict.fromkeys([*job.languages, *sorted({code for _, code in there})]))
    found = []
    for row, problem in problems.items():
        texts = {code: there[row, code].text for code in codes if (row, code) in there}
        good = {code: text for code, text in texts.items() if not faults[row, code]}
        bad = {code: text for code, text in texts.items() if faults[row, code]}
        found.append(Translated(problem, good, bad))
    _write_lines(output / TRANSLATED, rows(job.schema, found, codes))
    rejected = [(problems[place[0]], there[place], faults[place]) for place in sorted(there)]
    _write_lines(output / REJECTED, (_told_off(*one) for one in rejected if one[2]))
    spent = sum(
        (Spent(a.requests, a.cached, 0, a.prompt_tokens, a.completion_tokens) for a in attempts),
        Spent(),
    )
    into, out = job.price
    return {
        "languages": {code: _of_language(code, problems, faults) for code in codes},
        "spent": {name: x for name, x in asdict(spent).items() if name != "failed"},
        "cost": (spent.prompt_tokens * into + spent.completion_tokens * out) / 1e6,
    }


def _told_off(problem: Problem, attempt: Attempt, faults: Sequence[Fault]) -> dict[str, Any]:
    return {
        "problem": attempt.text,
        "translation": problem.text,
        "language": attempt.language,
        "faults": [{"gate": fault.gate, "why": fault.why} for fault in faults],
        "sample": attempt.sample,
        "id": source_id(problem),
        "row": attempt.row,
    }


def _of_language(
    code: str, problems: Mapping[int, Problem], faults: Mapping[Place, Sequence[Fault]]
) -> dict[str, Any]:
    own = {row: found for (row, lang), found in faults.items() if lang == code}
    rejected = sum(bool(found) for found in own.values())
    return {
        "problems": len(problems),
        "accepted": len(own) - rejected,
        "rejected": rejected,
        "missing": len(problems) - len(own),
        "gates": counted(own),
    }


def _write_lines(path: Path, rows: Iterator[Mapping[str, Any]]) -> None:
    write_atomically(path, "".join(to_json(row) + "\n" for row in rows))
