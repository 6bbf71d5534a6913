"""The README names the tests that hold it to the truth."""

import re

from tests.process import PROJECT


def test_the_readme_names_tests_that_exist() -> None:
    named = set(re.findall(r"`(test_\w+)`", (PROJECT / "README.md").read_text()))
    tests = "".join(path.read_text() for path in (PROJECT / "tests").rglob("test_*.py"))

    assert named
    assert {name for name in named if f"def {name}(" not in tests} == set()


def test_the_readme_lists_every_setting() -> None:
    readme = (PROJECT / "README.md").read_text()
    example = (PROJECT / ".env.example").read_text()
    from app.core.config import Settings

    for name in Settings.model_fields:
        assert f"| `{name.upper()}` |" in readme
        assert f"{name.upper()}=" in example


def test_the_readme_links_to_sections_that_exist() -> None:
    readme = (PROJECT / "README.md").read_text()
    titles = re.findall(r"^##+ (.+)$", readme, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    links = set(re.findall(r"\]\(#([^)]+)\)", readme))

    assert links
    assert links <= anchors
