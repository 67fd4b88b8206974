"""Scripts as text, against the shell itself: bash is the oracle of what words a command has."""

from __future__ import annotations

import subprocess

import pytest

from opsd.migrate.shell import read
from opsd.types import UserError

PLAIN = {
    "lines that go on": "run --a 1 \\\n  --b 2 \\\n  --c\n",
    "quotes": """run 'a b' "c d" e\\ f 'it'"'"'s' "say \\"x\\"" '$HOME' """ + "\n",
    "variables": 'A=1\nB="two words"\nrun $A "$B" $B ${A}x "x${B}y" $A$A\n',
    "a default": 'A=\nrun "${MISSING:-some/model}" ${OTHER:-3} "${SET-4}"\n',
    "an array": "ARGS=(--a 1\n  --b 'x y' # a remark\n)\nARGS+=(--c)\nrun \"${ARGS[@]}\" end\n",
    "a remark": "# run nothing\nrun a # b\nrun c#d\n",
    "output elsewhere": "run a > /dev/null 2>&1\nrun b 2>/dev/null | cat\nrun c &>/dev/null\n",
    "several on a line": "true; run a && run b\nrun c\n",
    "a here-document": "cat > /dev/null <<EOF\nrun 'not this\nEOF\nrun a\n",
    "upper and lower": 'A=swa\nB="${A^^}"\nrun $B ${B,,}\n',
    "an export": "export A=1 B=2\nrun $A $B\n",
    "an array of nothing": 'A=()\nrun --a 1 "${A[@]}" "$@" --b\n',
    "nothing but a name": "run --a= '' \"\" b=c\n",
    "a value with a dollar": "A='x$y'\nrun \"$A\" $A cost$\n",
}


def by_bash(script: str) -> list[list[str]]:
    """The words of every `run` as bash gives them."""
    function = "run() { printf '%s\\0' \"$@\" >&9; printf '\\n\\0' >&9; }\n"
    made = subprocess.run(
        ["bash", "-c", f"exec 9>&1\n{function}{script}"], capture_output=True, check=True
    )
    found: list[list[str]] = [[]]
    for word in made.stdout.decode().split("\0")[:-1]:
        if word == "\n":
            found.append([])
        else:
            found[-1].append(word)
    return found[:-1]


@pytest.mark.parametrize("name", PLAIN)
def test_words_are_what_the_shell_makes_of_them(name: str):
    script = PLAIN[name]
    runs = [c.words for c in read(script, "s.sh").commands if c.words[0].text == "run"]
    expected = [words for words in by_bash(script) if words]
    assert [[word.text for word in words[1:]] for words in runs] == expected
    assert not any(word.unread for words in runs for word in words)


def test_the_first_turn_of_a_loop_is_read_and_another_one_can_be_asked_for():
    script = 'L=("a" "b")\nfor x in "${L[@]}"; do\n  run "${x}/$x"\ndone\n'
    made = read(script, "s.sh")
    assert [w.text for w in made.commands[0].words] == ["run", "a/a"]
    assert "line 2: a loop over x" in made.remarks[0] and "--variable x=VALUE" in made.remarks[0]
    other = read(script, "s.sh", {"x": "b"})
    assert other.commands[0].words[1].text == "b/b" and not other.remarks
    assert by_bash(script) == [["a/a"], ["b/b"]]


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("run $(cat rate)\n", "$(cat rate), which is not run here"),
        ("run `cat rate`\n", "`cat rate`, which is not run here"),
        ("run $1\n", "$1 is not set in the script: give --variable 1=VALUE"),
        ("run ${A##*/}\n", "${A##*/}, which only a shell can expand"),
        ('A="$(ls | tr a b)"\nrun $A\n', "give --variable A=VALUE"),
        ("if [ -n x ]; then A=1; else A=2; fi\nrun $A\n", "A is set under a condition"),
        ("test -n x && A=1\nrun $A\n", "A is set under a condition"),
    ],
)
def test_what_only_a_shell_could_tell_says_so(script: str, told: str):
    (word,) = read(script, "s.sh").commands[-1].words[1:]
    assert word.unread and told in word.unread


def test_nothing_is_run(tmp_path):
    mark = tmp_path / "mark"
    read(f"A=$(touch {mark})\nrun `touch {mark}` $A\ntouch {mark}\n", "s.sh")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("a\nrun 'x\n", "s.sh, line 2: a quote that is not closed"),
        ('run "x\n', "s.sh, line 1: a quote that is not closed"),
        ("run $(ls\n", "s.sh, line 1: a '(' that is not closed"),
        ("A=(1 2\n", "a '(' that is not closed"),
    ],
)
def test_a_script_that_is_cut_off_is_refused(script: str, told: str):
    with pytest.raises(UserError, match=r"^s\.sh, line") as error:
        read(script, "s.sh")
    assert told in str(error.value) and "\n" not in str(error.value)
