"""Several caches of one prefill as one batch, and the tokens that are fed to it."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from headkv.cache import CompressedCache
from headkv.generation.prefill import Prefilled


@dataclass(frozen=True)
class Tree:
    """Tokens to feed at once that are several texts, each seeing its own beginning alone.

    Attributes:
        ids: int64 `[place, token]`; what no text needs may be anything.
        depths: how many tokens of its text come before each, int64 `[token]`.
        sees: which tokens each sees, bool `[token, token]`, itself and none behind it; None: all
            before it, as there is one text.
    """

    ids: Tensor
    depths: Tensor
    sees: Tensor | None

    @classmethod
    def of(cls, *texts: Tensor) -> "Tree":
        """Texts side by side, each int64 `[place, token]`."""
        ids = torch.cat(texts, 1)
        depths = torch.cat([torch.arange(text.shape[1], device=ids.device) for text in texts])
        if len(texts) == 1:
            return cls(ids, depths, None)
        chains = [ids.new_ones(text.shape[1], text.shape[1]).tril() for text in texts]
        return cls(ids, depths, torch.block_diag(*chains).bool())


@dataclass
class DecodingBatch:
    """Several caches of one prefill as one batch that is about to answer.

    A place in the batch is one sequence under one cache, in the order `[cache][sequence]`.

    Attributes:
        cache: the stacked caches.
        logits: those of each place's next token, float32 `[place, vocabulary]`.
        positions: the position of that token, int64 `[place, 1]`.
        texts: what each place has read so far, token ids.
        visible: which tokens after the prompt belong to each place's text, bool `[place, tail]`;
            None: all.
        tail: tokens held after the prompt, whether or not they belong to a text.
    """

    cache: CompressedCache
    logits: Tensor
    positions: Tensor
    texts: list[list[int]] = field(default_factory=list)
    visible: Tensor | None = None
    tail: int = 0

    def fork(self) -> "DecodingBatch":
        """Returns the same batch, to feed other tokens to: both share the prompt's entries.

        Feed one to its end before the other: both may write into the same tail buffer.
        """
        cache = copy.copy(self.cache)
        cache.layers = [layer.fork() for layer in self.cache.layers]
        return replace(self, cache=cache)

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
            logits = torch.cat([first, self.feed(model, tokens[:, room:])], 1)
            return logits[:, -keep:] if keep else logits
        steps = torch.arange(tokens.shape[1], device=tokens.device)
        logits = self._forward(model, tokens, self.positions + steps, None, keep)
        self.positions = self.positions + tokens.shape[1]
        if self.visible is not None:
            self.visible = torch.cat((self.visible, self.visible.new_ones(tokens.shape)), 1)
        return logits

    def branch(self, model: Any, tree: Tree, piece: int) -> Iterator[tuple[slice, Tensor]]:
        """Feeds several texts at once, where `cache.branches`; `adopt` says what becomes of them.

        Args:
            model: the model of the prefill.
            tree: the texts.
            piece: tokens of each place to feed at a time.

        Yields:
            Which tokens were fed, and logits behind each, float32 `[place, token, vocabulary]`.
        """
        for first in range(0, tree.ids.shape[1], piece):
            part = slice(first, min(first + piece, tree.ids.shape[1]))
            positions = self.positions + tree.depths[part]
            among = None if tree.sees is None else tree.sees[part, : part.stop]
            yield part, self._forward(model, tree.ids[:, part], positions, among)

    def adopt(self, fed: int, counts: Tensor) -> None:
        """Makes the first tokens that were fed last a part of the texts, and forgets the others.

        Args:
            fed: tokens that `branch` fed to each place.
            counts: how many belong to each place's text, int64 `[place]`.
        """
        most = int(counts.max())
        self.tail += most - fed
        if most < fed:
            for layer in self.cache.layers:
                layer.crop(most - fed)
        mine = torch.arange(most, device=counts.device) < counts[:, None]
        if self.visible is not None or not bool(mine.all()):
            before = self.visible
            if before is None:
                before = mine.new_ones(len(counts), self.tail - most)
            self.visible = torch.cat((before, mine), 1)
        self.positions = self.positions + counts[:, None]

    def select(self, places: Tensor) -> None:
        """Drops all places but the given ones; their next logits are yet to come.

        Args:
            places: indices of those that stay, int64 `[place]`.
        """
        self.cache.batch_select_indices(places)
        self.positions = self.positions[places]
        self.texts = [self.texts[place] for place in places.tolist()]
        if self.visible is not None:
            self.visible = self.visible[places]

    def _forward(
        self,
        model: Any,
        tokens: Tensor,
        positions: Tensor,
        among: Tensor | None,
        keep: int | Tensor = 0,
    ) -> Tensor:
        """Feeds tokens.

        Args:
            model: the model of the prefill.
            tokens: token ids, int64 `[place, token]`.
            positions: of each, likewise.
            among: which of the last tokens, these included, each sees, bool `[token, last]`; it
                sees all visible ones before; None: all before it.
            keep: see `feed`; or behind which tokens, int64 `[kept]`.
        """
        mask = None
        if among is not None or self.visible is not None:
            places, length = tokens.shape
            if among is None:  # one text, of which `visible` does not know the tokens fed yet
                since = self.tail - (0 if self.visible is None else self.visible.shape[1])
                among = self.positions.new_ones(length, since + length).tril(since).bool()
            before = self.visible
            if before is None:
                before = among.new_ones(places, self.tail + length - among.shape[1])
            before = before[:, None].expand(-1, length, -1)
            seen = torch.cat((before, among.expand(places, -1, -1)), 2)
            mask = torch.zeros(seen.shape, device=seen.device).masked_fill_(~seen, float("-inf"))
        for layer in self.cache.layers:
            layer.mask = mask
        with torch.no_grad():
            output = model(
                input_ids=tokens,
                position_ids=positions,
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=keep,
            )
        for layer in self.cache.layers:
            layer.mask = None
        self.tail += tokens.shape[1]
        return output.logits.float()


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
            the context was prefilled and compressed; they are kept. All of one length, unless the
            caches `branch`.

    Returns:
        A batch whose next tokens are the first of the answers.
    """
    prefilled.check_finite()
    device = prefilled.logits.device
    leads = leads if any(leads) else [[]] * len(prefilled.lengths)
    texts = [[*text, *lead] for text, lead in zip(prefilled.ids, leads, strict=True)]
    places = [next for cache in caches for next in cache.next_positions or prefilled.lengths]
    batch = DecodingBatch(
        CompressedCache.stack(list(caches)),
        prefilled.logits.repeat(len(caches), 1),
        torch.tensor(places, device=device)[:, None],
        texts * len(caches),
    )
    lengths = [len(lead) for lead in leads]
    if min(lengths) < max(lengths):
        _feed_ragged(model, batch, leads, len(caches))
    elif leads[0]:
        tokens = torch.tensor(list(leads), device=device).repeat(len(caches), 1)
        batch.logits = batch.feed(model, tokens, keep=1)[:, -1]
    return batch


def _feed_ragged(
    model: Any, batch: DecodingBatch, leads: Sequence[Sequence[int]], repeats: int
) -> None:
    """Feeds texts of several lengths: the shorter are padded behind, where no token looks."""
    width, device = max(map(len, leads)), batch.logits.device
    rows = [[*lead, *[0] * (width - len(lead))] for lead in leads]
    tokens = torch.tensor(rows, device=device).repeat(repeats, 1)
    counts = torch.tensor([len(lead) for lead in leads], device=device).repeat(repeats)
    # Logits where some text ends: over a whole vocabulary, all of them are a quarter of the work.
    ends, own = (counts - 1).unique(return_inverse=True)
    positions = batch.positions + torch.arange(width, device=device)
    logits = batch._forward(model, tokens, positions, None, ends)
    batch.logits = logits[torch.arange(len(counts), device=device), own]
    batch.adopt(width, counts)
