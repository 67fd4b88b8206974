"""Which words may stand beside a number, and which make it another."""

from unicodedata import normalize

import pytest

from opsd.grade import answers_match
from opsd.grade.numerals import tidy
from opsd.grade.words import bare_number, changes_a_number, drop_unit, opposed, spelling


@pytest.mark.parametrize(
    "text",
    ["12 birr", "12 ብር", "12ብር", "12 टका", "12 টাকা", "12 ng'ombe", "12 ng’ombe", "12 ọjọ́",
     "12 руб.", "12 км/ч", "12 м", "12元", "12 个", "12本", "12개", "12 كم", "12 م", "12km",
     "12 kg", "12 m²", "12 cm^2", "12 ft^{2}", "12 m", "12h", "12g", "12 km/h",
     "12 miles per hour", "12 times", "12 pcs.", "12th", r"12\text{ km}",
     r"12\,\mathrm{cm}^{2}", r"12\text{ V}", r"12\\text{ km}", r"\text{12 km}",
     r"\textbf{12}", r"\mathbf{12}", r"\text{\textbf{12}}", r"12\mbox{ inches}", "12°C",
     r"12^\circ", r"12^{\circ} F", "$12", r"\$12", "12$", "€ 12", "12 €", "12€", "₦12",
     "US$12", "Z$12", "GH₵ 12", "R12", "R 12", "N12", "KSh 12", "KSh12", "Rs.12", "Rs. 12",
     "Br 12", "12 Br", "12Br", "shilingi 12", "vitabu 12", "dola za Marekani 12", "12/=",
     "Ksh 12/-", "12€/kg", "$12/day", "x = 12", "= 12", "x = 12 km", "Jibu: 12",
     r"\text{Answer} = 12", r"\text{KSh }12", "12 cents", "12 miles", "12 p.m.",
     r"12^\circ\text{ W}", "about 12", "approximately 12 km", "12 more", "12 fewer apples",
     "12 double rooms", "12 square meters", "12 fifth graders", "12 under-fives", "12 years older",
     "12 in one day",
     "12 in total", "12 left", "maximum 12", "12 degrees above zero", "12 dollars owed"],
)  # fmt: skip
def test_units_currencies_nouns_and_names_may_stand_around_a_number(text: str):
    assert bare_number(tidy(text)) == "12"


@pytest.mark.parametrize(
    "text",
    ["12t", "12x", "12 x", "12n", "x 12", "m 12", "12ab", "12 ab", "12xyz", "12pq", "12 R^2",
     "3h^2", "12 pr^2", r"12\pi", "12π", "12 π", "12pi", "12 pi", "12 س", r"12\mathrm{i}",
     r"12\text{ x}", "12/x", "12/n", "12!", "√12", "log 12", "sqrt 12", r"\log 12",
     r"\operatorname{ln} 12", "(12)", "12+", "A-12", "12 million", "12 US million",
     r"12\text{ million}", r"12\text{ US million}", "12 dozen", "12k", "12 mln",
     "12 and a half", "12 squared", "12 or", "minus 12", "twice 12", "not 12", "12 mille",
     "12 millones", "12 milhões", "12 Millionen", "12 Mio.", "12 миллионов", "12 тысяч",
     "12 млн", "12 с половиной", "milioni 12", "elfu 12", "12 na nusu", "dubu 12",
     "miliyan 12", "mílíọ̀nù 12", "nde 12", "12 narị", "izigidi 12", "amakhulu 12",
     "diketê 12 milione", "zviuru 12", "miliyoni 12", "obukadde 12", "nkoto 12", "akpe 12",
     "mpem 12", "12 junni", "kuma 12", "12 ሚሊዮን", "12 ሺህ", "12 ألف", "12 مليون", "12 ونصف",
     "12 হাজার", "12 লক্ষ টাকা", "12 লাখ", "12 करोड़", "12 हज़ार", "12 లక్షలు", "12 వేల",
     "12ล้านบาท", "12 nghìn", "12 triệu", "12 ribu", "12 juta", "12만", "12억", "12年半",
     "12ครึ่ง", "负12", "12 ½", "12千", "12 Ⅻ", r"12\text{ below zero}", "12 below zero",
     "12 degrees below zero", "12 in debt", "double 12", r"\text{double }12", "triple 12",
     "half of 12", "12 doubled", "at least 12", "at most 12", "12 at least", "over 12", "under 12",
     "more than 12", "up to 12", "almost 12", "a third of 12", "2 thirds of 12", "square 12",
     "quarter to 12", "one in 12", "two 12s",
     "au moins 12", "plus de 12", "al menos 12", "mindestens 12", "über 12",
     "12 unter null", "almeno 12", "не менее 12", "12 ниже нуля", "angalau 12", "至少12",
     "12以上", "零下12", "최소 12", "12 이상", "เกือบ 12 อย่างน้อย", "ít nhất 12"],
)  # fmt: skip
def test_what_changes_a_number_or_is_a_variable_does_not_go(text: str):
    assert bare_number(tidy(text)) != "12"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("-KSh 5", "-5"),
        ("KSh -5", "-5"),
        ("- 5", "- 5"),
        (r"-\frac{1}{2} kg", r"-\frac{1}{2}"),
        (r"2\frac{1}{2} hours", r"2\frac{1}{2}"),
        ("1/2 kg", "1/2"),
        ("Rs.12.50", "12.50"),
        ("Rs. .5", ".5"),
        ("12 %", "12%"),
        ("%12", "12%"),
        ("12 percent", "12%"),
        (r"12\text{ percent}", "12%"),
        ("12 or 15", "12 or 15"),
        ("12 km 300 m", "12 km 300"),
    ],
)
def test_a_number_keeps_what_belongs_to_it(text: str, number: str):
    assert bare_number(tidy(text)) == number


