import hashlib

import pytest
import structlog

from treedraft.coordinator.__main__ import open_door
from treedraft.coordinator.api_keys import TenantRoll, key_line, new_key
from treedraft.coordinator.settings import CoordinatorSettings
from treedraft.coordinator.tenant import ANONYMOUS, TenantLimits, derive_salt
from treedraft.core.errors import (
    InvalidRequestError,
    PermissionDeniedError,
    TreedraftError,
    UnauthenticatedError,
)

SECRET = "s" * 32


class Files:
    """A keys file and a secret that the test writes."""

    def __init__(self, folder):
        self.keys = folder / "keys.toml"
        self.secret = folder / "secret"
        self.secret.write_text(SECRET + "\n")

    def write(self, *lines, tenants=""):
        # A new inode, as an editor or a mounted secret makes it.
        new = self.keys.with_suffix(".new")
        new.write_text("\n".join(["[keys]", *lines, tenants]))
        new.replace(self.keys)

    def roll(self):
        return TenantRoll(str(self.keys), str(self.secret))


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


def refusal_of(roll, api_key) -> TreedraftError:
    with pytest.raises(TreedraftError) as caught:
        roll.tenant_of(api_key)
    return caught.value


def test_without_a_file_everybody_is_the_same_tenant():
    assert TenantRoll().tenant_of("") == TenantRoll().tenant_of("anything") == ANONYMOUS
    assert ANONYMOUS.salt == b""


def test_a_key_speaks_for_its_tenant_and_others_for_nobody(files):
    first, second, third = new_key(), new_key(), new_key()
    files.write(key_line(first, "acme"), key_line(second, "acme"), key_line(third, "other"))
    roll = files.roll()
    assert [roll.tenant_of(key).name for key in (first, second, third)] == ["acme", "acme", "other"]
    for wrong in (new_key(), first[:-1], first + "x", "ä"):
        error = refusal_of(roll, wrong)
        assert (type(error), error.reason) == (UnauthenticatedError, "API_KEY_INVALID")
    assert refusal_of(roll, "").reason == "API_KEY_REQUIRED"


def test_the_file_holds_no_key_and_a_hash_of_it_opens_nothing(files):
    key = new_key()
    files.write(key_line(key, "acme"))
    assert key not in files.keys.read_text()
    digest = hashlib.sha256(key.encode()).hexdigest()
    assert digest in files.keys.read_text()
    assert refusal_of(files.roll(), digest).reason == "API_KEY_INVALID"


def test_keys_have_256_bits_and_are_never_the_same():
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert min(len(key) for key in keys) >= len("td-") + 43  # 32 bytes in base64


def test_the_salt_is_stable_secret_and_another_for_each_tenant(files, tmp_path):
    one, other = new_key(), new_key()
    files.write(key_line(one, "acme"), key_line(other, "other"))
    salt = files.roll().tenant_of(one).salt
    assert salt == files.roll().tenant_of(one).salt == derive_salt(SECRET.encode(), "acme")
    assert len(salt) == 32
    assert files.roll().tenant_of(other).salt != salt
    assert files.roll().tenant_named("acme").salt == salt
    assert "salt" not in repr(files.roll().tenant_of(one))
    files.secret.write_text("t" * 32)
    assert files.roll().tenant_of(one).salt != salt


def test_limits_come_with_the_tenant(files):
    key, free = new_key(), new_key()
    tenants = "[tenants.acme]\nrequests_at_once = 2\ntokens_per_day = 9\n"
    files.write(key_line(key, "acme"), key_line(free, "free"), tenants=tenants)
    assert files.roll().tenant_of(key).limits == TenantLimits(requests_at_once=2, tokens_per_day=9)
    assert files.roll().tenant_of(free).limits.is_unlimited


def test_a_suspended_tenant_is_known_and_refused(files):
    key = new_key()
    files.write(key_line(key, "acme"), tenants="[tenants.acme]\nsuspended = true\n")
    error = refusal_of(files.roll(), key)
    assert (type(error), error.reason) == (PermissionDeniedError, "TENANT_SUSPENDED")


def test_a_change_of_the_file_counts_from_the_next_request_on(files):
    old, new = new_key(), new_key()
    files.write(key_line(old, "acme"))
    roll = files.roll()
    assert roll.tenant_of(old).name == "acme"
    files.write(key_line(new, "acme"), tenants="[tenants.acme]\nrequests_at_once = 1\n")
    assert roll.tenant_of(new).limits.requests_at_once == 1
    assert refusal_of(roll, old).reason == "API_KEY_INVALID"


@pytest.mark.parametrize("change", ["broken", "gone"])
def test_a_file_that_breaks_later_leaves_the_keys_and_is_said_once(files, change):
    key = new_key()
    files.write(key_line(key, "acme"))
    roll = files.roll()
    if change == "broken":
        files.write("half a line =")
    else:
        files.keys.unlink()
    with structlog.testing.capture_logs() as logs:
        assert [roll.tenant_of(key).name for _ in range(3)] == ["acme"] * 3
    expected = "KEYS_FILE_INVALID" if change == "broken" else "KEYS_FILE_UNREADABLE"
    assert [log["reason"] for log in logs] == [expected]


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ('[keys]\n"abc" = "acme"', "keys"),
        (f'[keys]\n"{"0" * 64}" = "no name"', "keys"),
        ("[tenants.acme]\nrequests_per_hour = 1", "requests_per_hour"),
        ("[tenants.acme]\ntokens_per_day = -1", "tokens_per_day"),
        ("[kyes]", "kyes"),
        ("keys", "keys.toml"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused_by_name(files, content, word):
    files.keys.write_text(content)
    with pytest.raises(InvalidRequestError, match=word) as caught:
        files.roll()
    assert caught.value.reason == "KEYS_FILE_INVALID"


@pytest.mark.parametrize(
    ("secret", "reason"),
    [
        (None, "TENANT_SECRET_REQUIRED"),
        ("none", "KEYS_FILE_UNREADABLE"),
        ("short", "TENANT_SECRET_TOO_SHORT"),
    ],
)
def test_keys_without_a_secret_are_refused(files, tmp_path, secret, reason):
    files.write(key_line(new_key(), "acme"))
    (tmp_path / "short").write_text("x" * 31)
    with pytest.raises(InvalidRequestError) as caught:
        TenantRoll(str(files.keys), str(tmp_path / secret) if secret else "")
    assert caught.value.reason == reason


def test_a_missing_file_of_keys_is_no_open_door(files):
    with pytest.raises(InvalidRequestError) as caught:
        files.roll()
    assert caught.value.reason == "KEYS_FILE_UNREADABLE"


@pytest.mark.parametrize("name", ["", "a b", '"', "ä", "x" * 65, "-a", "a\n"])
def test_names_that_no_file_can_hold_get_no_key(name):
    with pytest.raises(InvalidRequestError):
        key_line(new_key(), name)


@pytest.mark.parametrize(
    ("has_keys", "has_tls", "num_warnings"), [(True, False, 1), (True, True, 0), (False, False, 0)]
)
def test_keys_that_can_be_overheard_are_worth_a_warning(files, has_keys, has_tls, num_warnings):
    files.write(key_line(new_key(), "acme"))
    door = {"keys_file": str(files.keys), "tenant_secret_file": str(files.secret)}
    settings = CoordinatorSettings(
        door=door if has_keys else {}, tls={"ca": "ca.pem"} if has_tls else {}
    )
    with structlog.testing.capture_logs() as logs:
        assert open_door(settings).is_open is not has_keys
    assert [log["log_level"] for log in logs] == ["warning"] * num_warnings
