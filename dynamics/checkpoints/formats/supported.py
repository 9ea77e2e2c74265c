"""Formats of checkpoints that are recognised and not read, each with a remedy."""

from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class NamedFormat:
    """A format that is recognised and not read.

    Attributes:
        name: Name in messages.
        files: Patterns of file names, relative to the checkpoint, any of which identifies it.
        remedy: Advice on making it readable, as part of a message.
        magic: First bytes of such a file, empty when only its name identifies it.
        holds_parts: Whether other weights files in its folder are parts that must not be read
            alone.
    """

    name: str
    files: tuple[str, ...]
    remedy: str
    magic: bytes = b""
    holds_parts: bool = False


NAMED_FORMATS = (
    NamedFormat(
        "a PEFT adapter (LoRA and others), not a model",
        ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"),
        "load it with its base model and save what model.merge_and_unload() returns with "
        "save_pretrained",
        holds_parts=True,
    ),
    NamedFormat(
        "a DeepSpeed ZeRO checkpoint, partitioned over ranks",
        (
            "*zero_pp_rank_*_model_states.pt",
            "*zero_pp_rank_*_optim_states.pt",
            "*/*zero_pp_rank_*_states.pt",
            "zero_to_fp32.py",
        ),
        "run `python zero_to_fp32.py . OUT` in the folder that has this script, and give OUT",
    ),
    NamedFormat(
        "a checkpoint of GPT-NeoX or Megatron-DeepSpeed, split over layers or ranks",
        (
            "layer_*model_states.pt",
            "mp_rank_01_model_states.pt",
            "*/layer_*model_states.pt",
            "*/mp_rank_01_model_states.pt",
        ),
        "convert it to the transformers format with the converter of the training code "
        "(GPT-NeoX: tools/ckpts/convert_neox_to_hf.py)",
        holds_parts=True,
    ),
    NamedFormat(
        "a Megatron-LM checkpoint",
        (
            "model_optim_rng.pt",
            "mp_rank_*/*",
            "*/mp_rank_*",
            "latest_checkpointed_iteration.txt",
        ),
        "convert it to the transformers format with Megatron Bridge or Megatron-LM's "
        "tools/checkpoint/convert.py",
        holds_parts=True,
    ),
    NamedFormat(
        "a Meta checkpoint, split over ranks",
        ("consolidated.01.pth",),
        "convert it with transformers' convert_llama_weights_to_hf.py",
        holds_parts=True,
    ),
    NamedFormat(
        "a distributed checkpoint whose .metadata is missing, which a save writes last",
        ("*.distcp", "*/*.distcp"),
        "take a step whose save finished",
    ),
    NamedFormat(
        "shards without their index",
        ("*-00001-of-*.safetensors", "*-00001-of-*.bin", "*-of-*.safetensors", "*-of-*.bin"),
        "fetch or write the .index.json file that belongs to them",
        holds_parts=True,
    ),
    NamedFormat(
        "a GGUF file",
        ("*.gguf",),
        "convert it with `python scripts/convert_gguf.py FILE -o OUT`",
        magic=b"GGUF",
    ),
    NamedFormat(
        "TensorFlow weights",
        ("tf_model*.h5", "*.ckpt.index", "*.ckpt-*.index", "saved_model.pb", "*.h5", "*.keras"),
        "convert them with transformers 4: from_pretrained(FOLDER, from_tf=True), then "
        "save_pretrained",
        magic=b"\x89HDF",
    ),
    NamedFormat(
        "Flax weights",
        ("flax_model*.msgpack*", "*.msgpack"),
        "convert them with transformers 4: from_pretrained(FOLDER, from_flax=True), then "
        "save_pretrained",
    ),
    NamedFormat(
        "an Orbax checkpoint (JAX)",
        ("_CHECKPOINT_METADATA", "manifest.ocdbt", "*/manifest.ocdbt", "_METADATA"),
        "restore it with orbax and save the parameters with safetensors",
    ),
    NamedFormat(
        "an ONNX graph",
        ("*.onnx", "*/*.onnx"),
        "use the checkpoint that it was exported from",
    ),
    NamedFormat(
        "a NeMo archive",
        ("*.nemo",),
        "convert it to the transformers format with NeMo's exporter",
    ),
    NamedFormat(
        "a TorchScript archive, whose weights are part of a program",
        ("*/constants.pkl",),
        "save the state_dict() of the model with torch.save or safetensors",
    ),
    NamedFormat(
        "numpy arrays (MLX writes weights so)",
        ("weights.npz", "*.npz", "*.npy"),
        "save the arrays with safetensors (mlx.core.save_safetensors)",
        magic=b"\x93NUMPY",
    ),
)


def find_named_format(filenames: Collection[str]) -> tuple[NamedFormat, str] | None:
    """Find the first format identified by file names, and the file that identifies it.

    Args:
        filenames: Names relative to the checkpoint, with `/` between folders.

    Example:
        >>> find_named_format(["README.md", "model-Q4_K_M.gguf"])[1]
        'model-Q4_K_M.gguf'
    """
    for named in NAMED_FORMATS:
        for pattern in named.files:
            for filename in sorted(filenames):
                # A * must not match a /.
                if filename.count("/") == pattern.count("/") and fnmatchcase(filename, pattern):
                    return named, filename
    return None


def find_format_of_bytes(name: str, head: bytes) -> NamedFormat | None:
    """Find the format of one file by its first bytes, or else by its name.

    Args:
        name: Its name.
        head: Its first bytes.
    """
    for named in NAMED_FORMATS:
        if named.magic and head.startswith(named.magic):
            return named
    match = find_named_format([name])
    return match and match[0]
