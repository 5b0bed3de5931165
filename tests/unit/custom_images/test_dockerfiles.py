"""What of a Dockerfile is taken, what is refused, and what an engine gets."""

from __future__ import annotations

import pytest

from cellyard_controller.custom_images import build, dockerfile
from cellyard_controller.custom_images.errors import BadInput

WHOLE = """\
# Mine
ARG UNUSED
FROM cellyard-environment:3.13 AS parts
RUN echo 1 && \\
    # in between
    echo 2
FROM cellyard-environment
COPY --from=parts /a /b
COPY --from=0 /c /d
ADD e /f
"""


def test_names_of_images_are_made_exact_and_every_stage_can_be_found() -> None:
    read = dockerfile.read(WHOLE, "Dockerfile")
    assert read.bases == {
        "cellyard-environment:3.13": "Dockerfile, line 3",
        "cellyard-environment": "Dockerfile, line 7",
    }
    assert read.last == "cellyard-environment"
    assert read.text(lambda name: f"<{name}>").splitlines() == [
        "ARG UNUSED",
        "FROM <cellyard-environment:3.13> AS parts",
        "USER 0",
        "LABEL cellyard.image=part",
        "RUN echo 1 && \\",
        "    echo 2",
        "FROM <cellyard-environment>",
        "USER 0",
        "LABEL cellyard.image=part",
        "COPY --from=parts /a /b",
        "COPY --from=0 /c /d",
        "ADD e /f",
    ]


def test_a_stage_that_begins_with_another_one_has_what_that_begins_with() -> None:
    read = dockerfile.read("FROM cellyard-environment:3.13 AS One\nFROM one AS two\nFROM two\n", "Dockerfile")
    assert read.last == "cellyard-environment:3.13"
    assert list(read.bases) == ["cellyard-environment:3.13"]
    assert "FROM two\n" in read.text(lambda name: "exact")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "Mine has no FROM: begin with `FROM cellyard-environment`"),
        ("# nothing\n", "Mine has no FROM"),
        ("ARG A=1\n", "Mine has no FROM"),
        ("RUN true\n", "Mine, line 1: RUN comes before FROM"),
        ("FROM a b\n", "Mine, line 1: FROM is"),
        ("FROM\n", "Mine, line 1: FROM is"),
        ("ARG X\nFROM $X\n", "Mine, line 2: .*without variables"),
        ("FROM a\nENTRYPOINT x\n", "Mine, line 2: ENTRYPOINT is refused"),
        ("FROM a\nCMD x\n", "Mine, line 2: CMD is refused"),
        ("FROM a\nUSER root\n", "Mine, line 2: USER is refused: .*a user of its own"),
        ("FROM a\nuser 0\n", "Mine, line 2: USER is refused"),
        ("FROM a\nVOLUME /data\n", "Mine, line 2: VOLUME is refused"),
        ("FROM a\nHEALTHCHECK NONE\n", "Mine, line 2: HEALTHCHECK is refused"),
        ("FROM a\nONBUILD RUN true\n", "Mine, line 2: ONBUILD is refused"),
        ("FROM a\n\nBOGUS x\n", "Mine, line 3: BOGUS is no instruction"),
        ("FROM a\nCOPY --from=elsewhere:1 / /\n", "Mine, line 2: --from=elsewhere:1 is no stage"),
        ("FROM a\nADD https://a.example/b /b\n", "Mine, line 2: builds have no network"),
        ("FROM a\nADD git@a.example:b /b\n", "Mine, line 2: builds have no network"),
    ],
)
def test_what_cannot_be_built_is_refused_with_its_line(text: str, why: str) -> None:
    with pytest.raises(BadInput, match=why):
        dockerfile.read(text, "Mine")


@pytest.mark.parametrize("name", ["science", "a.b_c-d1", "x" * 60])
def test_names_of_images(name: str) -> None:
    assert build.check_name(name) == name


@pytest.mark.parametrize("name", ["", "Science", "a b", "a/b", "a:b", "-a", "a..b", "x" * 61, "ä"])
def test_what_is_no_name_of_an_image(name: str) -> None:
    with pytest.raises(BadInput, match="is no name for an image"):
        build.check_name(name)


@pytest.mark.parametrize("tag", ["science:1", "acme/science", "acme/science:v1.0_x"])
def test_tags(tag: str) -> None:
    assert build.check_tag(tag) == tag


@pytest.mark.parametrize("tag", ["Science:1", "a:b:c", "a b", ":1", "a:"])
def test_what_is_no_tag(tag: str) -> None:
    with pytest.raises(BadInput, match="is no name for an image"):
        build.check_tag(tag)
