#!/usr/bin/env bash
# Writes the locks: what .venv holds, and what the Python image holds. Pinned, with hashes, naming no package index.
# With --upgrade: takes the newest versions that pyproject.toml allows; without it, keeps what still fits.
# With --check: only says whether the locks are those of what pyproject.toml asks for; needs no network.
set -euo pipefail
cd "$(dirname "$0")/.."
mode=${1:-}
uv=${UV:-${VENV:-.venv}/bin/uv}
python=${VENV:-.venv}/bin/python

compile() { # compile OUTPUT "WHAT IT IS" [uv's arguments]; the requirements come on stdin
  local output=$1 what=$2 new wanted key
  shift 2
  wanted=$(cat)
  key=$(printf '%s\n' "$wanted" "$@" | sha256sum | cut -c1-16)
  if [ "$mode" = --check ]; then
    grep -qx "# For: $key" "$output" && return 0
    echo "$output is not for what pyproject.toml asks: run \`scripts/lock.sh\`" >&2
    exit 1
  fi
  new=$(mktemp)
  # uv keeps the pins of the file that it writes to, so that nothing moves that need not.
  if [ -f "$output" ] && [ "$mode" != --upgrade ]; then cp "$output" "$new"; else : >"$new"; fi
  UV_NO_CONFIG=1 "$uv" pip compile --quiet --no-config --no-cache --generate-hashes --no-header --no-annotate \
    --no-emit-index-url --no-emit-find-links --only-binary :all: --output-file "$new" "$@" - >/dev/null <<<"$wanted"
  { printf '# %s\n# Written by `scripts/lock.sh`; do not edit.\n# For: %s\n' "$what" "$key"; grep -v '^#' "$new"; } >"$output"
  rm -f "$new"
  if grep -qE '://|file:|/opt/' "$output"; then
    echo "$output names a place: locks must hold nothing but names, versions and hashes" >&2
    exit 1
  fi
  echo "$output: $(grep -c '==' "$output") packages"
}

requirements() { # requirements GROUP...: what pyproject.toml asks for; "" is the project's own list
  "$python" - "$@" <<'PYTHON'
import sys
import tomllib

with open("pyproject.toml", "rb") as file:
    pyproject = tomllib.load(file)
for group in sys.argv[1:]:
    if group == "build":
        print(*pyproject["build-system"]["requires"], sep="\n")
    elif group == "project":
        print(*pyproject["project"]["dependencies"], sep="\n")
    else:
        print(*pyproject["project"]["optional-dependencies"][group], sep="\n")
PYTHON
}

echo uv | compile requirements/uv.lock "The installer of everything else." --universal --python-version 3.11
requirements build project codemode jupyter mcp tracing controller postgres sandbox science dev \
  | compile requirements/dev.lock "Everything that .venv holds, for CPython 3.11 and 3.12." \
    --universal --python-version 3.11
# A torch with CUDA names CUDA's libraries, 2 GB that the tests have no use for: see scripts/without_cuda.py.
without=(cuda-bindings cuda-pathfinder cuda-toolkit triton nvidia-{cublas,cuda-nvrtc,cufft,cufile,curand,cusolver,cusparse}
  nvidia-{cudnn,cusparselt,nccl,nvshmem}-cu13 nvidia-{nvjitlink,nvtx,cuda-cccl})
requirements semantic \
  | compile requirements/semantic.lock "What .venv-semantic holds besides: sentence-transformers and torch without CUDA." \
    --universal --python-version 3.11 --constraint requirements/dev.lock "${without[@]/#/--no-emit-package=}"
requirements sandbox science \
  | compile images/python/requirements.lock "What the Python image holds: CPython 3.11, glibc 2.28 or newer, x86_64 and aarch64." \
    --python-version 3.11 --python-platform x86_64-manylinux_2_28
requirements sandbox science \
  | compile images/python3.13/requirements.lock "What the image with CPython 3.13 holds; else as images/python." \
    --python-version 3.13 --python-platform x86_64-manylinux_2_28 --constraint images/python/requirements.lock
echo pip | compile images/python/pip.lock "The installer that builds the Python image; the image itself has none." \
  --python-version 3.11 --python-platform x86_64-manylinux_2_28
printf '%s\n' deno protobuf pyzmq \
  | compile images/deno/requirements.lock "What the Deno image holds: Deno, and what the agent imports; as images/python." \
    --python-version 3.11 --python-platform x86_64-manylinux_2_28 --constraint images/python/requirements.lock
