"""Writes the tutorial as a notebook, docs/tutorial.ipynb, from its page.

    python -m tools.notebook

Commands, files and Python become cells that run; everything else stays text. nbformat checks and
writes it (`pip install -e '.[test]'`). A test fails if the notebook differs from the output of this
script.
"""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tools.blocks import Block, blocks

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "tutorial.md"
NOTEBOOK = PAGE.with_suffix(".ipynb")
_NAMES = {"display_name": "Python 3", "language": "python", "name": "python3"}


def notebook(page: Path) -> str:
    """A page as a notebook's text."""
    lines, cells, begin = page.read_text("utf-8").splitlines(), [], 0
    for block in blocks(page):
        code = _code(block)
        if code is not None:
            cells.append(new_markdown_cell("\n".join(lines[begin : block.line - 1]).strip()))
            cells.append(new_code_cell(code))
            begin = block.line + block.text.count("\n") + 1
    cells.append(new_markdown_cell("\n".join(lines[begin:]).strip()))
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    made = new_notebook(cells=cells, metadata={"kernelspec": _NAMES})
    nbformat.validate(made)
    return nbformat.writes(made) + "\n"


def _code(block: Block) -> str | None:
    """The contents of a notebook cell for a block; None for a block that is only shown."""
    text = block.text.removesuffix("\n")
    if block.file:
        return f"%%writefile {block.file}\n{text}"
    if block.kind == "sh":
        return re.sub(r"(?<!\\\n)^", "!", text, flags=re.M)  # a continued line is one command
    return text if block.kind == "python" else None


def main() -> None:
    """Write the notebook."""
    NOTEBOOK.write_text(notebook(PAGE), "utf-8")
    print(NOTEBOOK.relative_to(ROOT))


if __name__ == "__main__":
    main()
