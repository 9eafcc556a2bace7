"""The likely cause of a difference, by rule: a table of small functions, the first that holds gives name and advice.

A cause is a guess with a reason, never a proof: the difference itself is what was measured.
"""

from __future__ import annotations

import msgspec

from envs.verify.causes_archives import ARCHIVE_RULES
from envs.verify.causes_content import CONTENT_RULES, several
from envs.verify.causes_place import FALLBACK_RULES, PLACE_RULES
from envs.verify.evidence import Evidence, Rule
from envs.verify.records import Difference

RULES = (*PLACE_RULES, *ARCHIVE_RULES, *CONTENT_RULES)


def explain(difference: Difference, evidence: Evidence) -> Difference:
    """The difference with its likely cause, or as it was where no rule holds."""
    rule = _first(RULES, evidence) or several(evidence) or _first(FALLBACK_RULES, evidence)
    if rule is None:
        return difference
    return msgspec.structs.replace(difference, cause=rule.name, advice=rule.advice)


def _first(rules: tuple[Rule, ...], evidence: Evidence) -> Rule | None:
    return next((rule for rule in rules if rule.holds(evidence)), None)
