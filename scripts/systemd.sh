#!/usr/bin/env bash
# Sees to systemd-analyze, with which a test checks the service unit. Nothing is started. Users need none of this.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
step=systemd-analyze
there() { command -v systemd-analyze >/dev/null; }
for_tests "with which the service unit is checked" systemd
