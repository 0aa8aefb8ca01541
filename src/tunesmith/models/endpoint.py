"""A chat model behind an OpenAI-compatible endpoint."""

import json
import time
import urllib.error
import urllib.request
from typing import Any

from tunesmith.config.judge import JudgeConfig
from tunesmith.errors import EvaluationError

RETRIED = (429, 500, 502, 503, 504)
"""Answers after which the same request may succeed."""
WAITS = (0.5, 2.0)
"""Seconds before the second and the third try."""
MOST_BYTES = 2**20
SHOWN = 200


class NoRedirects(urllib.request.HTTPRedirectHandler):
    """Refuses to follow an endpoint elsewhere, where nobody has agreed to send conversations and a key."""

    def redirect_request(self, *_: Any) -> None:
        """Follow nothing: the redirection is then an error."""


class Endpoint:
    """Gives one answer to one prompt."""

    def __init__(self, config: JudgeConfig) -> None:
        """Raises `ConfigError` when the key is not there."""
        self.config = config
        self.url = f"{config.url}/chat/completions"
        self.secret = config.key()
        self.opener = urllib.request.build_opener(NoRedirects)

    def ask(self, prompt: str) -> str:
        """The answer to a prompt; raises `EvaluationError` with one line when there is none."""
        for wait in (*WAITS, None):
            try:
                return self._answer(prompt)
            except urllib.error.HTTPError as error:
                if error.code not in RETRIED or wait is None:
                    raise EvaluationError(f"{self.url}: {self._said(error)}") from None
            except OSError as error:
                raise EvaluationError(f"{self.url}: {getattr(error, 'reason', None) or error}") from None
            except (ValueError, LookupError, TypeError):
                raise EvaluationError(f"{self.url}: its answer is no chat completion") from None
            time.sleep(wait)
        raise AssertionError("the last try returns or raises")

    def _answer(self, prompt: str) -> str:
        messages = [{"role": "user", "content": prompt}]
        body = {**self.config.settings, "model": self.config.model, "messages": messages}
        headers = {"Content-Type": "application/json"}
        if self.secret:
            headers["Authorization"] = f"Bearer {self.secret}"
        request = urllib.request.Request(self.url, json.dumps(body).encode(), headers)  # noqa: S310 - http, as checked
        with self.opener.open(request, timeout=self.config.timeout_seconds) as reply:
            content = json.loads(reply.read(MOST_BYTES))["choices"][0]["message"]["content"]
        if not isinstance(content, str):
            raise TypeError(content)
        return content

    def _said(self, error: urllib.error.HTTPError) -> str:
        """What an endpoint gave as its reason, never the key."""
        try:
            said = str(json.loads(error.read(MOST_BYTES))["error"]["message"])
        except (OSError, ValueError, LookupError, TypeError):
            said = str(error.reason)
        if self.secret:
            said = said.replace(self.secret, "…")
        return f"HTTP {error.code}: {' '.join(said.split())[:SHOWN]}"
