"""How far the trainer's log-probs are from the sampler's, for the very tokens that were sampled.

Both sides hold the same weights, so whatever differs is kernels, layouts and precision. GRPO treats
the trainer's own log-probs as those of the sampling policy; these figures say how true that is.

Guarantees: values that are not finite come out as such. Refuses an empty set of tokens.
"""

from jaxtyping import Float
from torch import Tensor


def mismatch(trainer_logps_T: Float[Tensor, " T"], sampler_logps_T: Float[Tensor, " T"]) -> dict[str, float]:
    """Compare the log-probs, in nats, that both sides give to T sampled tokens.

    Returns `mean_abs_dlogp`, `max_abs_dlogp` and `k1`: the mean of sampler - trainer, which is the
    plain estimate of KL(sampler || trainer) from the sampler's own tokens (Schulman, "Approximating
    KL divergence"); being a difference of means it may be negative.

    Raises ValueError if there is no token.
    """
    if trainer_logps_T.numel() == 0:
        raise ValueError("no sampled token to compare")
    gap_T = sampler_logps_T.double() - trainer_logps_T.double()
    return {
        "mean_abs_dlogp": gap_T.abs().mean().item(),
        "max_abs_dlogp": gap_T.abs().max().item(),
        "k1": gap_T.mean().item(),
    }
