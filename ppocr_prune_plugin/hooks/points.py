"""What this package needs of a PaddleOCR tree: one table, and how to check a tree against it.

A tree is checked twice: in its source, before anything of it is imported (``ppocr-prune doctor``,
and every run that prunes or loads pruned weights), and each module again when it was imported, by
the signatures that its functions really have. Standard library only, and little of it: the start-up
file imports this module in every tool.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ast

    from ..errors import PruneError

FIRST = "2.6"  # the first release that is supported
_PATCHES = "ppocr_prune_plugin.hooks.patches."
CONFIG, TRAINING = f"{_PATCHES}config:patch", f"{_PATCHES}training:patch"
WEIGHTS, EXPORT = f"{_PATCHES}weights:patch", f"{_PATCHES}export:patch"


class Point:
    """One function of PaddleOCR that is called or wrapped.

    Args:
        module: the module that has it.
        name: its name there; ``Class.method`` for a method.
        reads: its parameters that are read or given, by name; all must be there.
        also: parameters that are read where a release has them, with the first that has.
        patch: the function of this package, ``module:function``, that wraps functions of the module
            when it was imported, and is not applied where this one does not fit; empty where none
            depends on it.
        since: the first release that has it there.
        older: the module that had it before.
        loading: needed to load pruned weights, too, not only to prune.
        optional: a tree may lack it.
    """

    def __init__(
        self,
        module: str,
        name: str,
        reads: str = "",
        also: Mapping[str, str] | None = None,
        patch: str = "",
        since: str = FIRST,
        older: str = "",
        loading: bool = False,
        optional: bool = False,
    ) -> None:
        self.module, self.name, self.patch, self.since = module, name, patch, since
        self.reads, self.also = tuple(reads.split()), dict(also or {})
        self.older, self.loading, self.optional = older, loading, optional

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


# Mixed precision, as training and evaluation take it.
_PRECISION = {
    **dict.fromkeys(("scaler", "amp_level", "amp_custom_black_list"), FIRST),
    **dict.fromkeys(("amp_custom_white_list", "amp_dtype"), "2.7"),
}

TABLE = (
    Point("tools.program", "load_config", "file_path", patch=CONFIG, loading=True),
    Point("tools.program", "merge_config", "config opts", patch=CONFIG, loading=True),
    Point("tools.program", "ArgsParser.parse_args", "argv", patch=CONFIG, loading=True),
    Point(
        "tools.program",
        "train",
        "config train_dataloader valid_dataloader device model loss_class optimizer"
        " post_process_class"
        " eval_class pre_best_model_dict logger",
        {**_PRECISION, "step_pre_epoch": "2.8", "ema": "3.7"},
        patch=TRAINING,
    ),
    Point(
        "tools.program",
        "eval",
        "model valid_dataloader post_process_class eval_class model_type extra_input",
        _PRECISION,
        patch=TRAINING,
    ),
    Point("tools.program", "tqdm", optional=True),
    Point(
        "ppocr.utils.save_load",
        "load_model",
        "config model",
        {"optimizer": FIRST, "model_type": FIRST, "ema": "3.7"},
        patch=WEIGHTS,
        loading=True,
    ),
    Point(
        "ppocr.utils.save_load",
        "load_pretrained_params",
        "model path",
        patch=WEIGHTS,
        loading=True,
    ),
    Point(
        "ppocr.utils.save_load",
        "save_model",
        "model model_path prefix",
        {"ema": "3.7"},
        patch=WEIGHTS,
        loading=True,
    ),
    Point("ppocr.utils.save_load", "get_logger", patch=WEIGHTS, loading=True),
    Point("ppocr.utils.save_load", "maybe_download_params", since="2.7", optional=True),
    Point("ppocr.modeling.architectures", "build_model", "config", loading=True),
    Point("ppocr.modeling.architectures", "apply_to_static", "model config logger", optional=True),
    Point("ppocr.postprocess", "build_post_process", "config global_config"),
    Point("ppocr.data", "build_dataloader", "config mode device logger"),
    Point("ppocr.data.imaug", "create_operators", "op_param_list global_config"),
    Point(
        "ppocr.utils.export_model",
        "export_single_model",
        "model arch_config save_path logger",
        {"config": "2.9"},
        patch=EXPORT,
        since="2.9",
        older="tools.export_model",
        loading=True,
    ),
)


class Check:
    """What a tree has of a point: ``module`` and ``file`` are where it is or should be,
    ``parameters`` are None where they cannot be known, ``lacking`` those that should be there."""

    def __init__(
        self,
        point: Point,
        module: str,
        file: Path,
        found: bool,
        parameters: Sequence[str] | None = None,
    ) -> None:
        self.point, self.module, self.file = point, module, file
        self.found, self.parameters = found, parameters
        self.lacking = [
            name for name in point.reads if parameters is not None and name not in parameters
        ]

    @property
    def fits(self) -> bool:
        """Whether all is there that is needed."""
        return not self.lacking if self.found else self.point.optional

    @property
    def lacks(self) -> str:
        """What is missing, in words."""
        name = f"{self.module}.{self.point.name}"
        if not self.found:
            return name
        several = "s" if len(self.lacking) > 1 else ""
        return f"the parameter{several} {', '.join(self.lacking)} of {name}"


def check_tree(tree: Path, table: Iterable[Point] = TABLE) -> list[Check]:
    """Look up every point in the source of a tree, in the order of the table."""
    return [_in_source(tree, point) for point in table]


def require_fitting(tree: Path, table: Iterable[Point] = TABLE) -> None:
    """Raise :class:`PruneError` that names what a tree lacks of these points."""
    missing = [check.lacks for check in check_tree(tree, table) if not check.fits]
    if missing:
        raise misfit(tree, missing)


def misfit(tree: Path, missing: Iterable[str]) -> PruneError:
    """The error about a tree that lacks something."""
    from ..errors import PruneError

    return PruneError(
        f"the PaddleOCR tree at {tree} lacks what pruning hooks into: {'; '.join(missing)}. "
        f"Supported are release/{FIRST} to the current main branch, unmodified; update the tree, "
        "or run it without a Prune section and without pruned weights."
    )


def check_module(module: ModuleType, points: Iterable[Point]) -> list[Check]:
    """Compare points with a module that was imported."""
    file = Path(module.__file__ or ".")
    return [
        Check(point, module.__name__, file, *_signature(module, point.name)) for point in points
    ]


def pruned_weights(values: Any) -> str | None:
    """The first pruned checkpoint that is named anywhere in a config or in arguments: text beside
    whose file lies a plan, or that carries a dictionary; None where there is none."""
    if isinstance(values, str):
        from ..cut_dictionary import carried_by
        from ..plan import plan_path

        if not 0 < len(values) < 4096 or "\0" in values:
            return None
        weights = Path(values.removesuffix(".pdparams") + ".pdparams")
        pruned = os.path.isfile(plan_path(values)) or carried_by(weights) is not None
        return values if pruned else None
    if isinstance(values, Mapping):
        values = values.values()
    elif not isinstance(values, list | tuple):
        return None
    return next((found for item in values if (found := pruned_weights(item))), None)


def _in_source(tree: Path, point: Point) -> Check:
    checks = []
    for module in filter(None, (point.module, point.older)):
        file = _file(tree, module)
        checks.append(Check(point, module, file, *_defined(file, point.name)))
    there = [check for check in checks if check.found]
    return (there or [check for check in checks if check.file.is_file()] or checks)[0]


def _file(tree: Path, module: str) -> Path:
    path = tree.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _defined(file: Path, name: str) -> tuple[bool, list[str] | None]:
    """Whether a file binds a name, and the parameters behind it where that can be read off."""
    try:
        state = file.stat()
        bound = _bound(file, state.st_mtime_ns, state.st_size)
    except (OSError, SyntaxError, ValueError):
        return False, None
    return name.partition(".")[0] in bound, bound.get(name)


@functools.cache
def _bound(file: Path, changed: int, size: int) -> dict[str, list[str] | None]:
    """Names that a file binds, methods as ``Class.method``, with the parameters of functions. Not
    to be changed: it is kept for as long as the file stays the same."""
    import ast

    found: dict[str, list[str] | None] = {}
    for name, node in dict(_names(ast.parse(file.read_bytes()).body)).items():  # the last counts
        found[name] = _parameters(node)
        if isinstance(node, ast.ClassDef):
            inside = dict(_names(node.body))
            found |= {f"{name}.{own}": _parameters(item) for own, item in inside.items()}
    return found


def _parameters(node: ast.stmt) -> list[str] | None:
    import ast

    if not isinstance(node, ast.FunctionDef):
        return None
    given = node.args
    return [arg.arg for arg in (*given.posonlyargs, *given.args, *given.kwonlyargs)]


def _names(body: Sequence[ast.stmt]) -> Iterator[tuple[str, ast.stmt]]:
    """Names bound by statements, inside ``if``, ``try`` and ``with`` too."""
    import ast

    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((alias.asname or alias.name, node) for alias in node.names)
        elif isinstance(node, ast.Assign):
            yield from ((item.id, node) for item in node.targets if isinstance(item, ast.Name))
        else:
            for part in ("body", "orelse", "finalbody"):
                yield from _names(getattr(node, part, []))
            for handler in getattr(node, "handlers", []):
                yield from _names(handler.body)


def _signature(module: ModuleType, name: str) -> tuple[bool, list[str] | None]:
    """Whether a module has a name, and the parameters behind it where it tells them."""
    import inspect

    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is None:
        return False, None
    try:
        return True, list(inspect.signature(found).parameters)
    except (TypeError, ValueError):  # not a function, or one that tells nothing
        return True, None
