"""A model bundle (`models/<name>/<version>/`): its files, their hashes, what it needs and what it promises.

Rules for this file:
1. A bundle is data: ONNX graphs (folds, planes, stages; none for an ensemble of other bundles), a TOML
   manifest, a card, pictures. Any other file in the folder refuses the bundle; nothing is unpickled.
2. What runs is what was hashed: the session is made of the checked bytes, not of the path, so weights outside
   the graph cannot come in.
"""

from __future__ import annotations

import functools
import hashlib
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.bundles.family import Family
from pipeline.bundles.manifest import GRAPH, MANIFEST, Manifest
from pipeline.bundles.reader import read_manifest
from pipeline.errors import BundleError
from pipeline.records import FloatArray, ModelIdentity

if TYPE_CHECKING:
    import onnxruntime

Families = Mapping[str, Family]
_ALLOWED_SUFFIXES = (".onnx", ".toml", ".md", ".png")


@dataclass(frozen=True)
class Bundle(Manifest):
    """One checked bundle.

    Everything that its manifest says, the folder that it lies in, and the bundles that an ensemble is made
    of.
    """

    folder: Path
    members: tuple[Bundle, ...] = ()

    @property
    def channels(self) -> tuple[str, ...]:
        """Channel roles in the order that the graph wants."""
        return self.input.channels

    @property
    def identity(self) -> ModelIdentity:
        """What every result says about the network."""
        return ModelIdentity(self.name, self.version, self.family, self.sha256, self.statement, self.licence)

    def graph_bytes(self, name: str = GRAPH) -> bytes:
        """Return a graph, after its hash was checked on the very bytes that are returned.

        Raises
        ------
        BundleError
            The file is missing or was altered.
        """
        data = _read(self.folder / name)
        if hashlib.sha256(data).hexdigest() != self.graphs[name]:
            raise BundleError(
                f"{self.folder / name}: the SHA-256 differs from the manifest's; install the bundle again",
                code="model-altered",
            )
        return data

    def takes(self, roles: Collection[str]) -> bool:
        """Return whether the network was trained for a combination that these roles can fill."""
        return any(set(combination) <= set(roles) for combination in self.input.accepts)

    def choose_channels(self, available: Collection[str]) -> tuple[str, ...]:
        """Return the largest trained combination that the available roles can fill, in channel order.

        Raises
        ------
        BundleError
            The network was not trained for what is there.
        """
        fitting = [combination for combination in self.input.accepts if set(combination) <= set(available)]
        if not fitting:
            combinations = " or ".join("+".join(combination) for combination in self.input.accepts)
            available_text = "+".join(sorted(available)) or "nothing"
            raise BundleError(
                f"{self.name} was trained for {combinations}; the study has {available_text}",
                code="channels-missing",
            )
        largest_combination = max(fitting, key=len)
        return tuple(channel for channel in self.channels if channel in largest_combination)


def load_bundle(folder: Path, families: Families) -> Bundle:
    """Read and check one bundle: manifest complete, only allowed files, hash right.

    The hash is remembered by the file's size and time, so a warm process does not read the graph again.

    Raises
    ------
    BundleError
        With code "model-missing", "model-manifest-invalid", "model-altered" or "model-unusable".
    """
    bundle = Bundle(**vars(read_manifest(folder / MANIFEST, families)), folder=folder)
    if (bundle.name, bundle.version) != (folder.parent.name, folder.name):
        raise BundleError(
            (
                f"{bundle.name}/{bundle.version} lies in {folder.parent.name}/{folder.name}; the "
                "folder must be called as the manifest says"
            ),
            code="model-manifest-invalid",
        )
    _check_files(folder, list(bundle.graphs))
    for name, digest in bundle.graphs.items():
        stat = (folder / name).stat()
        if _sha256(folder / name, stat.st_size, stat.st_mtime_ns) != digest:
            raise BundleError(
                f"{folder / name}: the SHA-256 differs from the manifest's; install the bundle again",
                code="model-altered",
            )
    return replace(bundle, members=_load_members(bundle, families))


