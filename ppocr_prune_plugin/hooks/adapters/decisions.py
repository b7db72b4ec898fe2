"""What PaddleOCR's own code decides by the name of an algorithm, read from its source.

``train`` in ``tools/program.py`` chooses what of a batch the model is given, ``main`` in
``tools/eval.py`` what the evaluation calls the model's type, and the exporter what size the
deployed image has. Copies of their lists of names would age with every release; the functions
themselves cannot be called without a training run. So they are parsed, never imported, and the
branches that a config takes are followed. Names, constants, lists, look-ups and comparisons are
all that is worked out on the way; a branch whose condition is not known is passed over.
"""

from __future__ import annotations

import ast
import copy
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import PruneError

Architecture = Mapping[str, Any]
Items = list[Any]
"""What a model is given: numbers of items of a batch, in lists where it is given lists."""

_ITEMS = 64  # more than any loader gives
_EXPORTERS = (
    ("ppocr/utils/export_model.py", "dynamic_to_static"),
    ("tools/export_model.py", "dynamic_to_static"),
    ("tools/export_model.py", "export_single_model"),  # up to 2.8
)
_PROGRAM, _EVAL = "tools/program.py", "tools/eval.py"


def training_items(tree: Path, architecture: Architecture) -> Items:
    """What of a batch ``train`` gives the model, as positional arguments.

    ``[0]``: the image. ``[0, [1, 2, …]]``: the image, and the list of all labels. ``[[0, 1, …]]``:
    the whole batch.

    Raises:
        PruneError: the tree's ``train`` does not say.
    """
    parts = (architecture.get("Models") or {}).values()
    return copy.deepcopy(
        _items(
            tree,
            architecture.get("model_type"),
            str(architecture.get("algorithm")),
            tuple(str(part.get("algorithm")) for part in parts),
        )
    )


@functools.lru_cache(maxsize=64)
def _items(tree: Path, kind: str | None, algorithm: str, parts: tuple[str, ...]) -> Items:
    """As :func:`training_items`; the names are all that the choice depends on."""
    models = {str(number): {"algorithm": name} for number, name in enumerate(parts)}
    architecture = {"model_type": kind, "algorithm": algorithm, "Models": models}
    follower = _Follower({"batch": list(range(_ITEMS)), "scaler": None, **_config(architecture)})
    for statement in follower.follow(_function(tree, _PROGRAM, "train").body):
        for call in _calls(statement, "model"):
            try:
                return [follower.value(a) for a in call.args] + [
                    follower.value(keyword.value) for keyword in call.keywords
                ]
            except Unknown:
                continue
    raise _unreadable(tree, _PROGRAM, "train", "model(…)")


def evaluation_type(tree: Path, architecture: Architecture) -> str | None:
    """The ``model_type`` that ``tools/eval.py`` evaluates a model as."""
    follower = _Follower(_config(architecture))
    for _ in follower.follow(_function(tree, _EVAL, "main").body):
        pass
    return follower.names.get("model_type", architecture.get("model_type"))


def exported_size(tree: Path, architecture: Architecture) -> list[int | None] | None:
    """``[channels, height, width]`` of the image that the exporter gives the model, None where it
    is left free; None altogether where the exporter does not say."""
    for file, function in _EXPORTERS:
        try:
            body = _function(tree, file, function).body
        except PruneError:
            continue
        follower = _Follower({"arch_config": copy.deepcopy(dict(architecture))})
        for statement in follower.follow(body):
            for specification in _keywords(statement, "input_spec"):
                try:
                    sizes = _first(follower.value(specification)).sizes[1:]
                except (Unknown, LookupError):
                    continue
                if len(sizes) == 3:  # anything else is no image
                    return [s if isinstance(s, int) and s > 0 else None for s in sizes]
    return None


