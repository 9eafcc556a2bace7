"""`sdk`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from envs.cli import print_json
from envs.display import Terminal, mib, print_rows
from envs.errors import WrongUse

if TYPE_CHECKING:
    from envs.sdk.record import SdkRecord

WORDS = "write it as in `invoke sdk add sigmastar PATH`, `invoke sdk list` or `invoke sdk rm sigmastar`"


def sdk(action: str, vendor: str, path: str, as_json: bool) -> int:
    """Add, list or forget what a vendor gives to its customers only."""
    if action == "add" and vendor and path:
        return _add(vendor, Path(path).expanduser(), as_json)
    if action == "rm" and vendor and not path:
        return _remove(vendor, as_json)
    if action in ("", "list") and not path:
        return _list(vendor, as_json)
    raise WrongUse(f"sdk {' '.join(word for word in (action, vendor, path) if word)}: not understood", WORDS)


def _add(vendor: str, path: Path, as_json: bool) -> int:
    from envs.sdk.keep import add, lacking
    from envs.sdk.record import record_path
    from envs.toml import shown

    terminal = Terminal()
    record = add(vendor, path, terminal)
    print_json(record) if as_json else _print([record])
    terminal.say(f"recorded in {shown(record_path(vendor))}")
    if why := lacking(record):
        terminal.say(f"{vendor} can't be used yet: {why}; `invoke sdk add {vendor} PATH` takes that too")
    return 0


def _remove(vendor: str, as_json: bool) -> int:
    from envs.sdk.keep import remove

    terminal = Terminal()
    removed = remove(vendor, terminal)
    if as_json:
        print_json({"vendor": vendor, "removed": removed})
    else:
        terminal.say(f"forgot the SDK of {vendor}" if removed else f"no SDK of {vendor} is recorded")
    return 0


def _list(vendor: str, as_json: bool) -> int:
    from envs.sdk.folder import LAYOUT
    from envs.sdk.keep import check_vendor
    from envs.sdk.record import read_record

    if vendor:
        check_vendor(vendor)
    records = [read_record(name) for name in ([vendor] if vendor else sorted(LAYOUT))]
    print_json([_told(record) for record in records]) if as_json else _print(records)
    return 0


def _told(record: SdkRecord) -> dict[str, Any]:
    from envs.sdk.keep import lacking

    why = lacking(record)
    return {
        "vendor": record.vendor,
        "image": record.image,
        "folder": record.folder,
        "identity": record.identity,
        "usable": not why,
        "reason": why,
    }


def _print(records: list[SdkRecord]) -> None:
    from envs.sdk.keep import lacking

    rows = [row for record in records for row in _rows(record, lacking(record) or "usable")]
    print_rows(rows, ("VENDOR", "PART", "NAME", "SIZE", "SHA256", "STATE"))


def _rows(record: SdkRecord, state: str) -> list[tuple[str, ...]]:
    image, folder = record.image, record.folder
    rows: list[tuple[str, ...]] = []
    if image:
        rows.append((record.vendor, "image", image.file, mib(image.bytes), image.sha256[:12], state))
    if folder:
        rows.append((record.vendor, "folder", folder.name, mib(folder.bytes), folder.sha256[:12], state))
    return rows or [(record.vendor, "-", "-", "-", "-", state)]
