"""Topologies of recognisers: attention, layer norm, recurrent layers, sizes in the code."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from fixtures_topologies import Net, check, conv, frozen, members, places
from paddle import nn

from ppocr_prune_plugin import surgery
from ppocr_prune_plugin.graph.channels import ChannelGraph
from ppocr_prune_plugin.graph.flow import compress
from ppocr_prune_plugin.graph.groups import build_graph
from ppocr_prune_plugin.graph.rules.shape import _reshaped
from ppocr_prune_plugin.plan import GroupPlan

TOKENS = (1, 5, 6)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same weights in every run, alone or among other tests."""
    paddle.seed(3)


def attributes(graph: ChannelGraph) -> set[tuple[str, str]]:
    return {(item.layer, item.name) for item in graph.attributes}


class Attention(nn.Layer):
    """Heads as SVTR has them: one projection for q, k and v, sizes held by the layer."""

    def __init__(self, width: int, heads: int, inside: int) -> None:
        super().__init__()
        self.heads, self.inside, self.depth = heads, inside, inside // heads
        self.unused = heads
        self.qkv, self.proj = nn.Linear(width, 3 * inside), nn.Linear(inside, width)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        qkv = self.qkv(x).reshape([0, -1, 3, self.heads, self.depth])
        q, k, v = qkv.transpose([2, 0, 3, 1, 4]).unbind(0)
        scores = F.softmax(paddle.matmul(q * self.depth**-0.5, k, transpose_y=True), axis=-1)
        x = paddle.matmul(scores, v).transpose([0, 2, 1, 3]).reshape([0, -1, self.inside])
        return self.proj(x)


class Projections(nn.Layer):
    """Heads as translators have them: a projection each, sizes read off the tensors."""

    def __init__(self, width: int, inside: int, heads: int) -> None:
        super().__init__()
        self.heads, self.depth = heads, inside // heads
        self.q, self.k, self.v = (nn.Linear(width, inside) for _ in range(3))
        self.proj = nn.Linear(inside, width)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        def split(y: paddle.Tensor) -> paddle.Tensor:
            return y.reshape([y.shape[0], y.shape[1], -1, self.depth]).transpose([0, 2, 1, 3])

        q, k, v = split(self.q(x)), split(self.k(x)), split(self.v(x))
        scores = F.softmax(q @ k.transpose([0, 1, 3, 2]))
        x = (scores @ v).transpose([0, 2, 1, 3]).flatten(2)
        return self.proj(x)


