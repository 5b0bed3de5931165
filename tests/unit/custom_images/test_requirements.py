"""What of a requirements.txt is taken, and what a lock says."""

from __future__ import annotations

import pytest

from cellyard_controller.custom_images import requirements
from cellyard_controller.custom_images.errors import BadInput

HASH = "--hash=sha256:" + "a" * 64


def test_names_versions_markers_and_hashes_are_taken_each_in_one_spelling() -> None:
    text = f"""\
# what we need
Tiny_Thing >=1, <2   # not the new one

pandas[Excel] ; python_version > "3.8"
six==1.17.0 \\
    {HASH} \\
    {HASH}
"""
    assert requirements.read(text, "requirements.txt") == [
        "tiny-thing<2,>=1",
        'pandas[excel] ; python_version > "3.8"',
        f"six==1.17.0 {HASH} {HASH}",
    ]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("-r other.txt", "is an option"),
        ("-e .", "is an option"),
        ("--index-url https://index.example", "has an option"),
        ("six --global-option=x", "has an option"),
        ("six @ https://a.example/six.whl", "names a place"),
        ("https://a.example/six.whl", "names a place"),
        ("git+https://a.example/six", "names a place"),
        ("file:six.whl", "names a place"),
        ("./six", "names a place"),
        ("six six", "is no requirement"),
        ("six==", "is no requirement"),
        ("six --hash=md5:1", "is no hash"),
        ("six --hash=sha256:zz", "is no hash"),
    ],
)
def test_what_is_refused_is_told_with_its_line(line: str, why: str) -> None:
    with pytest.raises(BadInput, match=rf"mine.txt, line 3: .*{why}"):
        requirements.read(f"numpy\n\n{line}\n", "mine.txt")


def test_a_lock_says_what_it_pins() -> None:
    lock = f"six==1.17.0 \\\n    {HASH}\ntiny-thing==2 \\\n    {HASH}\n"
    assert requirements.pins(lock) == ["six==1.17.0", "tiny-thing==2"]
