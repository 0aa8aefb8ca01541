"""Pages as files."""

import pathlib

from tunesmith.errors import ConfigError


def write_page(path: pathlib.Path, text: str) -> None:
    """Write an HTML page; raises `ConfigError` when it cannot be."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--html {path}: cannot be written ({error.strerror})") from None
