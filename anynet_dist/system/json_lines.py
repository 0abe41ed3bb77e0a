"""The console as JSON lines, for programs that collect logs: `log.format: json`."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

from anynet_dist.system import distributed

_wanted = False


def want_json(wanted: bool) -> None:
    """Whether what this process shows are JSON lines from now on."""
    global _wanted
    _wanted = wanted


def json_wanted() -> bool:
    """Whether the console gets JSON lines."""
    return _wanted


def result_text(text: str, **facts: Any) -> str:
    """What a command prints at its end: `text`, or an object with the `facts` too."""
    return json_line("info", text, **facts) if _wanted else text


def json_line(level: str, message: str, seconds: float | None = None, **facts: Any) -> str:
    """One object: time (UTC; `seconds` since 1970, by default now), level, rank and message, then `facts`."""
    moment = datetime.fromtimestamp(time.time() if seconds is None else seconds, UTC)
    entry: dict[str, Any] = {"time": moment.isoformat(timespec="milliseconds"), "level": level.lower()}
    entry |= {"rank": distributed.rank(), "message": message}
    return json.dumps(entry | facts, ensure_ascii=False, default=str)
