"""A refused answer: one line that says why, an exit code, and nothing left on disk."""

import json
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pre_gen_project as hook
import pytest
from conftest import TEMPLATE, VARIANTS, Render, Variant, generate, run
from cookiecutter.exceptions import FailedHookException
from cookiecutter.main import cookiecutter

WHOLE = "a whole number from"
REFUSED = [
    ("project_name", "", "not empty"),
    ("project_name", "   ", "not empty"),
    ("project_name", "two\nlines", "one line of text"),
    ("project_name", "bell\a", "without control characters"),
    ("project_name", "half \udc80", "one line of text"),
    ("project_name", "\ufffe", "one line of text"),
    ("description", "tab\tbed", "without control characters"),
    ("description", "next\x85line", "without control characters"),
    ("description", "line\u2028separator", "one line of text"),
    ("author_name", "\x1b[31mred", "or nothing"),
    ("author_name", "half \ud800", "or nothing"),
    ("pool_size", "0", f"{WHOLE} 1 to 1000"),
    ("pool_size", "1001", f"{WHOLE} 1 to 1000"),
    ("pool_size", "020", f"{WHOLE} 1 to 1000"),
    ("pool_size", "\N{FULLWIDTH DIGIT ONE}", f"{WHOLE} 1 to 1000"),
    ("pool_size", "1e3", f"{WHOLE} 1 to 1000"),
    ("pool_size", " 5", f"{WHOLE} 1 to 1000"),
    ("pool_size", "5\n", f"{WHOLE} 1 to 1000"),
    ("pool_size", "1_0", f"{WHOLE} 1 to 1000"),
    ("pool_size", "", f"{WHOLE} 1 to 1000"),
    ("pool_size", "9" * 5000, f"{WHOLE} 1 to 1000"),
    ("max_overflow", "-1", f"{WHOLE} 0 to 1000"),
    ("max_overflow", "-0", f"{WHOLE} 0 to 1000"),
    ("max_overflow", "1001", f"{WHOLE} 0 to 1000"),
    ("pool_timeout", "0", "seconds above 0"),
    ("pool_timeout", "0.0", "seconds above 0"),
    ("pool_timeout", "-3", "seconds above 0"),
    ("pool_timeout", ".5", "seconds above 0"),
    ("pool_timeout", "inf", "seconds above 0"),
    ("pool_timeout", "nan", "seconds above 0"),
    ("pool_timeout", "9" * 400, "seconds above 0"),
    ("pool_recycle", "0", "or -1 for never"),
    ("pool_recycle", "-2", "or -1 for never"),
    ("pool_recycle", "1.5", "or -1 for never"),
]
BAD_SLUGS = {
    "empty": "",
    "slash": "a/b",
    "parent": "..",
    "beside": "../x",
    "here": ".",
    "absolute": "/tmp/x",
    "home": "~",
    "hidden": ".x",
    "upper case": "My-Service",
    "underscore": "my_service",
    "space": "my service",
    "newline": "my-service\n",
    "trailing dash": "my-",
    "leading dash": "-rf",
    "double dash": "a--b",
    "leading digit": "1st",
    "too long": "x" * 65,
    "much too long": "x" * 300,
    "chinese": "服务",
    "half a pair": "x\udc80",
    "quote": "x'\"",
    "a dependency": "fastapi",
    "someone's dependency": "starlette",
    "windows": "con",
}


def around(folder: Path) -> list[Path]:
    """Return all there is in and around a target folder."""
    return sorted([*folder.parent.rglob("*"), *Path("/tmp").glob("refused-answer-*")])


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Check that cookiecutter and the hook leave no temporary file either."""
    (folder := tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    yield
    assert list(folder.iterdir()) == []


def refuse(prompt: str, answer: str, output: Path) -> None:
    """Generate with an answer that has to be refused."""
    cookiecutter(
        str(TEMPLATE),
        no_input=True,
        extra_context={"run_tests": "no", prompt: answer},
        output_dir=str(output),
    )


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Return a target folder with something of the user's in and around it."""
    output = tmp_path / "target"
    for folder in (output / "x", tmp_path / "x", tmp_path / "my-service"):
        folder.mkdir(parents=True)
        (folder / "mine.txt").write_text("mine")
    return output


@pytest.mark.parametrize(("prompt", "answer", "allowed"), REFUSED)
def test_refused(
    prompt: str, answer: str, allowed: str, output: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = around(output)
    with pytest.raises(FailedHookException):
        refuse(prompt, answer, output)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"{prompt}: {answer!r}"[:80])
    assert allowed in line
    assert line.isprintable()
    assert around(output) == before


