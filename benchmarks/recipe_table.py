"""Write the table of a recipe's fields into docs/finetune.md: `python benchmarks/recipe_table.py`.

A table is between the lines `<!-- recipe: NAME -->` and `<!-- end -->`. The descriptions are the docstrings below the
fields.
"""

import ast
import inspect
import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from cnnmod.method.config import MoDConfig
from cnnmod.training.recipe import Recipe
from cnnmod.training.recipes import recipe

PAGE = Path(__file__).parents[1] / "docs" / "finetune.md"
_TABLE = re.compile(r"(<!-- recipe: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def descriptions(part_class: type[Any]) -> dict[str, str]:
    """Return the first sentence of the docstring below each field of a dataclass."""
    (definition,) = ast.parse(inspect.getsource(part_class)).body
    assert isinstance(definition, ast.ClassDef)
    found: dict[str, str] = {}
    for field, text in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            assert isinstance(field.target, ast.Name)
            found[field.target.id] = " ".join(str(text.value.value).split("\n\n")[0].split())
    return found


def recipe_table(shown: Recipe) -> str:
    """Return the table of all fields of a recipe in markdown, with their values and descriptions."""
    lines = ["| field | value | description |", "|---|---|---|"]
    values = shown.to_dict()
    for part_name in ("networks", "task", "images", "optimization", "system"):
        part_class = type(getattr(shown, part_name))
        texts = descriptions(part_class)
        for field in fields(part_class):
            value = values[part_name][field.name]
            if field.name == "config":
                changed = {key: item for key, item in value.items() if item != MoDConfig().to_dict()[key]}
                cell = ", ".join(f"{key}={json.dumps(item)}" for key, item in changed.items())
            else:
                cell = json.dumps(value)
            lines.append(f"| `{part_name}.{field.name}` | `{cell}` | {texts[field.name]} |")
    return "\n".join(lines)


def rendered(page: str) -> str:
    """Return a page with its tables of recipes written anew."""
    return _TABLE.sub(lambda match: f"{match[1]}{recipe_table(recipe(match[2]))}\n{match[3]}", page)


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
