#!/usr/bin/env bash
# Sees to PostgreSQL's server, which tests start and kill by themselves. Users need none of this.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
step=postgresql
there() { compgen -G "/usr/lib/postgresql/*/bin/initdb" >/dev/null; }
SERVICE=postgresql for_tests "whose server tests of the shared store start" postgresql