@pytest.mark.parametrize(
    ("answers", "line"),
    [
        (
            ["vector_search=yes", "database=mysql"],
            "vector_search: 'yes' is refused. Allowed: no with database=mysql, since pgvector is an"
            " extension of PostgreSQL.",
        ),
        (
            ["sync_bridge=yes", "pool_size=1"],
            "sync_bridge: 'yes' is refused. Allowed: no with pool_size=1, since synchronous"
            " code needs one of these connections for itself.",
        ),
    ],
)
def test_refused_together(answers: list[str], line: str, output: Path) -> None:
    before = around(output)
    assert line in generate(output, *answers, "run_tests=no", code=1).splitlines()
    assert around(output) == before


@pytest.mark.parametrize("slug", BAD_SLUGS.values(), ids=BAD_SLUGS.keys())
def test_refused_slug(slug: str, output: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = around(output)
    with pytest.raises(FailedHookException):
        refuse("project_slug", slug, output)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"project_slug: {slug!r}"[:80])
    assert "a letter, then letters, digits and single '-' inside" in line
    assert around(output) == before


@pytest.mark.parametrize("slug", ["", "..", "../x", "a/b"])
def test_refused_slug_makes_no_output_folder(slug: str, output: Path) -> None:
    before = around(output)
    with pytest.raises(FailedHookException):
        refuse("project_slug", slug, output / "new" / "newer")
    assert around(output) == before


@pytest.mark.parametrize("slug", ["", "..", "../x", "x", "X"])
def test_refused_answer_overwrites_nothing(slug: str, output: Path) -> None:
    before = {path: path.read_text() for path in around(output) if path.is_file()}
    said = generate(output, f"project_slug={slug}", "pool_size=0", "--overwrite-if-exists", code=1)
    assert "pool_size: '0' is refused" in said
    assert {path: path.read_text() for path in around(output) if path.is_file()} == before


def test_all_refusals_at_once(output: Path) -> None:
    said = generate(output, "project_slug=A", "pool_size=0", "pool_recycle=0", code=1)
    lines = [line for line in said.splitlines() if " is refused. Allowed: " in line]
    assert [line.split(":")[0] for line in lines] == ["project_slug", "pool_size", "pool_recycle"]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("database=oracle", "variable database, but the choices are ['postgresql', 'mysql']"),
        ("python_version=3.10", "choices are ['3.13', '3.14', '3.12', '3.11']"),
        ("vector_search=true", "choices are ['no', 'yes']"),
        ("run_tests=maybe", "choices are ['yes', 'no']"),
        ("description=a << b", "TemplateSyntaxError"),
    ],
)
def test_refused_by_cookiecutter(answer: str, message: str, output: Path) -> None:
    before = around(output)
    assert message in generate(output, answer, code=1).splitlines()[-1]
    assert around(output) == before


@pytest.mark.parametrize("mark", ["<<", "<%", "<#"])
def test_marks_of_the_template_are_refused(mark: str, output: Path) -> None:
    """A typed answer comes as it is; `cruft update` would take it for a part of the template."""
    before = around(output)
    typed = ["My Service", "", f"a {mark} b", *[""] * 9, "2"]
    words = [sys.executable, "-m", "cookiecutter", str(TEMPLATE), "--output-dir", str(output)]
    said = run(*words, cwd=output, code=1, typed="\n".join(typed) + "\n").stdout
    assert f"description: 'a {mark} b' is refused. Allowed: one line of text" in said
    assert around(output) == before


@pytest.mark.parametrize("answer", [None, True, 20, ["20"], {}])
def test_only_text_is_allowed(answer: object) -> None:
    lines = list(hook.refusals(dict.fromkeys(hook.RULES, answer)))
    assert len(lines) == len(hook.RULES)


@pytest.mark.parametrize("slug", ["a", "a1", "a-b-c", "x" * 64, "my-3d", "console"])
def test_allowed_slug(slug: str) -> None:
    assert hook.is_slug(slug)


@pytest.mark.parametrize("seconds", ["3", "0.5", "0.000001", "10.0", "3600"])
def test_allowed_pool_timeout(seconds: str) -> None:
    assert hook.is_seconds(seconds)


def test_rules_cover_the_prompts() -> None:
    settings = json.loads((TEMPLATE / "cookiecutter.json").read_text())
    assert [name for name in settings if not name.startswith("_")] == list(hook.RULES)


@pytest.mark.parametrize("variant", VARIANTS, ids="-".join)
def test_no_service_is_named_like_what_it_installs(variant: Variant, render: Render) -> None:
    metadata = tomllib.loads((render(**variant.answers) / "pyproject.toml").read_text())
    needs = [*metadata["project"]["dependencies"], *metadata["dependency-groups"]["dev"]]
    names = {need.split(">")[0].split("[")[0] for need in needs}
    assert names <= hook.INSTALLED
