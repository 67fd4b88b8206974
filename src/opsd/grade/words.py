r"""Words in an answer: answers that are only words, and words around a number.

Around a number stand units, currencies and nouns, which an answer may name or omit. There are too
many to list in every language. The lists here are of the other words: those that change the number
(`5 million`, `5 and a half`, `at least 5`, `5 below zero`). A word that is more likely a variable
is not a unit either (`5t`, `2 x`, `12ab`). Some words say on which of two sides a number is
(`3 p.m.`, `30 W`): an answer may omit them, too, but must not name the opposite side.
"""

from __future__ import annotations

import re
import unicodedata

# A character of a word in any script: no digit, space, punctuation or operator.
_LETTER = (
    r"[^\d\s!-/:-@\[-`{-~\xa4\xb1\xb7\xd7\xf7\u2010-\u206f\u2190-\u22ff\u3001-\u3004\u3008-\u3020]"
)
_WORD = re.compile(rf"{_LETTER}(?:['-]?{_LETTER})*\.?")
_TEXT = r"\\(?:text(?:rm|bf|it|sf|tt|normal|up)?|mathrm|mbox|operatorname) ?"
_SPELLED = re.compile(rf"{_TEXT}\{{(?P<wrapped>[^{{}}\d]+)\}}|(?P<bare>(?:{_LETTER}| )*)")

# Words that change a number, in the languages of the multilingual benchmarks: hundred to trillion,
# dozen, half, minus, twice, at least, below, in debt, almost. A star stands for any ending. Left
# out: "cent" and "miles", more often money and a length than a French hundred and Spanish
# thousands; "maximum", more often a name (`maximum 12`) than a bound.
_CHANGES_A_NUMBER = """
    hundred* thousand* million* billion* trillion* lakh* crore* dozen* half halves and or than not
    twice thrice doubled tripled quadrupled halved thirds fourths fifths sixths eighths tenths
    hundredths thousandths least most below debt overdrawn almost nearly except
    reciprocal inverse opposite minus negative squared cubed factorial pi sqrt root log ln exp
    sin cos tan cot arcsin arccos arctan mod gcd lcm
    mn mln mio bn mrd bln tn
    mille mila millier* milliard* centaine* douzaine* demi demie moins
    mil millón* millon* millar* cien ciento cientos docena* medio media menos
    milhão milhões bilhão bilhões bilhao bilhoes milhao milhoes cem cento dúzia* meio meia
    milion* bilion* miliard* dozzina* mezzo mezza meno
    tausend* hundert* dutzend* halb halbe halber halbes
    тысяч* тыс миллион* млн миллиард* млрд триллион* сот* дюжин* половин* минус
    elfu mia laki dazeni nusu hasi
    dubu miliyan* biliyan* ɗari dari rabi
    mílíọ̀nù* mílíọ́nù* miliọnu* milionu* bílíọ̀nù* ẹgbẹ̀rún* ẹgbẹrun* ọgọ́rùn* ọgọrun* ìdajì idaji
    nde puku narị ọkara
    isigidi izigidi inkulungwane izinkulungwane ikhulu amakhulu uhhafu
    iwaka amawaka isiqingatha
    sekete dikete likete lekgolo makgolo lekholo makholo halofo
    chiuru churu zviuru miriyoni mamiriyoni zana mazana hafu
    miliyoni miliyari igihumbi ibihumbi ijana magana
    akakadde obukadde lukumi enkumi kikumi bikumi omutwalo mutwalo emitwalo
    nkoto milio nkama mokama ndambo
    akpe alafa miliɔn* afã apem mpem ɔpepem ɔha ɔhaha
    junni téeméer* milyoŋ* milyon* kuma dhibba walakkaa
    ሺ ሺህ መቶ ሚሊዮን* ሚሊየን* ሚልዮን* ቢሊዮን* ግማሽ
    ألف الف آلاف الاف ألفا مليون* ملايين مليار* مئة مائة مئات نصف ونصف ناقص سالب
    হাজার* লাখ* লক্ষ* কোটি* মিলিয়ন* বিলিয়ন* শত শ আধা অর্ধেক মাইনাস ঋণাত্মক
    हज़ार* हजार* लाख* करोड़* अरब मिलियन* बिलियन* सौ आधा साढ़े माइनस ऋणात्मक
    వెయ్యి వేలు వేల లక్ష* కోటి కోట్ల* మిలియన్* వంద* సగం అర మైనస్
    พัน* หมื่น* แสน* ล้าน* ร้อย* ลบ
    nghìn ngàn triệu tỷ tỉ trăm vạn chục rưỡi nửa âm
    ribu juta bilion* miliar* ratus puluh lusin setengah separuh negatif
    만* 억* 천* 백* 반 마이너스 マイナス
    dette* presque deuda* casi dívida* quase debito* almeno quasi
    mindestens höchstens wenigstens schulden unter fast knapp negativ
    не ниже долг* почти angalau deni chini akalla hutang utang bawah hampir
    nhất dưới nợ الأقل الأكثر تحت কমপক্ষে অন্তত కనీసం ቢያንስ
    최소* 최대* 이상* 이하* 미만* 초과* 영하*
"""
# Words that change only a number that follows: `over 12`, `double 12`, `one in 12`, but not
# `12 double rooms`, `12 more`, `12 in one day`.
_CHANGES_WHAT_FOLLOWS = """
    double triple quadruple over under above beyond exceeding past up third quarter square cube
    one two three four five six seven eight nine ten
    plus doble más mas dobro triplo mais doppio triplo più doppelt* dreifach* über более менее
    больше меньше двойн* удвоенн* zaidi kurang lebih hơn gấp ضعف أكثر أقل কম বেশি कम ज़्यादा अधिक
"""


