"""Which characters a run works with, and what is refused before anything is built."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paddle
import pytest

from ppocr_prune_plugin import alphabet
from ppocr_prune_plugin.cut_dictionary import KEY, CutDictionary, carried_by
from ppocr_prune_plugin.errors import PruneError
from ppocr_prune_plugin.hooks.adapters import dictionaries
from ppocr_prune_plugin.hooks.adapters.dictionaries import in_use, settle, write_dictionary
from ppocr_prune_plugin.hooks.adapters.tree import use_tree
from ppocr_prune_plugin.section import parse_section

Config = dict[str, Any]

WHOLE = [*"0123456789abcxyzäΩ中文", "\u3000"]
LABELS = ["a1.jpg\tab12", "a2.jpg\tab c", "a3.jpg\tx1é中"]


@pytest.fixture(autouse=True)
def nothing_in_use() -> Iterator[None]:
    yield
    dictionaries._in_use = None


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A recogniser's, as far as dictionaries are concerned."""
    (tmp_path / "whole.txt").write_text("\n".join(WHOLE) + "\n", encoding="utf-8")
    (tmp_path / "train.txt").write_text("\n".join(LABELS[:2]), encoding="utf-8")
    (tmp_path / "val.txt").write_text("\n".join(LABELS[2:]) + "\n", encoding="utf-8")

    def part(name: str) -> Config:
        files = [str(tmp_path / f"{name}.txt")]
        return {"dataset": {"name": "SimpleDataSet", "label_file_list": files}}

    return {
        "Global": {"character_dict_path": str(tmp_path / "whole.txt"), "use_space_char": True},
        "Architecture": {"model_type": "rec", "algorithm": "CRNN", "Head": {"name": "CTCHead"}},
        "Train": part("train"),
        "Eval": part("val"),
    }


def settled(
    config: Config,
    training: bool = True,
    plan: str | None = None,
    labelled: tuple[str, ...] | None = None,
    **section: Any,
) -> str:
    """Settle, as a tool does; what the log says."""
    records: list[str] = []
    logger = logging.Logger("test")
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    parsed = parse_section(section, "rec.yml") if section else None
    read = labelled or (("Train", "Eval") if training else ())
    settle(config, parsed, training, read, "rec.yml", plan, logger)
    return "\n".join(records)


def chosen(config: Config) -> str:
    path = Path(config["Global"]["character_dict_path"])
    return "".join(path.read_text(encoding="utf-8").split("\n"))


def weights(path: Path, lines: str, whole: list[str] = WHOLE) -> Path:
    """A weights file that carries a dictionary; its path without the suffix."""
    cut = CutDictionary.of(tuple(lines), tuple(whole))
    state = {"fc.weight": paddle.ones([2, 3]), KEY: paddle.to_tensor(cut.as_array())}
    paddle.save(state, f"{path}.pdparams")
    return path


def test_characters_of_a_file(config: Config, tmp_path: Path) -> None:
    (tmp_path / "keep.txt").write_text("b\na\n中\n1\n", encoding="utf-8")
    log = settled(config, characters=str(tmp_path / "keep.txt"))
    assert chosen(config) == "1ab中"  # in the order of the classes
    assert "4 of 21 characters stay: 2 Latin, 1 digits, 1 CJK, and the space" in log
    assert "2 of 2 labels of Train and 1 of 1 labels of Eval have characters outside" in log
    assert "'2' 1x" in log and "at most 0.0000 of the labels of Eval can be read right" in log
    assert log.count("PaddleOCR leaves such characters out of labels") == 1
    used = in_use()
    assert used is not None and used.alphabet is not None
    assert used.alphabet.unlabelled == () and used.alphabet.counts is not None
    assert used.alphabet.counts["1"] == 2
    # Settled again, as where a tool merges its options twice.
    settled(config, characters=str(tmp_path / "keep.txt"))
    assert chosen(config) == "1ab中"
    settled(config)
    assert config["Global"]["character_dict_path"] == str(tmp_path / "whole.txt")


