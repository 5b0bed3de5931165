#!/usr/bin/env bash
# Sees to Redis' server, which tests start and kill by themselves. Users need none of this.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
step=redis-server
there() { command -v redis-server >/dev/null; }
SERVICE=redis-server for_tests "which tests of code mode's storages start" redis-server
