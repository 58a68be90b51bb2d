"""Keys of the door: who holds one speaks for a tenant.

The file holds hashes, so that who reads it gets no key. A key is 256 random
bits: nobody finds it by trying, and a plain SHA-256 is as good as a slow
password hash, which would only make every request slower. The file is looked
at for each request and read when it has changed; one that is broken by then
leaves the keys as they were.

    [keys]
    "<sha256 of the key>" = "acme"

    [tenants.acme]
    requests_at_once = 8
    requests_per_minute = 120
    tokens_per_minute = 20000
    tokens_per_day = 1000000
    suspended = false
"""

import hashlib
import hmac
import re
import secrets
import tomllib
from pathlib import Path
from typing import Annotated

import structlog
from pydantic import Field, StringConstraints, ValidationError

from treedraft.coordinator.tenant import ANONYMOUS, Tenant, TenantLimits, derive_salt
from treedraft.core.errors import (
    InvalidRequestError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from treedraft.settings import FileStamp, Frozen, file_stamp

API_KEY_REQUIRED = "API_KEY_REQUIRED"
API_KEY_INVALID = "API_KEY_INVALID"
TENANT_SUSPENDED = "TENANT_SUSPENDED"
NOT_AN_OPERATOR = "NOT_AN_OPERATOR"
KEYS_FILE_UNREADABLE = "KEYS_FILE_UNREADABLE"
KEYS_FILE_INVALID = "KEYS_FILE_INVALID"
TENANT_SECRET_REQUIRED = "TENANT_SECRET_REQUIRED"
TENANT_SECRET_TOO_SHORT = "TENANT_SECRET_TOO_SHORT"

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_KEY_PREFIX = "td-"
_KEY_BYTES = 32
_MIN_SECRET_BYTES = 32

_log = structlog.get_logger(__name__)

_Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
_Name = Annotated[str, StringConstraints(pattern=f"^{_NAME}$")]


class _TenantEntry(Frozen):
    """A tenant as the file has it."""

    requests_at_once: int = Field(default=0, ge=0)
    requests_per_minute: int = Field(default=0, ge=0)
    tokens_per_minute: int = Field(default=0, ge=0)
    tokens_per_day: int = Field(default=0, ge=0)
    suspended: bool = False
    operator: bool = False

    def limits(self) -> TenantLimits:
        """Return the limits."""
        return TenantLimits(
            self.requests_at_once,
            self.requests_per_minute,
            self.tokens_per_minute,
            self.tokens_per_day,
        )


class _KeysFile(Frozen):
    """The whole file."""

    keys: dict[_Digest, _Name] = Field(default_factory=dict)
    tenants: dict[_Name, _TenantEntry] = Field(default_factory=dict)


def new_key() -> str:
    """Return a new key; it is kept nowhere."""
    return _KEY_PREFIX + secrets.token_urlsafe(_KEY_BYTES)


def key_line(api_key: str, tenant: str) -> str:
    """Return the line that lets a key in, for `[keys]` of the file.

    Raises:
        InvalidRequestError: no tenant can be called like that.
    """
    if not re.fullmatch(_NAME, tenant):
        raise InvalidRequestError(
            f"a tenant's name has 1 to 64 letters, digits, dots, dashes and underscores, "
            f"unlike {tenant!r}",
            field="tenant",
        )
    return f'"{_digest(api_key)}" = "{tenant}"'


def _digest(api_key: str) -> str:
    return hashlib.sha256(api_key.encode()).hexdigest()


class TenantRoll:
    """The tenants of a keys file; without a file, one that is anonymous."""

    def __init__(self, keys_file: str = "", tenant_secret_file: str = "") -> None:
        """Read both files.

        Raises:
            InvalidRequestError: a file cannot be used; the reason says why.
        """
        self._path = keys_file
        self._stamp: FileStamp | None = None
        self._content = _KeysFile()
        self._secret = b""
        if keys_file:
            self._secret = _read_secret(tenant_secret_file)
            self._read()

    @property
    def is_open(self) -> bool:
        """Whether everybody is let in, as the anonymous tenant."""
        return not self._path

    def tenant_of(self, api_key: str) -> Tenant:
        """Return whom a key speaks for.

        Raises:
            UnauthenticatedError: API_KEY_REQUIRED or API_KEY_INVALID.
            PermissionDeniedError: TENANT_SUSPENDED.
        """
        if self.is_open:
            return ANONYMOUS
        self._follow_file()
        if not api_key:
            raise UnauthenticatedError(
                "an API key is needed: authorization: Bearer …", reason=API_KEY_REQUIRED
            )
        name = self._find(_digest(api_key))
        if not name:
            raise UnauthenticatedError("no tenant has this API key", reason=API_KEY_INVALID)
        if self._entry(name).suspended:
            raise PermissionDeniedError(f"tenant {name} is suspended", reason=TENANT_SUSPENDED)
        return self.tenant_named(name)

    def check_operator(self, api_key: str) -> None:
        """Refuse whoever may not change how the cluster works; an open door refuses nobody.

        Raises:
            UnauthenticatedError: API_KEY_REQUIRED or API_KEY_INVALID.
            PermissionDeniedError: TENANT_SUSPENDED or NOT_AN_OPERATOR.
        """
        tenant = self.tenant_of(api_key)
        if not self.is_open and not self._entry(tenant.name).operator:
            raise PermissionDeniedError(
                f"tenant {tenant.name} is no operator", reason=NOT_AN_OPERATOR
            )

    def tenant_named(self, name: str) -> Tenant:
        """Return a tenant by name, as the store keeps it; the empty one is anonymous."""
        if not name:
            return ANONYMOUS
        return Tenant(name, derive_salt(self._secret, name), self._entry(name).limits())

    def _entry(self, name: str) -> _TenantEntry:
        return self._content.tenants.get(name) or _TenantEntry()

    def _find(self, digest: str) -> str:
        # All of them, whichever fits: the time says nothing of what is in the file.
        found = ""
        for known, name in self._content.keys.items():
            if hmac.compare_digest(known, digest):
                found = name
        return found

    def _follow_file(self) -> None:
        if file_stamp(self._path) == self._stamp:
            return
        try:
            self._read()
        except InvalidRequestError as error:
            _log.error("keys not taken over", reason=error.reason, why=error.message)
        else:
            _log.info("keys taken over", num_keys=len(self._content.keys))

    def _read(self) -> None:
        self._stamp = file_stamp(self._path)  # before reading, so that no change is missed
        try:
            self._content = _KeysFile.model_validate(tomllib.loads(_read_text(self._path)))
        except ValidationError as error:
            problem = error.errors(include_input=False)[0]
            place = ".".join(str(part) for part in problem["loc"])
            raise _wrong(f"{self._path}: {place}: {problem['msg']}", KEYS_FILE_INVALID) from None
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise _wrong(f"{self._path}: {error}", KEYS_FILE_INVALID) from None


def _read_secret(path: str) -> bytes:
    if not path:
        raise InvalidRequestError(
            "keys need a secret of the deployment, from which each tenant's salt is made",
            field="door.tenant_secret_file",
            reason=TENANT_SECRET_REQUIRED,
        )
    secret = _read_text(path).strip().encode()
    if len(secret) < _MIN_SECRET_BYTES:
        raise _wrong(f"{path}: {_MIN_SECRET_BYTES} bytes are the least", TENANT_SECRET_TOO_SHORT)
    return secret


def _read_text(path: str) -> str:
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise _wrong(f"cannot read {path}: {why}", KEYS_FILE_UNREADABLE) from error


def _wrong(message: str, reason: str) -> InvalidRequestError:
    return InvalidRequestError(message, field="door", reason=reason)