class _Words:
    """A set of words, from a list in which a star stands for any ending."""

    def __init__(self, listed: str) -> None:
        entries = unicodedata.normalize("NFC", listed).split()
        self.whole = frozenset(entry for entry in entries if not entry.endswith("*"))
        self.beginnings = tuple(entry[:-1] for entry in entries if entry.endswith("*"))

    def __contains__(self, word: str) -> bool:
        return word in self.whole or word.startswith(self.beginnings)


_CHANGING, _CHANGING_WHAT_FOLLOWS = _Words(_CHANGES_A_NUMBER), _Words(_CHANGES_WHAT_FOLLOWS)
# Scripts without spaces put these anywhere. Chinese and Japanese: half, dozen, minus, owing, below
# zero, at least, at most, from, up to, less than, more than. Thai: half, at least, at most, more
# than, less than, below zero.
_WITHIN = re.compile(
    "[\u534a\u6253\u8d1f\u8ca0\u6b20]|\u96f6\u4e0b|\u81f3\u5c11|\u6700\u591a|\u4ee5\u4e0a|\u4ee5\u4e0b|\u672a[\u6e80\u6ee1]"
    "|\u8d85[\u8fc7\u904e]|\u4e0d\u5230|\u0e04\u0e23\u0e36\u0e48\u0e07|อย่างน้อย|อย่างมาก|มากกว่า|น้อยกว่า|ติดลบ"
)

# Two sides per line. Words in capitals here only match in capitals.
_OPPOSITES = """
    am | pm
    N north | S south
    E east | W west
    clockwise | counterclockwise anticlockwise
    left | right
    up upward upwards | down downward downwards
    AD CE | BC BCE
    gain profit increase | loss decrease
"""
_COMMAND, _WITHIN_WORD = re.compile(r"\\[a-zA-Z]+"), re.compile("[.-]")
_SIDES = {
    word: (axis, side)
    for axis, line in enumerate(_OPPOSITES.strip().splitlines())
    for side, words in enumerate(line.split("|"))
    for word in words.split()
}

# Of words with one letter, or with two that touch the number, only these are units: `2h` and `5kg`,
# but `5t` and `12ab` contain variables. The endings of ordinals (`5th`) are harmless, too.
_SHORT = """
    m g s h l L km cm mm nm kg mg cl dl ml mL ha ft in yd mi lb oz hr am pm kW GB MB TB Hz
    Br br Sh sh Rs rs Tk tk Kr kr Rp RM FC Fr th st nd rd
    \u043c \u0433 \u043b \u0441 \u0447 \u0440 \u0645 \u062c \u063a \u0644
"""
_SHORT_UNITS = frozenset(_SHORT.split())
_VARIABLES = re.compile("a?b?c?|x?y?z?")
_CONSTANTS_AND_UNKNOWNS = frozenset("eixyz")
_PERCENT = frozenset({"percent", "percentage", "pct"})

