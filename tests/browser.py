"""Opens a page in headless Chromium, uses it and says what was seen."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next((path for name in ("chromium", "google-chrome") if (path := shutil.which(name))), None)
# Runs before the page's own script, which then works as for a user, and after it.
BEFORE = """<script>window.problems = [];
addEventListener("error", e => problems.push(String(e.message)));
addEventListener("securitypolicyviolation", e => problems.push("request to " + e.blockedURI));</script>"""
AFTER = """<script>
const seen = {};
%s
seen.problems = problems;
document.documentElement.innerHTML = ""; document.documentElement.textContent = JSON.stringify(seen);
</script>"""


def open_in_browser(page: Path, script: str) -> dict[str, Any]:
    """What `script`, which uses the page as a person would, has noted in the object `seen`.

    With it come the page's `problems`: errors, and requests that it tried.
    """
    if CHROMIUM is None:
        pytest.skip("no Chromium here: install it to try the page")
    tried = page.with_name(f"tried_{page.name}")
    text = page.read_text().replace("<head>", f"<head>{BEFORE}")
    tried.write_text(text.replace("</body>", f"{AFTER % script}</body>"))
    words = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={page.parent / 'chromium'}"]
    done = subprocess.run(
        [CHROMIUM, *words, "--virtual-time-budget=5000", "--dump-dom", tried.as_uri()],
        capture_output=True,
        text=True,
        check=True,
    )
    noted: dict[str, Any] = json.loads(html.unescape(re.sub(r"<[^>]*>", "", done.stdout)))
    return noted
