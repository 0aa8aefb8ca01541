"""Rows for the data desk's checks, and what a check finds among them."""

import re

from tunesmith.audit.material import Material
from tunesmith.config.audit import AuditLimits, MeaningThresholds

LABELS = ((re.compile(r"Route: ([a-z]+)\s*$"), "intent"),)


TFIDF = AuditLimits(meaning=MeaningThresholds(embeddings="tfidf"))


def row(name="a", question="How do I pay?", answer="By card.\nRoute: billing", **more):
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"id": name, "group": name, "intent": "billing", "messages": messages, **more}


def material(*rows, splits=None, **more):
    return Material(
        rows=rows, splits=tuple(splits or ["train"] * len(rows)), **{"limits": TFIDF, "labels": LABELS, **more}
    )


def with_row(base, new, split="train"):
    return base.keep([*base.rows, new], [*base.splits, split])


def caught(check, found):
    return {found.id(n) for n in check(found).rows}
