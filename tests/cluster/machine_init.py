"""The first process of a machine of the tests: makes its folders its own, and is there until its input ends.

Everything else of the machine is in this process' pid namespace, so the kernel ends it all with this one, whatever
becomes of the tests.
"""

import os
import signal
import socket
import subprocess
import sys

name, folder = sys.argv[1:]
socket.sethostname(name)
# The usual paths, each machine with its own content: /run/docker.sock, /var/lib/docker, /var/lib/cellyard.
os.makedirs("/etc/docker", exist_ok=True)
for source, point in (("run", "/run"), ("lib", "/var/lib"), ("etc", "/etc/docker")):
    subprocess.run(["mount", "--bind", f"{folder}/{source}", point], check=True)
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
# Nobody's children are this one's: the kernel buries them.
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("ready", flush=True)
sys.stdin.read()
