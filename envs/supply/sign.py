"""Detached signatures by the `minisign` program: Ed25519, one small file, no service and no network."""

from __future__ import annotations

import base64
import binascii
import os
import shutil
import tempfile
from pathlib import Path

from envs import process
from envs.errors import BuildError, CheckFailed, WrongUse

PROGRAM = "minisign"
_NO_PASSWORD = b"\0\0"
_STDERR = 2


def sign(content: bytes, key: Path, comment: str) -> bytes:
    """The signature of the content; `comment` is signed with it and stands where minisign would put the clock.

    The program itself asks for the password of a key that has one. WrongUse for a file that is no secret key,
    BuildError where the program is missing, CheckFailed where it refuses (a wrong password).
    """
    _need_program()
    protected = _has_password(key)
    with tempfile.TemporaryDirectory(prefix="edgekiln-sign-") as folder:
        message, made = Path(folder, "message"), Path(folder, "signature")
        message.write_bytes(content)
        command: list[str | Path] = [PROGRAM, "-S", "-s", key.absolute(), "-m", message, "-x", made]
        command += ["-t", comment, "-c", "signed by edgekiln"]
        if protected:
            child = process.attach(command, env=os.environ, stdout=_STDERR)  # its prompt must reach the person
            signed = child.wait() == 0
        else:
            process.run(command)
            signed = True
        if not signed or not made.exists():
            raise CheckFailed(f"{key}: minisign did not sign with this key", "give its password again")
        return made.read_bytes()


def verify(content: bytes, signature: bytes, public_key: Path) -> str:
    """The comment that was signed with the content.

    CheckFailed where the signature is not of these bytes by this key; WrongUse for a file that is no public key.
    """
    _need_program()
    _key_bytes(public_key, 42, "public")
    with tempfile.TemporaryDirectory(prefix="edgekiln-sign-") as folder:
        message, given = Path(folder, "message"), Path(folder, "signature")
        message.write_bytes(content)
        given.write_bytes(signature)
        try:
            out = process.run([PROGRAM, "-V", "-Q", "-p", public_key.absolute(), "-m", message, "-x", given])
        except BuildError as error:
            raise CheckFailed(
                f"the signature does not hold for these bytes and the key {public_key}",
                "the content was changed after it was signed, or another key signed it: trust neither",
            ) from error
    return out.decode(errors="replace").strip()


def _need_program() -> None:
    if shutil.which(PROGRAM) is None:
        raise BuildError(
            f"{PROGRAM} is not installed, so nothing can be signed or checked here",
            f"install it (Debian, Ubuntu: apt install {PROGRAM})",
        )


def _has_password(key: Path) -> bool:
    content = _key_bytes(key, 158, "secret")
    return content[2:4] != _NO_PASSWORD


def _key_bytes(path: Path, length: int, kind: str) -> bytes:
    """What the second line of a key file holds: algorithm, then for a secret key how its password is stretched."""
    try:
        lines = path.read_text("utf-8").splitlines()
        content = base64.b64decode(lines[1], validate=True)
    except OSError as error:
        raise WrongUse(f"{path}: {error.strerror}", f"name a minisign {kind} key file") from error
    except (IndexError, ValueError, binascii.Error):
        content = b""
    if len(content) != length or content[:2] != b"Ed":
        raise WrongUse(
            f"{path}: not a minisign {kind} key",
            "make a pair with `minisign -G -p key.pub -s key.secret` (-W: without a password, for machines)",
        )
    return content
