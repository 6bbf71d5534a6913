"""A refused answer: one line that says why, an exit code, and nothing left on disk."""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pre_gen_project as hook
import pytest
from conftest import (
    TEMPLATE,
    VARIANTS,
    Render,
    Variant,
    commit,
    copy_template,
    environment,
    files,
    generate,
    run,
)
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


def test_who_answers_is_asked_again_at_once(tmp_path: Path) -> None:
    """On a terminal no wrong answer waits for the last prompt."""
    wrong: dict[str, list[str]] = {
        "project_name": [" "],
        "project_slug": ["A", "fastapi"],
        "description": ["a << b"],
        "pool_size": ["0", "x", "1e3"],
        "max_overflow": ["-1"],
        "pool_timeout": ["0"],
        "pool_recycle": ["0"],
        "vector_search": ["2"],  # For MySQL there is none.
    }
    right = dict.fromkeys(hook.RULES, "") | {
        "project_name": "The Shop",
        "project_slug": "shop",
        "description": "A shop",
        "database": "2",
        "pool_size": "7",
        "vector_search": "no",
        "run_tests": "2",
    }
    typed = [line for name, answer in right.items() for line in [*wrong.get(name, []), answer]]
    keyboard, terminal = os.openpty()
    os.write(keyboard, "".join(f"{line}\n" for line in typed).encode())
    words = [sys.executable, "-m", "cookiecutter", str(TEMPLATE), "--output-dir", str(tmp_path)]
    # Else lines would be broken.
    env = environment(HOME=str(tmp_path), COLUMNS="1000")
    said = subprocess.run(
        words, env=env, stdin=terminal, capture_output=True, text=True, check=True
    ).stdout
    os.close(keyboard)
    os.close(terminal)
    refused = re.findall(r" {4}(\w+): .+ is refused\. Allowed: ", said)
    assert refused == [name for name, answers in wrong.items() for _ in answers]
    made = tmp_path / "shop"
    assert 'name = "shop"' in (made / "pyproject.toml").read_text()
    assert "pool_size: int = Field(default=7," in (made / "app/core/config.py").read_text()
    assert (made / "README.md").read_text().startswith("# The Shop\n\nA shop\n")


ODD = {
    "project_name": "Jean d'Arc's $HOME",
    "description": 'a "b" `c` \\ & é! ; * | > < ~ # =x --help',
    "author_name": "服务 -rf",
    "database": "mysql",
    "pool_timeout": "0.5",
    "run_tests": "no",
}


def again(said: str) -> str:
    """Return the command that a refusal ends with."""
    _, command = said.split("put an allowed one for each '?':\n  ")
    return command.splitlines()[0]


@pytest.mark.parametrize("how", ["command line", "typed"])
@pytest.mark.parametrize("beside", [True, False], ids=["here", "elsewhere"])
def test_a_refusal_costs_no_other_answer(
    how: str, beside: bool, tmp_path: Path, render: Render
) -> None:
    """The command at its end repeats them, for a shell, whatever is in them."""
    (here := tmp_path / "here").mkdir()
    output = here if beside else tmp_path / "other"
    # Where `cookiecutter` is installed, and another configuration that is not heeded.
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    env = environment(PATH=path, HOME=str(tmp_path), PWD=str(here))
    words = [sys.executable, "-m", "cookiecutter", str(TEMPLATE)]
    words += [] if beside else ["--output-dir", str(output)]
    wrong = ODD | {"pool_size": "0", "max_overflow": "-1"}
    if how == "typed":
        settings = json.loads((TEMPLATE / "cookiecutter.json").read_text())
        typed = [wrong.get(name, "") for name in hook.RULES]
        for number, name in enumerate(hook.RULES):
            if isinstance(settings[name], list) and typed[number]:
                typed[number] = str(settings[name].index(typed[number]) + 1)
        said = run(*words, cwd=here, code=1, env=env, typed="\n".join(typed) + "\n").stdout
    else:
        pairs = [f"{prompt}={answer}" for prompt, answer in wrong.items()]
        said = run(*words, "--no-input", *pairs, cwd=here, code=1, env=env).stdout
    command = again(said)
    assert command.count("'?'") == 2
    assert "python_version" not in command
    assert ("--output-dir" in command) is not beside

    said = run("sh", "-c", command, cwd=here, code=1, env=env).stdout
    assert "pool_size: '?' is refused. Allowed: a whole number from 1 to 1000" in said
    assert again(said) == command
    allowed = command.replace("pool_size='?'", "pool_size=7").replace("='?'", "=5")
    run("sh", "-c", allowed, cwd=here, env=env)
    (project,) = output.iterdir()
    (expected := tmp_path / "expected").mkdir()
    right = ODD | {"pool_size": "7", "max_overflow": "5"}
    assert files(project) == files(render(expected, **right))


