"""Uncertainty: standard errors, paired comparisons, the share of the gap that is closed."""

import numpy as np
import pytest
import scipy.stats

from gan_refine.evaluation import PairedComparison, estimate, gap_closed, interval


class TestUncertainty:
    def test_estimate(self) -> None:
        assert estimate([1.0, 2.0, 3.0]).standard_error == pytest.approx(1 / np.sqrt(3))
        assert estimate([2.5]).standard_error is None

    def test_pairing_sees_what_the_spread_hides(self) -> None:
        before = [8.0, 9.0, 7.0, 8.5]
        paired = PairedComparison(before, [value - 0.2 + 0.01 * k for k, value in enumerate(before)])
        told = paired.describe("fd")
        assert paired.significant
        assert told.startswith("changes fd by -0.185, which is significantly better (95 % confidence interval +-")
        assert "significantly worse" in paired.describe("is", higher_is_better=True)

    def test_gap_closed(self) -> None:
        assert gap_closed(8.0, 5.0, 4.0) == 0.75
        assert gap_closed(8.0, 9.0, 4.0) == -0.25
        assert gap_closed(4.0, 3.0, 4.0) is None, "no gap"

    def test_interval_of_shares(self) -> None:
        found = interval([0.1, 0.2, 0.3])
        assert (found.mean, found.count, found.sign) == (pytest.approx(0.2), 3, 0)
        assert found.margin == pytest.approx(4.302653 * 0.1 / 3**0.5, rel=1e-6)
        assert (interval([0.2, 0.21, 0.2]).sign, interval([-0.2, -0.21, -0.2]).sign) == (1, -1)
        assert str(interval([0.123])) == "12.3%"

    def test_noise_is_called_noise(self) -> None:
        paired = PairedComparison([8.0, 8.1, 7.9], [7.9, 8.2, 7.8])
        assert paired.significant is False and paired.describe("fd").startswith(
            "changes fd by -0.033, which is not significant"
        )

    def test_one_set_of_latents_tells_nothing_of_noise(self) -> None:
        paired = PairedComparison([8.0], [7.0])
        assert paired.significant is None and "gives no confidence interval" in paired.describe("fd")

    @pytest.mark.parametrize("sets", [2, 3, 11, 40])
    def test_interval_and_decision_are_those_of_the_paired_t_test(self, sets: int) -> None:
        before, after = np.random.default_rng(sets).normal(5, 1, [2, sets])
        theirs = scipy.stats.ttest_rel(after, before)
        ours, low, high = PairedComparison(list(before), list(after)), *theirs.confidence_interval(0.95)
        assert ours.margin is not None
        assert [ours.difference.mean - ours.margin, ours.difference.mean + ours.margin] == pytest.approx([low, high])
        assert ours.significant is bool(theirs.pvalue < 0.05)
        assert PairedComparison(list(before), list(after + 10)).significant

    def test_equal_values_are_no_significant_change(self) -> None:
        paired = PairedComparison([8.0, 9.0], [8.0, 9.0])
        assert paired.significant is False and paired.margin == 0
