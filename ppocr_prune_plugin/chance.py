"""Run a network as it trains, but without chance."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import paddle

_SEED = 0


@contextmanager
def without_chance(model: paddle.nn.Layer) -> Iterator[None]:
    """In this block layers that only drop something at random let everything through, and what else
    is random in the network (inside other layers' code) is the same in every block and process.

    The generators of Paddle, NumPy and Python go on afterwards where they were.
    """
    droppers = [(layer, layer.training) for layer in model.sublayers() if only_drops(layer)]
    own = [(generator, generator.bit_generator.state) for generator in _generators(model)]
    with chance_of_its_own():
        try:
            for layer, _ in droppers:
                layer.training = False
            for generator, _ in own:
                generator.bit_generator.state = type(generator.bit_generator)(_SEED).state
            paddle.seed(_SEED)
            np.random.seed(_SEED)
            random.seed(_SEED)
            yield
        finally:
            for layer, training in droppers:
                layer.training = training
            for generator, state in own:
                generator.bit_generator.state = state


@contextmanager
def chance_of_its_own() -> Iterator[None]:
    """The generators of Paddle, NumPy and Python go on after this block where they were before."""
    states = paddle.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        paddle.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


def only_drops(layer: paddle.nn.Layer) -> bool:
    """Whether a layer is ``Dropout``, ``DropPath`` or what else is named like them and learns
    nothing."""
    return "drop" in type(layer).__name__.lower() and not layer.state_dict()


def _generators(model: paddle.nn.Layer) -> list[np.random.Generator]:
    """NumPy's generators that layers have for themselves (PARSeq draws permutations)."""
    values = [v for layer in model.sublayers(include_self=True) for v in vars(layer).values()]
    return [value for value in values if isinstance(value, np.random.Generator)]
