"""Compile what Triton would compile at its first use of a GPU: for images, which have no compiler.

The CUDA driver's library is the machine's, so here an empty one stands for it.
"""

import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from triton import knobs
from triton.backends.nvidia import driver
from triton.runtime.build import _build

target = Path(sys.argv[1])
target.mkdir(parents=True)
source = shutil.copy(Path(driver.dirname) / "driver.c", target)
with TemporaryDirectory() as folder:
    subprocess.run(["gcc", "-shared", "-o", f"{folder}/libcuda.so.1", "-x", "c", "/dev/null"], check=True)
    knobs.nvidia.libcuda_path = folder
    made = _build("driver", source, folder, driver.library_dirs(), driver.include_dirs, driver.libraries, [])
    shutil.copy(made, target / "driver.so")
