"""Rank correlation given controls: smooth effects of each control removed, or inside bins.

A control may act in any smooth way. What is removed from ranks is an additive cubic B-spline of the
rank of each control; an effect that is merely linear in ranks would leave the bend of a curve, and
with it a correlation of two variables that are independent given the control.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Integer
from numpy.typing import ArrayLike
from scipy.interpolate import BSpline
from scipy.sparse import csr_array

from dynamics.statistics.bins import tokens_by_bin
from dynamics.statistics.correlation import Correlation, undefined
from dynamics.statistics.ranks import Ranked, Values, finite, rank

FEWEST_TOKENS_IN_BIN = 6
"""Three more than the parameters of a partial correlation inside a bin."""

_CUBIC = 3
_UNEXPLAINED = 1e-10
"""Share of variance below which a variable counts as a function of the controls."""


def spline_degrees(n: int, distinct: int) -> int:
    """Degrees of freedom of the spline of one control.

    The nearest integer to 2 n^(1/4), at most a tenth of the tokens and one less than the values
    that the control takes: 4 at n = 40, 8 at 300, 13 at 1,854, 30 at 50,000. Chosen by simulation
    (docs/statistics-checked.md): fewer leave a bias, more only cost.

    Args:
        n: Number of tokens.
        distinct: Number of different values of the control.
    """
    return min(max(round(2 * n**0.25), 1), max(n // 10, 1), distinct - 1)


@dataclass(frozen=True, eq=False)
class _Spline:
    """B-spline columns of the rank of one control, and their derivatives.

    Attributes:
        ranked: The control.
        columns: Value of each of its functions at each token; they sum to 1.
        slopes: Derivative of each by the mid-distribution function of the control.
    """

    ranked: Ranked
    columns: csr_array
    slopes: csr_array


def _spline(ranked: Ranked, degrees: int) -> _Spline:
    """Return the spline of a control that varies; knots are even in its rank."""
    degree = min(_CUBIC, degrees)
    inner = np.linspace(0, 1, degrees - degree + 2)[1:-1]
    knots = np.concatenate([np.zeros(degree + 1), inner, np.ones(degree + 1)])
    at = ranked.centered + 0.5
    columns = BSpline.design_matrix(at, knots, degree)
    lower = BSpline.design_matrix(at, knots[1:-1], degree - 1)
    # de Boor 1978, ch. X: derivative of sum c_j B_j is sum p (c_j - c_{j-1}) / (t_{j+p} - t_j) B'
    scale = degree / (knots[degree + 1 : -1] - knots[1 : -degree - 1])
    rows = np.arange(len(scale))
    difference = csr_array(
        (np.concatenate([-scale, scale]), (np.tile(rows, 2), np.concatenate([rows, rows + 1])))
    )
    return _Spline(ranked, csr_array(columns), csr_array(lower) @ difference)


@dataclass(frozen=True, eq=False)
class Residual:
    """What the controls leave of one variable's ranks.

    Attributes:
        controls: The controls.
        ranked: The variable.
        values: Residual of its mid-distribution function at each token.
        coefficients: Those of the fitted spline functions, one array for each control.
        explained: Whether the controls leave nothing.
    """

    controls: "Controls"
    ranked: Ranked
    values: Float[np.ndarray, " n"]
    coefficients: list[Float[np.ndarray, " degrees"]]
    explained: bool

    @cached_property
    def variance(self) -> "_Moment":
        """Mean square, and the influence of each token on it."""
        return self.controls.moment(self, self)


class Controls:
    """Variables to hold fixed, prepared once for the partial correlations of many pairs.

    Args:
        controls: k controls of n tokens each, as rows or by name. Constant ones are left out;
            what collinear ones explain is removed once.
        n: Number of tokens, where there may be no controls.
        linear: Whether to remove effects linear in ranks only.

    Raises:
        MeasureError: A value is NaN or infinite.
        ValueError: The controls differ in length.
    """

    def __init__(
        self,
        controls: Mapping[str, Values] | Iterable[Values],
        n: int | None = None,
        *,
        linear: bool = False,
    ) -> None:
        named = controls.items() if isinstance(controls, Mapping) else enumerate(controls)
        ranked = [rank(values, f"control {name}") for name, values in named]
        lengths = {control.n for control in ranked} | ({n} if n is not None else set())
        if len(lengths) > 1:
            raise ValueError(f"the controls differ in length: {sorted(lengths)}")
        self.n = lengths.pop() if lengths else 0
        self._splines = [
            _spline(control, 1 if linear else spline_degrees(self.n, len(control.sizes)))
            for control in ranked
            if not control.is_constant
        ]
        blocks = [spline.columns.toarray() for spline in self._splines]
        design = np.column_stack([np.ones(self.n), *(b - b.mean(axis=0) for b in blocks)])
        left, lengths, right = np.linalg.svd(design, full_matrices=False)
        kept = lengths > np.sqrt(_UNEXPLAINED) * lengths[:1]
        self._basis = left[:, kept]
        self._coefficients = right[kept].T / lengths[kept]
        self._ends = np.cumsum([1, *(block.shape[1] for block in blocks)])

    @property
    def degrees_of_freedom(self) -> int:
        """Parameters of the fitted functions together, without the intercept."""
        return max(self._basis.shape[1] - 1, 0)

    def residual(self, values: "Values | Residual", name: str = "values") -> Residual:
        """Remove the controls from the ranks of a variable; a residual is returned unchanged.

        Args:
            values: n values.
            name: Name of the values in an error message.

        Raises:
            MeasureError: A value is NaN or infinite.
            ValueError: There are not n values.
        """
        if isinstance(values, Residual):
            return values
        ranked = rank(values, name)
        if ranked.n != self.n:
            raise ValueError(f"{name} has {ranked.n} values, the controls have {self.n}")
        projected = self._basis.T @ ranked.centered
        left = ranked.centered - self._basis @ projected
        coefficients = self._coefficients @ projected
        blocks = [coefficients[a:b] for a, b in zip(self._ends, self._ends[1:], strict=False)]
        explained = left @ left <= _UNEXPLAINED * (ranked.centered @ ranked.centered)
        return Residual(self, ranked, left, blocks, bool(explained))

    def spearman(self, x: "Values | Residual", y: "Values | Residual") -> Correlation:
        """Return `partial_spearman` of x and y.

        Raises:
            MeasureError: A value is NaN or infinite.
            ValueError: x or y has not n values.
        """
        x, y = self.residual(x, "x"), self.residual(y, "y")
        n, free = self.n, self.n - self.degrees_of_freedom
        if x.explained or y.explained or free < 2:
            return undefined(n)
        xx, yy, xy = x.variance, y.variance, self.moment(x, y)
        scale = np.sqrt(xx.mean * yy.mean)
        rho = xy.mean / scale
        # delta method on C / sqrt(A B), as in `spearman`
        influence = xy.values / scale - rho / 2 * (xx.values / xx.mean + yy.values / yy.mean)
        influence *= np.sqrt(n / free)  # residuals are shorter than errors by this factor
        return Correlation(float(np.clip(rho, -1, 1)), n, influence)

    def moment(self, x: Residual, y: Residual) -> "_Moment":
        """Return the mean product of two residuals, and the influence of each token on it.

        A token acts on the product itself, on the ranks of x and of y, and on those of each
        control; least squares makes the product stationary in the coefficients, so that their
        change does not count. With e the residuals and g' the slopes of the fitted functions,

            psi_i = e_xi e_yi + mean_j e_yj [x_j > x_i] + mean_j e_xj [y_j > y_i]
                    - sum_c mean_j (e_xj g'_ycj + e_yj g'_xcj) [c_j > c_i] - its mean.
        """
        values = x.values * y.values
        mean = values.mean()
        values += x.ranked.mean_above(y.values) + y.ranked.mean_above(x.values)
        for spline, of_x, of_y in zip(self._splines, x.coefficients, y.coefficients, strict=True):
            moved = x.values * (spline.slopes @ of_y) + y.values * (spline.slopes @ of_x)
            values -= spline.ranked.mean_above(moved)
        return _Moment(float(mean), values - values.mean())


@dataclass(frozen=True, eq=False)
class _Moment:
    """A mean product and the influence of each token on it."""

    mean: float
    values: Float[np.ndarray, " n"]


def partial_spearman(
    x: Values, y: Values, controls: Mapping[str, Values] | Iterable[Values]
) -> Correlation:
    """Spearman's correlation of x and y given controls, whatever the shape of their effects.

    All variables are ranked. The ranks of x and y are regressed on cubic B-splines of the ranks of
    the controls, one for each control with `spline_degrees` degrees of freedom, added up; the
    statistic is the correlation of the residuals. Where x and y are jointly normal given the
    controls, it estimates Spearman's correlation of the two given the controls.

    Args:
        x: n values.
        y: n values of the same tokens.
        controls: k times as many, as rows or by name. Constant ones are left out; with none this
            is `spearman`.

    Returns:
        The correlation; NaN if x or y is constant or a function of the controls, or tokens are too
        few for the degrees of freedom.

    Raises:
        MeasureError: A value is NaN or infinite.
        ValueError: The variables differ in length.
    """
    x = rank(x, "x")
    return Controls(controls, x.n).spearman(x, y)


class WithinBins:
    """Bins of tokens by a control, prepared for the correlations of many pairs inside them.

    Inside each bin the effect of the control that is linear in ranks is removed, because a bin of
    frequency still holds tokens of different frequency. This describes how a correlation looks
    inside bins; `partial_spearman` is the estimate that holds its error rate.

    Args:
        bins: Label of each of n tokens. Bins of fewer than 6 tokens are left out.
        control: n values of the control.

    Raises:
        MeasureError: A value of the control is NaN or infinite.
        ValueError: `bins` and the control differ in length.
    """

    def __init__(self, bins: Integer[np.ndarray, " n"], control: ArrayLike) -> None:
        control, bins = finite(control, "control"), np.asarray(bins)
        if control.shape != bins.shape:
            raise ValueError(f"{len(bins)} tokens have a bin and {len(control)} a control")
        self.n = len(bins)
        self.bins = [
            (tokens, Controls([control[tokens]], linear=True))
            for tokens in tokens_by_bin(bins)
            if len(tokens) >= FEWEST_TOKENS_IN_BIN
        ]

    def spearman(self, x: ArrayLike, y: ArrayLike) -> Correlation:
        """Average the correlations of x and y inside bins.

        Fisher's z of each bin, weighted by its inverse variance n_bin - 4, averaged and brought
        back to a correlation. A bin in perfect order, whose z is infinite, enters halfway between
        1 and the largest other correlation its size allows, 1 - 12 / (n_bin^3 - n_bin). Bin sizes
        are taken as given: the interval is that of a bootstrap within bins.

        Args:
            x: n values; they are ranked anew inside each bin.
            y: n values of the same tokens.

        Returns:
            The correlation, its `n` the tokens that entered. Bins in which x or y is constant or
            a function of the control are left out; NaN if that leaves none.

        Raises:
            MeasureError: A value is NaN or infinite.
            ValueError: There are not n values.
        """
        x, y = finite(x, "x"), finite(y, "y")
        if not len(x) == len(y) == self.n:
            raise ValueError(
                f"x, y and the bins are of different tokens: {len(x)}, {len(y)}, {self.n}"
            )
        influence = np.zeros(self.n)
        sizes, weights, zs = 0, [], []
        for tokens, controls in self.bins:
            in_bin = controls.spearman(x[tokens], y[tokens])
            if np.isnan(in_bin.statistic):
                continue
            largest = largest_imperfect(in_bin.n)
            rho = np.clip(in_bin.statistic, -largest, largest)
            # Fisher 1924: a partial correlation given k controls has variance 1 / (n - 3 - k) in z
            weight = in_bin.n - 3 - controls.degrees_of_freedom
            sizes += in_bin.n
            weights.append(weight)
            zs.append(np.arctanh(rho))
            influence[tokens] = weight * in_bin.influence / (1 - rho**2) * self.n / in_bin.n
        if not weights:
            return undefined(self.n)
        statistic = float(np.tanh(np.average(zs, weights=weights)))
        influence *= (1 - statistic**2) / sum(weights)  # d tanh(z) / dz = 1 - tanh(z)^2
        return Correlation(statistic, sizes, influence)


def largest_imperfect(n: int) -> float:
    """Correlation that replaces 1 for n ranks: halfway to the next lower, so that z is finite."""
    # rho = 1 - 6 sum d^2 / (n^3 - n), where the smallest sum d^2 above 0 is 2.
    return 1 - 6 / (n**3 - n)
