"""What compression does to the model's predictions, beside what it does to a benchmark's score.

Given tokens are fed to the compressed cache to see what the model makes of them. A score is hit or
miss; these are continuous, and tell methods apart on fewer examples:

- the log-probability of the reference answer, under the compressed cache and under the full one;
- along the model's own answer under the full cache: the Kullback-Leibler divergence of the
  predictions under the compressed cache from those under the full one, and how often both find the
  same token likeliest.

An answer's first token is predicted by the uncompressed prefill, the same under every method (but
for `compress_on=context`, where the question comes after the compression). Divergence and agreement
leave it out; the log-probability is that of the whole answer.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from headkv.generation.batch import DecodingBatch, Tree
from headkv.generation.decoding import LOGITS, Begun, Stopping, accept, answer, padded
from headkv.models.prompts import tokenise

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENS = 64  # of an answer that are looked at unless more are asked for
_BORDER = 8  # tokens of a prompt that decide how text behind it is cut into tokens
_CACHED = 2**20  # log-probabilities worked on at a time on a CPU, 4 MiB
_DIGITS = 5  # of the results: the last ones are rounding, another batch has others

Measures = dict[str, float | None]


def answer_ids(
    tokenizer: "PreTrainedTokenizerBase", prompt_ids: Sequence[int], text: str
) -> list[int]:
    """Tokens of an answer as they stand behind its prompt.

    A blank goes between a prompt such as `Answer:` and the answer; it is part of the first token.
    """
    text = text.strip()
    before = str(tokenizer.decode(prompt_ids[-_BORDER:], clean_up_tokenization_spaces=False))
    blank = " " if before[-1:].isascii() and not before[-1:].isspace() else ""
    tokens = tokenise(tokenizer, f"{before}{blank}{text}")
    return tokens.ids[tokens.before(len(before)) :] if text else []


@dataclass(frozen=True)
class Forced:
    """Answers to predict token by token, the beginning of each always given.

    Attributes:
        ids: `[sequence, token]`; anything behind an answer's end.
        counts: tokens of each answer, its end included where it is looked at, `[sequence]`.
        ended: whether the answer's end is scored; its last place then counts the probability of
            all end tokens, bool `[sequence]`.
    """

    ids: Tensor
    counts: Tensor
    ended: Tensor

    @classmethod
    def of(
        cls,
        answers: Sequence[Sequence[int]],
        ended: Sequence[bool],
        device: torch.device,
        tokens: int = TOKENS,
    ) -> "Forced":
        """The first tokens of each answer.

        Args:
            answers: token ids, end tokens cut off.
            ended: whether one followed.
            device: of the logits.
            tokens: of an answer at most.
        """
        cut = [list(ids[:tokens]) for ids in answers]
        ends = [over and len(ids) < tokens for ids, over in zip(cut, ended, strict=True)]
        ids, lengths = padded(cut, device)
        over = torch.tensor(ends, device=device)
        return cls(ids, lengths + over.long(), over)

    def counted(self, part: slice, first: int = 0) -> Tensor:
        """Which of some tokens count, from the first that does, bool `[sequence, token]`."""
        place = torch.arange(part.start, part.stop, device=self.ids.device)
        return (place >= first) & (place < self.counts[:, None])


class Fidelity:
    """Measures caches of one prefill against its full cache.

    Args:
        model: the model of the prefill.
        full: the full cache, about to answer.
        references: the right answer to each prompt, token ids.
        stopping: when an answer ends.
        answers: the model's own under the full cache, if they are known already: token ids.
        first: the first token of an answer that divergence and agreement count: 1 where the
            uncompressed prefill has predicted token 0.
        tokens: of an answer that are looked at, from its beginning.
    """

    def __init__(
        self,
        model: Any,
        full: DecodingBatch,
        references: Sequence[Sequence[int]],
        stopping: Stopping,
        answers: Sequence[Sequence[int]] | None = None,
        first: int = 1,
        tokens: int = TOKENS,
    ) -> None:
        self.model, self.stopping, self.first, device = model, stopping, first, full.logits.device
        most = min(stopping.max_new_tokens, tokens)
        if answers is None:
            answers = answer(model, full.fork(), replace(stopping, max_new_tokens=most))
        self.own = Forced.of(answers, [len(ids) < most for ids in answers], device, tokens)
        ends = [bool(ids) and bool(stopping.end_tokens) for ids in references]
        self.reference = Forced.of(references, ends, device, tokens)
        # [1, sequence, token, vocabulary]: 33 MB a sequence at most, with 128k tokens to choose of
        predicted, self.reference_full = [], 0.0 * self.reference.counts[None].double()
        for forced, part, logs in self._predictions(full):
            if forced is self.own:
                predicted.append(logs)
            else:
                self.reference_full = self.reference_full + self._right(part, logs)
        self.full = torch.cat(predicted, 2)
        self._likeliest = self.full.argmax(-1)

    def of(self, batch: DecodingBatch) -> tuple[list[Measures], Begun | None]:
        """Measures every place of the batch.

        Returns:
            For each place `reference_logprob` and `reference_logprob_full`, nats per token of the
            reference answer, its end included; `kl`, nats per token; `agreement`, 0 to 1. None
            where there is nothing to measure: no reference, or an answer of the first token only.
            And the answers as far as they are known by now, where the cache `branches`; where it
            does not, the batch is as it was.
        """
        sums = [0.0 * self.own.counts[None].double() for _ in range(3)]
        chosen: list[Tensor] = []
        for forced, part, logs in self._predictions(batch):
            if forced is self.reference:
                sums[0] = sums[0] + self._right(part, logs)
                continue
            counted = self.own.counted(part, self.first)
            full = self.full[:, :, part]
            apart = (full - logs).mul_(full.exp()).sum(-1)
            likeliest = logs.argmax(-1)
            same = likeliest == self._likeliest[:, :, part]
            said = likeliest
            if self.stopping.min_new_tokens:
                said = self.stopping.choose(
                    logs, torch.arange(part.start, part.stop, device=logs.device)
                )
            sums[1] = sums[1] + torch.where(counted, apart.clamp(min=0), 0).double().sum(-1)
            sums[2] = sums[2] + (same & counted).double().sum(-1)
            chosen.append(said.flatten(0, 1))
        return self._measures(*sums), self._begun(batch, chosen)

    def of_itself(self) -> list[Measures]:
        """The measures of the full cache: nothing diverges."""
        nothing = torch.zeros_like(self.reference_full)
        agreed = (self.own.counts - self.first).clamp(min=0).double()[None]
        return self._measures(self.reference_full, nothing, agreed)

    def _measures(self, reference: Tensor, divergence: Tensor, agreed: Tensor) -> list[Measures]:
        """Sums over tokens, float64 `[cache, sequence]`, as the means that `of` returns."""
        count = (self.own.counts - self.first).clamp(min=0)
        reference = reference / self.reference.counts
        full = (self.reference_full / self.reference.counts).expand_as(reference)
        found = torch.stack([reference, full, divergence / count, agreed / count], -1)
        names = ["reference_logprob", "reference_logprob_full", "kl", "agreement"]
        rows = found.flatten(0, 1).tolist()
        return [dict(zip(names, map(_rounded, row), strict=True)) for row in rows]

    def _predictions(self, batch: DecodingBatch) -> Iterator[tuple[Forced, slice, Tensor]]:
        """Feeds both answers to all rows, a few tokens at a time, for logits are large.

        In one pass where the cache `branches`, else one after the other, each to a fork.

        Yields:
            The answer, which of its tokens are predicted, and log-probabilities over the
            vocabulary, float32 `[cache, sequence, token, vocabulary]`.
        """
        texts = [self.own, self.reference]
        sequences = len(self.own.ids)
        repeats, piece = len(batch.logits) // sequences, max(1, LOGITS // batch.logits.numel())

        def predicted(logits: Tensor, first: int) -> Iterator[tuple[slice, Tensor]]:
            """A few tokens at a time: what follows rereads them, best out of the CPU's caches."""
            at_once = logits.shape[1] if logits.is_cuda else max(1, _CACHED // logits[:, 0].numel())
            for begin in range(0, logits.shape[1], at_once):
                some = logits[:, begin : begin + at_once]
                columns = slice(first + begin, first + begin + some.shape[1])
                yield columns, some.log_softmax(-1).unflatten(0, (-1, sequences))

        ids = [forced.ids.repeat(repeats, 1) for forced in texts]
        for forced in texts:
            for columns, logs in predicted(batch.logits[:, None], 0):
                yield forced, columns, logs
        if batch.cache.branches:
            for part, logits in batch.branch(self.model, Tree.of(*ids), piece):
                begin = 0
                for forced, each in zip(texts, ids, strict=True):
                    end = begin + each.shape[1]
                    first, last = max(part.start, begin), min(part.stop, end)
                    if first < last:
                        some = logits[:, first - part.start : last - part.start]
                        for columns, logs in predicted(some, first - begin + 1):
                            yield forced, columns, logs
                    begin = end
            return
        for forced, each in zip(texts, ids, strict=True):
            fork = batch.fork()
            for first in range(0, each.shape[1], piece):
                logits = fork.feed(self.model, each[:, first : first + piece])
                for columns, logs in predicted(logits, first + 1):
                    yield forced, columns, logs

    def _right(self, part: slice, logs: Tensor) -> Tensor:
        """Summed log-probability of some of the reference's tokens, float64 `[cache, sequence]`."""
        forced = self.reference
        ends = torch.tensor(self.stopping.end_tokens, device=logs.device, dtype=torch.long)
        padding = forced.ids.new_zeros(len(forced.ids), 1)
        ids = torch.cat((forced.ids, padding), 1)[:, part]
        right = logs.gather(-1, ids.expand(len(logs), -1, -1)[..., None])[..., 0]
        place = torch.arange(part.start, part.stop, device=logs.device)
        is_end = forced.ended[:, None] & (place == forced.counts[:, None] - 1)
        right = torch.where(is_end, logs[..., ends].logsumexp(-1), right)
        return torch.where(forced.counted(part), right, 0).double().sum(-1)

    def _begun(self, batch: DecodingBatch, chosen: list[Tensor]) -> Begun | None:
        """How every place begins to answer: as the full cache does, as long as it would itself."""
        if not batch.cache.branches:
            return None
        own, repeats = self.own, len(batch.logits) // len(self.own.ids)
        ids = own.ids.repeat(repeats, 1)
        counts = (own.counts - own.ended.long()).repeat(repeats)
        fed = own.ids.shape[1] + self.reference.ids.shape[1]
        return accept(batch, fed, ids, counts, chosen, self.stopping)


def _rounded(value: float) -> float | None:
    """None for 0 / 0."""
    return None if math.isnan(value) else round(value, _DIGITS)
