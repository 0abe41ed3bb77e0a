#!/usr/bin/env bash
# Installs Chromium where it is not, for the tests that open pages in a browser; without it they are skipped.
set -euo pipefail
if command -v chromium >/dev/null || command -v google-chrome >/dev/null; then
    exit 0
fi
if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    echo "test: installing chromium"
    export DEBIAN_FRONTEND=noninteractive
    { apt-get -qq update && apt-get -qq install --no-install-recommends chromium; } >/dev/null 2>&1 && exit 0
fi
echo "test: no chromium here: tests that open pages are skipped"
