"""Downloads one file, in a process of few rights: its arguments are URL, digest, bytes at most, and where to."""

import hashlib
import sys
import urllib.request


def main() -> None:
    """Fails, with a line on stderr, for anything but the file that was meant."""
    url, digest, most, name = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
    if not url.startswith(("http://", "https://")):
        sys.exit("error: the package index names a place that is none of the web's")
    seen, left = hashlib.sha256(), most
    with urllib.request.urlopen(url, timeout=60) as source, open(name, "wb") as target:
        while part := source.read(256 * 1024):
            left -= len(part)
            if left < 0:
                sys.exit(f"error: the sources are larger than {most} bytes")
            seen.update(part)
            target.write(part)
    if seen.hexdigest() != digest:
        sys.exit("error: the sources are not what the package index said: their digest differs")


if __name__ == "__main__":
    main()
