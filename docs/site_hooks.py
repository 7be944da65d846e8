"""What the site needs beside the pages: files of the repository that the pages link to."""

from __future__ import annotations

import pathlib
import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_ROOT = pathlib.Path(__file__).resolve().parents[1]
# A link out of docs/, which is right in a checkout and leads nowhere from a site.
_OUTSIDE = re.compile(r"\]\(\.\./(?!\.\./)([^)#\s]+)\)")
_FOLDER = "repository"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files that pages link to outside docs/."""
    for page in list(files.documentation_pages()):
        for path in _OUTSIDE.findall(page.content_string):
            uri = f"{_FOLDER}/{path}"
            if (_ROOT / path).is_file() and files.get_file_from_path(uri) is None:
                files.append(File.generated(config, uri, abs_src_path=str(_ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Leads links out of docs/ to the copies; one to a missing file stays, and is reported."""

    def inside(link: re.Match[str]) -> str:
        uri = f"{_FOLDER}/{link.group(1)}"
        return link.group() if files.get_file_from_path(uri) is None else f"]({uri})"

    return _OUTSIDE.sub(inside, markdown)
