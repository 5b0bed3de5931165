#!/usr/bin/env bash
# Sees to HAProxy, which tests put in front of controllers. Users need none of this.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
step=haproxy
there() { [ -x /usr/sbin/haproxy ] || command -v haproxy >/dev/null; }
SERVICE=haproxy for_tests "which tests of load balancing start" haproxy
