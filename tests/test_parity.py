"""The measures of agreement, against numbers worked out by hand, and what each precision allows."""

from __future__ import annotations

import numpy as np
import pytest

from swinv2.parity import TOLERANCES, compare

REFERENCE = np.array([[1.0, 0.0, -2.0], [3.0, 4.0, 0.0]], np.float32)
SIZE = (64, 64)


def test_equal_logits_agree():
    found = compare(REFERENCE, REFERENCE, SIZE)
    assert (found.max_error, found.mean_error, found.agreement, found.batch) == (0, 0, 1, 2)
    assert found.cosine == pytest.approx(1)
    assert found.problem("fp32") is None


def test_errors_are_those_of_the_definition():
    other = REFERENCE + np.array([[0.5, 0, 0], [0, 0, -0.25]], np.float32)
    found = compare(other, REFERENCE, SIZE)
    assert found.max_error == 0.5
    assert found.mean_error == pytest.approx(0.75 / 6)
    assert found.largest == 4
    assert found.error == pytest.approx(0.125)
    expected = [1.5 + 4, 9 + 16], [np.hypot(1.5, 2) * np.hypot(1, 2), np.hypot(5, 0.25) * 5]
    assert found.cosine == pytest.approx(min(a / b for a, b in zip(*expected, strict=True)))


@pytest.mark.parametrize("precision", TOLERANCES)
def test_twice_what_a_precision_allows_is_a_problem(precision):
    largest, limit = 4, TOLERANCES[precision]
    good, bad = REFERENCE.copy(), REFERENCE.copy()
    good[1, 2] += 0.9 * limit * largest
    bad[1, 2] -= 2 * limit * largest
    assert compare(good, REFERENCE, SIZE).problem(precision) is None
    assert "of the largest, and" in compare(bad, REFERENCE, SIZE).problem(precision)


def test_not_a_number_is_a_problem():
    bad = REFERENCE.copy()
    bad[0, 0] = np.nan
    assert compare(bad, REFERENCE, SIZE).problem("int8")


def test_agreement_is_the_share_of_equal_first_classes():
    swapped = REFERENCE.copy()
    swapped[0] = swapped[0][[1, 0, 2]]
    assert compare(swapped, REFERENCE, SIZE).agreement == 0.5
