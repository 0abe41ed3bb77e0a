"""Shows files that lie outside docs/ as pages of the site, and leads all links to the right place.

Pages are written for the repository, where a link is relative to the file that it is in. On the site
README.md is the home page, and a file that is no page, such as an example, is copied as it is.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
DOCS = "docs/"
ELSEWHERE = {
    "index.md": "README.md",
    "launch.md": "launch/README.md",
    "slurm.md": "slurm/README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
"""Pages of the site by the file that each of them shows."""
PAGES = {source: page for page, source in ELSEWHERE.items()}
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#|/)([^)#\s]+)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that lie elsewhere."""
    for page, source in ELSEWHERE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Lead the page's links to files of the repository to their places on the site."""
    here = page.file.src_uri
    source = ELSEWHERE.get(here, f"{DOCS}{here}")

    def on_site(link: re.Match[str]) -> str:
        target = os.path.normpath(PurePosixPath(source).parent / link[1])
        if not (ROOT / target).is_file():
            return link[1]  # a page that is made from the code, or one that MkDocs reports as missing
        there = PAGES.get(target, target.removeprefix(DOCS))
        if files.get_file_from_path(there) is None:
            files.append(File.generated(config, there, abs_src_path=str(ROOT / target)))
        return os.path.relpath(there, PurePosixPath(here).parent)

    return LINK.sub(on_site, markdown)
