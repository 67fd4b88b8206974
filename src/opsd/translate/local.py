"""Models on this machine: causal models run in the engine of rollouts, sequence-to-sequence models
(NLLB, MADLAD-400, M2M100, OPUS-MT) in Transformers, sentence by sentence."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from opsd.authors.endpoint import Spent
from opsd.lm.loading import (
    context_length,
    load_config,
    load_model,
    load_tokenizer,
    locate,
    reason,
    refuse_other_tokenizer,
    vocabulary,
)
from opsd.prompts.boundary import eos_ids
from opsd.prompts.prompt import answered, prompt_ids
from opsd.rollout.engine import Engine, EngineSetup, Sampling, at_work, prompt_seed
from opsd.rollout.engines import HF
from opsd.translate.asking import Asker, Question, Reply, Sampled
from opsd.translate.codes import Told, told
from opsd.translate.sentences import split
from opsd.types import Finish, UserError, View

_GPU_TOKENS, _CPU_TOKENS = 65_536, 8_192
"""How many tokens (prompts and budgets together) are generated at once."""
_SENTENCES = 32
"""How many sentences a sequence-to-sequence model reads at once."""
_QUESTIONS = 16


def load(name: str, sampled: Sampled, codes: Mapping[str, str]) -> Asker:
    """A model by its Hub name or folder. `codes` are its tokens for languages, if they are not the
    usual ones.

    Raises UserError if it cannot be loaded.
    """
    if _is_sequence_to_sequence(name):
        return SequenceToSequence(name, sampled, codes)
    if codes:
        raise UserError(f"--code: '{name}' reads the language in its prompt; leave --code out")
    return Causal(name, sampled)


def _is_sequence_to_sequence(name: str) -> bool:
    """Whether a model has an encoder. UserError if its configuration cannot be read."""
    try:
        return bool(getattr(load_config(*locate(name)), "is_encoder_decoder", False))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot load the model '{name}': {reason(error)}") from error


@dataclass
class Causal:
    """A causal language model, which gets the same prompt as an endpoint, in its chat template."""

    name: str
    sampled: Sampled
    batch: int = _QUESTIONS
    concurrency: int = 1
    tokenizer: Any = field(init=False)
    engine: Engine = field(init=False)
    limit: int = field(init=False)

    def __post_init__(self) -> None:
        network, self.tokenizer = load_model(self.name), load_tokenizer(self.name)
        refuse_other_tokenizer(network, self.tokenizer)
        self.limit = context_length(network, 10**9)
        device, tokens = _place()
        setup = EngineSetup(
            model=network.to(device),
            tokenizer=self.tokenizer,
            eos_ids=eos_ids(network, self.tokenizer),
            vocab=vocabulary(self.tokenizer),
            max_length=self.limit,
            batch_tokens=tokens,
        )
        self.engine = at_work(HF(), setup)
        self.engine.sync(network)

    def __call__(self, questions: Sequence[Question]) -> list[Reply]:
        """Raises UserError for a prompt that leaves no room for `max_tokens`."""
        prompts = [prompt_ids(self.tokenizer, View("translate", q.messages)) for q in questions]
        room = self.limit - max(map(len, prompts))
        if room < self.sampled.max_tokens:
            raise UserError(
                f"a prompt leaves {room} of the model's {self.limit} tokens; lower --max-tokens"
                f" ({self.sampled.max_tokens})"
            )
        (sample,) = {question.sample for question in questions}
        sampling = Sampling(self.sampled.at(sample), max_tokens=self.sampled.max_tokens)
        seeds = [prompt_seed(0, 0, q.text + q.wanted, q.sample, "translate") for q in questions]
        made = self.engine.generate(prompts, sampling, seeds)
        return [
            Reply(
                answered(self.tokenizer.decode(completion.ids, skip_special_tokens=True)),
                completion.finish is Finish.STOP,
                Spent(1, 0, 0, len(ids), len(completion.ids)),
            )
            for ids, completion in zip(prompts, made, strict=True)
        ]


@dataclass
class SequenceToSequence:
    """A translation model with an encoder. It reads one sentence at a time, as in its training:
    given several, it tends to leave some out. A first sample is the best beam of beam search;
    further ones are drawn."""

    name: str
    sampled: Sampled
    codes: Mapping[str, str] = field(default_factory=dict[str, str])
    beams: int = 4
    batch: int = _QUESTIONS
    concurrency: int = 1
    tokenizer: Any = field(init=False)
    model: Any = field(init=False)

    def __post_init__(self) -> None:
        from transformers import AutoModelForSeq2SeqLM

        path, revision = locate(self.name)
        try:
            self.tokenizer = load_tokenizer(self.name)
            self.model = AutoModelForSeq2SeqLM.from_pretrained(
                path, revision=revision, use_safetensors=True, dtype="auto"
            )
        except (OSError, ValueError, ImportError) as error:
            raise UserError(f"cannot load the model '{self.name}': {reason(error)}") from error
        self.model.to(_place()[0]).eval()

    def __call__(self, questions: Sequence[Question]) -> list[Reply]:
        """Raises UserError for a language for which the model has no token, and for a question that
        is not a translation."""
        made: list[Reply | None] = [None] * len(questions)
        for given, wanted, sample in dict.fromkeys(
            (q.given, q.wanted, q.sample) for q in questions
        ):
            if given == wanted:
                raise UserError(f"'{self.name}' only translates: --solver names another model")
            own = [
                i
                for i, q in enumerate(questions)
                if (q.given, q.wanted, q.sample) == (given, wanted, sample)
            ]
            texts = [questions[i].text for i in own]
            replies = self._translated(texts, given, wanted, sample)
            for i, reply in zip(own, replies, strict=True):
                made[i] = reply
        return [reply for reply in made if reply is not None]

    def _translated(
        self, texts: Sequence[str], given: str, wanted: str, sample: int
    ) -> list[Reply]:
        pieces = [split(text) for text in texts]
        unique = list(dict.fromkeys(piece.strip() for parts in pieces for piece in parts))
        unique = [sentence for sentence in unique if sentence]
        known: dict[str, Reply] = {"": Reply("", True, Spent())}
        for start in range(0, len(unique), _SENTENCES):
            some = unique[start : start + _SENTENCES]
            known |= zip(some, self._sentences(some, given, wanted, sample), strict=True)
        return [_joined([(known[piece.strip()], piece) for piece in parts]) for parts in pieces]

    @torch.no_grad()
    def _sentences(
        self, sentences: Sequence[str], given: str, wanted: str, sample: int
    ) -> list[Reply]:
        vocabulary_ = self.tokenizer.get_vocab()
        to: Told = told(wanted, vocabulary_, self.codes.get(wanted))
        first = {} if to.first is None else {"forced_bos_token_id": vocabulary_[to.first]}
        if hasattr(self.tokenizer, "src_lang"):
            source = told(given, vocabulary_, self.codes.get(given)).first
            self.tokenizer.src_lang = (source or "").strip("_") or None
        read = self.tokenizer(
            [to.prefix + sentence for sentence in sentences], return_tensors="pt", padding=True
        ).to(self.model.device)
        limit = self.sampled.max_tokens
        how: dict[str, Any] = {"num_beams": self.beams, "do_sample": False}
        if self.sampled.at(sample) > 0:
            torch.manual_seed(
                prompt_seed(0, 0, "".join(sentences) + wanted, sample, "translate") % 2**63
            )
            how = {"do_sample": True, "num_beams": 1, "temperature": self.sampled.at(sample)}
        written = self.model.generate(**read, **first, **how, max_new_tokens=limit, max_length=None)
        texts = self.tokenizer.batch_decode(written, skip_special_tokens=True)
        inputs, ends = read["attention_mask"].sum(-1).tolist(), self.tokenizer.eos_token_id
        return [
            Reply(text.strip(), ends in ids[1:], Spent(1, 0, 0, length, len(ids)))
            for text, ids, length in zip(texts, written.tolist(), inputs, strict=True)
        ]


def _joined(parts: Sequence[tuple[Reply, str]]) -> Reply:
    """Joins the replies to a text's sentences, with the original white space between them."""
    text, spent = "", Spent()
    for reply, piece in parts:
        space = re.search(r"\s*$", piece)
        text += reply.text + (space[0] if space else "")
        spent += reply.spent
    whole = all(reply.whole for reply, _ in parts)
    return Reply(text.strip(), whole, Spent(1, 0, 0, spent.prompt_tokens, spent.completion_tokens))


def _place() -> tuple[str, int]:
    return ("cuda", _GPU_TOKENS) if torch.cuda.is_available() else ("cpu", _CPU_TOKENS)
