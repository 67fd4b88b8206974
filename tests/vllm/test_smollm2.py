"""A real pretrained model, SmolLM2-135M-Instruct, in vLLM."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.arrange import engine_for
from tests.pretrained import ROWS, fetched
from tests.rollout.contract import PLAIN, ids_of
from tests.vllm.test_vllm import adapted, engine_of

from opsd.lm.loading import load_model, load_tokenizer

pytest.importorskip("vllm", reason="vllm is not installed: it has an environment of its own")


def test_greedy_tokens_are_those_of_transformers():
    name = str(fetched("smollm2"))
    model, tokenizer = adapted(load_model(name), strength=0.01).eval(), load_tokenizer(name)
    prompts = [
        tuple(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": row["problem"]}], add_generation_prompt=True
            )["input_ids"]
        )
        for row in ROWS
    ]
    greedy = replace(PLAIN, temperature=0.0, max_tokens=16)
    seeds = list(range(len(prompts)))
    theirs = engine_of(model, tokenizer).generate(prompts, greedy, seeds)
    ours = engine_for(model, tokenizer).generate(prompts, greedy, seeds)
    assert ids_of(theirs) == ids_of(ours)
