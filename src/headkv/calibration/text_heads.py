"""Head scores from text alone, a few forward passes each: no needles, no answers, no training.

`duo`: DuoAttention (arXiv 2410.10819) on the fly, by NVIDIA kvpress's rule. `kvzip_head`: KVzip's
(arXiv 2505.23416). Which text is measured on is ours: essays that no evaluation uses.
"""

import torch
from torch import Tensor

from headkv.calibration.head_finder import Finder, Measured
from headkv.calibration.needles import Place
from headkv.generation.prefill import prefill
from headkv.generation.reading import reading
from headkv.kernels import soft_cap
from headkv.methods import Evidence, build_method
from headkv.methods.evidence import reduce_groups
from headkv.models.prompts import encode

_SINKS = 4  # tokens that every head looks at, whatever it is for


class TextFinder(Finder):
    """Measures the heads on texts alone; `tests` are a `TextTestGrid`."""

    forced = True

    def _measure(self, place: Place) -> Measured:
        return Measured(place.name, "", 1.0, self._scores(place).cpu())

    def _scores(self, place: Place) -> Tensor:
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
