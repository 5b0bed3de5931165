#!/usr/bin/env bash
# Registers gVisor (runsc) with the engine, for templates with `oci_runtime = "runsc"`. Installs it where it is missing
# and we are root on Debian or Ubuntu. The engine is told to read its configuration again, not restarted: containers go on.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
step=runsc
configuration=${ENGINE_CONFIGURATION:-/etc/docker/daemon.json}

listed() { "$VENV/bin/python" -c 'import docker; print("runsc" in docker.from_env(timeout=10).info()["Runtimes"])'; }

if [ "$(listed)" = True ]; then
  say "the engine has it"
  exit 0
fi
may_be_root || fail "the engine's configuration is root's" "as root: \`make runsc\`"
if ! command -v runsc >/dev/null; then
  is_debian || fail "runsc is not installed" "install gVisor as its documentation says, then \`make runsc\` again"
  timed "installing runsc" apt_install runsc
fi

# A platform is how it catches a program's calls. kvm is left out: in a virtual machine it may hang rather than fail.
platform=
for candidate in systrap ptrace; do
  if as_root timeout -k 2 20 runsc --platform="$candidate" --network=none --ignore-cgroups do true >/dev/null 2>&1; then
    platform=$candidate
    break
  fi
done
[ -n "$platform" ] || fail "runsc starts nothing on this machine" \
  "see why: \`runsc --platform=ptrace --network=none --ignore-cgroups do true\`"

# host-uds: the agent dials the socket that is mounted into its sandbox, and may make none.
as_root mkdir -p "$(dirname "$configuration")"
as_root "$(command -v python3)" - "$configuration" "$(command -v runsc)" "$platform" <<'PYTHON'
import json, os, sys
path, runsc, platform = sys.argv[1:]
known = json.load(open(path)) if os.path.exists(path) and os.path.getsize(path) else {}
entry = {"path": runsc, "runtimeArgs": [f"--platform={platform}", "--network=none", "--host-uds=open"]}
known.setdefault("runtimes", {})["runsc"] = entry
with open(f"{path}.new", "w") as file:
    json.dump(known, file, indent=2)
    file.write("\n")
os.replace(f"{path}.new", path)
PYTHON

if [ -d /run/systemd/system ] && systemctl is-active --quiet docker; then
  as_root systemctl reload docker
else
  pid=$(cat /run/docker.pid 2>/dev/null || true)
  [ -n "$pid" ] || fail "$configuration is written, but the engine's process is not known" \
    "have the engine read it: SIGHUP to dockerd, or start it again"
  as_root kill -HUP "$pid"
fi
for _ in $(seq 50); do
  if [ "$(listed)" = True ]; then
    say "registered, on the platform $platform"
    exit 0
  fi
  sleep 0.2
done
fail "the engine did not take it up" "look at its log: it may have been started with \`--config-file\` elsewhere"
