"""Transformer Engine without its kernels: modules of its names that take what the pinned release takes.

Made of a file that tools/te_signatures.py wrote. A class binds its arguments to the release's signature, so
a keyword that the release does not have raises; the layers that our specs use also register the weights that
theirs register, under those names and marks (transformer_engine/pytorch/module/*.py). With it Megatron takes
the way that it takes on a GPU and builds its models, which cannot compute.
"""

from __future__ import annotations

import importlib.machinery
import inspect
import json
import sys
import types
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

DATA = Path(__file__).resolve().parents[1] / "data"
ROOT = "transformer_engine"
Arguments = Mapping[str, Any]


def install(release: str) -> None:
    """Put it where `import transformer_engine` finds it, before Megatron is imported."""
    signatures = json.loads((DATA / f"te_{release.replace('.', '_')}_signatures.json").read_text())
    _module(ROOT).__version__ = release  # type: ignore[attr-defined]
    for name, signature in sorted(signatures.items()):
        if signature is not None and not name.endswith("()"):
            _put(name, signature)
    for name in list(sys.modules):
        if name.startswith(f"{ROOT}."):
            above, _, last = name.rpartition(".")
            setattr(sys.modules[above], last, sys.modules[name])


def _module(name: str) -> types.ModuleType:
    if name not in sys.modules:
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        module.__path__ = []
        sys.modules[name] = module
        if "." in name:
            _module(name.rpartition(".")[0])
    return sys.modules[name]


def _put(name: str, signature: dict[str, Any]) -> None:
    above, _, last = name.rpartition(".")
    if above.rpartition(".")[2][0].isupper():  # a member of a class, such as a number format
        _put(above, {"parameters": [], "ignores_unknown": False})
        owner: Any = getattr(_module(above.rpartition(".")[0]), above.rpartition(".")[2])
    else:
        owner = _module(above)
    if not hasattr(owner, last):
        setattr(owner, last, _class(last, signature) if last[0].isupper() else _function(last))


def _function(name: str) -> Callable[..., Any]:
    if name == "get_cpu_offload_context":  # Megatron asks for it while it builds
        return lambda *arguments, **named: (nullcontext(), None)

    def unable(*arguments: Any, **named: Any) -> Any:
        raise NotImplementedError(f"{name} computes on a GPU alone")

    return unable


def _class(name: str, signature: dict[str, Any]) -> type:
    bound, lenient = _signature(signature["parameters"]), signature["ignores_unknown"]

    def __init__(self: Any, *arguments: Any, **named: Any) -> None:  # noqa: N807
        torch.nn.Module.__init__(self)
        known = {key: value for key, value in named.items() if key in bound.parameters or not lenient}
        given = bound.bind(*arguments, **known)
        given.apply_defaults()
        if "save_original_input" in given.arguments:
            self.save_original_input = given.arguments["save_original_input"]
        _REGISTER.get(name, lambda module, its: None)(self, given.arguments)

    return type(name, (torch.nn.Module,), {"__init__": __init__})


def _signature(parameters: list[list[str]]) -> inspect.Signature:
    """Those without a default first; of a name that a class and its base have, the class's."""
    made: dict[str, inspect.Parameter] = {}
    for name, kind, default in parameters:
        how = inspect.Parameter.KEYWORD_ONLY if kind == "keyword" else inspect.Parameter.POSITIONAL_OR_KEYWORD
        value = inspect.Parameter.empty if default is None else _value(default)
        made.setdefault(name, inspect.Parameter(name, how, default=value))
    return inspect.Signature(
        sorted(made.values(), key=lambda one: (one.kind, one.default is not inspect.Parameter.empty))
    )


def _value(default: str) -> Any:
    return {"True": True, "False": False, "1": 1}.get(default)


def _weight(module: Any, name: str, its: Arguments, *shape: int, split: int | None = 0) -> None:
    weight = torch.nn.Parameter(torch.empty(shape, dtype=its["params_dtype"] or torch.float32))
    if split is not None:
        weight.tensor_model_parallel = True  # type: ignore[attr-defined]
        weight.partition_dim, weight.partition_stride = split, 1  # type: ignore[attr-defined]
    module.register_parameter(name, weight)


def _sides(its: Arguments) -> tuple[tuple[int, int], int]:
    """A linear's shape on a rank, and the dimension that is marked as split: the first, but of `row`."""
    rows, columns, ranks = its["out_features"], its["in_features"], its["tp_size"]
    if its["parallel_mode"] == "row":
        return (rows, columns // ranks), 1
    return (rows // (ranks if its["parallel_mode"] == "column" else 1), columns), 0


def _linear(module: Any, its: Arguments) -> None:
    shape, split = _sides(its)
    _weight(module, "weight", its, *shape, split=split)
    if its["bias"]:
        _weight(module, "bias", its, shape[0], split=0 if its["parallel_mode"] == "column" else None)
    module.parallel_mode = its["parallel_mode"]
    module.in_features, module.out_features, module.use_bias = shape[1], shape[0], its["bias"]


def _norm_linear(module: Any, its: Arguments) -> None:
    _weight(module, "layer_norm_weight", its, its["in_features"], split=None)
    _linear(module, its)


def _grouped_linear(module: Any, its: Arguments) -> None:
    shape, split = _sides(its)
    for number in range(its["num_gemms"]):
        _weight(module, f"weight{number}", its, *shape, split=split)


def _norm(module: Any, its: Arguments) -> None:
    # `hidden_size` is the name that it had before 2.0, and still takes.
    size = its["normalized_shape"] if its["normalized_shape"] is not None else its["hidden_size"]
    _weight(module, "weight", its, size, split=None)


_REGISTER: dict[str, Callable[[Any, Arguments], None]] = {
    "Linear": _linear,
    "LayerNormLinear": _norm_linear,
    "GroupedLinear": _grouped_linear,
    "RMSNorm": _norm,
}
