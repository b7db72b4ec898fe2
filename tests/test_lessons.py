"""What a pruned network is taught: losses, the teacher, frozen batch norms; on real layers."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import paddle
import pytest
from fixtures_topologies import Net, conv
from paddle import nn

from ppocr_prune_plugin import surgery
from ppocr_prune_plugin.errors import PruneError
from ppocr_prune_plugin.hooks.adapters.distilled_loss import precision_of
from ppocr_prune_plugin.hooks.adapters.teaching import require_teachable, taught
from ppocr_prune_plugin.network import Network, inspect
from ppocr_prune_plugin.plan import GroupPlan
from ppocr_prune_plugin.recovery import lessons
from ppocr_prune_plugin.recovery.batch_norm import freeze
from ppocr_prune_plugin.recovery.teacher import Caught, Teacher
from ppocr_prune_plugin.section import DistillOptions

Lesson = Callable[[paddle.Tensor, paddle.Tensor], paddle.Tensor]

SPEC = [([2, 3, 8, 8], "float32")]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def divergence(teacher: np.ndarray, student: np.ndarray) -> np.ndarray:
    return (teacher * np.log(teacher / student)).sum(axis=-1)


@pytest.mark.parametrize(
    ("lesson", "shape", "maps"),
    [
        (lessons.soft_maps, (2, 6, 5), True),
        (lessons.averaged_over_time, (2, 7, 11), False),
        (lessons.probabilities, (3, 4), False),
        (lessons.decoupled, (2, 5, 11), False),
        (lessons.features, (2, 4, 3, 3), False),
    ],
)
def test_a_lesson_is_zero_where_both_agree_and_descends_towards_the_teacher(
    lesson: Lesson, shape: tuple[int, ...], maps: bool
) -> None:
    """Gradient descent on the student's logits brings them to the teacher's answer."""
    form = paddle.nn.functional.sigmoid if maps else lambda x: x
    logits = paddle.to_tensor(normal(*shape, seed=1))
    teacher = form(logits)
    assert abs(float(lesson(teacher, teacher))) < 1e-6
    student = paddle.create_parameter(shape, "float32")
    student.set_value(normal(*shape, seed=2))
    first = float(lesson(form(student), teacher))
    assert first > 0.01
    optimizer = paddle.optimizer.Adam(0.05, parameters=[student])
    for _ in range(100):
        loss = lesson(form(student), teacher)
        assert float(loss) > -1e-6
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
    assert float(loss) < 0.05 * first


def test_soft_maps_are_five_times_cross_entropy_and_dice() -> None:
    s, t = (sigmoid(normal(2, 6, 5, seed=seed).astype("float64")) for seed in (3, 4))
    both = divergence(np.stack([t, 1 - t], -1), np.stack([s, 1 - s], -1))
    dice = 1 - 2 * (s * t).sum((1, 2)) / ((s * s).sum((1, 2)) + (t * t).sum((1, 2)))
    found = lessons.soft_maps(*(paddle.to_tensor(x.astype("float32")) for x in (s, t)))
    assert float(found) == pytest.approx(5 * both.mean() + dice.mean(), rel=1e-4)


def test_ctc_logits_are_averaged_over_time_first() -> None:
    """The same characters one step later are the same answer; others are not."""
    s, t = (normal(2, 7, 11, seed=seed) for seed in (5, 6))
    found = float(lessons.averaged_over_time(*map(paddle.to_tensor, (s, t))))
    expected = divergence(softmax(t.mean(1)), softmax(s.mean(1))).mean()
    assert found == pytest.approx(expected, rel=1e-4)
    later = paddle.to_tensor(np.roll(t, 1, axis=1))
    assert abs(float(lessons.averaged_over_time(later, paddle.to_tensor(t)))) < 1e-6


def test_decoupled_distillation_parts_add_up_to_the_divergence() -> None:
    """KL = TCKD + (1 - p of the target) NCKD (Zhao et al., CVPR 2022, equation 4), for one step."""
    s, t = (normal(1, 1, 9, seed=seed).astype("float64") for seed in (7, 8))
    p, q = softmax(t)[0, 0], softmax(s)[0, 0]
    best = int(t.argmax())
    target = divergence(np.array([p[best], 1 - p[best]]), np.array([q[best], 1 - q[best]]))
    others = divergence(np.delete(p, best) / (1 - p[best]), np.delete(q, best) / (1 - q[best]))
    assert target + (1 - p[best]) * others == pytest.approx(float(divergence(p, q)))
    found = lessons.decoupled(*(paddle.to_tensor(x.astype("float32")) for x in (s, t)))
    assert float(found) == pytest.approx(0.1 * float(target + others), rel=1e-4)


def test_features_are_measured_in_the_variance_of_the_teacher() -> None:
    s, t = normal(2, 4, 3, 3, seed=9), 10 * normal(2, 4, 3, 3, seed=10)
    found = float(lessons.features(paddle.to_tensor(s), paddle.to_tensor(t)))
    assert found == pytest.approx(np.square(s - t).mean() / t.var(ddof=1), rel=1e-4)


class Head(nn.Layer):
    """As PaddleOCR's heads: more maps in training than in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.fuse, self.drop, self.out = conv(6, 5), nn.Dropout(0.5), conv(5, 3)

    def forward(self, x: paddle.Tensor) -> dict[str, paddle.Tensor]:
        y = nn.functional.sigmoid(self.out(self.drop(self.fuse(x))))
        return {"maps": y if self.training else y[:, :1]}


