"""Which channel of which value comes from which channel of which parameter.

Every index along every axis of a parameter is an *atom* (an integer). A value carries *labels*: an
array of atoms with one dimension per dimension of the value, of size 1 where the atoms do not
change along it. Rules hand labels from operands to results and *join* atoms that have to be
removed together; what has to stay is *fixed*, with the reason. Connected components of the joined
atoms are what :mod:`.groups` cuts.
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
    """Labels of a program's values, and the constraints between atoms that rules have found."""

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
        self._labels: dict[Value, Atoms] = {}
        self._lists: dict[Value, list[Atoms]] = {}
        self._aliases: dict[Value, Value] = {}
        self._claimed: set[str] = set()
        self._joined: list[tuple[Atoms, Atoms]] = []
        self._fixed: list[tuple[Atoms, str]] = []
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

    def bind(self, atoms: Atoms, parameter: Value, axis: int, role: str, op: Op) -> None:
        """Couple channels of a value, 1-D, with an axis of a parameter, index by index."""
        assert parameter.parameter is not None
        own = self.axis_atoms(parameter.parameter, axis, role)
        self.join(own, atoms)
        self.fix(own[(atoms == NEUTRAL) & (own != NEUTRAL)], f"{where(op)} reads fixed channels")

    # -- labels of values ----------------------------------------------------------------------

    def label(self, value: Value, tracked: Iterable[int] = ()) -> Atoms:
        """Labels of a value. Those of a parameter that is used as it is run along its only axis
        longer than 1, or else along the only one of its axes in ``tracked`` that is."""
        if value in self._labels:
            return self._labels[value]
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

    def set_label(self, value: Value, labels: Atoms) -> None:
        """Give a value its labels, reduced to the axes along which they change."""
        assert value.shape is not None and labels.ndim == len(value.shape)
        self._labels[value] = compress(labels)

    def set_alias(self, value: Value, source: Value) -> None:
        """A value is a parameter (or another alias of it) under the same first two axes, all
        others of which have kept their order: a convolution's kernel with an axis of size 1 more.
        """
        source = self.resolve(source)
        if source.parameter is not None and source.shape and value.shape:
            if value.shape[:2] == source.shape[:2] and len(source.shape) > 1:
                self._aliases[value] = source
                self._labels.pop(value, None)

    def resolve(self, value: Value) -> Value:
        """The parameter that a value is an alias of, or the value itself."""
        return self._aliases.get(value, value)

    def list_label(self, value: Value) -> list[Atoms] | None:
        """Labels of the members of a list of tensors."""
        return self._lists.get(value)

    def set_list_label(self, value: Value, labels: list[Atoms]) -> None:
        """Give the members of a list of tensors their labels."""
        self._lists[value] = [compress(member) for member in labels]

    def channels(self, value: Value, axis: int, op: Op) -> Atoms:
        """Atoms along one axis, 1-D, one per index; what runs along other axes is fixed."""
        assert value.shape is not None
        axis %= len(value.shape)
        labels = self.label(value, (axis,))
        others = tuple(k for k in range(labels.ndim) if k != axis and labels.shape[k] > 1)
        if others:
            self.fix(labels, f"{where(op)} mixes the axes that these channels run along")
            labels = labels.max(axis=others, keepdims=True)
        return np.broadcast_to(labels.reshape(-1), (value.shape[axis],)).copy()

    def along(self, ndim: int, axis: int, atoms: Atoms) -> Atoms:
        """1-D atoms as the labels of a value with ``ndim`` axes that change along ``axis``."""
        shape = [1] * ndim
        shape[axis % ndim] = len(atoms)
        return atoms.reshape(shape)

    def keep_whole(self, labels: Atoms, axis: int, reason: str) -> None:
        """The axis must not become shorter: cut along the others, or not at all."""
        axis %= labels.ndim
        if labels.shape[axis] == 1:
            return
        if all(size == 1 for k, size in enumerate(labels.shape) if k != axis):
            self.fix(labels, reason)
        else:
            first = np.broadcast_to(labels.take([0], axis=axis), labels.shape)
            self.join(first, labels)

    # -- constraints ---------------------------------------------------------------------------

    def join(self, a: Atoms, b: Atoms) -> None:
        """Atoms at the same place are removed together."""
        a, b = np.broadcast_arrays(a, b)
        mask = (a != NEUTRAL) & (b != NEUTRAL) & (a != b)
        if mask.any():
            self._joined.append((a[mask], b[mask]))

    def join_rows(self, rows: Atoms, op: Op) -> None:
        """Rows of channels, 2-D, that have to stay equally wide: what stays in one of them stays
        in all."""
        self.join(rows.max(axis=0, keepdims=True), rows)
        self.fix(rows[:, (rows == NEUTRAL).any(axis=0)], f"{where(op)} meets channels that stay")

    def fix(self, atoms: Atoms, reason: str) -> None:
        """These atoms stay."""
        atoms = np.unique(atoms)
        atoms = atoms[atoms != NEUTRAL]
        if atoms.size:
            self._fixed.append((atoms, reason))

    def sum_over(self, atoms: Atoms) -> None:
        """An operation without parameters sums over these channels (which it has joined)."""
        self._summed.append(atoms[atoms != NEUTRAL])

    def fix_value(self, value: Value, reason: str) -> None:
        """Everything that reaches this value stays."""
        for member in value.elements or ():
            self.fix_value(member, reason)
        for labels in self._lists.get(value, ()):
            self.fix(labels, reason)
        if value.parameter is not None and value.shape is not None:
            for axis in range(len(value.shape)):
                self.fix(self.axis_atoms(value.parameter, axis, AFFINE), reason)
        elif value in self._labels:
            self.fix(self._labels[value], reason)

    def next_step(self) -> None:
        """Called before each operation, so that roles remember who came first."""
        self._step += 1
        self._claimed = set()

    def is_neutral(self, value: Value) -> bool:
        """No channels of any parameter run through a value: input data, a mask, a number."""
        if value.parameter is not None or value in self._aliases:
            return False
        lists = self._lists.get(value, [])
        own = self._labels.get(value)
        return (
            all(self.is_neutral(member) for member in value.elements or ())
            and all(bool((labels == NEUTRAL).all()) for labels in lists)
            and (own is None or bool((own == NEUTRAL).all()))
        )

    def fix_unclaimed(self, op: Op) -> None:
        """After a rule: parameters with several axes about which it has said nothing stay."""
        for value in op.inputs:
            for member in (value, *(value.elements or ())) if value is not None else ():
                source = self.resolve(member)
                aliased = any(self.resolve(output) is source for output in op.outputs)
                if source.parameter is not None and source.parameter not in self._claimed:
                    if not aliased:
                        self.fix_value(
                            source, f"{where(op)} uses it in a way that no rule explains"
                        )

    # -- at other widths -----------------------------------------------------------------------

    def atoms_of(self, value: Value) -> Atoms:
        """The atoms that run through a value, each once."""
        found = [self._labels[value].reshape(-1)] if value in self._labels else []
        found += [labels.reshape(-1) for labels in self._lists.get(value, ())]
        found += [self.atoms_of(member) for member in value.elements or ()]
        atoms: Atoms = np.unique(np.concatenate([np.full(1, NEUTRAL, dtype=np.int64), *found]))
        return atoms[atoms != NEUTRAL]

    def shape_after(self, value: Value, removed: npt.NDArray[np.bool_]) -> tuple[int, ...] | None:
        """Shape of a value when these atoms (a mask over all) are gone; None if not known."""
        labels = self._labels.get(value)
        if labels is None or value.shape is None:
            return None
        left = (labels == NEUTRAL) | ~removed[labels]
        shape = list(value.shape)
        for axis, size in enumerate(labels.shape):
            if size > 1:
                others = tuple(k for k in range(labels.ndim) if k != axis)
                shape[axis] = int(left.any(axis=others).sum())
        return tuple(shape)

    # -- result --------------------------------------------------------------------------------

    def fixed(self) -> list[tuple[Atoms, str]]:
        """What was fixed, and why, in the order of the program."""
        return self._fixed

    def summed(self) -> Atoms:
        """What :meth:`sum_over` was told of."""
        return np.unique(np.concatenate([np.empty(0, dtype=np.int64), *self._summed]))

    def components(self) -> Atoms:
        """Component of each atom, after settling values that are cut along several axes."""
        while True:
            labels = self._components()
            if not self._settle(labels):
                return labels

    def _components(self) -> Atoms:
        labels = np.arange(self.count, dtype=np.int64)
        if not self._joined:
            return labels
        a = np.concatenate([pair[0] for pair in self._joined])
        b = np.concatenate([pair[1] for pair in self._joined])
        while True:
            left, right = labels[a], labels[b]
            open_ = left != right
            if not open_.any():
                return labels
            low = np.minimum(left, right)[open_]
            high = np.maximum(left, right)[open_]
            np.minimum.at(labels, high, low)
            while True:
                shorter = labels[labels]
                if np.array_equal(shorter, labels):
                    break
                labels = shorter

    def _settle(self, component: Atoms) -> bool:
        """A tensor stays rectangular only when it is cut along one axis: keep the longest."""
        changed = False
        for labels in self._labels.values():
            if sum(size > 1 for size in labels.shape) < 2:
                continue
            classes = compress(np.where(labels == NEUTRAL, NEUTRAL, component[labels]))
            varying = [axis for axis, size in enumerate(classes.shape) if size > 1]
            if len(varying) < 2:
                continue
            kept = max(varying, key=lambda axis: classes.shape[axis])
            for axis in varying:
                if axis != kept:
                    self.join(np.broadcast_to(labels.take([0], axis=axis), labels.shape), labels)
                    changed = True
        return changed


def compress(labels: Atoms) -> Atoms:
    """Shrink to size 1 every axis along which the labels do not change."""
    for axis, size in enumerate(labels.shape):
        if size > 1:
            first = labels.take([0], axis=axis)
            if bool((labels == first).all()):
                labels = first
    return labels


def where(op: Op) -> str:
    """Name an operation for people: ``mean in DBFPN/ASFBlock``."""
    return f"{op.name} in {op.layer}" if op.layer else op.name
