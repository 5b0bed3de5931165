"""Says whether a container engine answers: exit 0 and its version, or 1 and why not. Needs only CPython."""

import http.client
import json
import socket
import sys

TIMEOUT = 5.0


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        """Dials."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(self._path)


def main(path: str) -> int:
    """Asks the engine at this socket, such as /var/run/docker.sock, for its version."""
    connection = UnixConnection(path)
    try:
        connection.request("GET", "/version")
        version = json.loads(connection.getresponse().read())["Version"]
    except PermissionError:
        print("permission denied")
        return 1
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
        print(f"no answer at {path}: {error}")
        return 1
    finally:
        connection.close()
    print(version)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
