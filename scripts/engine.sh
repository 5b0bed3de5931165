#!/usr/bin/env bash
# Makes sure that a container engine answers. One that runs is used as it is; where none does, and we are root on
# Debian or Ubuntu, the distribution's engine is installed and started. Nothing that runs is restarted or changed.
#
# ENGINE_SOCKET and ENGINE_ARGS (more arguments for dockerd) matter only when the engine has to be started here.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
step=engine
socket=${ENGINE_SOCKET:-/var/run/docker.sock}
log=${ENGINE_LOG:-/var/log/cellyard-engine.log}
packages=(docker.io iptables ca-certificates)

python=
for candidate in python3 python3.12 python3.11 "$VENV/bin/python"; do
  if "$candidate" -c 'import http.client' 2>/dev/null; then
    python=$candidate
    break
  fi
done
[ -n "$python" ] || fail "there is no Python to ask the engine with" "install CPython 3.11 or 3.12"

answers() { "$python" scripts/ping_engine.py "$socket"; }

start_daemon() { # start_daemon [ARGUMENT...]: starts dockerd itself and waits for its answer; 1 if it gave up
  local pid deadline=$((SECONDS + 60))
  as_root rm -f "$log.pid"
  # shellcheck disable=SC2086  # ENGINE_ARGS is a list
  as_root setsid --fork sh -c 'echo $$ >"$0.pid"; exec "$@" >>"$0" 2>&1 </dev/null' \
    "$log" dockerd -H "unix://$socket" ${ENGINE_ARGS:-} "$@"
  while ! answers >/dev/null; do
    pid=$(as_root cat "$log.pid" 2>/dev/null || true)
    if [ -n "$pid" ] && ! as_root kill -0 "$pid" 2>/dev/null; then return 1; fi
    if [ $SECONDS -ge $deadline ]; then
      as_root kill "$pid" 2>/dev/null || true
      return 1
    fi
    sleep 0.2
  done
}

last_words() { as_root tail -n 30 "$log" 2>/dev/null | grep -E 'level=(fatal|error)|failed to start|^failed' | tail -n 1; }

control_groups() { # The engine needs them; without systemd nobody may have mounted them.
  grep -q ' - cgroup2\? ' /proc/self/mountinfo && return 0
  command -v cgroupfs-mount >/dev/null || apt_install cgroupfs-mount
  as_root cgroupfs-mount
}

if [ -n "${DOCKER_HOST:-}" ]; then
  case $DOCKER_HOST in
    unix://*) socket=${DOCKER_HOST#unix://} ;;
    *) fail "DOCKER_HOST=$DOCKER_HOST cannot be used: sandboxes are reached over sockets in a shared folder" \
      "name an engine on this machine, such as unix:///var/run/docker.sock, or unset DOCKER_HOST" ;;
  esac
  if said=$(answers); then
    say "version $said answers at DOCKER_HOST"
    exit 0
  fi
  fail "the engine that DOCKER_HOST names cannot be used: $said" "start it, correct DOCKER_HOST, or unset it"
fi

# One at a time: a second set-up waits here and then finds the engine running.
mkdir -p .cache
exec 9>.cache/engine.lock
flock -w 300 9 || fail "another set-up has been busy with the engine for five minutes"

if said=$(answers); then
  say "version $said answers"
  exit 0
fi
if [ "$said" = "permission denied" ]; then
  fail "an engine runs, but this user may not use $socket" \
    "as root: \`usermod -aG docker $(id -un)\`, then log in again (membership of that group is as good as root)"
fi
if ! may_be_root; then
  fail "no container engine answers ($said)" \
    "start or install one (Debian, Ubuntu: \`sudo apt-get install docker.io\`), or name one with DOCKER_HOST"
fi
if ! command -v dockerd >/dev/null; then
  is_debian || fail "no container engine is installed, and this is neither Debian nor Ubuntu" \
    "install Docker as your distribution describes, or name an engine with DOCKER_HOST"
  # A kernel with AppArmor makes the engine ask for its tools.
  if grep -q Y /sys/module/apparmor/parameters/enabled 2>/dev/null; then packages+=(apparmor); fi
  timed "installing ${packages[0]}" apt_install "${packages[@]}"
fi

started=$SECONDS
if ! answers >/dev/null; then
  say "starting the engine ..."
  if [ -d /run/systemd/system ] && [ -z "${ENGINE_SOCKET:-}" ] && as_root systemctl start docker >/dev/null 2>&1; then
    for _ in $(seq 150); do
      answers >/dev/null && break
      sleep 0.2
    done
  else
    # No service manager, or a policy that denies starts: the daemon is started here, and stays.
    control_groups
    as_root mkdir -p "$(dirname "$log")"
    if ! start_daemon 9>&-; then
      words=$(last_words || true)
      case $words in
        *iptables* | *nf_tables* | *"network controller"* | *bridge*)
          # Sandboxes have no network at all: an engine without a bridge serves them as well.
          say "the kernel offers no packet filter; starting the engine without a bridge ..."
          start_daemon --bridge=none --iptables=false --ip6tables=false 9>&- || true
          ;;
      esac
    fi
  fi
fi
if ! said=$(answers); then
  fail "the engine did not start: $(last_words || true)" "its log is $log (or \`journalctl -u docker\`)"
fi
say "version $said started in $((SECONDS - started)) s"
