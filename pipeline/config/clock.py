"""The one clock that may be set from outside: `SOURCE_DATE_EPOCH` (reproducible-builds.org)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from pipeline.errors import ConfigError


def fixed_clock(environment: Mapping[str, str]) -> datetime | None:
    """The time that SOURCE_DATE_EPOCH (seconds since 1970) sets for everything written.

    Raises:
        ConfigError: the variable is no number of seconds.
    """
    epoch = environment.get("SOURCE_DATE_EPOCH")
    if not epoch:
        return None
    try:
        return datetime.fromtimestamp(int(epoch), UTC)
    except (ValueError, OverflowError, OSError):
        raise ConfigError(
            f"SOURCE_DATE_EPOCH={epoch}: not a number of seconds since 1970; correct or unset it"
        ) from None