def test_words_that_change_numbers_are_known_in_either_normal_form():
    for word in ("हज़ार", "mílíọ̀nù", "লক্ষ", "millón"):
        for form in ("NFC", "NFD"):
            assert changes_a_number(normalize(form, word))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"3\text{ p.m.}", r"3\text{ a.m.}"),
        ("3 PM", "3:00 am"),
        (r"30^\circ\text{ W}", r"30^\circ\text{ E}"),
        ("30 N", "30 south"),
        ("90 clockwise", "90 counter-clockwise"),
        ("5 left", r"5\text{ right}"),
        ("50 BC", "50 AD"),
        ("a loss of 5", "a profit of 5"),
    ],
)
def test_opposite_sides_are_not_the_same(one: str, other: str):
    assert opposed(one, other) and opposed(other, one) and not opposed(one, one)
    assert not answers_match(one, other) and not answers_match(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [("3 p.m.", "3"), ("30 N, 5 E", "5 E, 30 N"), ("5", "5 W"), (r"\left(1, 2\right)", "(1, 2)"),
     ("3 am", "3 AM"), ("5 e", "5 W")],
)  # fmt: skip
def test_a_side_may_be_left_out(one: str, other: str):
    assert not opposed(one, other) and not opposed(other, one)


def test_words_are_spelled():
    assert spelling("Listen") == "listen" != spelling("silent")
    assert spelling(r"\text{No solution}") == spelling("no solution") == "no solution"
    for mathematics in ("xy", "5 apples", r"2\pi", "a+bcd", r"\text{a}+b", ""):
        assert spelling(mathematics) is None


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (r"2\pi\text{ cm}", r"2\pi"),
        (r"2\sqrt{3}\mathrm{cm}^2", r"2\sqrt{3}"),
        (r"2\sqrt{3} square units", r"2\sqrt{3}"),
        (r"8\pi cm^{2}", r"8\pi"),
        (r"90^{\circ}", "90"),
        (r"5\text{ million}", r"5\text{ million}"),
        (r"5\text{ milioni}", r"5\text{ milioni}"),
        (r"\text{no}", r"\text{no}"),
        (r"\frac{1}{2} mv^2", r"\frac{1}{2} mv^2"),
        ("5t", "5t"),
    ],
)
def test_units_at_the_end_of_an_expression_go(text: str, left: str):
    assert drop_unit(text) == left
