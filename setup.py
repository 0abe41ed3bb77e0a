"""Puts configs/, launch/ and slurm/ into the package when it is built; all else is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = ("configs", "launch", "slurm")
"""Found again by anynet_dist/system/shipped.py."""


class BuildWithShippedFiles(build_py):
    """Copies them to anynet_dist/_shipped; an editable install finds them in the checkout."""

    def run(self) -> None:
        """Build as usual, then copy."""
        super().run()
        if not self.editable_mode:
            for source, target in self._shipped().items():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """The files that a build writes."""
        shipped = [] if self.editable_mode else [str(target) for target in self._shipped().values()]
        return [*super().get_outputs(include_bytecode), *shipped]

    def _shipped(self) -> dict[Path, Path]:
        folder = Path(self.build_lib, "anynet_dist", "_shipped")
        files = (file for name in SHIPPED for file in sorted(Path(name).rglob("*")))
        own = {Path("slurm", "site.sh")}
        return {file: folder / file for file in files if file.is_file() and file not in own}


setup(cmdclass={"build_py": BuildWithShippedFiles})
