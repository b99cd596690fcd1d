"""Sixteen float32 lanes as one value in Numba code.

Loops that a compiler may or may not vectorise are no ground to build on, so the scan's kernels spell their vectors out.
LLVM maps the sixteen lanes to one AVX-512, two AVX or four SSE/NEON registers. No fast-math flag is set: NaN and
infinities follow IEEE 754, and sums keep their order; only multiply-adds may fuse.

Memory is named by its address, an integer: Numba counts references to arrays, and inside a loop that costs more than
the arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import njit
from numba.core import types
from numba.extending import intrinsic, models, register_model

#: Compiles a function of the kernels.
compiled = njit(nogil=True, cache=True, error_model="numpy")
ZERO, ONE = np.float32(0), np.float32(1)
#: Bytes of a float.
FLOAT = 4
#: Lanes of one vector: channels that are worked on together.
LANES = 16

_F32 = ir.FloatType()
_I32 = ir.IntType(32)
_VEC = ir.VectorType(_F32, LANES)
_IVEC = ir.VectorType(_I32, LANES)

_LOG2E = math.log2(math.e)
#: ln 2 in two parts; products of the first with small integers are exact in float32.
_LN2_HIGH, _LN2_LOW = 0.693359375, math.log(2.0) - 0.693359375
#: Whether the processor splits a float into whole and rest, and scales by a power of two, in one instruction each.
_SCALES = bool(binding.get_host_cpu_features().get("avx512dq"))
#: Adding it to a float32 leaves the rounded integer, plus the 126 of the exponent field, in the low bits.
_ROUND = 1.5 * 2**23 + 126


class Lanes(types.Type):
    """Numba's name for the vector."""

    def __init__(self) -> None:
        super().__init__(name="Lanes16f32")


lanes = Lanes()


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):  # type: ignore[misc]  # numba has no types
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _VEC)


def _fit(function: Any, low: float, high: float, degree: int) -> list[float]:
    """Coefficients, constant first, of the polynomial through the Chebyshev points: close to the best one."""
    fitted = np.polynomial.chebyshev.Chebyshev.interpolate(function, degree, domain=[low, high])
    return [float(c) for c in fitted.convert(kind=np.polynomial.Polynomial).coef]


_EXP2 = _fit(np.exp2, -0.5, 0.5, 6)
_EXP = _fit(np.exp, -0.5 * math.log(2.0) - 1e-6, 0.5 * math.log(2.0) + 1e-6, 6)
#: log1p(w) = s p(s^2) with s = w / (2 + w) up to 1/3: 2 atanh(s) / s.
_ATANH = _fit(lambda q: 2 * np.arctanh(np.sqrt(q)) / np.sqrt(q), 1e-9, 1 / 9, 5)


