"""What the compilers make of a kernel, without a GPU: registers, spills, and the instructions of its inner loop.

NVRTC compiles as CuPy does, nvdisasm shows the machine code (SASS); both come with torch's nvidia packages.
Instructions are counted in the loop that a kernel spends its time in; one of the loop around it counts as the share of
it that falls to one turn. Predicated instructions count as executed, and so do both sides of a branch.
"""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from lim_gpu.cuda.module import OPTIONS, source, unchanged_locale
from lim_gpu.cuda.signature import constants

CLASSES = {  # the first letters of an instruction; the longest match wins
    "tensor": ("IMMA", "HMMA"),
    "fp32": ("FADD", "FMUL", "FFMA", "FSETP", "FSEL", "FMNMX"),
    "fp64": ("DADD", "DMUL", "DFMA", "DSETP"),
    "convert": ("I2F", "F2I", "F2F", "I2I"),
    "special": ("MUFU",),
    "shared": ("LDS", "STS", "ATOMS"),
    "global": ("LDG", "STG", "RED", "ATOMG", "ATOM"),
    "local": ("LDL", "STL"),  # spills
    "control": ("BRA", "BAR", "BSSY", "BSYNC", "EXIT", "WARPSYNC", "NOP", "CALL", "RET", "DEPBAR", "BREAK"),
    "move": ("MOV", "UMOV", "IMAD.MOV", "LDC", "ULDC", "LDCU", "S2R", "S2UR", "CS2R", "R2UR", "SHFL"),
}
USAGE = {
    "frame": re.compile(r"(\d+) bytes stack frame"),
    "stores": re.compile(r"(\d+) bytes spill stores"),
    "loads": re.compile(r"(\d+) bytes spill loads"),
    "registers": re.compile(r"Used (\d+) registers"),
    "shared": re.compile(r"(\d+) bytes smem|$"),
}
_INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+ )?([A-Z][\w.]*)(.*)")


class CompilationError(Exception):
    """With the log of NVRTC."""


class Absent(Exception):  # noqa: N818 - a state of the machine
    """A tool that is not installed."""


class Instruction(NamedTuple):
    """`target` is the address a branch goes to."""

    address: int
    name: str
    target: int | None


class Loop(NamedTuple):
    """The inner loop of a kernel, and how many units of work (pixels of a pair) a thread does in a turn of it.

    units  constants of the source whose product it is
    turns  a constant: how many turns there are to one of the loop around it; "" for many
    mark   instead of `units`, where the compiler unrolls as it likes: an instruction, and how many a unit takes
    """

    units: tuple[str, ...] = ()
    turns: str = ""
    mark: tuple[str, int] = ("", 0)


LOOPS = {
    "ssim_pairs": Loop(("X_TILE", "Y_TILE", "COLUMNS")),
    "ssim_pairs_tensor_4x16": Loop(("CHUNK", "X_WARP", "LANE_PIXELS"), "STAGE"),
    "ssim_pairs_tensor_8x24": Loop(("CHUNK", "X_WARP", "LANE_PIXELS"), "STAGE"),
    "mi_pairs_plain": Loop(mark=("ATOMS", 1)),
    "mi_pairs": Loop(mark=("ATOMS", 1)),
    "mi_pairs_every": Loop(mark=("ATOMS", 1)),
    "hash_distances": Loop(mark=("POPC", 2)),
    "hash_similarities": Loop(mark=("POPC", 2)),
    "hash_nearest": Loop(mark=("POPC", 2)),
    "hash_drop": Loop(mark=("POPC", 2)),
}


@cache
def nvrtc() -> Any:
    """cuda.bindings over the NVRTC library of the installed nvidia packages. Raises Absent."""
    try:
        from cuda.bindings import nvrtc as module
    except ImportError as error:
        raise Absent("cuda.bindings is not installed") from error
    try:
        module.nvrtcVersion()
    except RuntimeError as error:
        raise Absent(f"the NVRTC library cannot be loaded: {error}") from error
    return module


def version() -> tuple[int, int]:
    """Of the NVRTC that `nvrtc` has loaded: (13, 0). Registers and instructions differ from one to the next."""
    _, major, minor = nvrtc().nvrtcVersion()
    return major, minor


def call(function: Any, *arguments: Any) -> Any:
    result, *values = function(*arguments)
    if result != nvrtc().nvrtcResult.NVRTC_SUCCESS:
        raise CompilationError(function.__name__, result)
    return values[0] if values else None


def compile_kernels(text: str, name: str, architecture: int) -> tuple[bytes, str]:
    """The cubin of a source and the log, with ptxas's report of each kernel.

    Raises CompilationError with the log, and Absent for an architecture that this NVRTC does not know.
    """
    library = nvrtc()
    if architecture not in call(library.nvrtcGetSupportedArchs):
        raise Absent(f"this NVRTC does not know sm_{architecture}")
    program = call(library.nvrtcCreateProgram, text.encode(), f"{name}.cu".encode(), 0, None, None)
    # CuPy adds -ftz=true to what it compiles
    options = [*(option.encode() for option in OPTIONS), b"-ftz=true", f"-arch=sm_{architecture}".encode()]
    options.append(b"--ptxas-options=-v")
    with unchanged_locale():
        result, *_ = library.nvrtcCompileProgram(program, len(options), options)
    log = b" " * call(library.nvrtcGetProgramLogSize, program)
    call(library.nvrtcGetProgramLog, program, log)
    if result != library.nvrtcResult.NVRTC_SUCCESS:
        raise CompilationError(log.decode().rstrip("\0 "))
    cubin = b" " * call(library.nvrtcGetCUBINSize, program)
    call(library.nvrtcGetCUBIN, program, cubin)
    call(library.nvrtcDestroyProgram, program)
    return cubin, log.decode().rstrip("\0 ")


