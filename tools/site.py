"""MkDocs hooks: add pages from outside docs/ and the API reference, and adapt links and lists.

The Markdown files are written for a code host. The hooks turn their links into links of the site and indent their lists
as Python-Markdown requires.
"""

from __future__ import annotations

import ast
import logging
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src/empg"
# Page of the site → the file of the repository behind it.
OUTSIDE = {
    "configuration.md": "config/README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
HOME = ("README.md", "docs/README.md")  # the code host's front pages: links to them lead to the site's
LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
ITEM = re.compile(r"( *)([-*+]|\d+\.)( +)")
ROLE = re.compile(r":[a-z]+:`~?([\w.]+)`")
FENCE = re.compile(r" *(```|~~~)")

_logger = logging.getLogger("mkdocs.hooks.site")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill in the lists of the navigation that grow with the repository."""
    folder = ROOT / "docs/results"
    results = sorted(path.parent.relative_to(folder).as_posix() for path in folder.glob("*/**/README.md"))
    lists: dict[str, list[Any]] = {
        "results/*": [{"Overview": "results/README.md"}, *({name: f"results/{name}/README.md"} for name in results)],
        "api/*": reference_pages(),
    }
    config.nav = [{title: lists.get(str(at), at) for title, at in entry.items()} for entry in config.nav or []]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside docs/ and one page for each package of the API reference."""
    for name, source in OUTSIDE.items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / source)))
    for name in packages():
        files.append(File.generated(config, page(name), content=reference(name)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Rewrite links and lists of a page that is a file of the repository."""
    name = page.file.src_uri
    if name.startswith("api/"):
        return markdown
    source = OUTSIDE.get(name, f"docs/{name}")
    lines = outline(markdown.splitlines())
    return "\n".join(line if code else LINK.sub(lambda m: link(m, source, name), line) for line, code in lines)


def link(match: re.Match[str], source: str, name: str) -> str:
    """The link in the site: to the page that shows the file, or the text alone where no page does."""
    text, target = match.groups()
    path, hash_, anchor = target.partition("#")
    if not path or re.match(r"[a-z]+:", path):
        return match[0]
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    if not (ROOT / path).exists():
        _logger.warning(f"{source}: expected a link to a file of the repository, found {target}")
        return text
    pages = {file: shown for shown, file in OUTSIDE.items()} | dict.fromkeys(HOME, "README.md")
    if path in pages:
        found = pages[path] + hash_ + anchor
    elif path.startswith("docs/"):
        found = path.removeprefix("docs/") + hash_ + anchor
    elif path.startswith("src/empg") and (ROOT / path).suffix in (".py", ""):
        found = module_page(path)
    else:
        return text
    return f"[{text}]({posixpath.relpath(found, posixpath.dirname(name) or '.')})"


def outline(lines: list[str]) -> list[tuple[str, bool]]:
    """Every line, indented by four spaces for each list item around it, and whether it is fenced code.

    A code host indents by the width of an item's marker instead, and accepts a list right below a paragraph.
    """
    found: list[tuple[str, bool]] = []
    columns: list[int] = []  # where the text of each open item begins, outermost first
    in_code, after_blank = False, True
    for line in lines:
        indent, fence = len(line) - len(line.lstrip()), bool(FENCE.match(line))
        item = None if in_code else ITEM.match(line)
        if not in_code and line.strip() and (item or after_blank or fence):
            was_open = bool(columns)
            while columns and indent < columns[-1]:
                columns.pop()
            if item and not was_open and not after_blank:
                found.append(("", False))
        start = indent if item else min(indent, columns[-1] if columns else 0)
        found.append(("    " * len(columns) + line[start:] if line.strip() else "", in_code or fence))
        if item:
            columns.append(len(item[0]))
        in_code, after_blank = in_code != fence, not line.strip()
    return found


def packages() -> list[str]:
    """The packages of the source by dotted name, each before its subpackages."""
    return sorted(".".join(path.parent.relative_to(PACKAGE.parent).parts) for path in PACKAGE.rglob("__init__.py"))


def reference_pages() -> list[dict[str, Any]]:
    """The API reference in the navigation. A package with subpackages is a section."""
    rooms: dict[str, list[dict[str, str]]] = {}
    for name in packages():
        _, _, inner = name.partition(".")
        room, _, rest = inner.partition(".")
        rooms.setdefault(room or name, []).append({rest or "overview": page(name)})
    return [{room: pages if len(pages) > 1 else next(iter(pages[0].values()))} for room, pages in rooms.items()]


def page(package: str) -> str:
    """The page of the site with the package's modules."""
    return "api/index.md" if package == PACKAGE.name else f"api/{package.partition('.')[2]}.md"


def module_page(path: str) -> str:
    """The place in the API reference of a file or folder of the source."""
    parts = Path(path).with_suffix("").relative_to(PACKAGE.parent.relative_to(ROOT)).parts
    if (ROOT / path).is_dir():
        return page(".".join(parts))
    return f"{page('.'.join(parts[:-1]))}#{'.'.join(parts)}"


def reference(package: str) -> str:
    """Markdown of a package's page: what it is for, the packages in it, and every module of it."""
    folder = PACKAGE.parent.joinpath(*package.split("."))
    parts = [f"# {package}", f"::: {package}\n    options: {{members: false, show_root_heading: false}}"]
    inner = [name for name in packages() if name.rpartition(".")[0] == package]
    if inner:
        at = posixpath.dirname(page(package))
        rows = [f"| [`{name}`]({posixpath.relpath(page(name), at)}) | {summary(name)} |" for name in inner]
        parts.append("\n".join(["| package | what lives there |", "|---|---|", *rows]))
    modules = sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("__"))
    return "\n\n".join([*parts, *(f"::: {package}.{name}" for name in modules)]) + "\n"


def summary(package: str) -> str:
    """The first paragraph of the package's docstring, on one line."""
    source = PACKAGE.parent.joinpath(*package.split("."), "__init__.py").read_text(encoding="utf-8")
    text = ast.get_docstring(ast.parse(source)) or ""
    return " ".join(ROLE.sub(r"`\1`", text.partition("\n\n")[0]).replace("``", "`").split())
