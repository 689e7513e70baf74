"""What every compression method is: a budget for each head, and scores that rank tokens.

A method sees one layer of one prompt at a time (`Observation`) and keeps nothing between prompts.
To add one, override `scores` (which tokens) or `budgets` / `counts` (how many) in a file of its
own; see CONTRIBUTING.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from headkv.errors import UserError, choose
from headkv.methods.evidence import Observation, pool, reduce_groups

PROTOCOLS = ["corrected", "paper"]
GRANULARITIES = ["kv_head", "query_head"]
GRANULARITY_OF_PROTOCOL = {"corrected": "kv_head", "paper": "query_head"}


@dataclass(frozen=True)
class Kept:
    """Which tokens of one layer of one prompt stay.

    Attributes:
        counts: int64 `[stored_head]`.
        positions: int64 `[entries]`, ascending within a head, heads one after another.
    """

    counts: Tensor
    positions: Tensor

    def by_head(self) -> list[Tensor]:
        """The positions of each stored head."""
        return list(self.positions.split(self.counts.tolist()))


@dataclass(frozen=True, eq=False)
class Method:
    """Base of all methods; as it stands it is SnapKV's choice of tokens at a uniform budget.

    Attributes:
        kv_size: mean tokens a stored head keeps, window included; None keeps everything.
        protocol: `corrected` or `paper` (see docs/parity.md).
        granularity: store a list of tokens per `kv_head` or per `query_head`; None: as the
            protocol does.
        window_size: queries of the observation window.
        kernel_size: odd width of the pooling along tokens.
        pooling: `max` or `avg`.
        group_reduce: how the query heads of a KV head are joined: `mean`, `max` or `sum`.
    """

    kv_size: int | None
    protocol: str = "corrected"
    granularity: str | None = None
    window_size: int = 8
    kernel_size: int = 7
    pooling: str = "max"
    group_reduce: str = "mean"

    def __post_init__(self) -> None:
        choose("protocol", self.protocol, PROTOCOLS)
        if self.granularity is None:
            object.__setattr__(self, "granularity", GRANULARITY_OF_PROTOCOL[self.protocol])
        choose("granularity", str(self.granularity), GRANULARITIES)
        choose("pooling", self.pooling, ["max", "avg"])
        choose("group_reduce", self.group_reduce, ["mean", "max", "sum"])
        for key in ("window_size", "kernel_size"):
            if getattr(self, key) < 1:
                raise UserError(
                    f"{key}={getattr(self, key)}", allowed="1 or more", do=f"raise {key}="
                )
        if self.kernel_size % 2 == 0:
            raise UserError(
                f"kernel_size={self.kernel_size} is even",
                allowed="odd widths",
                do="set kernel_size=",
            )
        self.check_window(0)

    def check_window(self, template_tokens: int) -> None:
        """Raises `UserError` if the kept tail leaves no room in `kv_size`."""
        tail = self.window_size + template_tokens
        if self.kv_size is not None and self.kv_size <= tail:
            raise UserError(
                f"kv_size={self.kv_size} does not exceed the {tail} tokens that are always kept "
                f"(window_size {self.window_size} + {template_tokens} of the chat template)",
                allowed=f"kv_size of {tail + 1} or more",
                do="raise kv_size= or lower window_size=",
            )

    @property
    def corrected(self) -> bool:
        """Whether exact budgets hold and token 0 always stays."""
        return self.protocol == "corrected"

    def stored_heads(self, num_query_heads: int, num_kv_heads: int) -> int:
        """Lists of tokens kept per layer."""
        return num_kv_heads if self.granularity == "kv_head" else num_query_heads

    def for_layers(self, layers: list[int]) -> "Method":
        """The method for a model of which only these layers are compressed."""
        return self

    def budgets(
        self,
        num_layers: int,
        num_query_heads: int,
        num_kv_heads: int,
        prompt_tokens: int,
        template_tokens: int = 0,
    ) -> Tensor:
        """Tokens that each head keeps of a prompt, window included.

        Returns:
            int64 `[layer, stored_head]`, never above `prompt_tokens`. In `corrected` the sum is
            exactly `kv_size * layers * stored heads` for prompts longer than `kv_size`.

        Raises:
            UserError: the budget depends on attention (Ada-KV), or no room beside the window.
        """
        stored = self.stored_heads(num_query_heads, num_kv_heads)
        if self.kv_size is None or prompt_tokens <= self.kv_size:
            return torch.full((num_layers, stored), prompt_tokens)
        self.check_window(template_tokens)
        tail = self.window_size + template_tokens
        shared = self.shared_budgets(num_layers, stored, self.kv_size - tail, prompt_tokens - tail)
        return shared + tail

    def shared_budgets(self, num_layers: int, stored: int, mean: int, limit: int) -> Tensor:
        """The part of the budget that is shared out, beside window and template.

        Args:
            num_layers: layers.
            stored: stored heads a layer.
            mean: tokens to share out per head.
            limit: candidates, the most a head can use.

        Returns:
            int64 `[layer, stored_head]`.
        """
        return torch.full((num_layers, stored), mean)

    def depth(self, observation: Observation) -> int:
        """Layers to share the budget among; a uniform budget needs no more than this one."""
        return observation.num_layers or observation.layer + 1

    def counts(self, observation: Observation, scores: Tensor) -> Tensor:
        """Candidates that each stored head of this layer keeps, int64 `[stored_head]`."""
        table = _budgets(
            self,
            self.depth(observation),
            observation.queries.shape[0],
            observation.keys.shape[0],
            observation.tokens,
            observation.template_tokens,
        )
        return table[observation.layer] - observation.kept_tail

    def scores(self, observation: Observation) -> Tensor:
        """Rank of each candidate in each stored head, float32 `[stored_head, candidate]`."""
        pooled = pool(observation.attention, self.kernel_size, self.pooling)
        stored = self.stored_heads(observation.queries.shape[0], observation.keys.shape[0])
        return reduce_groups(pooled, stored, self.group_reduce)

    def keep(self, observation: Observation) -> Kept:
        """Chooses the tokens of one layer of one prompt.

        Ties go to the earlier token, on every device. In `corrected` token 0 (the attention sink)
        stays in every head and is charged to its budget; max-pooling makes the first tokens tie,
        and a head that loses its sink derails the model.
        """
        tokens, device = observation.tokens, observation.keys.device
        stored = self.stored_heads(observation.queries.shape[0], observation.keys.shape[0])
        mask = torch.ones(stored, tokens, dtype=torch.bool, device=device)
        if self.kv_size is not None and tokens > self.kv_size:
            self.check_window(observation.template_tokens)
            scores = self.scores(observation)
            counts = self.counts(observation, scores).to(device)
            if self.corrected:
                scores[:, 0] = float("inf")
            order = scores.sort(dim=-1, descending=True, stable=True).indices
            chosen = torch.arange(observation.candidates, device=device) < counts[:, None]
            mask[:, : observation.candidates] = torch.zeros_like(chosen).scatter_(1, order, chosen)
        return Kept(mask.sum(dim=1), mask.nonzero()[:, 1])


@lru_cache(maxsize=64)
def _budgets(method: Method, *shape: int) -> Tensor:
    """Budgets of a whole model, worked out once a prompt length instead of once a layer."""
    return method.budgets(*shape)
