"""On-policy self-distillation in one file: no trainer, no fused loss, nothing hidden.

A small built-in model is good at word problems in English and poor at them in Swahili. It can read
a Swahili problem well, though, when the English text and its solution stand beside it. So the model
teaches itself, in four moves that repeat:

    1. the student reads a Swahili problem and writes a solution;
    2. the teacher, the same weights as they were at the start, reads the problem, its English text
       and the English solution, and then the student's words;
    3. at every word both say what they expect next, as a distribution over the vocabulary;
    4. the student moves towards the teacher: the divergence of the two is the loss.

No reward, no reference text in the loss: the student is graded on its own words, at every token.

    python examples/minimal_opsd.py            about a minute on one core
"""

from __future__ import annotations

import argparse
import copy
import random

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from opsd.grade import is_correct
from opsd.lm.built_in import model_path
from opsd.miniature.world import problems
from opsd.prompts.prompt import fill

MAX_NEW_TOKENS = 48


def prompt(tokenizer, problem, template, **extra):
    """Token ids of a problem under a prompt template, ready for the assistant to answer."""
    message = {"role": "user", "content": fill(template, problem, **extra)}
    text = tokenizer.apply_chat_template(
        [message], tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def student_prompt(tokenizer, problem):
    return prompt(tokenizer, problem, "student")


def teacher_prompt(tokenizer, problem):
    return prompt(
        tokenizer, problem, "crosslingual", include=("problem", "translation", "solution")
    )


@torch.no_grad()
def write(model, tokenizer, prompts):
    """One sampled completion per prompt, as token ids that end where the model stops."""
    width = max(map(len, prompts))
    pad, stop = tokenizer.pad_token_id, tokenizer.eos_token_id
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    output = model.generate(
        input_ids=ids,
        attention_mask=mask,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        max_new_tokens=MAX_NEW_TOKENS,
        eos_token_id=stop,
        pad_token_id=pad,
    )
    rows = output[:, width:].tolist()
    return [row[: row.index(stop) + 1] if stop in row else row for row in rows]


def next_token_logps(model, prompts, completions):
    """log p(next token) over the vocabulary at every completion token: `[tokens, vocabulary]`.

    The token at position t of a completion is predicted at position len(prompt) - 1 + t. The two
    roles have prompts of different lengths, so each row is read where its own prompt ends.
    """
    sequences = [p + c for p, c in zip(prompts, completions, strict=True)]
    width = max(map(len, sequences))
    ids = torch.tensor([s + [0] * (width - len(s)) for s in sequences])
    logits = model(input_ids=ids).logits
    rows = [
        logits[i, len(p) - 1 : len(p) - 1 + len(c)]
        for i, (p, c) in enumerate(zip(prompts, completions, strict=True))
    ]
    return torch.cat(rows).float().log_softmax(-1)


def accuracy(model, tokenizer, test):
    """Share of problems whose one sampled solution ends in the right `\\boxed{}`."""
    written = write(model, tokenizer, [student_prompt(tokenizer, p) for p in test])
    texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in written]
    return sum(is_correct(t, p.answer) for t, p in zip(texts, test, strict=True)) / len(test)


def main() -> None:
    parser = argparse.ArgumentParser(description="On-policy self-distillation in one file.")
    parser.add_argument("--language", default="swa")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=32, help="problems per step, one rollout each")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    random.seed(0)

    folder = model_path("miniature")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    student = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    teacher = copy.deepcopy(student).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(student.parameters(), lr=options.learning_rate, weight_decay=0)
    train = problems("miniature", "train", options.language)
    test = problems("miniature", "test", options.language, 100)

    print(f"before: {accuracy(student, tokenizer, test):.2f} of {len(test)} problems right")
    for step in range(options.steps):
        batch = random.sample(train, options.batch)
        student_prompts = [student_prompt(tokenizer, p) for p in batch]
        teacher_prompts = [teacher_prompt(tokenizer, p) for p in batch]

        completions = write(student, tokenizer, student_prompts)

        with torch.no_grad():
            target = next_token_logps(teacher, teacher_prompts, completions)
        own = next_token_logps(student, student_prompts, completions)
        loss = (own.exp() * (own - target)).sum(-1).mean()  # KL(student || teacher), nats per token

        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 10 == 0:
            print(f"step {step + 1}: {loss.item():.4f} nats per token")
    print(f"after:  {accuracy(student, tokenizer, test):.2f} of {len(test)} problems right")


if __name__ == "__main__":
    main()
