r"""What a translation must copy unchanged: LaTeX, placeholders, units, names."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from difflib import SequenceMatcher

_MATH = re.compile(
    r"\$\$(?P<display>.+?)\$\$"
    r"|(?<!\\)\$(?=\S)(?P<inline>(?:[^$\n\\]|\\.)+?)(?<=\S)\$(?!\d)"
    r"|\\\((?P<round>.+?)\\\)|\\\[(?P<square>.+?)\\\]",
    re.DOTALL,
)
_PROSE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
_TEXT = re.compile(r"\\(?:text(?:rm|bf|it)?|mbox|mathrm) ?\{[^{}]*\}")
_COMMAND = re.compile(r"\\(?:[A-Za-z]+\*?|[()\[\]])")
_SPACING = frozenset({r"\quad", r"\qquad", r"\displaystyle"})
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\{[^{}]*\}")
_ESCAPED = re.compile(r"\\[{}\\]")

_PLACEHOLDER = re.compile(
    r"\{\{[^{}\n]{1,60}\}\}|(?<![\\\w^}])\{\w{1,40}\}"
    r"|</?[A-Za-z][\w-]*(?:\s[^<>\n]*)?/?>"
    r"|%\(\w+\)[sdif]|%[sdif]\b|\[[A-Z][A-Z0-9_ ]*\]|_{3,}|https?://\S+"
)

# Symbols, and the English names of their units: a translation may use the symbol for the name.
_UNITS = {
    **{"km": "kilomet", "cm": "centimet", "mm": "millimet", "kg": "kilo", "mg": "milligram"},
    **{"ml": "millilit", "mL": "millilit", "km/h": "kilomet", "mph": "miles per hour"},
    **{"lb": "pound", "lbs": "pound", "oz": "ounce", "ft": "feet|foot", "in": "inch", "m": "met"},
    **{"g": "gram", "l": "lit", "L": "lit", "h": "hour", "%": "percent|half|quarter|double|twice"},
    **{"\u00b0": "degree", "\u20ac": "euro", "\u00a3": "pound", "\u00a5": "yen|yuan"},
    **{"$": "dollar|cent|buck|money", "\u20b9": "rupee", "\u20a6": "naira", "\u20a9": "won"},
}
_AFTER = re.compile(r"(?<=\d) ?(km/h|km|cm|mm|kg|mg|m[lL]|mph|lbs?|oz|ft|[mglLh%\u00b0])(?!\w)")
_CURRENCY = re.compile("[$\u20ac\u00a3\u00a5\u20b9\u20a6\u20a9]")

_CAPITALISED = re.compile(r"(?<![-\w'\u2019])[A-Z][a-z]+(?:[A-Z][a-z]+)?(?![-\w])")
_STARTS = re.compile(r"(?:^|[.!?:;\"\u201c(]\s*|\n\s*)$")
_ALIKE = 0.7
"""Similarity from which two spellings count as one name: Marcy and Mercy, Lloyd and uLlyod."""
_WORD = re.compile(r"[^\W\d_]{3,}")
_OWNS = re.compile("['\u2019]s ")
_ACTS = re.compile(
    r" (?:has|had|is|was|and|bought|took|made|got|ran|went|can|will|[a-z]{2,}(?:s|ed)) "
)
_NEVER_NAMES = """
    john peter james joseph mary paul michael micheal because profit well i scottish irish
    french italian canadian mexican monday tuesday wednesday thursday friday saturday sunday
    january february march april may june july august september october november december mr mrs
    ms miss dr english spanish french german chinese japanese american british christmas easter
    halloween thanksgiving new year day valentine mother father mom dad grandma grandpa aunt
    uncle the a an he she it they we you there this that these those his her its their if in on
    at for from to of and but or so as by with when how what which who why each every all some
    most many few both half one two three four five six seven eight nine ten after before during
    then next today yesterday tomorrow calculate find let suppose given assume determine compute
    solve north south east west earth english internet tv
