"""The variants beyond each database's plain service: generated, proven by the hook, and linted."""

import re
from pathlib import Path

import pytest
from conftest import VARIANTS, Variant, generate, run

CHOSEN = [variant for variant in VARIANTS if "yes" in variant]


@pytest.mark.parametrize("variant", CHOSEN, ids="-".join)
def test_variant_is_proven(variant: Variant, tmp_path: Path) -> None:
    said = generate(tmp_path, *(f"{name}={answer}" for name, answer in variant.answers.items()))
    assert re.search(r"^  \d+ tests passed in \d+\.\d s$", said, re.MULTILINE)
    assert "Success: no issues" in run("make", "lint", cwd=tmp_path / "my-service").stdout
