"""The losses of reward models, each with its derivative by the scores.

A loss couples texts that packing may lay into different rows, on different ranks: a pair's two answers.
The gradient by the weights theta is still a sum over single texts, by the chain rule:

    dL / dtheta = sum over texts i of c_i * dr_i / dtheta,    c_i = dL / dr_i,

and the c_i need nothing but the scores r. So the trainer scores the mini-batch first, and then updates
under the loss sum_i c_i * r_i with the c_i held constant. It is linear in the scores, each text's term
stands alone, and its gradient is that of L exactly, whatever the layout.

Guarantees: finite losses and coefficients for scores of any size; NaN stays NaN. Losses are one a pair or
a text; who averages over n of them divides losses and coefficients by n.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import softplus


class Judged(NamedTuple):
    """What scores are worth: of each of R rows, which has K texts."""

    losses_R: Float[Tensor, " R"]
    coefficients_RK: Float[Tensor, "R K"]
    """Derivative of the row's loss by the score of each of its texts."""
    margins_R: Float[Tensor, " R"]
    """How far the scores are on the right side; the row is told rightly where this is above 0."""


def pairwise(r_chosen_P: Float[Tensor, " P"], r_rejected_P: Float[Tensor, " P"]) -> Judged:
    """Bradley and Terry's loss of P pairs, -log sigmoid(m) with the margin m = r_chosen - r_rejected.

    sigmoid(m) is the model's probability that the chosen answer wins (Ouyang et al., arXiv 2203.02155,
    equation 1). As -log sigmoid(m) = softplus(-m), the derivative by m is -sigmoid(-m): that by r_chosen,
    and its negative that by r_rejected.

    A row's texts are (chosen, rejected).
    """
    margin_P = r_chosen_P - r_rejected_P
    by_margin_P = -torch.sigmoid(-margin_P)
    return Judged(softplus(-margin_P), torch.stack([by_margin_P, -by_margin_P], dim=1), margin_P)


def pointwise(r_B: Float[Tensor, " B"], is_safe_B: Bool[Tensor, " B"]) -> Judged:
    """Binary cross entropy of B texts, sigmoid(r) being the probability that a text is safe.

    With y = 1 where it is safe and 0 elsewhere, -y log sigmoid(r) - (1 - y) log sigmoid(-r) is
    softplus(-r) of a safe text and softplus(r) of another; the derivative of both is sigmoid(r) - y.
    The margin is r of a safe text and -r of another.
    """
    margin_B = torch.where(is_safe_B, r_B, -r_B)
    by_margin_B = -torch.sigmoid(-margin_B)
    by_r_B = torch.where(is_safe_B, by_margin_B, -by_margin_B)
    return Judged(softplus(-margin_B), by_r_B[:, None], margin_B)


def linear(
    r_T: Float[Tensor, " T"], values_T: Mapping[str, Tensor]
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
    """The update's loss: scores times their coefficients, which are 0 where no text ends.

    It is its own figure too, by which the two passes' scores can be compared.
    """
    coefficients_T = values_T["coefficients"]
    # What stands elsewhere must not count even where it is infinite.
    loss = (torch.where(coefficients_T != 0, r_T, 0.0) * coefficients_T).sum()
    return loss, {"linear": loss.detach()}