"""
_NO_NAMES = frozenset(_NEVER_NAMES.split())


def math(text: str) -> list[str]:
    r"""The mathematics of a text, between its delimiters, without white space and without words in
    it. Text between two prices is not mathematics.

    >>> math(r"Let $x + 1 = \frac{y}{2}$ and \(z\); it costs $2 and then $3.")
    ['x+1=\\frac{y}{2}', 'z']
    """
    return [
        "".join(_TEXT.sub("", unicodedata.normalize("NFKC", inner)).split())
        for _, inner in _spans(text)
    ]


def without_math(text: str) -> str:
    """The text without its mathematics."""
    kept, begin = "", 0
    for span, _ in _spans(text):
        kept += text[begin : span.start()] + " "
        begin = span.end()
    return kept + text[begin:]


def _spans(text: str) -> Iterator[tuple[re.Match[str], str]]:
    """Yields the spans of mathematics, and the text between their delimiters. If a dollar sign
    belongs to a price, the search continues at the next one."""
    begin = 0
    while span := _MATH.search(text, begin):
        inner = next(filter(None, span.groups()))
        if span["inline"] is None or not _PROSE.search(_TEXT.sub("", inner)):
            yield span, inner
            begin = span.end()
        else:
            begin = span.start() + 1


def latex_faults(source: str, target: str) -> Iterator[str]:
    """Changes in the mathematics: commands, delimiters, formulas and braces."""
    yield from _lost_and_added("LaTeX is", _commands(source), _commands(target))
    lost, extra = _differ(math(source), math(target))
    if lost:
        yield f"mathematics is lost or changed: {_shown(lost)}"
    elif extra:
        yield f"mathematics is added: {_shown(extra)}"
    if _balanced(source) and not _balanced(target):
        yield "braces are not balanced"


def placeholder_faults(source: str, target: str) -> Iterator[str]:
    """Placeholders, tags and URLs that are lost, or that the source does not contain."""
    yield from _lost_and_added("placeholders are", placeholders(source), placeholders(target))


def placeholders(text: str) -> list[str]:
    """The placeholders, tags and URLs in a text.

    >>> placeholders("{name} has %d <b>eggs</b> in [CITY], ___ of them \\\\frac{1}{2}")
    ['{name}', '%d', '<b>', '</b>', '[CITY]', '___']
    """
    return _PLACEHOLDER.findall(without_math(text))


def without_placeholders(text: str) -> str:
    """The text without its mathematics and its placeholders."""
    return _PLACEHOLDER.sub(" ", without_math(text))


def unit_faults(source: str, target: str) -> Iterator[str]:
    """Units after numbers, and currency signs, that the source contains neither as a symbol nor as
    a word. A unit that is spelled out in the translation is not a fault."""
    said, lower = set(_units(source)), source.lower()
    for unit in dict.fromkeys(_units(target)):
        known = {unit, unit.lower()} & said or (unit == "lbs" and "lb" in said)
        if not known and not re.search(_UNITS[unit], lower):
            yield f"a unit is changed or added: {unit}"


def names(text: str) -> list[str]:
    """The one-word names of persons and places in an English text, found by their capitals: within
    sentences, in the genitive, or at the beginning of a sentence before a verb. Several capitalized
    words in a row are left out, since they may be ordinary words, which are translated; so are
    John, Peter and a few others.

    >>> names("Janet has ducks. Every Friday Tom and Janet sell eggs at Farmers Market in Kansas.")
    ['Janet', 'Tom', 'Kansas']
    """
    found: dict[str, bool] = {}
    plain = without_placeholders(text)
    words = [w for w in _CAPITALISED.finditer(plain) if not _is_common(w[0])]
    ends, starts = {w.end() for w in words}, {w.start() for w in words}
    for word in words:
        if word.start() - 1 in ends or word.end() + 1 in starts:
            continue
        first = _STARTS.search(plain[: word.start()])
        sure = not first or _OWNS.match(plain, word.end()) or _ACTS.match(plain, word.end())
        found[word[0]] = found.get(word[0], False) or bool(sure)
    return [name for name, sure in found.items() if sure]


def _is_common(word: str) -> bool:
    return not {word.lower(), word.lower().removesuffix("s")}.isdisjoint(_NO_NAMES)


def lost_names(source: str, target: str) -> list[str]:
    """The names of the source that a target in Latin script lacks: it contains neither their
    beginning nor a similar spelling, even after a prefix."""
    plain = _folded(target)
    words = set(_WORD.findall(plain))
    return [name for name in names(source) if not _told(_folded(name), plain, words)]


def _told(name: str, text: str, words: Iterable[str]) -> bool:
    if name[: max(3, len(name) - 2)] in text:
        return True
    ends = [word[-len(name) :] for word in words if len(word) >= len(name)]
    alike = SequenceMatcher(b=name, autojunk=False)
    for end in {*ends, *words}:
        alike.set_seq1(end)
        if alike.quick_ratio() >= _ALIKE and alike.ratio() >= _ALIKE:
            return True
    return False


def _folded(text: str) -> str:
    parts = unicodedata.normalize("NFKD", text.casefold())
    return "".join(c for c in parts if not unicodedata.combining(c))


def _units(text: str) -> list[str]:
    plain = unicodedata.normalize("NFKC", without_math(text))
    return [*_AFTER.findall(plain), *_CURRENCY.findall(plain)]


def _commands(text: str) -> list[str]:
    found = [c for c in _COMMAND.findall(text) if c not in _SPACING]
    return [*found, *_ENVIRONMENT.findall(text)]


def _balanced(text: str) -> bool:
    depth = 0
    for character in _ESCAPED.sub("", text):
        depth += (character == "{") - (character == "}")
        if depth < 0:
            return False
    return depth == 0


def _lost_and_added(what: str, source: list[str], target: list[str]) -> Iterator[str]:
    lost, extra = _differ(source, target)
    if lost:
        yield f"{what} lost: {_shown(lost)}"
    if extra:
        yield f"{what} added: {_shown(extra)}"


def _differ(one: list[str], other: list[str]) -> tuple[list[str], list[str]]:
    here, there = Counter(one), Counter(other)
    return list((here - there).elements()), list((there - here).elements())


def _shown(parts: list[str]) -> str:
    told = ", ".join(part[:40] for part in dict.fromkeys(parts[:4]))
    return told + (", ..." if len(parts) > 4 else "")
