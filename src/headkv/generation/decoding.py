"""Prefill once, compress many times, decode all of it together.

Two things save forward passes; neither changes an answer. What a full cache answered is fed to the
others at once, and each goes on from where it would have said something else (`follow`). And a step
that feeds one token costs hardly less than one that feeds a few, so a few are guessed from the text
(`headkv.generation.guesses`); those that the model would have chosen itself stay. Both are
speculative decoding (arXiv 2211.17192), greedy and hence exact up to the order of sums.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headkv.cache import CompressedCache
from headkv.errors import UserError
from headkv.generation.batch import DecodingBatch, Tree, start
from headkv.generation.guesses import Guesses
from headkv.generation.occupancy import Occupancy
from headkv.generation.prefill import Prefilled, check_prefilled

LOGITS = 2**25  # formed at a time, 128 MiB
_FEW = 8  # tokens of a step that take hardly longer than one; on a GPU, many more would
_LEAVE = 0.8  # rows that end leave once so many are left: to copy the others costs a few steps


@dataclass(frozen=True)
class Stopping:
    """When an answer ends.

    Attributes:
        max_new_tokens: tokens of an answer at most.
        end_tokens: any of these ends it and is not part of it.
        min_new_tokens: tokens before which no end token is taken.
    """

    max_new_tokens: int
    end_tokens: tuple[int, ...]
    min_new_tokens: int = 0

    def __post_init__(self) -> None:
        counts = (self.max_new_tokens, self.min_new_tokens)
        if not all(isinstance(each, int) and each >= 0 for each in counts):
            raise UserError(
                f"max_new_tokens={counts[0]!r}, min_new_tokens={counts[1]!r}",
                allowed="whole numbers, 0 or more",
                do="change them",
            )

    def choose(self, logits: Tensor, answered: Tensor) -> Tensor:
        """The likeliest tokens that may come next.

        Args:
            logits: `[..., vocabulary]`.
            answered: tokens of each answer so far, int64, of the leading dimensions or broadcast.
        """
        early = answered < self.min_new_tokens
        if self.min_new_tokens == 0 or not self.end_tokens or not bool(early.any()):
            return logits.argmax(-1)
        ends = torch.tensor(self.end_tokens, device=logits.device, dtype=torch.long)
        without = logits.index_fill(-1, ends, float("-inf"))
        return torch.where(early, without.argmax(-1), logits.argmax(-1))


@dataclass(frozen=True)
class Begun:
    """Answers that are under way.

    Attributes:
        answers: token ids of each place's answer so far.
        tokens: each place's next token, int64 `[place]`.
    """

    answers: list[list[int]]
    tokens: Tensor


def follow(
    model: Any, batch: DecodingBatch, drafts: Sequence[Sequence[int]], stopping: Stopping
) -> Begun:
    """Begins every place's answer with as much of a draft as the model says itself.

    Args:
        model: the model of the prefill.
        batch: what `start` made, of a cache that `branches`.
        drafts: token ids, of one answer to each sequence.
        stopping: when an answer ends.
    """
    ids, counts = padded(drafts, batch.logits.device)
    repeats = len(batch.logits) // len(ids)
    tree = Tree.of(ids.repeat(repeats, 1))
    chosen = [stopping.choose(batch.logits, counts.new_zeros(1))[:, None]]
    for part, logits in batch.branch(model, tree, max(1, LOGITS // batch.logits.numel())):
        chosen.append(stopping.choose(logits, tree.depths[part] + 1))
    return accept(batch, ids.shape[1], tree.ids, counts.repeat(repeats), chosen, stopping)


def accept(
    batch: DecodingBatch,
    fed: int,
    ids: Tensor,
    counts: Tensor,
    chosen: Sequence[Tensor],
    stopping: Stopping,
) -> Begun:
    """Keeps of a draft what each place would have answered itself.

    Args:
        batch: after `branch`; it keeps these tokens and no others.
        fed: tokens that `branch` fed to each place, the draft first.
        ids: the draft, `[place, token]`.
        counts: its tokens of each place, `[place]`.
        chosen: what each place says before each token of it and behind it, `[place, 1 + token]`
            when joined.
        stopping: when an answer ends.
    """
    said = torch.cat(list(chosen), 1)
    agreed = _agreed(said, ids, counts, stopping)
    batch.adopt(fed, agreed)
    answers = [row[:end] for row, end in zip(ids.tolist(), agreed.tolist(), strict=True)]
    return Begun(answers, said.gather(1, agreed[:, None])[:, 0])


def _agreed(said: Tensor, ids: Tensor, counts: Tensor, stopping: Stopping) -> Tensor:
    """How many of the first `counts` tokens were said, an end among them excluded, `[place]`."""
    ends = torch.tensor(stopping.end_tokens, device=ids.device, dtype=torch.long)
    inside = torch.arange(ids.shape[1], device=ids.device) < counts[:, None]
    same = (said[:, : ids.shape[1]] == ids) & inside & ~torch.isin(ids, ends)
    return same.long().cumprod(1).sum(1)


def padded(texts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Texts as one tensor, int64 `[text, token]`, zeros behind them, and their lengths."""
    width = max(map(len, texts))
    rows = [[*text, *[0] * (width - len(text))] for text in texts]
    counts = torch.tensor([len(text) for text in texts], device=device)
    return torch.tensor(rows, device=device, dtype=torch.long), counts


