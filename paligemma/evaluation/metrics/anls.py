"""ANLS, the score of DocVQA: average normalised Levenshtein similarity.

    anls("july 4", ["July 4th", "July 4"])  # 1.0

As the Robust Reading Competition's script counts (Biten et al., arXiv 1905.13648).
"""

from collections.abc import Sequence

ANLS_THRESHOLD = 0.5


def anls(answer: str, references: Sequence[str]) -> float:
    """1 - normalised edit distance to the nearest reference; 0 below the threshold of one half.

    Letter case and runs of spaces do not matter, but the length that normalises is that of the
    longer text as it was written.
    """
    plain = lambda text: " ".join(text.strip().lower().split())
    distances = (
        edit_distance(plain(reference), plain(answer)) / max(len(reference), len(answer), 1)
        for reference in references
    )
    score = 1 - min(distances)
    return score if score >= ANLS_THRESHOLD else 0.0


def edit_distance(a: str, b: str) -> int:
    """Levenshtein distance: the fewest characters to insert, delete or replace."""
    row = list(range(len(b) + 1))
    for n, left in enumerate(a, 1):
        corner, row[0] = row[0], n
        for m, right in enumerate(b, 1):
            corner, row[m] = row[m], min(row[m] + 1, row[m - 1] + 1, corner + (left != right))
    return row[-1]
