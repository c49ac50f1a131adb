"""Products with a Jacobian that is never formed: J v, J^T w, and what follows from a few of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


class Products:
    """The Jacobian of one computed tensor by another, one matrix per sample, by products.

    Where samples do not meet, a product with all of them costs what one costs: the matrix of the batch is block
    diagonal. Where they do (batch normalization in training), the whole batch counts as one sample.

    Args:
        start: What is differentiated by; needs gradient.
        end: What is differentiated.
        samples: How many samples to look at; the first dimension of both counts them.

    Attributes:
        joint: Whether samples meet.
        samples: How many matrices there are.
        rows: Entries of one sample of ``end``.
        columns: Entries of one sample of ``start``.
    """

    def __init__(self, start: Tensor, end: Tensor, samples: int) -> None:
        self._start, self._end = start, end
        paired = start.dim() > 1 and end.dim() > 1 and start.shape[0] == end.shape[0]
        self.joint = not paired or self._meet()
        batch = start.shape[0] if paired and not self.joint else 1
        self.samples = min(samples, batch)
        self.rows, self.columns = end.numel() // batch, start.numel() // batch
        self._seed = torch.zeros_like(end, requires_grad=True)
        (self._sent,) = torch.autograd.grad(end, start, self._seed, create_graph=True, materialize_grads=True)

    def _meet(self) -> bool:
        """Tell whether the output of one sample depends on the input of another."""
        if self._start.shape[0] == 1:
            return False
        weights = torch.zeros_like(self._end)
        weights[::2] = torch.randn_like(weights[::2])
        (sent,) = torch.autograd.grad(self._end, self._start, weights, retain_graph=True, materialize_grads=True)
        return bool((sent[1::2] != 0).any())

    def back(self, w: Tensor) -> Tensor:
        """Return J^T w for w of shape (samples, rows), of shape (samples, columns)."""
        (sent,) = torch.autograd.grad(
            self._end, self._start, _spread(w, self._end), retain_graph=True, materialize_grads=True
        )
        return sent.reshape(-1, self.columns)[: self.samples]

    def forth(self, v: Tensor) -> Tensor:
        """Return J v for v of shape (samples, columns), of shape (samples, rows)."""
        if not self._sent.requires_grad:
            return v.new_zeros(self.samples, self.rows)
        # J^T w is linear in w, and the derivative of a linear function is the function: J v by reverse mode alone.
        (sent,) = torch.autograd.grad(
            self._sent, self._seed, _spread(v, self._start), retain_graph=True, materialize_grads=True
        )
        return sent.reshape(-1, self.rows)[: self.samples]

    def zeros(self, width: int) -> Tensor:
        """Return a vector for each sample."""
        return self._end.new_zeros(self.samples, width)

    def dense(self) -> Tensor:
        """Return the matrices, (samples, rows, columns), by as many products as the smaller side has entries."""
        by_row = self.rows <= self.columns
        count, product = (self.rows, self.back) if by_row else (self.columns, self.forth)
        found = []
        for place in range(count):
            unit = self.zeros(count)
            unit[:, place] = 1
            found.append(product(unit))
        return torch.stack(found, dim=1 if by_row else 2)


def _spread(vectors: Tensor, like: Tensor) -> Tensor:
    """Put one vector per sample into a tensor of a whole batch, zero for the other samples."""
    full = torch.zeros_like(like).reshape(-1, vectors.shape[1])
    full[: len(vectors)] = vectors
    return full.reshape(like.shape)


@dataclass(frozen=True)
class Moments:
    """First two moments of the eigenvalues of J J^T, averaged over samples.

    Attributes:
        m1: tr(J J^T) / rows.
        m2: tr((J J^T)^2) / rows.
        m1_error: Standard error of m1; 0 where it is exact.
        m2_error: Standard error of m2.
        ratio_error: Standard error of m2 / m1^2.
    """

    m1: float
    m2: float
    m1_error: float = 0.0
    m2_error: float = 0.0
    ratio_error: float = 0.0

    @property
    def ratio(self) -> float:
        """m2 / m1^2; NaN where J is zero."""
        return self.m2 / self.m1**2 if self.m1 > 0 else math.nan


def hutchinson(products: Products, probes: int, draw: torch.Generator) -> Moments:
    """Estimate the moments by random vectors of signs (Hutchinson 1990).

    E|J^T w|^2 = tr J J^T and E|J J^T w|^2 = tr (J J^T)^2.
    Standard errors are those of the mean over probes, that of the ratio by the delta method.
    """
    first, second = [], []
    for _ in range(probes):
        like = products.zeros(products.rows)
        signs = torch.randint(0, 2, like.shape, generator=draw).to(like) * 2 - 1
        sent = products.back(signs)
        first.append(sent.square().sum(1).mean() / products.rows)
        second.append(products.forth(sent).square().sum(1).mean() / products.rows)
    drawn = torch.stack([torch.stack(first), torch.stack(second)]).double().cpu()
    m1, m2 = (float(one) for one in drawn.mean(1))
    covariance = torch.cov(drawn) / probes if probes > 1 else torch.full((2, 2), math.nan)
    (v1, v12), (_, v2) = covariance.tolist()
    relative = v2 / m2**2 + 4 * v1 / m1**2 - 4 * v12 / (m1 * m2) if m1 > 0 and m2 > 0 else math.nan
    ratio_error = m2 / m1**2 * math.sqrt(max(relative, 0.0)) if m1 > 0 and probes > 1 else math.nan
    return Moments(m1, m2, math.sqrt(v1), math.sqrt(v2), ratio_error)


def singular_values(products: Products) -> Tensor:
    """Return all singular values, a row for each sample, largest first; 0 for what the largest one rounds away."""
    dense = products.dense()
    values: Tensor = torch.linalg.svdvals(dense.double()).cpu()
    rounding = torch.finfo(dense.dtype).eps * max(products.rows, products.columns) * values[:, :1]
    return values.where(values > rounding, 0.0)


def moments_of(singular: Tensor, rows: int) -> Moments:
    """Return the exact moments, from all singular values, one row a sample."""
    squares = singular.double().square()
    return Moments(float(squares.sum(1).mean() / rows), float(squares.square().sum(1).mean() / rows))


@dataclass(frozen=True)
class Largest:
    """The largest singular value by Lanczos; the smallest takes too many steps to be worth a number.

    Attributes:
        s_max: The largest of any sample, approached from below.
        error: Its residual: a singular value lies within that distance.
        steps: Pairs of products it took.
    """

    s_max: float
    error: float
    steps: int


def lanczos(products: Products, draw: torch.Generator, steps: int = 30, tolerance: float = 1e-4) -> Largest:
    """Bidiagonalize J from a random start (Golub and Kahan 1965), with full reorthogonalization, all samples at once.

    Args:
        products: Products with J.
        draw: For the start.
        steps: Most pairs of products.
        tolerance: Residual, relative to the largest singular value, at which to stop.
    """
    start = products.zeros(products.columns)
    rights = [_unit(torch.randn(start.shape, generator=draw).to(start))[0]]
    lefts: list[Tensor] = []
    alphas: list[Tensor] = []
    betas: list[Tensor] = []
    for _ in range(min(steps, products.rows, products.columns)):
        u, alpha = _unit(_orthogonal(products.forth(rights[-1]), lefts))
        v, beta = _unit(_orthogonal(products.back(u), rights))
        lefts.append(u)
        rights.append(v)
        alphas.append(alpha.double().cpu())
        values, last = _bidiagonal(alphas, betas)
        betas.append(beta.double().cpu())
        residual = betas[-1] * last
        if bool((residual <= tolerance * values).all()):
            break
    largest = int(values.argmax())
    return Largest(float(values[largest]), float(residual[largest]), len(alphas))


def _bidiagonal(alphas: list[Tensor], betas: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the largest singular value of the bidiagonal matrix, and the last entry of its left vector."""
    count = len(alphas)
    matrix = torch.zeros(len(alphas[0]), count, count, dtype=torch.float64)
    for place, alpha in enumerate(alphas):
        matrix[:, place, place] = alpha
    for place, beta in enumerate(betas):
        matrix[:, place, place + 1] = beta
    left, values, _ = torch.linalg.svd(matrix)
    return values[:, 0], left[:, -1, 0].abs()


def _orthogonal(vector: Tensor, basis: list[Tensor]) -> Tensor:
    """Take out of a vector what lies in the span of others; twice is enough (Parlett 1980)."""
    for _ in range(2):
        for one in basis:
            vector = vector - (one * vector).sum(1, keepdim=True) * one
    return vector


def _unit(vector: Tensor) -> tuple[Tensor, Tensor]:
    """Return unit vectors and lengths; zero stays zero."""
    length = torch.linalg.vector_norm(vector, dim=1)
    return vector / length.clamp_min(torch.finfo(vector.dtype).tiny)[:, None], length
