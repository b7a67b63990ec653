"""The report's figures in the order of the page: what each is called and how it was made.

No imports: Snakemake's own report takes the same words. They are plain text, and reStructuredText reads them as such.
"""

from __future__ import annotations

from typing import NamedTuple


class Caption(NamedTuple):
    """``section`` of the page, ``title``, and ``text``: how the figure was made and what it may be read as."""

    section: str
    title: str
    text: str


CAPTIONS = {
    "difference": Caption(
        "Results",
        "Difference in success",
        "Success minus that of the same method without modulation, or else of the baseline, on the same tasks, with "
        "the same seeds and random numbers; a point is the mean over seeds. Thin line: Student's t 95 % interval over "
        "the seeds' differences, what other seeds would give; cut off at ± 50 points. Thick line: bootstrap over tasks "
        "for these very policies: what other tasks would give. Only when both keep clear of 0 does the page claim a "
        "difference.",
    ),
    "success": Caption(
        "Results",
        "Success of each policy",
        "Every task of the panel played once by every policy (the number behind a name is the seed), the warm start "
        "beside. Lines are Wilson's 95 % intervals for that policy's episodes.",
    ),
    "learning_curves": Caption(
        "Training",
        "Learning curves",
        "Success of each iteration's own training episodes. These tasks are drawn anew for every iteration, those "
        "always or never solved less often, so a curve is not the success on a panel. Left, the episodes of all seeds "
        "together; the band is Wilson's 95 % interval for the episodes of one iteration: the noise of measuring, not "
        "the spread of seeds. Right, each run of a method, one for each seed; from three seeds on with Student's t 95 "
        "% interval for other seeds as a band.",
    ),
    "stability": Caption(
        "Training",
        "Stability: KL, gradient norm, entropy",
        "By iteration, mean over seeds; the band reaches from the lowest to the highest seed. KL is the k3 estimate to "
        "the warm start on the sampled tokens, computed only for methods with a KL penalty. The gradient norm is that "
        "before clipping, mean over an iteration's updates. Step entropy is the mean over the batch's steps: a "
        "collapse to confident policies would show as a fall to 0 while success stands still.",
    ),
    "step_entropy": Caption(
        "Entropy and credit",
        "Step entropy",
        "Share of training steps by their step entropy (mean over a step's tokens of the sampling distribution's "
        "entropy; of Rényi-2 entropy for a method with it), in the first and the last quarter of the iterations, all "
        "seeds together. The outermost 0.1 % lie in the outer bins.",
    ),
    "entropy_change": Caption(
        "Entropy and credit",
        "Change of step entropy, by percentile",
        "After the paper's Figure 3. Steps of the warm start's own rollouts, the same for every method, are read again "
        "by each trained policy, token for token: the change is its step entropy less the warm start's. Bins hold 5 % "
        "of the steps each, by their entropy before; mean over seeds, which are given different steps; the band "
        "reaches from the lowest to the highest seed. Since bins go by the entropy before, the highest fall in part by "
        "regression to the mean.",
    ),
    "gradient_scale": Caption(
        "Entropy and credit",
        "Gradient scale",
        "Share of training steps by EMPG's factor g, which multiplies the outcome advantage and is 1 on average in "
        "every iteration; above 1 for confident steps. Only methods that scale; phases and bins as for the step "
        "entropy.",
    ),
    "equal_reward": Caption(
        "Entropy and credit",
        "Weight of groups that cannot rank",
        "Share of the summed absolute advantage that comes from groups whose rewards are all equal, mean over seeds; "
        "the band reaches from the lowest to the highest. Their outcome advantage is 0, so without a bonus the share "
        "is 0; with EMPG's clarity bonus such groups are still trained on.",
    ),
    "proposition1": Caption(
        "Gradients",
        "Proposition 1, measured",
        "Squared norm of the gradient of log π(a) with respect to the logits, for tokens a drawn from the trained "
        "policy at contexts of its last rollouts, 16 tokens a context, in bins of equal width by Rényi-2 entropy (mean "
        "and 95 % interval, all seeds; bins of fewer than 10 contexts left out); dashed, the proposition's expectation "
        "1 − exp(−H₂). The bin at the left end holds most contexts: trained policies are sure of most tokens.",
    ),
    "gradient_norm": Caption(
        "Gradients",
        "Gradient norm against step entropy",
        "Norm over all parameters of the gradient of a step's mean log-probability under the trained policy, for steps "
        "drawn from the last iteration, alone, times the step's outcome advantage (before modulation) and times its "
        "final one (after; the mean over its tokens for a method at the level of tokens). Bins of equal count by step "
        "entropy; mean and 95 % interval, all seeds.",
    ),
    "gradient_variance": Caption(
        "Gradients",
        "Gradient variance with and without scaling",
        "Trace of the covariance of one step's gradient times its weight, for the same steps as in the figure before: "
        "by the outcome advantage times g (scaled) and by EMPG's final advantage, over that by the outcome advantage "
        "alone; a point for each seed, below 1 less variance. Smaller weights alone make for less variance and less "
        "signal alike, so the second panel divides by the square of the weights' mean size.",
    ),
    "sensitivity": Caption(
        "Sensitivity",
        "Sensitivity to k, k' and ζ",
        "Success on the last split, sampled, mean over seeds, of the methods that differ in these settings alone. Each "
        "map varies two of them; the third has the value that most methods have. The baseline's success stands in the "
        "title.",
    ),
    "endings": Caption(
        "Failures and cost",
        "How episodes end",
        "Share of the sampled episodes of each panel by how they ended, all seeds together. success and failure: the "
        "environment ended the episode, with the full reward or without it; step limit: no more actions; refused: too "
        "many invalid actions in a row; context limit: the next turn might not fit; search limit: searched on after "
        "the last search.",
    ),
    "cost": Caption(
        "Failures and cost",
        "Cost of a run",
        "CPU seconds of a training run and its evaluation, mean over seeds, from the stages' own clocks: sampling "
        "episodes (entropies included, which fall off as tokens are drawn), updates, writing rollouts and checkpoints, "
        "the rest (loading, start), and the panels.",
    ),
}
