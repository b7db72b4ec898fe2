"""Characters of a recogniser: dictionary files, which of their lines stay, and what they are.

A dictionary is a text file of one character a line, as PaddleOCR reads it: UTF-8, lines ended by a
line feed, in the order of the recogniser's classes.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .errors import PruneError, quoted
from .files import read_file

Lines = tuple[str, ...]

_SHOWN = 10  # characters that a message lists


@dataclass(frozen=True)
class LabelCounts:
    """What labels are made of. ``characters`` counts every character in the labels of all parts;
    ``texts`` has, by part ("Train", "Eval"), the set of characters of each label with how many
    labels have it."""

    characters: Counter[str] = field(default_factory=Counter)
    texts: Mapping[str, Counter[frozenset[str]]] = field(default_factory=dict)

    def outside(self, known: frozenset[str]) -> dict[str, tuple[int, int]]:
        """By part: how many labels have a character that is not ``known``, and how many labels
        there are."""
        return {
            part: (
                sum(count for text, count in texts.items() if not text <= known),
                sum(texts.values()),
            )
            for part, texts in self.texts.items()
        }


@dataclass(frozen=True)
class Alphabet:
    """What a cut leaves of a dictionary.

    ``lines`` are the characters that stay and ``whole`` how many the dictionary had; ``counts``
    says how often each occurs in the labels (None where labels were not counted), ``always`` are
    characters that stay whatever is asked for: the space of ``Global.use_space_char``.
    """

    lines: Lines
    whole: int
    counts: Mapping[str, int] | None = None
    always: Lines = ()

    @property
    def scripts(self) -> dict[str, int]:
        """Script → how many of the characters are of it, the largest first."""
        return dict(Counter(script(line) for line in dict.fromkeys(self.lines)).most_common())

    @property
    def unlabelled(self) -> Lines:
        """Characters that stay although no label has them, in order."""
        if self.counts is None:
            return ()
        return tuple(line for line in dict.fromkeys(self.lines) if not self.counts.get(line))


def checksum(lines: Iterable[str]) -> str:
    """Tells dictionaries apart."""
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def read_dictionary(path: Path, key: str) -> Lines:
    """The lines of a dictionary as PaddleOCR reads them, whatever they hold.

    Args:
        path: the file.
        key: the setting that names it, for messages.

    Raises:
        PruneError: it cannot be read, or is not UTF-8.
    """
    data = read_file(path, f"the dictionary of {key}")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PruneError(
            f"{path}: {key}: is not text in UTF-8 ({error.reason} at byte {error.start}). Save it "
            "as UTF-8, one character a line."
        ) from error
    lines = text.split("\n")
    return tuple(line.strip("\r\n") for line in (lines[:-1] if lines[-1] == "" else lines))


def read_wanted(path: Path, key: str) -> Lines:
    """The characters of a list that a user has written: each once, on a line of its own.

    Raises:
        PruneError: the same, or a line is empty or there twice.
    """
    lines = list(read_dictionary(path, key))
    if lines and lines[0].startswith("\ufeff"):  # as some editors begin a file
        lines[0] = lines[0][1:]
    if not lines:
        raise PruneError(f"{path}: {key}: is empty. Write the characters to keep, one a line.")
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if line == "":
            raise PruneError(
                f"{path}: {key}: line {number} is empty. Write one character a line, without "
                "empty lines (a line with a space means the space)."
            )
        if line in seen:
            raise PruneError(
                f"{path}: {key}: line {number} is {quoted(line)}, which line {seen[line]} is "
                "already. Write each character once."
            )
        seen[line] = number
    return tuple(lines)


def kept_of(whole: Lines, wanted: Iterable[str]) -> Lines:
    """The lines of a dictionary that are wanted, in its order; a line that it has twice stays
    twice, since the recogniser has two classes for it."""
    keep = frozenset(wanted)
    return tuple(line for line in whole if line in keep)


def places_of(whole: Lines, kept: Lines) -> list[int]:
    """Where the kept lines of a dictionary are in it.

    Raises:
        ValueError: they are not its lines.
    """
    keep = frozenset(kept)
    places = [place for place, line in enumerate(whole) if line in keep]
    if tuple(whole[place] for place in places) != kept:
        raise ValueError("the characters that are kept are not lines of the dictionary, in order")
    return places


def require_known(
    wanted: Lines, whole: Lines, always: Iterable[str], path: Path, key: str, dictionary: str
) -> None:
    """Raise :class:`PruneError` where a character is wanted that the recogniser never learnt."""
    known = {*whole, *always}
    strange = [line for line in wanted if line not in known]
    if strange:
        several = f"{len(strange)} characters, {listed(strange)}," if len(strange) > 1 else ""
        raise PruneError(
            f"{path}: {key}: {several or quoted(strange[0])} {'are' if several else 'is'} not in "
            f"the dictionary that the weights were trained with ({dictionary}, {len(whole)} "
            "characters): no class of the recogniser stands for it. Take such lines out."
        )


def listed(characters: Sequence[str]) -> str:
    """The first characters of some, as a message shows them."""
    return " ".join(map(quoted, characters[:_SHOWN])) + _and_more(len(characters))


def _and_more(count: int) -> str:
    """What follows the characters that are shown of so many."""
    return f" and {count - _SHOWN} more" if count > _SHOWN else ""


def outside_lines(counts: LabelCounts, known: frozenset[str]) -> list[str]:
    """What labels hold that is not among the known characters, and what that means; nothing where
    they hold nothing such."""
    strange = Counter({c: n for c, n in counts.characters.items() if c not in known})
    if not strange:
        return []
    often = ", ".join(f"{quoted(c)} {n}x" for c, n in strange.most_common(_SHOWN))
    parts = {part: found for part, found in counts.outside(known).items() if found[0]}
    where = " and ".join(f"{n} of {all_} labels of {part}" for part, (n, all_) in parts.items())
    lines = [
        f"{where} have characters outside of the alphabet that is kept: {len(strange)} characters, "
        f"the most frequent {often}{_and_more(len(strange))}"
    ]
    lines.append(
        "PaddleOCR leaves such characters out of labels, when it trains and when it evaluates: "
        "accuracy is that of what is left of these texts"
    )
    wrong, labels = parts.get("Eval", (0, 0))
    if wrong:
        lines[-1] += (
            f"; as they are written, at most {1 - wrong / labels:.4f} of the labels of Eval can be "
            "read right"
        )
    return lines


def script(line: str) -> str:
    """What a character is, in a word or two: "digits", "Latin", "CJK"."""
    first = line[:1]
    kind = unicodedata.category(first) if first else "Cn"
    if kind == "Zs":
        return "space"
    if kind[0] == "N":
        return "digits"
    if kind[0] in "PS":
        return "punctuation and symbols"
    if kind[0] == "M":
        return "accents"
    words = unicodedata.name(first, "").split()
    if not words or kind[0] == "C":
        return "others"
    word = next((word for word in words if word not in _FORMS), words[0])
    return word if word == "CJK" else word.capitalize()


# Words that stand before a script's in the names of characters.
_FORMS = {"FULLWIDTH", "HALFWIDTH", "MODIFIER", "MATHEMATICAL", "SUPERSCRIPT"}
