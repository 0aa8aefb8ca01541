"""Invented private values: their checksums are right, and nobody has them."""

import random
from collections.abc import Callable

NAMES = ["jane.miller", "t.okafor", "lena-schmidt", "raj.patel77", "m_dubois", "sofia.rossi", "paul.k", "amy_w"]
DOMAINS = ["example.com", "mail.example.org", "postbox.example.net", "inbox.example.co"]


def card_number(rng: random.Random) -> str:
    """Sixteen digits that pass the Luhn check."""
    digits = [rng.choice([4, 5])] + [rng.randrange(10) for _ in range(14)]
    total = sum(d * 2 - 9 * (d > 4) if n % 2 == 0 else d for n, d in enumerate(digits))
    digits.append(-total % 10)
    text = "".join(map(str, digits))
    return rng.choice([text, " ".join(text[n : n + 4] for n in range(0, 16, 4))])


def iban(rng: random.Random) -> str:
    """A German IBAN whose check digits are right."""
    account = "".join(str(rng.randrange(10)) for _ in range(18))
    check = 98 - int(account + "131400") % 97
    text = f"DE{check:02d}{account}"
    return rng.choice([text, " ".join(text[n : n + 4] for n in range(0, 22, 4))])


def token(rng: random.Random, length: int) -> str:
    """Random letters and digits."""
    alphabet = "abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"
    return "".join(rng.choice(alphabet) for _ in range(length))


PRIVATE: dict[str, Callable[[random.Random], str]] = {
    "e-mail": lambda rng: f"write to me at {rng.choice(NAMES)}@{rng.choice(DOMAINS)}",
    "telephone": lambda rng: rng.choice(
        [
            f"ring me on +44 20 7946 0{rng.randrange(100, 999)}",
            f"my number is ({rng.randrange(201, 989)}) 555-{rng.randrange(1000, 9999)}",
            f"call +1 {rng.randrange(201, 989)}-555-{rng.randrange(1000, 9999)}",
            f"my mobile: {rng.randrange(201, 989)}-555-{rng.randrange(1000, 9999)}",
        ]
    ),
    "card number": lambda rng: f"charge it to my card {card_number(rng)}",
    "IBAN": lambda rng: f"the money can go to {iban(rng)}",
    "national id": lambda rng: (
        f"my social is {rng.randrange(100, 665)}-{rng.randrange(10, 99)}-{rng.randrange(1000, 9999)}"
    ),
    "key": lambda rng: rng.choice(
        [
            f"the portal gave me this token: ghp_{token(rng, 36)}",
            f"I found AKIA{token(rng, 16).upper()} in the export",
            f"api key sk-{token(rng, 40)}",
            f"session {token(rng, 32)}",
        ]
    ),
}