_UNIT = "\ufffc"  # stands for words that are marked as text, and so are not variables
_MARKED = re.compile(rf"{_TEXT}\{{([^{{}}]*)\}}")
_ENDED = r"(?<=[\w})\]%])"
_EXPONENT = r"(?:\^ ?(?:\d|\{ ?\d ?\}))"
_MARKED_AT_END = re.compile(rf"{_ENDED} ?{_TEXT}\{{([^{{}}\d]*)\}}{_EXPONENT}?$")
_UNIT_AT_END = re.compile(
    rf"{_ENDED} (?:(?:square|cubic|sq\.?) )?(?:units?|degrees?|inch(?:es)?|feet|miles?|[ckm]m|kg|ft"
    rf"|(?:centi|kilo|milli)?met(?:er|re)s?|dollars?|cents?|hours?|minutes?|seconds?){_EXPONENT}?$"
)
_BOLD = re.compile(r"\\(?:mathbf|mathit|mathsf|boldsymbol|bm) ?\{([^{}]*)\}")
_DEGREES = re.compile(rf"(?<=\d) ?\^ ?(?:\\circ|\{{ ?\\circ ?\}}) ?[CFKNSEW{_UNIT}]?$")
# After `m`, and after a word of three letters: `3R^2` and `2pr^2` contain variables.
_POWER = re.compile(
    rf"(?:(?<={_LETTER}{{3}})|(?<=[m{_UNIT}])|(?<=in)|(?<=ft)|(?<=yd)|(?<=mi)){_EXPONENT}$"
)
_FRANCS = re.compile(
    r"(?<![^\W\d])F\.? ?CFA\b"
)  # of West and Central Africa: one unit in two words
_NOON = re.compile(r"\b([ap])\. ?m\b", re.IGNORECASE)
_SHILLINGS = re.compile(r"(?<=\d) ?/[=-]$")  # 500/= and 500/- are 500 shillings
_PER = re.compile(rf" ?/(?={_LETTER}{{2}})")  # 5/kg is a price; 5/k may be a quotient
_NAME = re.compile(r"[^\d=<>!\\]*(?:=|\\approx) ?|[^\d=:\\]{2,}: ?")
_AROUND = re.compile(r"(?P<before>\D*)(?P<number>\d(?:.*\d)?)(?P<after>\D*)", re.DOTALL)
# What belongs to the number before its first digit: a sign, the head of a fraction, a decimal mark
# that does not end an abbreviation (`Rs.12`).
_HEAD = re.compile(r"(?:^[-+] ?|(?<= )[-+])?(?:\\[dtc]?frac ?\{? ?|(?<![^ +-])[.,\u066b])?$")


def spelling(text: str) -> str | None:
    r"""The word or phrase that a normalised answer is, case folded; None for mathematics.

    A parser reads a word as a product of letters, and so takes `listen` for `silent`. A text is
    words if it has three letters in a row, or is all within `\text{}`.

    >>> spelling("Monday"), spelling(r"\text{no}"), spelling("xy")
    ('monday', 'no', None)
    """
    match = _SPELLED.fullmatch(text)
    if match is None:
        return None
    words = match["wrapped"] or match["bare"]
    if match["bare"] and max(map(len, words.split()), default=0) < 3:
        return None
    return " ".join(words.casefold().split()) or None


def changes_a_number(phrase: str, before: bool = False) -> bool:
    """Whether a phrase next to a number makes it another number: `million`, `na nusu`, `minus`.
    Some phrases do so only `before` the number.

    >>> changes_a_number("US million"), changes_a_number("km"), changes_a_number("elfu")
    (True, False, True)
    >>> changes_a_number("double", before=True), changes_a_number("double rooms")
    (True, False)
    """
    if phrase.strip() in _CONSTANTS_AND_UNKNOWNS or _WITHIN.search(phrase):
        return True
    if any(unicodedata.numeric(character, None) is not None for character in phrase):
        return True
    words = re.split(r"[ /.]+", unicodedata.normalize("NFC", phrase.casefold()))
    return any(w in _CHANGING or (before and w in _CHANGING_WHAT_FOLLOWS) for w in words)


def opposed(one: str, other: str) -> bool:
    r"""Whether two normalised answers name opposite sides: before and after noon, east and west.

    >>> opposed(r"3\text{ p.m.}", "3 AM"), opposed("3 pm", "3"), opposed("30 E", "30 N")
    (True, False, False)
    """
    here, there = _sides(one), _sides(other)
    return any(here[axis].isdisjoint(there[axis]) for axis in here.keys() & there.keys())


