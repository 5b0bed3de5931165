#!/usr/bin/env bash
# Everything that judges the sources without running them, side by side. A check's output is shown only if it fails.
set -uo pipefail
. "$(dirname "$0")/lib.sh"
PATH=$(realpath "$VENV")/bin:$PATH
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT
names=()

check() { # check NAME COMMAND...
  local name=$1
  shift
  names+=("$name")
  (
    started=$(date +%s%N)
    if "$@" >"$results/$name.out" 2>&1 </dev/null; then verdict=ok; else verdict=FAILED; fi
    printf '%-6s %-22s %5d ms\n' "$verdict" "$name" $((($(date +%s%N) - started) / 1000000)) >"$results/$name"
  ) &
}

breaking() { # what changed against the last release may not break anyone who speaks to it
  local tag
  tag=$(git describe --tags --abbrev=0 --match 'v*' 2>/dev/null) || return 0
  buf breaking proto --against ".git#tag=$tag,subdir=proto"
}

check types mypy --no-error-summary
check format ruff format --check --output-format concise .
check lint ruff check --output-format concise .
check imports lint-imports
check site env NO_MKDOCS_2_WARNING=1 mkdocs build --quiet --site-dir "$results/site.built"
check protobuf-lint buf lint proto
check protobuf-breaking breaking
check generated-protobuf scripts/proto.sh --check
check generated-sdk python scripts/sync.py --check
check generated-seccomp python scripts/seccomp.py --check
check generated-cli-docs python scripts/cli_docs.py --check
check locks scripts/lock.sh --check
wait

failed=0
for name in "${names[@]}"; do
  cat "$results/$name"
  if grep -q '^FAILED' "$results/$name"; then
    failed=$((failed + 1))
    sed 's/^/    /' "$results/$name.out"
  fi
done
[ "$failed" = 0 ] || { echo "$failed of ${#names[@]} checks failed" && exit 1; }
