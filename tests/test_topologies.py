"""One small network per topology: what is cut together, what stays, and that pruning is right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import paddle
import paddle.nn.functional as F
import pytest
from fixtures_topologies import Net, check, conv, frozen, members, places
from paddle import nn

from ppocr_prune_plugin import surgery
from ppocr_prune_plugin.plan import GroupPlan


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same weights in every run, alone or among other tests."""
    paddle.seed(3)


def test_residual_sum() -> None:
    def forward(net: Net, x: paddle.Tensor) -> paddle.Tensor:
        x = net.stem(x)
        return net.head(F.relu(x + net.norm(net.body(x))))

    layers = {"stem": conv(3, 8), "body": conv(8, 8), "norm": nn.BatchNorm2D(8), "head": conv(8, 2)}
    graph = check(Net(forward, **layers), stem=8)
    assert members(graph, "stem") == {
        ("stem.weight", 0, "out"),
        ("stem.bias", 0, "affine"),
        ("body.weight", 0, "out"),
        ("body.weight", 1, "in"),
        ("body.bias", 0, "affine"),
        *((f"norm.{name}", 0, "affine") for name in ("weight", "bias", "_mean", "_variance")),
        ("head.weight", 1, "in"),
    }


def test_concat_then_conv() -> None:
    def forward(net: Net, x: paddle.Tensor) -> paddle.Tensor:
        return net.head(F.relu(paddle.concat([net.a(x), net.b(x)], axis=1)))

    graph = check(Net(forward, a=conv(3, 4), b=conv(3, 6), head=conv(10, 2)), a=4, b=6)
    assert places(graph, "a", "head.weight", 1) == [[i] for i in range(4)]
    assert places(graph, "b", "head.weight", 1) == [[i] for i in range(4, 10)]


def test_concat_then_split() -> None:
    """Halves of the concatenation stay equal; b's first and last channel meet only each other."""

    def forward(net: Net, x: paddle.Tensor) -> paddle.Tensor:
        left, right = paddle.split(paddle.concat([net.a(x), net.b(x)], axis=1), 2, axis=1)
        return net.left(left) + net.right(right)

    layers = {"a": conv(3, 4), "b": conv(3, 6), "left": conv(5, 2), "right": conv(5, 2)}
    graph = check(Net(forward, **layers), a=4)
    assert places(graph, "a", "b.weight", 0) == [[1], [2], [3], [4]]
    assert frozen(graph)["b"] == (2, "its channels can only be removed all at once")


def test_split_evenly() -> None:
    def forward(net: Net, x: paddle.Tensor) -> paddle.Tensor:
        left, right = paddle.split(net.stem(x), 2, axis=1)
        return net.head(left * F.sigmoid(right))

    graph = check(Net(forward, stem=conv(3, 8), head=conv(4, 2)), stem=4)
    assert places(graph, "stem", "stem.weight", 0) == [[0, 4], [1, 5], [2, 6], [3, 7]]


def test_split_by_sizes_is_kept() -> None:
    def forward(net: Net, x: paddle.Tensor) -> paddle.Tensor:
        left, right = paddle.split(net.stem(x), [2, 6], axis=1)
        return net.left(left) + net.right(right)

    graph = check(Net(forward, stem=conv(3, 8), left=conv(2, 2), right=conv(6, 2)))
    assert "sizes in the model's code" in frozen(graph)["stem"][1]


def test_slice_of_channels_is_kept() -> None:
    def forward(net: Net, x: paddle.Tensor) -> paddle.Tensor:
        return net.head(net.stem(x)[:, :4])

    graph = check(Net(forward, stem=conv(3, 8), head=conv(4, 2)))
    assert frozen(graph)["stem"][0] == 8 and "by number" in frozen(graph)["stem"][1]


def test_slice_of_pixels_keeps_nothing() -> None:
    def forward(net: Net, x: paddle.Tensor) -> paddle.Tensor:
        return net.head(net.stem(x)[:, :, 2:5, 1:])

    check(Net(forward, stem=conv(3, 8), head=conv(8, 2)), stem=8)


def test_depthwise_chain() -> None:
    def forward(net: Net, x: paddle.Tensor) -> paddle.Tensor:
        return net.head(F.hardswish(net.norm(net.depth(F.relu(net.point(x))))))

    layers = {
        "point": conv(3, 8),
        "depth": conv(8, 8, kernel=3, groups=8, padding=1),
        "norm": nn.BatchNorm2D(8),
        "head": conv(8, 2),
    }
    model = Net(forward, **layers)
    graph = check(model, point=8)
    assert ("depth.weight", 0, "affine") in members(graph, "point")
    surgery.prune(model, graph, [GroupPlan("point", 8, (1, 4, 6), 3)])
    assert (model.depth._groups, model.depth._in_channels, model.depth._out_channels) == (3, 3, 3)
    assert model.norm._num_features == 3 and model.head._in_channels == 3


