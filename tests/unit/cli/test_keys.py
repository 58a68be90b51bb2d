from typer.testing import CliRunner

from treedraft.cli.app import make_app
from treedraft.coordinator.api_keys import TenantRoll


def run(*arguments: str):
    return CliRunner().invoke(make_app(), list(arguments))


def test_the_printed_line_lets_the_printed_key_in(tmp_path):
    result = run("keys", "new", "--tenant", "acme")
    assert result.exit_code == 0, result.stderr
    key, line = result.stdout.splitlines()
    keys, secret = tmp_path / "keys.toml", tmp_path / "secret"
    keys.write_text(f"[keys]\n{line}\n")
    secret.write_text("x" * 32)
    assert TenantRoll(str(keys), str(secret)).tenant_of(key).name == "acme"
    assert key not in line
    assert run("keys", "new", "--tenant", "acme").stdout != result.stdout


def test_a_name_that_no_tenant_has_is_refused():
    result = run("keys", "new", "--tenant", "two words")
    assert result.exit_code == 1
    assert "two words" in result.stderr
    assert result.stdout == ""
