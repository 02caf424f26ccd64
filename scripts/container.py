"""Build what the Containerfile says in clean Debian roots, without a container engine.

python -m scripts.container WORK            build both stages below WORK, print the size of the last one
python -m scripts.container WORK --run ...  run a command in what was built: its user, a read-only root

It needs root and debootstrap. Each stage begins with a Debian of its own, without manuals and translations
like `debian:bookworm-slim`, and each RUN is a `chroot` into it. What an engine adds (namespaces, cgroups,
layers) is not shown by this. `--bind` shows a file or folder of this machine inside, for a package mirror.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONTAINERFILE = ROOT / "Containerfile"
SUITE = "bookworm"
RECORDED = frozenset({"ENV", "USER", "WORKDIR", "VOLUME", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"})
# So that pip finds the mirror of the machine; an engine passes such things at build time, too.
_PASSED_ON = re.compile(r"PIP_.*|.*_proxy", re.IGNORECASE)


@dataclass
class Stage:
    """One stage of a Containerfile: its base, its name and its instructions in order."""

    base: str
    name: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def recorded(self, keyword: str) -> list[str]:
        """Return what is recorded under a keyword, such as USER."""
        return [words for name, words in self.instructions if name == keyword]

    @property
    def environment(self) -> dict[str, str]:
        """The variables of all ENV instructions."""
        return dict(word.split("=", 1) for words in self.recorded("ENV") for word in words.split())


def parse_containerfile(text: str) -> list[Stage]:
    """Return the stages; an instruction that is not known raises ValueError."""
    stages: list[Stage] = []
    for line in text.replace("\\\n", " ").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        keyword, words = line.split(maxsplit=1)
        if keyword == "FROM":
            base, _, name = words.partition(" AS ")
            stages.append(Stage(base, name))
        elif keyword in RECORDED or keyword in {"RUN", "COPY"}:
            stages[-1].instructions.append((keyword, words))
        else:
            raise ValueError(f"the instruction {keyword} is not known here")
    return stages


def build(work: Path, binds: Sequence[Path]) -> Path:
    """Run every stage below `work` and return the root of the last one."""
    base = work / "base"
    if not base.is_dir():
        subprocess.run(["debootstrap", "--variant=minbase", SUITE, base], check=True, stdout=sys.stderr)
        slim_down(base)
    roots: dict[str, Path] = {}
    for number, stage in enumerate(parse_containerfile(CONTAINERFILE.read_text(encoding="utf-8"))):
        root = work / f"stage-{number}"
        shutil.rmtree(root, ignore_errors=True)
        subprocess.run(["cp", "--archive", base, root], check=True)
        roots[stage.name] = root
        folder = "/"
        for keyword, words in stage.instructions:
            if keyword == "WORKDIR":
                folder = words
                (root / words.lstrip("/")).mkdir(parents=True, exist_ok=True)
            elif keyword == "COPY":
                copy(words, root, folder, roots)
            elif keyword == "RUN":
                print(f"RUN {words}", file=sys.stderr)
                run_in(root, ["sh", "-c", words], binds, folder)
    return root


def slim_down(base: Path) -> None:
    """Leave out what `debian:bookworm-slim` leaves out, also of packages that are installed later."""
    folders = ("usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale")
    excluded = "".join(f"path-exclude /{folder}/*\n" for folder in folders)
    (base / "etc" / "dpkg" / "dpkg.cfg.d" / "slim").write_text(excluded, encoding="ascii")
    for folder in (*folders, "var/lib/apt/lists", "var/cache/apt"):
        shutil.rmtree(base / folder, ignore_errors=True)
        (base / folder).mkdir(parents=True)


def copy(words: str, root: Path, folder: str, roots: Mapping[str, Path]) -> None:
    """Do what a COPY says; of the checkout only what git tracks or would track, as .dockerignore does."""
    *sources, target = words.split()
    origin = ROOT
    if sources[0].startswith("--from="):
        origin = roots[sources.pop(0).removeprefix("--from=")]
    destination = root / os.path.join(folder, target).lstrip("/")  # noqa: PTH118  an absolute target wins
    for source in (origin / name.lstrip("/") for name in sources):
        place = destination / source.name if target.endswith("/") else destination
        place.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.pyc") if origin == ROOT else None
            shutil.copytree(source, place, symlinks=True, ignore=ignored, dirs_exist_ok=True)
        else:
            shutil.copy2(source, place)


def run_in(root: Path, command: Sequence[str], binds: Sequence[Path], folder: str) -> None:
    """Run a command as root in a root, in a mount namespace of its own; what is bound is read-only."""
    certificate = os.environ.get("PIP_CERT")
    if certificate:
        shutil.copy2(certificate, root / "tmp" / "authorities.pem")
    environment = {name: value for name, value in os.environ.items() if _PASSED_ON.fullmatch(name)}
    environment |= {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive"}
    environment |= {"PIP_CERT": "/tmp/authorities.pem"} if certificate else {}  # noqa: S108  inside the root
    mounts = ["mount -t proc proc proc", "cp /etc/resolv.conf etc/resolv.conf", *map(_bind, binds)]
    script = " && ".join([f"cd {root}", *mounts, f'exec chroot . sh -c \'cd {folder}; exec "$@"\' sh "$@"'])
    subprocess.run(["unshare", "--mount", "sh", "-c", script, "sh", *command], check=True, env=environment)
    (root / "tmp" / "authorities.pem").unlink(missing_ok=True)


def run_image(root: Path, state: Path, command: Sequence[str], timeout_s: float = 600) -> int:
    """Run a command as the image would: its user, its variables, /tmp and the state folder writable."""
    stage = parse_containerfile(CONTAINERFILE.read_text(encoding="utf-8"))[-1]
    (user,) = stage.recorded("USER")
    state.mkdir(parents=True, exist_ok=True)
    os.chown(state, *(int(number) for number in user.split(":")))
    mounts = [
        f"mount --bind {root} {root} && mount -o remount,ro,bind {root} && cd {root}",
        f"mount --bind {state.resolve()} var/lib/dicomnode",
        "mount -t tmpfs tmpfs tmp && mount -t tmpfs tmpfs dev/shm",
        "mount -t proc proc proc",
    ]
    enter = f'exec /usr/sbin/chroot --userspec={user} . sh -c \'cd /var/lib/dicomnode; exec "$@"\' sh "$@"'
    script = " && ".join([*mounts, enter])
    program = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script, "sh", *command]
    return subprocess.run(program, check=False, env=stage.environment, timeout=timeout_s).returncode


def _bind(path: Path) -> str:
    """Return the shell line that shows a file or folder of this machine inside, read-only."""
    inside = str(path).lstrip("/")
    make = f"mkdir -p {inside}" if path.is_dir() else f"mkdir -p {Path(inside).parent} && touch {inside}"
    return f"{make} && mount --bind {path} {inside} && mount -o remount,ro,bind {inside}"


def megabytes(folder: Path) -> int:
    """Return what a folder takes on disk, in MB (10**6 bytes), without what is mounted in it."""
    text = subprocess.run(
        ["du", "--one-file-system", "--block-size=1000000", "--summarize", folder],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return int(text.split()[0])


def main() -> int:
    """Build, or run a command in what was built."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("--bind", type=Path, action="append", default=[])
    parser.add_argument("--run", nargs=argparse.REMAINDER)
    choices = parser.parse_args()
    last = len(parse_containerfile(CONTAINERFILE.read_text(encoding="utf-8"))) - 1
    if choices.run:
        return run_image(choices.work.resolve() / f"stage-{last}", choices.work / "state", choices.run)
    root = build(choices.work.resolve(), choices.bind)
    venv = root / "opt" / "dicomnode"
    sizes = {
        "image_mb": megabytes(root),
        "base_mb": megabytes(choices.work / "base"),
        "venv_mb": megabytes(venv),
    }
    print(json.dumps(sizes))
    return 0


if __name__ == "__main__":
    sys.exit(main())