class Block(nn.Layer):
    """A transformer's block."""

    def __init__(self, attention: nn.Layer, width: int, hidden: int) -> None:
        super().__init__()
        self.mixer, self.norm1, self.norm2 = attention, nn.LayerNorm(width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = x + self.mixer(self.norm1(x))
        return self.norm2(x + self.down(F.gelu(self.up(x))))


class Sequence(nn.Layer):
    """A stem, some layers, a head over features."""

    def __init__(self, *layers: nn.Layer, width: int = 8, out: int = 3) -> None:
        super().__init__()
        self.stem, self.layers = nn.Linear(TOKENS[-1], width), nn.LayerList(layers)
        self.head = nn.Linear(width, out)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def test_attention_loses_whole_heads() -> None:
    model = Sequence(Block(Attention(8, 4, 12), 8, 10), Block(Attention(8, 2, 6), 8, 10))
    graph = check(
        model,
        TOKENS,
        **{
            "stem": 8,
            "layers.0.mixer.qkv": 4,
            "layers.0.up": 10,
            "layers.1.mixer.qkv": 2,
            "layers.1.up": 10,
        },
    )
    assert places(graph, "layers.0.mixer.qkv", "layers.0.mixer.qkv.weight", 1)[1] == [
        *(3, 4, 5),
        *(15, 16, 17),
        *(27, 28, 29),
    ]
    assert places(graph, "layers.0.mixer.qkv", "layers.0.mixer.proj.weight", 0)[1] == [3, 4, 5]
    assert {("layers.0.mixer", "heads"), ("layers.1.mixer", "heads")} <= attributes(graph)
    undo = surgery.prune(model, graph, [GroupPlan("layers.0.mixer.qkv", 4, (0, 2, 3), 3)])
    mixer = model.layers[0].mixer
    assert (mixer.heads, mixer.inside, mixer.depth, mixer.unused) == (3, 9, 3, 4)
    assert type(mixer) is Attention
    assert model.layers[1].mixer.heads == 2
    surgery.restore(model, undo)
    assert (mixer.heads, mixer.inside, mixer.depth) == (4, 12, 3)


def test_attention_of_three_projections() -> None:
    model = Sequence(Block(Projections(8, 12, 4), 8, 10))
    graph = check(model, TOKENS, **{"stem": 8, "layers.0.mixer.q": 4, "layers.0.up": 10})
    assert places(graph, "layers.0.mixer.q", "layers.0.mixer.v.weight", 1)[2] == [6, 7, 8]
    assert not graph.attributes  # the code reads the number of heads off the tensors


def test_attention_with_heads_in_the_code_is_kept() -> None:
    class Fixed(Attention):
        def forward(self, x: paddle.Tensor) -> paddle.Tensor:
            q, k, v = self.qkv(x).reshape([0, -1, 3, 4, 3]).transpose([2, 0, 3, 1, 4]).unbind(0)
            scores = F.softmax(paddle.matmul(q, k, transpose_y=True), axis=-1)
            return self.proj(paddle.matmul(scores, v).transpose([0, 2, 1, 3]).flatten(2))

    model = Sequence(Block(Fixed(8, 4, 12), 8, 10))
    del model.layers[0].mixer.heads
    graph = check(model, TOKENS, **{"stem": 8, "layers.0.up": 10})
    assert "size in the model's code" in frozen(graph)["layers.0.mixer.qkv"][1]


def test_attention_of_one_head() -> None:
    """Without heads, queries and keys lose the same channels, values others."""

    def forward(net: Net, x: paddle.Tensor) -> paddle.Tensor:
        scores = F.softmax(paddle.bmm(net.q(x), net.k(x).transpose([0, 2, 1])))
        return net.head(paddle.bmm(scores, net.v(x)))

    layers = {"q": nn.Linear(6, 4), "k": nn.Linear(6, 4), "v": nn.Linear(6, 5)}
    graph = check(Net(forward, **layers, head=nn.Linear(5, 3)), TOKENS, q=4, v=5)
    assert ("k.weight", 1, "out") in members(graph, "q")


def test_attention_over_channels_is_kept() -> None:
    def forward(net: Net, x: paddle.Tensor) -> paddle.Tensor:
        tokens = paddle.flatten(net.stem(x), 2)
        scores = F.softmax(paddle.matmul(tokens, tokens, transpose_y=True))
        return net.head(paddle.matmul(scores, tokens).transpose([0, 2, 1]))

    graph = check(Net(forward, stem=conv(3, 8), head=nn.Linear(8, 2)))
    assert "both carry channels" in frozen(graph)["stem"][1]


def test_layer_norm_over_channels() -> None:
    def forward(net: Net, x: paddle.Tensor) -> paddle.Tensor:
        return net.head(net.norm(net.stem(x)))

    model = Net(forward, stem=nn.Linear(6, 8), norm=nn.LayerNorm(8), head=nn.Linear(8, 2))
    graph = check(model, TOKENS, stem=8)
    assert ("norm.weight", 0, "affine") in members(graph, "stem")
    surgery.prune(model, graph, [GroupPlan("stem", 8, (1, 2, 5), 3)])
    assert model.norm._normalized_shape == [3]


def test_layer_norm_over_pixels_keeps_nothing() -> None:
    def forward(net: Net, x: paddle.Tensor) -> paddle.Tensor:
        return net.head(net.norm(net.stem(x)))

    check(Net(forward, stem=conv(3, 8), norm=nn.LayerNorm(8), head=conv(8, 2)), stem=8)


def test_layer_norm_over_channels_and_pixels_is_kept() -> None:
    def forward(net: Net, x: paddle.Tensor) -> paddle.Tensor:
        return net.head(net.norm(net.stem(x)))

    graph = check(Net(forward, stem=conv(3, 4), norm=nn.LayerNorm([4, 8, 8]), head=conv(4, 2)))
    assert "several axes" in frozen(graph)["stem"][1]


def test_group_norm() -> None:
    def forward(net: Net, x: paddle.Tensor) -> paddle.Tensor:
        return net.head(net.norm(net.stem(x)))

    model = Net(forward, stem=conv(3, 8), norm=nn.GroupNorm(2, 8), head=conv(8, 2))
    graph = build_graph(model, [((1, 3, 8, 8), "float32")])
    assert places(graph, "stem", "norm.weight", 0) == [[i, i + 4] for i in range(4)]
    surgery.prune(model, graph, [GroupPlan("stem", 4, (1, 3), 2)])
    assert model(paddle.randn([1, 3, 8, 8])).shape == [1, 2, 8, 8]
    assert model.norm._num_channels == 4


def test_instance_norm_and_prelu() -> None:
    def forward(net: Net, x: paddle.Tensor) -> paddle.Tensor:
        return net.head(net.act(net.norm(net.stem(x))))

    layers = {"norm": nn.InstanceNorm2D(8), "act": nn.PReLU(8)}
    graph = check(Net(forward, stem=conv(3, 8), **layers, head=conv(8, 2)), stem=8)
    assert {("norm.scale", 0, "affine"), ("act._weight", 0, "affine")} <= members(graph, "stem")


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.SimpleRNN])
def test_input_of_a_recurrent_layer(kind: Any) -> None:
    def forward(net: Net, x: paddle.Tensor) -> paddle.Tensor:
        return net.head(net.rnn(net.stem(x))[0])

    rnn = kind(8, 4, num_layers=2, direction="bidirectional")
    model = Net(forward, stem=nn.Linear(6, 8), rnn=rnn, head=nn.Linear(8, 3))
    graph = check(model, TOKENS, stem=8)
    readers = {("rnn.weight_ih_l0", 1, "in"), ("rnn.weight_ih_l0_reverse", 1, "in")}
    assert (
        members(graph, "stem") == {("stem.weight", 1, "out"), ("stem.bias", 0, "affine")} | readers
    )
    assert "keeps its hidden size" in frozen(graph)["rnn"][1]
    surgery.prune(model, graph, [GroupPlan("stem", 8, (1, 2, 5), 3)])
    assert rnn.input_size == 3


