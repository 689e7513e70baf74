"""`headkv lm-eval --tasks ... --model_args pretrained=...,method=...,kv_size=...`."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headkv.cli import Parser, front_door
from headkv.errors import UserError
from headkv.storage.atomic import write_bytes, write_json
from headkv.storage.run_record import describe

_log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs tasks of lm-evaluation-harness on a compressed cache and writes what came out.

    `<output_path>/<model>/<method>/<kv_size or full>/` gets `results.json` and, for each task, a
    `samples_<task>.jsonl`, in which every sample holds proof of what was evicted.

    Args:
        arguments: the command line; None: the process's own.

    Raises:
        UserError: lm-eval is not installed, or a task or argument cannot be used.
    """
    given = _parser().parse_args(arguments)
    try:
        from headkv.lm_eval.harness import evaluate
    except ImportError as problem:
        raise UserError(
            f"lm-evaluation-harness cannot be imported: {problem}",
            allowed="an environment that has it",
            do="pip install 'headkv[lm-eval]'",
        ) from problem
    settings = _pairs(given.model_args)
    folder, results, samples, table = evaluate(
        settings,
        [name for name in given.tasks.split(",") if name],
        include_path=given.include_path,
        num_fewshot=given.num_fewshot,
        limit=given.limit,
        batch_size=given.batch_size,
        max_length=given.max_length,
        chat_template=given.apply_chat_template,
        seed=given.seed,
    )
    folder = Path(given.output_path) / folder
    record = describe({"model_args": settings, "tasks": given.tasks})
    for task, lines in samples.items():
        write_bytes(folder / f"samples_{task}.jsonl", "".join(lines).encode(), "output_path=")
    write_json(folder / "results.json", {"run": record, **results})
    print(table)
    _log.info("wrote %s", folder)
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="headkv lm-eval",
        description="Runs any task of lm-evaluation-harness on a compressed cache.",
    )
    parser.add_argument("--tasks", required=True, help="names, separated by commas")
    parser.add_argument(
        "--model_args",
        required=True,
        help="pretrained=MODEL,method=NAME,kv_size=N and other settings of a run, "
        "such as protocol=, granularity=, head_scores=, model.dtype=",
    )
    parser.add_argument("--include_path", help="a folder with task files of your own")
    parser.add_argument("--num_fewshot", type=int, help="worked examples in the context")
    parser.add_argument("--limit", type=float, help="first N documents of a task")
    parser.add_argument("--batch_size", type=int, default=1, help="prompts generated together")
    parser.add_argument("--max_length", type=int, help="tokens of context and answer at most")
    parser.add_argument("--apply_chat_template", action="store_true", help="as a chat turn")
    parser.add_argument("--seed", type=int, default=0, help="of the worked examples and sampling")
    parser.add_argument("--output_path", default="results/lm_eval", help="where files are written")
    return parser


def _pairs(text: str) -> dict[str, str]:
    """`a=1,b=[2,3]` as a dictionary; commas within brackets separate nothing."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    pairs: dict[str, Any] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not (equals and key.strip() and value.strip()):
            raise UserError(
                f"--model_args has {part!r}",
                allowed="key=value, separated by commas",
                do="type --model_args pretrained=smollm2_135m,method=snapkv,kv_size=128",
            )
        pairs[key.strip()] = value.strip()
    return pairs


if __name__ == "__main__":
    import sys

    sys.exit(front_door(main, sys.argv[1:]))