def _sides(text: str) -> dict[int, set[int]]:
    """The sides that a text names, by axis."""
    found: dict[int, set[int]] = {}
    for word in re.findall(r"[^\W\d_]+", _WITHIN_WORD.sub("", _COMMAND.sub(" ", text))):
        if side := _SIDES.get(word) or _SIDES.get(word.lower()):
            found.setdefault(side[0], set()).add(side[1])
    return found


def drop_unit(text: str) -> str:
    r"""A normalised answer without a unit at its end: `\text{ km}`, `\mathrm{cm}^2`, degrees.

    Only text that is marked as text is removed, and the commonest English names, so that a variable
    is never taken for a unit.

    >>> drop_unit(r"2\pi\text{ km}"), drop_unit(r"90^\circ"), drop_unit("5t")
    ('2\\pi', '90', '5t')
    """
    text = _MARKED_AT_END.sub(lambda match: match[0] if changes_a_number(match[1]) else "", text)
    return _DEGREES.sub("", _UNIT_AT_END.sub("", text))


def bare_number(text: str) -> str | None:
    r"""What is left of a tidied answer without the words around its one number.

    It runs from the first digit, or what belongs to it, to the last digit, and may still be any
    expression, as in `2^{10}`. None if the text around it is not a unit, currency, noun or name.

    >>> bare_number("KSh 1,200.50"), bare_number(r"x = -\frac{1}{2} km/h"), bare_number("12%")
    ('1,200.50', '-\\frac{1}{2}', '12%')
    >>> bare_number("5 million"), bare_number("5t"), bare_number(r"2\pi")
    (None, None, None)
    """
    for _ in range(2):
        text = _MARKED.sub(_stand_in, _BOLD.sub(r"\1", text))
    text = _FRANCS.sub(" FCFA", _NOON.sub(r"\1m", text))
    text = _POWER.sub("", _SHILLINGS.sub("", _DEGREES.sub("", text.strip())))
    name = _NAME.match(text)
    around = _AROUND.fullmatch(text[name.end() if name else 0 :])
    if around is None:
        return None
    before, number, after = around.groups()
    head = _HEAD.search(before)
    assert head is not None  # it matches nothing at the end
    before, number = before[: head.start()].strip(), head[0] + number
    if before[:1] in {"-", "+"}:
        before, number = before[1:], before[0] + number
    number, after = _with_ending(number, after)
    if before == "%":  # in scripts that are written from the right
        before, number = "", number + "%"
    return number if _are_units(before, True) and _are_units(after, False) else None


def _with_ending(number: str, after: str) -> tuple[str, str]:
    """A number with the brace and the percent sign that follow it, and the rest after them."""
    if "frac" in number and after.lstrip().startswith("}"):
        number, after = number + "}", after.lstrip()[1:]
    if after.lstrip().startswith("%"):
        return number + "%", after.lstrip()[1:]
    return (number + "%", "") if after.strip() in _PERCENT else (number, after)


def _stand_in(marked: re.Match[str]) -> str:
    """Replaces marked text: a number stays, a text that changes the number stays marked, and any
    other text becomes the stand-in for a unit."""
    words = marked[1].strip()
    if re.search(r"\d", words) or not words:
        return marked[1]
    if words in _PERCENT:
        return "%"
    before = re.search(r"\d", marked.string[: marked.start()]) is None
    return marked[0] if changes_a_number(words, before) else _UNIT


def _are_units(phrase: str, before: bool) -> bool:
    """Whether all words of a phrase before or after a number leave the number unchanged."""
    if not phrase.strip():
        return True
    phrase = _PER.sub("", phrase)
    touching = not phrase.startswith(" ")
    words = re.split(r" ?/ ?| ", phrase.strip())
    return not changes_a_number(phrase, before) and all(
        _is_unit(word, before, touching and place == 0) for place, word in enumerate(words)
    )


def _is_unit(word: str, before: bool, touching: bool) -> bool:
    if _WORD.fullmatch(word) is None:
        return False
    word = word.rstrip(".")
    if word in _SHORT_UNITS and not before:
        return True
    if _VARIABLES.fullmatch(word):
        return False
    if len(word) == 1:
        # Before a number a capital is a currency (R12, N500). Arabic, like scripts with capitals,
        # has variables of one letter.
        currency = before and "A" <= word <= "Z"
        return currency or (word.lower() == word.upper() and not "\u0590" <= word <= "\u06ff")
    latin_or_greek = word < "\u0400"
    return before or not (touching and len(word) == 2 and latin_or_greek)
