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
