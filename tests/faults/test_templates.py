"""Templates that somebody else has written: the text that Transformers would write, or one line."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import pytest
from tests.prompts.families import FAMILIES, tokenizer_of
from transformers import PreTrainedTokenizerFast

from opsd.miniature.tokenizer import build_tokenizer, chat_template
from opsd.prompts import rendering
from opsd.prompts.prompt import fill, templated, view
from opsd.types import Problem, UserError, View

TURNS = (
    {"role": "system", "content": 'Be <b>brief</b> & "kind".'},
    {"role": "user", "content": "Habari?"},
    {"role": "assistant", "content": "<think>\nA greeting.\n</think>\n\nNzuri \u1275 \U0001f600."},
    {"role": "user", "content": "1 + 1 = ?\r\n"},
)
SCHEMA = {"type": "function", "function": {"name": "add", "description": "a < b & 'c' \u1275"}}
EVERYTHING = """\
{%- set ns = namespace(n=0) %}
{%- for message in messages %}
    {%- if loop.index > 3 %}{% break %}{% endif %}
    {%- generation %}{% set inner = 1 %}{{ message.content | trim }}{% endgeneration %}
    {%- set ns.n = ns.n + 1 %}
{%- endfor %}
{{ inner is defined }} {{ ns.n }} {{ bos_token }} {{ nothing }} {{ strftime_now('%Y') }}
{% if tools %}{{ tools | tojson }}{{ tools | tojson(indent=2, sort_keys=true) }}{% endif %}
{% for document in documents or [] %}{{ document.title }}: {{ document['text'] }}
{% endfor %}
{% if add_generation_prompt %}go{% endif %}
"""


def multiply(a: int, b: int) -> int:
    """Multiplies.

    Args:
        a: One.
        b: Other.
    """
    return a * b


OPTIONS: list[dict[str, Any]] = [
    {},
    {"enable_thinking": False},
    {"tools": [SCHEMA]},
    {"tools": [multiply], "date_string": "26 Jul 2024"},
    {"documents": [{"title": "A", "text": "B \u1275"}], "bos_token": "<x>"},
]


def speaking(template: str) -> PreTrainedTokenizerFast:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize(
    "options", OPTIONS, ids=["plain", "an option", "a tool", "a function", "documents"]
)
@pytest.mark.parametrize("going_on", [True, False])
@pytest.mark.parametrize("name", [*FAMILIES, "everything", "built-in"])
def test_a_chat_template_writes_what_transformers_writes(name, going_on, options):
    own = {"everything": EVERYTHING, "built-in": chat_template()}
    tokenizer = speaking(own[name]) if name in own else tokenizer_of(name)
    theirs = tokenizer.apply_chat_template(
        list(TURNS), tokenize=False, add_generation_prompt=going_on, **options
    )
    seen = View("v", TURNS, template_options=options)
    assert templated(tokenizer, seen, add_generation_prompt=going_on) == theirs


def test_a_chat_template_that_refuses_is_told_in_its_own_words():
    with pytest.raises(UserError, match=r"'v'.*refuses it .*only after noon") as refused:
        asked("{{ raise_exception('only\nafter noon') }}")
    assert "\n" not in str(refused.value)


def test_the_date_is_todays():
    days = [datetime.now().strftime("%F")]
    shown = asked("{{ strftime_now('%F') }}")
    assert shown in [*days, datetime.now().strftime("%F")]


def test_of_several_chat_templates_the_right_one_is_taken():
    tokenizer = speaking("")
    tokenizer.chat_template = {"default": "{{ 'plain' }}", "tool_use": "{{ 'with tools' }}"}
    turns = ({"role": "user", "content": "?"},)
    assert templated(tokenizer, View("v", turns), add_generation_prompt=True) == "plain"
    tools = View("v", turns, template_options={"tools": [SCHEMA]})
    assert templated(tokenizer, tools, add_generation_prompt=True) == "with tools"
    tokenizer.chat_template = {"one": "{{ 1 }}", "other": "{{ 2 }}"}
    with pytest.raises(UserError, match="multiple chat templates"):
        templated(tokenizer, View("v", turns), add_generation_prompt=True)


def test_a_tokenizer_that_writes_conversations_itself_is_let():
    class Own(PreTrainedTokenizerFast):
        def apply_chat_template(self, conversation, **options):
            return f"own: {len(conversation)} {options['add_generation_prompt']}"

    tokenizer = Own(tokenizer_object=build_tokenizer().backend_tokenizer, chat_template="{{ 1 }}")
    assert templated(tokenizer, View("v", TURNS), add_generation_prompt=True) == "own: 4 True"


def asked(template: str) -> str:
    turns = ({"role": "user", "content": "?"},)
    return templated(speaking(template), View("v", turns), add_generation_prompt=True)


LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}X{% endfor %}{% endfor %}"
TOO_MUCH = {
    "a long range": "{% for i in range(10**9) %}{% endfor %}",
    "nested ranges": LOOP.replace("X", ""),
    "long output": LOOP.replace("X", "a" * 100),
    "a long text": "{{ 'a' * 10**9 }}",
    "half a long text": "{{ 'a' * (5 * 10**8) }}",
    "a wide number": "{{ ('%' ~ 10**9 ~ 'd') % 1 }}",
    "another wide number": "{{ '{:1000000000}'.format(1) }}",
    "much room": "{{ 'a' | center(10**9) }}",
    "a large power": "{{ 9 ** (9 ** 9) }}",
    "a macro in itself": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "a macro twice in itself": "{% macro f(n) %}{{ f(n - 1) ~ f(n - 1) if n }}{% endmacro %}"
    "{{ f(99) }}",
    "a cycler": "{% set c = cycler('a') %}" + LOOP.replace("X", "{{ c.next() }}"),
    "a joiner": "{% set c = joiner('a') %}" + LOOP.replace("X", "{{ c() }}"),
    "doubling": "{% set n = namespace(x='a') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}"
    "{% endfor %}{{ n.x }}",
    "replacing": "{{ ('a' * 10**6) | replace('a', 'b' * 10**6) }}",
    "prose": "{{ lipsum(n=10**6) }}",
    "deep brackets": "{{ " + "(" * 50_000 + "1" + ")" * 50_000 + " }}",
    "deep conditions": "{% if 1 %}" * 50_000 + "{% endif %}" * 50_000,
    "a long sum": "{{ " + "1 + " * 50_000 + "1 }}",
    "half a character": r"{{ '\ud800' }}",
}


@pytest.mark.parametrize("kind", ["prompt", "chat"])
@pytest.mark.parametrize("name", TOO_MUCH)
def test_a_template_that_takes_too_much_is_one_line_and_soon(name, kind):
    template = TOO_MUCH[name]
    asking = asked if kind == "chat" else lambda text: fill(text, Problem("1 + 1 = ?"))
    start = time.monotonic()
    for _ in range(3):
        with pytest.raises(UserError) as refused:
            asking(template)
    assert time.monotonic() - start < 120
    told = str(refused.value)
    assert "\n" not in told and len(told) < 600
    assert ("chat template" if kind == "chat" else "prompt template '{") in told
    assert asking("{{ 1 + 1 }}") == "2"


def test_limits_are_named():
    limits = {
        TOO_MUCH["nested ranges"]: "2 seconds",
        TOO_MUCH["long output"]: "64 million characters",
        "{{ 'a' * 10**10 }}": "1 GiB",  # asked for at once: what grows to it may run out of time
    }
    for template, told in limits.items():
        with pytest.raises(UserError, match=told):
            asked(template)


def test_a_prefill_has_the_same_limits():
    with pytest.raises(UserError, match="longer than 2 seconds"):
        view("student", Problem("?"), "student", prefill=TOO_MUCH["nested ranges"])


def test_long_rows_are_no_mistake():
    long = Problem("1 + 1 = ? \u1275" * 300_000)
    assert fill("{{ problem }}|{{ problem | length }}", long) == f"{long.text}|3300000"


def test_shipped_templates_need_no_process():
    code = (
        "from opsd.prompts.prompt import fill\nfrom opsd.prompts import rendering\n"
        "from opsd.types import Problem\n"
        "assert fill('student', Problem('1 + 1 = ?')) and fill('as it is\\n', Problem('?'))\n"
        "assert rendering._worker._worker is None\n"
        "assert fill('{{ problem }}', Problem('?')) == '?'\n"
        "assert rendering._worker._worker is not None\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_threads_get_their_own_texts():
    with ThreadPoolExecutor(8) as pool:
        texts = pool.map(lambda n: fill("{{ problem }} {{ 1 + 1 }}", Problem(str(n))), range(200))
    assert list(texts) == [f"{n} 2" for n in range(200)]


FORKING = """
import os
from opsd.prompts import rendering
from opsd.prompts.prompt import fill
from opsd.types import Problem

def of(n):
    return fill("{{ problem }}!", Problem(str(n)))

of(0)
before = rendering._worker._worker.process.pid
if (child := os.fork()) == 0:
    mine = [of(n) for n in range(50)] == [f"{n}!" for n in range(50)]
    mine &= rendering._worker._worker.process.pid != before
    rendering._worker.close()
    os._exit(0 if mine else 1)
texts = [of(n) for n in range(50)]
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
assert texts == [f"{n}!" for n in range(50)]
assert rendering._worker._worker.process.pid == before
raise SystemExit(status)
"""


def test_a_forked_process_has_a_worker_of_its_own():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FORKING], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_killed_worker_is_replaced():
    assert asked("{{ 2 }}") == "2"
    worker = rendering._worker._worker
    assert worker is not None
    os.killpg(worker.process.pid, 9)
    assert asked("{{ 3 }}") == "3"
