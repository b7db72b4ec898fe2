"""The pictures that batch norms are re-estimated on."""

from __future__ import annotations

import paddle

from ppocr_prune_plugin.hooks.adapters.calibration_batches import few_pictures


def test_of_a_large_batch_the_first_pictures_are_enough() -> None:
    batch = [paddle.rand([100, 3, 8, 8]), paddle.arange(100), paddle.zeros([100, 25], "int64")]
    pictures, numbers, labels = few_pictures(batch)
    assert pictures.shape == [32, 3, 8, 8] and labels.shape == [32, 25]
    assert numbers.tolist() == list(range(32))
    small = [tensor[:8] for tensor in batch]
    assert [tensor.shape for tensor in few_pictures(small)] == [tensor.shape for tensor in small]


def test_a_batch_that_is_not_one_row_a_picture_stays_whole() -> None:
    pictures = paddle.rand([64, 3, 8, 8])
    for other in (paddle.zeros([1]), paddle.to_tensor(3), ["a text"] * 64):
        assert few_pictures([pictures, other])[0] is pictures
