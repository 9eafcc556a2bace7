"""A lock against vulnerabilities in OSV format, without any network: what matches, and what could not be decided."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from envs.finish import normalised
from envs.supply import cvss
from envs.supply.osv import Affected, Entry, judge
from envs.supply.osv_files import Malformed
from envs.supply.targets import Target


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One vulnerability of one locked package; `aliases` are the other ids it was found or is known under."""

    id: str
    aliases: tuple[str, ...]
    package: str
    installed: str
    use: str  # image, test or data, as Component.use
    advisory_package: str  # as the advisory names it: ECOSYSTEM/NAME
    fixed_in: tuple[str, ...]
    severity: str
    summary: str


class Undecided(msgspec.Struct, frozen=True, kw_only=True):
    """An entry about a locked package that can't be evaluated: it may or may not be affected."""

    id: str
    package: str
    installed: str
    reason: str


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """What was found. `read` counts entries, withdrawn and malformed ones apart."""

    findings: tuple[Finding, ...]
    undecided: tuple[Undecided, ...]
    malformed: tuple[Malformed, ...]
    read: int
    withdrawn: int
    ignored: tuple[str, ...]  # the ids of the caller's that matched something
    notes: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Nothing matches and nothing that may match is left open."""
        return not self.findings and not self.undecided


class _Match(msgspec.Struct, frozen=True):
    target: Target
    entry: Entry
    affected: Affected
    fixed: tuple[str, ...]


def audit(
    found: Sequence[Target],
    entries: Iterable[Entry | Malformed],
    ignore: frozenset[str] = frozenset(),
    notes: Sequence[str] = (),
) -> Audit:
    """Look each entry's packages up among the targets."""
    by_name: dict[tuple[str, str], list[Target]] = {}
    for target in found:
        by_name.setdefault((target.ecosystem.lower(), target.name), []).append(target)
    matches: list[_Match] = []
    undecided: list[Undecided] = []
    malformed: list[Malformed] = []
    ignored: set[str] = set()
    read = withdrawn = 0
    for entry in entries:
        if isinstance(entry, Malformed):
            malformed.append(entry)
            undecided += _unreadable(entry, found)
            continue
        read += 1
        if entry.withdrawn:
            withdrawn += 1
            continue
        hits, open_ = _look_up(entry, by_name)
        matches += hits
        if named := entry.names() & ignore if open_ else frozenset[str]():
            ignored |= named
        else:
            undecided += open_
    findings = []
    for finding in _merged(matches):
        if named := ignore & {finding.id, *finding.aliases}:
            ignored |= named
        else:
            findings.append(finding)
    return Audit(
        findings=tuple(findings),
        undecided=tuple(sorted(set(undecided), key=lambda one: (one.package, one.id, one.reason))),
        malformed=tuple(malformed),
        read=read,
        withdrawn=withdrawn,
        ignored=tuple(sorted(ignored)),
        notes=tuple(notes),
    )


def _look_up(entry: Entry, by_name: dict[tuple[str, str], list[Target]]) -> tuple[list[_Match], list[Undecided]]:
    hits: list[_Match] = []
    undecided: list[Undecided] = []
    for affected in entry.affected or ():
        if affected.package is None:
            continue
        family, _, release = affected.package.ecosystem.partition(":")
        name = affected.package.name
        for target in by_name.get((family.lower(), normalised(name) if family.lower() == "pypi" else name), []):
            if target.ecosystem == "Debian" and release not in ("", target.release):
                continue
            try:
                verdict = judge(target.version, affected, target.key)
            except ValueError as error:
                undecided.append(_undecided(entry.id, target, str(error)))
                continue
            if verdict.affected:
                hits.append(_Match(target, entry, affected, verdict.fixed))
    certain = {match.target.component.name for match in hits}
    return hits, [one for one in undecided if one.package not in certain]


def _undecided(identifier: str, target: Target, reason: str) -> Undecided:
    return Undecided(id=identifier, package=target.component.name, installed=target.component.version, reason=reason)


def _unreadable(entry: Malformed, found: Sequence[Target]) -> list[Undecided]:
    """A malformed entry that seems to be about a locked package leaves that package open."""
    names = {*entry.packages, *map(normalised, entry.packages)}
    return [_undecided(entry.where, target, entry.reason) for target in found if target.name in names]


def _merged(matches: Sequence[_Match]) -> tuple[Finding, ...]:
    """One finding a package and vulnerability, however many databases list it under whatever names."""
    by_component: dict[str, list[_Match]] = {}
    for match in matches:
        by_component.setdefault(match.target.component.key, []).append(match)
    findings = [_finding(group) for same in by_component.values() for group in _groups(same)]
    return tuple(sorted(findings, key=lambda one: (one.package, one.use, one.id)))


def _groups(matches: Sequence[_Match]) -> list[list[_Match]]:
    """Matches that share a name, directly or through others."""
    groups: list[tuple[set[str], list[_Match]]] = []
    for match in matches:
        names, members = set(match.entry.names()), [match]
        for group in [group for group in groups if group[0] & names]:
            groups.remove(group)
            names |= group[0]
            members = group[1] + members
        groups.append((names, members))
    return [members for _, members in groups]


def _finding(group: Sequence[_Match]) -> Finding:
    names = sorted(set().union(*(match.entry.names() for match in group)), key=lambda name: (name[:4] != "CVE-", name))
    first = min(group, key=lambda match: match.entry.id)
    component, key = first.target.component, first.target.key
    texts = [match.entry.summary or (match.entry.details or "").strip().partition("\n")[0] for match in group]
    return Finding(
        id=names[0],
        aliases=tuple(names[1:]),
        package=component.name,
        installed=component.version,
        use=component.use,
        advisory_package=f"{first.target.ecosystem}/{first.target.name}",
        fixed_in=tuple(sorted({text for match in group for text in match.fixed}, key=key)),
        severity=_severity(group),
        summary=next((text for text in texts if text), ""),
    )


def _severity(group: Sequence[_Match]) -> str:
    """The highest CVSS v3 score of the group; else the database's own word; else ""."""
    scores: list[float] = []
    words: list[str] = []
    for match in group:
        for one in (*(match.entry.severity or ()), *(match.affected.severity or ())):
            if (score := cvss.base_score(one.score)) is not None:
                scores.append(score)
        own = (match.entry.database_specific or {}, match.affected.ecosystem_specific or {})
        words += [
            str(place[key]) for place in own for key in ("severity", "urgency") if isinstance(place.get(key), str)
        ]
    if scores:
        return f"{cvss.word(max(scores))} {max(scores):.1f}"
    return words[0].upper() if words else ""
