"""Adds pages from outside docs/ to the site: README.md as the first page, CONTRIBUTING.md and CHANGELOG.md.

Links are written for the repository's own pages, where docs/ is a folder beside README.md; here all pages are in one
folder.
"""

import re
from pathlib import Path

from markdown import Extension, Markdown
from markdown.preprocessors import Preprocessor
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_ROOT = Path(__file__).parents[1]
_PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "CONTRIBUTING.md", "CHANGELOG.md": "CHANGELOG.md"}
_LINK = re.compile(r"(!?\[[^\]]*\]\()(?:\.\./|docs/)([^)\s]+)")


class _ListsAfterText(Preprocessor):
    """Puts an empty line between text and the list below it, which Markdown needs and docstrings do not have."""

    def run(self, lines: list[str]) -> list[str]:
        out: list[str] = []
        for line in lines:
            if line.startswith("- ") and out and re.match(r"[^\s\-]", out[-1]):
                out.append("")
            out.append(line)
        return out


class _Lists(Extension):
    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802 - Markdown's name
        md.preprocessors.register(_ListsAfterText(md), "lists_after_text", 20)  # after code blocks were removed


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds the extension to the reader of pages and docstrings."""
    config.markdown_extensions.append(_Lists())
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages from outside docs/."""
    for name, page in _PAGES.items():
        text = (_ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Changes links between docs/ and its parent folder to links within one folder."""
    return _LINK.sub(r"\1\2", markdown).replace("](README.md", "](index.md")
