"""Credentials in URLs, which are to be used but written nowhere: `***` takes their place.

`https://user:password@host/x` becomes `https://***@host/x`, and `?token=abc` becomes `?token=***`.
"""

from __future__ import annotations

import logging
import re
from typing import Any

MARK = "***"

# Whatever stands between a scheme's `://` (a drive's letter is no scheme) and an `@`. A password may hold a
# slash, as the keys of S3 do: it is distinguished from a port by containing more than digits. A URL taken for
# a path has lost a slash; then a user without a password could be a folder, except after http. The lengths
# keep a long string without blanks from taking long.
_USER = re.compile(
    r"""(?: (?<=[a-z0-9+.-]{2}://) | (?<=https:/) | (?<=http:/) ) (?:[^\s/?\#"]|"(?=\w)){1,4096} (?=@)
      | (?: (?<=[a-z0-9+.-]{2}://) | (?<=[a-z0-9+.-]{2}:/) )
        [^\s/?\#"<>@:\[]{1,4096} : (?!\d*(?:[/?\#,;'")\]}\s]|$)) (?:[^\s"@]|"(?=\w)){1,4096} (?=@)""",
    re.IGNORECASE | re.VERBOSE,
)
_NAME = r"""(?: [\w.%-]{0,40} (?: token(?!s|i[sz]) | secret | passw | passphrase | credential | signature
                            | authorization | (?:access|api|private)[-_.]?(?:key|id) ) [\w.%-]{0,40}
                     | (?:[\w.%-]{0,40}[-_.])? (?: key | sig | auth | pwd | pass | jwt ) )"""
_QUERY = re.compile(
    rf"""(?P<name>[?&;\#] {_NAME} =) [^\s&;\#"<>]* [^\s&;\#"<>'`,.:)\]}}]""",
    re.IGNORECASE | re.VERBOSE,
)
_MARKED = re.compile(
    rf"(?::/{{1,2}}{re.escape(MARK)}@|[?&;\#]{_NAME}={re.escape(MARK)})", re.IGNORECASE | re.VERBOSE
)


def redact(text: str) -> str:
    """The text with `***` for the user and password, and for secret values of the query, of each URL in it.

    All else stays as it is; what is redacted already does too.
    """
    text = _USER.sub(MARK, text)
    return _QUERY.sub(rf"\g<name>{MARK}", text)


def redact_values(value: Any) -> Any:
    """Nested dicts, lists and tuples with each string in them redacted; keys and other values stay."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: redact_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(redact_values(item) for item in value)
    return value


def is_redacted(value: object) -> bool:
    """Whether credentials were removed from a string, or from one in a list."""
    if isinstance(value, list | tuple):
        return any(is_redacted(item) for item in value)
    return isinstance(value, str) and _MARKED.search(value) is not None


class RedactingFilter(logging.Filter):
    """For the handlers of a log, for a logger's own filters do not see what its children log."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Redact the message and the traceback; keep every record."""
        try:
            message = record.getMessage()
        except (TypeError, ValueError, KeyError):  # arguments that do not fit: the handler reports them
            return True
        redacted = redact(message)
        if redacted != message:
            record.msg, record.args = redacted, None
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = redact(record.exc_text)
        return True
