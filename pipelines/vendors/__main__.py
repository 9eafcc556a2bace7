"""python -m pipelines.vendors JOB: one conversion in a process of its own; `Converted` goes to the job's result.

With `--offer NAME` in place of a job: VendorOffer of that toolchain, as JSON on stdout.
"""

from __future__ import annotations

import sys
import time
import traceback
from pathlib import Path

import msgspec

from pipelines.cache import write_atomic
from pipelines.contract import VendorOffer, encode
from pipelines.errors import PipelineError, first_line
from pipelines.vendors import vendor
from pipelines.vendors.base import Converted, Job


def main() -> int:
    """0 where a result was written, whatever it says; 2 where the job can't be read."""
    if sys.argv[1:2] == ["--offer"]:
        return _offer(sys.argv[2])
    try:
        job = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Job)
    except (IndexError, OSError, msgspec.DecodeError) as error:
        print(f"no job: {error}", file=sys.stderr)
        return 2
    began = time.monotonic()
    try:
        made = vendor(job.vendor).convert(job)
        if not made.elapsed_s:
            made = msgspec.structs.replace(made, elapsed_s=round(time.monotonic() - began, 3))
    except PipelineError as error:
        made = Converted(file="", error=str(error))
    except Exception as error:  # a tool's own errors have no base; the log has the traceback
        traceback.print_exc()
        made = Converted(file="", error=first_line(error))
    write_atomic(Path(job.result), msgspec.json.encode(made))
    return 0


def _offer(name: str) -> int:
    try:
        tool = vendor(name)
    except PipelineError as error:
        print(error, file=sys.stderr)
        return 2
    targets = {target: tuple(one.name for one in tool.variants(target)) for target in tool.targets or ("",)}
    sys.stdout.buffer.write(encode(VendorOffer(vendor=name, targets=targets)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
