"""The stand-alone program's first lines, in place of the interpreter's own."""  # noqa: INP001  not imported

import multiprocessing
import runpy
import sys

from dicomnode.commands.cli import main


def run_as_interpreter(words: list[str]) -> bool:
    """Run `-m MODULE ...` as an interpreter does: so the program starts processes of itself."""
    flags = [word for word in words[:2] if word in ("-P", "-I")]
    rest = words[len(flags) :]
    if rest[:1] != ["-m"]:
        return False
    sys.argv = rest[1:]
    runpy.run_module(rest[1], run_name="__main__", alter_sys=True)
    return True


if __name__ == "__main__":
    # A process that multiprocessing starts is this program, too.
    multiprocessing.freeze_support()
    if not run_as_interpreter(sys.argv[1:]):
        main()
