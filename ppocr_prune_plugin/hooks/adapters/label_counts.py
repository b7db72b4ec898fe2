"""What the labels of a recogniser's data sets are made of."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...alphabet import LabelCounts
from ...errors import PruneError, quoted

PARTS = ("Train", "Eval")

_TEXT_FILES = {"SimpleDataSet", "MultiScaleDataSet"}
_DATABASES = {"LMDBDataSet", "LMDBDataSetSR"}


def count_labels(config: Mapping[str, Any], parts: Sequence[str] = PARTS) -> LabelCounts:
    """Count the characters of the labels of the training and the evaluation set, each label once
    whatever share of them an epoch takes, as PaddleOCR encodes them: some encoders make letters
    small first.

    Raises:
        PruneError: they cannot be read, or are of a data set whose labels are not known.
    """
    counts = LabelCounts(texts={part: Counter() for part in parts if config.get(part)})
    for part, texts in counts.texts.items():
        small = _makes_small(config, part)
        for label in _labels(config, part):
            text = label.lower() if small else label
            counts.characters.update(text)
            texts[frozenset(text)] += 1
    return counts


def _makes_small(config: Mapping[str, Any], part: str) -> bool:
    """Whether the encoder of labels of a part makes their letters small: by ``lower`` of its own,
    of ``Global``, which counts first as with PaddleOCR, or by its default."""
    for transform in (config[part].get("dataset") or {}).get("transforms") or ():
        for name, stated in transform.items() if isinstance(transform, Mapping) else ():
            taken = _taken_by(name) if str(name).endswith("LabelEncode") else {}
            if "lower" in taken:
                given = {**(stated or {}), **config["Global"]}
                return bool(given.get("lower", taken["lower"].default))
    return False


def _taken_by(encoder: str) -> Mapping[str, inspect.Parameter]:
    from ppocr.data.imaug import label_ops

    found = getattr(label_ops, encoder, None)
    return {} if found is None else inspect.signature(found).parameters


def _labels(config: Mapping[str, Any], part: str) -> Iterator[str]:
    dataset = config[part].get("dataset") or {}
    name = dataset.get("name")
    if name in _TEXT_FILES:
        yield from _of_text_files(dataset, part)
    elif name in _DATABASES:
        yield from _of_database(dataset, part)
    else:
        known = ", ".join(sorted(_TEXT_FILES | _DATABASES))
        raise PruneError(
            f"{part}.dataset.name is {quoted(name)}, and Prune.characters counts the characters of "
            f"the labels of {known}. Name the characters in a file: Prune.characters=FILE."
        )


def _of_text_files(dataset: Mapping[str, Any], part: str) -> Iterator[str]:
    """Lines of a file name and a label, with a tab between them."""
    stated = dataset.get("label_file_list")
    delimiter = dataset.get("delimiter", "\t")
    for path in [stated] if isinstance(stated, str) else list(stated or ()):
        key = f"{part}.dataset.label_file_list"
        try:
            with open(path, "rb") as file:
                for line in file:
                    yield from line.decode("utf-8").strip("\r\n").split(delimiter)[1:2]
        except (OSError, UnicodeDecodeError) as error:
            raise PruneError(
                f"{path}: {key}: cannot be read to count the characters of its labels: {error}."
            ) from error


def _of_database(dataset: Mapping[str, Any], part: str) -> Iterator[str]:
    """LMDB data sets: those in the folder and in the folders below it."""
    import lmdb

    root = Path(str(dataset.get("data_dir")))
    for folder in sorted({file.parent for file in root.rglob("data.mdb")}):
        try:
            with lmdb.open(str(folder), readonly=True, lock=False) as database:
                with database.begin() as reader:
                    for index in range(1, int(reader.get(b"num-samples") or 0) + 1):
                        label = reader.get(b"label-%09d" % index)
                        if label is not None:
                            yield label.decode("utf-8")
        except (lmdb.Error, ValueError) as error:
            raise PruneError(
                f"{folder}: {part}.dataset.data_dir: cannot be read to count the characters of its "
                f"labels: {error}."
            ) from error
