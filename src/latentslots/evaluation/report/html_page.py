"""A self-contained HTML page of text, tables and figures."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from latentslots.files import write_text
from latentslots.visualize import ImageLike, data_uri

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 60rem; margin: 2.5rem auto; }
body { padding: 0 1rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin-bottom: .3rem; }
h2 { font-size: 1.25rem; margin-top: 2.4rem; }
p.lead { font-size: 1.1rem; margin-top: 0; }
figure { margin: 1rem 0; overflow-x: auto; }
figure img { max-width: 100%; min-width: 20rem; background: #fff; border-radius: 6px; }
figure img.pixels { image-rendering: pixelated; width: 100%; }
figcaption, footer { font-size: .9rem; opacity: .75; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .35rem .9rem .35rem 0; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child, td:first-child { text-align: left; }
tr.best td { font-weight: 600; }
code { background: var(--soft); padding: .1em .3em; border-radius: 4px; }
pre { background: var(--soft); padding: .8rem; overflow-x: auto; font-size: .85rem; }
footer { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: .8rem; }
"""


class Page:
    """Collects the parts of a page, from top to bottom.

    Args:
        title: Heading, and title of the window.
        lead: A sentence or two below the heading.
    """

    def __init__(self, title: str, lead: str) -> None:
        self.title = title
        self.parts = [f"<h1>{html.escape(title)}</h1>", f'<p class="lead">{html.escape(lead)}</p>']

    def heading(self, text: str) -> None:
        """Add the heading of a section."""
        self.parts.append(f"<h2>{html.escape(text)}</h2>")

    def paragraph(self, text: str) -> None:
        """Add running text; `words` between backticks are set as code."""
        pieces = html.escape(text).split("`")
        for index in range(1, len(pieces), 2):
            pieces[index] = f"<code>{pieces[index]}</code>"
        self.parts.append(f"<p>{''.join(pieces)}</p>")

    def preformatted(self, text: str) -> None:
        """Add text with its line breaks."""
        self.parts.append(f"<pre>{html.escape(text)}</pre>")

    def picture(self, image: ImageLike, caption: str, *, pixels: bool = False) -> None:
        """Add a figure, which is stored inside the page.

        Args:
            image: The image.
            caption: Its description.
            pixels: Enlarge to the page's width with sharp pixels.
        """
        text = html.escape(caption)
        kind = ' class="pixels"' if pixels else ""
        self.parts.append(
            f'<figure><img{kind} src="{data_uri(image)}" alt="{text}">'
            f"<figcaption>{text}</figcaption></figure>"
        )

    def table(
        self, columns: Sequence[str], rows: Mapping[str, Sequence[float | None]], *, best: str = ""
    ) -> None:
        """Add a table of numbers with three decimals; a dash for a missing number.

        Args:
            columns: Headings; the first is that of the row names.
            rows: Numbers by row name.
            best: Name of the row that is set in bold.
        """
        head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
        lines = []
        for name, values in rows.items():
            shown = ["-" if value is None else f"{value:.3f}" for value in values]
            cells = "".join(f"<td>{value}</td>" for value in shown)
            kind = ' class="best"' if name == best else ""
            lines.append(f"<tr{kind}><td>{html.escape(name)}</td>{cells}</tr>")
        self.parts.append(f"<table><tr>{head}</tr>{''.join(lines)}</table>")

    def footer(self, text: str) -> None:
        """Add small print: credits, versions."""
        self.parts.append(f"<footer>{html.escape(text)}</footer>")

    def to_html(self) -> str:
        """The page as HTML."""
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{html.escape(self.title)}</title><style>{_STYLE}</style></head>"
            f"<body>{''.join(self.parts)}</body></html>\n"
        )

    def save(self, path: Path) -> None:
        """Write the page."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, self.to_html())
