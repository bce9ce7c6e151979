"""What the site has besides docs/: README.md as its first page, CONTRIBUTING.md and CHANGELOG.md.

Links are written for the repository's own pages, where docs/ is a folder beside README.md; here all pages are in one
folder.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_ROOT = Path(__file__).parents[1]
_PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "CONTRIBUTING.md", "CHANGELOG.md": "CHANGELOG.md"}
_LINK = re.compile(r"(!?\[[^\]]*\]\()(?:\.\./|docs/)([^)\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages from outside docs/."""
    for name, page in _PAGES.items():
        text = (_ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Makes links between docs/ and the folder above it links within one folder."""
    moved = _LINK.sub(r"\1\2", markdown)
    for name, new in _PAGES.items():
        moved = moved.replace(f"]({name}", f"]({new}")
    return moved
