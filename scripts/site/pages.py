"""What MkDocs is told besides docs/: pages that are made when the site is built, and where links lead.

Generated: the references of the protocol, the configuration and the errors; README.md as the first page, the other
documents at the root, and the examples. A link in any page may lead to a file of the repository, as it has to where
pages are read beside the sources; on the site it leads to the page of that file, and where there is none it is text.
"""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

import configuration
import errors
import protocol
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
AT_THE_ROOT = {
    "README.md": "index.md",
    "SECURITY.md": "explanation/security.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changelog.md",
}
LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])+)\]\(([^()\s]+)\)")
IMAGE = re.compile(r"!\[([^\]]*)\]\(([^()\s]+)\)")


def examples() -> dict[str, str]:
    """The page of each example by the example's path: what its docstring says, and itself."""
    return {
        str(path.relative_to(ROOT)): f"examples/{path.relative_to(ROOT / 'examples').with_suffix('.md')}"
        for path in sorted(ROOT.glob("examples/**/*.py"))
    }


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages."""
    made = {f"reference/protocol/{name}": text for name, text in protocol.pages().items()}
    made["reference/configuration.md"] = configuration.page()
    made["reference/errors.md"] = errors.page()
    made |= {page: (ROOT / path).read_text(encoding="utf-8") for path, page in AT_THE_ROOT.items()}
    made |= {page: _example(path) for path, page in examples().items()}
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Leads links where they lead on the site, and lists decisions on their page."""
    origins = {place: path for path, place in {**AT_THE_ROOT, **examples()}.items()}
    name = page.file.src_uri
    if name == "decisions/README.md":
        found = sorted(each for each in files.src_uris if each.startswith("decisions/0"))
        markdown += "\n" + "\n".join(f"- [{_title(files.src_uris[each])}]({Path(each).name})" for each in found)
    if name.startswith("reference/"):
        return markdown
    origin = origins.get(name, f"docs/{name}")
    written = []
    in_code = False
    for line in markdown.split("\n"):
        if line.lstrip().startswith("```"):
            in_code = not in_code
        written.append(line if in_code else _led(line, origin, name, files))
    return "\n".join(written)


def _led(line: str, origin: str, page: str, files: Files) -> str:
    def link(match: re.Match[str]) -> str:
        text, target = match.groups()
        place = _place(target, origin, page, files)
        if place is None:
            return text if "`" in text else f"`{text}`"
        return f"[{text}]({place})"

    def image(match: re.Match[str]) -> str:
        text, target = match.groups()
        return f"![{text}]({_place(target, origin, page, files) or target})"

    return IMAGE.sub(image, LINK.sub(link, line))


def _place(target: str, origin: str, page: str, files: Files) -> str | None:
    """Where a link in the file `origin` leads from its page; None where the site has no such page."""
    if "://" in target or target.startswith(("#", "mailto:")):
        return target
    path, hash_, anchor = target.partition("#")
    source = os.path.normpath(os.path.join(os.path.dirname(origin), path))
    places = {**AT_THE_ROOT, **examples()}
    wanted = places.get(source) or source.removeprefix("docs/")
    if source not in places and not source.startswith("docs/"):
        if not (ROOT / source).exists():
            return target  # a mistake, which the strict build names
        return None
    if wanted not in files.src_uris and (ROOT / source).is_dir():
        wanted = f"{wanted}/README.md"
    return os.path.relpath(wanted, os.path.dirname(page) or ".") + hash_ + anchor


def _example(path: str) -> str:
    source = (ROOT / path).read_text(encoding="utf-8")
    docstring = ast.get_docstring(ast.parse(source)) or ""
    title = path.removeprefix("examples/")
    code = source.partition('"""\n\n')[2] if source.startswith('"""') else source
    return f"# {title}\n\n{docstring}\n\n```python\n{code}```\n"


def _title(file: File) -> str:
    return next(line for line in file.content_string.splitlines() if line.startswith("# ")).removeprefix("# ")
