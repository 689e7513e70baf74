"""Runs the model: a prefill, a compression, an answer, and what compression did to it.

Nothing here decides what goes together or remembers anything: see `headkv.evaluation.scheduler`.
"""

from collections.abc import Sequence
from itertools import product

import torch

from headkv.cache import CompressedCache, plan_layers
from headkv.evaluation.answers import Answer, Beginning, CellCost, Clock, PrefilledBatch, now
from headkv.evaluation.encoding import EncodedExample
from headkv.evaluation.fidelity import TOKENS, Fidelity, Measures, answer_ids
from headkv.evaluation.grid import Cell
from headkv.generation.batch import DecodingBatch, start
from headkv.generation.decoding import answer, follow
from headkv.generation.occupancy import Occupancy, growing
from headkv.generation.prefill import Prefilled, begin, go_on, prefill
from headkv.generation.reading import reading
from headkv.generation.task_aware import compress_contiguous, compress_in_chunks
from headkv.methods import build_method
from headkv.models.loaded import Loaded
from headkv.models.spans import span_ends


class Evaluator:
    """Prefills, compresses, decodes and measures; it keeps nothing between two calls.

    Args:
        loaded: the model.
        cells: the cells of the run.
        fidelity: whether answers are measured, see `headkv.evaluation.fidelity`.
        fidelity_tokens: tokens of an answer that it looks at.
    """

    def __init__(
        self, loaded: Loaded, cells: Sequence[Cell], fidelity: bool, fidelity_tokens: int = TOKENS
    ) -> None:
        self.loaded, self.cells, self.fidelity = loaded, cells, fidelity
        self.fidelity_tokens = fidelity_tokens

    @property
    def branches(self) -> bool:
        """Whether questions of several lengths can be read in one batch."""
        plans = plan_layers(self.loaded.model.config)
        at_once = all(cell.method.decode_kv_size is None for cell in self.cells)
        return at_once and all(plan.window is None for plan in plans)

    @property
    def needs_whole(self) -> bool:
        """Whether a cell reads what only a whole prompt has: a second pass."""
        return any(cell.method.second_pass for cell in self.cells)

    def _ends(self, ids: torch.Tensor) -> torch.Tensor | None:
        """Where spans of some prompts end, if a cell reads it, bool `[batch, token]`."""
        if any("span_ends" in cell.method.needs for cell in self.cells):
            return span_ends(self.loaded.tokenizer, ids)
        return None

    def begin(self, ids: list[int], prompts: int, whole: EncodedExample | None) -> Beginning:
        """Runs what several prompts begin with through the model.

        Args:
            ids: its token ids.
            prompts: how many prompts there are.
            whole: one of them, if all are compressed where the beginning ends.

        Raises:
            torch.OutOfMemoryError: it does not fit.
        """
        began = self._now()
        if whole is not None and self.needs_whole:
            batch = self.prefill([whole])
            return Beginning(ids, batch.prefilled, batch.seconds / prompts, batch.prefilled)
        prefilled = begin(self.loaded.model, ids, [cell.method for cell in self.cells])
        return Beginning(ids, prefilled, (self._now() - began) / prompts)

    def prefill(
        self, examples: Sequence[EncodedExample], beginning: Beginning | None = None
    ) -> PrefilledBatch:
        """Runs prompts through the model, the shorter ones padded on the left.

        Args:
            examples: examples of one kind.
            beginning: what they begin with, from `begin`: either all end there, or there is one.

        Raises:
            torch.OutOfMemoryError: they do not fit together.
        """
        began = self._now()
        if beginning is not None:
            prefilled = self._after(beginning, examples[0])
            if len(examples) > 1:
                prefilled = prefilled.repeat(len(examples))
            seconds = self._now() - began + len(examples) * beginning.seconds
            return PrefilledBatch(examples, prefilled, seconds)
        contexts = [each.context for each in examples]
        width = max(map(len, contexts))
        ids = [[0] * (width - len(context)) + context for context in contexts]
        mask = [[0] * (width - len(context)) + [1] * len(context) for context in contexts]
        device = self.loaded.model.device
        inputs = {
            "input_ids": torch.tensor(ids, device=device),
            "attention_mask": torch.tensor(mask, device=device),
        }
        methods = [cell.method for cell in self.cells]
        reads = any(method.second_pass for method in methods)
        prefilled = prefill(
            self.loaded.model,
            inputs,
            examples[0].template_tokens,
            methods,
            reading(self.loaded.tokenizer, examples[0].turn) if reads else None,
            [each.probe for each in examples if each.probe],
            self._ends(inputs["input_ids"]),
        )
        seconds = self._now() - began
        if prefilled.second_seconds:  # repetitions share a pass; task prompts have their own
            seconds -= sum(set(prefilled.second_seconds.values()))
        return PrefilledBatch(examples, prefilled, seconds)

    def _after(self, beginning: Beginning, encoded: EncodedExample) -> Prefilled:
        """A prompt whose beginning is prefilled."""
        rest, whole = encoded.context[len(beginning.ids) :], beginning.whole
        if rest or whole is None:
            methods = [cell.method for cell in self.cells]
            template, model = encoded.template_tokens, self.loaded.model
            ends = self._ends(torch.tensor([encoded.context], device=model.device))
            prefilled = go_on(model, beginning.prefilled, rest, template, methods, ends)
            if rest:
                return prefilled
            beginning.whole = whole = prefilled
        return whole

    def compress(self, batch: PrefilledBatch, cell: int) -> tuple[CellCost, CompressedCache]:
        """Compresses a batch under one cell.

        Args:
            batch: from `prefill`; unchanged.
            cell: index of the cell.
        """
        began = self._now()
        method, asked = self.cells[cell].method, self.cells[cell].identity
        if (chunks := asked.get("probe_chunks", 1)) > 1:
            contexts, probes = zip(*((e.context, e.probe) for e in batch.examples), strict=True)
            model = self.loaded.model
            cache = compress_in_chunks(model, contexts, method, probes, chunks, asked["rerotate"])
        elif asked.get("rerotate"):
            cache = compress_contiguous(batch.prefilled, method)
        else:
            cache = batch.prefilled.compress(method)
        seconds = self._now() - began
        # What the prefill took longer for the sake of such cells.
        seconds += sum(batch.prefilled.second_seconds[note] for note in method.second_pass)
        seconds /= len(batch.examples)
        return CellCost.of(cell, seconds, cache), cache

    def decode(
        self, batch: PrefilledBatch, costs: Sequence[CellCost], caches: list[CompressedCache]
    ) -> list[Answer]:
        """Answers, and measures if that is asked for.

        The full cache, if it is among these, comes first: what it answers is fed to the others,
        which measures them and begins their answers in one pass.

        Args:
            batch: from `prefill`.
            costs: from `compress`, one a cell.
            caches: likewise; the list is emptied, for they can be large.

        Returns:
            The answers of every example under every one of these cells.

        Raises:
            torch.OutOfMemoryError: so many cells do not fit together.
        """
        examples, model, stopping = batch.examples, self.loaded.model, batch.examples[0].stopping
        clock = Clock(model.device)
        tokens: list[list[int]] = []
        measures: list[Measures] = []
        first: list[list[int]] | None = None
        rows: DecodingBatch | None = None
        counted_held: Occupancy | None = None
        if full := self.cells[costs[0].cell].method.keeps_all:
            rows = self._start(batch, [caches.pop(0)])
            first = answer(model, rows.fork(), stopping)
            tokens += first
        clock.lap("decode")
        if self.fidelity and (full or batch.full is None):
            if rows is None:
                rows = self._start(batch, [batch.prefilled.compress(build_method("fullkv"))])
            references = [self._reference(each) for each in examples]
            counted = 0 if examples[0].behind else 1
            batch.full = Fidelity(
                model, rows, references, stopping, first, counted, self.fidelity_tokens
            )
            measures += batch.full.of_itself() if full else []
        clock.lap("fidelity")
        rows = None  # frees the full cache
        if caches:
            rows, begun = self._start(batch, caches), None
            clock.lap("decode")
            if self.fidelity and batch.full is not None:
                found, begun = batch.full.of(rows)
                measures += found
                clock.lap("fidelity")
            elif first is not None and rows.cache.branches:
                begun = follow(model, rows, first, stopping)
            if rows.cache.cut_every is not None:
                counted_held = Occupancy(len(rows.logits))
            tokens += answer(model, rows, stopping, begun, counted_held)
            clock.lap("decode")
        seconds = {"prefill": batch.seconds / len(examples), "compress": 0.0}
        seconds |= {step: spent / len(tokens) for step, spent in clock.laps.items() if spent}
        known: list[Measures] | list[None] = measures or [None] * len(tokens)
        places = list(product(costs, range(len(examples))))
        held = [
            growing(
                cost.kept[place],
                cost.held[place],
                cost.token,
                len(examples[place].lead),
                max(len(ids) - 1, 0),
            )
            for (cost, place), ids in zip(places, tokens, strict=True)
        ]
        if counted_held is not None:
            held[len(held) - len(counted_held.held) :] = counted_held.held
        return [
            Answer(
                cell=cost.cell,
                encoded=encoded,
                tokens=ids,
                kept_tokens=cost.kept[place],
                cache_bytes=cost.held[place],
                full_cache_bytes=batch.prefilled.row_bytes[place],
                stored_heads=cost.stored_heads,
                seconds=seconds | {"compress": cost.seconds},
                fidelity=measured,
                decoding=holding.as_row(),
            )
            for (cost, (place, encoded)), ids, measured, holding in zip(
                product(costs, enumerate(examples)), tokens, known, held, strict=True
            )
        ]

    def _start(self, batch: PrefilledBatch, caches: list[CompressedCache]) -> DecodingBatch:
        """Caches about to answer; the list is emptied, for they can be large."""
        leads = [each.lead for each in batch.examples]
        rows = start(self.loaded.model, batch.prefilled, caches, leads)
        caches.clear()
        return rows

    def _reference(self, encoded: EncodedExample) -> list[int]:
        """The token ids of the first of the right answers."""
        text = encoded.example.answers[0] if encoded.example.answers else ""
        return answer_ids(self.loaded.tokenizer, encoded.prompt.input_ids, text)

    def _now(self) -> float:
        """Seconds on a clock, once the GPU has done what it was given."""
        return now(self.loaded.model.device)
