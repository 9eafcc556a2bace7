"""What the caller asks of one run, checked before anything is built."""

from __future__ import annotations

import difflib
import re

import msgspec

from envs.contract import CORRECTIONS, PICTURED, Correction
from envs.errors import WrongUse

AUTO = "auto"
DEFAULT_BUDGET = 0.9  # of the weights that could have the pattern


class RunOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The words of the command line."""

    model: str
    env: str
    engine: str
    weights: str
    sparsity: str
    use_cache: bool
    allow_drift: bool = False
    permute: bool = True
    gather: bool = False
    keep: str = ""
    budget: str = ""
    correct: str = "none"
    patterns: bool = False
    target: str = ""
    variants: str = ""
    fix: bool = False
    unstructured: str = ""
    calibration: str = ""


class Choices(msgspec.Struct, frozen=True, kw_only=True):
    """What the words mean: layers that stay dense by name, or the share that must be sparse; the correction."""

    keep: tuple[str, ...]
    budget: float | None
    correct: Correction
    variants: tuple[str, ...] = ()
    unstructured: float | None = None

    @property
    def needs_calibration(self) -> bool:
        """Whether pictures are needed that judge nothing."""
        return self.budget is not None or self.correct in PICTURED


def choices(options: RunOptions) -> Choices:
    """The words, checked. WrongUse names the option that can't be used."""
    check_sparsity(options.sparsity)
    if options.gather and not options.permute:
        raise WrongUse("--gather shows what reordering would cost at run time, and --no-permute asks for none")
    names = tuple(name for name in options.keep.split(",") if name)
    if options.keep and not names:
        raise WrongUse(f"--keep {options.keep!r} names no layer", "write auto, or names as in sparsify.json: NAME,NAME")
    if names != (AUTO,) and options.budget:
        raise WrongUse(f"--budget {options.budget} without --keep auto", "give both, or --keep NAME,NAME alone")
    return Choices(
        keep=() if names == (AUTO,) else names,
        budget=_budget(options.budget) if names == (AUTO,) else None,
        correct=_correction(options.correct),
        variants=_variants(options.variants),
        unstructured=_unstructured(options.unstructured),
    )


def check_sparsity(text: str) -> None:
    """WrongUse unless it is N:M with 1 <= N < M."""
    found = re.fullmatch(r"(\d{1,3}):(\d{1,3})", text)
    if not found or not 1 <= int(found[1]) < int(found[2]):
        raise WrongUse(f"--sparsity {text!r} is not N:M", "write it as in 2:4: two kept of every four")


def _budget(text: str) -> float:
    if not text:
        return DEFAULT_BUDGET
    share = _share(text)
    if not 0 < share <= 1:
        raise WrongUse(f"--budget {text!r} is no share above 0 and up to 1", "write it as in 0.9: 90 % of the weights")
    return share


def _variants(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if text and not names:
        raise WrongUse(f"--variants {text!r} names none", "write it as in fp16,int8")
    return names


def _unstructured(text: str) -> float | None:
    if not text:
        return None
    share = _share(text)
    if not 0 < share < 1:
        raise WrongUse(f"--unstructured {text!r} is no share between 0 and 1", "write it as in 0.8: 80 % zeros")
    return share


def _share(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _correction(name: str) -> Correction:
    for known in CORRECTIONS:
        if name == known:
            return known
    near = difflib.get_close_matches(name, CORRECTIONS, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise WrongUse(f"--correct {name!r} is no method", f"{hint}these are: {', '.join(CORRECTIONS)}")