def detector() -> Net:
    paddle.seed(0)
    return Net(
        lambda m, x: m.head(m.neck(m.backbone(x))),
        backbone=nn.Sequential(conv(3, 8), nn.BatchNorm2D(8), nn.ReLU()),
        neck=nn.Sequential(conv(8, 6)),
        head=Head(),
    )


def cut(model: Net, **kept: list[int]) -> tuple[Network, list[GroupPlan]]:
    """Prune groups by the names of their layers; the network as it was, and the plan."""
    network = inspect(model, SPEC)
    whole = detector()
    whole.set_state_dict({name: tensor.clone() for name, tensor in model.state_dict().items()})
    groups = [
        GroupPlan(name, network.graph[name].size, tuple(channels), len(channels))
        for name, channels in ((n.replace("_", "."), c) for n, c in kept.items())
    ]
    surgery.prune(model, network.graph, groups)
    return dataclasses.replace(network, model=whole), groups


def test_features_of_the_kept_channels_are_compared() -> None:
    """What a pruned layer gives is the same channels of the teacher's; what reads it is not."""
    model = detector()
    network, groups = cut(model, backbone_0=[1, 2, 5, 7])
    teacher = Teacher(network, groups, True)
    assert [(p.layer, p.kept is None) for p in teacher.places] == [
        ("backbone", False),
        ("neck", True),
    ]
    caught = Caught(model, teacher.places)
    image = paddle.to_tensor(normal(2, 3, 8, 8))
    model.train()
    freeze(model)
    model(image)
    given, (_, wanted) = caught.take(), teacher.answer(lambda m: m(image))
    assert given[0].shape == wanted[0].shape == [2, 4, 8, 8]
    np.testing.assert_allclose(given[0].numpy(), wanted[0].numpy(), rtol=1e-6)
    assert float(lessons.features(given[0], wanted[0])) < 1e-12
    assert float(lessons.features(given[1], wanted[1])) > 0.01
    lessons.features(given[1], wanted[1]).backward()
    assert np.abs(model.backbone[0].weight.grad.numpy()).max() > 0
    assert not caught.take()  # nothing is held until the next step
    model.eval()
    model(image)
    assert not caught.take()


