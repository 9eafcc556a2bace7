"""`push`, `pull`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from envs.cli import print_json
from envs.display import Terminal, mib, print_rows

if TYPE_CHECKING:
    from envs.image import ImagePlan
    from envs.registry.push import Pushed


def push(env: str, platform: str, to: str, sign: str, documents: bool, as_json: bool) -> int:
    """The lock's image into a registry, its documents beside it."""
    from envs.build import image_plan
    from envs.errors import WrongUse
    from envs.lock import read_lock
    from envs.registry.client import Client
    from envs.registry.push import push_image, subject_of
    from envs.registry.reference import parse_reference
    from envs.registry.referrers import attach
    from envs.supply.documents import documents as documents_of
    from envs.supply.documents import signature
    from envs.tree import ensure_tree, read_record

    terminal = Terminal()
    if not to:
        raise WrongUse("push needs --to", "name HOST:PORT/REPOSITORY or HOST:PORT/REPOSITORY:TAG")
    if sign and not documents:
        raise WrongUse("--sign signs the provenance document", "leave --no-documents out")
    target = parse_reference(to)
    locked = read_lock(env, platform)
    tree = ensure_tree(locked, terminal)
    plan = image_plan(locked, tree, terminal)
    client = Client.of_host(target.host, target.repository, "pull,push")
    pushed = push_image(client, plan, target, terminal)
    made = documents_of(locked, plan, read_record(tree).interpreter) if documents else ()
    if sign:
        made = (*made, signature(made[-1], Path(sign)))  # the last is the provenance
    attached = [(one, attach(client, subject_of(plan), one)) for one in made]
    listed = [{"name": one.name, "type": one.artifact_type, "digest": entry.digest} for one, entry in attached]
    _show_pushed(pushed, plan, listed, as_json)
    return 0


def _show_pushed(pushed: Pushed, plan: ImagePlan, documents: list[dict[str, str]], as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "env": plan.name,
                "platform": plan.platform,
                "lock_digest": plan.lock_digest,
                "reference": pushed.reference,
                "digest": pushed.digest,
                "tag": pushed.tag,
                "image": pushed.image_id,
                "sent_bytes": pushed.sent_bytes,
                "blobs": pushed.blobs,
                "documents": documents,
            }
        )
        return
    rows = [(one.name, one.digest, mib(one.bytes), one.outcome) for one in pushed.blobs]
    print_rows(rows, ("LAYER", "DIGEST", "SIZE", ""))
    if documents:
        print_rows([(one["name"], one["digest"]) for one in documents], ("DOCUMENT", "MANIFEST"))
    print_rows([(pushed.reference,)], ("",))


def pull(reference: str, engine: str, platform: str, as_json: bool) -> int:
    """An image out of a registry, into the store and the engine; 1 where it is not what its label says."""
    from envs.engines.choose import choose
    from envs.registry.pull import fetch_image, own_tags, pulled_plan
    from envs.registry.recognise import recognise

    terminal = Terminal()
    chosen = choose(engine)
    image = fetch_image(reference, terminal, platform)
    verdict = recognise(image)
    tags: tuple[str, ...] = ()
    if chosen.docker is not None:
        from envs.engines.load import ensure_image

        plan = verdict.plan or pulled_plan(image, own_tags(image))
        tags = plan.tags
        ensure_image(chosen.docker.client, plan, terminal)
    else:
        terminal.say(f"{chosen.why}: the image is in the store, no engine was given it")
    facts = {
        "reference": image.reference,
        "digest": image.digest,
        "tag": image.named.tag,
        "image": image.image_id,
        "bytes": sum(layer.bytes for layer in image.layers),
        "engine": chosen.engine.name,
        "tags": tags,
        "lock": {"state": verdict.state, "env": verdict.env, "lock_digest": verdict.lock_digest},
    }
    if as_json:
        print_json(facts)
    else:
        rows = [("reference", image.reference), ("image", image.image_id), ("tags", ", ".join(tags) or "-")]
        print_rows([*rows, ("lock", verdict.line)], ("", ""))
    return 1 if verdict.state == "differs" else 0