def answer(
    model: Any,
    batch: DecodingBatch,
    stopping: Stopping,
    begun: Begun | None = None,
    occupancy: Occupancy | None = None,
) -> list[list[int]]:
    """Answers greedily; answers that end leave the batch, which is used up.

    Args:
        model: the model of the prefill.
        batch: what `start` made.
        stopping: when an answer ends.
        begun: what `follow` made; None: nothing is answered yet.
        occupancy: counts what a cache holds that is cut meanwhile.

    Returns:
        Token ids of each place's answer, end tokens cut off.
    """
    if begun is None:
        none = batch.positions.new_zeros(1)
        begun = Begun([[] for _ in batch.logits], stopping.choose(batch.logits, none))
    answering, tokens = _Answering(batch, stopping, begun.answers), begun.tokens
    answering.occupancy = occupancy
    while True:
        going = answering.take(tokens.tolist())
        if not going:
            return begun.answers
        if len(going) <= _LEAVE * len(tokens):
            tokens = answering.keep(going, tokens)
        tokens = answering.step(model, tokens)


class _Answering:
    """A batch that answers, its answers, and what each may say next.

    Args:
        batch: used up.
        stopping: when an answer ends.
        answers: token ids of each place's answer so far; written to.
    """

    def __init__(self, batch: DecodingBatch, stopping: Stopping, answers: list[list[int]]) -> None:
        self.batch, self.stopping, self.answers = batch, stopping, answers
        self.places = list(range(len(answers)))  # that of each row of the batch
        self.over: set[int] = set()
        self.guesses: dict[int, Guesses] = {}
        self.occupancy: Occupancy | None = None

    def take(self, tokens: Sequence[int]) -> list[int]:
        """Takes each row's next token.

        Returns:
            The rows whose answers go on.
        """
        most = self.stopping.max_new_tokens
        for place, token in zip(self.places, tokens, strict=True):
            reply = self.answers[place]
            if (
                place not in self.over
                and token not in self.stopping.end_tokens
                and len(reply) < most
            ):
                reply.append(token)
                if len(reply) < most:
                    continue
            self.over.add(place)
        return [row for row, place in enumerate(self.places) if place not in self.over]

    def keep(self, rows: list[int], tokens: Tensor) -> Tensor:
        """Drops all rows but these; returns their tokens."""
        left = torch.tensor(rows, device=tokens.device)
        self.batch.select(left)
        self.places = [self.places[row] for row in rows]
        return tokens[left]

    def step(self, model: Any, tokens: Tensor) -> Tensor:
        """Feeds each row's token, with guesses where there is room for some; returns the next."""
        batch, stopping = self.batch, self.stopping
        drafts = self._drafts()
        said = torch.tensor([len(self.answers[place]) for place in self.places])[:, None]
        said = said.to(tokens.device)
        if not any(drafts):
            if self.occupancy is not None:
                self.occupancy.note(batch.cache, self.places, self.over)
            logits = batch.feed(model, tokens[:, None], keep=1)
            return stopping.choose(logits, said)[:, 0]
        ids, counts = padded(drafts, tokens.device)
        tree = Tree.of(torch.cat((tokens[:, None], ids), 1))
        ((_, logits),) = batch.branch(model, tree, tree.ids.shape[1])
        chosen = stopping.choose(logits, said + tree.depths)
        agreed = _agreed(chosen, ids, counts, stopping)
        batch.adopt(tree.ids.shape[1], agreed + 1)
        for place, row, end in zip(self.places, ids.tolist(), agreed.tolist(), strict=True):
            self.answers[place] += row[:end]
        return chosen.gather(1, agreed[:, None])[:, 0]

    def _drafts(self) -> list[list[int]]:
        """What each row may say behind its token; nothing where it would cost a longer step."""
        room = _FEW // len(self.places) - 1
        if room < 1 or not self.batch.cache.branches or not self.batch.texts:
            return []
        drafts = []
        for row, place in enumerate(self.places):
            reply = self.answers[place]
            left = 0 if place in self.over else self.stopping.max_new_tokens - len(reply) - 1
            if place not in self.guesses:
                self.guesses[place] = Guesses(self.batch.texts[row])
            known = self.guesses[place]
            known.extend(reply[known.length - len(self.batch.texts[row]) :])
            drafts.append(known.next(min(room, left)))
        return drafts


def decode(
    model: Any,
    prefilled: Prefilled,
    caches: Sequence[CompressedCache],
    stopping: Stopping,
    leads: Sequence[Sequence[int]] = (),
) -> list[list[list[int]]]:
    """Greedy answers under several caches of one prefill, all in one batch.

    Args:
        model: the model of the prefill.
        prefilled: the prefill that the caches were made from.
        caches: made by `prefilled.compress`; they give up their storage.
        stopping: when an answer ends.
        leads: see `start`.

    Returns:
        Token ids as `[cache][sequence]` lists, end tokens cut off.

    Raises:
        UserError: a cache that is none, or is not fresh from `prefilled.compress`.
    """
    check_prefilled(prefilled)
    given: Sequence[object] = caches
    for cache in given:
        if not isinstance(cache, CompressedCache):
            raise UserError(
                f"{type(cache).__name__} was given where a compressed cache is wanted",
                allowed="what prefilled.compress returns",
                do="give prefilled.compress(method) for each method",
            )
    answers = answer(model, start(model, prefilled, caches, leads), stopping)
    batch = len(prefilled.lengths)
    return [answers[first : first + batch] for first in range(0, len(answers), batch)]
