"""Parameters: names and types are checked, text from a command line gets the type of its default."""

import pytest

from fmlib.params import check_params, parse_setting, type_of

DEFAULTS = {
    "lr": 1e-3,
    "epochs": 2,
    "amp": False,
    "data": "synthetic",
    "bands": ["B04"],
    "sizes": [1, 2],
    "limit": None,
}


def test_given_values_lie_over_the_defaults_in_their_order():
    params = check_params({"epochs": 5, "lr": 1e-5}, DEFAULTS, "notebook")
    assert params == DEFAULTS | {"epochs": 5, "lr": 1e-5}
    assert list(params) == list(DEFAULTS)


def test_an_int_given_for_a_float_becomes_a_float():
    lr = check_params({"lr": 1}, DEFAULTS, "notebook")["lr"]
    assert lr == 1.0
    assert type(lr) is float


def test_a_misspelt_name_gets_a_suggestion():
    with pytest.raises(ValueError, match=r"02_pretrain has no parameter 'epoch'; did you mean 'epochs'\?"):
        check_params({"epoch": 3}, DEFAULTS, "02_pretrain")


def test_a_name_unlike_any_other_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"no parameter 'zzz'; it has lr, epochs, amp"):
        check_params({"zzz": 3}, DEFAULTS, "02_pretrain")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("lr", "1e-05", r"parameter 'lr' must be float, got '1e-05' \(str\)"),
        ("lr", True, r"'lr' must be float, got True \(bool\)"),
        ("lr", None, r"'lr' must be float, got None"),
        ("lr", float("nan"), r"'lr' must be a finite number, got nan"),
        ("epochs", 2.0, r"'epochs' must be int, got 2.0 \(float\)"),
        ("epochs", True, r"'epochs' must be int, got True \(bool\)"),
        ("amp", 1, r"'amp' must be bool, got 1 \(int\)"),
        ("data", 3, r"'data' must be str, got 3"),
        ("bands", "B04", r"'bands' must be list\[str\], got 'B04'"),
        ("bands", ["B04", 8], r"'bands', element 1 must be str, got 8"),
        ("sizes", [1, True], r"'sizes', element 1 must be int, got True"),
        ("limit", {"a": 1}, r"'limit' must be bool \| int .*, got \{'a': 1\} \(dict\)"),
        ("limit", [[1]], r"'limit', element 0 must be .*, got \[1\] \(list\)"),
    ],
)
def test_a_wrong_type_is_refused(name, value, message):
    with pytest.raises(ValueError, match=message):
        check_params({name: value}, DEFAULTS, "notebook")


def test_the_declared_type_decides_where_there_is_one():
    types = {"lr": "float | None", "limit": "int | None"}
    assert check_params({"lr": None, "limit": 3}, DEFAULTS, "notebook", types)["lr"] is None
    with pytest.raises(ValueError, match=r"'limit' must be int \| None, got 'x'"):
        check_params({"limit": "x"}, DEFAULTS, "notebook", types)
    with pytest.raises(ValueError, match=r"not 'dict\[str, int\]'"):
        check_params({"limit": 1}, DEFAULTS, "notebook", {"limit": "dict[str, int]"})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("lr=1e-4", 1e-4),
        ("lr=2", 2.0),
        ("epochs=007", ValueError),
        ("epochs=1e4", ValueError),
        ("epochs=7", 7),
        ("amp=true", True),
        ("amp=False", False),
        ("amp=1", ValueError),
        ("data=auto", "auto"),
        ("data=1e5", "1e5"),
        ("data=a=b", "a=b"),
        ("bands=['B02', 'B03']", ["B02", "B03"]),
        ("sizes=[3]", [3]),
        ("limit=none", None),
        ("limit=12", 12),
        ("limit=water", "water"),
        ("lr", ValueError),
        ("lrr=1", ValueError),
    ],
)
def test_text_gets_the_type_of_its_default(text, value):
    if value is ValueError:
        with pytest.raises(ValueError, match=r"must be|reads name=value|did you mean"):
            parse_setting(text, DEFAULTS)
    else:
        name, parsed = parse_setting(text, DEFAULTS)
        assert (name, parsed, type(parsed)) == (text.partition("=")[0], value, type(value))


def test_optional_text_can_be_none():
    assert parse_setting("data=none", DEFAULTS, {"data": "str | None"}) == ("data", None)
    assert parse_setting("data=auto", DEFAULTS, {"data": "str | None"}) == ("data", "auto")


def test_type_of_a_default():
    assert [type_of(v) for v in (True, 1, 1.0, "a", [1, 2.0], [])] == [
        "bool", "int", "float", "str", "list[int | float]", "list",
    ]  # fmt: skip
