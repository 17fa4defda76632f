"""Reading what users hand us, batch by batch."""

import numpy as np
import pandas
import pytest
import torch

from zennit_neon.utils.tables import Table


@pytest.mark.parametrize(
    ("X", "dtype"),
    [
        (np.arange(6).reshape(3, 2), torch.float64),
        (np.ones((3, 2), bool), torch.float64),
        (np.ones((3, 2), np.float16), torch.float16),
        (np.ones((3, 2), ">f4"), torch.float32),
        (np.ones((3, 2), np.longdouble), torch.float64),
        (np.asfortranarray(np.ones((3, 2), np.float32)), torch.float32),
        (np.ones((3, 4))[:, ::-2], torch.float64),
        ([[1, 2], [3, 4], [5, 6]], torch.float64),
        (torch.ones(3, 2, dtype=torch.bfloat16, requires_grad=True), torch.bfloat16),
        (pandas.DataFrame({"a": [1, 2, 3], "b": [0.5, 1.0, 2.0]}), torch.float64),
        (pandas.DataFrame({"a": [1, 2, 3]}, dtype="float32").assign(b=np.float32(1)), torch.float32),
        (pandas.DataFrame({"a": [1, 2, 3], "b": [True, False, True]}, dtype="Int64"), torch.float64),
        (pandas.DataFrame({"a": [1.0, 2, 3], "b": [1.0, 2, 3]}, dtype="Float32"), torch.float32),
    ],
)
def test_batches_hold_the_numbers_of_x(X, dtype):
    table = Table(X)
    batches = [batch for _, batch in table.batches(2, False, "")]
    assert [len(batch) for batch in batches] == [2, 1]
    whole = torch.cat(batches)
    assert whole.dtype == dtype
    assert not whole.requires_grad
    expected = X.detach().double().numpy() if isinstance(X, torch.Tensor) else np.asarray(X, dtype=np.float64)
    assert (whole.double().numpy() == expected).all()


def test_read_only_arrays_are_read_without_a_warning(recwarn):
    X = np.ones((3, 2))
    X.setflags(write=False)
    list(Table(X).batches(2, False, ""))
    assert not recwarn.list


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        (np.ones(3), ValueError, r"X must have shape \(N, d\), got \(3,\); a single point x is x\[None\]"),
        (torch.ones(3, 2, dtype=torch.int32), TypeError, "floating point tensor, got torch.int32"),
        (np.array([["a", "b"]]), TypeError, "X must hold numbers, got an array of <U1"),
        (np.ones((2, 2), complex), TypeError, "got an array of complex128"),
        ([[1.0, 2.0], [3.0]], ValueError, r"array of shape \(N, d\)"),
        (pandas.DataFrame({"a": [1.0], "b": ["x"]}), TypeError, r"columns \['b'\] do not"),
        (pandas.DataFrame({"a": pandas.to_datetime(["2020-01-01"])}), TypeError, r"columns \['a'\] do not"),
        (pandas.DataFrame(index=[1, 2]), ValueError, "no columns"),
    ],
)
def test_what_is_not_a_table_of_numbers_is_refused(X, error, message):
    with pytest.raises(error, match=message):
        Table(X)


def test_complaints_name_rows_and_columns():
    frame = pandas.DataFrame({"a": [1.0, 2.0, 3.0], "b": [1.0, 2.0, np.nan]})
    table = Table(frame)
    with pytest.raises(ValueError, match=r"1 or more rows \(first in row 2; features \['b'\]\)"):
        table.check(slice(1, 3), torch.tensor([float("nan")]))
    with pytest.raises(ValueError, match="evidence overflows"):
        table.check(slice(0, 1), torch.tensor([float("inf")]))


def test_batch_size_is_bounded_and_positive():
    assert Table(np.ones((10, 3))).batch_size(2) >= 1024
    assert Table(np.ones((1, 2000))).batch_size(1000) == 1024
    assert Table(np.ones((1, 3, 448, 448))).batch_size(8) == 1
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        list(Table(np.ones((3, 2))).batches(0, False, ""))