class _Vectors:
    """Writes vector instructions."""

    def __init__(self, builder: Any) -> None:
        self.b = builder

    def constant(self, value: float) -> Any:
        return ir.Constant(_VEC, [float(np.float32(value))] * LANES)

    def call(self, name: str, *args: Any) -> Any:
        kind = ir.FunctionType(_VEC, [_VEC] * len(args))
        function = self.b.module.declare_intrinsic(f"llvm.{name}.v{LANES}f32", (), kind)
        return self.b.call(function, args)

    def fma(self, x: Any, y: Any, z: Any) -> Any:
        return self.call("fmuladd", x, y, z)

    def at_least(self, low: float, x: Any) -> Any:
        """The larger of two; NaN stays."""
        return self.b.select(self.b.fcmp_ordered("<", x, self.constant(low)), self.constant(low), x)

    def at_most(self, high: float, x: Any) -> Any:
        return self.b.select(self.b.fcmp_ordered(">", x, self.constant(high)), self.constant(high), x)

    def polynomial(self, x: Any, coefficients: list[float]) -> Any:
        total = self.constant(coefficients[-1])
        for c in reversed(coefficients[:-1]):
            total = self.fma(total, x, self.constant(c))
        return total

    def _scale(self, rounded: Any) -> Any:
        """2^(n - 1) from n + 126 in the low bits; 0 for n = -126, so that twice it flushes what is below 2^-125.5."""
        bits = self.b.bitcast(rounded, _IVEC)
        return self.b.bitcast(self.b.shl(bits, ir.Constant(_IVEC, [23] * LANES)), _VEC)

    def _avx512(self, name: str, *args: Any) -> Any:
        """One instruction on all sixteen lanes, in the current rounding mode."""
        everywhere, as_set = ir.Constant(ir.IntType(16), -1), ir.Constant(_I32, 4)
        args = (*args, ir.Constant(_VEC, ir.Undefined), everywhere, as_set)
        kind = ir.FunctionType(_VEC, [a.type for a in args])
        full = f"llvm.x86.avx512.mask.{name}.ps.512"
        function = self.b.module.globals.get(full) or ir.Function(self.b.module, kind, full)
        return self.b.call(function, args)

    def exp2(self, x: Any) -> Any:
        if _SCALES:
            rest = self._avx512("reduce", x, ir.Constant(_I32, 0))  # what rounding x to an integer leaves
            return self._avx512("scalef", self.polynomial(rest, _EXP2), self.b.fsub(x, rest))
        x = self.at_most(129.0, self.at_least(-126.0, x))
        rounded = self.b.fadd(x, self.constant(_ROUND))
        rest = self.b.fsub(x, self.b.fsub(rounded, self.constant(_ROUND)))
        return self.b.fmul(self.polynomial(rest, [2 * c for c in _EXP2]), self._scale(rounded))

    def exp(self, x: Any) -> Any:
        """Of arguments up to 0 or a little above; more careful with large ones than exp2 of a product."""
        x = self.at_most(89.0, self.at_least(-87.3, x))
        rounded = self.fma(x, self.constant(_LOG2E), self.constant(_ROUND))
        n = self.b.fsub(rounded, self.constant(_ROUND))
        rest = self.fma(n, self.constant(-_LN2_LOW), self.fma(n, self.constant(-_LN2_HIGH), x))
        return self.b.fmul(self.polynomial(rest, [2 * c for c in _EXP]), self._scale(rounded))

    def sigmoid(self, x: Any) -> Any:
        one = self.constant(1.0)
        return self.b.fdiv(one, self.b.fadd(one, self.exp(self.b.fneg(x))))

    def softplus(self, x: Any) -> Any:
        """log(1 + exp(x)), and x itself above 20."""
        small = self.exp(self.b.fneg(self.call("fabs", x)))
        s = self.b.fdiv(small, self.b.fadd(self.constant(2.0), small))
        log1p = self.b.fmul(s, self.polynomial(self.b.fmul(s, s), _ATANH))
        return self.b.select(
            self.b.fcmp_ordered(">", x, self.constant(20.0)), x, self.b.fadd(self.at_least(0.0, x), log1p)
        )

    def softplus_slope(self, x: Any) -> Any:
        one = self.constant(1.0)
        return self.b.select(self.b.fcmp_ordered(">", x, self.constant(20.0)), one, self.sigmoid(x))

    def shuffle(self, x: Any, y: Any, picks: list[int]) -> Any:
        return self.b.shuffle_vector(x, y, ir.Constant(_IVEC, picks))


def _element(builder: Any, address: Any, index: Any) -> Any:
    """Pointer to an element of the floats that start at an address."""
    return builder.gep(builder.inttoptr(address, _F32.as_pointer()), [index])


def _vector(builder: Any, address: Any, index: Any) -> Any:
    """Pointer to the sixteen floats from an element on."""
    return builder.bitcast(_element(builder, address, index), _VEC.as_pointer())


def _integer(builder: Any, address: Any, index: Any) -> Any:
    """Pointer to an element of the 64-bit integers that start at an address."""
    return builder.gep(builder.inttoptr(address, ir.IntType(64).as_pointer()), [index])


def _splat(builder: Any, value: Any) -> Any:
    blank = ir.Constant(_VEC, ir.Undefined)
    first = builder.insert_element(blank, value, ir.Constant(_I32, 0))
    return _Vectors(builder).shuffle(first, blank, [0] * LANES)


_INT, _FLOAT, _NOTHING = types.int64, types.float32, types.none


def _intrinsic(result: Any, *kinds: Any) -> Callable[[Callable[..., Any]], Any]:
    """A Numba intrinsic of arguments of these kinds, from what writes its instructions: (builder, *arguments)."""

    def decorate(emit: Callable[..., Any]) -> Any:
        def write(context: Any, builder: Any, _: Any, args: Any) -> Any:
            value = emit(builder, *args)
            return context.get_dummy_value() if result is _NOTHING else value

        @wraps(emit)  # numba reads names and number of the arguments off it
        def typed(_: Any, *args: Any) -> Any:
            return result(*kinds), write

        return intrinsic(typed)

    return decorate


@_intrinsic(lanes, _INT, _INT)
def load(builder: Any, address: Any, index: Any) -> Any:
    """Sixteen of the floats at an address, from an element on."""
    return builder.load(_vector(builder, address, index), align=4)


@_intrinsic(_FLOAT, _INT, _INT)
def get(builder: Any, address: Any, index: Any) -> Any:
    """One of the floats at an address."""
    return builder.load(_element(builder, address, index))


