"""``python -m demo``: prune a real detector, from weights to a before/after table."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

from demo.architectures import architecture
from demo.published import NAMES, SOURCES
from ppocr_prune_plugin.errors import PruneError, exiting_on_error

# Import name and how to install it, for what the demo needs beyond the plugin's own requirements.
_NEEDED = {
    "paddle": "paddlepaddle==3.2.2",
    "cv2": "opencv-python-headless==4.10.0.84",
    "PIL": "Pillow",
}


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("demo_output"),
        metavar="DIR",
        help="where everything goes; what is there already is reused (default: %(default)s)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="images of your own instead of rendered ones: DIR/train.txt and DIR/val.txt are "
        "PaddleOCR's labels for detection, with names relative to DIR",
    )
    parser.add_argument("--samples", type=int, help="images that sensitivity is measured on")
    parser.add_argument("--side", type=int, help="long side of evaluation images, pixels")
    parser.add_argument("--epochs", type=int, help="of fine-tuning")
    parser.add_argument(
        "--fetch-weights",
        nargs="?",
        const="ppocrv4_mobile_det",
        choices=NAMES,
        metavar="NAME",
        help="only recover a model's weights, to DIR/weights/NAME.pdparams; one of "
        f"{', '.join(NAMES)} (default: %(const)s)",
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Run the demo and print its table.

    Raises:
        PruneError: a package that the demo needs is missing, or a step fails.
    """
    needed = dict(_NEEDED)
    if not args.fetch_weights:
        source = SOURCES["v4", "det"]
        needed[source.module] = source.installing
        needed["matplotlib"] = "matplotlib"  # its fonts, for images and their boxes
    missing = [how for name, how in needed.items() if importlib.util.find_spec(name) is None]
    if missing:
        installs = "; ".join(f"pip install {how}" for how in missing)
        raise PruneError(f"the demo needs packages that are not installed: {installs}")
    from demo.run import Settings, fetch_weights, run_demo

    if args.fetch_weights:
        print(f"weights: {fetch_weights(args.work, args.fetch_weights, args.data)}")
        release, kind = NAMES[args.fetch_weights]
        branches = architecture(kind, release=release)["Backbone"].get("conv_kxk_num")
        if branches is not None:
            print(f"their network: -o Architecture.Backbone.conv_kxk_num={branches}")
    else:
        given = {key: getattr(args, key) for key in ("samples", "side", "epochs")}
        settings = Settings(**{key: value for key, value in given.items() if value is not None})
        print(run_demo(args.work, settings, args.data))


if __name__ == "__main__":
    with exiting_on_error():
        run(arguments().parse_args())
