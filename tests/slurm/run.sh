#!/usr/bin/env bash
# Installs SLURM where it is not, and runs the tests that need a cluster. Arguments go to pytest.
# Nothing is started by the installation, and the tests start daemons of their own.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
PATH=$PATH:/usr/sbin:/sbin

if [ "$(id -u)" -ne 0 ]; then
    echo "test-slurm: needs root, for network namespaces" >&2
    exit 2
fi
installed() {
    local program
    for program in slurmctld slurmd sbatch munged ip nsenter; do
        command -v "$program" >/dev/null || return 1
    done
}

if ! installed; then
    echo "test-slurm: installing SLURM"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update
    apt-get -qq install --no-install-recommends slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge \
        iproute2 util-linux >/dev/null
fi
exec .venv/bin/pytest tests/slurm "$@"