@_intrinsic(_NOTHING, _INT, _INT, _FLOAT)
def put(builder: Any, address: Any, index: Any, value: Any) -> None:
    """Write one float."""
    builder.store(value, _element(builder, address, index))


@_intrinsic(_NOTHING, _INT, _INT, lanes)
def store(builder: Any, address: Any, index: Any, value: Any) -> None:
    """Write sixteen floats, from an element on."""
    builder.store(value, _vector(builder, address, index), align=4)


@_intrinsic(_INT, _INT, _INT)
def number(builder: Any, address: Any, index: Any) -> Any:
    """One of the 64-bit integers at an address."""
    return builder.load(_integer(builder, address, index))


@_intrinsic(_NOTHING, _INT, _INT, _INT)
def put_number(builder: Any, address: Any, index: Any, value: Any) -> None:
    """Write one 64-bit integer."""
    builder.store(value, _integer(builder, address, index))


@_intrinsic(_NOTHING, _INT, _INT)
def prefetch(builder: Any, address: Any, index: Any) -> None:
    """Ask for the cache line of one of the floats at an address, for reading."""
    byte = ir.IntType(8).as_pointer()
    name, kind = "llvm.prefetch.p0", ir.FunctionType(ir.VoidType(), [byte, _I32, _I32, _I32])
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    at = builder.bitcast(_element(builder, address, index), byte)
    builder.call(function, [at, *(ir.Constant(_I32, n) for n in (0, 3, 1))])  # a read, to keep close, of data


@_intrinsic(lanes, _FLOAT)
def splat(builder: Any, value: Any) -> Any:
    """One float in all lanes."""
    return _splat(builder, value)


@_intrinsic(lanes, _INT, _INT)
def spread(builder: Any, address: Any, index: Any) -> Any:
    """One element in all lanes."""
    return _splat(builder, builder.load(_element(builder, address, index)))


def _operation(emit: Callable[..., Any], text: str) -> Any:
    """A function of vectors to a vector."""
    emit.__doc__ = text
    return _intrinsic(lanes, *[lanes] * (len(signature(emit).parameters) - 1))(emit)


add = _operation(lambda b, x, y: b.fadd(x, y), "x + y.")
sub = _operation(lambda b, x, y: b.fsub(x, y), "x - y.")
mul = _operation(lambda b, x, y: b.fmul(x, y), "x y.")
fma = _operation(lambda b, x, y, z: _Vectors(b).fma(x, y, z), "x y + z.")
exp2 = _operation(lambda b, x: _Vectors(b).exp2(x), "2^x.")
sigmoid = _operation(lambda b, x: _Vectors(b).sigmoid(x), "1 / (1 + exp(-x)).")
softplus = _operation(lambda b, x: _Vectors(b).softplus(x), "log(1 + exp(x)); x itself above 20.")
softplus_slope = _operation(lambda b, x: _Vectors(b).softplus_slope(x), "Derivative of softplus.")


@_intrinsic(_NOTHING, *[_INT] * 6)
def transpose(builder: Any, source: Any, start: Any, stride: Any, target: Any, begin: Any, step: Any) -> None:
    """Copy sixteen rows of sixteen floats, transposed; rows start ``stride`` and ``step`` elements apart."""
    v = _Vectors(builder)
    rows, where = [], start
    for _row in range(LANES):
        rows.append(builder.load(_vector(builder, source, where), align=4))
        where = builder.add(where, stride)
    low = [k for i in range(LANES // 2) for k in (i, LANES + i)]
    high = [k for i in range(LANES // 2, LANES) for k in (i, LANES + i)]
    half = LANES // 2
    for _round in range(4):  # a perfect shuffle of the rows' elements, four times, is the transpose
        pairs = [(rows[i], rows[i + half]) for i in range(half)]
        rows = [v.shuffle(x, y, picks) for x, y in pairs for picks in (low, high)]
    where = begin
    for row in rows:
        builder.store(row, _vector(builder, target, where), align=4)
        where = builder.add(where, step)


@_intrinsic(lanes, _INT, _INT)
def sum_rows(builder: Any, address: Any, start: Any) -> Any:
    """Sum each of sixteen vectors that lie one after the other: lane i holds the sum of vector i."""
    v = _Vectors(builder)
    even, odd = list(range(0, 2 * LANES, 2)), list(range(1, 2 * LANES, 2))
    rows = []
    for i in range(LANES):
        where = builder.add(start, ir.Constant(ir.IntType(64), i * LANES))
        rows.append(builder.load(_vector(builder, address, where), align=4))
    while len(rows) > 1:
        pairs = zip(rows[::2], rows[1::2], strict=True)
        rows = [builder.fadd(v.shuffle(x, y, even), v.shuffle(x, y, odd)) for x, y in pairs]
    return rows[0]
