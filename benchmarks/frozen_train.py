"""PaddleOCR's ``tools/train.py`` as it is, but that batch norms keep their statistics.

The control of :mod:`accuracy`: what is pruned is trained so, and the unpruned model has to be as
well, where that is the better way for it.

    ppocr-prune run benchmarks/frozen_train.py -c CONFIG
"""

from __future__ import annotations

import runpy
import sys
from typing import Any

from ppocr_prune_plugin.hooks.adapters.tree import find_tree, use_tree
from ppocr_prune_plugin.recovery.batch_norm import freeze


def main() -> None:
    """Train; the arguments are those of ``tools/train.py``."""
    tree = find_tree()
    use_tree(tree)
    import tools.program as program

    train = program.train

    def frozen(*args: Any, **options: Any) -> Any:
        model = next(value for value in (*args, *options.values()) if hasattr(value, "sublayers"))
        print(f"{len(freeze(model))} batch norms keep their statistics", flush=True)
        return train(*args, **options)

    program.train = frozen
    sys.argv[0] = str(tree / "tools" / "train.py")
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
