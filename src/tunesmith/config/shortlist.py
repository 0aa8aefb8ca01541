"""Which base models a shortlist compares."""

from typing import Annotated

from pydantic import Field

from tunesmith.config.strict import Section


class ShortlistConfig(Section):
    """What `tunesmith shortlist` scores on `data.sanity` before anything is trained."""

    candidates: Annotated[list[str], Field(default_factory=list)]
    """Base models beside `model.base`: hub ids, folders, `models:/` URIs or `bundled:NAME`."""
    shots: Annotated[int, Field(ge=1, le=64)] = 4
    """Examples that few-shot scoring shows before each question, drawn from the rows dealt to train by `seed`."""
