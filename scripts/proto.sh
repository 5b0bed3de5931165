#!/usr/bin/env bash
# Generates the modules beside proto/cellyard_proto/v1/*.proto. With --check: fails where they are out of date.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
out=$root/proto
if [ "${1:-}" = --check ]; then
  out=$(mktemp -d)
  trap 'rm -rf "$out"' EXIT
fi
export PATH=$(realpath "${VENV:-.venv}")/bin:$PATH
cd proto
protoc() { python -m grpc_tools.protoc -I . "$@" 2> >(grep -v '^Writing' >&2); }
protoc --python_out="$out" --mypy_out="$out" cellyard_proto/v1/*.proto
grep -l '^service ' cellyard_proto/v1/*.proto | xargs python -m grpc_tools.protoc -I . \
  --grpc_python_out="$out" --mypy_grpc_out="$out" 2> >(grep -v '^Writing' >&2)
cd "$root"
if [ "$out" != "$root/proto" ]; then
  for file in "$out"/cellyard_proto/v1/*; do
    if ! cmp -s "$file" "proto/cellyard_proto/v1/$(basename "$file")"; then
      echo "proto/cellyard_proto/v1/$(basename "$file") is out of date: run \`make proto\`" >&2
      exit 1
    fi
  done
fi
