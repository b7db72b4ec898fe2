"""Decides at interpreter start whether this process is one of PaddleOCR's tools.

Called by the start-up files in site-packages, in every Python process of the environment. So:
standard library only (nothing beyond what the interpreter has loaded by then), no output, no
exception, and nothing done twice. ``PPOCR_PRUNE=0`` switches it off.
"""

import os
import sys

_TOOLS = ("train.py", "eval.py", "export_model.py")


def activate(force: bool = False) -> bool:
    """Hook PaddleOCR's imports if this process is one of its tools; True where they are hooked.

    With ``force`` the caller vouches for it (``ppocr-prune run``), and an error is not swallowed.
    """
    if not force and not (is_tool_name(_script()) and is_tool(_script()) and not switched_off()):
        return False
    try:
        from .hooks.finder import install

        install()
    except Exception:
        if force:
            raise
        return False  # a half-removed package must not break the user's program
    return True


def switched_off() -> bool:
    """Whether the environment says ``PPOCR_PRUNE=0``."""
    return os.environ.get("PPOCR_PRUNE", "").strip() == "0"


def is_tool_name(script: str) -> bool:
    """Whether a script is named like one of the tools that load a model; looks at no file."""
    name = script.replace("\\", "/").rpartition("/")[2]
    return name in _TOOLS or (name.startswith("infer_") and name.endswith(".py"))


def is_tool(script: str) -> bool:
    """Whether a script lies in the ``tools`` folder of a PaddleOCR tree."""
    try:
        candidates = {os.path.abspath(script), os.path.realpath(script)}
    except OSError:  # the working directory is gone
        return False
    return any(_in_tools_folder(path) for path in candidates)


def _in_tools_folder(path: str) -> bool:
    folder, _ = os.path.split(path)
    tree, name = os.path.split(folder)
    return (
        name == "tools"
        and os.path.isfile(os.path.join(folder, "program.py"))
        and os.path.isdir(os.path.join(tree, "ppocr"))
    )


def _script() -> str:
    """The script that Python is about to run, also as ``python -m tools.train``."""
    argv = getattr(sys, "argv", None) or [""]
    if argv[0] != "-m":
        return argv[0]
    # The module is not looked up yet; `-m` may stand in a cluster of flags, such as `-um`.
    words = getattr(sys, "orig_argv", [])
    for flag, module in zip(words, words[1:], strict=False):
        if flag[:1] == "-" and flag[-1:] == "m":
            return module.replace(".", "/") + ".py"
    return ""
