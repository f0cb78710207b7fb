"""GRPO's loss on packed tokens: the clipped ratio and the KL to the reference.

The loss is a plain sum over tokens. All averaging ("over a sample's tokens, then over samples, with
global denominators") sits in the weight of each token, so that the sum over tokens, micro-batches
and ranks, however they were cut, is the loss of the whole batch; and so is the gradient.

Guarantees: a token of weight 0 adds exactly 0 to loss, figures and gradient, whatever it holds
(-inf, NaN, a ratio past the largest float). Refuses nothing on tokens that count: theirs must be
finite, and where they are not the loss says so by being NaN or infinite.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def sample_weights(lengths: Sequence[int]) -> Float[Tensor, " B"]:
    """Weight of each answer token, one value a sample: 1 / (tokens of the sample) / (samples).

    `lengths` counts the answer tokens of every sample of the *global* mini-batch, in tokens, not
    those of one rank: only then do the ranks' sums add up to the mean. Repeat a sample's value on
    its answer tokens and put 0 on every other token.

    Raises ValueError for a sample without a token, whose mean would be 0/0.
    """
    for index, length in enumerate(lengths):
        if length < 1:
            raise ValueError(f"sample {index} has {length} answer tokens; at least 1 is needed")
    return 1.0 / (torch.tensor(lengths, dtype=torch.float32) * len(lengths))


def grpo_loss(
    logps_T: Float[Tensor, " T"],
    old_logps_T: Float[Tensor, " T"],
    ref_logps_T: Float[Tensor, " T"],
    advantages_T: Float[Tensor, " T"],
    weights_T: Float[Tensor, " T"],
    *,
    clip_eps: float,
    kl_coefficient: float,
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """GRPO's loss on T packed tokens.

    DeepSeek-R1 (arXiv 2501.12948, equations 1 and 2), token by token as in DeepSeekMath (arXiv
    2402.03300, equation 3):

    sum over t of w * (-min(rho * A, clip(rho, 1 - eps, 1 + eps) * A) + beta * k3), where
    rho = exp(logp - old_logp) and k3 = exp(ref_logp - logp) - (ref_logp - logp) - 1, the unbiased
    and never negative estimate of KL(policy || reference) (Schulman, "Approximating KL
    divergence").

    `logps_T` carries the gradient; the old and the reference's log-probs are constants.
    `advantages_T` repeats each sample's advantage on its tokens; `weights_T` comes from
    `sample_weights`. Log-probs are in nats.

    Returns the loss and detached figures, weighted like the loss so that their sums over
    micro-batches and ranks are means over the batch: `pg_loss`, `kl_loss` (k3 before its
    coefficient), `pg_clipfrac` (share of tokens where the clip is in force, hence without policy
    gradient) and `ppo_kl` (mean of old_logp - logp: how far the policy has moved since it sampled).
    """
    counted_T = weights_T != 0
    # Values are replaced before exp, not after it: a mask applied to an infinite result would still
    # send 0 * inf = NaN backwards.
    logps_T, old_T, ref_T, advantages_T = (
        torch.where(counted_T, x_T, 0.0)
        for x_T in (logps_T, old_logps_T.detach(), ref_logps_T.detach(), advantages_T)
    )
    pg_T, clipped_T = _policy_gradient(logps_T - old_T, advantages_T, clip_eps)
    kl_T = _k3(logps_T, ref_T)
    loss = (weights_T * (pg_T + kl_coefficient * kl_T)).sum()
    figures = {
        "pg_loss": pg_T,
        "kl_loss": kl_T,
        "pg_clipfrac": clipped_T,
        "ppo_kl": old_T - logps_T,
    }
    return loss, {name: (weights_T * x_T.detach()).sum() for name, x_T in figures.items()}


def _policy_gradient(
    log_ratio_T: Float[Tensor, " T"], advantages_T: Float[Tensor, " T"], clip_eps: float
) -> tuple[Float[Tensor, " T"], Float[Tensor, " T"]]:
    """The clipped objective's loss, and 1 where the clip is in force, else 0."""
    ratio_T = log_ratio_T.exp()
    free_T = ratio_T * advantages_T
    clipped_T = ratio_T.clamp(1 - clip_eps, 1 + clip_eps) * advantages_T
    return -torch.minimum(free_T, clipped_T), (clipped_T < free_T).to(ratio_T.dtype)


def _k3(logps_T: Float[Tensor, " T"], ref_logps_T: Float[Tensor, " T"]) -> Float[Tensor, " T"]:
    """The k3 estimate; expm1 keeps it exact where the two log-probs nearly agree."""
    gap_T = ref_logps_T - logps_T
    return gap_T.expm1() - gap_T
