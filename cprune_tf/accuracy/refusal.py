"""A sequential test that ends an evaluation as soon as the candidate's refusal is certain enough.

What is known makes it sharper than a test of a binomial proportion: the images are a finite set in
random order, and the original's hits on all of them are known. So a candidate misses an accuracy if
and only if its differences from the original (-1, 0 or 1 for an image) add up to too little.

The test bets against the candidate (Waudby-Smith and Ramdas, "Estimating means of bounded random
variables by betting", J. R. Stat. Soc. B 86, 2024, on sampling without replacement). While the
candidate is good enough, the expected difference of the next image is at least what is still
missing divided by the number of images that are left. A bet that it will be less cannot gain on
average, whatever the differences are. By Ville's inequality, its capital ever exceeds
1 / error_rate with a probability of at most error_rate, so the test may be made after every batch.

Acceptances need no test: what is accepted is evaluated on all images anyway, because its accuracy
is quoted and becomes the reference of later decisions.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from cprune_tf.accuracy.hits import Hits

# Fractions of the largest bet that cannot lose everything. The capital is shared among them: which
# one gains most depends on how far the candidate is from passing, and how often it differs.
_BETS = 2.0 ** -np.arange(1, 7)
# Bets are made as if no more was missing for each image that is left. That errs on the safe side,
# and keeps the bets finite where nearly all images that are left would have to be gained.
_MOST_MISSING = 0.9


class RefusalTest:
    """Tells whether a candidate will miss an accuracy on all images, after some of them.

    Args:
        original: The original's hits on all images, in the order in which the candidate is
            evaluated. This order must be random.
        least: The accuracy that the candidate must have on all images, 0..1.
        error_rate: The probability (0..1) that a candidate with this accuracy is refused all the
            same; 0: nothing is refused before all images are evaluated.
    """

    def __init__(self, original: Hits, least: float, error_rate: float) -> None:
        self._original = original
        self._error_rate = error_rate
        # What the differences of the images that are left must add up to.
        self._missing = least_hits(least, len(original)) - int(np.count_nonzero(original))
        self._num_seen = 0
        # Logarithms of the capital that was won with each bet.
        self._capital: npt.NDArray[np.float64] = np.zeros(len(_BETS))

    def refuses(self, hits: Hits) -> bool:
        """Takes in the candidate's hits on the next images.

        Args:
            hits: [number of images] bool.

        Returns:
            Whether the candidate can be refused now.
        """
        start, end = self._num_seen, self._num_seen + len(hits)
        differences = hits.astype(np.int64) - self._original[start:end]
        self._bet(differences)
        self._missing -= int(differences.sum())
        self._num_seen = end
        left = self._original[end:]
        if self._error_rate == 0 or not len(left):
            return False
        can_be_gained = len(left) - int(np.count_nonzero(left))
        if self._missing > can_be_gained:
            return True
        mean_capital = np.logaddexp.reduce(self._capital) - math.log(len(_BETS))
        return bool(mean_capital >= -math.log(self._error_rate))

    def _bet(self, differences: npt.NDArray[np.int64]) -> None:
        """Bets that each difference, knowing those before, is less than is missing on average."""
        num_left = len(self._original) - self._num_seen - np.arange(len(differences))
        before = np.cumsum(differences) - differences
        expected = np.minimum((self._missing - before) / num_left, _MOST_MISSING)
        # A difference is at most 1, so a whole bet loses at most everything.
        gains = (expected - differences) / (1 - expected)
        self._capital += np.log1p(_BETS[:, np.newaxis] * gains).sum(axis=1)


def least_hits(least: float, num_images: int) -> int:
    """Returns the fewest hits among some images that are an accuracy of at least `least`."""
    hits = math.ceil(least * num_images)
    # The product is rounded, and an accuracy is compared as a quotient.
    while hits > 0 and (hits - 1) / num_images >= least:
        hits -= 1
    while hits / num_images < least:
        hits += 1
    return hits
