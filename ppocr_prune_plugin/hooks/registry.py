"""Which function patches which module of PaddleOCR. Standard library only, and names only."""

from __future__ import annotations

# module of PaddleOCR → patch functions, "module:function", called in order with that module
# right after it was executed.
HOOKS: dict[str, tuple[str, ...]] = {
    "tools.program": (
        "ppocr_prune_plugin.hooks.patches.config:patch",
        "ppocr_prune_plugin.hooks.patches.training:patch",
    ),
    "ppocr.utils.save_load": ("ppocr_prune_plugin.hooks.patches.weights:patch",),
    "ppocr.utils.export_model": ("ppocr_prune_plugin.hooks.patches.export:patch",),
}
