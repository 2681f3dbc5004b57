"""The data directory: who this instance is, and that only one server uses it.

instance.json      format version, account, hash of the admin token, number of executors
credentials.toml   the admin token in clear text, for the CLI, written once
secret.key         opens the secrets in the databases; may lie elsewhere
lock               held by the running server
objects/ alarms/   databases
buckets/           what was delivered
unfinished/        files being written
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import tomllib
from pathlib import Path
from typing import IO

import msgspec

from penstock.base.errors import Conflict, Invalid
from penstock.base.ids import random_id, random_secret
from penstock.base.rng import system_rng
from penstock.http.auth import Account
from penstock.storage.secrets import SecretKey, decode_keys, encode_keys, new_secret_key
from penstock.tokens.token_registry import token_hash

#: 2: pipelines have generations, shards a ledger.
FORMAT_VERSION = 2
SECRET_KEY_FILE = "secret.key"
#: How long a start waits for the server before it to let go of the directory: after a kill -9 of the supervisor
#: alone, its executors notice within milliseconds.
_LOCK_WAIT_S = 3.0


class Instance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format_version: int
    account_id: str
    token_sha256: str
    executors: int
    #: The key that seals new secrets. None: none was ever made.
    secret_key_id: str | None = None

    @property
    def account(self) -> Account:
        return Account(self.account_id, self.token_sha256)


class DataDir:
    """An instance's folder, locked for this process and the executors it forks."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        try:
            self._make_folder()
            self._lock: IO[bytes] = self._take_lock()
        except OSError as error:
            reason = "Not a directory" if isinstance(error, FileExistsError) else error.strerror
            raise Invalid(f"--data-dir {path} cannot be used ({reason}).") from error

    def _make_folder(self) -> None:
        """For nobody else: the records of all pipelines will be in there."""
        if not self.path.is_dir():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.mkdir(mode=0o700)
            _sync_folder(self.path.parent)

    def _take_lock(self) -> IO[bytes]:
        lock = open(self.path / "lock", "ab")  # noqa: SIM115 - held until the process ends
        deadline = time.monotonic() + _LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    lock.close()
                    raise Conflict(
                        f"{self.path} is in use by another penstock server. Stop it, or give another --data-dir."
                    ) from None
                time.sleep(0.02)
            else:
                return lock

    def open_instance(self, url: str, executors: int) -> tuple[Instance, int | None]:
        """The instance, made on the first start, and how many executors it had before (None on the first)."""
        file = self.path / "instance.json"
        if not file.exists():
            instance = self._create(url, executors)
            return instance, None
        found = self._read(file)
        self._update_url(url)
        instance = msgspec.structs.replace(found, executors=executors)
        return instance, found.executors

    def open_keys(self, instance: Instance, file: Path | None) -> tuple[Instance, list[SecretKey]]:
        """The keys of the secrets, from `file` or else from the data directory; made when this instance never had
        any. Gives the instance with the first key noted in it, to be saved. Raises `Invalid` if they are gone."""
        path = (file or self.path / SECRET_KEY_FILE).absolute()
        try:
            keys = decode_keys(path.read_text(), str(path))
        except FileNotFoundError:
            if instance.secret_key_id is not None:
                raise Invalid(_key_is_gone(path, instance.secret_key_id, "does not exist")) from None
            keys = [new_secret_key(system_rng())]
            _write_durably(path, encode_keys(keys).encode(), 0o600)
        except (OSError, UnicodeDecodeError) as error:
            raise Invalid(f"The secret key file {path} cannot be read ({error}).") from error
        if instance.secret_key_id not in (None, *(key.id for key in keys)):
            raise Invalid(_key_is_gone(path, instance.secret_key_id, "does not hold it"))
        return msgspec.structs.replace(instance, secret_key_id=keys[0].id), keys

    def save(self, instance: Instance) -> None:
        _write_durably(self.path / "instance.json", msgspec.json.format(msgspec.json.encode(instance)), 0o600)

    def _create(self, url: str, executors: int) -> Instance:
        rng = system_rng()
        account_id, token = random_id(rng), random_secret(rng)
        # The credentials first: if we die in between, the next start makes both again.
        self._write_credentials(url, account_id, token)
        return Instance(FORMAT_VERSION, account_id, token_hash(token), executors)

    def _read(self, file: Path) -> Instance:
        try:
            version = msgspec.json.decode(file.read_bytes(), type=dict[str, object]).get("format_version")
            if not isinstance(version, int):
                raise Invalid(f"{file} is damaged: it has no format_version. Restore it from a backup.")
            if version != FORMAT_VERSION:
                raise Invalid(
                    f"{self.path} was written in format {version}; this penstock reads format {FORMAT_VERSION}. "
                    + _what_to_do(version)
                )
            return msgspec.json.decode(file.read_bytes(), type=Instance)
        except msgspec.DecodeError as error:
            raise Invalid(f"{file} is damaged ({error}). Restore it from a backup.") from error

    def _write_credentials(self, url: str, account_id: str, token: str) -> None:
        text = (
            "# Made by the first start of this server. Keep it secret: it opens everything.\n"
            f'url = "{url}"\naccount_id = "{account_id}"\ntoken = "{token}"\n'
        )
        _write_durably(self.path / "credentials.toml", text.encode(), 0o600)

    def _update_url(self, url: str) -> None:
        """The server may listen elsewhere this time. Whoever removed the file wants no token lying there."""
        file = self.path / "credentials.toml"
        try:
            credentials = tomllib.loads(file.read_text())
            if credentials["url"] != url:
                self._write_credentials(url, credentials["account_id"], credentials["token"])
        except FileNotFoundError:
            return
        except (tomllib.TOMLDecodeError, KeyError) as error:
            raise Invalid(f"{file} is damaged ({error!r}). Restore or remove it.") from error


def _what_to_do(version: int) -> str:
    if version > FORMAT_VERSION:
        return "Use the version of penstock that wrote it, or a newer one."
    return (
        "Nothing converts it: give another --data-dir. What waits in the old one is delivered by the version of "
        "penstock that wrote it, when its pipelines are deleted."
    )


def _key_is_gone(path: Path, key_id: str | None, problem: str) -> str:
    return (
        f"Secrets of this server are sealed with the key {key_id}, and the secret key file {path} {problem}. "
        "Restore that file from a backup, or name its place with --secret-key-file. If it is lost, remove "
        '"secret_key_id" from instance.json, start, and give the pipelines their credentials anew.'
    )


def _write_durably(path: Path, content: bytes, mode: int) -> None:
    unfinished = path.with_name(path.name + ".new")
    with contextlib.suppress(FileNotFoundError):
        unfinished.unlink()
    fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
