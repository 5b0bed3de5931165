#!/usr/bin/env bash
# Makes the virtual environment: CPython 3.11 or 3.12, everything that requirements/dev.lock pins, and this project,
# editable. Does nothing where that is there for the very same lock and pyproject.toml.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
step=python
stamp=$VENV/.cellyard

usable() { # usable PYTHON: the right version, and able to make a virtual environment with pip in it
  "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null
}

right_version() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null; }

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3.11 python3.12 python3 /usr/bin/python3.11 /usr/bin/python3.12 /usr/bin/python3}; do
    if "${1:-usable}" "$candidate"; then
      "$candidate" -c 'import sys; print(sys.executable)'
      return 0
    fi
  done
  return 1
}

key() { # what the environment depends on, as one line
  cat requirements/dev.lock requirements/uv.lock pyproject.toml | sha256sum | cut -c1-16
}

complete() { [ -x "$VENV/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$(key) $PWD" ]; }

reusable() { # what is there can be brought up to date; programs of a moved environment would not find their Python
  [ -x "$VENV/bin/python" ] && right_version "$VENV/bin/python" && "$VENV/bin/python" -m pip --version >/dev/null 2>&1 \
    && { [ ! -f "$stamp" ] || [ "$(cut -d' ' -f2- "$stamp")" = "$PWD" ]; }
}

complete && exit 0
# One at a time: a second set-up waits here and then finds everything done.
mkdir -p .cache
exec 9>.cache/venv.lock
flock -w 600 9 || fail "another set-up has been busy with $VENV for ten minutes"
complete && exit 0

started=$SECONDS
if ! reusable; then
  if ! python=$(find_python); then
    [ -z "${PYTHON:-}" ] || fail "PYTHON=$PYTHON is not CPython 3.11 or 3.12 with the modules venv and ensurepip" \
      "name another one, or none"
    if bare=$(find_python right_version) && is_debian && may_be_root; then
      # Debian keeps what makes virtual environments in a package of its own.
      minor=$("$bare" -c 'import sys; print(f"{sys.version_info[0]}.{sys.version_info[1]}")')
      timed "installing python$minor-venv" apt_install "python$minor-venv"
    elif is_debian && may_be_root; then
      timed "installing python3 and python3-venv" apt_install python3 python3-venv
    fi
    python=$(find_python) || fail "there is no CPython 3.11 or 3.12 that can make virtual environments" \
      "install one (Debian 12: \`apt-get install python3 python3-venv\`), or name one: \`make setup PYTHON=/path/to/python3.12\`"
  fi
  say "making $VENV with $("$python" -c 'import sys; print(*sys.version.split()[:1], sys.executable)')"
  "$python" -m venv --clear "$VENV" || fail "$python could not make $VENV" "see above; is the disk full?"
fi

pip() { "$VENV/bin/python" -m pip --disable-pip-version-check -qq --no-input "$@"; }

say "installing the packages of requirements/dev.lock ..."
# uv installs in seconds what takes pip a minute. pip is what every environment has, and what knows how this machine
# reaches its package index, should uv not.
uv=("$VENV/bin/uv" pip install --quiet --python "$VENV/bin/python")
if pip install --require-hashes -r requirements/uv.lock &&
  "${uv[@]}" --require-hashes -r requirements/dev.lock 2>"$VENV/uv.log"; then
  :
else
  say "uv could not; trying pip, which takes longer ..."
  if ! pip install --require-hashes -r requirements/dev.lock; then
    cat "$VENV/uv.log" >&2 || true
    fail "the packages could not be installed" "see above; does \`$VENV/bin/python -m pip download pip\` work here?"
  fi
fi
pip install --no-deps --no-build-isolation -e . || fail "the project itself could not be installed" "see above"
rm -f "$VENV/uv.log"
echo "$(key) $PWD" >"$stamp"
say "$VENV is ready after $((SECONDS - started)) s"
