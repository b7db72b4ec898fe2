"""What a table says of the software that its rows were run with."""

from __future__ import annotations

from importlib import metadata


def paddle_version() -> str:
    """The version of the installed Paddle, whichever build, without importing it."""
    (package, *_) = metadata.packages_distributions()["paddle"]
    return metadata.version(package)