def test_characters_of_the_labels(config: Config) -> None:
    log = settled(config, characters="auto", pruned_params=0.5)
    assert chosen(config) == "12abcx中"
    assert "1 of 1 labels of Eval have characters outside" in log and "'é' 1x" in log
    settled(config, characters="auto", characters_min_count=2)
    assert chosen(config) == "1ab"
    with pytest.raises(
        PruneError, match=r"no character of .*whole\.txt is in the labels .* 9 times"
    ):
        config["Global"]["use_space_char"] = False
        settled(config, characters="auto", characters_min_count=9)


def test_labels_are_counted_as_they_are_encoded(tree: Path, config: Config, tmp_path: Path) -> None:
    """SPIN's encoder makes letters small, unless it is told not to; PaddleOCR leaves characters
    that it does not know out of labels."""
    use_tree(tree)
    from ppocr.data.imaug.label_ops import CTCLabelEncode

    (tmp_path / "train.txt").write_text("a1.jpg\tAB", encoding="utf-8")
    transforms: list[Config] = [{"SPINLabelEncode": None}]
    config["Train"]["dataset"]["transforms"] = transforms
    log = settled(config, characters="auto")
    assert chosen(config) == "1abx中" and "of Train" not in log
    transforms[0] = {"SPINLabelEncode": {"lower": False}}
    settled(config, characters="auto")
    assert chosen(config) == "1x中"
    encoded = CTCLabelEncode(25, config["Global"]["character_dict_path"])({"label": "x1é中"})
    assert encoded["length"] == 3


def test_the_space_and_a_character_that_is_there_twice(config: Config, tmp_path: Path) -> None:
    """Some dictionaries have a space, and `use_space_char` adds another: both classes stay."""
    (tmp_path / "whole.txt").write_text("a\nb\na\n \nc\n", encoding="utf-8")
    (tmp_path / "keep.txt").write_text("a\nc\n", encoding="utf-8")
    settled(config, characters=str(tmp_path / "keep.txt"))
    assert chosen(config) == "aa c"


def test_evaluation_knows_the_characters_of_the_weights(config: Config, tmp_path: Path) -> None:
    stated = config["Global"]["character_dict_path"]
    config["Global"]["pretrained_model"] = str(weights(tmp_path / "cut", "1ab"))
    log = settled(config, training=False)
    assert chosen(config) == "1ab" and "reads 3 of 21 characters" in log and stated in log
    assert "labels" not in log, "an export reads none"
    log = settled(config, training=False, labelled=("Eval",))
    assert "1 of 1 labels of Eval have characters outside" in log and "Train" not in log
    config["Global"] |= {"checkpoints": config["Global"].pop("pretrained_model")}
    log = settled(config)  # training goes on
    assert "2 of 2 labels of Train and 1 of 1 labels of Eval have characters outside" in log
    config["Global"] |= {"pretrained_model": config["Global"].pop("checkpoints")}
    used = in_use()
    assert used is not None and used.trained_with(Path("other.pdparams")) == tuple(WHOLE)
    # The dictionary of now, and one that is not there, are as good as that of before.
    own = write_dictionary(config, tmp_path / "prune")
    assert own == tmp_path / "prune" / "dict.txt"
    for path in (str(own), str(tmp_path / "elsewhere.txt")):
        config["Global"]["character_dict_path"] = path
        settled(config, training=False)
        assert chosen(config) == "1ab"
    # Another one is another recogniser: PaddleOCR is left alone.
    (tmp_path / "other.txt").write_text("q\nw\n")
    config["Global"]["character_dict_path"] = str(tmp_path / "other.txt")
    log = settled(config, training=False)
    assert chosen(config) == "qw" and "of another dictionary" in log
    with pytest.raises(PruneError, match=r"other\.txt is another dictionary than"):
        settled(config, characters="auto")


