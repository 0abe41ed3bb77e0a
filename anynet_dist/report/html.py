"""One HTML page that needs nothing else: markup, style, script and data in one file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's colours, which colour-blind eyes tell apart; lines also differ by their dashes."""


def assemble(page: Traversable, data: Mapping[str, Any]) -> str:
    """The page of a folder that holds main.html and page.js, in the frame, style and charts that all share.

    The page draws its own SVG: plotting libraries that could do as much take 0.9 to 4.5 MB of every file.
    """
    shared = files("anynet_dist.report") / "page"
    script = _read(shared / "common.js") + "\n" + _read(page / "page.js")
    # JSON inside of a script must not be able to end it, whatever a run or a network is called.
    text = json.dumps({**data, "palette": PALETTE}, separators=(",", ":"), allow_nan=False)
    text = text.replace("<", "\\u003c").replace("\u2028", "\\u2028")
    html = _read(shared / "frame.html").replace("<!--MAIN-->", _read(page / "main.html"))
    return (
        html.replace("/*CSS*/", _read(shared / "common.css"))
        .replace("/*JS*/", script)
        .replace("/*DATA*/", text)
    )


def _read(part: Traversable) -> str:
    return part.read_text(encoding="utf-8")
