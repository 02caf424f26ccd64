"""Checkpoints and pickled plans of others, read without running anything that they bring along."""

from __future__ import annotations

import collections
import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.importing.problem import ImportProblem
from pipeline.records import Array

_NUMPY_ARRAYS = {"_reconstruct": ("multiarray",), "scalar": ("multiarray",), "_frombuffer": ("numeric",)}
_PLAIN = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("collections", "defaultdict"): collections.defaultdict,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("builtins", "list"): list,
    ("builtins", "dict"): dict,
    ("builtins", "tuple"): tuple,
    ("builtins", "int"): int,
    ("builtins", "float"): float,
    ("builtins", "bool"): bool,
    ("builtins", "complex"): complex,
    ("builtins", "slice"): slice,
    ("builtins", "range"): range,
    ("builtins", "bytearray"): bytearray,
    ("_codecs", "encode"): None,
}


class _PlainUnpickler(pickle.Unpickler):
    """Knows numpy arrays and plain containers; any other name ends the reading before anything is called."""

    def find_class(self, module: str, name: str) -> Any:
        module = {"__builtin__": "builtins"}.get(module, module)
        if (module, name) == ("_codecs", "encode"):
            return _latin
        if (module, name) in _PLAIN:
            return _PLAIN[(module, name)]
        for library in ("numpy.core", "numpy._core"):
            for attribute_name in _NUMPY_ARRAYS.get(name, ()):
                if module == f"{library}.{attribute_name}":
                    core = np._core  # type: ignore[attr-defined]  # noqa: SLF001
                    return getattr(getattr(core, attribute_name), name)
        if (
            module == "numpy"
            and isinstance(getattr(np, name, None), type)
            and issubclass(getattr(np, name), np.generic)
        ):
            return getattr(np, name)
        raise ImportProblem(
            f"the pickle asks for {module}.{name}; only numpy arrays and plain containers are "
            "read, nothing was run"
        )


def _latin(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise ImportProblem(f"the pickle asks for the encoding {encoding!r}; only latin1 is read")
    return text.encode("latin1")


def read_pickle(path: Path) -> Any:
    """Read a pickle of plain data.

    Raises
    ------
    ImportProblem
        It names a class that is not plain data (nothing is run), or is no pickle.
    """
    try:
        return _PlainUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except ImportProblem as problem:
        raise ImportProblem(f"{path.name}: {problem}") from None
    except Exception as problem:  # noqa: BLE001 - a broken pickle raises nearly anything
        raise ImportProblem(f"{path.name} cannot be read as a pickle: {type(problem).__name__}") from None


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """One fold: its weights by name (float32), the trainer's name.

    The configuration and the axes that it may be mirrored along.
    """

    arrays: Mapping[str, Array]
    trainer: str
    configuration: str
    mirror_axes: tuple[int, ...]


def read_checkpoint_v2(path: Path) -> Checkpoint:
    """Read a v2 checkpoint (`checkpoint_final.pth`) with `weights_only=True`.

    Raises
    ------
    ImportProblem
        It holds foreign classes (nothing is run), or is no v2 checkpoint.
    """
    content = _load(path)
    try:
        axes = content.get("inference_allowed_mirroring_axes") or ()
        return Checkpoint(
            _arrays(content["network_weights"], path),
            str(content["trainer_name"]),
            str(content["init_args"]["configuration"]),
            tuple(int(axis) for axis in axes),
        )
    except (KeyError, TypeError, AttributeError) as problem:
        raise ImportProblem(f"{path.name} is no nnU-Net v2 checkpoint: {problem} is missing") from None


def read_weights_v1(path: Path) -> dict[str, Array]:
    """Read the weights of a v1 checkpoint (`model_final_checkpoint.model`) with `weights_only=True`.

    Raises
    ------
    ImportProblem
        It holds foreign classes (nothing is run), or is no v1 checkpoint.
    """
    content = _load(path)
    if not isinstance(content, dict) or "state_dict" not in content:
        raise ImportProblem(f"{path.name} is no nnU-Net v1 checkpoint: it has no state_dict")
    return _arrays(content["state_dict"], path)


def _load(path: Path) -> Any:
    import torch

    scalar = np._core.multiarray.scalar  # type: ignore[attr-defined]  # noqa: SLF001
    reconstruct = np._core.multiarray._reconstruct  # type: ignore[attr-defined]  # noqa: SLF001
    kinds = [type(np.dtype(code)) for code in "?bhilqBHILQefdO"]
    plain: list[Any] = [np.ndarray, np.dtype, *kinds, scalar, reconstruct]
    # Older numpy wrote these two under its former name.
    plain += [(scalar, "numpy.core.multiarray.scalar"), (reconstruct, "numpy.core.multiarray._reconstruct")]
    try:
        with torch.serialization.safe_globals(plain):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ImportProblem(f"{path} is missing") from None
    except pickle.UnpicklingError as problem:
        text = str(problem)
        named = (
            text.split("GLOBAL ", 1)[-1].split(" ", 1)[0] if "GLOBAL " in text else text.splitlines()[0][:200]
        )
        raise ImportProblem(f"{path.name} holds what is not weights: {named}; nothing was run") from None
    except Exception as problem:  # noqa: BLE001 - a broken file raises nearly anything
        raise ImportProblem(f"{path.name} cannot be read as a checkpoint: {type(problem).__name__}") from None


def _arrays(weights: Any, path: Path) -> dict[str, Array]:
    import torch

    arrays: dict[str, Array] = {}
    for name, tensor in weights.items():
        if not isinstance(tensor, torch.Tensor):
            raise ImportProblem(f"{path.name}: the weight {name!r} is no tensor")
        array = tensor.to(torch.float32).numpy()
        if not np.isfinite(array).all():
            raise ImportProblem(f"{path.name}: the weight {name!r} has NaN or infinite values")
        arrays[str(name)] = array
    return arrays
