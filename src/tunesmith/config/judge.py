"""An LLM judge: whom to ask, and what."""

import os
import string
import urllib.parse
from typing import Annotated, Any

from pydantic import Field, field_validator

from tunesmith.config.strict import Document
from tunesmith.config.task import UNVALIDATED, VALID_AUC
from tunesmith.errors import ConfigError

PLACES = ("conversation", "first", "second")
"""What stands in a prompt for what the judge reads."""


class JudgeConfig(Document):
    """A file that `tunesmith compare --judge` takes. Nothing is sent anywhere without it."""

    url: str
    """Of an OpenAI-compatible API, up to where `/chat/completions` follows: `http://127.0.0.1:8000/v1`."""
    model: str
    """What the endpoint calls the model."""
    api_key_env: str | None = None
    """Environment variable that holds the key, where the endpoint wants one."""
    experiment: str
    """The experiment whose conversations are judged, relative to this file; they are sent with both replies."""
    tasks: Annotated[list[str], Field(min_length=1)]
    """Its tasks and suites whose replies are judged."""
    pairs: Annotated[int, Field(ge=1)] = 100
    """Most pairs of replies of each task that are judged, drawn by their ids; each is asked twice."""
    prompt: str
    """What is asked, with `$conversation`, `$first` and `$second`; the answer must end with first, second or tie."""
    settings: Annotated[dict[str, Any], Field(default_factory=lambda: {"temperature": 0})]
    """Further fields of each request."""
    timeout_seconds: Annotated[float, Field(gt=0)] = 60
    """How long an answer may take."""
    auc: Annotated[float, Field(ge=0, le=1)] | None = None
    """How well this judge told true replies from swapped ones (`benchmarks/dialogue_validity.py --judge`); below 0.75,
    or when null, its metrics end with `_unvalidated`."""

    @field_validator("url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("must begin with http:// or https:// and name a host")
        if parts.username or parts.password:
            raise ValueError("holds a name or password; put the key into an environment variable, api_key_env")
        return url.rstrip("/")

    @field_validator("prompt")
    @classmethod
    def _has_places(cls, prompt: str) -> str:
        missing = [f"${place}" for place in PLACES if place not in string.Template(prompt).get_identifiers()]
        if missing:
            raise ValueError(f"lacks {', '.join(missing)}")
        return prompt

    @property
    def label(self) -> str:
        """What the names of its metrics end with."""
        return "" if self.auc is not None and self.auc >= VALID_AUC else UNVALIDATED

    def key(self) -> str:
        """The endpoint's key, empty where it wants none; raises `ConfigError` when the variable is not set."""
        if self.api_key_env is None:
            return ""
        key = os.environ.get(self.api_key_env, "")
        if not key:
            where = self.where("api_key_env")
            raise ConfigError(f"{where}: the environment variable {self.api_key_env} is not set; put the key there")
        return key
