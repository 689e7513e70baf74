"""A compression method: a scorer says which tokens, an allocator how many, entries what of them.

A method sees one layer of one prompt at a time (or, if its allocator must, all layers of it) and
keeps nothing between prompts.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from headkv.errors import UserError, choose
from headkv.methods.allocators.base import (
    Allocator,
    LayerAllocator,
    ModelAllocator,
    Room,
    ShapeAllocator,
)
from headkv.methods.composition import Composition
from headkv.methods.entries.base import Entries
from headkv.methods.evidence import EVERY_QUERY, SECOND_PASS, Evidence
from headkv.methods.holding import Reads, check_holding, interval
from headkv.methods.kept import Kept
from headkv.methods.scorers.base import Scorer
from headkv.methods.sizes import check_room, check_shape, check_size

PROTOCOLS = ["corrected", "paper"]
GRANULARITIES = ["kv_head", "query_head"]
GRANULARITY_OF_PROTOCOL = {"corrected": "kv_head", "paper": "query_head"}


@dataclass(frozen=True, eq=False)
class Method(Composition):
    """A scorer, an allocator and an entries transform at a KV size.

    Attributes:
        scorer: which tokens.
        allocator: how many in each stored head.
        kv_size: mean tokens a stored head keeps, window included; None keeps everything.
        entries: what becomes of kept and evicted entries.
        protocol: `corrected` or `paper` (see docs/parity.md).
        granularity: store a list of tokens per `kv_head` or per `query_head`; None: as the
            protocol does.
        name: of its yaml.
        decode_kv_size: mean entries a stored head is cut to again and again while an answer is
            decoded; None: all generated tokens stay.
        compress_every: generated tokens between two such cuts.
        bits: of a number of the kept entries, 16 for the model's own type.
        offload: whose entries live on the host and are fetched ahead: of all `layers`, or of each
            layer's heaviest `heads`; None: nobody's. Changes no output.
    """

    scorer: Scorer
    allocator: Allocator
    kv_size: int | None
    entries: Entries = field(default_factory=Entries)
    protocol: str = "corrected"
    granularity: str | None = None
    name: str = "method"
    decode_kv_size: int | None = None
    compress_every: int | None = None
    bits: int = 16
    offload: str | None = None

    def __post_init__(self) -> None:
        choose("protocol", self.protocol, PROTOCOLS)
        if self.granularity is None:
            object.__setattr__(self, "granularity", GRANULARITY_OF_PROTOCOL[self.protocol])
        choose("granularity", str(self.granularity), GRANULARITIES)
        check_holding(self.bits, self.offload)
        if self.allocator.keeps_all:
            for key in ("kv_size", "decode_kv_size", "compress_every"):
                object.__setattr__(self, key, None)
            return
        sizes = self.decode_kv_size, self.compress_every
        every = interval(self.name, *sizes, self._reads)
        object.__setattr__(self, "compress_every", every)
        check_size(self.name, self.kv_size)
        self.check_window(0)

    @property
    def _reads(self) -> Reads:
        """What its parts say that decides whether it can cut while decoding."""
        scorer, allocator, entries = self.scorer, self.allocator, self.entries
        return Reads(
            scorer.name,
            scorer.window_size,
            scorer.needs,
            scorer.across_heads,
            allocator.name,
            allocator.even,
            entries.name,
            entries.gathers and type(entries).gather is Entries.gather,
        )

    @property
    def window_size(self) -> int:
        """Latest tokens of the user's text that always stay."""
        return self.scorer.window_size

    @property
    def keeps_all(self) -> bool:
        """Whether it is the full cache, every entry as the model made it."""
        return (self.kv_size, self.bits, type(self.entries)) == (None, 16, Entries)

    @property
    def corrected(self) -> bool:
        """Whether exact budgets hold and token 0 always stays."""
        return self.protocol == "corrected"

    @property
    def needs(self) -> frozenset[str]:
        """What it reads of a prompt beside the window's queries and the keys."""
        return frozenset() if self.kv_size is None else self.scorer.needs

    @property
    def second_pass(self) -> frozenset[str]:
        """What it reads of a second pass over the finished cache."""
        return self.needs & SECOND_PASS

    @property
    def needs_every_query(self) -> bool:
        """Whether the queries of the whole prompt must be recorded, not the window's alone."""
        return bool(self.needs & EVERY_QUERY)

    @property
    def identity(self) -> dict[str, Any]:
        """Everything about it that changes the output, as JSON takes it; tensors as hashes."""
        described: dict[str, Any] = {
            "kv_size": self.kv_size,
            "protocol": self.protocol,
            "granularity": self.granularity,
        }
        if self.decode_kv_size is not None:
            described["decoding"] = [self.decode_kv_size, self.compress_every]
        if self.bits != 16:
            described["bits"] = self.bits
        for group, part in self.parts.items():
            described[group] = {"name": part.name, **part.parameters}
        return described

    def check_window(self, template_tokens: int) -> None:
        """Raises `UserError` if what always stays leaves no room in `kv_size`."""
        if self.kv_size is not None:
            check_room(self.kv_size, self.window_size, template_tokens)

    def stored_heads(self, num_query_heads: int, num_kv_heads: int) -> int:
        """Lists of tokens kept per layer."""
        return num_kv_heads if self.granularity == "kv_head" else num_query_heads

    def budgets(
        self,
        num_layers: int,
        num_query_heads: int,
        num_kv_heads: int,
        prompt_tokens: int,
        template_tokens: int = 0,
    ) -> Tensor:
        """Tokens that each stored head keeps of a prompt, window included.

        Args:
            num_layers: layers that are compressed.
            num_query_heads: query heads a layer.
            num_kv_heads: KV heads a layer.
            prompt_tokens: length of the prompt.
            template_tokens: tokens of the chat template behind the user's text.

        Returns:
            int64 `[layer, stored_head]`, never above `prompt_tokens`. In `corrected` the sum is
            exactly `kv_size * layers * stored heads` for prompts longer than `kv_size`.

        Raises:
            UserError: the budget depends on the prompt's scores, or no room beside the window.
        """
        check_shape(num_layers, num_query_heads, num_kv_heads, prompt_tokens)
        stored = self.stored_heads(num_query_heads, num_kv_heads)
        if self.kv_size is None or prompt_tokens <= self.kv_size:
            return torch.full((num_layers, stored), prompt_tokens)
        if not isinstance(self.allocator, ShapeAllocator):
            raise UserError(
                f"{self.name}'s budgets depend on the prompt's attention and are not known before",
                allowed="methods with a fixed budget",
                do="read cache.kept_tokens after the prefill instead",
            )
        self.check_window(template_tokens)
        tail = self.window_size + template_tokens
        room = self._room(num_layers, stored, prompt_tokens, tail)
        return self.checked(self.allocator.budgets(room), room, num_layers) + tail

    def keep(self, evidence: Evidence) -> Kept:
        """Chooses the tokens of one layer of one prompt.

        Ties go to the earlier token, on every device. In `corrected` token 0 (the attention sink)
        stays in every head and is charged to its budget; max-pooling makes the first tokens tie,
        and a head that loses its sink derails the model.

        Raises:
            UserError: the allocator must see all layers first, or a part gives what it must not.
        """
        if not self._cuts(evidence):
            return self._all(evidence)
        if isinstance(self.allocator, ModelAllocator):
            raise UserError(
                f"{self.name} must see all layers before it cuts one",
                allowed="methods whose allocator looks at one layer at a time",
                do="use headkv.kept_positions(prefilled, method)",
            )
        return self._choose(evidence, self._counts(evidence))

    def keep_model(self, layers: Sequence[Evidence]) -> list[Kept]:
        """Chooses the tokens of all layers of one prompt, in order.

        With an allocator of model scope in two phases: every layer is scored, then all are cut.

        Args:
            layers: every compressed layer of one prompt.
        """
        if not isinstance(self.allocator, ModelAllocator) or not self._cuts(layers[0]):
            return [self.keep(evidence) for evidence in layers]
        scores = [self._scores(evidence).clone() for evidence in layers]
        room = self._room_of(layers)
        table = self.checked(self.allocator.table(room, scores), room, len(layers))
        return [
            self._choose(evidence, counts) for evidence, counts in zip(layers, table, strict=True)
        ]

    def _cuts(self, evidence: Evidence) -> bool:
        if self.kv_size is None or evidence.tokens <= self.kv_size:
            return False
        self.check_window(evidence.template_tokens)
        return True

    def _all(self, evidence: Evidence) -> Kept:
        stored = self.stored_heads(evidence.query_heads, evidence.kv_heads)
        everything = torch.arange(evidence.tokens, device=evidence.keys.device)
        return Kept(torch.full((stored,), evidence.tokens), everything.repeat(stored))

    def _scores(self, evidence: Evidence) -> Tensor:
        """The scorer's ranking, checked; cells of one scorer share it."""
        stored = self.stored_heads(evidence.query_heads, evidence.kv_heads)
        mean = self._room_of([evidence]).mean
        key = "scores", *self._ranked_by(mean), stored
        return evidence.shared(key, lambda: self.scored(evidence, stored, mean))

    def scored(self, evidence: Evidence, stored: int, mean: int) -> Tensor:
        """The scorer's ranking for so many stored heads, checked.

        Args:
            evidence: the layer.
            stored: stored heads.
            mean: candidates that each keeps on average.
        """
        scores = self.scorer.checked_scores(self.name, evidence, stored, mean)
        return evidence.absent_last(scores)

    def _ranked_by(self, mean: int) -> tuple[Hashable, int | None]:
        """What scores depend on beside the evidence and the number of stored heads."""
        return self.scorer.key, mean if self.scorer.reads_budget else None

    def _order(self, evidence: Evidence, counts: Tensor) -> Tensor:
        """The candidates of each stored head from the best on, `[stored_head, candidate]`, shared.

        Ties go to the earlier token; in `corrected`, token 0 comes first.
        """
        scores = self._scores(evidence)

        def sort() -> Tensor:
            ranked = scores
            if self.scorer.reranks:
                ranked = self.scorer.ranking(evidence, scores, counts.to(scores.device))
            if self.corrected:
                ranked = ranked.clone()
                ranked[:, 0] = float("inf")
            return ranked.sort(dim=-1, descending=True, stable=True).indices

        if self.scorer.reranks:
            return sort()
        ranked_by = self._ranked_by(self._room_of([evidence]).mean)
        return evidence.shared(("order", *ranked_by, len(scores), self.corrected), sort)

    def _counts(self, evidence: Evidence) -> Tensor:
        """Candidates that each stored head of a layer keeps, int64 `[stored_head]`."""
        if isinstance(self.allocator, LayerAllocator):
            room, scores = self._room_of([evidence]), self._scores(evidence).clone()
            return self.checked(self.allocator.counts(room, scores)[None], room, 1)[0]
        depth = self.allocator.depth(evidence.layer, evidence.num_layers)
        tail = evidence.template_tokens + self.window_size
        heads = evidence.query_heads, evidence.kv_heads
        shape = (depth, *heads, evidence.tokens, evidence.template_tokens)
        return budget_table(self, shape)[evidence.layer] - tail

    def _choose(self, evidence: Evidence, counts: Tensor) -> Kept:
        """The best `counts` candidates of each stored head, and what always stays."""
        order, device = self._order(evidence, counts), evidence.keys.device
        candidates = order.shape[1]
        mask = torch.ones(len(order), evidence.tokens, dtype=torch.bool, device=device)
        chosen = torch.arange(candidates, device=device) < counts.to(device)[:, None]
        mask[:, :candidates] = torch.zeros_like(chosen).scatter_(1, order, chosen)
        kept = Kept(mask.sum(dim=1), mask.nonzero()[:, 1])
        return self.entries.choose(evidence, kept, evidence.tokens - candidates)

    def _room(self, num_layers: int | None, stored: int, tokens: int, tail: int) -> Room:
        assert self.kv_size is not None
        return Room(num_layers, stored, self.kv_size - tail, tokens - tail, tail, self.corrected)

    def _room_of(self, layers: Sequence[Evidence]) -> Room:
        first = layers[0]
        stored = self.stored_heads(first.query_heads, first.kv_heads)
        tail = first.template_tokens + self.window_size
        return replace(self._room(len(layers), stored, first.tokens, tail), layers=layers)

    def checked(self, counts: Tensor, room: Room, layers: int) -> Tensor:
        """What the allocator decided, if it is a possible budget; else raises `UserError`."""
        return room.checked(counts, f"{self.name}'s allocator {self.allocator.name}", layers)


# A method's budgets of one prompt shape: worked out once a prompt length instead of once a layer.
# They go with the method; the scores they come from are held by nobody else.
_TABLES: WeakKeyDictionary[Method, tuple[tuple[int, ...], Tensor]] = WeakKeyDictionary()


def budget_table(method: Method, shape: tuple[int, ...], sized: Method | None = None) -> Tensor:
    """`Method.budgets` of a shape, remembered until another comes; `sized` has the size."""
    known = _TABLES.get(method)
    if known is None or known[0] != shape:
        known = shape, (sized or method).budgets(*shape)
        _TABLES[method] = known
    return known[1]
