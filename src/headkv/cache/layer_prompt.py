"""One layer of a prefilled prompt: what compression reads, whichever way the prefill ran."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from headkv.cache.module_parts import ModuleParts
from headkv.kernels.ragged import Ragged
from headkv.methods import Evidence, Kept, Method

POSITION = "position"  # columns of entries that are cut again while decoding
PAID = "accumulated_attention"


@dataclass
class LayerPrompt:
    """The full keys and values of one layer, and the queries at the end of the prompt.

    The evidence that methods read is worked out at first use and shared by all that follow.

    Attributes:
        queries: after RoPE, `[batch, query_head, last queries, head_dim]`; at least the
            observation window and the template's tail.
        keys: after RoPE, left-padded, `[batch, kv_head, token, head_dim]`.
        values: `[batch, kv_head, token, value_dim]`.
        padding: tokens of left padding of each sequence.
        layer: index among the layers that are compressed.
        num_layers: how many are.
        template_tokens: tokens behind the user's text.
        scaling: factor of the attention logits.
        softcap: soft cap of the attention logits.
        parts: of the attention module: its output projection and its rotation.
        second: what a second pass noted, `[batch, query_head, token]` each; see `Evidence`.
        probe: queries `[batch, query_head, probe, head_dim]` and keys `[batch, kv_head, probe,
            head_dim]` of a text behind the prompt, see `Evidence`.
        ends: whether a span of text ends with a token, bool `[batch, token]`; None: not known.
    """

    queries: Tensor
    keys: Tensor
    values: Tensor
    padding: list[int]
    layer: int
    num_layers: int
    template_tokens: int
    scaling: float
    softcap: float | None
    parts: ModuleParts | None = None
    second: dict[str, Tensor] = field(default_factory=dict)
    probe: tuple[Tensor, Tensor] | None = None
    ends: Tensor | None = None
    _evidence: list[Evidence] = field(default_factory=list, repr=False)

    @property
    def evidence(self) -> list[Evidence]:
        """What a method sees of each sequence, padding left out."""
        if not self._evidence:
            self._evidence = [self._of(row) for row in range(len(self.padding))]
        return self._evidence

    def _of(self, row: int) -> Evidence:
        pad, parts = self.padding[row], self.parts
        recorded, tokens = self.queries.shape[2], self.keys.shape[2]
        first = max(recorded - (tokens - pad), 0)  # queries of padding
        end = max(recorded - self.template_tokens, first)
        return Evidence(
            self.queries[row, :, first:end],
            self.keys[row, :, pad:],
            self.layer,
            self.values[row, :, pad:],
            self.num_layers,
            self.template_tokens,
            self.scaling,
            self.softcap,
            unrotate=None if parts is None else parts.unrotate,
            mean_rotation=None if parts is None else parts.mean_rotation,
            project=None if parts is None else parts.output_projection,
            second={what: noted[row, :, pad:] for what, noted in self.second.items()},
            probe=None if self.probe is None else (self.probe[0][row], self.probe[1][row]),
            ends=None if self.ends is None else self.ends[row, pad:].to(self.keys.device),
        )

    @property
    def finite(self) -> Tensor:
        """Whether keys and values are numbers everywhere but in padding, bool `[batch]`."""
        # Rows of `repeat` are one prompt: read once, not once a question of a document.
        padding = self.padding[:1] if self.keys.stride(0) == 0 else self.padding
        rows = [
            torch.isfinite(part[row, :, pad:]).all()
            for row, pad in enumerate(padding)
            for part in (self.keys, self.values)
        ]
        return torch.stack(rows).view(-1, 2).all(1).expand(len(self.padding))

    def forget(self) -> None:
        """Forgets what methods had worked out; the prompt itself stays."""
        self._evidence = []

    def record(self, methods: Iterable[Method] | None) -> None:
        """Works out what these methods read of all queries, and keeps only the last ones else.

        Args:
            methods: that will compress the prompt; None: any may, so every query is kept.
        """
        if methods is None:
            return
        known = [method for method in methods if method.kv_size is not None]
        window = max((method.window_size for method in known), default=0)
        with torch.no_grad():
            for method in known:
                for evidence in self.evidence if method.needs_every_query else []:
                    method.scorer.read(evidence)
        # Copied, so that the other queries are freed.
        last = min(max(window + self.template_tokens, 1), self.queries.shape[2])
        self.queries = self.queries[:, :, self.queries.shape[2] - last :].clone()
        for evidence in self._evidence:
            count = evidence.queries.shape[1]
            evidence.queries = evidence.queries[:, max(count - window, 0) :].clone()

    def without_probe(self, tokens: int) -> "LayerPrompt":
        """The prompt before its last tokens, which become its probe."""
        if not tokens:
            return self
        end = self.keys.shape[2] - tokens
        sides = self.queries, self.keys, self.values
        queries, keys, values = (side[:, :, :end] for side in sides)
        probe = self.queries[:, :, end:].clone(), self.keys[:, :, end:].clone()
        return replace(self, queries=queries, keys=keys, values=values, probe=probe)

    def note_second(self, second: dict[str, Tensor]) -> None:
        """Takes what a second pass noted, `[batch, query_head, token]` each, into the evidence."""
        self.second |= second
        for row, evidence in enumerate(self._evidence):
            evidence.second = {
                k: noted[row, :, self.padding[row] :] for k, noted in self.second.items()
            }

    def repeat(self, rows: int) -> "LayerPrompt":
        """Returns a layer of one prompt as that of so many equal ones; nothing is copied."""

        def wide(side: Tensor) -> Tensor:
            return side.expand(rows, *side.shape[1:])

        return replace(
            self,
            queries=wide(self.queries),
            keys=wide(self.keys),
            values=wide(self.values),
            padding=self.padding * rows,
            second={what: wide(noted) for what, noted in self.second.items()},
            ends=None if self.ends is None else wide(self.ends),
            _evidence=self.evidence * rows,
        )

    def compress(self, method: Method) -> Ragged:
        """The entries that `method` keeps of every sequence; padding is never kept."""
        return compress_layers([self], method)[0]


def keep_layers(layers: Sequence[LayerPrompt], method: Method, row: int) -> list[Kept]:
    """The positions that a method keeps of one sequence in each layer.

    Args:
        layers: one layer, or all compressed layers of the prompt if the method must see them all.
        method: decides what is kept.
        row: of the batch.
    """
    with torch.no_grad():
        evidence = [layer.evidence[row] for layer in layers]
        if method.allocator.scope == "model":
            return method.keep_model(evidence)
        return [method.keep(each) for each in evidence]


def compress_layers(layers: Sequence[LayerPrompt], method: Method) -> list[Ragged]:
    """The entries that a method keeps of each layer, all sequences of the batch.

    Args:
        layers: one layer, or all compressed layers of the prompt if the method must see them all.
        method: decides what is kept.
    """
    with torch.no_grad():
        parts: list[list[Ragged]] = [[] for _ in layers]
        for row in range(len(layers[0].padding)):
            if row and layers[0].evidence[row] is layers[0].evidence[row - 1]:  # the same prompt
                for part in parts:
                    part.append(part[-1])
                continue
            for place, kept in enumerate(keep_layers(layers, method, row)):
                evidence = layers[place].evidence[row]
                taken = method.entries.taken(evidence, kept, method.name)
                if method.decode_kv_size is not None:
                    taken.columns |= _columns(evidence, kept, PAID in method.needs)
                parts[place].append(taken)
        return [Ragged.stack(each) for each in parts]


def _columns(evidence: Evidence, kept: Kept, paid: bool) -> dict[str, Tensor]:
    """What cutting the entries again takes, `[entries, ...]`.

    Args:
        evidence: of the prompt.
        kept: the entries.
        paid: whether also what attention each entry was paid, by query head of its stored head.
    """
    columns = {POSITION: kept.positions.to(torch.int32)}
    if paid:
        stored = len(kept.counts)
        table = evidence.accumulated_attention.unflatten(0, (stored, -1))
        heads = torch.arange(stored).repeat_interleave(kept.counts.cpu()).to(table.device)
        columns[PAID] = table[heads, :, kept.positions]
    return columns
