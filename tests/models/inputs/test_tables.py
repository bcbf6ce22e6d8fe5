import math

import pytest
import torch

from models.inputs.columns import CategoryColumn, DateColumn, NumberColumn, compress
from models.inputs.kind import InputError
from models.inputs.table import TableSpec

AGE = NumberColumn("age", missing=True, mean=40.0, std=10.0, least=18.0, greatest=90.0)
SEX = CategoryColumn("sex", missing=False, categories=("f", "m"), others=False)
TOWN = CategoryColumn("town", missing=True, categories=("Ulm", "7"), others=True)
DAY = DateColumn("day", missing=False, mean=0.0, std=100.0, least=-300.0, greatest=300.0, times=False)
SPEC = TableSpec((AGE, SEX, TOWN, DAY))


def test_rows_are_read_in_order_or_by_name() -> None:
    rows = SPEC.read_rows(
        [
            [50, "f", "Ulm", "1970-01-02"],
            {"day": "1970-01-01T12:00:00Z", "town": 7, "sex": "m", "age": None},
            ["30", "m", "Rome", "1969-12-31"],
            [30.5, "f", "", " 1970-01-01 "],
        ]
    )
    assert rows.dtype == torch.float64
    expected = [[50, 0, 0, 1], [math.nan, 1, 1, 0.5], [30, 1, 2, -1], [30.5, 0, math.nan, 0]]
    torch.testing.assert_close(rows, torch.tensor(expected, dtype=torch.float64), equal_nan=True)


def test_features_are_known() -> None:
    assert SPEC.shape == (4,)
    assert SPEC.prepared_shape == (2 + 2 + 4 + 5,)
    features = SPEC.prepare(SPEC.read_rows([[50, "f", "Rome", "1970-01-01"], [None, "m", None, "1970-04-11"]]))
    assert features.dtype == torch.float32
    assert features[:, :8].tolist() == [[1, 0, 1, 0, 0, 0, 1, 0], [0, 1, 0, 1, 0, 0, 0, 1]]
    week, year = 2 * math.pi * (100 % 7) / 7, 2 * math.pi * 100 / 365.2425
    expected = [[0, 0, 1, 0, 1], [1, math.sin(year), math.cos(year), math.sin(week), math.cos(week)]]
    torch.testing.assert_close(features[:, 8:], torch.tensor(expected), rtol=0, atol=1e-6)


def test_times_of_day_are_features_where_there_are_any() -> None:
    timed = DateColumn("at", missing=False, mean=0.0, std=1.0, least=0.0, greatest=9.0, times=True)
    features = timed.prepare(torch.tensor([timed.read("1970-01-01T06:00+00:00", 0)], dtype=torch.float64))
    torch.testing.assert_close(features[0, -2:], torch.tensor([1.0, 0.0], dtype=torch.float64), rtol=0, atol=1e-9)


def test_far_numbers_are_scaled_logarithmically() -> None:
    near = torch.linspace(-3, 3, 61, dtype=torch.float64)
    assert torch.equal(compress(near), near)
    far = torch.tensor([-1e300, 3 + math.e - 1, 1e300], dtype=torch.float64)
    assert compress(far).tolist() == pytest.approx([-3 - 300 * math.log(10), 4, 3 + 300 * math.log(10)])
    z = torch.tensor([3.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(compress(z + 1e-9).sum(), z)
    assert slope.item() == pytest.approx(1)


@pytest.mark.parametrize(
    ("row", "message", "hint"),
    [
        ([50, "f", "Ulm"], "Row 0 has 3 value(s), not 4.", "The columns are age, sex, town, day."),
        ({"age": 50, "sex": "f", "town": "Ulm"}, "Row 0 lacks the column 'day'.", "The columns are"),
        ({"agee": 50}, "Row 0 has the unknown column 'agee'.", "Did you mean 'age'? The columns are"),
        (["old", "f", "Ulm", "1970-01-01"], "age in row 0 is 'old'.", "a number; in training it was between 18 and 90"),
        ([True, "f", "Ulm", "1970-01-01"], "age in row 0 is True.", "It must be a number"),
        (["1_0", "f", "Ulm", "1970-01-01"], "age in row 0 is '1_0'.", "It must be a number"),
        ([math.inf, "f", "Ulm", "1970-01-01"], "age in row 0 is inf.", "It must be a number"),
        ([10**400, "f", "Ulm", "1970-01-01"], "age in row 0 is 1000", "It must be a number"),
        ([[1], "f", "Ulm", "1970-01-01"], "age in row 0 is [1].", "It must be a number"),
        ([50, "x", "Ulm", "1970-01-01"], "sex in row 0 is 'x'.", "It must be one of f, m."),
        (
            [50, None, "Ulm", "1970-01-01"],
            "Row 0 has no value for sex, which no row lacked in training.",
            "one of f, m",
        ),
        ([50, "f", "Ulm", 5], "day in row 0 is 5.", "a date such as 1970-10-28 (ISO 8601)"),
        ([50, "f", "Ulm", "28.10.1970"], "day in row 0 is '28.10.1970'.", "between 1969-03-07 and 1970-10-28"),
    ],
)
def test_refusals_name_row_and_column(row: object, message: str, hint: str) -> None:
    with pytest.raises(InputError) as caught:
        SPEC.read_rows([row])  # type: ignore[list-item]
    assert caught.value.message.startswith(message)
    assert hint in caught.value.hint


def test_columns_have_different_names() -> None:
    with pytest.raises(ValueError, match="the same name"):
        TableSpec((SEX, SEX))


def test_tables_of_numbers_alone_take_tensors_too() -> None:
    assert [tensor.name for tensor in SPEC.signature] == ["cells"]
    assert [(t.name, t.datatype, t.shape) for t in TableSpec((AGE,)).signature] == [
        ("cells", "BYTES", (1,)),
        ("inputs", "FP32", (1,)),
    ]