@cache
def compiled(kernel_file: str, architecture: int) -> tuple[bytes, str]:
    """The cubin and the log of kernels/KERNEL_FILE.cu."""
    return compile_kernels(source(kernel_file), kernel_file, architecture)


def usage(log: str) -> dict[str, dict[str, int]]:
    """What ptxas reports of each kernel: stack frame, spills and shared memory in bytes, registers."""
    found = {}
    for report in log.split("Compiling entry function ")[1:]:
        values = {name: pattern.search(report) for name, pattern in USAGE.items()}
        found[report.split("'")[1]] = {name: int(match[1] or 0) if match else 0 for name, match in values.items()}
    return found


@cache
def disassembly(kernel_file: str, architecture: int) -> dict[str, list[Instruction]]:
    """The instructions of every kernel of a file. Raises Absent where nvdisasm is not installed."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled(kernel_file, architecture)[0])
        file.flush()
        text = subprocess.run([_nvdisasm(), "-c", file.name], capture_output=True, text=True, check=True).stdout
    pieces = re.split(r"^\.text\.(\w+):\n", text, flags=re.MULTILINE)
    return {name: _instructions(body) for name, body in zip(pieces[1::2], pieces[2::2], strict=True)}


def counts(kernel_file: str, kernel: str, arch: int) -> dict[str, float]:
    """Instructions of a kernel's inner loop for one unit of its work (LOOPS), by class and in all.

    A class is what CLASSES says; "int" is all the rest. Raises Absent where nvdisasm or NVRTC is not installed.
    """
    names, loop, code = constants(source(kernel_file)), LOOPS[kernel], disassembly(kernel_file, arch)[kernel]
    turns = names[loop.turns] if loop.turns else math.inf
    mark, marks = loop.mark
    inner, *around = sorted(_nest(code, mark), key=lambda bounds: bounds[1] - bounds[0])
    marked = sum(op.name.startswith(mark) for op in code if inner[0] <= op.address <= inner[1])
    units = marked / marks if marks else math.prod(names[name] for name in loop.units)
    share = Counter(_class(op.name) for op in code if inner[0] <= op.address <= inner[1])
    found = {name: float(count) for name, count in share.items()}
    for bounds in around[:1]:
        for op in code:
            if bounds[0] <= op.address <= bounds[1] and not inner[0] <= op.address <= inner[1]:
                found[_class(op.name)] = found.get(_class(op.name), 0) + 1 / turns
    found = {name: count / units for name, count in sorted(found.items())}
    return {**found, "all": sum(found.values())}


def spills_in_loops(kernel_file: str, kernel: str, arch: int) -> int:
    """Instructions on local memory in the innermost loops of a kernel: a spill anywhere else costs next to nothing."""
    code = disassembly(kernel_file, arch)[kernel]
    inside = [op for op in code if any(first <= op.address <= last for first, last in _innermost(_loops(code)))]
    return sum(_class(op.name) == "local" for op in inside)


def _loops(code: list[Instruction]) -> list[tuple[int, int]]:
    """First and last address of every loop."""
    return list({op.target: op.address for op in code if op.target is not None and op.target < op.address}.items())


def _innermost(loops: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return [a for a in loops if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in loops)]


def _nest(code: list[Instruction], mark: str = "") -> list[tuple[int, int]]:
    """First and last address of the largest loop that holds no other but a `mark`, and of those around it."""
    loops = _loops(code)
    marked = [
        a for a in _innermost(loops) if any(op.name.startswith(mark) for op in code if a[0] <= op.address <= a[1])
    ]
    inner = max(marked, key=lambda a: a[1] - a[0])
    return [b for b in loops if b[0] <= inner[0] and inner[1] <= b[1]]


def _class(name: str) -> str:
    fitting = [(len(start), kind) for kind, starts in CLASSES.items() for start in starts if name.startswith(start)]
    return max(fitting)[1] if fitting else "int"


def _instructions(body: str) -> list[Instruction]:
    labels, lines, address = {}, [], 0
    for line in body.splitlines():
        if label := re.match(r"(\.L_x_\w+):", line):
            labels[label[1]] = None
            pending = label[1]
            lines.append((pending, None))
        elif match := _INSTRUCTION.search(line):
            address = int(match[1], 16)
            lines.append((match[2], (address, match[3])))
        elif line.startswith("//----") or line.startswith("\t.section"):
            break
    waiting: list[str] = []
    for name, found in lines:
        if found is None:
            waiting.append(name)
        else:
            labels.update((label, found[0]) for label in waiting)
            waiting = []
    code = []
    for name, found in lines:
        if found is not None:
            to = re.search(r"`\((\.L_x_\w+)\)", found[1]) if name.startswith("BRA") else None
            code.append(Instruction(found[0], name, labels.get(to[1]) if to else None))
    return code


def _nvdisasm() -> str:
    for place in find_spec("nvidia").submodule_search_locations if find_spec("nvidia") else []:
        for path in sorted(Path(place).glob("*/bin/nvdisasm")):
            return str(path)
    found = shutil.which("nvdisasm")
    if found is None:
        raise Absent("nvdisasm is not installed")
    return found
