# Shared by the scripts of this folder: what they say, and how they become root. Sourced, not run.
# Every script works from the project's root, on the virtual environment that VENV names.

cd "$(dirname "${BASH_SOURCE[0]}")/.."
VENV=${VENV:-.venv}
export DEBIAN_FRONTEND=noninteractive

say() { printf '%-7s %s\n' "${step:-setup}" "$*" >&2; }

# fail "WHAT HAPPENED" "WHAT TO DO"
fail() {
  say "FAILED: $1"
  [ $# -lt 2 ] || say "  $2"
  exit 1
}

# Whether we are root, or may become it without being asked for a password.
may_be_root() { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n env DEBIAN_FRONTEND=noninteractive "$@"; fi
}

is_debian() { grep -qE '^ID(_LIKE)?=.*(debian|ubuntu)' /etc/os-release 2>/dev/null && command -v apt-get >/dev/null; }

# apt_install PACKAGE...: quiet; fetches the package lists only where what is known does not suffice.
apt_install() {
  local log
  log=$(mktemp)
  local install=(apt-get -qq -o DPkg::Lock::Timeout=180 install -y --no-install-recommends "$@")
  if ! as_root "${install[@]}" >"$log" 2>&1 </dev/null; then
    as_root apt-get -qq -o DPkg::Lock::Timeout=180 update >>"$log" 2>&1 </dev/null || true
    if ! as_root "${install[@]}" >"$log" 2>&1 </dev/null; then
      tail -n 5 "$log" >&2
      rm -f "$log"
      fail "apt-get could not install: $*" "run \`apt-get update && apt-get install $*\` as root and see why"
    fi
  fi
  rm -f "$log"
}

# timed "WHAT" COMMAND...: says what is being done, and how long it took.
timed() {
  local what=$1 started=$SECONDS
  shift
  say "$what ..."
  "$@"
  say "$what: done in $((SECONDS - started)) s"
}

# for_tests "WHAT NEEDS IT" PACKAGE...: installs what only tests start, where `there` does not find it. Its service, if
# the package brings one, is named by SERVICE: it is stopped again, because nothing here needs it.
for_tests() {
  local why=$1
  shift
  there && return 0
  mkdir -p .cache
  exec 9>".cache/$step.lock"
  flock -w 600 9 || fail "another set-up has been busy with $step for ten minutes"
  there && return 0
  if ! is_debian || ! may_be_root; then
    fail "there is no $step, $why" "install it (Debian, Ubuntu: \`sudo apt-get install $*\`)"
  fi
  timed "installing $step" apt_install "$@" 9>&-
  if [ -z "${SERVICE:-}" ]; then return 0; fi
  if [ -d /run/systemd/system ]; then
    as_root systemctl disable --quiet --now "$SERVICE" >/dev/null 2>&1 || true
  else
    as_root service "$SERVICE" stop >/dev/null 2>&1 || true
  fi
}
