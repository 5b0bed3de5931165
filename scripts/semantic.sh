#!/usr/bin/env bash
# Makes .venv-semantic: torch and a search model, beside everything that .venv has, for the tests of search by meaning.
# 0.7 GB to fetch, 1.7 GB on the disk. Without CUDA: its libraries would be 2 GB more, and the tests use the CPU.
# Does nothing where that is there for the very same lock.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
step=search
semantic=$VENV-semantic
stamp=$semantic/.cellyard
key="$(sha256sum <requirements/semantic.lock | cut -c1-16) $("$VENV/bin/python" -V) $PWD"

[ "$(cat "$stamp" 2>/dev/null)" != "$key" ] || exit 0
mkdir -p .cache
exec 9>.cache/semantic.lock
flock -w 600 9 || fail "another set-up has been busy with $semantic for ten minutes"
[ "$(cat "$stamp" 2>/dev/null)" != "$key" ] || exit 0

started=$SECONDS
say "making $semantic ..."
"$VENV/bin/python" -m venv --clear --without-pip "$semantic" || fail "$semantic could not be made" "is the disk full?"
"$VENV/bin/uv" pip install --quiet --no-deps --require-hashes --python "$semantic/bin/python" -r requirements/semantic.lock \
  || fail "the packages could not be installed" "see above"
site() { "$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }
packages=$(site "$semantic")
echo "import site; site.addsitedir('$(site "$VENV")')" >"$packages/cellyard.pth"
if ! "$semantic/bin/python" -c 'import torch' 2>/dev/null; then
  if ! command -v cc >/dev/null && is_debian && may_be_root; then timed "installing a compiler" apt_install gcc libc6-dev; fi
  "$VENV/bin/python" scripts/without_cuda.py "$packages" >&2 || fail "torch needs CUDA's libraries" "see above"
fi
"$semantic/bin/python" -c 'import sentence_transformers' || fail "sentence-transformers cannot be imported" "see above"
echo "$key" >"$stamp"
say "$semantic is ready after $((SECONDS - started)) s"
