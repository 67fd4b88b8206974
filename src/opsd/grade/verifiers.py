"""The shipped verifiers, and how a recipe, a command and Python name a verifier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, TypeAdapter, ValidationError

from opsd.grade.choice import ChoiceVerifier
from opsd.grade.code import UnitTestVerifier
from opsd.grade.judge import Verifier
from opsd.grade.rewards import RewardFuncs
from opsd.grade.texts import JSONVerifier, MatchVerifier, RegexVerifier
from opsd.grade.verifier import MathVerifier
from opsd.parts import Slot
from opsd.types import UserError
from opsd.validation import explain, parsed

SHIPPED = (
    *(MathVerifier, ChoiceVerifier, MatchVerifier, RegexVerifier),
    *(JSONVerifier, UnitTestVerifier, RewardFuncs),
)

DEFAULT = MathVerifier()


def _typed(value: Any) -> Any:
    """Reads a text as a verifier's name, and keys without a `type` as those of the default one."""
    if isinstance(value, Mapping) and "type" not in value:
        return {"type": MathVerifier.type, **value}
    return {"type": value} if isinstance(value, str) else value


AnyVerifier = Annotated[Verifier, Slot("verifier", Verifier, SHIPPED), BeforeValidator(_typed)]
_VERIFIER: TypeAdapter[Any] = TypeAdapter(AnyVerifier)


def verifier(text: str, where: str = "--verifier") -> Any:
    """A verifier from its name (`multiple_choice`, `package.module:Name`), or from a mapping as a
    recipe writes it: `{type: match, answer: all}`. UserError for anything else."""
    content = parsed(text, where) if text.lstrip().startswith("{") else text
    try:
        return _VERIFIER.validate_python(content)
    except ValidationError as error:
        raise UserError(f"{where} {explain(error, _typed(content)).removeprefix(': ')}") from error


def written(verifier: Any) -> dict[str, Any]:
    """A verifier as a recipe writes it: its `type`, and its keys."""
    return _VERIFIER.dump_python(verifier, mode="json")
