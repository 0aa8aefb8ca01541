"""Promotes two versions in turn until killed: `python -m tests.promotion_loop POLICY`.

Loads everything once; then each line on standard input forks a promoter, whose process id is the answer.
"""

import itertools
import os
import sys

from tunesmith import promotion
from tunesmith.config import Policy
from tunesmith.registry import against_base, aliases, versions  # noqa: F401 - loaded before any fork


def main() -> None:
    policy = Policy.from_yaml(sys.argv[1])
    for _ in sys.stdin:
        if os.fork() == 0:
            promote_for_ever(policy)


def promote_for_ever(policy: Policy) -> None:
    """Promote versions 2 and 3 in turn, each in place of the other."""
    for n in itertools.count():
        champion = aliases.settled(policy.model)[1].champion
        versions.set_alias(policy.model, aliases.CANDIDATE, "3" if champion == "2" else "2")
        if n == 1:
            sys.stdout.write(f"{os.getpid()}\n")
            sys.stdout.flush()
        promotion.promote(policy, promotion.Request(reason=f"round {n}"))


if __name__ == "__main__":
    main()
