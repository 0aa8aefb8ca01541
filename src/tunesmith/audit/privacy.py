"""Personal data and secrets, found by pattern and checksum. What is found is never shown."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tunesmith.audit.formatting import map_contents
from tunesmith.audit.material import Material
from tunesmith.audit.result import Action, Check, Result, caught
from tunesmith.records import Row

SECRETS = frozenset({"key", "token", "private key", "password"})
MIN_ENTROPY = 3.5
"""Bits per character from which a long mixed string is a key: words stay below 3.3, random base64 is near 4.5."""
PUBLIC_ANSWERS = 10
"""Different questions that are answered with a telephone number, from which it is the organisation's own."""


@dataclass(frozen=True)
class Detector:
    """A kind of private value: how it looks, and what else must hold of it."""

    kind: str
    pattern: re.Pattern[str]
    holds: Callable[[str], bool] = lambda _: True


def luhn(text: str) -> bool:
    """Whether the digits of a card number pass its checksum (ISO/IEC 7812-1)."""
    digits = [int(char) for char in text if char.isdigit()][::-1]
    doubled = [digit * 2 - 9 * (digit > 4) if place % 2 else digit for place, digit in enumerate(digits)]
    return 13 <= len(digits) <= 19 and len(set(digits)) > 1 and sum(doubled) % 10 == 0


def iban(text: str) -> bool:
    """Whether an IBAN passes its checksum (ISO 13616: the rearranged number modulo 97 is 1)."""
    plain = re.sub(r"\s", "", text)
    if not 15 <= len(plain) <= 34:
        return False
    return int("".join(str(int(char, 36)) for char in plain[4:] + plain[:4])) % 97 == 1


def social_security(text: str) -> bool:
    """Whether a number could be issued as a US social security number (not 000, 666, 9xx, 00 or 0000)."""
    area, group, serial = text.replace(" ", "-").split("-")
    return area not in {"000", "666"} and area[0] != "9" and group != "00" and serial != "0000"


def telephone(text: str) -> bool:
    """Whether a number has as many digits as a telephone number (E.164: at most 15)."""
    return 7 <= sum(char.isdigit() for char in text) <= 15


def random_looking(text: str) -> bool:
    """Whether a long string mixes cases and digits and is as varied as a key."""
    kinds = (str.islower, str.isupper, str.isdigit)
    if not all(any(kind(char) for char in text) for kind in kinds):
        return False
    shares = [count / len(text) for count in Counter(text).values()]
    return -sum(share * math.log2(share) for share in shares) >= MIN_ENTROPY


DETECTORS = (
    Detector(
        "private key", re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?:[\s\S]*?-----END [A-Z ]*PRIVATE KEY-----)?")
    ),
    Detector(
        "key",
        re.compile(
            r"\b(?:AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36,}|sk-[A-Za-z0-9_-]{20,}|sk_(?:live|test)_[A-Za-z0-9]{16,}"
            r"|xox[abprs]-[A-Za-z0-9-]{10,}|AIza[0-9A-Za-z_-]{35}|hf_[A-Za-z0-9]{30,}|glpat-[A-Za-z0-9_-]{20,})"
        ),
    ),
    Detector("token", re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*")),
    Detector("e-mail", re.compile(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}")),
    Detector("IBAN", re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b"), iban),
    Detector("card number", re.compile(r"(?<![\d-])[2-6]\d{3}(?:[ -]?\d){9,15}(?![\d-])"), luhn),
    Detector("national id", re.compile(r"(?<![\d-])\d{3}[- ]\d{2}[- ]\d{4}(?![\d-])"), social_security),
    Detector(
        "telephone",
        re.compile(
            r"(?<![\w.-])(?:\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{2,4}(?:[ .-]?\d{2,4}){1,4}"
            r"|\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4}|\d{3}-\d{4})(?![\w-])"
        ),
        telephone,
    ),
    Detector("key", re.compile(r"(?<![\w+/])[A-Za-z0-9+/_-]{24,}={0,2}(?![\w+/])"), random_looking),
)
"""From the most to the least certain; text that one has claimed the next does not see."""

HINT = re.compile(r"@|\d{3}|[A-Za-z0-9+/_-]{20}|BEGIN|xox")


def digits(text: str) -> str:
    """The digits of a text."""
    return re.sub(r"\D", "", text)


def published_numbers(material: Material) -> frozenset[str]:
    """Telephone numbers that are nobody's secret: the knowledge texts state them, or answer after answer does."""
    return material.once("published numbers", lambda: find_published(material))  # type: ignore[no-any-return]


def find_published(material: Material) -> frozenset[str]:
    """Compute what `published_numbers` gives: numbers in the knowledge, or answered to 10 different questions."""
    telephones = next(detector.pattern for detector in DETECTORS if detector.kind == "telephone")
    asked: dict[str, set[str]] = defaultdict(set)
    for question, answer in zip(material.questions, material.answers, strict=True):
        for number in telephones.findall(answer) if HINT.search(answer) else ():
            asked[digits(number)].add(question)
    known = {digits(number) for text in material.knowledge for number in telephones.findall(text)}
    return frozenset(known | {number for number, questions in asked.items() if len(questions) >= PUBLIC_ANSWERS})


def private_values(text: str, material: Material) -> Iterator[tuple[str, re.Match[str]]]:
    """Kind and place of each private value in a text; numbers that the knowledge texts publish are none."""
    if not HINT.search(text):
        return
    taken: list[tuple[int, int]] = []
    for detector in DETECTORS:
        for match in detector.pattern.finditer(text):
            free = all(match.end() <= start or match.start() >= end for start, end in taken)
            published = detector.kind == "telephone" and digits(match.group()) in published_numbers(material)
            if free and not published and detector.holds(match.group()):
                taken.append(match.span())
                yield detector.kind, match


def row_kinds(row: Row, material: Material) -> set[str]:
    """The kinds of private values in a row."""
    kinds: set[str] = set()

    def look(text: str) -> str:
        kinds.update(kind for kind, _ in private_values(text, material))
        return text

    map_contents(row, look)
    return kinds


def personal_data(material: Material) -> Result:
    """Rows with e-mail addresses, telephone, card, bank or national id numbers."""
    return _having(material, lambda kind: kind not in SECRETS)


def secrets(material: Material) -> Result:
    """Rows with keys or tokens."""
    return _having(material, lambda kind: kind in SECRETS)


def redact(row: Row, material: Material) -> Row:
    """The row with each private value replaced by its kind in brackets."""

    def blank(text: str) -> str:
        found = sorted(private_values(text, material), key=lambda value: -value[1].start())
        for kind, match in found:
            text = f"{text[: match.start()]}[{kind}]{text[match.end() :]}"
        return text

    return map_contents(row, blank)


def _having(material: Material, wanted: Callable[[str], bool]) -> Result:
    kinds = material.once("private kinds", lambda: [sorted(row_kinds(row, material)) for row in material.rows])
    chosen = {n: [kind for kind in found if wanted(kind)] for n, found in enumerate(kinds)}
    return caught({n: f"has {', '.join(found)}" for n, found in chosen.items() if found}, len(chosen), "rows")


CHECKS = (
    Check("personal data", "privacy", personal_data, limit="max_private_rate", action=Action.EDIT, edit=redact),
    Check("secrets", "privacy", secrets, limit="max_private_rate", action=Action.EDIT, edit=redact),
)
