"""`headkv balance scores=FILE` or `loads=FILE`: how heads share out over tensor-parallel ranks.

A model of the loads, not a measurement: a rank's load is the entries that its KV heads keep, and a
layer waits for its slowest rank. Prefill, projections and communication are not in it.
"""

import argparse
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError
from pydantic.dataclasses import dataclass

from headkv.balance.figure import save_balance
from headkv.balance.loads import Share, kept_entries, shares
from headkv.cli import Parser, front_door
from headkv.config import load_group, names
from headkv.config.typed import refusal
from headkv.errors import UserError, choose
from headkv.methods.allocators.base import ShapeAllocator
from headkv.methods.build import build_method, plan
from headkv.report.tables.table import Table
from headkv.storage.atomic import write_bytes
from headkv.storage.head_scores import read_scores
from headkv.storage.reading import read_json
from headkv.storage.schemas import INSPECTION

HELP = """
  scores=FILE          head scores, ours or as published; a list [FILE,FILE] is a table each
  loads=FILE           instead: what `headkv inspect` wrote, kept entries of every method of a run
  kv_heads=8           KV heads a layer of the model that the scores are of
  method=headkv_r2     whose budgets are the loads; with scores= those that follow from sizes alone
  kv_size=[128,1024]   mean entries a KV head keeps
  prompt_tokens=32768  length of the prompt
  ranks=[2,4,8]        tensor-parallel ranks
  copies=[1,2]         copies of heavy heads a layer
  beta=1.2             HeadKV's
  output_dir=results   tables/balance_*.{json,md,tex}, figures/balance_*.{png,pdf}
"""
NOTE = (
    "A model of the loads, not a measurement: a rank's load is the entries that its KV heads keep, "
    "and a layer waits for its slowest rank."
)
Loaded = tuple[str, int, list[list[float]]]
"""A method, its KV size, and the entries of each KV head, `[layer][kv_head]`."""
_log = logging.getLogger(__name__)


def _listed(value: object) -> object:
    return value if isinstance(value, list) else [value]


Whole = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Asked:
    """What the command line says; see `HELP`."""

    scores: Annotated[list[str], BeforeValidator(_listed)] = Field(default_factory=list)
    loads: Annotated[list[str], BeforeValidator(_listed)] = Field(default_factory=list)
    kv_heads: Whole = 8
    method: Annotated[list[str], BeforeValidator(_listed)] = Field(default_factory=list)
    kv_size: Annotated[list[Whole], BeforeValidator(_listed)] = Field(
        default_factory=lambda: [128, 1024]
    )
    prompt_tokens: Whole = 32768
    ranks: Annotated[list[Whole], BeforeValidator(_listed)] = Field(
        default_factory=lambda: [2, 4, 8]
    )
    copies: Annotated[list[Whole], BeforeValidator(_listed)] = Field(default_factory=lambda: [1, 2])
    beta: Annotated[float, Field(ge=1)] = 1.2
    output_dir: str = "results"