def test_depthwise_multiplier() -> None:
    def forward(net: Net, x: paddle.Tensor) -> paddle.Tensor:
        return net.head(F.relu(net.depth(net.stem(x))))

    layers = {"stem": conv(3, 4), "depth": conv(4, 8, groups=4), "head": conv(8, 2)}
    model = Net(forward, **layers)
    graph = check(model, stem=4)
    assert places(graph, "stem", "depth.weight", 0) == [[0, 1], [2, 3], [4, 5], [6, 7]]
    surgery.prune(model, graph, [GroupPlan("stem", 4, (0, 1, 3), 3)])
    assert (model.depth._groups, model.depth._in_channels, model.depth._out_channels) == (3, 3, 6)


def test_grouped_conv() -> None:
    """Groups stay equally wide on both sides."""

    def forward(net: Net, x: paddle.Tensor) -> paddle.Tensor:
        return net.head(F.relu(net.body(net.stem(x))))

    model = Net(forward, stem=conv(3, 8), body=conv(8, 12, groups=2), head=conv(12, 2))
    graph = check(model, stem=4, body=6)
    assert places(graph, "stem", "stem.weight", 0) == [[i, i + 4] for i in range(4)]
    assert places(graph, "stem", "body.weight", 1) == [[i] for i in range(4)]
    assert places(graph, "body", "body.weight", 0) == [[i, i + 6] for i in range(6)]


def test_transposed_conv() -> None:
    def forward(net: Net, x: paddle.Tensor) -> paddle.Tensor:
        return net.head(F.relu(net.norm(net.up(net.stem(x)))))

    layers = {
        "stem": conv(3, 8),
        "up": nn.Conv2DTranspose(8, 6, 2, stride=2),
        "norm": nn.BatchNorm2D(6),
        "head": conv(6, 2),
    }
    graph = check(Net(forward, **layers), stem=8, up=6)
    assert ("up.weight", 0, "in") in members(graph, "stem")
    assert ("up.weight", 1, "out") in members(graph, "up")


def test_transposed_grouped_and_depthwise_conv() -> None:
    def forward(net: Net, x: paddle.Tensor) -> paddle.Tensor:
        return net.head(F.relu(net.depth(net.grouped(net.stem(x)))))

    layers = {
        "stem": conv(3, 8),
        "grouped": nn.Conv2DTranspose(8, 6, 2, stride=2, groups=2),
        "depth": nn.Conv2DTranspose(6, 6, 2, stride=2, groups=6),
        "head": conv(6, 2),
    }
    model = Net(forward, **layers)
    graph = check(model, stem=4, grouped=3)
    assert places(graph, "grouped", "depth.weight", 0) == [[0, 3], [1, 4], [2, 5]]
    surgery.prune(model, graph, [GroupPlan("grouped", 3, (1,), 1)])
    assert model.depth._groups == 2 and model.grouped._out_channels == 2


def test_residual_through_se() -> None:
    """The squeeze's own filters are a group; the gate goes with the channels that it scales."""

    def forward(net: Net, x: paddle.Tensor) -> paddle.Tensor:
        x = net.stem(x)
        gate = F.adaptive_avg_pool2d(x, 1)
        gate = F.hardsigmoid(net.expand(F.relu(net.squeeze(gate))))
        return net.head(x + x * gate)

    layers = {
        "stem": conv(3, 8),
        "squeeze": conv(8, 4),
        "expand": conv(4, 8),
        "head": conv(8, 2),
    }
    graph = check(Net(forward, **layers), stem=8, squeeze=4)
    assert ("expand.weight", 0, "out") in members(graph, "stem")
    assert ("squeeze.weight", 1, "in") in members(graph, "stem")


def test_flatten_to_linear() -> None:
    def forward(net: Net, x: paddle.Tensor) -> paddle.Tensor:
        return net.last(F.relu(net.first(paddle.flatten(net.stem(x), 1))))

    layers = {"stem": conv(3, 8, stride=2), "first": nn.Linear(8 * 16, 6), "last": nn.Linear(6, 2)}
    graph = check(Net(forward, **layers), stem=8, first=6)
    assert places(graph, "stem", "first.weight", 0)[1] == list(range(16, 32))


