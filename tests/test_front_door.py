"""What may be typed, and what it must end in: one short line, before torch is imported."""

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headkv import cli
from headkv.calibration.settings import head_settings, importance_settings
from headkv.cli import as_mistake, front_door
from headkv.config import compose, load_group, names, target_of
from headkv.config.declared import of_class, read
from headkv.efficiency.settings import check_efficiency
from headkv.errors import LONGEST, UserError, choose
from headkv.evaluation.early import check_run
from headkv.evaluation.settings import Settings
from headkv.usage import explanations, usage

CHECKS = {
    "heads": head_settings,
    "importance": importance_settings,
    "efficiency": check_efficiency,
}
LONG = "1" * 400
HOSTILE = [
    "needle ~model.name",
    "needle ~method",
    "needle ~protocol.min_new_tokens",
    "needle kv_size=${nosuch}",
    f"needle kv_size={'[' * 2000}",
    f"needle kv_size={'1' * 5000}",
    f"needle kv_size={LONG}",
    f"needle beta={LONG}",
    f"needle limit={LONG}",
    f"needle task={'x' * 100_000}",
    f"needle output_dir={'x' * 5000}",
    f"needle data_dir={'x' * 300}",
    f"needle head_scores={'x' * 5000}",
    "needle data_dir=~nosuchuser/x",
    "needle task=5",
    "needle output_dir=null",
    "needle method=5",
    "needle beta=inf",
    "needle scorer=window scorer.kernel_size=4",
    "needle methods.snapkv.scorer.window_size=null",
    "needle methods.snapkv.scorer=5",
    "needle +methods.snapkv.kv_size=5",
    "needle methods.streamingllm.scorer.sinks=-1",
    "needle kv_size=8",
    "needle beta=1.5 method=snapkv",
    "needle tune=allocator.foo",
    "needle layer_importance=/nowhere",
    "needle model.teacher_forced=5",
    "needle model.name=5",
    "needle benchmark.lengths=[[1]]",
    "needle benchmark._target_=os.system",
    "babilong benchmark.max_new_tokens=0",
    "longbench benchmark.prompts=5",
    "heads tests.lengths=[a]",
    "heads tests.success=abc",
    "heads mode=masking masking.kinds=[foo]",
    "heads output=5",
    "importance tests.probe_kv_size=abc",
    "efficiency threads=100000",
    "efficiency +shape.foo=1",
    "efficiency shape.num_attention_heads=0",
    "efficiency lengths=" + "1" * 30,
]


@pytest.mark.parametrize("line", HOSTILE, ids=lambda line: line[:50])
def test_a_mistake_is_one_short_line(line: str) -> None:
    script, *overrides = line.split(" ")
    with pytest.raises(UserError) as refused:
        CHECKS.get(script, check_run)(compose(script, overrides))
    said = str(refused.value)
    assert len(said) <= LONGEST and said.isprintable() and "allowed" in said


def test_torch_is_not_imported_to_say_so() -> None:
    lines = [
        "needle kv_sise=64",
        "needle kv_size=abc",
        "needle --nosuch",
        "needle --experimental-rerun x.pickle",
        "needle scorer=window scorer.window_size=abc",
        "efficiency lengths=0",
        "heads kind=foo",
        "importance tests.lengths=abc",
        "inspect /nowhere",
        "scores report nothing",
        "models foo",
    ]
    program = (
        "import sys\nfrom headkv.__main__ import main\n"
        "def code(line):\n"
        "    try: return main(line.split())\n"
        "    except SystemExit as ended: return ended.code\n"
        f"codes = [code(line) for line in {[*lines, 'needle --help', 'models --help']!r}]\n"
        f"assert codes[:{len(lines)}] == [2] * {len(lines)}, codes\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = done.stderr.splitlines()
    assert len(said) == len(lines) and all(line.startswith("error: ") for line in said), said
    assert all(len(line) < 300 for line in said)


@pytest.mark.parametrize("group", ["scorer", "allocator", "entries", "benchmark"])
def test_what_is_read_off_source_is_what_the_class_takes(group: str) -> None:
    for name in names(group):
        content = load_group(group, name)
        found, real = read(content["_target_"]), of_class(target_of(name, content))
        assert found is not None
        hints = {key: repr(each.hint) for key, each in found.parameters.items()}
        assert hints == {key: repr(each.hint) for key, each in real.parameters.items()}, name
        for key, each in found.parameters.items():  # None: there is one that only runs
            assert each.default in (None, real.parameters[key].default), (name, key)
        for key in ("name", "resources", "keeps_all", "scope"):
            assert found.constants.get(key) == real.constants.get(key), name
        assert all(found.documented.values()) or group == "benchmark", name


@pytest.mark.parametrize("script", [*names("benchmark"), "heads", "importance", "efficiency"])
def test_help_explains_every_key(script: str) -> None:
    about = explanations(script, compose(script))
    assert [key for key, text in about.items() if not text] == []
    lines = usage(script, script, []).splitlines()
    assert all(any(line.startswith(f"  {key}=") for line in lines) for key in about)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.just(10**400)
    | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.data())
def test_settings_take_anything_or_refuse_it_by_name(changes: st.DataObject) -> None:
    config: dict[str, Any] = {
        "model": {"name": "smollm2_135m"},
        "methods": {"fullkv": {"scorer": "recency", "allocator": "full"}},
        "kv_size": 64,
        "protocol": load_group("protocol", "corrected"),
    }
    keys = st.sampled_from([*Settings.__dataclass_fields__, "kv_size", "nosuch"])
    for key, value in changes.draw(st.dictionaries(keys, VALUES, max_size=3)).items():
        config[key] = value
    try:
        Settings.parse(config)
    except UserError as refused:
        assert len(str(refused)) <= LONGEST and str(refused).isprintable()


@given(st.text(), st.text(), st.text())
def test_any_message_is_one_short_printable_line(what: str, allowed: str, do: str) -> None:
    said = str(UserError(what * 20, allowed=allowed, do=do))
    assert len(said) <= LONGEST and said.isprintable()


def test_a_long_list_says_how_long_it_is_and_begins_with_what_is_alike() -> None:
    with pytest.raises(UserError) as refused:
        choose("method", "snapvk", [f"method_{i}" for i in range(100)] + ["snapkv"])
    said = str(refused.value)
    assert "allowed: snapkv, method_0" in said and "more; set method= to one of these" in said


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (OSError(36, "File name too long", "xxx"), "cannot use xxx: File name too long"),
        (MemoryError(), "out of memory"),
    ],
)
def test_what_escapes_is_mapped(
    problem: Exception, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def escaping(arguments: object) -> None:
        raise problem

    assert front_door(escaping) == 2
    assert words in capsys.readouterr().err
    assert as_mistake(KeyError("ours")) is None and "CONTRIBUTING" in cli.FAULT
