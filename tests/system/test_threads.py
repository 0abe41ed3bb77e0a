"""Threads that wait spin for a short while only, unless somebody wants otherwise."""

import os
import subprocess
import sys

import pytest

SHOW = """
import os
from anynet_dist import cli
cli.main(["--version"])
from anynet_dist.system.threads import wait_policy
print(os.environ.get("OMP_WAIT_POLICY"), os.environ.get("GOMP_SPINCOUNT"), wait_policy())
"""


def show(**environment: str) -> str:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", SHOW], capture_output=True, text=True, check=True, env=inherited | environment
    )
    return done.stdout.splitlines()[-1]


def test_threads_spin_shortly_by_default() -> None:
    assert show().startswith("None 1000 GOMP_SPINCOUNT=1000: longer spinning would slow")


@pytest.mark.parametrize(("name", "value"), [("OMP_WAIT_POLICY", "ACTIVE"), ("GOMP_SPINCOUNT", "7")])
def test_what_the_user_set_wins(name: str, value: str) -> None:
    said = show(**{name: value})
    assert f"{name}={value}, as set in the environment" in said
    assert value in said.split()[:2]
