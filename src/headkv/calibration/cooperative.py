"""Head scores by a cooperative game: sliced Shapley values of KV heads (CoKV, arXiv 2502.17501).

A coalition's heads see the whole prompt, all others only its last tokens. Every coalition is one
cell of one prefill: a prompt is prefilled once and answered by all coalitions drawn for it.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import torch
from torch import Tensor

from headkv.calibration.grids import Game
from headkv.calibration.head_finder import Finder, Measured
from headkv.calibration.needles import OPENING, Place, hidden_test
from headkv.generation.batch import DecodingBatch, start
from headkv.generation.decoding import Stopping, answer
from headkv.generation.prefill import Prefilled, prefill
from headkv.methods.allocators.uniform import UniformAllocator
from headkv.methods.evidence import Evidence
from headkv.methods.kept import Kept
from headkv.methods.method import Method
from headkv.methods.scorers.recency import RecencyScorer
from headkv.metrics import qa_f1, rouge1
from headkv.models.prompts import encode, end_token_ids, tokenise

RUNS = 2  # independent ones, whose difference says when to stop


@dataclass(frozen=True, eq=False)
class Coalition(Method):
    """The full cache for some KV heads, the prompt's last tokens for the others.

    Attributes:
        members: which heads see everything, bool `[layer, kv_head]`.
    """

    members: Tensor | None = None

    def keep(self, evidence: Evidence) -> Kept:
        """See `Method`."""
        assert self.members is not None
        tokens = torch.arange(evidence.tokens, device=evidence.keys.device)
        last = tokens >= evidence.tokens - evidence.template_tokens - self.window_size
        mask = self.members[evidence.layer].to(tokens.device)[:, None] | last
        return Kept(mask.sum(1), mask.nonzero()[:, 1])


class Tally:
    """Complementary contributions, added up by run, size and head.

    Args:
        layers: compressed layers.
        heads: KV heads a layer.
        sizes: how many coalition sizes there are.

    Attributes:
        sums: contributions of the coalitions that a head was in, float64
            `[run, size, layer, kv_head]`.
        counts: how many those were, likewise.
    """

    def __init__(self, layers: int, heads: int, sizes: int) -> None:
        self.sums = torch.zeros(RUNS, sizes, layers, heads, dtype=torch.float64)
        self.counts = torch.zeros_like(self.sums)

    def add(self, run: int, size: int, members: Tensor, gain: float) -> None:
        """Counts one coalition.

        Args:
            run: which of the independent runs drew it.
            size: index of its size.
            members: bool `[layer, kv_head]`.
            gain: its utility less that of its complement.
        """
        self.sums[run, size] += members * gain
        self.counts[run, size] += members

    def join(self, table: Tensor) -> None:
        """Adds what `table` gave of another tally."""
        both = torch.stack([self.sums, self.counts])
        both += table.view_as(both)
        self.sums, self.counts = both

    def table(self) -> Tensor:
        """Sums and counts as one table with as many columns as a layer has heads, for a log."""
        return torch.stack([self.sums, self.counts]).flatten(0, 3)

    @property
    def values(self) -> Tensor:
        """Sliced Shapley values of each run, `[run, layer, kv_head]`; nan where a head is new."""
        return (self.sums / self.counts).mean(1)

    def difference(self) -> float:
        """Mean absolute difference of the two runs; infinite until every head was counted."""
        first, second = self.values
        apart = float((first - second).abs().mean())
        return math.inf if math.isnan(apart) else apart


class CooperativeFinder(Finder):
    """Plays the game on needles; each test is one prompt.

    Args:
        game: what is played.
        given: as `Finder`.

    Attributes:
        tally: of all prompts so far.
    """

    def __init__(self, game: Game, *given: Any) -> None:
        super().__init__(*given)
        self.game = game
        text = self.model.config.get_text_config()
        self.shape = int(text.num_hidden_layers), int(text.num_key_value_heads)
        self.tally = self._tally()

    @property
    def players(self) -> int:
        """KV heads of the model."""
        return self.shape[0] * self.shape[1]

    @property
    def stable(self) -> bool:
        """Whether the two runs agree: their mean difference is below 1 / players (the paper's)."""
        return self.tally.difference() < 1 / self.players

    def places(self) -> list[Place]:
        """The places of the tests, again and again until there are prompts for all samples."""
        needed = math.ceil(self.game.samples / self.game.per_prompt)
        given = self.tests.places()
        return [
            replace(given[number % len(given)], number=number // len(given))
            for number in range(needed)
        ]

    def measure(self, known: dict[str, Measured] | None = None) -> Iterator[Measured]:
        """Plays prompt by prompt until the values are stable; see `Finder`."""
        for place in self.places():
            done = (known or {}).get(place.name) or self._measure(place)
            assert done.scores is not None
            self.tally.join(done.scores)
            yield done
            if self.stable and self._samples >= self.game.least:
                return

    def tables(self, counted: Sequence[Measured]) -> list[Tensor]:
        """The values of each run for every query head of a KV head; see `Finder`.

        They are shifted so that the smallest mean over the runs is 0: budgets by CoKV's rule see
        differences alone, and other rules need scores that are not negative.
        """
        group = int(self.model.config.get_text_config().num_attention_heads) // self.shape[1]
        values = self.tally.values.nan_to_num(0)
        return [each.repeat_interleave(group, 1) for each in values - values.mean(0).min()]

    def outcome(self) -> dict[str, Any]:
        """Whether the two runs agree, and by how much; see `Finder`."""
        apart = self.tally.difference()
        return {
            "stable": self.stable,
            "difference": apart if math.isfinite(apart) else None,
            "coalitions": self._samples * len(self.game.sizes),
        }

    @property
    def _samples(self) -> int:
        """Coalitions of each size so far."""
        members = self.game.members(self.players)[0]
        return round(float(self.tally.counts[:, 0].sum()) / members)

    def _tally(self) -> Tally:
        return Tally(*self.shape, len(self.game.sizes))

    def _measure(self, place: Place) -> Measured:
        """Prefills one prompt and lets all its coalitions answer it."""
        tests, tokenizer, game = self.tests, self.tokenizer, self.game
        test, text = hidden_test(str(tests.needles), tests.seed, place, self.haystack, tokenizer)
        chat = tests.chat_template
        asked = text if chat else text + OPENING
        prompt = encode(tokenizer, asked, chat_template=chat, max_prompt_tokens=None)
        right = tokenise(tokenizer, ("" if chat else " ") + test.answer).ids
        ids = torch.tensor([prompt.input_ids], device=self.model.device)
        anyone = self._coalition(torch.ones(self.shape, dtype=torch.bool))
        prefilled = prefill(self.model, {"input_ids": ids}, prompt.template_tokens, [anyone])
        seed = Random(f"{tests.seed}/coalitions/{place.name}").getrandbits(63)
        generator = torch.Generator().manual_seed(seed)
        drawn = [
            (number % RUNS, size, self._draw(members, generator))
            for size, members in enumerate(game.members(self.players))
            for number in range(game.per_prompt)
        ]
        sides = [side for _, _, members in drawn for side in (members, ~members)]
        played: list[float] = []
        for first in range(0, len(sides), game.together):
            part = sides[first : first + game.together]
            played += self._utilities(prefilled, part, right, test.answer)
        tally = self._tally()
        for (run, size, members), with_, without in zip(
            drawn, played[::2], played[1::2], strict=True
        ):
            tally.add(run, size, members, with_ - without)
        return Measured(place.name, test.answer, max(played), tally.table())

    def _coalition(self, members: Tensor) -> Coalition:
        """What a coalition keeps; its size is any, for what is kept follows from `members`."""
        scorer = RecencyScorer(window_size=self.game.window)
        size = self.game.window + 1
        return Coalition(scorer, UniformAllocator(), size, name="coalition", members=members)

    def _draw(self, members: int, generator: torch.Generator) -> Tensor:
        """So many heads, drawn evenly, bool `[layer, kv_head]`."""
        chosen = torch.zeros(self.players, dtype=torch.bool)
        chosen[torch.randperm(self.players, generator=generator)[:members]] = True
        return chosen.view(self.shape)

    def _utilities(
        self, prefilled: Prefilled, coalitions: list[Tensor], right: list[int], text: str
    ) -> list[float]:
        """The utility of each coalition."""
        caches = [prefilled.compress(self._coalition(members)) for members in coalitions]
        batch = start(self.model, prefilled, caches)
        ends = end_token_ids(self.tokenizer, self.model.generation_config)
        if self.game.utility != "accuracy":
            logs = _mean_logprob(self.model, batch, right, ends)
            return (logs.exp() if self.game.utility == "probability" else logs).tolist()
        found = answer(self.model, batch, Stopping(self.tests.max_new_tokens, ends))
        said = [self.tokenizer.decode(each, skip_special_tokens=True).strip() for each in found]
        plain = self.tests.needles == "retrieval"
        return [rouge1(each, text).recall if plain else qa_f1(each, text) for each in said]


def _mean_logprob(
    model: Any, batch: DecodingBatch, right: list[int], ends: tuple[int, ...]
) -> Tensor:
    """Mean log-probability of an answer's tokens, its end included, by place, in nats."""
    ids = torch.tensor([right], device=batch.logits.device).expand(len(batch.logits), -1)
    logits = torch.cat((batch.logits[:, None], batch.feed(model, ids)), 1)
    logs = logits.log_softmax(-1).double()
    said = logs[:, :-1].gather(2, ids[..., None])[..., 0].sum(1)
    return (said + logs[:, -1, list(ends)].logsumexp(-1)) / (len(right) + 1)
