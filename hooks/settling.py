"""While cookiecutter asks: an answer that is refused is asked for again, at once.

`cookiecutter.json` names this in `_extensions`. Where nobody is there to ask, by `--no-input` or
without a terminal, `pre_gen_project.py` refuses later, by the same rules.
"""

import runpy
import sys
from pathlib import Path
from typing import Any

from cookiecutter.prompt import read_user_variable
from jinja2 import Environment
from jinja2.ext import Extension

HOOK = runpy.run_path(str(Path(__file__).with_name("pre_gen_project.py")))


def somebody_answers() -> bool:
    """Return whether a person types the answers. (cookiecutter tells its extensions nothing.)"""
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code.co_name == "prompt_for_config":
            return not frame.f_locals["no_input"] and sys.stdin.isatty()
    return False


def refused(prompt: str, answers: dict[str, Any]) -> list[str]:
    """Return the lines that refuse the answer to a prompt."""
    return [line for line in HOOK["refusals"](answers) if line.startswith(f"{prompt}: ")]


def settle(prompt: str, answers: dict[str, Any]) -> str:
    """Have an answer given again until it is allowed; return nothing, which is rendered."""
    while somebody_answers() and (lines := refused(prompt, answers)):
        print(*(f"    {line}" for line in lines), sep="\n")
        default = HOOK["defaults_of"](answers)[prompt]
        answers[prompt] = read_user_variable(prompt, default, prefix="    ")
    return ""


class Settling(Extension):
    """Gives the templates in `cookiecutter.json` the filter `settle`."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        environment.filters["settle"] = settle
