"""Every variant that the prompts allow, and odd answers, render into sound files."""

import ast
import itertools
import json
import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from conftest import (
    DATABASES,
    PYTHON_VERSIONS,
    TEMPLATE,
    VARIANTS,
    Render,
    Variant,
    files,
    run,
)

CHOICES = list(itertools.product(VARIANTS, PYTHON_VERSIONS, ("yes", "no")))

# What a variant must not speak of.
NOT_CHOSEN = {
    ("database", "postgresql"): re.compile("mysql|mariadb|asyncmy", re.IGNORECASE),
    ("database", "mysql"): re.compile("postgres|asyncpg|psycopg", re.IGNORECASE),
    ("vector_search", "no"): re.compile("(?<!ts)vector|embedding|hnsw|documents", re.IGNORECASE),
    ("sync_bridge", "no"): re.compile("bridge|sync_pool|sync_database|syncsession|/reports"),
}
ODD = {
    "double quotes": 'He said "hi"',
    "apostrophe": "It's",
    "both quotes": """It's "quoted" and 'single'""",
    "triple quotes": '""" \'\'\' end"',
    "backslashes": "C:\\new\\table \\N{DIGIT ONE} \\",
    "braces": "{{x}} {% y %} {# z #} {0} {name!r}",
    "workflow": "${{ secrets.TOKEN }}",
    "percent": "%(here)s %d 100%",
    "shell": "$HOME $(id) `id` && echo; | > #",
    "yaml": "- key: 'value' # no comment: {a: [b]} & *c !d",
    "markup": "<b>&amp;</b> <!-- x --> [a](b) | *c* _d_",
    "delimiters": ">> %> #>",
    "chinese": "用户服务",
    "emoji": "🚀 rockets 👨‍👩‍👧",
    "spaces": "  around  and within  ",
    "long": "A long story, told again and again. " * 12,
}


def lint(project: Path) -> None:
    """Check that every Python file compiles and is what ruff would write."""
    for name, text in files(project).items():
        if name.endswith(".py"):
            compile(text, name, "exec")
    ruff = [sys.executable, "-m", "ruff"]
    run(*ruff, "check", "--no-cache", ".", cwd=project)
    run(*ruff, "format", "--check", "--no-cache", ".", cwd=project)


@pytest.mark.parametrize(
    ("variant", "python_version", "run_tests"),
    CHOICES,
    ids=["-".join([*variant, *others]) for variant, *others in CHOICES],
)
def test_variant(variant: Variant, python_version: str, run_tests: str, render: Render) -> None:
    project = render(**variant.answers, python_version=python_version, run_tests=run_tests)
    lint(project)
    for name, text in files(project).items():
        assert not re.search(r"<<|<%|<#|cookiecutter\b(?!-)|\brun_tests", name + text), name
        # A picture shows another service.
        for answer in variant.answers.items() if not name.endswith(".svg") else ():
            assert answer not in NOT_CHOSEN or not NOT_CHOSEN[answer].search(name + text), name
        assert text.endswith("\n") or not text, name
        assert not re.search(r"[ \t]$|\n\n\n\n|\A\n|\n\n\Z", text, re.MULTILINE), name
    assert f"python:{python_version}-" in files(project)["Dockerfile"]
    workflow = yaml.safe_load(files(project)[".github/workflows/ci.yml"])
    assert workflow["jobs"]["test"]["env"]["UV_PYTHON"] == python_version


def test_python_version_changes_no_code(render: Render, tmp_path: Path) -> None:
    def code(version: str) -> dict[str, str]:
        (output := tmp_path / version).mkdir()
        rendered = files(render(output, python_version=version))
        return {name: text for name, text in rendered.items() if name.endswith((".py", ".toml"))}

    assert code("3.11") == code("3.14")


@pytest.mark.parametrize("database", DATABASES)
@pytest.mark.parametrize("answer", ODD.values(), ids=ODD.keys())
def test_odd_answer(answer: str, database: str, render: Render) -> None:
    project = render(
        project_name=answer,
        project_slug="odd",
        description=answer,
        author_name=answer,
        database=database,
    )
    lint(project)
    rendered = files(project)
    metadata = tomllib.loads(rendered["pyproject.toml"])["project"]
    assert metadata["description"] == answer
    assert metadata["authors"] == [{"name": answer}]
    assert title(rendered["app/main.py"]) == answer
    for name, text in rendered.items():
        if name.endswith((".yml", ".yaml")):
            yaml.safe_load(text)
        if name.endswith(".toml"):
            tomllib.loads(text)
        if name.endswith(".json"):
            assert json.loads(text)["title"] == answer


def title(code: str) -> str | None:
    """Return the title that the application is made with."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.keyword) and node.arg == "title":
            return str(ast.literal_eval(node.value))
    return None


def test_answers_reach_the_settings(render: Render) -> None:
    project = render(pool_size="7", max_overflow="11", pool_timeout="0.25", pool_recycle="-1")
    rendered = files(project)
    for line in ("POOL_SIZE=7", "MAX_OVERFLOW=11", "POOL_TIMEOUT=0.25", "POOL_RECYCLE=-1"):
        assert line in rendered[".env.example"]
    assert not re.search(r"default=(20|0|3|1800)\b(?!\.)", rendered["app/core/config.py"])
    lint(project)


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("My Service", "my-service"),
        ("", "my-service"),
        ("!!!", "my-service"),
        ("3D Printing", "my-3d-printing"),
        ("用户服务", "yong-hu-fu-wu"),
        ("Ünïcode_and.dots", "unicode-and-dots"),
        ("word " * 30, "-".join(["word"] * 12)),
    ],
)
def test_slug_follows_from_name(name: str, slug: str, render: Render) -> None:
    assert render(project_name=name).name == slug


def test_every_prompt_has_a_text() -> None:
    settings = yaml.safe_load((TEMPLATE / "cookiecutter.json").read_text())
    prompts = {name for name in settings if not name.startswith("_")}
    assert settings["__prompts__"].keys() == prompts
    for name, texts in settings["__prompts__"].items():
        if isinstance(texts, dict):
            assert texts.keys() == {"__prompt__", *settings[name]}


def test_link_for_cruft() -> None:
    link = TEMPLATE / "{{cookiecutter.project_slug}}"
    assert link.is_symlink()
    assert str(link.readlink()) == "<<cookiecutter.project_slug>>"


@pytest.mark.parametrize("database", DATABASES)
def test_compose_sets_what_the_service_reads(database: str, render: Render) -> None:
    project = render(database=database)
    services = yaml.safe_load((project / "compose.yaml").read_text())["services"]
    assert services["migrate"]["environment"] == services["service"]["environment"]
    settings = files(project)["app/core/config.py"]
    for name in services["service"]["environment"]:
        assert f"\n    {name.lower()}: " in settings
    example = (project / ".env.example").read_text()
    [url] = re.findall("^DATABASE_URL=(.+)://", example, re.MULTILINE)
    assert services["service"]["environment"]["DATABASE_URL"].startswith(f"{url}://app:")
