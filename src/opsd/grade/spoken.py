r"""Numbers that are partly words: `12 thousand`, `negative 12`, `seventy-two`; and powers of ten,
`3\times 10^8`. All are converted to the form that `numerals.py` reads: digits, a sign, `e8`."""

from __future__ import annotations

import re
import unicodedata

from opsd.grade.words import spelling

_MINUS = """
    minus negative moins menos meno negativ минус hasi ناقص سالب মাইনাস ঋণাত্মক माइनस ऋणात्मक
    మైనస్ âm negatif 마이너스 マイナス 负 負 ลบ
"""
# Words after a number, by their power of ten. Without `Billionen` and `billones`, which differ from
# the English billion.
_SCALES = {
    2: "hundred",
    3: "thousand mille mila mil tausend тысяч тысяча тысячи тыс ribu nghìn ngàn ألف آلاف হাজার"
    " हज़ार हजार వేల వేలు ሺ ሺህ",
    5: "lakh lakhs লাখ লক্ষ लाख లక్ష లక్షల లక్షలు",
    6: "million millions mln mio millón millones milhão milhões milione milioni millionen миллион"
    " миллиона миллионов млн juta triệu مليون ملايين মিলিয়ন मिलियन మిలియన్ ሚሊዮን",
    7: "crore crores কোটি करोड़ కోట్ల కోట్లు",
    9: "billion bn milliard milliards milliarde milliarden mrd miliardo miliardi миллиард миллиарда"
    " миллиардов млрд bilhão bilhões miliar tỷ tỉ مليار বিলিয়ন बिलियन",
    12: "trillion",
}
# For scripts that continue without a space: 12만원.
_SCALES_WITHIN = {3: "천 พัน", 4: "만 หมื่น", 5: "แสน", 6: "ล้าน", 8: "억"}
# Before a number, in Swahili and Hausa.
_SCALES_BEFORE = {3: "elfu dubu", 5: "laki", 6: "milioni miliyan", 9: "bilioni biliyan"}


def _powers(scales: dict[int, str]) -> dict[str, int]:
    return {
        unicodedata.normalize("NFC", word): power
        for power, words in scales.items()
        for word in words.split()
    }


def _any(words: dict[str, int] | list[str]) -> str:
    return "|".join(sorted(map(re.escape, words), key=len, reverse=True))


_BEHIND, _WITHIN, _BEFORE = map(_powers, (_SCALES, _SCALES_WITHIN, _SCALES_BEFORE))
_POWERS = _BEHIND | _WITHIN | _BEFORE
TEXT = r"\\(?:text|textrm|mathrm|mbox) ?\{ ?"
_SCALED = re.compile(
    rf"(?<=\d) ?(?P<text>{TEXT})?"
    rf"(?:(?P<word>{_any(_BEHIND)})(?![^\W\d_])\.?|(?P<run>{_any(_WITHIN)}))",
    re.IGNORECASE,
)
_SCALED_BEFORE = re.compile(
    rf"(?<!\w)(?P<word>{_any(_BEFORE)}) (?P<number>\d(?:[\d.,]*\d)?)", re.IGNORECASE
)
_NEGATED = re.compile(
    rf"^(?:{TEXT})?(?:{_any(unicodedata.normalize('NFC', _MINUS).split())})"
    r"(?: ?\})? ?(?=[\d.\\])",
    re.IGNORECASE,
)
_EXPONENT = r"10 ?\^ ?(?:\{ ?(?P<braced>[-+]?\d{1,3}) ?\}|(?P<bare>[-+]?\d{1,3})(?!\d))"
_SCIENTIFIC = re.compile(
    rf"(?P<one>^[-+]? ?)?(?(one)|(?<=\d) ?(?:\\times|\\cdot|[x*]) ?){_EXPONENT}"
)

_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
    " sixteen seventeen eighteen nineteen"
)
_ONES = _SMALL.split()
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_GROUPS = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_COUNTS = {word: n for n, word in enumerate(_ONES)} | {w: 10 * n for n, w in enumerate(_TENS, 2)}
_BELOW_100 = rf"(?:(?:{'|'.join(_TENS)})(?: (?:{'|'.join(_ONES[1:10])}))?|{'|'.join(_ONES[:0:-1])})"
_BELOW_1000 = rf"(?:(?:{'|'.join(_ONES[:0:-1])}) hundred(?: (?:and )?{_BELOW_100})?|{_BELOW_100})"
_SPOKEN = re.compile(
    r"(?P<sign>(?:minus|negative) )?(?P<number>zero|"
    + "".join(rf"(?:{_BELOW_1000} {group}(?: (?:and )?(?=\w)|$))?" for group in reversed(_GROUPS))
    + rf"(?:{_BELOW_1000})?)"
)


def digits(text: str) -> str:
    r"""A tidied answer with a number that is partly in words rewritten in digits.

    Numbers entirely in words are only read in English; signs and scales in many languages.

    >>> digits("Seventy-two"), digits("negative 12"), digits("1.2 million people")
    ('72', '-12', '1.2e6 people')
    >>> digits(r"3\times10^8"), digits("10^{-3} m"), digits("elfu 12")
    ('3e8', '1e-3 m', '12e3')
    """
    number = spoken(text)
    if number is not None:
        return str(number)
    text = _NEGATED.sub("-", unicodedata.normalize("NFC", text))
    text = _SCIENTIFIC.sub(_with_power, text)
    return _SCALED_BEFORE.sub(_scaled_before, _SCALED.sub(_scaled, text))


def spoken(text: str) -> int | None:
    """The integer that a text spells in English words; None if the text is anything else.

    >>> spoken("two hundred and five"), spoken("two three"), spoken("seventy-two apples")
    (205, None, None)
    """
    match = _SPOKEN.fullmatch(spelling(text.replace("-", " ")) or "")
    if match is None or not match["number"]:
        return None
    total = below = 0
    for word in match["number"].split():
        if word in _GROUPS:
            total, below = total + below * _GROUPS[word], 0
        elif word == "hundred":
            below *= 100
        else:
            below += _COUNTS.get(word, 0)  # `and` adds nothing
    return -(total + below) if match["sign"] else total + below


def _with_power(found: re.Match[str]) -> str:
    one = "" if found["one"] is None else f"{found['one']}1"
    return f"{one}e{found['braced'] or found['bare']}"


def _scaled(found: re.Match[str]) -> str:
    word = (found["word"] or found["run"]).lower()
    return f"e{_POWERS[word]}{found['text'] or ''}"


def _scaled_before(found: re.Match[str]) -> str:
    return f"{found['number']}e{_POWERS[found['word'].lower()]}"
