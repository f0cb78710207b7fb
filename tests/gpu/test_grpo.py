"""On one GPU: GRPO by the real command, engine and trainer on the same GPU, weights through vLLM's `ipc`.

`make gpu-test`, in an environment of locks/cu13.txt. Nobody has run it yet. Each test prints its figures as
one line of JSON, for docs/fp8.md.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from support.gpu import ON_GPU, ONE_BILLION_RUN, TINY_RUN, report, whole_run

pytestmark = ON_GPU

# The demo's latent attention is not of the size that vLLM has a kernel for; the numbers are alike without.
RUNS = {"tiny": (TINY_RUN, {"VLLM_MLA_DISABLE": "1"}), "one_billion": (ONE_BILLION_RUN, {})}
FIGURES = (
    *("timing_s/gen", "timing_s/update_actor", "timing_s/handover", "timing_s/step"),
    *("perf/throughput", "handover/max_abs_dlogp", "mismatch/mean_abs_dlogp", "critic/score/mean"),
)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", RUNS)
def test_grpo_runs_on_one_gpu(tmp_path: Path, name: str) -> None:
    overrides, env = RUNS[name]
    done, summary, rows = whole_run(tmp_path, name, *overrides, **env)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    report("grpo", model=name, figures=[{key: row[key] for key in FIGURES} for row in rows])
    assert "Extras: Transformer Engine" in done.stderr
    assert len(rows) == summary["train"]["rollouts"] == 3
    assert all(row["handover/max_abs_dlogp"] <= 0.1 for row in rows)
    assert all(row["mismatch/mean_abs_dlogp"] < 0.05 for row in rows)
