"""Prefill once, compress many times, decode all of it together."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headkv.cache import CompressedCache
from headkv.generation.occupancy import Occupancy
from headkv.generation.prefill import Prefilled


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


@dataclass
class DecodingBatch:
    """Several caches of one prefill as one batch that is about to answer.

    A place in the batch is one sequence under one cache, in the order `[cache][sequence]`.

    Attributes:
        cache: the stacked caches.
        logits: those of each place's next token, float32 `[place, vocabulary]`.
        positions: the position of that token, int64 `[place, 1]`.
    """

    cache: CompressedCache
    logits: Tensor
    positions: Tensor

    def fork(self) -> "DecodingBatch":
        """Returns the same batch, to feed other tokens to: both share the prompt's entries.

        Feed one to its end before the other: both may write into the same tail buffer.
        """
        cache = copy.copy(self.cache)
        cache.layers = [layer.fork() for layer in self.cache.layers]
        return DecodingBatch(cache, self.logits, self.positions)

    def feed(self, model: Any, tokens: Tensor, keep: int = 0) -> Tensor:
        """Feeds tokens to every place; the cache keeps them.

        Args:
            model: the model of the prefill.
            tokens: token ids, int64 `[place, token]`.
            keep: the logits behind the last `keep` tokens are returned; 0 returns all of them.

        Returns:
            Logits, float32 `[place, token, vocabulary]`.
        """
        room = self.cache.until_cut
        if room is not None and tokens.shape[1] > room:  # cut where one token at a time would be
            first = self.feed(model, tokens[:, :room])
            rest = self.feed(model, tokens[:, room:])
            logits = torch.cat([first, rest], 1)
            return logits[:, -keep:] if keep else logits
        steps = torch.arange(tokens.shape[1], device=tokens.device)
        with torch.no_grad():
            output = model(
                input_ids=tokens,
                position_ids=self.positions + steps,
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=keep,
            )
        self.positions = self.positions + tokens.shape[1]
        return output.logits.float()

    def select(self, places: Tensor) -> None:
        """Drops all places but the given ones; their next logits are yet to come.

        Args:
            places: indices of those that stay, int64 `[place]`.
        """
        self.cache.batch_select_indices(places)
        self.positions = self.positions[places]


def start(
    model: Any,
    prefilled: Prefilled,
    caches: Sequence[CompressedCache],
    leads: Sequence[Sequence[int]] = (),
) -> DecodingBatch:
    """Stacks caches of one prefill, and feeds what comes before the answer.

    Args:
        model: the model of the prefill.
        prefilled: the prefill that the caches were made from.
        caches: made by `prefilled.compress`; they give up their storage.
        leads: for each sequence, tokens to feed before answering, e.g. the question, where only
            the context was prefilled and compressed; all of one length. They are kept.

    Returns:
        A batch whose next tokens are the first of the answers.
    """
    device = prefilled.logits.device
    batch = DecodingBatch(
        CompressedCache.stack(list(caches)),
        prefilled.logits.repeat(len(caches), 1),
        torch.tensor(prefilled.lengths * len(caches), device=device)[:, None],
    )
    if leads and leads[0]:
        tokens = torch.tensor(list(leads), device=device).repeat(len(caches), 1)
        batch.logits = batch.feed(model, tokens, keep=1)[:, -1]
    return batch


def answer(
    model: Any, batch: DecodingBatch, stopping: Stopping, occupancy: Occupancy | None = None
) -> list[list[int]]:
    """Answers greedily; answers that end leave the batch, which is used up.

    Args:
        model: the model of the prefill.
        batch: what `start` made.
        stopping: when an answer ends.
        occupancy: counts what the caches hold meanwhile.

    Returns:
        Token ids of each place's answer, end tokens cut off.
    """
    logits, device = batch.logits, batch.logits.device
    ends = torch.tensor(stopping.end_tokens, device=device, dtype=torch.long)
    answers: list[list[int]] = [[] for _ in range(len(logits))]
    alive = list(range(len(logits)))
    if occupancy is not None:
        occupancy.note(batch.cache, alive)
    for step in range(stopping.max_new_tokens):
        if step < stopping.min_new_tokens:
            logits = logits.index_fill(1, ends, float("-inf"))
        tokens = logits.argmax(-1)
        ended = torch.isin(tokens, ends).tolist()
        for place, token, over in zip(alive, tokens.tolist(), ended, strict=True):
            if not over:
                answers[place].append(token)
        going = [index for index, over in enumerate(ended) if not over]
        if not going or step + 1 == stopping.max_new_tokens:
            break
        if len(going) < len(alive):
            left = torch.tensor(going, device=device)
            batch.select(left)
            tokens = tokens[left]
            alive = [alive[index] for index in going]
        logits = batch.feed(model, tokens[:, None], keep=1)[:, -1]
        if occupancy is not None:
            occupancy.note(batch.cache, alive)
    return answers


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
    """
    answers = answer(model, start(model, prefilled, caches, leads), stopping)
    batch = len(prefilled.lengths)
    return [answers[first : first + batch] for first in range(0, len(answers), batch)]
