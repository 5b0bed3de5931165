#!/usr/bin/env bash
# Runs a notebook in a sandbox and shows its output, what the sandbox is proven to be, and timings.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
step=run
notebook=${NOTEBOOK:-examples/hello.ipynb}
name=$(basename "$notebook")
arguments=(--require container_isolation --require network_isolation --verbose)
# The other examples beside it are not its files.
[ "$notebook" != examples/hello.ipynb ] || arguments+=(--no-files)
case $name in
  *.ipynb)
    # Beside the Makefile, not beside the notebook: that folder may be read-only.
    executed=${name%.ipynb}.executed.ipynb
    arguments+=(--out "$executed")
    ;;
esac

status=0
"$VENV/bin/cellyard" run "$notebook" "${arguments[@]}" || status=$?
# The controller that the command started for this user would linger for its next session; here it is not expected.
"$VENV/bin/cellyard" stop || say "the controller did not stop; \`$VENV/bin/cellyard status\` says more"
if [ "$status" = 0 ] && [ -n "${executed:-}" ]; then say "the executed notebook is $executed"; fi
exit "$status"
