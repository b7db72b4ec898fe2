"""Which dictionary a run works with, settled before PaddleOCR builds anything from it.

PaddleOCR makes the classes of a network, its labels and its answers of one file, which
``Global.character_dict_path`` names. Where a recogniser lost characters, or is about to, that
setting is given another file: everything that PaddleOCR builds fits by itself then, and what is
left to do is to cut weights along that were trained with the whole dictionary (:mod:`.classes`).
"""

from __future__ import annotations

import atexit
import copy
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paddle

from ...alphabet import (
    Alphabet,
    LabelCounts,
    Lines,
    checksum,
    kept_of,
    outside_lines,
    read_dictionary,
    read_wanted,
    require_known,
)
from ...cut_dictionary import CutDictionary, carried_by
from ...errors import PruneError
from ...files import write_atomically
from ...plan import load_plan
from ...section import AUTO, PruneSection
from .label_counts import PARTS, count_labels
from .sub_models import sub_models

SETTING = "Global.character_dict_path"
_SPACE = " "
# Keys of heads that number a class behind the characters.
_NUMBERS = ("start_idx", "padding_idx")


@dataclass(frozen=True)
class InUse:
    """The dictionary of a run, where it is not the one that the config states.

    ``dictionary`` is what the networks are built for; ``stated`` the lines of the file that the
    config names, at ``stated_path`` (None where that cannot be read); ``file`` is given to
    PaddleOCR in its place. ``alphabet`` is there where the run has asked for the cut.
    """

    dictionary: CutDictionary
    stated: Lines | None
    stated_path: str | None
    file: Path
    alphabet: Alphabet | None = None

    @property
    def lost(self) -> int:
        """How many characters the recogniser had more at first."""
        return self.dictionary.whole - len(self.dictionary.lines)

    @property
    def name(self) -> str:
        """What ``dict.txt`` has to be called: PaddleOCR reads a text from right to left where the
        path of the dictionary says "arabic"."""
        return "arabic_dict.txt" if _is_arabic(self.stated_path) else "dict.txt"

    def trained_with(self, weights: Path | None) -> Lines | None:
        """The lines that a weights file was trained with, as far as they can be known."""
        carried = None if weights is None else carried_by(weights)
        return carried.lines if carried is not None else self.stated


_in_use: InUse | None = None


def in_use() -> InUse | None:
    """The dictionary of this process; None where PaddleOCR uses what its config states."""
    return _in_use


def settle(
    config: dict[str, Any],
    section: PruneSection | None,
    training: bool,
    labelled: Sequence[str],
    source: str,
    plan_file: str | None,
    logger: logging.Logger,
) -> None:
    """Decide on the dictionary and let the config name it.

    Args:
        config: the merged config; ``Global.character_dict_path`` is changed where need be.
        section: its section; None where there is none.
        training: the run trains, so that the section's characters count.
        labelled: the parts of the config whose labels the run reads.
        source: where the section is written, for messages.
        plan_file: a plan that is going to be applied to unpruned weights.
        logger: is told what is read with which characters.

    Raises:
        PruneError: what is asked for is not possible.
    """
    global _in_use
    settings = config.get("Global")
    if not isinstance(settings, dict):
        return
    if _in_use is not None and settings.get("character_dict_path") == str(_in_use.file):
        # The config was settled before.
        settings["character_dict_path"] = _in_use.stated_path
        _renumber(config, len(_in_use.dictionary.lines), -_in_use.lost)
    _in_use = None
    stated_path = settings.get("character_dict_path")
    carried, where = _carried(config, plan_file)
    wanted = section.characters if training and section is not None else None
    if wanted is not None:
        _require_recogniser(config, source)
        if carried is not None and settings.get("checkpoints"):
            logger.info(
                f"prune: {where} lost its characters already; Prune.characters says nothing"
            )
            wanted = None
    if carried is None and wanted is None:
        return
    stated = _stated(stated_path) if carried is not None else _required(stated_path, source)
    if carried is not None and not _belongs(carried, stated):
        if wanted is None:
            logger.warning(
                f"prune: {where} reads {_count(carried)} of another dictionary than "
                f"{SETTING}: {stated_path}, which is used: what reads characters is not loaded"
            )
            return
        raise PruneError(
            f"{source}: {SETTING}: {stated_path} is another dictionary than {where} was trained "
            f"with, which reads {_count(carried)}. Name the dictionary that it had at first."
        )
    if wanted is None:
        assert carried is not None
        if stated != carried.lines:
            logger.info(
                f"prune: {where} reads {_count(carried)}: they are used, not {SETTING}: "
                f"{stated_path}"
            )
        if labelled and _is_recogniser(config):
            _say_outside(_counted(config, labelled), carried.lines, _always(config), logger)
        _use(config, carried, stated, stated_path)
        return
    assert section is not None
    whole = carried.lines if carried is not None else stated
    assert whole is not None
    alphabet, counts = _chosen(section, config, whole, source, str(stated_path))
    if len(alphabet.lines) == len(whole) and carried is None:
        said = f"{source}: Prune.characters keeps all {len(whole)} characters of {stated_path}"
        if not section.has_target:
            raise PruneError(f"{said}, so that nothing is pruned. Keep fewer, or leave it away.")
        logger.warning(f"prune: {said}")
        return
    if carried is None:
        cut = CutDictionary.of(alphabet.lines, whole)
    else:
        cut = CutDictionary(alphabet.lines, carried.whole, carried.checksum)
    _say(alphabet, counts, logger)
    _use(config, cut, stated, stated_path, alphabet)


