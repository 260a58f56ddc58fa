"""Copies of the server from which one part was taken out, to see what the part costs.

A setting that turns a part off still leaves the look whether it is off. So the statements themselves are taken out of a
copy of the source, by their shape; the copy is then run like the server itself.
"""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import cellserve_server

# What a statement looks like, written by ast.unparse, that belongs to a part alone.
METRICS = (
    r"(self\.)?_?(call\.)?_?metrics\.[a-z_.]+\(.*\)",
    r"(self\.)?_?(call\.)?_?metrics\.[a-z_.]+ \+= .*",
    r"(received|sent)\.count \+= 1",
    r"times\.note_[a-z]+\(\)",
)
TRACING = (r"if (self\._)?tracing is not None:.*",)


class NothingFoundError(RuntimeError):
    """No statement looks like that: the source has changed, and what is looked for has to as well."""


def server_without(shapes: Sequence[str], folder: Path) -> int:
    """Puts a copy of the server's package into a folder, without the statements of these shapes.

    Args:
        shapes: regular expressions, each for a whole statement as ``ast.unparse`` writes it.
        folder: to stand first in the copy's ``PYTHONPATH``.

    Returns:
        How many statements were taken out.

    Raises:
        NothingFoundError: one of the shapes fits nothing.
    """
    source = Path(cellserve_server.__file__).parent
    target = folder / source.name
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    remover = _Remover(shapes)
    for path in sorted(target.rglob("*.py")):
        tree = remover.visit(ast.parse(path.read_text(encoding="utf-8")))
        path.write_text(ast.unparse(ast.fix_missing_locations(tree)), encoding="utf-8")
    unused = [shape for shape, count in remover.found.items() if not count]
    if unused:
        raise NothingFoundError(f"no statement of the server looks like {', '.join(unused)}")
    return sum(remover.found.values())


class _Remover(ast.NodeTransformer):
    """Puts ``pass`` in the place of statements of some shapes."""

    def __init__(self, shapes: Sequence[str]) -> None:
        self.found = dict.fromkeys(shapes, 0)
        self._shapes = [(shape, re.compile(shape, re.DOTALL)) for shape in shapes]

    def visit(self, node: ast.AST) -> ast.AST:
        if isinstance(node, (ast.Expr, ast.AugAssign, ast.If, ast.For)):
            text = ast.unparse(node)
            for shape, pattern in self._shapes:
                if pattern.fullmatch(text) and not (isinstance(node, ast.If) and node.orelse):
                    self.found[shape] += 1
                    return ast.Pass()
        visited: ast.AST = self.generic_visit(node)
        return visited
