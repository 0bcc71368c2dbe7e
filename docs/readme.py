"""The front page is the README: its links to files of this folder lead there from here too."""

from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def on_page_markdown(markdown: str, *, page, **kwargs) -> str:
    """Return the README for the front page, any other page as it is."""
    return README.read_text().replace("](docs/", "](") if page.is_homepage else markdown