def parse(arguments: Sequence[str]) -> Asked:
    """What a command line of `key=value` asks for.

    Raises:
        UserError: a key that there is not, or a value that cannot be used.
    """
    given: dict[str, Any] = {}
    known = ", ".join(Asked.__dataclass_fields__)
    for word in arguments:
        key, equals, value = word.partition("=")
        if not equals or key not in Asked.__dataclass_fields__:
            raise UserError(f"{word!r}", allowed=f"KEY=VALUE with {known}", do="see --help")
        inside = value[1:-1].split(",") if value[:1] == "[" and value[-1:] == "]" else None
        given[key] = value if inside is None else [each.strip() for each in inside if each.strip()]
    try:
        asked = Asked(**given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        key = str(first["loc"][0])
        raise refusal(error, key, key, first["loc"][0]) from None
    if not asked.scores and not asked.loads:
        raise UserError(
            "scores is missing", allowed="scores=FILE, or loads=FILE", do="set scores=FILE"
        )
    return asked


def modelled(path: Path, asked: Asked) -> Iterator[Loaded]:
    """Kept entries of each KV head under the budgets of the methods asked for.

    Args:
        path: a score file.
        asked: the command line.

    Raises:
        UserError: the scores do not fit so many KV heads, or a method has no such budgets.
    """
    _, lists = read_scores(path)
    layers = 1 + max(layer for layer, _ in lists)
    heads = 1 + max(head for _, head in lists)
    if heads % asked.kv_heads:
        raise UserError(
            f"kv_heads={asked.kv_heads} for {heads} query heads in {path.name}",
            allowed=f"divisors of {heads}",
            do="set kv_heads= to the model's",
        )
    table = [
        [
            sum(values) / len(values) if (values := lists.get((layer, head))) else 0.0
            for head in range(heads)
        ]
        for layer in range(layers)
    ]
    for name, kv_size in product(asked.method or ["headkv_r2"], asked.kv_size):
        choose("method", name, names("method"))
        takes = plan(name, load_group("method", name))["allocator"][0].parameters
        known: dict[str, Any] = {"head_scores": table, "beta": asked.beta}
        own = {key: value for key, value in known.items() if key in takes}
        method = build_method(name, kv_size=kv_size, **own)
        if not isinstance(method.allocator, ShapeAllocator):
            raise UserError(
                f"{name}'s budgets depend on the prompt's attention, not on sizes alone",
                allowed="scores= with methods such as headkv_r2, pyramidkv, duoattention",
                do="measure them: headkv inspect RUN, then loads=FILE",
            )
        budgets = method.budgets(layers, heads, asked.kv_heads, asked.prompt_tokens)
        yield name, kv_size, [[float(each) for each in layer] for layer in budgets.tolist()]


def measured(path: Path, asked: Asked) -> Iterator[Loaded]:
    """Entries that each KV head kept of a prompt under every method of a run.

    Args:
        path: a file of `headkv inspect`.
        asked: the command line.

    Raises:
        UserError: it is no such file, or no cell of it is asked for.
    """
    content = read_json(
        path,
        INSPECTION,
        "kept entries",
        allowed="a file that `headkv inspect` wrote",
        do="run it on the run's folder",
    )
    some = [
        cell
        for cell in content["cells"]
        if cell["granularity"] == "kv_head"
        and cell["kv_size"] is not None
        and cell["method"] in (asked.method or [cell["method"]])
    ]
    if not some:
        raise UserError(
            f"no such cell in {path.name}",
            allowed="methods of the run that keep entries by KV head",
            do="set method=",
        )
    for cell in some:
        yield cell["method"], cell["kv_size"], kept_entries(cell["kept"], *cell["shape"][:2])


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes tables and figures; prints the tables. Returns the exit code."""
    parser = Parser(
        prog="headkv balance",
        description=(__doc__ or "") + HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    asked = parse(parser.parse_args(arguments).settings)
    folder = Path(asked.output_dir)
    sources = [(Path(name), modelled) for name in asked.scores]
    sources += [(Path(name), measured) for name in asked.loads]
    for path, read in sources:
        found, known = [], list(read(path, asked))
        heads = len(known[0][2][0])
        for name, kv_size, loads in known:
            for ranks in asked.ranks:
                if name != "snapkv":
                    found += [(kv_size, each) for each in shares(name, loads, ranks, asked.copies)]
        for ranks in asked.ranks:
            even = shares("snapkv", [[1.0] * heads], ranks, [])[0]
            found += [(kv_size, even) for kv_size in dict.fromkeys(size for _, size, _ in known)]
        table = _table(path.stem, found)
        print(table.to_text())
        stem = f"balance_{path.stem}"
        rows = [{"kv_size": size, **share.as_row(), "model_only": True} for size, share in found]
        write_bytes(
            folder / "tables" / f"{stem}.json", (json.dumps(rows, indent=1) + "\n").encode()
        )
        for ending, text in (("md", table.to_markdown()), ("tex", table.to_latex())):
            write_bytes(folder / "tables" / f"{stem}.{ending}", text.encode())
        for written in save_balance(found, path.stem, NOTE, folder / "figures", stem):
            _log.info("%s", written)
    return 0


def _table(title: str, found: Sequence[tuple[int, Share]]) -> Table:
    rows = [
        [
            f"{share.method} {size}" if share.method != "snapkv" else f"{share.method} (any size)",
            str(share.ranks),
            share.way,
            f"{100 * share.utilisation:.1f}",
            f"{100 * share.worst:.1f}",
            f"{100 * share.copied_entries:.1f}",
        ]
        for size, share in found
        if share.method != "snapkv" or size == found[0][0]
    ]
    header = ["method", "ranks", "heads go", "used %", "worst layer %", "copied %"]
    return Table(f"Ranks used, {title}", header, rows, NOTE)


if __name__ == "__main__":
    sys.exit(front_door(main))
