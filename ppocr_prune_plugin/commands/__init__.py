"""The subcommands of ``ppocr-prune``, one module each, imported only when asked for.

A command module has ``add_arguments(parser) -> None`` and ``run(args) -> int`` (the exit code).
Its docstring's first line is its help text.
"""
