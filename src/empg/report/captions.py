"""What each figure of the report is called and how it was made, in the order of the page.

No imports: the Snakefile reads this file too. Captions are plain text and valid reStructuredText.
"""

from __future__ import annotations

from typing import NamedTuple


class Caption(NamedTuple):
    """``section`` of the page, ``title``, and ``text``: what is drawn, what intervals mean, what it cannot show."""

    section: str
    title: str
    text: str


CAPTIONS = {
    "difference": Caption(
        "Results",
        "Difference in success",
        "Success minus that of the method compared with, in points, sampled (full dots) and greedy (hollow dots): the "
        "same method without modulation, or else the baseline; same tasks, seeds and random numbers. With fewer than "
        "three runs of a method each row is a run, with its 95 % interval for other tasks and these policies. "
        "Otherwise a dot is the mean over seeds, the thick line that interval over tasks, the thin line the 95 % "
        "interval for other seeds and tasks; a triangle marks an interval that goes on beyond the axis.",
    ),
    "success": Caption(
        "Results",
        "Success of each policy",
        "Success, in percent, of the warm start and of every trained policy on all tasks of the panel. The number "
        "behind a name is the seed. Lines are Wilson's 95 % intervals, for other episodes of that policy.",
    ),
    "learning_curves": Caption(
        "Training",
        "Learning curves",
        "Success of the training episodes, a line for each run: strong the mean of the last 10 iterations, faint each "
        "iteration. Tasks are drawn anew each time, and those that the warm start always or never solves are drawn "
        "less often, so a curve is not comparable with a panel. From three seeds on, a band shows the 95 % interval "
        "over seeds (Student's t) of each iteration.",
    ),
    "stability": Caption(
        "Training",
        "Stability: KL, gradient norm, entropy",
        "Mean over seeds at each iteration; the band reaches from the lowest to the highest seed. KL is the k3 "
        "estimate to the warm start on the sampled tokens, for methods with a KL penalty. The gradient norm is taken "
        "before clipping and averaged over the iteration's updates. Step entropy is the mean over the batch's steps; "
        "it falls to 0 while success stands still where a policy collapses.",
    ),
    "step_entropy": Caption(
        "Entropy and credit",
        "Step entropy",
        "Share of training steps by step entropy, in the first and in the last quarter of the iterations, all seeds "
        "together. A step's entropy is the mean over its tokens of the sampling distribution's entropy (Rényi-2 "
        "entropy for methods that use it). The outermost 0.1 % of the steps are counted in the outer bins.",
    ),
    "entropy_change": Caption(
        "Entropy and credit",
        "Change of step entropy, by percentile",
        "After the paper's Figure 3. Each trained policy reads steps of the warm start's rollouts again, token for "
        "token; the change is its step entropy minus the warm start's. Each bin holds 5 % of the steps, by their "
        "entropy before. The line is the mean over seeds, the band reaches from the lowest to the highest seed. "
        "Methods share the steps, seeds do not. The highest bins fall in part by regression to the mean, since bins "
        "go by the entropy before.",
    ),
    "gradient_scale": Caption(
        "Entropy and credit",
        "Gradient scale",
        "Share of training steps by EMPG's gradient scale g, which multiplies the outcome advantage. Its mean is 1 in "
        "every iteration; confident steps are above 1. Only methods that scale are shown. Phases and bins are those "
        "of the step entropy.",
    ),
    "equal_reward": Caption(
        "Entropy and credit",
        "Weight of groups with equal rewards",
        "Share of the summed absolute advantage that comes from groups whose rewards are all equal. The line is the "
        "mean over seeds, the band reaches from the lowest to the highest seed. The outcome advantage of such groups "
        "is 0, so without a bonus the share is 0; EMPG's clarity bonus still trains on them.",
    ),
    "proposition1": Caption(
        "Gradients",
        "Proposition 1, measured",
        "Squared norm of the gradient of log π(a) with respect to the logits, against Rényi-2 entropy. Contexts come "
        "from the last rollouts of the trained policy, which draws 16 tokens a at each. Dots and lines are means and "
        "95 % intervals in bins of equal width, all seeds together; bins of fewer than 10 contexts are left out. "
        "Dashed: the expectation of the proposition, 1 − exp(−H₂). The leftmost bin holds most contexts, since "
        "trained policies are certain of most tokens.",
    ),
    "gradient_norm": Caption(
        "Gradients",
        "Gradient norm against step entropy",
        "Norm over all parameters of the gradient of a step's mean log-probability under the trained policy, for "
        "steps drawn from the last iteration. It is shown alone, times the outcome advantage (before modulation) and "
        "times the final advantage (after modulation; the mean over the step's tokens for token-level methods). Bins "
        "of equal count by step entropy; means and 95 % intervals, all seeds together.",
    ),
    "sensitivity": Caption(
        "Sensitivity",
        "Sensitivity to k, k' and ζ",
        "Success, in percent, sampled, on the last panel, mean over seeds, for methods that differ only in these "
        "settings. Each map varies two of them; the third has the value that most methods have. The title gives the "
        "baseline's success.",
    ),
    "endings": Caption(
        "Failures and cost",
        "How episodes end",
        "Share of each panel's sampled episodes by how they ended, all seeds together. Success and failure: the "
        "environment ended the episode, with or without the full reward. Step limit: no actions left. Refused: too "
        "many invalid actions in a row. Context limit: the next turn might not fit. Search limit: the agent searched "
        "on after its last search.",
    ),
    "cost": Caption(
        "Failures and cost",
        "Cost of a run",
        "CPU seconds of a training run and its evaluation, mean over seeds, from the stages' own clocks: sampling "
        "episodes (with their entropies, which sampling yields anyway), updates, writing rollouts and checkpoints, "
        "the rest (loading, start), and evaluation on the panels.",
    ),
}
