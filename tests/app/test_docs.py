"""The page about the editor, and the editor."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "src/latentslots/assets/app"


def test_the_page_lists_every_key() -> None:
    listed = re.findall(r'^  \["(.+?)", "(.+?)"\],$', (SCRIPTS / "keys.js").read_text(), re.M)
    assert len(listed) > 20
    page = (ROOT / "docs/editor.md").read_text()
    table = re.findall(r"^\| (.+?) \| (.+?) \|$", page.partition("## Keys")[2], re.M)
    assert table == listed


def test_every_element_that_scripts_name_exists() -> None:
    page = (SCRIPTS / "index.html").read_text()
    ids = set(re.findall(r'id="([\w-]+)"', page))
    scripts = "".join(path.read_text() for path in SCRIPTS.glob("*.js"))
    named = set(re.findall(r'\$\("([\w-]+)"\)', scripts))
    made = set(re.findall(r'\bid: "([\w-]+)"', scripts))
    assert named <= ids | made
    assert "style=" not in page  # which the content security policy forbids
    assert not re.search(r"\bon\w+=", page)


def luminance(color: str) -> float:
    """Relative luminance of #rrggbb (WCAG 2.2)."""
    values = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_text_stands_out_in_both_themes() -> None:
    assert round(contrast("#000000", "#ffffff"), 2) == 21
    themes = re.findall(r":root \{(.+?)\}", (SCRIPTS / "app.css").read_text(), re.S)
    assert len(themes) == 2
    for theme in themes:
        colors = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", theme))
        for text, page in (
            ("text", "page"),
            ("text", "panel"),
            ("soft", "page"),
            ("soft", "panel"),
            ("on-accent", "accent"),
            ("error", "error-page"),
        ):
            assert contrast(colors[text], colors[page]) >= 4.5, (text, page)
        assert contrast(colors["accent"], colors["panel"]) >= 3  # outlines and borders
