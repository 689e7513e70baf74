"""What `conf/heads.yaml` and `conf/importance.yaml` ask for, typed and bounded, without torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass as checked

from headkv.benchmarks.haystack import find_essays
from headkv.benchmarks.needle import Needle
from headkv.calibration.grids import TEXT_KINDS, Game, HeadTestGrid, ImportanceTests, TextTestGrid
from headkv.calibration.needles import KINDS
from headkv.config import ROOT, expanded, instantiate
from headkv.config.typed import STRICT, Count, listed, parsed
from headkv.errors import UserError, choose
from headkv.evaluation.early import check_model
from headkv.evaluation.settings import DataFolder, Seed
from headkv.models.spec import SCORE_KINDS, ModelSpec


def _kinds(value: object) -> object:
    if value is None:
        return None
    return tuple(choose("masking.kinds", str(kind), SCORE_KINDS) for kind in listed(value))


def _score_file(value: object) -> object:
    if not isinstance(value, str):
        return value
    path = expanded("output", ROOT / value)
    if path.suffix != ".json":
        raise UserError(f"output={value}", allowed="a .json file", do="set output=FILE.json")
    return path


def _masking(value: object) -> object:
    return parsed(Masking, value, "masking.") if isinstance(value, Mapping) else value


@checked(frozen=True, config=STRICT)
class Masking:
    """The masking experiment.

    Attributes:
        kinds: kinds of head scores; None: all that the model has score files for.
        heads: how many heads are switched off.
        draws: of as many random heads, none of them a kind's best.
    """

    kinds: Annotated[tuple[str, ...] | None, BeforeValidator(_kinds)]
    heads: Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(listed)]
    draws: Count


@checked(frozen=True, config=STRICT)
class HeadSettings:
    """What `headkv heads` takes.

    Attributes:
        model: a name of `conf/model`; `model.path=` a folder or hub id.
        mode: `scores` measures head scores, `masking` what the needle benchmark loses without the
            best heads.
        kind: kind of head scores.
        output: the score file; None: `data/head_scores/<model>_<kind>.json`.
        haystack: a folder of .txt files; None: `data_dir`'s, else essays that no evaluation uses.
        data_dir: the user's data.
        tests: what to measure on.
        texts: what `duo` and `kvzip_head` are measured on.
        game: what `cooperative` plays.
        masking: the masking experiment.
        benchmark: the needle benchmark of the masking experiment.
        limit: first examples of each task, or all.
        seed: of the examples and the random heads.
        output_dir: where the masking experiment writes.
    """

    model: Mapping[str, Any]
    mode: Literal["scores", "masking"]
    kind: str
    output: Annotated[Path | None, BeforeValidator(_score_file)]
    haystack: DataFolder
    data_dir: DataFolder
    tests: Mapping[str, Any]
    texts: Mapping[str, Any]
    game: Mapping[str, Any]
    masking: Annotated[Masking, BeforeValidator(_masking)]
    benchmark: Mapping[str, Any]
    limit: Count | None
    seed: Seed
    output_dir: str


@checked(frozen=True, config=STRICT)
class ImportanceSettings:
    """What `headkv importance` takes.

    Attributes:
        model: a name of `conf/model`; `model.path=` a folder or hub id.
        output: the file; None: `data/layer_importance/<model>.json`.
        haystack: a folder of .txt files; None: `data_dir`'s, else essays that no evaluation uses.
        data_dir: the user's data.
        head_scores: semantic head scores; None: the model's own.
        tests: what to measure on.
    """

    model: Mapping[str, Any]
    output: Annotated[Path | None, BeforeValidator(_score_file)]
    haystack: DataFolder
    head_scores: str | None
    tests: Mapping[str, Any]
    data_dir: DataFolder = None


Tests = HeadTestGrid | TextTestGrid


def head_settings(config: Mapping[str, Any]) -> tuple[HeadSettings, ModelSpec, Tests, Game]:
    """Checks the config of `headkv heads`.

    Args:
        config: the composed config.

    Returns:
        The settings, the model, what is measured on, and the game that `cooperative` plays on it.

    Raises:
        UserError: a value that cannot be used.
    """
    settings = parsed(HeadSettings, config)
    spec = check_model(config)
    choose("kind", settings.kind, sorted([*KINDS, *TEXT_KINDS]))
    game: Game = instantiate("game", settings.game, Game)
    if settings.mode == "masking":
        needle(settings)
    if settings.kind in TEXT_KINDS:
        texts: TextTestGrid = instantiate("texts", settings.texts, TextTestGrid, kind=settings.kind)
        return settings, spec, texts, game
    tests = dict(settings.tests)
    if tests.get("teacher_forcing", False) is None:  # the model's yaml says, unless it is set
        asked = tests.get("needles") or settings.kind
        tests["teacher_forcing"] = asked in spec.teacher_forced
    built: HeadTestGrid = instantiate("tests", tests, HeadTestGrid, kind=settings.kind)
    return settings, spec, built, game


def needle(settings: HeadSettings) -> Needle:
    """The benchmark of the masking experiment.

    Args:
        settings: of `headkv heads`.

    Raises:
        UserError: a parameter that it cannot use, or no essays to be had.
    """
    folder = settings.haystack or find_essays(settings.data_dir)
    built: Needle = instantiate("benchmark needle", settings.benchmark, Needle, haystack=folder)
    return built


def importance_settings(
    config: Mapping[str, Any],
) -> tuple[ImportanceSettings, ModelSpec, ImportanceTests]:
    """Checks the config of `headkv importance`.

    Args:
        config: the composed config.

    Raises:
        UserError: a value that cannot be used.
    """
    settings = parsed(ImportanceSettings, config)
    built: ImportanceTests = instantiate("tests", settings.tests, ImportanceTests)
    return settings, check_model(config), built
