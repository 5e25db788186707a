"""Operations of the sweeps on vectors of lanes, given to numba as LLVM instructions.

The loop vectoriser of LLVM takes some of these loops and leaves others to scalar code twenty times
as slow; written as vectors they are what they are, on every machine, and compile faster.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

WIDTH = 16
"""Lanes of a vector; LLVM makes as many of the machine's own vectors of it as it takes."""

_FUSED = ("contract",)


class _Vector:
    """Values of lanes while code is made."""

    def __init__(self, builder: ir.IRBuilder, value: ir.Value) -> None:
        self.builder, self.value = builder, value

    def of(self, value: ir.Value) -> _Vector:
        return _Vector(self.builder, value)

    def constant(self, number: float) -> _Vector:
        return self.of(ir.Constant(self.value.type, [number] * WIDTH))

    def _operand(self, other: _Vector | float) -> ir.Value:
        return (other if isinstance(other, _Vector) else self.constant(other)).value

    def __add__(self, other: _Vector | float) -> _Vector:
        return self.of(self.builder.fadd(self.value, self._operand(other), flags=_FUSED))

    def __sub__(self, other: _Vector | float) -> _Vector:
        return self.of(self.builder.fsub(self.value, self._operand(other), flags=_FUSED))

    def __mul__(self, other: _Vector | float) -> _Vector:
        return self.of(self.builder.fmul(self.value, self._operand(other), flags=_FUSED))

    def __truediv__(self, other: _Vector | float) -> _Vector:
        return self.of(self.builder.fdiv(self.value, self._operand(other), flags=_FUSED))

    def where(self, sign: str, bound: _Vector | float, other: _Vector | float) -> _Vector:
        """These values where they are `sign` than a bound, and others elsewhere."""
        return self.choose(sign, bound, self, other)

    def choose(
        self, sign: str, bound: _Vector | float, yes: _Vector | float, no: _Vector | float
    ) -> _Vector:
        """One value where these are `sign` than a bound, another elsewhere and at NaN."""
        found = self.builder.fcmp_ordered(sign, self.value, self._operand(bound))
        return self.of(self.builder.select(found, self._operand(yes), self._operand(no)))

    def least(self, other: _Vector) -> _Vector:
        return self.where("<", other, other)

    def most(self, other: _Vector) -> _Vector:
        return self.where(">", other, other)

    def polynomial(self, coefficients: Sequence[float]) -> _Vector:
        """The highest power's coefficient stands first."""
        value = self.constant(coefficients[0])
        for coefficient in coefficients[1:]:
            value = value * self + coefficient
        return value

    @property
    def single(self) -> bool:
        return isinstance(self.value.type.element, ir.FloatType)

    def exp(self) -> _Vector:
        """``exp`` of values from `_Limits.floor` to 0; exactly 0 at the floor.

        2^n is made in the exponent's bits, and is 0 for the floor's n; of the rest, at most
        log(2)/2 in size, a polynomial.
        """
        bits, mantissa, bias, degree = (32, 23, 127, 5) if self.single else (64, 52, 1023, 11)
        whole = ir.VectorType(ir.IntType(bits), WIDTH)
        # The nearest integer ends up in the lowest bits.
        shift = 1.5 * 2.0**mantissa
        shifted = self * (1 / math.log(2)) + shift
        rest = self - (shifted - shift) * math.log(2)
        power = self.builder.bitcast(shifted.value, whole)
        power = self.builder.shl(power, ir.Constant(whole, [mantissa] * WIDTH))
        power = self.builder.add(power, ir.Constant(whole, [bias << mantissa] * WIDTH))
        half = math.log(2) / 2
        series = rest.polynomial(_fitted(np.exp, degree, -half, half))
        return series * self.of(self.builder.bitcast(power, self.value.type))

    def log(self) -> _Vector:
        """``log`` of values from 1 to 3: ``log c + 2 artanh((x - c)/(x + c))`` with c = √3."""
        centre = math.sqrt(3)
        ratio = (self - centre) / (self + centre)
        square = ratio * ratio
        most = ((3 - centre) / (3 + centre)) ** 2
        degree = 4 if self.single else 9
        series = square.polynomial(_fitted(_artanh_of_root, degree, 0.0, most))
        return ratio * series + math.log(centre)


def _artanh_of_root(square: np.ndarray) -> np.ndarray:
    """``2 artanh(√x) / √x``."""
    root = np.sqrt(square)
    ratio: np.ndarray = 2 * np.arctanh(root) / root
    return ratio


def _fitted(
    function: Callable[[np.ndarray], np.ndarray], degree: int, low: float, high: float
) -> list[float]:
    """Coefficients, the highest power's first, that meet a function in Chebyshev's points."""
    fit = np.polynomial.Chebyshev.interpolate(function, degree, domain=[low, high])
    return [float(x) for x in fit.convert(kind=np.polynomial.Polynomial).coef[::-1]]


class _Limits(NamedTuple):
    """The numbers that every operation is given."""

    gamma: _Vector
    inverse: _Vector
    """1 / gamma."""
    big: _Vector
    """Infinity."""
    floor: _Vector
    """The exponent whose exponential is 0."""
    tiny: _Vector
    """Shares up to here count for nothing; below, numbers would be slow."""


Three = tuple[_Vector, _Vector, _Vector]
Lanes = Sequence[_Vector]


def _exponents(three: Three, at: _Limits) -> tuple[_Vector, Lanes]:
    """The least, and each one's exponent relative to it, no less than the floor."""
    low = three[0].least(three[1]).least(three[2])
    return low, [((low - x) * at.inverse).most(at.floor) for x in three]


