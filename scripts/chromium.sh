#!/usr/bin/env bash
# Sees to the browser that tests of the console and of JupyterLab drive. Users need none of this.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
step=chromium
there() { command -v chromium >/dev/null; }
for_tests "which tests drive a web page with" chromium fonts-dejavu-core
