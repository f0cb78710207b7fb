"""The trainable model on this rank: Megatron-Core chunks, their optimizer, and a few verbs.

Every rank of the run holds a `Policy` and calls the same verbs in the same order; each verb returns the
same values on every rank, in the order of the samples given, whatever the layout.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.distributed import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from megatron.core.optimizer import OptimizerConfig as MegatronOptimizerConfig
from megatron.core.optimizer import get_megatron_optimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

from r1mega.config import Config, OptimizerConfig
from r1mega.grpo.packing import pack
from r1mega.guard import Guard
from r1mega.model.build import DTYPES, build_models, megatron_config
from r1mega.model.family import family_of
from r1mega.model.rows import Row, Sample, make_row
from r1mega.model.scalar import HEAD
from r1mega.parallel.groups import device
from r1mega.parallel.plan import Plan
from r1mega.weights import folder, megatron_folder
from r1mega.weights.pieces import Shard, local_pieces
from r1mega.weights.source import MegatronSource
from r1mega.weights.table import Served, all_hf_names

TokenLoss = Callable[[Tensor, Mapping[str, Tensor]], tuple[Tensor, dict[str, Tensor]]]
"""From `logps_T` and the row's named values to a loss and metrics, each a sum over the row's tokens
such that the sums over all rows of all ranks are the figures of the whole mini-batch."""


class Policy:
    """A model in a training layout."""

    def __init__(
        self,
        config: Config,
        hf: dict[str, Any],
        plan: Plan,
        *,
        fresh: bool = True,
        trainable: bool = True,
    ) -> None:
        """Build this rank's part; Megatron's groups must be open.

        Args:
            hf: the model's HF fields.
            fresh: draw its weights; else they are Megatron's, which differ by layout, until some are loaded.
            trainable: have room for gradients; else it only scores, and is a third the size in bf16.
        """
        self.hf = hf
        self.family = family_of(hf)
        self.plan = plan
        self.tokens_per_microbatch = config.train.tokens_per_microbatch
        self.dtype = DTYPES[config.precision.dtype]
        self.device = device()
        self.megatron_config = megatron_config(config, hf, plan)
        self.chunks = self._build_chunks(trainable)
        self.pieces = local_pieces(
            (chunk.module for chunk in self.chunks), self.family.weight_table(hf), Shard.here()
        )
        if fresh:
            self._draw(config.seed)
        self.source = MegatronSource(self.pieces)
        self.guard_config = config.guard
        self.version = 0
        """How many updates the weights have had, over all courses."""

    def _build_chunks(self, trainable: bool) -> list[DistributedDataParallel]:
        models = [model.to(self.device) for model in build_models(self.megatron_config, self.hf, self.plan)]
        for model in models:
            _mark_experts(model)
            # Megatron's wrapper allocates room for the gradients of those that ask for one.
            model.requires_grad_(trainable)
        ddp = DistributedDataParallelConfig(use_distributed_optimizer=True, grad_reduce_in_fp32=True)
        chunks = [
            DistributedDataParallel(self.megatron_config, ddp, model, disable_bucketing=number > 0)
            for number, model in enumerate(models)
        ]
        for chunk in chunks:
            chunk.broadcast_params()
        self.megatron_config.finalize_model_grads_func = finalize_model_grads
        return chunks

    # Weights

    def _draw(self, seed: int) -> None:
        """Fresh matrices, each from a generator of its own: the same in every layout, no two alike.

        Megatron on CPU starts each rank's generator alike, so the experts of two ranks would be twins.
        """
        std = self.family.read(self.hf)["initializer_range"]
        for place, part in ((piece.place, piece.tensor) for piece in self.pieces if piece.tensor.dim() > 1):
            digest = hashlib.sha256(f"{seed}/{place.name}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)
            part.copy_(place.of(torch.empty(place.shape).normal_(std=std, generator=generator)))

    def load(self, path: Path, progress: folder.Progress | None = None) -> None:
        """Take the weights of an HF folder.

        Raises:
            FolderError: on every rank; the folder's tensors are not this model's, every difference by name.
        """
        folder.read(path, self.pieces, self.source.metadata(), self.family.copies(self.hf), progress)

    def load_trunk(self, path: Path, hf: dict[str, Any]) -> None:
        """Take a causal model's weights but for its head and draft layers; the scalar head stays as it is.

        Args:
            path: the causal model's HF folder.
            hf: its HF fields.

        Raises:
            FolderError: on every rank; the folder's tensors are not that model's, every difference by name.
        """
        spare = all_hf_names(self.family.weight_table(hf)) - all_hf_names(self.family.weight_table(self.hf))
        folder.read(
            path,
            [piece for piece in self.pieces if piece.place.name != HEAD],
            [meta for meta in self.source.metadata() if meta.name != HEAD],
            self.family.copies(hf),
            spare=spare,
        )

    def export(
        self,
        path: Path,
        *,
        beside: Sequence[Path] = (),
        fp8_blocks: bool = False,
        file_bytes: int = folder.FILE_BYTES,
        progress: folder.Progress | None = None,
    ) -> None:
        """Write the weights as an HF folder.

        Args:
            beside: files to copy into it, such as the tokenizer's.
            fp8_blocks: in DeepSeek's FP8 instead of this policy's dtype; see `r1mega.weights.fp8`.
            file_bytes: where the files are cut.

        Raises:
            FolderError: on every rank; the folder is there and not empty.
        """
        # A tied head is left out, as transformers does.
        tied = self.family.read(self.hf)["tie_word_embeddings"]
        folder.write(
            path,
            self.source,
            self._checkpoint_config(),
            {} if tied else self.family.copies(self.hf),
            beside=beside,
            fp8_blocks=fp8_blocks,
            file_bytes=file_bytes,
            progress=progress,
        )

    def save(self, path: Path, beside: Sequence[Path] = ()) -> None:
        """Write the weights as Megatron's distributed checkpoint, each rank its own part.

        Args:
            beside: files to copy into it, such as the tokenizer's.

        Raises:
            FolderError: on every rank; the folder is there and not empty.
        """
        megatron_folder.save(path, [chunk.module for chunk in self.chunks], self._checkpoint_config(), beside)

    def restore(self, path: Path) -> None:
        """Take the weights of Megatron's distributed checkpoint, whatever layout it was saved under.

        Raises:
            FolderError: on every rank; the checkpoint is not this model's, every difference by name.
        """
        megatron_folder.load(path, [chunk.module for chunk in self.chunks])

    def _checkpoint_config(self) -> dict[str, Any]:
        """The config.json of what this policy writes, in its own dtype."""
        # What the folder that the fields came from said of its own weights' dtype is not said again.
        hf = {name: self.hf[name] for name in self.hf.keys() - {"dtype", "quantization_config"}}
        return self.family.checkpoint_config(hf, str(self.dtype).removeprefix("torch."))

    def snapshot(self) -> list[Tensor]:
        """A copy of this rank's weights, router bias included, for `using` later."""
        return [piece.tensor.clone() for piece in self.pieces]

    @contextmanager
    def using(self, snapshot: Sequence[Tensor]) -> Iterator[None]:
        """Within it the policy has the snapshot's weights; after it, its own again, bit for bit."""
        own = self.snapshot()
        self._put(snapshot)
        try:
            yield
        finally:
            self._put(own)

    def _put(self, weights: Sequence[Tensor]) -> None:
        for piece, weight in zip(self.pieces, weights, strict=True):
            piece.tensor.copy_(weight)

    # Training

    def start_training(self, optimizer: OptimizerConfig, updates: int) -> None:
        """Begin a course of so many updates: fresh optimizer state, schedule from its start."""
        self.optimizer = get_megatron_optimizer(
            MegatronOptimizerConfig(
                optimizer="adam",
                lr=optimizer.lr,
                min_lr=optimizer.lr * optimizer.min_lr_ratio,
                weight_decay=optimizer.weight_decay,
                adam_beta1=optimizer.betas[0],
                adam_beta2=optimizer.betas[1],
                adam_eps=optimizer.eps,
                clip_grad=optimizer.clip_grad_norm,
                bf16=self.dtype == torch.bfloat16,
                params_dtype=self.dtype,
                use_distributed_optimizer=True,
            ),
            self.chunks,
            use_gloo_process_groups=False,
        )
        self.megatron_config.grad_scale_func = self.optimizer.scale_loss
        self.schedule = OptimizerParamScheduler(
            self.optimizer,
            init_lr=0.0,
            max_lr=optimizer.lr,
            min_lr=optimizer.lr * optimizer.min_lr_ratio,
            lr_warmup_steps=min(optimizer.warmup_updates, updates - 1),
            lr_decay_steps=updates,
            lr_decay_style="cosine",
            start_wd=optimizer.weight_decay,
            end_wd=optimizer.weight_decay,
            wd_incr_steps=0,
            wd_incr_style="constant",
        )
        self.guard = Guard(
            spike_ratio=self.guard_config.spike_ratio,
            stop_after=self.guard_config.stop_after,
            clip_grad_norm=optimizer.clip_grad_norm,
        )

    def training_state(self) -> dict[str, Any]:
        """What the course has besides tensors, as JSON; the same on every rank."""
        return {"version": self.version, "steps": self.schedule.num_steps, "guard": self.guard.state()}

    def take_training_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a `training_state`, in a course begun alike; the tensors are put in elsewhere."""
        self.version = state["version"]
        self.schedule.step(increment=state["steps"])
        self.guard.take(state["guard"])

    def update(
        self,
        samples: Sequence[Sample],
        values: Mapping[str, Sequence[Tensor]],
        loss: TokenLoss,
        mtp_loss_weight: float,
        temperature: float = 1.0,
    ) -> dict[str, float]:
        """One optimizer step on the samples; moves the router's bias too.

        Where the gradient would do harm (`r1mega.guard`), nothing is moved: weights, bias, optimizer and
        schedule are as before.

        Args:
            values: named values of answer tokens, one tensor of [answer tokens] a sample.
            loss: the token loss; see `TokenLoss`.
            mtp_loss_weight: weight of the multi-token-prediction loss; 0 leaves those layers as they are.
            temperature: at which the answers were sampled, and their log-probs are taken.

        Returns:
            The loss's metrics, the gradient's norm, the learning rate, and whether it was `skipped`.

        Raises:
            DivergedError: on every rank; too many updates in a row were skipped.
        """
        # Without their loss the draft layers' gradients are zero, but decay and router bias would move them.
        still = [] if mtp_loss_weight else [one for one in self.pieces if one.place.served is Served.draft]
        kept = [piece.tensor.clone() for piece in still]
        # The backward pass moves the router's bias.
        buffers = [buffer for chunk in self.chunks for buffer in chunk.module.buffers()]
        buffers_before = [buffer.clone() for buffer in buffers]
        metrics = self.backward(samples, values, loss, mtp_loss_weight, temperature)
        lr = self.optimizer.param_groups[0]["lr"]
        # Megatron's step does the same again, a pass over the gradients; but it has no way back.
        self.optimizer.prepare_grads()
        grad_norm = float(self.optimizer.get_grad_norm())
        skipped = self.guard.against(grad_norm) is not None
        if skipped:
            for buffer, before in zip(buffers, buffers_before, strict=True):
                buffer.copy_(before)
        else:
            self.optimizer.step()
            for piece, weight in zip(still, kept, strict=True):
                piece.tensor.copy_(weight)
            self.schedule.step(increment=1)
            self.version += 1
        return metrics | {"grad_norm": grad_norm, "lr": lr, "skipped": float(skipped)}

    def backward(
        self,
        samples: Sequence[Sample],
        values: Mapping[str, Sequence[Tensor]],
        loss: TokenLoss,
        mtp_loss_weight: float,
        temperature: float = 1.0,
    ) -> dict[str, float]:
        """The gradients of the loss, summed over all ranks, into Megatron's buffers; see `update`."""
        rows = self._rows(samples, values)
        # Megatron averages over micro-batches and data-parallel ranks; the loss's sums are whole already.
        # It averages the draft layers' loss over context-parallel ranks too, and sums the other.
        scale = len(rows) * self.plan.dp
        draft_scale = scale * self.plan.cp / sum(sample.answer_tokens for sample in samples)
        for chunk in self.chunks:
            chunk.zero_grad_buffer()
            chunk.train()
            chunk.module.config.mtp_loss_scaling_factor = mtp_loss_weight * draft_scale
        self.optimizer.zero_grad()
        outputs = self._run(rows, partial(_scaled_loss, loss, scale), temperature, forward_only=False)
        return self._sum_over_ranks(outputs)

    def score(self, samples: Sequence[Sample], temperature: float) -> list[Tensor]:
        """Log-probs of the answers' tokens, one tensor of [answer tokens] a sample, on the CPU."""
        for chunk in self.chunks:
            chunk.eval()
        rows = self._rows(samples, {})
        with torch.no_grad():
            outputs = self._run(rows, _token_logps, temperature, forward_only=True)
        return self._whole_scores(samples, rows, outputs)

    def _rows(self, samples: Sequence[Sample], values: Mapping[str, Sequence[Tensor]]) -> list[Row]:
        """This data-parallel rank's share of the samples, packed."""
        packs = pack(
            [self.plan.padded(len(sample.tokens)) for sample in samples],
            self.tokens_per_microbatch,
            self.plan.dp,
            self.plan.row_multiple,
            self.plan.rows_multiple,
        )
        mine = packs[parallel_state.get_data_parallel_rank()]
        cp_rank = parallel_state.get_context_parallel_rank()
        return [make_row(samples, indices, values, self.plan, cp_rank, self.device) for indices in mine]

    def _run(
        self, rows: Sequence[Row], loss: Callable[..., Any], temperature: float, *, forward_only: bool
    ) -> list[Any]:
        """Megatron's schedule over the rows; what `loss` returned for each, on the last stage."""
        for chunk in self.chunks:
            chunk.module.temperature = temperature
        iterators = [iter(rows) for _ in self.chunks]
        return get_forward_backward_func()(
            forward_step_func=partial(_forward_step, loss),
            data_iterator=iterators if len(iterators) > 1 else iterators[0],
            model=self.chunks if len(self.chunks) > 1 else self.chunks[0],
            num_microbatches=len(rows),
            # Rows differ in length; Megatron sends each one's shape between stages.
            seq_length=self.tokens_per_microbatch,
            micro_batch_size=1,
            forward_only=forward_only,
        )

    def _sum_over_ranks(self, outputs: list[dict[str, Tensor]]) -> dict[str, float]:
        """Metrics summed over rows, data- and context-parallel ranks, from the last stage to all."""
        names: list[Any] = [list(outputs[0]) if outputs else None]
        last = parallel_state.get_pipeline_model_parallel_last_rank()
        group = parallel_state.get_pipeline_model_parallel_group()
        dist.broadcast_object_list(names, src=last, group=group)
        sums = torch.zeros(len(names[0]), dtype=torch.float64, device=self.device)
        for output in outputs:
            sums += torch.stack([output[name].double() for name in names[0]])
        dist.all_reduce(sums, group=parallel_state.get_data_parallel_group(with_context_parallel=True))
        dist.broadcast(sums, src=last, group=group)
        return dict(zip(names[0], sums.tolist(), strict=True))

    def _whole_scores(
        self, samples: Sequence[Sample], rows: Sequence[Row], outputs: list[Tensor]
    ) -> list[Tensor]:
        lengths = [sample.answer_tokens for sample in samples]
        flat = torch.zeros(sum(lengths), device=self.device)
        views = flat.split(lengths)
        # Tensor-parallel ranks hold the same scores; one of them counts.
        if parallel_state.get_tensor_model_parallel_rank() == 0:
            for row, logps_T in zip(rows, outputs, strict=bool(outputs)):
                # Zeros stand for what the other context-parallel ranks hold; all are summed below.
                whole = logps_T.new_zeros(row.whole_tokens).index_copy(0, row.places_T, logps_T)
                for index, (start, stop) in zip(row.samples, row.spans, strict=True):
                    views[index].copy_(whole[start:stop])
        dist.all_reduce(flat)
        return list(flat.cpu().split(lengths))


