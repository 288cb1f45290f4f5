"""What docs/apis.md shows is the table of the core."""

from picker._core import apis
from tests.support.apidocs import PAGE, regenerated


def test_the_page_shows_the_table() -> None:
    text = PAGE.read_text()
    assert regenerated(text) == text, "run `make docs`"
    assert all(f"| `{row['suffix']}` |" in text for row in apis.table()[1:])
