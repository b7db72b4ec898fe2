"""Decides at interpreter start whether this process is a program in a PaddleOCR tree.

Called by the start-up files in site-packages, in every Python process of the environment. So:
standard library only (nothing beyond what the interpreter has loaded by then), no output, no
exception, and nothing done twice. ``PPOCR_PRUNE=0`` switches it off.

Any script may load a pruned checkpoint: PaddleOCR's tools, those under ``deploy/``, a user's own.
What matters is where it lies. The line in the ``.pth`` file asks the same question more coarsely,
so that other programs import nothing: is there a ``tools/program.py`` in a folder above the script?
"""

import os
import sys


def activate(force: bool = False) -> bool:
    """Hook PaddleOCR's imports if this program lies in a PaddleOCR tree; True where they are.

    With ``force`` the caller vouches for it (``ppocr-prune run``), and an error is not swallowed.
    """
    if not force and tree_of(_script()) is None:
        return False
    try:
        if switched_off():
            from .hooks.request import warn_if_switched_off

            warn_if_switched_off(sys.argv)
            return False
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


def tree_of(script: str) -> "str | None":
    """The PaddleOCR tree that a script lies in, at any depth; None where it lies in none.

    Programs of an environment that lies in a tree (``.venv/bin/pip``) are none of the tree's.
    """
    if not script:
        return None
    try:
        places = {os.path.abspath(script), os.path.realpath(script)}
        environment = os.path.realpath(sys.prefix)
    except OSError:  # the working directory is gone
        return None
    for place in places:
        folder = os.path.dirname(place)
        while folder != environment:
            if os.path.isfile(os.path.join(folder, "tools", "program.py")) and os.path.isdir(
                os.path.join(folder, "ppocr")
            ):
                return folder
            above = os.path.dirname(folder)
            if above == folder:
                break
            folder = above
    return None


def _script() -> str:
    """The script that Python is about to run, also as ``python -m tools.train``; empty if none."""
    argv = getattr(sys, "argv", None) or [""]
    if argv[0] == "-c":
        return ""
    if argv[0] != "-m":
        return argv[0]
    # The module is not looked up yet; `-m` may stand in a cluster of flags, such as `-um`.
    words = getattr(sys, "orig_argv", [])
    for flag, module in zip(words, words[1:], strict=False):
        if flag[:1] == "-" and flag[-1:] == "m":
            return _module_file(module.replace(".", os.sep))
    return ""


def _module_file(module: str) -> str:
    for folder in ("", *sys.path):
        for name in (module + ".py", os.path.join(module, "__main__.py")):
            if os.path.isfile(os.path.join(folder, name)):
                return os.path.join(folder, name)
    return ""