def test_a_teacher_is_frozen_and_answers_as_a_network_in_training() -> None:
    model = detector()
    network, groups = cut(model, head_fuse=[0, 3])
    state = {name: tensor.numpy() for name, tensor in network.model.state_dict().items()}
    teacher = Teacher(network, groups, False)
    images = [paddle.to_tensor(normal(2, 3, 8, 8, seed=seed)) for seed in (0, 1)]
    first = [teacher.answer(lambda m, x=x: m(x))[0]["maps"] for x in images]
    again = [teacher.answer(lambda m, x=x: m(x))[0]["maps"] for x in images]
    for one, other in zip(first, again, strict=True):
        assert one.shape == [2, 3, 8, 8] and one.stop_gradient
        np.testing.assert_array_equal(one.numpy(), other.numpy())  # no dropout, no new statistics
    for name, tensor in network.model.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), state[name])
    assert all(parameter.stop_gradient for parameter in network.model.parameters())
    assert not any(
        parameter.stop_gradient for parameter in model.parameters() if parameter.ndim > 1
    )


def test_frozen_batch_norms_keep_their_statistics_and_learn_their_scale() -> None:
    frozen, free = (detector() for _ in range(2))
    assert len(freeze(frozen)) == 1
    image = paddle.to_tensor(3 + 2 * normal(2, 3, 8, 8))
    moved = []
    for model in (frozen, free):
        norm = model.backbone[1]
        before = norm._mean.numpy()
        for _ in range(2):
            model.train()  # as PaddleOCR does in every step
            model(image)["maps"].mean().backward()
        moved.append(float(np.abs(norm._mean.numpy() - before).max()))
        assert np.abs(norm.weight.grad.numpy()).max() > 0
    assert moved[0] == 0 and moved[1] > 0.01
    frozen.train()
    inside = frozen.backbone(image).numpy()
    frozen.eval()
    np.testing.assert_array_equal(frozen.backbone(image).numpy(), inside)


def test_what_is_added_runs_under_the_precision_of_training() -> None:
    arguments = {
        "scaler": paddle.amp.GradScaler(),
        "amp_level": "O1",
        "amp_custom_black_list": [],
        "amp_dtype": "bfloat16",
        "logger": None,
    }
    state = sys.modules["paddle.amp.auto_cast"].amp_global_state
    with precision_of(arguments)():
        assert state().amp_dtype == "bfloat16"
    assert precision_of({**arguments, "scaler": None}) is nullcontext


def config(head: str) -> dict[str, object]:
    return {"Architecture": {"Head": {"name": head}}}


def test_each_kind_of_head_is_taught_in_its_way() -> None:
    s, t = (paddle.to_tensor(normal(2, 5, 11, seed=seed)) for seed in (11, 12))
    ctc, attention = lessons.averaged_over_time(s, t), lessons.decoupled(s, t)

    def of(head: str, student: object, teacher: object, labelled: bool = True) -> list[float]:
        return [float(term) for term in taught(config(head), student, teacher, labelled)]

    assert of("CTCHead", s, t) == of("CTCHead", (t, s), (s, t)) == [float(ctc)]
    assert of("CTCHead", {"head_out": s}, {"head_out": t}) == [float(ctc)]
    both = ({"ctc": s, "ctc_neck": t, "gtc": s}, {"ctc": t, "ctc_neck": s, "gtc": t})
    assert of("MultiHead", *both) == [float(ctc), float(attention)]
    assert of("MultiHead", *both, labelled=False) == [float(ctc)]
    maps = [paddle.nn.functional.sigmoid(x).unsqueeze(1) for x in (s, t)]
    three = [paddle.concat([m, 0 * m, 0 * m], axis=1) for m in maps]
    shown = float(lessons.soft_maps(maps[0][:, 0], maps[1][:, 0]))
    assert of("DBHead", {"maps": three[0]}, {"maps": three[1]}) == [shown]
    assert of("EASTHead", {"f_score": s}, {"f_score": t}) == []


def test_what_cannot_be_taught_is_refused() -> None:
    require_teachable(config("EASTHead"), DistillOptions(features=True), False, "x.yml")
    with pytest.raises(PruneError, match=r"x\.yml: Prune\.recovery\.distill: what EASTHead answ"):
        require_teachable(config("EASTHead"), DistillOptions(features=False), False, "x.yml")
    require_teachable(config("MultiHead"), DistillOptions(), True, "x.yml")
    with pytest.raises(PruneError, match=r"Prune\.recovery\.unlabelled: SARHead reads labels"):
        require_teachable(config("SARHead"), DistillOptions(), True, "x.yml")