def test_a_refused_name_is_not_repeated_by_its_slug(output: Path) -> None:
    command = again(generate(output, "project_name=\a My\nShop", "pool_size=5", code=1))
    assert command.endswith(" project_name='?' pool_size=5")
    command = again(generate(output, "project_name=FastAPI", code=1))
    assert command.endswith(" project_name=FastAPI project_slug='?'")


def test_a_refusal_to_cruft_repeats_the_answers(tmp_path: Path) -> None:
    template = copy_template(tmp_path / "template")
    (here := tmp_path / "here").mkdir()
    env = environment(HOME=str(tmp_path), PWD=str(here))
    cruft = [sys.executable, "-m", "cruft"]
    words = [*cruft, "create", str(template), "--no-input", "--extra-context"]
    said = run(*words, json.dumps(ODD | {"pool_size": "0"}), cwd=here, code=1, env=env).stdout
    command = again(said)
    assert "--output-dir" not in command
    run("sh", "-c", command.replace('"?"', '"7"'), cwd=here, env=env)
    (project,) = here.iterdir()
    context = json.loads((project / ".cruft.json").read_text())["context"]["cookiecutter"]
    assert {name: context[name] for name in [*ODD, "pool_size"]} == ODD | {"pool_size": "7"}

    run("git", "init", "--quiet", cwd=project)
    commit(project, "Mine")
    words = [*cruft, "update", "--skip-apply-ask", "--variables-to-update", '{"pool_size": "0"}']
    said = run(*words, cwd=project, code=1, env=env).stdout
    command = again(said).replace('"?"', '"8"')
    run("sh", "-c", f"{command} --skip-apply-ask", cwd=project, env=env)
    assert "POOL_SIZE=8" in (project / ".env.example").read_text()


def test_defaults_need_no_repeating() -> None:
    settings = json.loads((TEMPLATE / "cookiecutter.json").read_text())
    first = {name: settings[name] for name in hook.DEFAULTS}
    first = {name: value[0] if isinstance(value, list) else value for name, value in first.items()}
    assert first == hook.DEFAULTS
    assert {*hook.DEFAULTS, "project_slug"} == set(hook.RULES)


def test_the_command_starts_what_the_users_shell_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Path(sys.executable).parent
    monkeypatch.setenv("PATH", str(own))
    assert hook.program("cookiecutter") == [sys.executable, "-m", "cookiecutter"]
    (tmp_path / "cookiecutter").symlink_to(own / "cookiecutter")
    monkeypatch.setenv("PATH", f"{own}:{tmp_path}")
    assert hook.program("cookiecutter") == ["cookiecutter"]


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
    groups = metadata["dependency-groups"]
    needs = [*metadata["project"]["dependencies"], *groups["dev"], *groups["telemetry"]]
    needs.remove({"include-group": "telemetry"})
    names = {need.split(">")[0].split("[")[0] for need in needs}
    assert names <= hook.INSTALLED
