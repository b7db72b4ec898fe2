"""Which channel of which value comes from which channel of which parameter.

Every index along every axis of a parameter is an *atom* (an integer). A value carries a *channel
map*: an array of atoms with one dimension per dimension of the value, of size 1 where the atoms do
not change along it. Rules hand channel maps from operands to results and *couple* atoms that have
to be removed together; what has to stay is *frozen*, with the reason. Connected components of the
coupled atoms are what :mod:`.groups` cuts.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from .trace import Op, Program, Value

Atoms = npt.NDArray[np.int64]

NEUTRAL = -1  # no parameter stands behind it and nothing is asked of it: a scalar, a batch axis

OUT = "out"  # the axis holds filters: what a convolution or a linear layer produces
IN = "in"  # the axis is summed over
AFFINE = "affine"  # one number (or one depthwise kernel) per channel


class ChannelFlow:
    """Channel maps of a program's values, and the constraints between atoms that rules found."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.spans: dict[tuple[str, int], int] = {}
        self.count = 0
        for name, shape in program.parameter_shapes.items():
            for axis, size in enumerate(shape):
                self.spans[name, axis] = self.count
                self.count += size
        self.roles: dict[tuple[str, int], dict[str, int]] = {}
        self.multipliers: dict[str, int] = {}
        self._maps: dict[Value, Atoms] = {}
        self._lists: dict[Value, list[Atoms]] = {}
        self._aliases: dict[Value, Value] = {}
        self._claimed: set[str] = set()
        self._joined: list[tuple[Atoms, Atoms]] = []
        self._frozen: list[tuple[Atoms, str]] = []
        self._summed: list[Atoms] = []
        self._step = 0

    # -- atoms of parameters -------------------------------------------------------------------

    def axis_atoms(self, parameter: str, axis: int, role: str) -> Atoms:
        """Atoms along an axis of a parameter; an axis of size 1 has none to remove."""
        size = self.program.parameter_shapes[parameter][axis]
        self._claimed.add(parameter)
        if size == 1:
            return np.full(1, NEUTRAL, dtype=np.int64)
        self.roles.setdefault((parameter, axis), {}).setdefault(role, self._step)
        return self.spans[parameter, axis] + np.arange(size, dtype=np.int64)

    def couple_axis(self, atoms: Atoms, parameter: Value, axis: int, role: str, op: Op) -> None:
        """Couple channels of a value, 1-D, with an axis of a parameter, index by index."""
        assert parameter.parameter is not None
        own = self.axis_atoms(parameter.parameter, axis, role)
        self.couple(own, atoms)
        self.freeze(own[(atoms == NEUTRAL) & (own != NEUTRAL)], f"{where(op)} reads fixed channels")

    # -- maps of values ----------------------------------------------------------------------

    def channel_map(self, value: Value, tracked: Iterable[int] = ()) -> Atoms:
        """Channel map of a value. A parameter that is used as it is has one along its only axis
        longer than 1, or else along the only one of its axes in ``tracked`` that is."""
        if value in self._maps:
            return self._maps[value]
        ndim = len(value.shape or ())
        shape = [1] * ndim
        if value.parameter is not None and value.shape is not None:
            long = [axis for axis, size in enumerate(value.shape) if size > 1]
            wanted = [axis for axis in long if axis in set(tracked)]
            axes = wanted if len(long) > 1 else long
            if len(axes) == 1:
                shape[axes[0]] = value.shape[axes[0]]
                return self.axis_atoms(value.parameter, axes[0], AFFINE).reshape(shape)
        return np.full(shape, NEUTRAL, dtype=np.int64)

    def set_channel_map(self, value: Value, maps: Atoms) -> None:
        """Give a value its maps, reduced to the axes along which they change."""
        assert value.shape is not None and maps.ndim == len(value.shape)
        self._maps[value] = compress(maps)

    def set_alias(self, value: Value, source: Value) -> None:
        """A value is a parameter (or another alias of it) under the same first two axes, all
        others of which have kept their order: a convolution's kernel with an axis of size 1 more.
        """
        source = self.resolve(source)
        if source.parameter is not None and source.shape and value.shape:
            if value.shape[:2] == source.shape[:2] and len(source.shape) > 1:
                self._aliases[value] = source
                self._maps.pop(value, None)

    def resolve(self, value: Value) -> Value:
        """The parameter that a value is an alias of, or the value itself."""
        return self._aliases.get(value, value)

    def channel_maps(self, value: Value) -> list[Atoms] | None:
        """Channel maps of the members of a list of tensors."""
        return self._lists.get(value)

    def set_channel_maps(self, value: Value, maps: list[Atoms]) -> None:
        """Give the members of a list of tensors their channel maps."""
        self._lists[value] = [compress(member) for member in maps]

    def channels(self, value: Value, axis: int, op: Op) -> Atoms:
        """Atoms along one axis, 1-D, one per index; what runs along other axes is fixed."""
        assert value.shape is not None
        axis %= len(value.shape)
        maps = self.channel_map(value, (axis,))
        others = tuple(k for k in range(maps.ndim) if k != axis and maps.shape[k] > 1)
        if others:
            self.freeze(maps, f"{where(op)} mixes the axes that these channels run along")
            maps = maps.max(axis=others, keepdims=True)
        return np.broadcast_to(maps.reshape(-1), (value.shape[axis],)).copy()

    def along(self, ndim: int, axis: int, atoms: Atoms) -> Atoms:
        """1-D atoms as the maps of a value with ``ndim`` axes that change along ``axis``."""
        shape = [1] * ndim
        shape[axis % ndim] = len(atoms)
        return atoms.reshape(shape)

    def freeze_axis(self, maps: Atoms, axis: int, reason: str) -> None:
        """The axis must not become shorter: cut along the others, or not at all."""
        axis %= maps.ndim
        if maps.shape[axis] == 1:
            return
        if all(size == 1 for k, size in enumerate(maps.shape) if k != axis):
            self.freeze(maps, reason)
        else:
            first = np.broadcast_to(maps.take([0], axis=axis), maps.shape)
            self.couple(first, maps)

    # -- constraints ---------------------------------------------------------------------------

    def couple(self, a: Atoms, b: Atoms) -> None:
        """Atoms at the same place are removed together."""
        a, b = np.broadcast_arrays(a, b)
        mask = (a != NEUTRAL) & (b != NEUTRAL) & (a != b)
        if mask.any():
            self._joined.append((a[mask], b[mask]))

    def couple_rows(self, rows: Atoms, op: Op) -> None:
        """Rows of channels, 2-D, that have to stay equally wide: what stays in one of them stays
        in all."""
        self.couple(rows.max(axis=0, keepdims=True), rows)
        self.freeze(rows[:, (rows == NEUTRAL).any(axis=0)], f"{where(op)} meets channels that stay")

    def freeze(self, atoms: Atoms, reason: str) -> None:
        """These atoms stay."""
        atoms = np.unique(atoms)
        atoms = atoms[atoms != NEUTRAL]
        if atoms.size:
            self._frozen.append((atoms, reason))

    def sum_over(self, atoms: Atoms) -> None:
        """An operation without parameters sums over these channels (which it has joined)."""
        self._summed.append(atoms[atoms != NEUTRAL])

    def freeze_value(self, value: Value, reason: str) -> None:
        """Everything that reaches this value stays."""
        for member in value.elements or ():
            self.freeze_value(member, reason)
        for maps in self._lists.get(value, ()):
            self.freeze(maps, reason)
        if value.parameter is not None and value.shape is not None:
            for axis in range(len(value.shape)):
                self.freeze(self.axis_atoms(value.parameter, axis, AFFINE), reason)
        elif value in self._maps:
            self.freeze(self._maps[value], reason)

    def next_step(self) -> None:
        """Called before each operation, so that roles remember who came first."""
        self._step += 1
        self._claimed = set()

    def is_neutral(self, value: Value) -> bool:
        """No channels of any parameter run through a value: input data, a mask, a number."""
        if value.parameter is not None or value in self._aliases:
            return False
        lists = self._lists.get(value, [])
        own = self._maps.get(value)
        return (
            all(self.is_neutral(member) for member in value.elements or ())
            and all(bool((maps == NEUTRAL).all()) for maps in lists)
            and (own is None or bool((own == NEUTRAL).all()))
        )

    def freeze_unclaimed(self, op: Op) -> None:
        """After a rule: parameters with several axes about which it has said nothing stay."""
        for value in op.inputs:
            for member in (value, *(value.elements or ())) if value is not None else ():
                source = self.resolve(member)
                aliased = any(self.resolve(output) is source for output in op.outputs)
                if source.parameter is not None and source.parameter not in self._claimed:
                    if not aliased:
                        self.freeze_value(
                            source, f"{where(op)} uses it in a way that no rule explains"
                        )

    # -- at other widths -----------------------------------------------------------------------

    def atoms_of(self, value: Value) -> Atoms:
        """The atoms that run through a value, each once."""
        found = [self._maps[value].reshape(-1)] if value in self._maps else []
        found += [maps.reshape(-1) for maps in self._lists.get(value, ())]
        found += [self.atoms_of(member) for member in value.elements or ()]
        atoms: Atoms = np.unique(np.concatenate([np.full(1, NEUTRAL, dtype=np.int64), *found]))
        return atoms[atoms != NEUTRAL]

    def shape_after(self, value: Value, removed: npt.NDArray[np.bool_]) -> tuple[int, ...] | None:
        """Shape of a value when these atoms (a mask over all) are gone; None if not known."""
        maps = self._maps.get(value)
        if maps is None or value.shape is None:
            return None
        left = (maps == NEUTRAL) | ~removed[maps]
        shape = list(value.shape)
        for axis, size in enumerate(maps.shape):
            if size > 1:
                others = tuple(k for k in range(maps.ndim) if k != axis)
                shape[axis] = int(left.any(axis=others).sum())
        return tuple(shape)

    # -- result --------------------------------------------------------------------------------

    def frozen(self) -> list[tuple[Atoms, str]]:
        """What was fixed, and why, in the order of the program."""
        return self._frozen

    def summed(self) -> Atoms:
        """What :meth:`sum_over` was told of."""
        return np.unique(np.concatenate([np.empty(0, dtype=np.int64), *self._summed]))

    def components(self) -> Atoms:
        """Component of each atom, after settling values that are cut along several axes."""
        while True:
            maps = self._components()
            if not self._settle(maps):
                return maps

    def _components(self) -> Atoms:
        maps = np.arange(self.count, dtype=np.int64)
        if not self._joined:
            return maps
        a = np.concatenate([pair[0] for pair in self._joined])
        b = np.concatenate([pair[1] for pair in self._joined])
        while True:
            left, right = maps[a], maps[b]
            open_ = left != right
            if not open_.any():
                return maps
            low = np.minimum(left, right)[open_]
            high = np.maximum(left, right)[open_]
            np.minimum.at(maps, high, low)
            while True:
                shorter = maps[maps]
                if np.array_equal(shorter, maps):
                    break
                maps = shorter

    def _settle(self, component: Atoms) -> bool:
        """A tensor stays rectangular only when it is cut along one axis: keep the longest."""
        changed = False
        for maps in self._maps.values():
            if sum(size > 1 for size in maps.shape) < 2:
                continue
            classes = compress(np.where(maps == NEUTRAL, NEUTRAL, component[maps]))
            varying = [axis for axis, size in enumerate(classes.shape) if size > 1]
            if len(varying) < 2:
                continue
            kept = max(varying, key=lambda axis: classes.shape[axis])
            for axis in varying:
                if axis != kept:
                    self.couple(np.broadcast_to(maps.take([0], axis=axis), maps.shape), maps)
                    changed = True
        return changed


def compress(maps: Atoms) -> Atoms:
    """Shrink to size 1 every axis along which the maps do not change."""
    for axis, size in enumerate(maps.shape):
        if size > 1:
            first, second = (maps[(slice(None),) * axis + (slice(k, k + 1),)] for k in (0, 1))
            # Most maps that change do so at once, which two of their slices show.
            if bool((first == second).all()) and bool((maps == first).all()):
                maps = first.copy()  # no view: what it is a part of may be large
    return maps


def where(op: Op) -> str:
    """Name an operation for people: ``mean in DBFPN/ASFBlock``."""
    return f"{op.name} in {op.layer}" if op.layer else op.name
