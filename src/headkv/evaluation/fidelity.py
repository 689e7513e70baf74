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

from headkv.generation.decoding import DecodingBatch, Stopping, answer, start
from headkv.generation.prefill import Prefilled
from headkv.methods import build_method
from headkv.models.prompts import tokenise

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENS = 64  # of an answer that are looked at unless more are asked for
_LOGITS = 2**25  # formed at a time, 128 MiB
_BORDER = 8  # tokens of a prompt that decide how text behind it is cut into tokens
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
        width = max(len(ids) for ids in cut) + 1
        ids = torch.tensor([row + [0] * (width - len(row)) for row in cut], device=device)
        counts = torch.tensor([len(row) + end for row, end in zip(cut, ends, strict=True)])
        return cls(ids, counts.to(device), torch.tensor(ends, device=device))

    def places(self, part: slice) -> Tensor:
        """Indices of some of the tokens, `[1, token]`."""
        return torch.arange(part.start, part.stop, device=self.ids.device)[None]

    def predictions(self, model: Any, batch: DecodingBatch) -> Iterator[tuple[slice, Tensor]]:
        """Feeds the answers to all rows, a few tokens at a time, for logits are large.

        Args:
            model: the model of the prefill.
            batch: in the order `[cache][sequence]`; it keeps the tokens.

        Yields:
            Which tokens are predicted, and log-probabilities over the vocabulary, float32
            `[cache, sequence, token, vocabulary]`.
        """
        sequences, last = len(self.ids), int(self.counts.max())
        fed = self.ids.repeat(len(batch.logits) // sequences, 1)
        piece = max(1, _LOGITS // batch.logits.numel())
        yield slice(0, 1), batch.logits[:, None].log_softmax(-1).unflatten(0, (-1, sequences))
        for first in range(1, last, piece):
            part = slice(first, min(first + piece, last))
            logits = batch.feed(model, fed[:, part.start - 1 : part.stop - 1])
            yield part, logits.log_softmax(-1).unflatten(0, (-1, sequences))

    def logprob(self, model: Any, batch: DecodingBatch, end_tokens: Sequence[int]) -> Tensor:
        """Mean log-probability per token, float64 `[cache, sequence]`; nan for an empty answer."""
        ends = torch.tensor(end_tokens, device=self.ids.device, dtype=torch.long)
        total = self.ids.new_zeros(1, len(self.ids), dtype=torch.float64)
        for part, logs in self.predictions(model, batch):
            ids = self.ids[:, part].expand(len(logs), -1, -1)[..., None]
            right = logs.gather(-1, ids)[..., 0]
            place, counts = self.places(part), self.counts[:, None]
            is_end = self.ended[:, None] & (place == counts - 1)
            right = torch.where(is_end, logs[..., ends].logsumexp(-1), right)
            total = total + torch.where(place < counts, right, 0).double().sum(-1)
        return total / self.counts


class Fidelity:
    """Measures caches of one prefill against its full cache.

    Args:
        model: the model of the prefill.
        prefilled: where the caches come from.
        leads: what was fed to them before the answer, see `headkv.generation.decoding.start`.
        references: the right answer to each prompt, token ids.
        stopping: when an answer ends.
        answers: the model's own under the full cache, if they are known already: token ids.
        tokens: of an answer that are looked at, from its beginning.
    """

    def __init__(
        self,
        model: Any,
        prefilled: Prefilled,
        leads: Sequence[Sequence[int]],
        references: Sequence[Sequence[int]],
        stopping: Stopping,
        answers: Sequence[Sequence[int]] | None = None,
        tokens: int = TOKENS,
    ) -> None:
        self.model, self.ends, device = model, stopping.end_tokens, prefilled.logits.device
        self.first = 0 if leads and leads[0] else 1
        full = start(model, prefilled, [prefilled.compress(build_method("fullkv"))], leads)
        most = min(stopping.max_new_tokens, tokens)
        if answers is None:
            answers = answer(model, full.fork(), replace(stopping, max_new_tokens=most))
        self.own = Forced.of(answers, [len(ids) < most for ids in answers], device, tokens)
        # [1, sequence, token, vocabulary]: 33 MB a sequence at most, with 128k tokens to choose of
        predicted = [logs for _, logs in self.own.predictions(model, full.fork())]
        self.full = torch.cat(predicted, 2)
        ends = [bool(ids) and bool(self.ends) for ids in references]
        self.reference = Forced.of(references, ends, device, tokens)
        self.reference_full = self.reference.logprob(model, full, self.ends)

    def of(self, batch: DecodingBatch) -> list[Measures]:
        """Measures every place of the batch, which is used up.

        Returns:
            For each place `reference_logprob` and `reference_logprob_full`, nats per token of the
            reference answer, its end included; `kl`, nats per token; `agreement`, 0 to 1. None
            where there is nothing to measure: no reference, or an answer of the first token only.
        """
        reference = self.reference.logprob(self.model, batch.fork(), self.ends)
        full = self.reference_full.expand_as(reference)
        divergence, agreement = self._against_full(batch)
        values = torch.stack([reference, full, divergence, agreement], -1).flatten(0, 1)
        names = ["reference_logprob", "reference_logprob_full", "kl", "agreement"]
        return [dict(zip(names, map(_rounded, row), strict=True)) for row in values.tolist()]

    def _against_full(self, batch: DecodingBatch) -> tuple[Tensor, Tensor]:
        """Mean divergence and agreement, float64 `[cache, sequence]`."""
        divergence = agreement = self.full.new_zeros(1, len(self.own.ids), dtype=torch.float64)
        for part, logs in self.own.predictions(self.model, batch):
            full, place = self.full[:, :, part], self.own.places(part)
            counted = (place >= self.first) & (place < self.own.counts[:, None])
            apart = (full.exp() * (full - logs)).sum(-1).clamp(min=0)
            same = logs.argmax(-1) == full.argmax(-1)
            divergence = divergence + torch.where(counted, apart, 0).double().sum(-1)
            agreement = agreement + (same & counted).double().sum(-1)
        count = (self.own.counts - self.first).clamp(min=0)
        return divergence / count, agreement / count


def _rounded(value: float) -> float | None:
    """None for 0 / 0."""
    return None if math.isnan(value) else round(value, _DIGITS)
