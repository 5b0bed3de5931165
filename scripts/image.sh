#!/usr/bin/env bash
# Builds what is missing of the images that the default templates start from. Nothing to do: under a second.
# `--python 3.13` adds the image with that interpreter.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
"$VENV/bin/python" -c "import sys; from cellyard_controller.runtimes.docker.images import main; sys.exit(main())" \
  --install-tools "$@"