def test_unrolled_cell() -> None:
    """A cell in a Python loop: the code cuts its gates into equal parts; the state starts fixed."""

    def forward(net: Net, x: paddle.Tensor) -> paddle.Tensor:
        x, state, seen = net.stem(x), paddle.zeros([1, 4]), []
        for step in range(x.shape[1]):
            out, state = net.cell(x[:, step], state)
            seen.append(out)
        return net.head(paddle.stack(seen, axis=1))

    model = Net(forward, stem=nn.Linear(6, 8), cell=nn.GRUCell(8, 4), head=nn.Linear(4, 3))
    check(model, TOKENS, stem=8)


def test_reshape_with_a_size_in_the_code_is_kept() -> None:
    def forward(net: Net, x: paddle.Tensor) -> paddle.Tensor:
        return net.head(F.relu(net.stem(x)).reshape([-1, 8, 64]).transpose([0, 2, 1]))

    graph = check(Net(forward, stem=conv(3, 8), head=nn.Linear(8, 2)))
    assert frozen(graph)["stem"] == (8, "reshape has a size in the model's code")


def test_reshape_with_a_size_in_a_list_of_the_layer() -> None:
    class Stages(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.widths, self.pixels = [6, 10], (8, 8)
            self.first, self.second, self.head = conv(3, 6), conv(6, 10), conv(10, 2)

        def forward(self, x: paddle.Tensor) -> paddle.Tensor:
            x = F.relu(self.first(x)).flatten(2)
            x = F.relu(self.second(x.reshape([0, self.widths[0], *self.pixels]))).flatten(2)
            return self.head(x.reshape([0, self.widths[1], *self.pixels]))

    model = Stages()
    graph = check(model, first=6, second=10)
    undo = surgery.prune(
        model, graph, [GroupPlan("first", 6, (0, 5), 2), GroupPlan("second", 10, (1, 2, 3), 3)]
    )
    assert model.widths == [2, 3] and model.pixels == (8, 8)
    surgery.restore(model, undo)
    assert model.widths == [6, 10]


def test_reshape_with_sizes_of_the_tensor() -> None:
    def forward(net: Net, x: paddle.Tensor) -> paddle.Tensor:
        x = F.relu(net.stem(x))
        n, c, h, w = x.shape
        return net.head(x.reshape([n, c, h * w]).transpose([0, 2, 1]))

    check(Net(forward, stem=conv(3, 8), head=nn.Linear(8, 2)), stem=8)


def test_maps_under_another_shape_are_those_of_the_whole_tensor() -> None:
    """Reshaped without being spread out, and as if they had been."""
    shapes = [
        ((2, 3, 4), (2, 12)), ((2, 12), (2, 3, 4)), ((2, 3, 4), (3, 2, 4)), ((6, 4), (1, 6, 1, 4)),
        ((1, 6, 1, 4, 1), (6, 4)), ((6, 4), (4, 6)), ((2, 1, 3, 4), (6, 2, 2)), ((1, 1), (1,)),
        ((5, 2, 3, 4), (5, 6, 2, 2)),
    ]  # fmt: skip
    for before, after in shapes:
        for along in itertools.product((False, True), repeat=len(before)):
            own = [size if long else 1 for size, long in zip(before, along, strict=True)]
            maps = np.arange(np.prod(own)).reshape(own)
            whole = np.broadcast_to(maps, before).reshape(after)
            found = _reshaped(maps, before, after)
            assert found.ndim == len(after) and found.size <= whole.size
            assert np.array_equal(np.broadcast_to(found, after), whole)
            assert np.array_equal(compress(found), compress(whole))
    tall = _reshaped(np.arange(8).reshape(1, 1, 8), (4096, 4096, 8), (4096, 64, 64, 2, 4))
    assert tall.shape == (1, 1, 1, 2, 4)


def test_reshape_with_the_size_of_another_tensor_is_kept() -> None:
    def forward(net: Net, x: paddle.Tensor) -> paddle.Tensor:
        x = F.relu(net.stem(x))
        a, b = F.relu(net.a(x)), net.b(x)
        tokens = b.reshape([0, a.shape[1], -1]).transpose([0, 2, 1])
        return net.left(a).flatten(2).transpose([0, 2, 1]) + net.right(tokens)

    layers = {
        "stem": conv(3, 4),
        "a": conv(4, 8),
        "b": conv(4, 8),
        "left": conv(8, 2),
        "right": nn.Linear(8, 2),
    }
    graph = check(Net(forward, **layers), stem=4)
    assert "size in the model's code" in frozen(graph)["b"][1]
    assert "cannot be traced when it is narrower" in frozen(graph)["a"][1]


def test_a_line_of_code_used_by_several_layers() -> None:
    """What one line of the code fixes is fixed wherever it runs; the rest is cut."""

    class Fold(nn.Layer):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.conv = conv(width, 8)

        def forward(self, x: paddle.Tensor) -> paddle.Tensor:
            return F.relu(self.conv(x)).reshape([-1, 8, 8, 8])

    layers = {"stem": conv(3, 6), "a": Fold(6), "b": Fold(8), "head": conv(8, 2)}
    graph = check(Net(lambda net, x: net.head(net.b(net.a(net.stem(x)))), **layers), stem=6)
    assert {"a.conv", "b.conv"} <= set(frozen(graph))


def test_embedding_keeps_its_vocabulary() -> None:
    def forward(net: Net, x: paddle.Tensor) -> paddle.Tensor:
        return net.head(net.table(paddle.to_tensor([[1, 4, 2, 2, 0]])) + net.stem(x))

    layers = {"table": nn.Embedding(7, 8), "stem": nn.Linear(6, 8), "head": nn.Linear(8, 3)}
    graph = check(Net(forward, **layers), TOKENS, table=8)
    assert ("table.weight", 1, "out") in members(graph, "table")
    assert not any(m.parameter == "table.weight" and m.axis == 0 for m in graph["table"].members)


def test_parameter_that_is_a_view() -> None:
    """A buffer made by transposing is not contiguous."""

    def forward(net: Net, x: paddle.Tensor) -> paddle.Tensor:
        return net.head(net.stem(x) + net.stem.offset)

    stem = nn.Linear(6, 8)
    stem.register_buffer("offset", paddle.randn([5, 1, 8]).transpose([1, 0, 2]))
    graph = check(Net(forward, stem=stem, head=nn.Linear(8, 3)), TOKENS, stem=8)
    assert ("stem.offset", 2, "affine") in members(graph, "stem")


def test_tied_embedding_is_kept() -> None:
    def forward(net: Net, x: paddle.Tensor) -> paddle.Tensor:
        words = net.table(paddle.to_tensor([[1, 4, 2, 2, 0]]))
        return paddle.matmul(net.body(words), net.table.weight.transpose([1, 0])) + net.stem(x)

    layers = {"table": nn.Embedding(7, 8), "body": nn.Linear(8, 8), "stem": nn.Linear(6, 7)}
    graph = check(Net(forward, **layers), TOKENS)
    assert {"table", "body"} <= set(frozen(graph))


def test_conv1d() -> None:
    """Paddle runs it as a convolution of images of height 1, on a view of the kernel."""

    def forward(net: Net, x: paddle.Tensor) -> paddle.Tensor:
        return net.head(F.relu(net.body(net.stem(x))))

    layers = {"stem": nn.Conv1D(5, 8, 1), "body": nn.Conv1D(8, 6, 1), "head": nn.Conv1D(6, 2, 1)}
    check(Net(forward, **layers), TOKENS, stem=8, body=6)


def test_operations_on_data_alone_are_not_unknown() -> None:
    def forward(net: Net, x: paddle.Tensor) -> paddle.Tensor:
        mask = F.one_hot(paddle.argmax(x, axis=-1), 8).astype("float32")
        mask = paddle.renorm(paddle.cumsum(mask, axis=1), 2.0, 0, 1.0).unsqueeze(-1)[:, :, 0]
        return net.head(net.stem(x) * mask)

    graph = check(Net(forward, stem=nn.Linear(6, 8), head=nn.Linear(8, 3)), TOKENS, stem=8)
    assert graph.unknown == {}
