"""Head scores from text alone, a few forward passes each: no needles, no answers, no training.

`duo`: DuoAttention (arXiv 2410.10819) on the fly, by NVIDIA kvpress's rule. `kvzip_head`: KVzip's
(arXiv 2505.23416). Which text is measured on is ours: essays that no evaluation uses.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from headkv.benchmarks.haystack import Haystack
from headkv.calibration.head_finder import Measured
from headkv.calibration.needles import Place, places
from headkv.config import buildable
from headkv.errors import UserError, choose
from headkv.generation.prefill import prefill
from headkv.generation.reading import reading
from headkv.kernels import soft_cap
from headkv.methods import Evidence, build_method
from headkv.methods.evidence import reduce_groups
from headkv.methods.part import Count
from headkv.models.prompts import encode
from headkv.typed import check_types

TEXT_KINDS = ["duo", "kvzip_head"]
_SINKS = 4  # tokens that every head looks at, whatever it is for


@buildable
@dataclass(frozen=True)
class TextTestGrid:
    """What to measure; one test for every length and depth of the essays.

    Attributes:
        kind: of `TEXT_KINDS`.
        lengths: tokens of text.
        depths: places in the essays where a text begins, evenly spaced.
        positions: over how many positions `duo` looks at a mean query's attention (500 in kvpress).
        chat_template: whether the text is a user's turn.

    Raises:
        UserError: a kind that is not known, or a number out of bounds.
    """

    kind: str = "duo"
    lengths: tuple[int, ...] = (2048,)
    depths: Count = 8
    positions: Annotated[int, Field(ge=2)] = 500
    chat_template: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "lengths", tuple(self.lengths))
        choose("kind", self.kind, TEXT_KINDS)
        check_types("texts", type(self), vars(self))
        if min(self.lengths, default=0) < 16:
            raise UserError(
                f"texts.lengths={list(self.lengths)}",
                allowed="lengths of 16 tokens or more",
                do="set texts.lengths=",
            )

    @property
    def label(self) -> str:
        """For the name of the score file."""
        return self.kind

    def places(self) -> list[Place]:
        """The place of every test."""
        return places(self.lengths, self.depths, 1)


class TextFinder:
    """Runs the tests of one model, as `head_finder.Finder` does.

    Args:
        model: loaded with `attn_implementation="headkv"`.
        tokenizer: the model's tokenizer.
        tests: what to measure.
        folder: folder of the essays; the half that no evaluation uses is taken.

    Attributes:
        text_id: hash of the essays.
    """

    def __init__(self, model: Any, tokenizer: Any, tests: TextTestGrid, folder: Path) -> None:
        self.model, self.tokenizer, self.tests = model, tokenizer, tests
        self.haystack = Haystack.read(folder, "heads", tokenizer)
        self.text_id = hashlib.sha256(self.haystack.text.encode()).hexdigest()[:16]

    def measure(self, known: dict[str, Measured] | None = None) -> Iterator[Measured]:
        """Runs the tests one by one; `known` are not run again.

        Raises:
            UserError: the haystack is shorter than a test's text.
        """
        for place in self.tests.places():
            done = (known or {}).get(place.name)
            yield done or Measured(place.name, "", 1.0, self._measure(place).cpu())

    def _measure(self, place: Place) -> Tensor:
        text = self.haystack.cut(place.length, place.depth * (1 - 1e-6))
        prompt = encode(
            self.tokenizer,
            text,
            chat_template=self.tests.chat_template,
            max_prompt_tokens=None,
            question_chars=len(text),
        )
        ids, tail = prompt.input_ids, prompt.template_tokens
        context = torch.tensor([ids[: len(ids) - tail]], device=self.model.device)
        if self.tests.kind == "duo":
            layers = prefill(self.model, {"input_ids": context}).layers
            rows = [duo(layer.evidence[0], self.tests.positions) for layer in layers]
        else:
            method = build_method("kvzip", 64)
            texts = reading(self.tokenizer, ids[len(ids) - tail :])
            layers = prefill(
                self.model, {"input_ids": context}, methods=[method], reading=texts
            ).layers
            first = max(len(ids) - prompt.question_tokens, _SINKS)  # behind the template's head
            rows = [kvzip_head(layer.evidence[0], first) for layer in layers]
        return torch.stack([row.cpu() for row in rows])


def duo(evidence: Evidence, positions: int) -> Tensor:
    """How far back a layer's mean query looks among mean keys.

    The mean query and key of the text, before RoPE, are placed at as many positions; the last one's
    attention is summed up from the first on, and the sums averaged: 1 if all of it is on the first.

    Args:
        evidence: the layer, with all queries.
        positions: how many.

    Returns:
        float64 `[query_head]`.

    Raises:
        UserError: the model's rotation is not found.
    """
    unrotate = evidence.unrotate
    assert unrotate is not None
    device = evidence.keys.device

    def mean(states: Tensor) -> Tensor:
        plain = unrotate(states, torch.arange(states.shape[1], device=device))
        return plain.float().mean(dim=1, keepdim=True)

    places = torch.arange(positions, device=device)
    # Rotating to a position is undoing the rotation of its opposite.
    query = unrotate(mean(evidence.queries), -places[-1:])
    keys = unrotate(mean(evidence.keys).expand(-1, positions, -1), -places)
    group = evidence.query_heads // evidence.kv_heads
    scaling = query.shape[2] ** -0.5 if evidence.scaling is None else evidence.scaling
    logits = (query @ keys.repeat_interleave(group, dim=0).mT)[:, 0].double() * scaling
    return soft_cap(logits, evidence.softcap).softmax(dim=1).cumsum(dim=1).mean(dim=1)


def kvzip_head(evidence: Evidence, first: int) -> Tensor:
    """The greatest score of any token that KVzip gives a KV head, for each of its query heads.

    Args:
        evidence: the layer, read a second time.
        first: tokens at the start that do not count.

    Returns:
        float64 `[query_head]`.
    """
    most = evidence.second_pass("repetition")[:, first:].amax(dim=1, keepdim=True)
    joined = reduce_groups(most, evidence.kv_heads, "max")[:, 0].double()
    return joined.repeat_interleave(evidence.query_heads // evidence.kv_heads)
