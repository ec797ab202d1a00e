"""Brings into the site what lies outside of docs/: the README, CONTRIBUTING.md, the figures and the examples.

In the repository `../benchmarks/RESULTS.md` leads there from a page of docs/. In the site that file is a page as well,
and links to it go without the `../`. README.md is the page `five-minutes.md`: mkdocs would take it for the front page.
README.zh-CN.md stands beside it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markdown.extensions.toc import slugify_unicode
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
READMES = {"README.md": "five-minutes.md", "README.zh-CN.md": "five-minutes.zh-CN.md"}
"""The pages that the READMEs are in the site."""

CONTRIBUTING = "CONTRIBUTING.md"
"""A page of the same name."""


def on_config(config: Any) -> None:
    """Headings in Chinese have the anchors that GitHub gives them."""
    config.mdx_configs["toc"]["slugify"] = slugify_unicode


def on_files(files: Files, config: Any) -> Files:
    """Adds the files."""
    for readme, page in READMES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / readme)))
    examples = [path for path in (ROOT / "examples").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    for path in (*(ROOT / name for name in (CONTRIBUTING, "Dockerfile", "benchmarks/RESULTS.md")), *sorted(examples)):
        name = path.relative_to(ROOT).as_posix()
        files.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links from the repository's places to the site's."""
    name = page.file.src_uri
    if "/" in name:
        return markdown.replace("](../docs/", "](../")
    markdown = markdown.replace("](docs/" if name in (*READMES.values(), CONTRIBUTING) else "](../", "](")
    for readme, site_page in READMES.items():
        markdown = markdown.replace(f"]({readme}", f"]({site_page}")
    return markdown