def _log_sum(three: Three, at: _Limits) -> _Vector:
    """``-γ log Σ exp(-x/γ)``; sorted, since the least one's exponential is 1."""
    a, b, c = three
    low, high = a.least(b), a.most(b)
    low, middle, high = low.least(c), low.most(c).least(high), high.most(c)
    rest = [((low - x) * at.inverse).most(at.floor).exp() for x in (middle, high)]
    return low - at.gamma * (rest[0] + rest[1] + 1.0).log()


def _mean(three: Three, at: _Limits) -> _Vector:
    """``Σ p x`` with ``p = softmax(-x/γ)``."""
    low, (u, v, w) = _exponents(three, at)
    p, q, r = u.exp(), v.exp(), w.exp()
    return low - at.gamma * ((p * u + q * v + r * w) / (p + q + r))


def _softmax(three: Three, at: _Limits) -> Lanes:
    """The derivatives of `_log_sum`."""
    parts = [x.exp() for x in _exponents(three, at)[1]]
    inverse = parts[0].constant(1.0) / (parts[0] + parts[1] + parts[2])
    return [part * inverse for part in parts]


def _tilted(three: Three, at: _Limits) -> Lanes:
    """The derivatives of `_mean`: ``p (1 - (x - Σ p x)/γ)``; they sum to 1, too."""
    exponents, parts = _exponents(three, at)[1], _softmax(three, at)
    (u, v, w), (p, q, r) = exponents, parts
    more = u.constant(1.0) - (p * u + q * v + r * w)
    return [p * (u + more), q * (v + more), r * (w + more)]


_SOFT_MIN = {False: _log_sum, True: _mean}
_SHARES = {False: _softmax, True: _tilted}


def _judged(cost: _Vector, bad: _Vector, at: _Limits) -> tuple[_Vector, _Vector]:
    """A cost no greater than infinity, and a mark that becomes NaN with one that is NaN or -inf."""
    cost = cost.choose(">", at.big, at.big, cost)
    return cost, cost * 0.0 + bad


def _forward(probability: bool, lanes: Lanes, at: _Limits) -> Lanes:
    cost, bad, *three = lanes
    cost, bad = _judged(cost, bad, at)
    return [bad, (cost + _SOFT_MIN[probability]((three[0], three[1], three[2]), at)).least(at.big)]


def _forward_drop(probability: bool, lanes: Lanes, at: _Limits) -> Lanes:
    bad, shown = _forward(probability, lanes[:5], at)
    drop, bad = _judged(lanes[5], bad, at)
    whole = _SOFT_MIN[probability]((shown, drop + lanes[2], at.big), at)
    return [bad, shown, whole.least(at.big)]


def _counting(share: _Vector, at: _Limits) -> _Vector:
    return share.choose(">", at.tiny, share, share.choose("<", at.tiny * -1.0, share, 0.0))


def _backward(probability: bool, lanes: Lanes, at: _Limits) -> Lanes:
    from_up, from_left, from_corner, *three = lanes
    share = _counting(from_up + from_left + from_corner, at)
    parts = _SHARES[probability]((three[0], three[1], three[2]), at)
    return [share, *(share * part for part in parts)]


def _backward_drop(probability: bool, lanes: Lanes, at: _Limits) -> Lanes:
    from_up, from_left, from_corner, up, left, corner, shown, drop = lanes
    drop = drop.least(at.big)
    either = from_up + from_corner
    p, q, _ = _SHARES[probability]((shown, drop + up, at.big), at)
    share, dropped = _counting(either * p + from_left, at), _counting(either * q, at)
    p, q, r = (share * part for part in _SHARES[probability]((up, left, corner), at))
    return [share, p + dropped, q, r, dropped]


def _operation(
    compute: Callable[[bool, Lanes, _Limits], Lanes], reads: int, probability: bool
) -> Any:
    """A function of compiled code: (lanes, offsets, n, limits) for `WIDTH` lanes from n on.

    `lanes` are all rows of lanes one after another, `offsets` where those begin that are read and
    then those that are written.
    """

    @intrinsic
    def operation(_: Any, lanes: Any, offsets: Any, n: Any, limits: Any) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
            array = context.make_array(lanes)(context, builder, values[0])
            kind = context.get_value_type(lanes.dtype)
            vector = ir.VectorType(kind, WIDTH)

            def place(number: int) -> ir.Value:
                start = builder.add(builder.extract_value(values[1], number), values[2])
                return builder.bitcast(builder.gep(array.data, [start]), vector.as_pointer())

            def spread(value: ir.Value) -> _Vector:
                one = builder.insert_element(
                    ir.Constant(vector, ir.Undefined), value, ir.Constant(ir.IntType(32), 0)
                )
                first = ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), [0] * WIDTH)
                return _Vector(builder, builder.shuffle_vector(one, one, first))

            size = 4 if isinstance(kind, ir.FloatType) else 8
            given = [
                _Vector(builder, builder.load(place(number), align=size)) for number in range(reads)
            ]
            at = _Limits(*(spread(builder.extract_value(values[3], i)) for i in range(5)))
            for number, result in enumerate(compute(probability, given, at)):
                builder.store(result.value, place(reads + number), align=size)
            return context.get_dummy_value()

        return types.void(lanes, offsets, n, limits), generate

    return operation


log_sum, mean = (_operation(_forward, 5, probability) for probability in (False, True))
log_sum_drop, mean_drop = (_operation(_forward_drop, 6, p) for p in (False, True))
log_sum_shares, mean_shares = (_operation(_backward, 6, p) for p in (False, True))
log_sum_drop_shares, mean_drop_shares = (_operation(_backward_drop, 8, p) for p in (False, True))