def with_whole(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """A config as it was before its recogniser lost characters now; None where it had lost some
    before, or loses none."""
    if _in_use is None or _in_use.alphabet is None or _in_use.stated is None:
        return None
    if checksum(_in_use.stated) != _in_use.dictionary.checksum:
        return None
    if _in_use.alphabet.whole != _in_use.dictionary.whole:
        return None
    own = copy.deepcopy(dict(config))
    own["Global"]["character_dict_path"] = _in_use.stated_path
    _renumber(own, len(_in_use.dictionary.lines), -_in_use.lost)
    return own


def write_dictionary(config: Mapping[str, Any], folder: Path) -> Path | None:
    """Write the dictionary in use to where its user finds it, for tools that take one, and let the
    config name that file, where PaddleOCR reads it alike; None where there is none. Rank 0 does,
    the workers keep files of their own."""
    if _in_use is None:
        return None
    path = folder / _in_use.name
    if paddle.distributed.get_rank() != 0:
        return path
    write_atomically(path, _text(_in_use.dictionary.lines))
    if _is_arabic(str(path)) == _is_arabic(_in_use.stated_path):
        config["Global"]["character_dict_path"] = str(path)
    return path


def _carried(config: Mapping[str, Any], plan_file: str | None) -> tuple[CutDictionary | None, str]:
    """The dictionary of the weights that are going to be loaded, and whose it is."""
    found = {}
    for name in _weights(config):
        dictionary = carried_by(Path(name.removesuffix(".pdparams") + ".pdparams"))
        if dictionary is not None:
            found[name] = dictionary
    if not found and plan_file is not None:
        dictionary = load_plan(Path(plan_file)).dictionary
        if dictionary is not None:
            found[f"--prune-plan {plan_file}"] = dictionary
    if len({dictionary.lines for dictionary in found.values()}) > 1:
        listed = ", ".join(f"{name} ({_count(item)})" for name, item in found.items())
        raise PruneError(
            f"these weights were left with different characters: {listed}. One model reads with "
            "one dictionary: take weights that agree."
        )
    return next(((item, name) for name, item in found.items()), (None, ""))


def _weights(config: Mapping[str, Any]) -> Iterator[str]:
    """Weights that a tool loads: those of a checkpoint replace all others."""
    settings = config["Global"]
    stated = settings.get("checkpoints") or settings.get("pretrained_model")
    if isinstance(stated, str) and stated:
        yield stated
    if not settings.get("checkpoints"):
        for part in sub_models(config).values():
            stated = part.get("pretrained")
            if isinstance(stated, str) and stated:
                yield stated


def _belongs(carried: CutDictionary, stated: Lines | None) -> bool:
    """Whether a config is about the recogniser that carries a dictionary: it names the dictionary
    from before the cut, or from after it, or one that is not there."""
    return stated is None or stated == carried.lines or checksum(stated) == carried.checksum


def _stated(path: Any) -> Lines | None:
    if not isinstance(path, str) or not path or not os.path.isfile(path):
        return None
    return read_dictionary(Path(path), SETTING)


def _required(path: Any, source: str) -> Lines:
    if not path:
        raise PruneError(
            f"{source}: Prune.characters takes characters out of a dictionary, and {SETTING} is "
            "empty: PaddleOCR reads digits and small letters then. Name a file of those to keep "
            "them apart."
        )
    return read_dictionary(Path(str(path)), SETTING)


def _require_recogniser(config: Mapping[str, Any], source: str) -> None:
    if not _is_recogniser(config):
        kind = (config.get("Architecture") or {}).get("model_type")
        raise PruneError(
            f"{source}: Prune.characters is for recognisers, which have a class for each character;"
            f" Architecture.model_type is {kind}. Leave the key away."
        )
    if "CenterLoss" in str(config.get("Loss")):
        raise PruneError(
            f"{source}: Loss: CenterLoss keeps a centre for each class of the whole dictionary, in "
            "a file of its own, so that Prune.characters cannot be used with it. Take it out of "
            "Loss."
        )


def _is_recogniser(config: Mapping[str, Any]) -> bool:
    return bool((config.get("Architecture") or {}).get("model_type") == "rec")


def _always(config: Mapping[str, Any]) -> Lines:
    """Characters that stay whatever is asked for."""
    return (_SPACE,) if config["Global"].get("use_space_char") else ()


def _counted(config: Mapping[str, Any], parts: Sequence[str] = PARTS) -> LabelCounts | None:
    """What the labels are made of; None where they cannot be counted, which only `auto` needs."""
    try:
        return count_labels(config, parts)
    except PruneError:
        return None


def _chosen(
    section: PruneSection, config: Mapping[str, Any], whole: Lines, source: str, dictionary: str
) -> tuple[Alphabet, LabelCounts | None]:
    """What stays of a dictionary, and what the labels are made of."""
    always = _always(config)
    stated, key = section.characters, "Prune.characters"
    assert stated is not None
    counts: LabelCounts | None = None
    if stated == AUTO:
        counts = count_labels(config)
        wanted = tuple(
            line
            for line, count in counts.characters.items()
            if count >= section.characters_min_count
        )
    else:
        wanted = read_wanted(Path(stated), f"{source}: {key}")
        require_known(wanted, whole, always, Path(stated), f"{source}: {key}", dictionary)
        counts = _counted(config)
    lines = kept_of(whole, (*wanted, *always))
    if not lines:
        raise PruneError(
            f"{source}: {key}: no character of {dictionary} is "
            + (
                f"in the labels of Train and Eval {section.characters_min_count} times or more."
                if stated == AUTO
                else f"in {stated} but the space, which stays anyway. Name those to keep."
            )
        )
    return Alphabet(
        lines, len(whole), None if counts is None else counts.characters, always
    ), counts


def _say(alphabet: Alphabet, counts: LabelCounts | None, logger: logging.Logger) -> None:
    scripts = ", ".join(f"{count} {name}" for name, count in alphabet.scripts.items())
    logger.info(
        f"prune: {len(alphabet.lines)} of {alphabet.whole} characters stay: {scripts}"
        + (", and the space of use_space_char" if alphabet.always else "")
    )
    if alphabet.unlabelled:
        logger.info(f"prune: {len(alphabet.unlabelled)} of them are in no label")
    _say_outside(counts, alphabet.lines, alphabet.always, logger)


def _say_outside(
    counts: LabelCounts | None, lines: Lines, always: Lines, logger: logging.Logger
) -> None:
    """Warn of labels that the characters do not make up."""
    if counts is not None:
        for line in outside_lines(counts, frozenset((*lines, *always))):
            logger.warning(f"prune: {line}")


def _count(dictionary: CutDictionary) -> str:
    return f"{len(dictionary.lines)} of {dictionary.whole} characters"


def _use(
    config: dict[str, Any],
    dictionary: CutDictionary,
    stated: Lines | None,
    stated_path: str | None,
    alphabet: Alphabet | None = None,
) -> None:
    """Write the dictionary where only this process reads it, and let the config name it."""
    global _in_use
    arabic = "arabic-" if _is_arabic(stated_path) else ""
    folder = Path(tempfile.mkdtemp(prefix=f"ppocr-prune-{arabic}"))
    atexit.register(_remove, folder, os.getpid())
    file = folder / "dict.txt"
    write_atomically(file, _text(dictionary.lines))
    _in_use = InUse(dictionary, stated, stated_path, file, alphabet)
    config["Global"]["character_dict_path"] = str(file)
    _renumber(config, dictionary.whole, _in_use.lost)


def _renumber(config: Mapping[str, Any], characters: int, lost: int) -> None:
    """Some heads are told in the config which classes begin a text and fill it up. They stand
    behind the characters, so that they move by as many as are lost."""
    parts = [config.get("Architecture") or {}, *sub_models(config).values()]
    waiting = [part["Head"] for part in parts if isinstance(part.get("Head"), dict)]
    while waiting:
        section = waiting.pop()
        for key, value in section.items():
            if isinstance(value, dict):
                waiting.append(value)
            elif key in _NUMBERS and isinstance(value, int) and value >= characters:
                section[key] = value - lost


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # not in a fork
        shutil.rmtree(folder, ignore_errors=True)


def _text(lines: Lines) -> str:
    return "".join(f"{line}\n" for line in lines)


def _is_arabic(path: str | None) -> bool:
    return "arabic" in str(path)
