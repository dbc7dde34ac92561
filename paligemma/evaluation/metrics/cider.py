"""CIDEr-D, the score of COCO's captions.

    cider_d([["a", "red", "cat"]], [[["a", "red", "cat"], ["a", "cat"]]])

Vedantam et al., arXiv 1411.5726; the numbers are those of pycocoevalcap's `CiderScorer`.
"""

import math
from collections import Counter
from collections.abc import Sequence

MAX_NGRAM = 4  # words
SIGMA = 6.0  # of the penalty for another length


def cider_d(
    answers: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
) -> list[float]:
    """The score of each answer, 0..10, given the references of each image; all are tokens.

    The weight of an n-gram is its count times its inverse document frequency: the logarithm of the
    number of images over that of images whose references have it. Two captions compare by the
    cosine of their weights, the answer's clipped to the reference's, for n-grams of each length up
    to `MAX_NGRAM`; the score is the mean over lengths and references, times ten. Papers print the
    mean over images times 100.
    """
    counts = [[_count_ngrams(one) for one in image] for image in references]
    frequencies = Counter(ngram for image in counts for ngram in set().union(*image))
    scores = []
    for answer, image in zip(answers, counts, strict=True):
        caption = _WeightedCaption(_count_ngrams(answer), frequencies, len(counts))
        similarities = [
            caption.similarity(_WeightedCaption(one, frequencies, len(counts))) for one in image
        ]
        scores.append(10 * sum(similarities) / (MAX_NGRAM * len(image)))
    return scores


def _count_ngrams(tokens: Sequence[str]) -> Counter[tuple[str, ...]]:
    sizes = range(1, MAX_NGRAM + 1)
    return Counter(
        tuple(tokens[n : n + size]) for size in sizes for n in range(len(tokens) - size + 1)
    )


class _WeightedCaption:
    """The weights of a caption's n-grams, by n. `length` counts bigrams, as officially."""

    def __init__(self, counts: Counter, frequencies: Counter, images: int) -> None:
        self.length = sum(count for ngram, count in counts.items() if len(ngram) == 2)
        self.weights: list[dict[tuple[str, ...], float]] = [{} for _ in range(MAX_NGRAM)]
        for ngram, count in counts.items():
            rarity = math.log(images) - math.log(max(1, frequencies[ngram]))
            self.weights[len(ngram) - 1][ngram] = count * rarity
        self.norms = [math.sqrt(sum(w * w for w in by_n.values())) for by_n in self.weights]

    def similarity(self, reference: "_WeightedCaption") -> float:
        """The sum over n of the clipped cosine, less for another length."""
        total = 0.0
        for n in range(MAX_NGRAM):
            answer, other = self.weights[n], reference.weights[n]
            shared = sum(
                min(weight, other[ngram]) * other[ngram]
                for ngram, weight in answer.items()
                if ngram in other
            )
            norm = self.norms[n] * reference.norms[n]
            total += shared / norm if norm else 0.0
        return total * math.exp(-((self.length - reference.length) ** 2) / (2 * SIGMA**2))
