"""The names of a set's files are known in one place."""

import ast
from pathlib import Path

import pytest

import datamodules.synthetic
from datamodules.synthetic import annotations, layout

ROOT = Path(__file__).parents[2]
HOME = Path(datamodules.synthetic.__file__).parent
NAMES = {layout.RECIPE, layout.MANIFEST, layout.PLAN, layout.TRAINED_ON, layout.CONSISTENCY, layout.CONSISTENCY_PAGE,
         layout.CONSISTENCY_FIGURE, layout.PRIVACY, layout.CONTACT_SHEET, annotations.FINISHED}  # fmt: skip


@pytest.mark.parametrize("room", ["datamodules", "callbacks", "experiments", "lightning_modules"])
def test_no_other_code_spells_the_name_of_a_file_of_a_set(room: str) -> None:
    for path in (ROOT / room).rglob("*.py"):
        if path.parent != HOME:
            spelt = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
            assert not spelt & NAMES, f"{path.relative_to(ROOT)} spells {spelt & NAMES}: ask datamodules/synthetic"
