"""What a policy's training state is made of, in Megatron's words, whole tensors under layout-free names.

Weights with the router's bias, the reference's weights, and of each trained parameter the optimizer's
fp32 value and moments. Under another layout the same names mean the same tensors, so a state saved under
one is read under any.

Megatron's own description of an optimizer's state also lists parameter groups, in an order that differs
between a rank with experts and one without; ours leaves them out: what they hold (learning rate, number of
steps) is the same everywhere and goes into `state.json`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.dict_utils import dict_list_map_inplace
from megatron.core.dist_checkpointing.mapping import ShardedBase, ShardedTensor, ShardedTensorFactory
from megatron.core.dist_checkpointing.utils import add_prefix_for_sharding
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.transformer.utils import ensure_metadata_has_dp_cp_group
from torch import Tensor

from r1mega.policy import Policy
from r1mega.weights.megatron_folder import sharded_weights

_METADATA = {"distrib_optim_sharding_type": "fully_reshardable"}


def describe(policy: Policy, reference: Sequence[Tensor] | None, *, loading: bool) -> dict[str, Any]:
    """The state of the policy in training, for Megatron to save, or to fill in when `loading`.

    Args:
        reference: this rank's weights of the reference, as `Policy.snapshot` gives them; None: the run
            has none.
    """
    modules = [chunk.module for chunk in policy.chunks]
    weights = sharded_weights(modules)
    state: dict[str, Any] = {"weights": weights}
    metadata = ensure_metadata_has_dp_cp_group(dict(_METADATA))
    for number, optimizer in enumerate(_optimizers(policy)):
        if loading:
            optimizer._init_optimizer_states_with_dummy_values()
        state[f"optimizer{number}"] = optimizer.sharded_param_state_fully_reshardable(
            weights, loading, metadata
        )
    if reference is not None:
        with policy.using(reference):
            state["reference"] = _copied(sharded_weights(modules))
        add_prefix_for_sharding(state["reference"], "reference.")
    return state


def restore(policy: Policy, folder: Path, steps: int, *, with_reference: bool) -> list[Tensor] | None:
    """Give the policy a state that was saved, under whatever layout; its course must have begun alike.

    Args:
        steps: how many steps the optimizer had made.
        with_reference: the state has one.

    Returns:
        The reference's weights on this rank, if there is one.
    """
    wanted = describe(policy, policy.snapshot() if with_reference else None, loading=True)
    loaded = dist_checkpointing.load(wanted, str(folder))
    _load(policy, loaded["weights"])
    reference = None
    if with_reference:
        # Megatron reads most tensors into the described ones themselves: what was read of the weights is by
        # now the policy's own, and is kept aside while the reference is put in its place.
        with policy.using(policy.snapshot()):
            _load(policy, loaded["reference"])
            reference = policy.snapshot()
    for number, optimizer in enumerate(_optimizers(policy)):
        with _steps_apart(optimizer, steps):
            # What describes no tensor, that of a stage without experts, is not read.
            optimizer.load_parameter_state_from_fully_reshardable(loaded.get(f"optimizer{number}", {}))
    return reference


def _load(policy: Policy, weights: dict[str, Any]) -> None:
    for number, chunk in enumerate(policy.chunks):
        chunk.module.load_state_dict(weights[f"model{number}"], strict=False)


def _optimizers(policy: Policy) -> list[DistributedOptimizer]:
    """Megatron's optimizers of this rank, of the parameters that are dense and of the experts."""
    chained = policy.optimizer.chained_optimizers
    return [one for one in chained if isinstance(one, DistributedOptimizer) and not one.is_stub_optimizer]


@contextmanager
def _steps_apart(optimizer: DistributedOptimizer, steps: int) -> Iterator[None]:
    """Within it the optimizer's state is moments alone, as Megatron expects; after it, it has its steps.

    They are how far Adam's bias correction is. torch counts them by parameter, as a tensor beside the
    moments; Transformer Engine and Apex by group.
    """
    of_parameters = optimizer.optimizer.state.values()
    counting = [state for state in of_parameters if state.pop("step", None) is not None]
    yield
    for state in counting:
        state["step"] = torch.tensor(float(steps))
    for group in optimizer.optimizer.param_groups:
        if "step" in group:
            group["step"] = steps


def _copied(weights: dict[str, Any]) -> dict[str, Any]:
    """The same description with tensors of its own."""

    def copy(value: Any) -> Any:
        if isinstance(value, ShardedTensor | ShardedTensorFactory):
            return replace(value, data=value.data.detach().clone())
        assert not isinstance(value, ShardedBase), value
        return value

    dict_list_map_inplace(copy, weights)
    return weights