def _mark_experts(model: torch.nn.Module) -> None:
    """Have experts' gradients summed over the ranks that share them.

    Megatron marks experts so only where `ep` is above 1; but an expert whose `etp` is not the rest's `tp` has
    other copies than the rest too.
    """
    for name, parameter in model.named_parameters():
        if ".experts." in name:
            parameter.allreduce = False  # type: ignore[attr-defined]


def _forward_step(loss: Callable[..., Any], rows: Iterator[Row], chunk: DistributedDataParallel) -> Any:
    row = next(rows)
    # Megatron's auxiliary loss is a mean over tokens, which over none of them would be NaN.
    masked = bool(row.samples) or not chunk.config.moe_aux_loss_coeff
    token_losses_1T = chunk(
        row.tokens_1T,
        row.positions_1T,
        None,
        labels=row.labels_1T,
        loss_mask=row.answer_mask_1T,
        packed_seq_params=row.packed,
        padding_mask=row.padding_1T if masked else None,
    )
    return token_losses_1T, partial(loss, row)


def _scaled_loss(
    loss: TokenLoss, scale: int, row: Row, token_losses_1T: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    value, metrics = loss(-token_losses_1T[0], row.values_T)
    return value * scale, metrics


def _token_logps(row: Row, token_losses_1T: Tensor) -> tuple[Tensor, Tensor]:
    return token_losses_1T.new_zeros(()), -token_losses_1T[0].float()
