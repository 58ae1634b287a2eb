"""Moments, as people write them and as seconds of UTC."""

import math
import re
from datetime import date, datetime, timezone

from msinet_timm.errors import InputError

__all__ = ['format_time', 'parse_time']

#: Seconds of the year 9999, beyond which no calendar goes.
_END = 253402300800


def parse_time(moment: str | float | datetime | date) -> float:
    """Seconds since 1970-01-01 UTC.

    Args:
        moment: such seconds, as a number or a text (not of 4, 6 or 8 digits, which are meant as a date); a date, which
            stands for its first moment; or a date and a time of ISO 8601, such as `2026-05-01`, `2026-05-01T14:30` or
            `2026-05-01T14:30:00+02:00`. What names no time zone is UTC.

    Raises:
        InputError: it is none of these, or no time between 1970 and 9999.
    """
    if isinstance(moment, date):
        moment = moment.isoformat()
    if isinstance(moment, str) and re.fullmatch(r'\s*(\d{4}|\d{6}|\d{8})\s*', moment):
        raise InputError(f'{moment!r} is no time: write dates as YYYY-MM-DD, such as 2026-05-01')
    try:
        seconds = float(moment)
    except (TypeError, ValueError):
        try:
            # Python 3.10 knows neither Z nor basic forms
            found = datetime.fromisoformat(str(moment).strip().replace('Z', '+00:00'))
        except ValueError:
            raise InputError(
                f'{moment!r} is no time: give 2026-05-01, 2026-05-01T14:30:00+02:00, or seconds since 1970 (UTC)'
            ) from None
        if found.tzinfo is None:
            found = found.replace(tzinfo=timezone.utc)
        seconds = found.timestamp()
    if not math.isfinite(seconds) or not 0 <= seconds < _END:
        raise InputError(f'{moment!r} is no time between 1970 and 9999 (UTC)')
    return seconds


def format_time(seconds: float | None) -> str:
    """A moment as ISO 8601 in UTC, to the second, such as `2026-05-01T14:30:00Z`; '' for None."""
    if seconds is None:
        return ''
    return datetime.fromtimestamp(math.floor(seconds), timezone.utc).strftime('%Y-%m-%dT%H:%M:%SZ')