def test_weights_that_lost_characters_lose_more(config: Config, tmp_path: Path) -> None:
    config["Global"]["pretrained_model"] = str(weights(tmp_path / "cut", "1ab"))
    (tmp_path / "keep.txt").write_text("b\n")
    settled(config, characters=str(tmp_path / "keep.txt"))
    used = in_use()
    assert used is not None and chosen(config) == "b" and used.dictionary.whole == len(WHOLE)
    (tmp_path / "keep.txt").write_text("x\n")
    with pytest.raises(PruneError, match=r"keep\.txt: rec\.yml: Prune\.characters: 'x' is not in"):
        settled(config, characters=str(tmp_path / "keep.txt"))
    # Of a run that goes on the checkpoint decides.
    config["Global"] |= {"checkpoints": str(tmp_path / "cut"), "pretrained_model": None}
    assert "Prune.characters says nothing" in settled(config, characters="auto")
    assert chosen(config) == "1ab"


def test_text_from_right_to_left(config: Config, tmp_path: Path) -> None:
    """PaddleOCR turns answers round where "arabic" is in the path of the dictionary."""
    arabic = tmp_path / "arabic_dict.txt"
    (tmp_path / "whole.txt").rename(arabic)
    config["Global"]["character_dict_path"] = str(arabic)
    settled(config, characters="auto")
    assert "arabic" in config["Global"]["character_dict_path"]
    assert write_dictionary(config, tmp_path / "prune") == tmp_path / "prune" / "arabic_dict.txt"
    config["Global"]["character_dict_path"] = str(arabic.rename(tmp_path / "whole.txt"))
    settled(config, characters="auto")
    temporary = config["Global"]["character_dict_path"]
    assert "arabic" not in temporary
    write_dictionary(config, tmp_path / "arabic_receipts")
    assert config["Global"]["character_dict_path"] == temporary


def test_numbers_of_classes_in_the_config_move(config: Config) -> None:
    head = {"name": "RobustScannerHead", "start_idx": 22, "padding_idx": 23, "hidden": 64}
    config["Architecture"]["Head"] = head
    for _ in range(2):
        settled(config, characters="auto")
        assert (head["start_idx"], head["padding_idx"], head["hidden"]) == (8, 9, 64)


BAD_FILES = {
    "a\n\nb\n": r"keep\.txt: rec\.yml: Prune\.characters: line 2 is empty",
    "a\nb\na\n": r"line 3 is 'a', which line 1 is already",
    "": "is empty. Write the characters",
    "a\nq\nß\n": r"2 characters, 'q' 'ß', are not in the dictionary .*whole\.txt, 21 characters",
    " \n": "but the space, which stays anyway",
}


@pytest.mark.parametrize("text", BAD_FILES)
def test_files_that_are_no_alphabet(config: Config, tmp_path: Path, text: str) -> None:
    keep = tmp_path / "keep.txt"
    keep.write_text(text, encoding="utf-8")
    before = dict(config["Global"])
    with pytest.raises(PruneError, match=BAD_FILES[text]):
        settled(config, characters=str(keep))
    assert config["Global"] == before and in_use() is None
    assert not (tmp_path / "prune").exists()


def test_other_mistakes(config: Config, tmp_path: Path) -> None:
    (tmp_path / "keep.txt").write_bytes(b"\xff\xfea\n")
    with pytest.raises(PruneError, match="is not text in UTF-8"):
        settled(config, characters=str(tmp_path / "keep.txt"))
    with pytest.raises(PruneError, match=r"nowhere\.txt: .* cannot be read"):
        settled(config, characters=str(tmp_path / "nowhere.txt"))
    with pytest.raises(PruneError, match=r"keeps all 21 characters of .*, so that nothing is"):
        settled(config, characters=str(tmp_path / "whole.txt"))
    settled(config, characters=str(tmp_path / "whole.txt"), pruned_flops=0.3)
    assert in_use() is None
    detector = {**config, "Architecture": {"model_type": "det", "algorithm": "DB"}}
    with pytest.raises(PruneError, match="is for recognisers, .* Architecture.model_type is det"):
        settled(detector, characters="auto")
    config["Loss"] = {
        "name": "CombinedLoss",
        "loss_config_list": [{"CenterLoss": {"weight": 0.05}}],
    }
    with pytest.raises(PruneError, match="Loss: CenterLoss keeps a centre for each class"):
        settled(config, characters="auto")
    del config["Loss"]
    config["Train"]["dataset"]["name"] = "PubTabDataSet"
    with pytest.raises(PruneError, match=r"Train\.dataset\.name is 'PubTabDataSet'"):
        settled(config, characters="auto")
    config["Global"]["character_dict_path"] = None
    with pytest.raises(PruneError, match=r"Global\.character_dict_path is empty"):
        settled(config, characters="auto")
    with pytest.raises(
        PruneError, match=r"Prune\.characters_min_count counts characters in labels"
    ):
        parse_section({"characters": "keep.txt", "characters_min_count": 2}, "rec.yml")
    steps = {"steps": 2, "epochs": 1}
    with pytest.raises(PruneError, match=r"Prune\.schedule prunes channels in steps"):
        parse_section({"characters": "auto", "schedule": steps}, "rec.yml")
    assert parse_section(
        {"characters": "auto", "schedule": steps, "ratio": 0.2}, "rec.yml"
    ).schedule


