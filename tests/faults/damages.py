"""What disks, crashes and hands do to the bytes of a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

Damage = Callable[[bytes], bytes] | None
"""None removes the file."""


def cut(text: bytes) -> bytes:
    return text[: 2 * len(text) // 3]


def cut_at_a_line(text: bytes) -> bytes:
    return b"".join(text.splitlines(keepends=True)[:-1])


def flipped(at: float) -> Callable[[bytes], bytes]:
    """One bit of one byte: a digit becomes another one, a letter another letter."""

    def flip(text: bytes) -> bytes:
        place = int(at * len(text))
        return text[:place] + bytes([text[place] ^ 1]) + text[place + 1 :]

    return flip


def zeros(text: bytes) -> bytes:
    return text[: len(text) // 2] + b"\0" * (len(text) - len(text) // 2)


def all_zeros(text: bytes) -> bytes:
    return b"\0" * len(text)


def empty(text: bytes) -> bytes:
    return b""


def apply(damage: Damage, file: Path) -> None:
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage(file.read_bytes()))