def test_channel_shuffle() -> None:
    def forward(net: Net, x: paddle.Tensor) -> paddle.Tensor:
        x = net.stem(x)
        n, c, h, w = x.shape
        x = paddle.transpose(x.reshape([n, 2, c // 2, h, w]), [0, 2, 1, 3, 4])
        return net.head(F.relu(x.reshape([n, c, h, w])))

    graph = check(Net(forward, stem=conv(3, 8), head=conv(8, 2)), stem=4)
    assert places(graph, "stem", "stem.weight", 0) == [[i, i + 4] for i in range(4)]
    assert places(graph, "stem", "head.weight", 1) == [[2 * i, 2 * i + 1] for i in range(4)]


def test_shared_conv_used_twice() -> None:
    """Both of its inputs lose the same channels, and it has one output axis."""

    def forward(net: Net, x: paddle.Tensor) -> paddle.Tensor:
        both = F.relu(net.shared(net.a(x))) - net.shared(net.b(x))
        return net.head(both)

    layers = {"a": conv(3, 8), "b": conv(3, 8), "shared": conv(8, 6), "head": conv(6, 2)}
    graph = check(Net(forward, **layers), a=8, shared=6)
    assert ("b.weight", 0, "out") in members(graph, "a")


def test_shared_conv_that_also_reads_fixed_channels() -> None:
    def forward(net: Net, x: paddle.Tensor) -> paddle.Tensor:
        fixed = paddle.full([1, 8, 8, 8], 2.0)
        return net.head(F.relu(net.shared(net.stem(x))) - net.shared(fixed))

    graph = check(Net(forward, stem=conv(3, 8), shared=conv(8, 6), head=conv(6, 2)), shared=6)
    assert "reads fixed channels" in frozen(graph)["stem"][1]


def test_linear_over_pixels_is_kept() -> None:
    """A linear layer along another axis than the one that the channels run along."""

    def forward(net: Net, x: paddle.Tensor) -> paddle.Tensor:
        tokens = net.pixels(paddle.flatten(net.stem(x), 2))
        return net.head(paddle.transpose(tokens, [0, 2, 1]))

    layers = {"stem": conv(3, 8), "pixels": nn.Linear(64, 5), "head": nn.Linear(8, 2)}
    graph = check(Net(forward, **layers))
    assert "mixes the axes" in frozen(graph)["stem"][1]


def test_two_outputs() -> None:
    def forward(net: Net, x: paddle.Tensor) -> dict[str, Any]:
        x = F.relu(net.stem(x))
        return {"maps": net.maps(x), "others": [net.classes(x)]}

    graph = check(Net(forward, stem=conv(3, 8), maps=conv(8, 4), classes=conv(8, 5)), stem=8)
    assert frozen(graph) == {
        "maps": (4, "it is an output of the network"),
        "classes": (5, "it is an output of the network"),
    }


def test_unknown_op_freezes() -> None:
    def forward(net: Net, x: paddle.Tensor) -> paddle.Tensor:
        return net.head(paddle.renorm(net.stem(x), 2.0, 0, 1.0) + net.other(x))

    graph = check(Net(forward, stem=conv(3, 8), other=conv(3, 8), head=conv(8, 2)))
    assert graph.unknown == {"renorm": 1}
    assert frozen(graph)["stem"] == (8, "renorm: no rule for this operation")
    assert "other" in frozen(graph)


def test_mean_over_channels_is_kept() -> None:
    def forward(net: Net, x: paddle.Tensor) -> paddle.Tensor:
        x = net.stem(x)
        return net.head(x.mean(axis=[2, 3], keepdim=True)) * x.mean(axis=1, keepdim=True)

    graph = check(Net(forward, stem=conv(3, 8), head=conv(8, 2)))
    assert "reduces over the channels" in frozen(graph)["stem"][1]


def test_what_runs_over_channels_is_kept() -> None:
    cases: dict[str, Callable[[paddle.Tensor], paddle.Tensor]] = {
        "softmax": lambda x: F.softmax(x, axis=1),
        "cumsum": lambda x: paddle.cumsum(x, axis=1),
        "cumsum of all": lambda x: paddle.cumsum(x).reshape(x.shape),
        "argmax": lambda x: x * paddle.argmax(x, axis=1, keepdim=True).astype("float32"),
        "argmax of all": lambda x: x * paddle.argmax(x).astype("float32"),
        "max": lambda x: x - x.max(),
    }
    for name, function in cases.items():

        def forward(net: Net, x: paddle.Tensor, run: Any = function) -> paddle.Tensor:
            return net.head(run(net.stem(x)))

        graph = check(Net(forward, stem=conv(3, 8), head=conv(8, 2)))
        assert frozen(graph)["stem"][0] == 8, name


def test_softmax_over_pixels_keeps_nothing() -> None:
    def forward(net: Net, x: paddle.Tensor) -> paddle.Tensor:
        return net.head(F.softmax(net.stem(x), axis=-1))

    check(Net(forward, stem=conv(3, 8), head=conv(8, 2)), stem=8)


def test_constant_of_channel_size_is_kept() -> None:
    def forward(net: Net, x: paddle.Tensor) -> paddle.Tensor:
        return net.head(net.stem(x) * paddle.full([1, 8, 1, 1], 2.0))

    graph = check(Net(forward, stem=conv(3, 8), head=conv(8, 2)))
    assert "tensor of fixed size" in frozen(graph)["stem"][1]


def test_constant_joined_to_the_pixels_is_kept() -> None:
    def forward(net: Net, x: paddle.Tensor) -> paddle.Tensor:
        return net.head(paddle.concat([net.stem(x), paddle.zeros([x.shape[0], 8, 1, 8])], axis=2))

    graph = check(Net(forward, stem=conv(3, 8), head=conv(8, 2)))
    assert "tensor of fixed size" in frozen(graph)["stem"][1]


def test_concat_of_pixels_joins_channels() -> None:
    def forward(net: Net, x: paddle.Tensor) -> paddle.Tensor:
        return net.head(F.relu(paddle.concat([net.a(x), net.b(x)], axis=3)))

    graph = check(Net(forward, a=conv(3, 8), b=conv(3, 8), head=conv(8, 2)), a=8)
    assert ("b.weight", 0, "out") in members(graph, "a")


def test_parameter_of_channel_size_goes_with_its_channels() -> None:
    class Scaled(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = conv(3, 8), conv(8, 2)
            self.gamma = self.create_parameter([1, 8, 1, 1])
            self.register_buffer("offset", paddle.randn([8, 1, 1]))

        def forward(self, x: paddle.Tensor) -> paddle.Tensor:
            return self.head(F.relu(self.stem(x) * self.gamma + self.offset))

    graph = check(Scaled(), stem=8)
    assert {("gamma", 1, "affine"), ("offset", 0, "affine")} <= members(graph, "stem")


def test_product_of_activations_is_kept() -> None:
    def forward(net: Net, x: paddle.Tensor) -> paddle.Tensor:
        tokens = paddle.flatten(net.stem(x), 2)
        return net.head(paddle.matmul(tokens, tokens, transpose_y=True))

    graph = check(Net(forward, stem=conv(3, 8), head=nn.Linear(8, 2)))
    assert "two activations" in frozen(graph)["stem"][1]


def test_computed_kernel_is_kept() -> None:
    def forward(net: Net, x: paddle.Tensor) -> paddle.Tensor:
        return net.head(F.conv2d(net.stem(x), F.sigmoid(net.body.weight)))

    graph = check(Net(forward, stem=conv(3, 8), body=conv(8, 6), head=conv(6, 2)))
    assert "computed kernel" in frozen(graph)["stem"][1]


def test_deformable_conv() -> None:
    from paddle.vision.ops import DeformConv2D

    def forward(net: Net, x: paddle.Tensor) -> paddle.Tensor:
        x = net.stem(x)
        return net.head(F.relu(net.body(x, net.offset(x), F.sigmoid(net.mask(x)))))

    layers = {
        "stem": conv(3, 8),
        "offset": conv(8, 18),
        "mask": conv(8, 9),
        "body": DeformConv2D(8, 6, 3, padding=1),
        "head": conv(6, 2),
    }
    graph = check(Net(forward, **layers), stem=8, body=6)
    assert ("body.weight", 1, "in") in members(graph, "stem")
    assert "one channel per tap" in frozen(graph)["offset"][1]
    assert "one channel per tap" in frozen(graph)["mask"][1]


class Branching(nn.Layer):
    """Control flow on tensors: a loop or a condition in the traced program."""

    def __init__(self, loop: bool) -> None:
        super().__init__()
        self.stem, self.body, self.side, self.head = conv(3, 8), conv(8, 8), conv(3, 4), conv(8, 2)
        self.end = conv(4, 2)
        self.loop = loop

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        y = self.stem(x)
        if self.loop:
            count = paddle.zeros([], "int32")
            while count < 2:
                y = F.relu(self.body(y))
                count = count + 1
        elif x.mean() > 0:
            y = self.body(y)
        return self.head(y) + self.end(F.relu(self.side(x)))


def test_what_a_block_captures_is_kept() -> None:
    for loop, name in ((True, "while"), (False, "if")):
        graph = check(Branching(loop), side=4)
        assert set(graph.unknown) == {name}
        assert frozen(graph)["stem"] == (8, f"{name}: no rule for this operation")


def test_channel_last() -> None:
    def forward(net: Net, x: paddle.Tensor) -> paddle.Tensor:
        x = F.relu(net.norm(net.stem(x)))
        return net.head(F.max_pool2d(net.body(x) + x, 2, data_format="NHWC"))

    last = {"data_format": "NHWC"}
    layers = {
        "stem": conv(3, 8, **last),
        "norm": nn.BatchNorm2D(8, **last),
        "body": conv(8, 8, groups=8, **last),
        "head": conv(8, 2, **last),
    }
    graph = check(Net(forward, **layers), shape=(1, 8, 8, 3), stem=8)
    assert ("norm._variance", 0, "affine") in members(graph, "stem")
