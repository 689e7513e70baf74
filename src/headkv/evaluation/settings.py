"""The settings of a run: what Hydra composed, typed and bounded before anything starts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo
from pydantic.dataclasses import dataclass

from headkv.config import ROOT, expanded
from headkv.config.typed import STRICT, Count, listed, parsed
from headkv.errors import UserError
from headkv.evaluation.space import PATH, Space, read_space
from headkv.storage.shards import Shard


def _switch(value: object) -> object:
    """YAML's other words for true and false, which Hydra's command line hands on as text."""
    words = {"yes": True, "on": True, "true": True, "no": False, "off": False, "false": False}
    return words.get(value.lower(), value) if isinstance(value, str) else value


def _parts(value: object) -> object:
    """Scorers or allocators, each by name or a dict of name and parameters."""
    for part in (parts := listed(value)):
        if isinstance(part, Mapping) and not isinstance(part.get("name"), str):
            raise UserError(
                f"a scorer or allocator {dict(part)} without a name",
                allowed="names, or {name: NAME, PARAMETER: VALUE}",
                do="add its name",
            )
    return parts


def _shard(value: object) -> object:
    return value if isinstance(value, Shard) else Shard.parse(value)


def _output(value: object) -> object:
    return ROOT / expanded("output_dir", value) if isinstance(value, str) else value


def _folder(value: object, info: ValidationInfo) -> object:
    if not isinstance(value, str):
        return value
    path = expanded(str(info.field_name), value).absolute()
    if not path.is_dir():
        raise UserError(
            f"{info.field_name}={value} is not a folder",
            allowed="an existing folder",
            do=f"set {info.field_name}=",
        )
    return path


Seed = Annotated[int, Field(ge=0, lt=2**63)]
DataFolder = Annotated[Path | None, BeforeValidator(_folder)]
Switch = Annotated[bool, BeforeValidator(_switch)]
Counts = Annotated[tuple[Count, ...], Field(min_length=1), BeforeValidator(listed)]
Beta = Annotated[float, Field(ge=1)]
Part = str | Mapping[str, Any]
Variant = Literal["published", "tuned", "tuned_on_all"]


@dataclass(frozen=True, config=STRICT)
class Protocol:
    """How prompts are asked and answers end: a yaml of `conf/protocol`.

    Attributes:
        name: `corrected`, or `paper`.
        chat_template: whether prompts that are a user's turn go through the chat template.
        all_end_tokens: whether the template's end-of-turn token ends an answer too.
        keep_template: whether the observation window ends at the user's last token, and the
            template's tokens behind it stay on top of the budget.
        min_new_tokens: tokens of an answer before it may end.
    """

    name: Literal["corrected", "paper"]
    chat_template: Switch
    all_end_tokens: Switch
    keep_template: Switch
    min_new_tokens: Annotated[int, Field(ge=0)]


def _protocol(value: object) -> object:
    """The content of a yaml as a `Protocol`; its errors name the key inside."""
    return parsed(Protocol, value, "protocol.") if isinstance(value, Mapping) else value


@dataclass(frozen=True, config=STRICT)
class Settings:
    """What every benchmark script takes.

    Attributes:
        model: a name of `conf/model`; `model.path=` a folder or hub id. Here its yaml's content.
        methods: names of `conf/method`, one or a list. Here name -> content of its yaml.
        kv_sizes: mean tokens that a stored head keeps, window included: one size or a list; each
            method but FullKV runs at every one.
        protocol: how prompts are asked and answers end, a name of `conf/protocol`.
        granularity: whether each `kv_head` or each `query_head` keeps tokens of its own; None: as
            the protocol does.
        compress_on: `prompt`, `context` (compressed before the question is seen), or both.
        probe: with `compress_on=context`, the text whose attention takes the observation window's
            place and which is dropped afterwards: `task` (what the task asks for), `examples` (that
            and a few questions with answers), `question`; `none`: the context's own last tokens.
        probe_chunks: chunks that the context is compressed in, one after the other, with what the
            earlier ones left; above 1 each cell prefills for itself.
        rerotate: whether kept keys are rotated to contiguous positions.
        scorer: in place of each method's own, a name or a list; None: the method's own.
        allocator: in place of each method's own, a name or a list; None: the method's own.
        entries: in place of each method's own, a name or a list; None: the method's own.
        beta: overrides HeadKV's; `choose` finds the best on the validation part, `chosen` uses it.
        bits: of a number of the kept entries: 16 (the model's own type), 8, 4, 2; one or a list.
        equal_bytes: `kv_size` counts 16-bit entries, and fewer bits keep as many more entries as
            fit into the same bytes, metadata counted.
        decode_kv_size: mean entries a stored head is cut to while decoding; None: not at all.
        compress_every: generated tokens between two cuts; None: 128.
        offload: `layers` or `heads`: whose entries live on the host and are fetched ahead.
        tune: a numeric parameter to choose on the validation part, such as `allocator.beta`; or a
            space to choose from, nested as in a method's yaml: parameter -> values. Here by path.
        trials: settings that are tried of each method; its published ones are the first.
        trials_seed: of the draw from the space.
        variants: `settings=`: `published`, `tuned` (chosen on this benchmark's validation part),
            `tuned_on_all` (on that of all benchmarks together); one or a list. All of them leave
            the validation part out; none is the methods as they are, on every example.
        head_scores: a score file, overriding the model's own of its kind.
        layer_importance: a layer-importance file, overriding the model's own; `uniform`: none.
        allow_foreign_scores: take scores that were measured on another model.
        task: names of tasks or of sets of them; None: all.
        lengths: of the texts, where a benchmark has several; its yaml hands them on.
        split_special_tokens: special tokens of the model that a data text spells out are read
            letter by letter; else they are live, as in the published code. Rows count them.
        limit: first examples of each task; None: all.
        batch_size: examples prefilled together; None: one.
        cells_per_batch: cells decoded together; None: as many as memory allows.
        shard: `i/n`: the part of the examples that this process answers; None: all.
        dry_run: only say what the run would take.
        fidelity: also measure what compression does to the model's predictions.
        fidelity_tokens: tokens of an answer that it looks at.
        seed: of the examples.
        data_dir: the user's data, where benchmarks look first.
        output_dir: where results are written.
        benchmark: a yaml of `conf/benchmark`; None where there is none.
        raw: the whole composed config, for the record.
    """

    model: Mapping[str, Any]
    methods: Annotated[Mapping[str, Mapping[str, Any]], Field(min_length=1)]
    kv_sizes: Counts
    protocol: Annotated[Protocol, BeforeValidator(_protocol)]
    granularity: Literal["kv_head", "query_head"] | None = None
    compress_on: Annotated[
        tuple[Literal["prompt", "context"], ...], Field(min_length=1), BeforeValidator(listed)
    ] = ("prompt",)
    probe: Literal["none", "task", "examples", "question"] = "none"
    probe_chunks: Count = 1
    rerotate: Switch = False
    scorer: Annotated[tuple[Part, ...], BeforeValidator(_parts)] = ()
    allocator: Annotated[tuple[Part, ...], BeforeValidator(_parts)] = ()
    entries: Annotated[tuple[Part, ...], BeforeValidator(_parts)] = ()
    beta: Beta | Literal["choose", "chosen"] | None = None
    bits: Annotated[tuple[Literal[16, 8, 4, 2], ...], BeforeValidator(listed)] = (16,)
    equal_bytes: Switch = False
    decode_kv_size: Count | None = None
    compress_every: Count | None = None
    offload: Literal["layers", "heads"] | None = None
    tune: Annotated[
        Annotated[str, Field(pattern=f"^{PATH}$")] | Space | None,
        BeforeValidator(read_space),
    ] = None
    trials: Annotated[int, Field(ge=2, le=10_000)] = 16
    trials_seed: Seed = 0
    variants: Annotated[tuple[Variant, ...], BeforeValidator(listed)] = ()
    head_scores: str | None = None
    layer_importance: str | None = None
    allow_foreign_scores: Switch = False
    task: str | int | list[str | int] | None = None
    lengths: Any = None
    split_special_tokens: Switch = False
    limit: Count | None = None
    batch_size: Count | None = None
    cells_per_batch: Count | None = None
    shard: Annotated[Shard | None, BeforeValidator(_shard)] = None
    dry_run: Switch = False
    fidelity: Switch = True
    fidelity_tokens: Count = 64
    seed: Seed = 0
    data_dir: DataFolder = None
    output_dir: Annotated[Path, BeforeValidator(_output)] = ROOT / "results"
    benchmark: Mapping[str, Any] | None = None
    raw: Mapping[str, Any] = Field(default_factory=dict)

    @classmethod
    def parse(cls, config: Mapping[str, Any], others: frozenset[str] = frozenset()) -> "Settings":
        """Checks types and bounds.

        Args:
            config: the composed config as plain containers.
            others: keys of the config that are not for these settings.

        Raises:
            UserError: the first value that cannot be used, or a key that there is not.
        """
        own = {key: value for key, value in config.items() if key not in others}
        if "kv_size" in own:
            own["kv_sizes"] = own.pop("kv_size")
        if "settings" in own:
            own["variants"] = own.pop("settings")
        if own.get("experiment", "") is None:  # Hydra's, for none
            del own["experiment"]
        settings = parsed(cls, {**own, "raw": config})
        settings.check_probe()
        settings.check_tuning()
        return settings

    def check_probe(self) -> None:
        """Raises `UserError` if a probe's keys are set where there is none."""
        given = {"probe": self.probe != "none", "probe_chunks": self.probe_chunks > 1}
        given["rerotate"] = self.rerotate
        wanted = "compress_on=context" if given["probe"] else "compress_on=context and a probe"
        for key, value in given.items():
            alone = "prompt" in self.compress_on or (key == "probe_chunks" and not given["probe"])
            if value and alone:
                raise UserError(
                    f"{key}={getattr(self, key)} with compress_on={','.join(self.compress_on)}",
                    allowed=f"{key} with {wanted}",
                    do=f"set compress_on=context probe=task, or leave {key}= out",
                )

    def check_tuning(self) -> None:
        """Raises `UserError` if more than one thing is to be chosen, or chosen and used at once."""
        space = isinstance(self.tune, Mapping)
        both = [f"beta={self.beta}"] * (self.beta is not None and (space or bool(self.variants)))
        both += ["tune="] * (self.tune is not None and bool(both or self.variants))
        both += ["settings="] * bool(self.variants)
        if len(both) > 1:
            raise UserError(
                " with ".join(both),
                allowed="tune= to choose settings, then settings= to use them, and no beta=",
                do=f"leave {both[0].partition('=')[0]}= out",
            )
