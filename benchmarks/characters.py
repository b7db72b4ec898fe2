"""What fewer characters are worth: size, time and accuracy of published recognisers for receipts.

PP-OCRv4's and PP-OCRv5's mobile recognisers with their published weights, whole, with the
characters of ASCII, with those of the labels, and with ASCII after 30% of the FLOPs were removed as
well; nothing is trained. All by the tools and commands that users have. Every step is remembered:
the command goes on where it was; `--untimed` stops before times are taken, for a machine that is
not idle.

    python benchmarks/characters.py --data DATA --work characters --page docs/characters*.md

DATA has rec/ with images and PaddleOCR's labels in train.txt and val.txt. The tables of the pages,
each between two marks, are replaced.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml
from deployed_models import MODELS, Model, write_model

from demo.configs import write_config
from demo.run import fetch_weights
from demo.steps import Steps
from demo.weights import network_input
from ppocr_prune_plugin.alphabet import places_of, read_dictionary
from ppocr_prune_plugin.errors import PruneError, exiting_on_error
from ppocr_prune_plugin.files import write_atomically
from ppocr_prune_plugin.hooks.adapters.tree import find_tree

Array = npt.NDArray[np.float32]

DICTIONARIES = {
    "v4": ("PP-OCRv4 mobile", "ppocrv4_mobile_rec", "ppocr/utils/ppocr_keys_v1.txt"),
    "v5": ("PP-OCRv5 mobile", "ppocrv5_mobile_rec", "ppocr/utils/dict/ppocrv5_dict.txt"),
}
_CHOSEN, _TESTED = 48, 552  # images that widths are chosen on, and that accuracies are of
_ASCII = [chr(code) for code in range(33, 127)]
_FLOPS = 0.3
CUTS: dict[str, tuple[str, list[str]]] = {
    "ascii": ("ASCII", ["Prune.characters={ascii}"]),
    "labels": ("of the labels", ["Prune.characters=auto"]),
    "both": (
        f"ASCII, and `pruned_flops: {_FLOPS}`",
        [
            "Prune.characters={ascii}",
            f"Prune.pruned_flops={_FLOPS}",
            "Prune.sensitivity.by=output",
        ],
    ),
}
_COMMAND = "import sys; from ppocr_prune_plugin.cli import main; sys.exit(main())"
_BEGIN, _END = "<!-- benchmarks/characters.py -->", "<!-- end -->"


class Run:
    """The steps of one recogniser."""

    def __init__(self, release: str, data: Path, root: Path) -> None:
        self.title, weights, self.dictionary = DICTIONARIES[release]
        plain = next(model for model in MODELS if model.kind == "rec")
        self.model = Model(
            "rec", self.title, plain.config, weights, "acc", plain.shape, _CHOSEN, _TESTED, {}
        )
        self.data, self.root = data.resolve(), root.resolve()
        self.work, self.tree = self.root / release, find_tree()
        self.work.mkdir(parents=True, exist_ok=True)
        inputs = {"tree": str(self.tree), "data": str(self.data)}
        self.steps = Steps(self.work, inputs, 3 + 2 * len(CUTS))

    def run(self, timing: bool) -> dict[str, Any] | None:
        """What was found of every model, by name; None before times are taken."""
        say = f"{self.title}: "
        self.steps.run("config", f"{say}weights and config", {}, [], self._prepare)
        found = {"whole": self.steps.run("whole", f"{say}whole", {}, [], self._whole)}
        for cut, (_, options) in CUTS.items():
            self.steps.run(
                cut, f"{say}{cut}", {"options": options}, [], partial(self._cut, cut, options)
            )
            found[cut] = self.steps.run(
                f"{cut}_export", f"{say}export and compare it", {}, [], partial(self._found, cut)
            )
        if not timing:
            return None
        times = self.steps.run("times", f"{say}time", {}, [], partial(self._times, list(found)))
        return {name: {**found[name], **times[name]} for name in found}

    def _prepare(self) -> None:
        weights = fetch_weights(self.root, self.model.weights)
        shutil.copyfile(weights, self.work / "weights.pdparams")
        path = write_model(self.model, self.data, self.tree, self.work)
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        config["Global"]["character_dict_path"] = str(self.tree / self.dictionary)
        write_config(config, path)
        known = set(read_dictionary(self.tree / self.dictionary, "--tree"))
        ascii_ = "".join(f"{c}\n" for c in _ASCII if c in known)
        write_atomically(self.work / "ascii.txt", ascii_)

    def _whole(self) -> dict[str, Any]:
        return self._exported("whole", self.work / "weights", "--fold")

    def _cut(self, cut: str, options: list[str]) -> None:
        self._tool(
            cut, "train",
            *(option.format(ascii=self.work / "ascii.txt") for option in options),
            "Prune.dry_run=true", f"Global.save_model_dir={self.work / cut}",
        )  # fmt: skip

    def _found(self, cut: str) -> dict[str, Any]:
        folder = self.work / cut / "prune"
        found = self._exported(f"{cut}_out", folder / "untrained")
        plan = json.loads((folder / "plan.prune.json").read_text("utf-8"))
        costs = {key: plan[key]["after"] for key in ("flops", "params")}
        before = {f"{key}_before": plan[key]["before"] for key in ("flops", "params")}
        if not plan["groups"]:
            found |= self._compared(cut, folder / "dict.txt")
        return {**found, **costs, **before}

    def _exported(self, name: str, weights: Path, *words: str) -> dict[str, Any]:
        folder, target = self.work / name, self.work / f"{name}.onnx"
        shutil.rmtree(folder, ignore_errors=True)
        target.unlink(missing_ok=True)
        self._tool(
            f"export_{name}", "export_model", f"Global.pretrained_model={weights}",
            f"Global.save_inference_dir={folder}", "Prune.enable=false", before=words,
        )  # fmt: skip
        self.steps.command(f"onnx_{name}", ["-c", _COMMAND, "onnx", folder, "-o", target])
        said = self._tool(
            f"eval_{name}", "eval", f"Global.pretrained_model={weights}", "Prune.enable=false",
            f"Eval.dataset.label_file_list=[{self.work / 'tested.txt'}]",
        )  # fmt: skip
        accuracy = float(re.findall(r"ppocr INFO: acc:([\d.e-]+)", said)[-1])
        size = sum(file.stat().st_size for file in folder.iterdir() if file.stem == "inference")
        return {"acc": accuracy, "size": size, "onnx": target.stat().st_size}

    def _compared(self, cut: str, dictionary: Path) -> dict[str, Any]:
        """The probabilities of the characters that are left, renormalised in the whole model, on
        every image whose text is made of them: how far they are apart at most, and how many of the
        images each model reads right."""
        import onnxruntime

        whole = read_dictionary(self.tree / self.dictionary, "--tree")
        kept = read_dictionary(dictionary, "dict.txt")
        classes = np.array([0, *(1 + place for place in places_of(whole, kept)), 1 + len(whole)])
        sessions = [
            onnxruntime.InferenceSession(
                str(self.work / f"{name}.onnx"), providers=["CPUExecutionProvider"]
            )
            for name in ("whole", f"{cut}_out")
        ]
        apart, images, right = 0.0, 0, [0, 0]
        for part in ("chosen", "tested"):
            for row in (self.work / f"{part}.txt").read_text("utf-8").splitlines():
                path, _, text = row.partition("\t")
                if not set(text) <= {*kept, " "}:
                    continue
                x = network_input("rec", Path(path))
                first, second = (session.run(None, {_input(session): x})[0] for session in sessions)
                left = first[..., classes]
                left = left / left.sum(axis=-1, keepdims=True)
                apart = max(apart, float(np.abs(left - second).max()))
                read = _read(first, [*whole, " "]), _read(second, [*kept, " "])
                right = [n + (answer == text) for n, answer in zip(right, read, strict=True)]
                images += 1
        return {"apart": apart, "images": images, "right": right}

    def _times(self, names: list[str]) -> dict[str, Any]:
        models = [f"{name if name == 'whole' else f'{name}_out'}.onnx" for name in names]
        shape = "x".join(map(str, self.model.shape))
        words = ["bench", *models, "--engine", "onnxruntime", "--shape", shape, "--json"]
        said = self.steps.command("bench", ["-c", _COMMAND, *words])
        rows = json.loads(said[said.index("[\n") : said.rindex("]") + 1])
        return {
            name: {"ms": row["median"], "ratio": row["ratio"], "engine": row["engine"]}
            for name, row in zip(names, rows, strict=True)
        }

    def _tool(self, name: str, tool: str, *options: str, before: tuple[str, ...] = ()) -> str:
        script = self.tree / "tools" / f"{tool}.py"
        words = [script, "-c", self.work / "config.yml", *before, "-o", *options]
        return self.steps.command(name, words)


def _input(session: Any) -> str:
    return str(session.get_inputs()[0].name)


def _read(probabilities: Array, characters: list[str]) -> str:
    """What CTC makes of ``[1, time, classes]``."""
    answer = probabilities[0].argmax(axis=-1)
    changes = np.flatnonzero(np.diff(answer, prepend=-1))
    return "".join(characters[place - 1] for place in answer[changes] if place > 0)


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The page's table, in Markdown."""
    lines = []
    for release, found in results.items():
        engine = found["whole"]["engine"]
        before = found["ascii"]
        lines += [
            f"\n### {DICTIONARIES[release][0]} recogniser\n",
            f"| characters | parameters | FLOPs (MACs) | file, MB | {engine}, ms | acc |",
            "| --- | ---: | ---: | ---: | ---: | ---: |",
        ]
        for name, row in found.items():
            params = row.get("params", before["params_before"])
            flops = row.get("flops", before["flops_before"])
            share = row["size"] / found["whole"]["size"]
            lines.append(
                f"| {'all' if name == 'whole' else CUTS[name][0]} | {params / 1e6:.2f} M "
                f"| {flops / 1e6:.0f} M | {row['size'] / 1e6:.2f} ({share:.0%}) "
                f"| {row['ms']:.1f} ({row['ratio'] - 1:+.0%}) | {row['acc']:.4f} |"
            )
        compared = [row for row in found.values() if "apart" in row]
        apart = max(row["apart"] for row in compared)
        read = "; ".join(
            f"of {row['images']} images whose text is inside the alphabet the whole recogniser "
            f"reads {row['right'][0]} right and the cut one {row['right'][1]}"
            for row in compared
        )
        lines.append(
            f"\nThe probabilities of the characters that are left, renormalised, differ by "
            f"{apart:.1e} at most; {read}."
        )
    return "\n".join(lines)


def _into_page(page: Path, text: str) -> None:
    whole = page.read_text(encoding="utf-8")
    if _BEGIN not in whole or _END not in whole:
        raise PruneError(f"{page}: has no {_BEGIN} and {_END} around its table.")
    head, _, rest = whole.partition(_BEGIN)
    write_atomically(page, f"{head}{_BEGIN}\n{text}\n{_END}{rest.partition(_END)[2]}")


def main() -> int:
    """Run what is not done yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("characters"))
    parser.add_argument(
        "--page", type=Path, nargs="+", default=[], help="pages whose tables are replaced"
    )
    parser.add_argument("--only", choices=list(DICTIONARIES), action="append")
    parser.add_argument("--untimed", action="store_true", help="stop before times are taken")
    args = parser.parse_args()
    with exiting_on_error():
        found = {
            release: Run(release, args.data, args.work).run(not args.untimed)
            for release in DICTIONARIES
            if args.only is None or release in args.only
        }
        results = {release: result for release, result in found.items() if result is not None}
        for page in args.page if results else []:
            _into_page(page, table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
