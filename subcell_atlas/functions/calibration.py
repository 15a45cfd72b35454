"""From a model's scores to probabilities that mean what they say (Platt 1999), for many terms at once.

The probability of term t is 1 / (1 + exp(-(a_t asinh(u) + b_t))), u the score in standard deviations of the term's
scores; asinh, since odds do not go on growing as they do around the mean.
A term with few members says little about its own slope: slopes are drawn towards the one that serves all terms, as a
normal prior would, whose variance is what the slopes of the terms differ by beyond chance (DerSimonian and Laird 1986).
Scores are counted in bins first, so that a fit costs the same for a thousand proteins and a million.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

__all__ = ["Calibration"]

LOW, HIGH, N_BINS = -6.0, 18.0, 480  # standard deviations; a twentieth a bin
LEAST_VARIANCE, MOST_VARIANCE = 1e-3, 4.0  # of the terms' slopes around the common one
N_STEPS = 12
CERTAIN = -15.0, 30.0  # logits of a no that are told apart: 1 / (1 + exp(-15)) is not yet 1 in float32
SPARSE = 0.5  # added to the members and to the others of each term, so that no probability is 0 or 1


@dataclass(frozen=True)
class Calibration:
    """Mean, deviation, slope and offset of each term, (T,) each."""

    mean: np.ndarray
    deviation: np.ndarray
    slope: np.ndarray
    offset: np.ndarray

    @classmethod
    def fit(cls, scores: np.ndarray, truth: np.ndarray) -> Calibration:
        """Learn it from scores (n, T) of proteins that had no part in the model, and whether they have the terms."""
        mean = scores.mean(axis=0, dtype=np.float64)
        deviation = scores.std(axis=0, dtype=np.float64)
        varies = deviation > 1e-6 * np.abs(mean)  # by more than rounding
        deviation = np.where(varies, deviation, 1.0)
        members, everyone = histograms(scores, truth, mean, deviation)
        at = np.arcsinh(LOW + (np.arange(N_BINS) + 0.5) * (HIGH - LOW) / N_BINS)[:, None]
        n_members, n = members.sum(axis=0), everyone.sum(axis=0)
        base = np.log((n_members + SPARSE) / (n - n_members + SPARSE))
        common, offset = newton(at, members, everyone, np.zeros(1), base, prior=0.0, center=0.0, shared=True)
        center = max(float(common[0]), 0.0)
        start = np.full(len(base), center), offset if center else base
        prior = 1 / variance_of_slopes(at, members, everyone, *start)
        slope, offset = newton(at, members, everyone, *start, prior=prior, center=center, shared=False)
        tells = varies & (slope > 0)  # less likely the higher the score is chance: then the share of members is told
        slope, offset = np.where(tells, slope, 0.0), np.where(tells, offset, base)
        return cls(*(part.astype(np.float32) for part in (mean, deviation, slope, offset)))

    def arrays(self) -> dict[str, np.ndarray]:
        """Return it as arrays, for `of_arrays`."""
        return {f"calibration_{name}": value for name, value in vars(self).items()}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Calibration:
        """Make it of what `arrays` returned; others among them are left alone."""
        return cls(**{field.name: arrays[f"calibration_{field.name}"] for field in fields(cls)})

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Return probabilities (n, T) float32."""
        logits = scores - self.mean
        logits /= self.deviation
        np.clip(logits, LOW, HIGH, out=logits)
        np.arcsinh(logits, out=logits)
        logits *= self.slope
        logits += self.offset
        np.negative(logits, out=logits)
        np.clip(logits, *CERTAIN, out=logits)
        np.exp(logits, out=logits)
        logits += 1
        return np.reciprocal(logits, out=logits)


def histograms(
    scores: np.ndarray, truth: np.ndarray, mean: np.ndarray, deviation: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return how many members, and how many proteins, each term has in each bin of standardized score, (bins, T)."""
    n_terms = scores.shape[1]
    members, everyone = (np.zeros(N_BINS * n_terms, np.int64) for _ in range(2))
    factor, shift = N_BINS / (HIGH - LOW) / deviation, -LOW * N_BINS / (HIGH - LOW)
    columns = np.arange(n_terms)
    for start in range(0, len(scores), 1024):
        part = slice(start, start + 1024)
        bins = np.clip((scores[part] - mean) * factor + shift, 0, N_BINS - 1).astype(np.int64)
        flat = bins * n_terms + columns
        everyone += np.bincount(flat.ravel(), minlength=len(everyone))
        members += np.bincount(flat[truth[part]], minlength=len(members))
    return members.reshape(N_BINS, n_terms), everyone.reshape(N_BINS, n_terms)


def newton(
    at: np.ndarray, members: np.ndarray, everyone: np.ndarray, slope: np.ndarray, offset: np.ndarray, *,
    prior: float, center: float, shared: bool,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Return slopes, one for each term or one `shared` by all, and offsets that make the counts likeliest."""
    for _ in range(N_STEPS):
        gradient_a, gradient_b, aa, ab, bb = derivatives(at, members, everyone, slope, offset)
        if shared:  # offsets are eliminated, the terms' equations for the slope added up
            step = np.atleast_1d((gradient_a - ab / bb * gradient_b).sum() / (aa - ab * ab / bb).sum())
        else:
            gradient_a, aa = gradient_a - prior * (slope - center), aa + prior
            step = (gradient_a - ab / bb * gradient_b) / (aa - ab * ab / bb)
        step = np.clip(step, -1.0, 1.0)
        offset = offset + np.clip((gradient_b - ab * step) / bb, -2.0, 2.0)
        slope = slope + step
    return slope, offset


def derivatives(
    at: np.ndarray, members: np.ndarray, everyone: np.ndarray, slope: np.ndarray, offset: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Return, of each term's likelihood, the gradient by slope and offset and the information aa, ab, bb, (T,) each."""
    p = 1 / (1 + np.exp(-np.clip(at * slope + offset, -30, 30)))
    miss, weight = members - everyone * p, np.maximum(everyone * p * (1 - p), 1e-12)
    gradient_a, gradient_b = (at * miss).sum(axis=0), miss.sum(axis=0) + SPARSE * (1 - 2 / (1 + np.exp(-offset)))
    return gradient_a, gradient_b, (at * at * weight).sum(axis=0), (at * weight).sum(axis=0), weight.sum(axis=0) + 1e-3


def variance_of_slopes(
    at: np.ndarray, members: np.ndarray, everyone: np.ndarray, slope: np.ndarray, offset: np.ndarray
) -> float:
    """Return by how much the slopes of terms vary around a common one, beyond what their few members explain."""
    gradient_a, gradient_b, aa, ab, bb = derivatives(at, members, everyone, slope, offset)
    information = np.maximum(aa - ab * ab / bb, 1e-12)
    differ = float(np.sum((gradient_a - ab / bb * gradient_b) ** 2 / information)) - (len(information) - 1)
    total = float(information.sum())
    spread = total - float(np.sum(information**2)) / total
    return float(np.clip(differ / max(spread, 1e-12), LEAST_VARIANCE, MOST_VARIANCE))
