"""Metrics of critiques and refinements, which llmrl/evaluation/critique.py measures."""

from __future__ import annotations

from dataclasses import replace

from llmrl.metrics.metric import Metric
from llmrl.troubles import Outside

BY_VERDICT = "Reward the verdict itself (discrimination), and balance right and wrong drafts."

CRITIQUES = (
    Metric("verdict_accuracy", "The share of critiques whose verdict agrees with the verifier's; an unreadable verdict "
           "agrees with nothing.", "share", "rises", BY_VERDICT, format=".1%", heading="verdict acc"),
    Metric("verdict_precision", "The share of critiques that say wrong whose draft is wrong.", "share", "rises",
           BY_VERDICT, format=".1%"),
    Metric("verdict_recall", "The share of critiques of wrong drafts that say wrong.", "share", "rises", BY_VERDICT,
           format=".1%"),
    Metric("verdict_f1", "The harmonic mean of verdict_precision and verdict_recall, in which wrong is the positive "
           "class.", "share", "rises", BY_VERDICT, format=".1%"),
    Metric("verdicts_unreadable", "The share of critiques without a readable verdict.", "share", "near 0",
           "Say in the template how the verdict is written, warm the critiquer up on critiques with verdicts, and look "
           "at truncated.", format=".1%",
           troubles=(Outside("many critiques have no readable verdict", high=0.3, rows=3),)),
    Metric("verdicts_alike", "The share of the most common verdict, unreadable included.", "share",
           "near the share of right drafts, or of wrong ones",
           "If verdicts_unreadable is low, the critiquer does not judge: balance right and wrong drafts, and give the "
           "verdict a reward of its own.",
           format=".1%",
           troubles=(Outside("nearly all critiques have the same verdict", high=0.95, rows=3),)),
    Metric("verdict_calibration_error", "The expected calibration error, in 10 bins, of the share of a draft's "
           "readable critiques that say right, as the chance that the draft is right.", "share", "near 0", BY_VERDICT),
    Metric("verdict_brier_score", "The mean squared error of that chance.", "", "falls", BY_VERDICT),
    Metric("accuracy_before", "The share of refinements whose draft is right; a draft counts once for each.", "share",
           format=".1%"),
    Metric("accuracy_after", "The share of refinements that are right.", "share", "rises above accuracy_before",
           "See right_to_wrong and wrong_to_right.", format=".1%", heading="refined acc"),
    Metric("refinement_gain", "The difference of accuracy_after and accuracy_before.", "share", "above 0",
           "See right_to_wrong and wrong_to_right.", format="+.1%"),
    Metric("right_to_right", "The share of refinements that are right, of a right draft.", "share", format=".1%"),
    Metric("right_to_wrong", "The share of refinements that are wrong, of a right draft.", "share", "near 0",
           "Critiques mislead: reward verdicts, or follow wrong drafts alone.", format=".1%"),
    Metric("wrong_to_right", "The share of refinements that are right, of a wrong draft.", "share", "rises",
           "Critiques do not help: look at some with `llmrl show`.", format=".1%"),
    Metric("wrong_to_wrong", "The share of refinements that are wrong, of a wrong draft.", "share", format=".1%"),
    Metric("critique_utility", "The accuracy of refinements that read a critique, less that of answers that follow the "
           "draft without one, over drafts that have both; where none has both, less that of the draft.", "share",
           "above 0", "Critiques add nothing to answering anew: reward refinements.", format="+.1%"),
)  # fmt: skip
HELD_OUT = (
    *(
        replace(metric, name=f"eval/{metric.name}", meaning=f"See {metric.name}, of held-out prompts.", troubles=(),
                advice="", healthy="", heading="")
        for metric in CRITIQUES
    ),
    Metric("eval/refinements_changed", "The share of refinements that give another answer than their draft.", "share",
           format=".1%"),
    Metric("eval/filtered_maj@<k>", "The vote maj@k of the drafts but those that more critiques call wrong than "
           "right; of all where none is left.", "share", "above eval/maj@<k>", "See verdict_accuracy.", format=".1%"),
)  # fmt: skip
