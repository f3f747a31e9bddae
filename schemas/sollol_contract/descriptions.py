"""Reads what the source says about fields and members: msgspec's schemas leave these texts out."""

from __future__ import annotations

import ast
import inspect
import io
import tokenize
import types
from itertools import pairwise

_WIDTH_OF_COMMENT_MARK = 2


def field_docs(module: types.ModuleType) -> dict[str, dict[str, str]]:
    """The string that follows each field, by class and field."""
    tree = ast.parse(inspect.getsource(module))
    found: dict[str, dict[str, str]] = {}
    for node in tree.body:
        if not isinstance(node, ast.ClassDef):
            continue
        for field, text in zip(node.body, node.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and _is_text(text):
                found.setdefault(node.name, {})[field.target.id] = _text(text)
    return found


def constant_docs(module: types.ModuleType) -> dict[str, str]:
    """The string that follows each constant of a module, by its name."""
    body = ast.parse(inspect.getsource(module)).body
    return {
        constant.target.id: _text(text)
        for constant, text in pairwise(body)
        if isinstance(constant, ast.AnnAssign) and isinstance(constant.target, ast.Name) and _is_text(text)
    }


def member_docs(module: types.ModuleType) -> dict[str, dict[str, str]]:
    """The comment beside each member of an enum, by class and member name."""
    source = inspect.getsource(module)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {t.start[0]: t.string[_WIDTH_OF_COMMENT_MARK:] for t in tokens if t.type == tokenize.COMMENT}
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(source).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for member in node.body:
            if isinstance(member, ast.Assign) and isinstance(member.targets[0], ast.Name):
                lines = range(member.lineno, (member.end_lineno or member.lineno) + 1)
                said = " ".join(comments[n] for n in lines if n in comments)
                if said:
                    found.setdefault(node.name, {})[member.targets[0].id] = said
    return found


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _text(node: ast.stmt) -> str:
    assert isinstance(node, ast.Expr)
    assert isinstance(node.value, ast.Constant)
    return " ".join(str(node.value.value).split())
