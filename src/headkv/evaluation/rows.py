"""From an answer's tokens to the row that is written: its text, its scores and what it cost."""

from collections.abc import Sequence
from typing import Any

from headkv.benchmarks.base import Benchmark, check_scores
from headkv.evaluation.answers import Answer
from headkv.evaluation.grid import Cell
from headkv.records import Result


class RowMaker:
    """Makes the rows of a run.

    Args:
        benchmark: scores the answers.
        tokenizer: the model's, turns tokens into text.
        cells: the cells of the run.
        model: the model's name.
        seed: of the run.
    """

    def __init__(
        self, benchmark: Benchmark, tokenizer: Any, cells: Sequence[Cell], model: str, seed: int
    ) -> None:
        self.benchmark, self.tokenizer, self.cells = benchmark, tokenizer, cells
        self.model, self.seed = model, seed

    def row(self, answer: Answer, run_key: str) -> Result:
        """Makes the row of an answer.

        Args:
            answer: what the model answered under one cell.
            run_key: the row's own.

        Returns:
            The row, with the answer's scores.
        """
        encoded, cell = answer.encoded, self.cells[answer.cell]
        method = cell.method
        example = encoded.example
        text = self.tokenizer.decode(answer.tokens, skip_special_tokens=True).strip()
        scores = self.benchmark.score(example, text)
        main_metric = self.benchmark.main_metric(example.task)
        check_scores(scores, main_metric, self.benchmark.name)
        return Result(
            id=example.id,
            prediction=text,
            answers=example.answers,
            score=scores[main_metric],
            scores=scores,
            prompt_tokens=len(encoded.prompt.input_ids),
            new_tokens=len(answer.tokens),
            kv_size=method.kv_size,
            kept_tokens=answer.kept_tokens,
            cache_bytes=answer.cache_bytes,
            full_cache_bytes=answer.full_cache_bytes,
            protocol=method.protocol,
            granularity=str(method.granularity),
            compress_on=cell.compress_on,
            context_tokens=len(encoded.context),
            stored_heads=answer.stored_heads,
            chat_template=encoded.chat_template,
            end_tokens=encoded.stopping.end_tokens,
            seconds={name: round(value, 4) for name, value in answer.seconds.items()},
            run_key=run_key,
            benchmark=self.benchmark.name,
            model=self.model,
            method=cell.name,
            task=example.task,
            seed=self.seed,
            fidelity=answer.fidelity,
            decoding=answer.decoding,
            settings=cell.settings,
            parameters=dict(cell.parameters),
            meta={
                **example.meta,
                "truncated": encoded.prompt.truncated,
                **encoded.special,
            },
        )