def _load_members(bundle: Bundle, families: Families) -> tuple[Bundle, ...]:
    """Return the bundles of an ensemble, each as the manifest names it and fit to be asked in its stead.

    Raises
    ------
    BundleError
        One is missing, another than was named, or an ensemble itself, or none was trained for what the
        ensemble accepts.
    """
    models, members = bundle.folder.parent.parent, []
    for name, digest in bundle.family_spec.member_digests.items():
        if not (models / name / MANIFEST).exists():
            raise BundleError(
                f"{bundle.name} needs {name}, which is not in {models}; install it, or remove {bundle.name}",
                code="model-missing",
            )
        if read_manifest(models / name / MANIFEST, families).family_spec.member_digests:
            raise BundleError(
                f"{bundle.name}: its member {name} is an ensemble itself", code="model-manifest-invalid"
            )
        member = load_bundle(models / name, families)
        if member.sha256 != digest:
            raise BundleError(
                f"{bundle.name} was made with another {name}: the SHA-256 differs; install that one again",
                code="model-altered",
            )
        if member.task != bundle.task:
            raise BundleError(
                f"{bundle.name}: its member {name} was not trained for the task {bundle.task!r}",
                code="model-manifest-invalid",
            )
        members.append(member)
    trained = {
        frozenset(combination)
        for name, member in zip(bundle.family_spec.member_digests, members, strict=True)
        for combination in member.input.accepts
        if bundle.family_spec.asks(name, combination)
    }
    lacking = [combination for combination in bundle.input.accepts if frozenset(combination) not in trained]
    if members and lacking:
        raise BundleError(
            f"{bundle.name}: none of the members that it asks was trained for {'+'.join(lacking[0])}",
            code="model-manifest-invalid",
        )
    return tuple(members)


def list_bundles(models_dir: Path, families: Families) -> list[Bundle]:
    """Return every bundle below `models_dir`, by name, oldest version first.

    Raises
    ------
    BundleError
        One of them is not usable; the message names it.
    """
    folders = sorted(path.parent for path in models_dir.glob(f"*/*/{MANIFEST}"))
    return sorted(
        (load_bundle(folder, families) for folder in folders),
        key=lambda bundle: (bundle.name, _version_key(bundle.version)),
    )


def find_bundle(models_dir: Path, name: str, families: Families) -> Bundle:
    """Return the bundle "name/version", or the newest version of "name".

    Raises
    ------
    BundleError
        There is none, or it is not usable.
    """
    model, _, version = name.partition("/")
    folders = sorted(
        (path.parent for path in (models_dir / model).glob(f"*/{MANIFEST}")),
        key=lambda path: _version_key(path.name),
    )
    if version:
        folders = [folder for folder in folders if folder.name == version]
    if not model or not folders:
        raise BundleError(
            f"there is no model bundle {name!r} in {models_dir}; `dicomnode models list` shows what is there",
            code="model-missing",
        )
    return load_bundle(folders[-1], families)


