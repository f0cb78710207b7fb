"""Group-relative advantages: a reward against the rewards of the other answers to its prompt.

Guarantees: every group's advantages have mean 0 and population standard deviation 1, or are exactly
0 where the group's rewards do not differ. Refuses rewards that are not finite.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

ROUNDING_ULPS = 8
"""Rewards this close, in units of the last place of the largest, differ by rounding alone."""


def group_advantages(
    rewards_PG: Float[Tensor, "P G"],
) -> tuple[Float[Tensor, "P G"], Bool[Tensor, " P"]]:
    """Standardise the rewards of G answers inside each of P groups.

    A = (r - mean) / std with the population standard deviation (divided by G, not G - 1), as in
    DeepSeek-R1 (arXiv 2501.12948, equation 3) with the deviation taken over the group itself.

    Returns the advantages, in the dtype of the rewards, and which groups had no variance. Those
    have advantage exactly 0: dividing what rounding left of a difference by itself would make a
    signal of size 1 out of nothing (0.1 + 0.2 is not 0.3, and the mean of three 0.1 is not 0.1).

    Raises ValueError if a reward is not finite.
    """
    if not torch.isfinite(rewards_PG).all():
        raise ValueError("rewards must be finite; NaN or infinity would spread to its whole group")
    no_variance_P = _without_variance(rewards_PG)
    # fp64 inside: the squares of small differences must not vanish.
    centred_PG = rewards_PG.double() - rewards_PG.double().mean(dim=1, keepdim=True)
    std_P = centred_PG.square().mean(dim=1).sqrt().masked_fill(no_variance_P, 1.0)
    advantages_PG = (centred_PG / std_P[:, None]).masked_fill(no_variance_P[:, None], 0.0)
    return advantages_PG.to(rewards_PG.dtype), no_variance_P


def _without_variance(rewards_PG: Float[Tensor, "P G"]) -> Bool[Tensor, " P"]:
    low_P, high_P = rewards_PG.aminmax(dim=1)
    scale_P = torch.maximum(low_P.abs(), high_P.abs())
    return high_P - low_P <= ROUNDING_ULPS * torch.finfo(rewards_PG.dtype).eps * scale_P
