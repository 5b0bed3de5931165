#!/usr/bin/env bash
# Sees to Redis' server, which tests start and kill by themselves. Installed from the distribution where it is missing;
# its service, which the package starts, is then stopped again: nothing here needs it. Users need none of this.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
step=redis

command -v redis-server >/dev/null && exit 0
mkdir -p .cache
exec 9>.cache/redis.lock
flock -w 300 9 || fail "another set-up has been busy with redis-server for five minutes"
command -v redis-server >/dev/null && exit 0

if ! is_debian || ! may_be_root; then
  fail "there is no redis-server, which tests of code mode's storages start" \
    "install it (Debian, Ubuntu: \`sudo apt-get install redis-server\`)"
fi
timed "installing redis-server" apt_install redis-server 9>&-
if [ -d /run/systemd/system ]; then
  as_root systemctl disable --quiet --now redis-server >/dev/null 2>&1 || true
else
  as_root service redis-server stop >/dev/null 2>&1 || true
fi
