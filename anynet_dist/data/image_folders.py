"""What of a folder are classes and images, and what is neither: hidden files, helper folders, other types."""

from __future__ import annotations

import importlib.util
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import features

from anynet_dist.system.errors import UserError

HEIC_SUFFIXES = frozenset({".heic", ".heif", ".hif"})
_ALWAYS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".gif", ".bmp", ".dib"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".tif", ".tiff"),
)
_BY_LIBRARY = {"webp": (".webp",), "avif": (".avif",), "jpg_2000": (".jp2", ".j2k")}
_HELPERS = frozenset(
    {
        *("$recycle.bin", "recycler", "system volume information", "thumbs.db", "ehthumbs.db"),  # Windows
        *("desktop.ini", "thumbs.db:encryptable"),
        *("__macosx", "icon\r", "network trash folder", "temporary items"),  # macOS
        *("lost+found", "__pycache__", "cvs"),  # Linux and programs
        *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@__thumb", "@tmp"),  # NAS
    }
)


def readable(path: str | os.PathLike[str]) -> str:
    """A path or name as text of real characters: bytes that are no UTF-8 become escapes such as `\\xe9`, the
    same on any machine, whatever its locale."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def heic_installed() -> bool:
    """Whether the package pillow-heif can be imported."""
    return importlib.util.find_spec("pillow_heif") is not None


def _decodable() -> frozenset[str]:
    found = set(_ALWAYS)
    for library, suffixes in _BY_LIBRARY.items():
        if library in (*features.modules, *features.codecs) and features.check(library):
            found.update(suffixes)
    return frozenset(found | HEIC_SUFFIXES if heic_installed() else found)


IMAGE_SUFFIXES = _decodable()
"""Of the files that count as images: those that can be decoded here."""


def is_helper(name: str) -> bool:
    """Whether a file or folder is hidden, or made by a system or program for itself: never image or class."""
    return name.startswith((".", "~$")) or name.endswith("~") or name.lower() in _HELPERS


@dataclass(frozen=True)
class FoundImages:
    """What lies in and below a folder."""

    images: list[str]
    """Paths of the image files, relative to the folder, alphabetically."""
    left_out: Counter[str]
    """How many other files there are, by suffix."""


def find_images(folder: str | os.PathLike[str]) -> FoundImages:
    """The images in and below `folder`. Links to folders are followed, each folder is read once.

    A folder that is not there has none. Raises UserError where one cannot be read.
    """
    images, left_out = list[str](), Counter[str]()
    top = os.fspath(folder)
    for path in _files_below(top):
        suffix = os.path.splitext(path)[1].lower()  # noqa: PTH122 - Path objects cost minutes on ImageNet
        if suffix in IMAGE_SUFFIXES:
            images.append(path[len(top) :].lstrip(os.sep))
        else:
            left_out[suffix or "without suffix"] += 1
    return FoundImages(sorted(images), left_out)


def _files_below(top: str) -> Iterator[str]:
    waiting, seen = [top], set[tuple[int, int]]()
    while waiting:
        folder = waiting.pop()
        try:
            status = os.stat(folder)  # noqa: PTH116
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise UserError(f"{readable(folder)}: cannot be read: {error.strerror}") from error
        for entry in entries:
            if is_helper(entry.name):
                continue
            if _is_folder(entry):
                waiting.append(entry.path)
            else:
                yield entry.path


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


def class_folders(root: Path) -> dict[str, Path]:
    """The class folders of one split by the names of their classes, alphabetically.

    Raises UserError where there are none, or two of them have one name once it is readable.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    found: dict[str, Path] = {}
    for entry in sorted(root.iterdir()):
        if is_helper(entry.name) or not entry.is_dir():
            continue
        name = readable(entry.name)
        if name in found:
            raise UserError(f"{readable(root)}: has two class folders called '{name}': rename one of them")
        found[name] = entry
    if not found:
        raise UserError(f"{readable(root)}: holds no class folders; expected {readable(root)}/CLASS/IMAGE")
    return dict(sorted(found.items()))


def describe_left_out(left_out: Mapping[str, Counter[str]]) -> str:
    """`left_out`, counts of files by class and then by suffix, as a sentence; empty where there are none."""
    total = sum(left_out.values(), Counter[str]())
    if not total:
        return ""
    parts = [f"{name} ({_counts(counts)})" for name, counts in left_out.items() if counts]
    few = ", ".join(parts[:10]) + (f" and {len(parts) - 10} more classes" if len(parts) > 10 else "")
    return f"{total.total():,} files left out for their type ({_counts(total)}), in {few}{_remedy(total)}"


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{number:,} {suffix}" for suffix, number in sorted(counts.items()))


def _remedy(total: Counter[str]) -> str:
    text = ""
    if HEIC_SUFFIXES & total.keys():
        text += "; HEIC images need the package pillow-heif: 'pip install pillow-heif'"
    lacking = [name for name, suffixes in _BY_LIBRARY.items() if set(suffixes) & total.keys()]
    if lacking:
        text += f"; Pillow is installed here without {', '.join(lacking)}"
    return text