def open_graph(
    bundle: Bundle, threads: int, name: str = GRAPH, *, cuda: bool = False
) -> onnxruntime.InferenceSession:
    """Return an ONNX Runtime session of the checked bytes on the CPU or on CUDA.

    The graph is compared with the manifest.

    Weights stored as Float16 are widened once, when the session folds its constants.

    Raises
    ------
    BundleError
        The file was altered, cannot be run, or disagrees with the manifest.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # A memory pattern is one more block for all of a run, beside those that the first run took: at 128^3
    # patches a whole gigabyte.
    options.enable_mem_pattern = False
    # Spinning threads take the core from the rest of the node between two runs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    graph = bundle.graph_bytes(name)
    provider = "CUDAExecutionProvider" if cuda else "CPUExecutionProvider"
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=[provider])
    except Exception as problem:  # noqa: BLE001 - ONNX Runtime's errors share no base class
        raise BundleError(
            f"{bundle.name}: ONNX Runtime cannot load {name}: {problem}", code="model-unusable"
        ) from None
    if session.get_providers()[0] != provider:
        raise BundleError(f"{bundle.name}: ONNX Runtime could not start {provider}", code="provider-missing")
    check_graph(
        bundle,
        name,
        {tensor.name: (tensor.type, tensor.shape) for tensor in session.get_inputs()},
        {tensor.name: (tensor.type, tensor.shape) for tensor in session.get_outputs()},
    )
    return session


def verify_bundle(bundle: Bundle) -> None:
    """Check hash and graph, and run the network once on a fixed input.

    What comes out must be finite, probabilities within 0..1.

    Raises
    ------
    BundleError
        Something is not as the manifest says.
    """
    for member in bundle.members or (bundle,):
        for name in member.graphs:
            _verify_graph(member, name)


def _verify_graph(bundle: Bundle, name: str) -> None:
    session = open_graph(bundle, 1, name)
    shape = (1, len(bundle.channels), *bundle.patch_of(name))
    ramp = np.linspace(0.0, 1.0, math.prod(shape), dtype=np.float32).reshape(shape)
    answer: FloatArray = session.run([bundle.output.name], {bundle.input.name: ramp})[0]
    if not np.isfinite(answer).all():
        raise BundleError(
            f"{bundle.name}: the network answers a fixed input with NaN or infinite values",
            code="model-output-not-finite",
        )
    if bundle.output.activation == "in-graph" and (answer.min() < 0 or answer.max() > 1):
        raise BundleError(
            f"{bundle.name}: the manifest promises probabilities, the graph gives "
            f"{answer.min():g} to {answer.max():g}"
        )


def check_graph(
    bundle: Bundle,
    name: str,
    inputs: Mapping[str, tuple[str, list[Any]]],
    outputs: Mapping[str, tuple[str, list[Any]]],
) -> None:
    """Hold the inputs and outputs of the graph `name` (name -> ONNX type, shape) against the manifest.

    A named axis fits any size.

    Raises
    ------
    BundleError
        They disagree.
    """
    patch = list(bundle.patch_of(name))
    _check_tensor(bundle, "input", inputs, bundle.input.name, [1, len(bundle.channels), *patch])
    _check_tensor(bundle, "output", outputs, bundle.output.name, [1, bundle.maps, *patch])


def _check_tensor(
    bundle: Bundle,
    kind: str,
    tensors: Mapping[str, tuple[str, list[Any]]],
    name: str,
    combinations: list[int],
) -> None:
    if set(tensors) != {name}:
        raise BundleError(
            f"{bundle.name}: the graph's {kind}s are {sorted(tensors)}, the manifest says {name!r}",
            code="model-graph-mismatch",
        )
    dtype, shape = tensors[name]
    fits = len(shape) == len(combinations) and all(
        available_text == size
        for available_text, size in zip(shape, combinations, strict=True)
        if isinstance(available_text, int)
    )
    if not fits or dtype != "tensor(float)":
        raise BundleError(
            (
                f"{bundle.name}: the graph's {kind} {name!r} is {dtype} {shape}, the manifest says "
                f"tensor(float) {combinations}"
            ),
            code="model-graph-mismatch",
        )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as problem:
        raise BundleError(f"{path} cannot be read: {problem.strerror}", code="model-missing") from None


def _check_files(folder: Path, combinations: list[str]) -> None:
    strange = sorted(
        path.name for path in folder.iterdir() if path.is_dir() or path.suffix not in _ALLOWED_SUFFIXES
    )
    if strange:
        raise BundleError(
            f"{folder} holds {strange}; a bundle is {', '.join(_ALLOWED_SUFFIXES)} files only",
            code="model-unusable",
        )
    graphs = sorted(path.name for path in folder.glob("*.onnx"))
    if graphs != sorted(combinations):
        raise BundleError(
            f"{folder} must hold the graphs {sorted(combinations)} and no other, it holds {graphs}",
            code="model-missing",
        )


@functools.lru_cache(maxsize=32)
def _sha256(path: Path, size_bytes: int, modified_ns: int) -> str:
    return hashlib.sha256(_read(path)).hexdigest()


def _version_key(version: str) -> tuple[tuple[int, str], ...]:
    """Order "0.10.0" after "0.9.1"."""
    return tuple(
        (int(version_part), "") if version_part.isdigit() else (0, version_part)
        for version_part in re.split(r"[.\-+]", version)
    )