@functools.lru_cache(maxsize=8)
def named_algorithms(tree: Path) -> frozenset[str]:
    """Names that the three files compare an algorithm with."""
    found: set[str] = set()
    for file in dict.fromkeys((_PROGRAM, _EVAL, *(file for file, _ in _EXPORTERS))):
        try:
            module = _parsed(tree, file)
        except PruneError:
            continue
        lists = {
            target.id: node.value
            for node in ast.walk(module)
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(module):
            if isinstance(node, ast.Compare) and "algorithm" in ast.unparse(node.left):
                for other in node.comparators:
                    named = lists.get(other.id, other) if isinstance(other, ast.Name) else other
                    found |= _strings(named)
    return frozenset(found)


class Unknown(Exception):
    """A value that cannot be worked out from the source alone."""


@dataclass(frozen=True)
class _Specification:
    """``paddle.static.InputSpec`` of one input."""

    sizes: Sequence[Any]


class _Follower:
    """Follows statements; ``names`` holds what is known of variables. Those that it begins with
    keep their values."""

    def __init__(self, names: Mapping[str, Any]) -> None:
        self.names = dict(names)
        self._given = frozenset(names)

    def follow(self, body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
        """The simple statements that are reached, each once its assignments are made. The body of
        a loop over something unknown is gone through once."""
        for statement in body:
            if isinstance(statement, ast.If):
                yield from self._branch(statement)
            elif isinstance(statement, ast.For):
                yield from self._loop(statement)
            elif isinstance(statement, ast.With | ast.While | ast.Try):
                yield from self.follow(statement.body)
            else:
                self._assign(statement)
                yield statement

    def _branch(self, statement: ast.If) -> Iterator[ast.stmt]:
        try:
            holds = self.value(statement.test)
        except Unknown:
            self._forget(statement)
            return
        yield from self.follow(statement.body if holds else statement.orelse)

    def _loop(self, statement: ast.For) -> Iterator[ast.stmt]:
        try:
            items = list(self.value(statement.iter))
        except (Unknown, TypeError):
            self._forget(statement.target)
            yield from self.follow(statement.body)
            return
        for item in items:
            self._set(statement.target, item)
            yield from self.follow(statement.body)

    def _assign(self, statement: ast.stmt) -> None:
        if isinstance(statement, ast.Assign):
            try:
                value = self.value(statement.value)
            except Unknown:
                for target in statement.targets:
                    self._forget(target)
                return
            for target in statement.targets:
                self._set(target, value)
        else:
            self._forget(statement)

    def _set(self, target: ast.expr, value: Any) -> None:
        if isinstance(target, ast.Name):
            if target.id not in self._given:
                self.names[target.id] = value
            return
        try:
            if isinstance(target, ast.Subscript):
                self.value(target.value)[self.value(target.slice)] = value
                return
        except (Unknown, LookupError, TypeError):
            pass
        self._forget(target)

    def _forget(self, node: ast.AST) -> None:
        """What is assigned in here, or changed by a method, is no longer known."""
        changed: set[str] = set()
        for inner in ast.walk(node):
            if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
                changed.add(inner.id)
            call = inner.value if isinstance(inner, ast.Expr) else None
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
                if isinstance(call.func.value, ast.Name):
                    changed.add(call.func.value.id)
        for name in changed - self._given:
            self.names.pop(name, None)

    def value(self, node: ast.expr) -> Any:
        """Work out an expression. Raises :class:`Unknown`."""
        match node:
            case ast.Constant():
                return node.value
            case ast.Name():
                if node.id in self.names:
                    return self.names[node.id]
            case ast.List() | ast.Tuple():
                return [self.value(item) for item in node.elts]
            case ast.Subscript():
                return self._item(node)
            case ast.Slice():
                parts = (node.lower, node.upper, node.step)
                return slice(*(None if part is None else self.value(part) for part in parts))
            case ast.Compare(ops=[operation], comparators=[right]):
                return self._compared(node.left, operation, right)
            case ast.BoolOp():
                return self._any_or_all(node)
            case ast.UnaryOp(op=ast.Not()):
                return not self.value(node.operand)
            case ast.UnaryOp(op=ast.USub()):
                return -self.value(node.operand)
            case ast.BinOp(op=ast.Add()):
                return self._sum(node)
            case ast.IfExp():
                return self.value(node.body if self.value(node.test) else node.orelse)
            case ast.Call():
                return self._called(node)
        raise Unknown

    def _item(self, node: ast.Subscript) -> Any:
        try:
            return self.value(node.value)[self.value(node.slice)]
        except (LookupError, TypeError) as error:
            raise Unknown from error

    def _compared(self, first: ast.expr, operation: ast.cmpop, second: ast.expr) -> bool:
        left, right = self.value(first), self.value(second)
        match operation:
            case ast.Eq() | ast.Is():
                return bool(left == right)
            case ast.NotEq() | ast.IsNot():
                return bool(left != right)
        try:
            match operation:
                case ast.In():
                    return left in right
                case ast.NotIn():
                    return left not in right
        except TypeError:
            pass
        raise Unknown

    def _any_or_all(self, node: ast.BoolOp) -> bool:
        """A single known value may decide, whatever the others are."""
        decides, unknown = isinstance(node.op, ast.Or), False
        for item in node.values:
            try:
                if bool(self.value(item)) == decides:
                    return decides
            except Unknown:
                unknown = True
        if unknown:
            raise Unknown
        return not decides

    def _sum(self, node: ast.BinOp) -> Any:
        try:
            return self.value(node.left) + self.value(node.right)
        except TypeError as error:
            raise Unknown from error

    def _called(self, node: ast.Call) -> Any:
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        if name == "InputSpec":
            for stated in [k.value for k in node.keywords if k.arg == "shape"] or node.args[:1]:
                return _Specification(self._sizes(stated))
        if isinstance(function, ast.Attribute):
            owner, arguments = self.value(function.value), [self.value(a) for a in node.args]
            if name in ("get", "keys") and isinstance(owner, dict):
                return getattr(owner, name)(*arguments)
            if name in ("lower", "upper") and isinstance(owner, str) and not arguments:
                return getattr(owner, name)()
        raise Unknown

    def _sizes(self, node: ast.expr) -> Items:
        """A shape, in which an unknown number is free."""
        if not isinstance(node, ast.List | ast.Tuple):
            return list(self.value(node))
        found = []
        for item in node.elts:
            try:
                found.append(self.value(item))
            except Unknown:
                found.append(None)
        return found


def _config(architecture: Architecture) -> dict[str, Any]:
    own = copy.deepcopy(dict(architecture))
    own.setdefault("model_type", None)
    own.setdefault("algorithm", None)
    return {"config": {"Architecture": own}}


@functools.lru_cache(maxsize=32)
def _parsed(tree: Path, file: str) -> ast.Module:
    try:
        return ast.parse((tree / file).read_bytes())
    except (OSError, SyntaxError, ValueError) as error:
        raise PruneError(f"{tree / file}: cannot be read ({error}).") from error


@functools.lru_cache(maxsize=32)
def _function(tree: Path, file: str, name: str) -> ast.FunctionDef:
    for node in _parsed(tree, file).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return node
    raise _unreadable(tree, file, name, f"def {name}")


def _unreadable(tree: Path, file: str, function: str, looked_for: str) -> PruneError:
    return PruneError(
        f"{tree / file}: looked for {looked_for} to see what {function} does with this model, and"
        " found none. Use an unmodified PaddleOCR from release/2.6 to the current main branch."
    )


def _calls(statement: ast.stmt, name: str) -> Iterator[ast.Call]:
    for node in ast.walk(statement):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name:
            yield node


def _keywords(statement: ast.stmt, name: str) -> Iterator[ast.expr]:
    for node in ast.walk(statement):
        if isinstance(node, ast.Call):
            yield from (keyword.value for keyword in node.keywords if keyword.arg == name)


def _first(specifications: Any) -> _Specification:
    while isinstance(specifications, list):
        specifications = specifications[0]
    if not isinstance(specifications, _Specification):
        raise Unknown
    return specifications


def _strings(node: ast.expr) -> set[str]:
    """The string, or the strings of a list, that an expression states."""
    items = node.elts if isinstance(node, ast.List | ast.Tuple | ast.Set) else [node]
    return {
        item.value
        for item in items
        if isinstance(item, ast.Constant) and isinstance(item.value, str)
    }
