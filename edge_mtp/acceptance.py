"""Whether a drafter fits its target at all, told from how often its drafts were right."""

from __future__ import annotations

from math import exp, lgamma, log, log1p

# A drafter that fits is right far more often even on texts that suit it badly: 8 % is hostile text.
LEAST_ACCEPTANCE = 0.03
DOUBT = 0.01  # chance of naming a drafter that is right just so often, were its drafts independent

CAUSES = (
    "likely causes: the drafter was trained for other target weights (another size, base in place of instruct, or a"
    " fine-tune or adapter that only the target got); the wrong file was given to --drafter at export; or the texts are"
    " nearly random (a high temperature)"
)


def unfit(drafted: int, accepted: int) -> bool:
    """Whether acceptance at the first position is below `LEAST_ACCEPTANCE` beyond doubt.

    `drafted`: first drafts of the drafter that a text has judged; `accepted`: how many were right. The exact binomial
    test (Clopper and Pearson, "The use of confidence or fiducial limits", 1934): true where the upper limit of the
    acceptance lies below the bar. Of drafts that are never right it takes 152.
    """
    if not 0 <= accepted <= drafted:
        raise ValueError(f"{accepted} of {drafted} drafts cannot have been right")
    if accepted >= LEAST_ACCEPTANCE * drafted:
        return False
    odds = log(LEAST_ACCEPTANCE) - log1p(-LEAST_ACCEPTANCE)
    chance = 0.0  # that so few are right, or fewer
    for right in range(accepted, -1, -1):
        ways = lgamma(drafted + 1) - lgamma(right + 1) - lgamma(drafted - right + 1)
        term = exp(ways + right * odds + drafted * log1p(-LEAST_ACCEPTANCE))
        chance += term
        if chance >= DOUBT or term < 1e-12 * chance:
            break
    return chance < DOUBT


def warning(drafted: int, accepted: int) -> str | None:
    """A sentence for a person where the drafter does not fit, else None."""
    if not unfit(drafted, accepted):
        return None
    return f"the drafter does not fit this target: {accepted:,} of its {drafted:,} first drafts were right; {CAUSES}"
