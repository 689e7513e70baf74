"""How methods are shown: by the `display:` of their yaml, and strangers as themselves."""

from collections.abc import Iterator

import pytest

from headkv.errors import UserError
from headkv.report.figures.style import PAIRING_LINES, line_look
from headkv.report.names import display, method_name, method_order, variant_of

PLAIN = ("corrected", "kv_head")


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, dict[str, object]]]:
    """Method yamls of the test's own, by name."""
    yamls: dict[str, dict[str, object]] = {}
    monkeypatch.setattr("headkv.report.names.names", lambda group: list(yamls))
    monkeypatch.setattr("headkv.report.names.load_group", lambda group, name: yamls[name])
    display.cache_clear()
    yield yamls
    display.cache_clear()


def test_known_methods() -> None:
    assert method_name("headkv_r2") == "HeadKV-R2"
    assert method_name("headkv_r2_permuted") == "HeadKV-R2 (permuted)"
    assert method_name("snapkv", "paper", "query_head") == "SnapKV (paper, query head)"
    assert method_name("dynamic_cache") == "DynamicCache"


def test_a_name_is_not_guessed_by_its_beginning() -> None:
    """A method of one's own called snapkv_mine is not SnapKV."""
    assert method_name("snapkv_mine") == "snapkv_mine"
    assert line_look("snapkv_mine", *PLAIN)["color"] != line_look("snapkv", *PLAIN)["color"]
    assert method_name("headkv_r2_mine", "paper") == "headkv_r2_mine (paper, kv head)"


def test_pairings_are_shown_in_the_colour_of_their_method() -> None:
    assert method_name("headkv_r2+keydiff") == "HeadKV-R2 + keydiff"
    assert method_name("headkv_r2_permuted+keydiff+uniform") == (
        "HeadKV-R2 + keydiff + uniform (permuted)"
    )
    own, paired = (line_look(name, *PLAIN) for name in ("headkv_r2", "headkv_r2+keydiff"))
    assert (paired["color"], paired["marker"]) == (own["color"], own["marker"])
    assert paired["linestyle"] in PAIRING_LINES and paired["linestyle"] != own["linestyle"]


def test_chosen_settings_stand_behind_the_published_ones() -> None:
    assert method_name("snapkv+tuned") == "SnapKV, tuned"
    assert method_name("snapkv+keydiff+4bit+tuned_on_all", "paper") == (
        "SnapKV + keydiff + 4bit, tuned on all (paper, kv head)"
    )
    assert (variant_of("snapkv+keydiff+tuned"), variant_of("snapkv+keydiff")) == ("tuned", "")
    names = ["adakv", "snapkv+tuned_on_all", "snapkv+tuned", "snapkv"]
    assert sorted(names, key=method_order) == [names[3], names[2], names[1], names[0]]


def test_controls_are_dotted_and_hollow() -> None:
    bits = [line_look(f"snapkv{n}", *PLAIN) for n in ("", "+8bit", "+4bit", "+2bit")]
    assert len({str(each["linestyle"]) for each in bits}) == 4
    assert {each["color"] for each in bits} == {bits[0]["color"]}
    own, control = (line_look(name, *PLAIN) for name in ("headkv_r2", "headkv_r2_permuted"))
    assert control["color"] == own["color"]
    assert control["markerfacecolor"] == "white"
    assert control["linestyle"] != own["linestyle"]


def test_the_order_is_that_of_the_yamls() -> None:
    names = [
        "stranger",
        "headkv_r2_permuted",
        "snapkv",
        "headkv_r2",
        "fullkv",
        "a",
        "snapkv+random",
    ]
    assert sorted(names, key=method_order) == [
        "fullkv",
        "snapkv",
        "snapkv+random",
        "headkv_r2",
        "headkv_r2_permuted",
        "a",
        "stranger",
    ]


def test_a_yaml_alone_decides_how_its_method_is_shown(given: dict[str, dict[str, object]]) -> None:
    given["mine"] = {"display": {"name": "Mine!", "order": 3, "colour": "red", "line": [0, [1, 2]]}}
    given["plain"] = {}
    assert method_name("mine") == "Mine!"
    assert line_look("mine", *PLAIN) == {"color": "red", "marker": "*", "linestyle": (0, (1, 2))}
    assert method_name("plain") == "plain"
    assert sorted(["plain", "mine"], key=method_order) == ["mine", "plain"]


@pytest.mark.parametrize(
    ("block", "told"),
    [
        ({"color": "red"}, "no key 'color'"),
        ({"colour": "reddish"}, "'reddish'"),
        ({"line": "wavy"}, "'wavy'"),
        ({"marker": "snowman"}, "snowman"),
    ],
)
def test_what_cannot_be_shown_is_a_users_mistake(
    given: dict[str, dict[str, object]], block: dict[str, object], told: str
) -> None:
    given["mine"] = {"display": block}
    with pytest.raises(UserError, match=told):
        line_look("mine", *PLAIN)


def test_a_yaml_is_read_once(
    given: dict[str, dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []
    given["mine"] = {"display": {"name": "Mine"}}
    monkeypatch.setattr(
        "headkv.report.names.load_group", lambda group, name: reads.append(name) or given[name]
    )
    assert {method_name("mine") for _ in range(5)} == {"Mine"}
    assert reads == ["mine"]
