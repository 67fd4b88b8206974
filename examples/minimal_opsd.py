"""On-policy self-distillation in one file: no trainer, no fused loss, nothing hidden.

A small built-in model is good at word problems in English and poor at them in Swahili. However, it
reads a Swahili problem well when its prompt also contains the English text and the solution. So the
model teaches itself, by repeating four steps:

    1. The student reads a Swahili problem and writes a solution.
    2. The teacher (the student's initial weights) reads the problem, its English text and the
       English solution, and then the student's tokens.
    3. At every token, both predict the next one, as a distribution over the vocabulary.
    4. The loss is the divergence between the two, so the student moves towards the teacher.

There is no reward, and no reference text in the loss: the student learns from its own completions,
at every token. To run it (about a minute on one core):

    python examples/minimal_opsd.py
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
    """Token ids of a problem in a prompt template, up to where the assistant's answer starts."""
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
    """Sample one completion per prompt: token ids up to and including the end-of-sequence token."""
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
    """Log-probabilities of the next token at every completion token: `[tokens, vocabulary]`.

    The token at position t of a completion is predicted at position len(prompt) - 1 + t. Student
    and teacher prompts differ in length, so each row is sliced where its own prompt ends.
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
    """Fraction of problems for which one sampled solution has the correct `\\boxed{}` answer."""
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
