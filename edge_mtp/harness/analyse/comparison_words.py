"""What the comparison of two arms says, in words."""

from __future__ import annotations

from collections import Counter

from edge_mtp.harness.analyse.paired_calls import MARGIN, PairedCalls, Verdict
from edge_mtp.harness.stats import figures


def conclusion(pair: PairedCalls, verdict: Verdict, p_adjusted: float, comparisons: int, needed: int | None) -> str:
    """The verdict and the figures behind it. `needed`: about how many items would be enough data."""
    items = len(pair.items)
    if pair.is_identical:
        return f"All {items} items are answered word for word alike."
    shares = [f"{sum(right)} of {items} items ({figures.percent(sum(right) / items)})" for right in pair.right]
    found = (
        f"Right in {shares[0]} instead of {shares[1]}: {pair.lost} lost, {pair.gained} gained,"
        f" {figures.points(pair.difference)}."
    )
    if verdict == "same":
        return f"{found} So less than {100 * MARGIN:g} point is lost, which counts as the same."
    if verdict == "not enough data":
        return f"{found} That is not enough data to tell; about {figures.about(needed or 1):,} items would be."
    p = figures.spoken_p(p_adjusted)
    over = f", Holm's over {comparisons} comparisons" if comparisons > 1 else ""
    label, count = pair.changed_labels(verdict).most_common(1)[0]
    of = f"{pair.lost} lost items {count} now" if verdict == "worse" else f"{pair.gained} gained items {count} before"
    return f"{found} That is {verdict} ({p}{over}). Of the {of} fail first with {label}."


def where(pair: PairedCalls) -> str:
    """In how many items the replies part, and at what kinds of token; empty where they do not."""
    if not pair.partings:
        return ""
    classes = Counter(each.token_class or "other tokens for the same text" for each in pair.partings).most_common()
    where = ", ".join(f"{name} {count}" for name, count in classes)
    return f"Replies part in {len(pair.partings)} of {len(pair.items)} items, first at: {where}."
