"""`python -m anynet_dist` is the `anynet` command; so `accelerate launch -m anynet_dist train ...` works."""

import sys

from anynet_dist.cli import run

if __name__ == "__main__":
    sys.exit(run())
