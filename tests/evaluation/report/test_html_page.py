import re
from pathlib import Path

from PIL import Image

from latentslots.evaluation.report.html_page import Page


def page() -> Page:
    page = Page("Slots & <masks>", "A lead.")
    page.heading("Numbers")
    page.paragraph("Run `latentslots demo` & look.")
    page.table(("", "score"), {"ours": [0.5], "theirs": [0.25]}, best="ours")
    page.picture(Image.new("RGB", (4, 4)), "A 'black' square", pixels=True)
    page.footer("Made by a test.")
    return page


def test_nothing_is_fetched_from_elsewhere(tmp_path: Path) -> None:
    page().save(tmp_path / "deep" / "index.html")
    text = (tmp_path / "deep" / "index.html").read_text()
    assert re.findall(r'(?:src|href)="(?!data:)', text) == []
    assert "http" not in text


def test_text_is_escaped_and_code_is_set() -> None:
    text = page().to_html()
    assert "Slots &amp; &lt;masks&gt;" in text
    assert "<code>latentslots demo</code> &amp; look" in text
    assert 'alt="A &#x27;black&#x27; square"' in text


def test_table_shows_numbers_and_the_best_row() -> None:
    text = page().to_html()
    assert '<tr class="best"><td>ours</td><td>0.500</td></tr>' in text
    assert "<tr><td>theirs</td><td>0.250</td></tr>" in text
