"""Retrieves the skills and common mistakes that fit a problem, and writes new ones (SGSD, Huang et
al. 2026, arXiv 2605.28791)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationError

from opsd.authors.skills import Bank, Item, Mistake, Skill, read_bank
from opsd.authors.writing import AtWork, Author
from opsd.parts import part
from opsd.prompts.contexts import is_right
from opsd.prompts.prompt import answered, view
from opsd.rollout.engine import Sampling
from opsd.rollout.sources import Sampler
from opsd.teacher.weights import AnyWeights, Live
from opsd.types import Advice, Finish, Group, Problem, Rollout, UserError
from opsd.validation import install

Similarity = Callable[[Problem, Sequence[Item]], list[float]]


@part
class BankUpdate:
    """When a bank learns from the run: after every `every` steps, if less than a share of `below`
    of their rollouts were correct, the model writes what can be learned from up to `items` of them.
    The bank keeps the newest `limit` such items; its initial items always stay."""

    every: Annotated[int, Field(gt=0)] = 25
    below: Annotated[float, Field(ge=0, le=1)] = 0.8
    items: Annotated[int, Field(gt=0)] = 5
    limit: Annotated[int, Field(gt=0)] = 30
    max_tokens: Annotated[int, Field(gt=0)] = 512


@part
class SkillAuthor(Author):
    """Gives every group the skills and mistakes of a bank that fit its problem best: `k` of each,
    paired by rank, with shares that are a softmax of their mean similarity at `temperature`.

    `by="embedding"` compares texts by a sentence-embedding model (the extra `skills`); `"tag"`
    compares an item's tags with the row's column `tag`. `bank` is a file
    (`opsd.authors.skills.Bank`), or `package:file`; without one there is no advice until an
    `update` has written items.
    """

    bank: str | None = None
    k: Annotated[int, Field(gt=0)] = 8
    by: Literal["embedding", "tag"] = "embedding"
    embedder: str = "Qwen/Qwen3-Embedding-0.6B"
    tag: str = "tags"
    temperature: Annotated[float, Field(gt=0)] = 1.0
    update: BankUpdate | None = None
    weights: AnyWeights = Live()
    type: Literal["skills"] = "skills"
    name: ClassVar[str] = "skills"

    @property
    def needs_reward(self) -> bool:
        return self.update is not None

    def begin(self) -> SkillRetriever:
        """The author, ready to write. Raises UserError for a bank that cannot be read, or would
        stay empty."""
        bank = Bank() if self.bank is None else read_bank(self.bank)
        if self.update is None and not (bank.skills and bank.mistakes):
            raise UserError(
                f"skill bank {self.bank}: needs at least one skill and one mistake, or an update"
            )
        similar = _ByEmbedding(self.embedder) if self.by == "embedding" else _ByTag(self.tag)
        return SkillRetriever(self, bank, similar)


@dataclass
class SkillRetriever(AtWork):
    """A bank in use. `dynamic` are the items written in this run, oldest first. `tried` counts
    graded rollouts, and the correct ones among them, since step `learned`, that of the last update.

    The processes of a distributed run have the same bank and share counts and new items. So all of
    them must call `__call__` in every step.
    """

    author: SkillAuthor
    bank: Bank
    similar: Similarity
    dynamic: list[Item] = field(default_factory=list)
    written: int = 0
    tried: tuple[int, int] = (0, 0)
    learned: int = 0

    def __call__(self, groups: Sequence[Group], sampler: Sampler, step: int) -> list[Group]:
        if self.author.update is not None:
            self._learn(groups, self.author.update, sampler, step)
        return [replace(group, retrieved=self.advice(group.problem)) for group in groups]

    def advice(self, problem: Problem) -> tuple[Advice, ...]:
        """The pairs that fit a problem best, best first; the same number for every problem."""
        ranked = [
            self._ranked(problem, [*items, *(x for x in self.dynamic if isinstance(x, kind))])
            for items, kind in ((self.bank.skills, Skill), (self.bank.mistakes, Mistake))
        ]
        pairs = list(islice(zip(*ranked, strict=False), self.author.k))
        means = [(skill[0] + mistake[0]) / 2 for skill, mistake in pairs]
        sizes = [math.exp((mean - max(means)) / self.author.temperature) for mean in means]
        return tuple(
            Advice(skill[1].text, mistake[1].text, size / sum(sizes))
            for (skill, mistake), size in zip(pairs, sizes, strict=True)
        )

    def _ranked(self, problem: Problem, items: Sequence[Any]) -> list[tuple[float, Any]]:
        scores = self.similar(problem, items) if items else []
        return sorted(zip(scores, items, strict=True), key=lambda pair: -pair[0])

    def _learn(
        self, groups: Sequence[Group], update: BankUpdate, sampler: Sampler, step: int
    ) -> None:
        """Count the rollouts; when an update is due, add the written items that are not known
        yet."""
        # Imported here: the catalogue of methods imports this module, but does not need accelerate.
        from accelerate.utils import gather_object

        rollouts = [(g.problem, r) for g in groups for r in g.rollouts if r.verdict is not None]
        tried = gather_object([(len(rollouts), sum(is_right(r) for _, r in rollouts))])
        self.tried = (
            self.tried[0] + sum(n for n, _ in tried),
            self.tried[1] + sum(r for _, r in tried),
        )
        if step + 1 - self.learned < update.every:
            return
        if self.tried[1] < update.below * self.tried[0]:
            share = -(-update.items // len(tried))
            written = gather_object(
                [self._written(rollouts, share, update.max_tokens, sampler, step)]
            )
            self._keep([x for own in written for x in own][: update.items], update.limit)
        self.tried, self.learned = (0, 0), step + 1

    def _keep(self, items: Sequence[Item], limit: int) -> None:
        known = {x.text for x in (*self.bank.skills, *self.bank.mistakes, *self.dynamic)}
        for item in items:
            if item.text not in known:
                known.add(item.text)
                self.written += 1
                self.dynamic.append(item.model_copy(update={"id": f"dyn_{self.written:03}"}))
        del self.dynamic[:-limit]

    def _written(
        self,
        rollouts: Sequence[tuple[Problem, Rollout]],
        count: int,
        max_tokens: int,
        sampler: Sampler,
        step: int,
    ) -> list[Item]:
        """The well-formed items that the model writes about what can be learned from `count` of the
        rollouts, failures first."""
        rows, kinds = [], []
        for problem, rollout in sorted(rollouts, key=lambda pair: is_right(pair[1])):
            if len(rows) == count:
                break
            kind = Skill if is_right(rollout) else Mistake
            template = "skill_writer" if kind is Skill else "mistake_writer"
            shown = view("author skills", problem, template, completion=rollout.text)
            ids = sampler.read(problem, shown, max_tokens)
            if ids is not None:
                rows.append((problem, ids, len(rows)))
                kinds.append(kind)
        if not rows:
            return []
        sampling = Sampling(temperature=0.0, max_tokens=max_tokens)
        made = sampler.generated(rows, sampling, self.author.weights, step, "author skills")
        items = [
            self._item(sampler.text(completion.ids), kind, problem)
            for (problem, _, _), kind, completion in zip(rows, kinds, made, strict=True)
            if completion.finish is Finish.STOP
        ]
        return [item for item in items if item is not None]

    def _item(self, text: str, kind: type[Item], problem: Problem) -> Item | None:
        """An item from what the model wrote: a JSON object of the kind's texts; None if it is not
        one."""
        tags = _tags(problem, self.author.tag)
        try:
            told = json.loads(_object(answered(text)))
            return kind.model_validate(told | {"id": "new", "tags": tags})
        except (ValueError, TypeError, ValidationError):
            return None

    @property
    def measured(self) -> dict[str, float]:
        """The number of items in the bank that were written in this run; zero on all but one
        process, since authors' measurements are summed."""
        from accelerate import PartialState

        return {"items": len(self.dynamic) if PartialState().is_main_process else 0}

    def state_dict(self) -> dict[str, Any]:
        return {
            "dynamic": [[type(x).__name__, x.model_dump(mode="json")] for x in self.dynamic],
            "written": self.written,
            "tried": list(self.tried),
            "learned": self.learned,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        kinds = {"Skill": Skill, "Mistake": Mistake}
        self.dynamic = [kinds[kind].model_validate(x) for kind, x in state["dynamic"]]
        self.written = state["written"]
        self.tried = (state["tried"][0], state["tried"][1])
        self.learned = state["learned"]


@dataclass(frozen=True)
class _ByTag:
    """The cosine of two sets of tags: shared ones over the root of the product of their sizes."""

    tag: str

    def __call__(self, problem: Problem, items: Sequence[Item]) -> list[float]:
        own = set(_tags(problem, self.tag))
        return [
            len(own & set(item.tags)) / math.sqrt(len(own) * len(item.tags))
            if own and item.tags
            else 0.0
            for item in items
        ]


@dataclass
class _ByEmbedding:
    """The cosine of a problem's and an item's embeddings; each text is embedded once."""

    name: str
    known: dict[tuple[str, str], Any] = field(default_factory=dict)

    def __call__(self, problem: Problem, items: Sequence[Item]) -> list[float]:
        query = self._embedded("query", [problem.text])[0]
        return [float(query @ v) for v in self._embedded("document", [x.text for x in items])]

    def _embedded(self, role: str, texts: Sequence[str]) -> list[Any]:
        # One text at a time: in a batch, padding would change the last digits.
        for text in texts:
            if (role, text) not in self.known:
                encode = getattr(self._model, f"encode_{role}")
                options = {"normalize_embeddings": True, "show_progress_bar": False}
                self.known[role, text] = encode(text, **options)
        return [self.known[role, text] for text in texts]

    @cached_property
    def _model(self) -> Any:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise UserError(
                f"retrieval by embedding needs sentence-transformers: {install('skills')},"
                " or set the author's by to 'tag'"
            ) from error
        try:
            return SentenceTransformer(self.name, model_kwargs={"use_safetensors": True})
        except (OSError, ValueError) as error:
            told = " ".join(str(error).split())[:200]
            raise UserError(f"no embedding model '{self.name}' ({told})") from error


def _tags(problem: Problem, name: str) -> tuple[str, ...]:
    tags = problem.metadata.get(name)
    if isinstance(tags, list | tuple):
        return tuple(map(str, tags))
    return () if tags is None else (str(tags),)


def _object(text: str) -> str:
    """The part of a text from its first to its last brace."""
    return text[text.find("{") : text.rfind("}") + 1]
