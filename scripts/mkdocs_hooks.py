"""What MkDocs is told beyond mkdocs.yml: pictures of plots/, which pages name as a repository's reader finds them, are part of the site."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

PLOTS = Path(__file__).parent.parent / "plots"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for path in sorted(PLOTS.glob("*.png")):
        files.append(File.generated(config, f"plots/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return the page with `../plots/`, which lies outside of docs/, as a folder of the site."""
    return markdown.replace("](../plots/", "](plots/")
