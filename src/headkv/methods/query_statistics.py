"""Mean and covariance of queries: what can be said of queries that are still to come."""

from dataclasses import dataclass
from typing import Self

from torch import Tensor


@dataclass(frozen=True)
class QueryStatistics:
    """Mean and covariance of some queries.

    Attributes:
        mean: float32 `[query_head, head_dim]`.
        covariance: float32 `[query_head, head_dim, head_dim]`, divided by the number of queries.
    """

    mean: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, queries: Tensor) -> Self:
        """The statistics of queries `[query_head, query, head_dim]`."""
        mean = queries.float().mean(dim=1)
        centred = queries.float() - mean[:, None]
        return cls(mean, centred.mT @ centred / queries.shape[1])

    def turned(self, matrix: Tensor) -> Self:
        """The statistics of the same queries as row vectors times a matrix `[head_dim, dim]`."""
        return type(self)(self.mean @ matrix, matrix.mT @ self.covariance @ matrix)