def test_weights_with_different_characters(config: Config, tmp_path: Path) -> None:
    models = {
        name: {"pretrained": str(weights(tmp_path / name, lines))}
        for name, lines in (("Student", "ab"), ("Teacher", "a1"))
    }
    config["Architecture"] |= {"Models": models}
    with pytest.raises(PruneError, match="left with different characters: .*Student .2 of 21"):
        settled(config, training=False)


def test_what_a_weights_file_carries(tmp_path: Path) -> None:
    path = Path(f"{weights(tmp_path / 'cut', '1a中')}.pdparams")
    found = carried_by(path)
    assert found == CutDictionary.of(("1", "a", "中"), tuple(WHOLE))
    assert carried_by(tmp_path / "nothing.pdparams") is None
    paddle.save({"fc.weight": paddle.ones([2, 3])}, str(tmp_path / "plain.pdparams"))
    assert carried_by(tmp_path / "plain.pdparams") is None
    content = path.read_bytes()
    place = content.index(b'"whole": 21')
    for damaged in (
        content[:place] + b'"whole": 29' + content[place + 11 :],
        content[:place],
        content.replace(b'ppocr-prune-dictionary/1", ', b'ppocr-prune-dictionary/9", '),
    ):
        path.write_bytes(damaged)
        with pytest.raises(PruneError, match="carries is damaged"):
            carried_by(path)


def test_labels_in_a_database(config: Config, tmp_path: Path) -> None:
    lmdb = pytest.importorskip("lmdb")
    (tmp_path / "base" / "deep").mkdir(parents=True)
    with lmdb.open(str(tmp_path / "base" / "deep"), map_size=2**20) as database:
        with database.begin(write=True) as writer:
            writer.put(b"num-samples", b"2")
            writer.put(b"label-000000001", b"ab")
            writer.put(b"label-000000002", "b中".encode())
    config["Train"]["dataset"] = {"name": "LMDBDataSet", "data_dir": str(tmp_path / "base")}
    config["Eval"] = None
    settled(config, characters="auto")
    assert chosen(config) == "ab中"


def test_scripts() -> None:
    named = {c: alphabet.script(c) for c in "a7,中жαあ ½\u0301Ａ"}
    assert list(named.values()) == [
        "Latin", "digits", "punctuation and symbols", "CJK", "Cyrillic", "Greek", "Hiragana",
        "space", "digits", "accents", "Latin",
    ]  # fmt: skip


def test_a_detector_is_refused_by_the_tool(
    run_tool: Callable[..., subprocess.CompletedProcess[str]],
    tree: Path,
    cls_config: Path,
    tmp_path: Path,
) -> None:
    done = run_tool(
        [tree / "tools" / "train.py", "-c", cls_config, "-o", "Global.use_gpu=false",
         f"Global.save_model_dir={tmp_path}", "Prune.characters=auto"],
    )  # fmt: skip
    assert done.returncode == 2
    assert "Architecture.model_type is cls" in done.stderr and not (tmp_path / "prune").exists()
