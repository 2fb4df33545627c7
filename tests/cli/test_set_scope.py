"""Suite "cli": set-scope and config, and what a reset leaves of them."""
import json
import os
import re

import pytest
from harness import SCOPE, own_etc, wait_for
from test_daemon_verbs import NO_EDGE, cli


@pytest.mark.namespaces
def test_set_scope_writes_a_drop_in(new_world):
    w = new_world(**NO_EDGE)
    prefix = own_etc(w)
    result = cli(w, "set-scope", "0ne00ABCDEF", prefix=prefix)
    dropin = w.dir / "etc/dps-provisiond/provisiond.conf.d/50-scope.conf"
    assert result.returncode == 0 and "0ne00ABCDEF (/etc/dps-provisiond/provisiond.conf.d/50-scope.conf:3)" in result.stdout
    assert "daemon does not run" in result.stdout
    assert "IdScope=0ne00ABCDEF\n" in dropin.read_text() and dropin.stat().st_mode & 0o777 == 0o644
    inode = dropin.stat().st_ino
    (w.dir / "etc/dps-provisiond/provisiond.conf").write_text("[Provisioning]\nIdScope=0ne00OLD\n")
    result = cli(w, "set-scope", "0ne00NEW", prefix=prefix)
    assert result.returncode == 0 and "overrides /etc/dps-provisiond/provisiond.conf:2" in result.stdout, result
    assert dropin.stat().st_ino != inode and os.listdir(dropin.parent) == ["50-scope.conf"]  # replaced whole
    (dropin.parent / "90-site.conf").write_text("[Provisioning]\nIdScope=0ne00SITE\n")
    result = cli(w, "set-scope", "0ne00NEW", prefix=prefix)
    assert result.returncode == 1 and re.search("90-site.conf:2 sets IdScope=0ne00SITE and wins", result.stderr), result
    for bad in ("", "a b", "0ne_", "x" * 65):
        assert cli(w, "set-scope", bad, prefix=prefix).returncode == 2
    assert cli(w, "set-scope", prefix=prefix).returncode == 2
    assert "0ne00NEW" in dropin.read_text()


@pytest.mark.namespaces
def test_set_scope_makes_directories_that_the_daemon_may_read(new_world):
    w = new_world(**NO_EDGE)
    result = cli(w, "set-scope", SCOPE, prefix=("sh", "-c", 'umask 077 && exec "$@"', "sh", *own_etc(w)))
    assert result.returncode == 0, result
    for name in ("", "provisiond.conf.d"):
        assert (w.dir / "etc/dps-provisiond" / name).stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("text", ["[Provisioning]\r\nIdScope=0ne00OLD\r\n", "\ufeff[Provisioning]\nIdScope=0ne00OLD\n",
                                  "[Provisioning]\nIdScope : 0ne00OLD\n", "  [Provisioning] \n\tIdScope = 0ne00OLD"])
def test_set_scope_finds_the_line_however_it_is_written(new_world, text):
    """And behind a link, which stays."""
    w = new_world(**NO_EDGE)
    (w.dir / "scope.txt").write_bytes(text.encode())
    (link := w.dir / "scope.conf").symlink_to("scope.txt")
    result = cli(w, "set-scope", "0ne00NEW", f"--config={link}")
    assert result.returncode == 0 and "overrides" not in result.stdout, result
    assert link.is_symlink() and "OLD" not in (w.dir / "scope.txt").read_text()
    assert "IdScope=0ne00NEW\n" in cli(w, "config", f"--config={link}").stdout


@pytest.mark.namespaces
def test_set_scope_keeps_the_rest_of_its_drop_in(new_world):
    w = new_world(**NO_EDGE)
    prefix = own_etc(w)
    dropin = w.dir / "etc/dps-provisiond/provisiond.conf.d/50-scope.conf"
    dropin.parent.mkdir(parents=True)
    dropin.write_text("# ours\n[HandOff]\nAllowedHubs=hub-a.example\n[Provisioning]\nRegistrationId=gw-1\nIdScope=0ne00OLD\n")
    dropin.chmod(0o640)
    os.chown(dropin, 0, 4)
    assert cli(w, "set-scope", "0ne00NEW", prefix=prefix).returncode == 0
    assert dropin.read_text() == ("# ours\n[HandOff]\nAllowedHubs=hub-a.example\n[Provisioning]\nIdScope=0ne00NEW\n"
                                  "RegistrationId=gw-1\n")
    assert (dropin.stat().st_mode & 0o777, dropin.stat().st_gid) == (0o640, 4)


@pytest.mark.namespaces
@pytest.mark.parametrize("name, arguments", [("provisiond.conf.d/50-scope.conf", ()),
                                             ("provisiond.conf", ("--config=/etc/dps-provisiond/provisiond.conf",))])
def test_set_scope_does_not_mask_what_a_package_set(new_world, name, arguments):
    w = new_world(**NO_EDGE)
    (w.dir / "vendor" / name).parent.mkdir(parents=True)
    (w.dir / "vendor" / name).write_text("[HandOff]\nAllowedHubs=hub-a.example\n[Provisioning]\nIdScope=0ne00OLD\n")
    vendor = f'mkdir -p /run/dps-provisiond /etc/dps-provisiond && mount --bind {w.dir}/vendor /run/dps-provisiond && exec "$@"'
    prefix = (*own_etc(w), "sh", "-c", vendor, "sh")
    result = cli(w, "set-scope", "0ne00NEW", *arguments, prefix=prefix)
    assert result.returncode == 0 and f"/run/dps-provisiond/{name}" in result.stdout, result
    assert (w.dir / "etc/dps-provisiond" / name).read_text() == "[HandOff]\nAllowedHubs=hub-a.example\n[Provisioning]\nIdScope=0ne00NEW\n"
    config = cli(w, "config", prefix=prefix).stdout
    assert "\nAllowedHubs=hub-a.example\n" in config and "\nIdScope=0ne00NEW\n" in config


@pytest.mark.namespaces
@pytest.mark.parametrize("target", ["/dev/null", "nowhere"])
def test_set_scope_keeps_a_link_that_leads_to_no_file(new_world, target):
    w = new_world(**NO_EDGE)
    prefix = own_etc(w)
    dropin = w.dir / "etc/dps-provisiond/provisiond.conf.d/50-scope.conf"
    dropin.parent.mkdir(parents=True)
    dropin.symlink_to(target)
    result = cli(w, "set-scope", "0ne00NEW", prefix=prefix)
    assert result.returncode == 1 and "50-scope.conf' is a link" in result.stderr and "Remove the link" in result.stderr, result
    assert os.readlink(dropin) == target


@pytest.mark.root
def test_a_file_that_others_may_write_is_ignored_and_named(new_world):
    """By the daemon and by check; what it set before stays until then."""
    w = new_world(**NO_EDGE)
    w.config_path.chmod(0o666)
    w.start_daemon()
    p = w.wait_for_state("unprovisioned")
    warning = next(x for x in w.bus.properties()["Warnings"] if x[0] == "config-ignored")
    assert str(w.config_path) in warning[1] and "chmod go-w" in warning[1], p
    checks = {x["id"]: x for x in json.loads(cli(w, "check", "--json", f"--config={w.config_path}").stdout)["checks"]}
    assert checks["config-files"]["kind"] == "config-ignored" and str(w.config_path) in checks["config-files"]["message"], checks
    result = cli(w, "set-scope", SCOPE, f"--config={w.config_path}")
    assert result.returncode == 1 and "chmod go-w" in result.stderr and "wins" not in result.stderr, result
    w.config_path.chmod(0o644)
    w.enroll(w.enrollment())
    w.wait_for_state("handed-off")


@pytest.mark.smoke
def test_set_scope_reaches_the_daemon(new_world):
    w = new_world(Provisioning={"IdScope": None}, **NO_EDGE)
    w.enroll(w.enrollment())
    w.start_daemon()
    w.wait_for_state("unprovisioned")
    before = w.config_path.read_text()

    def taken():
        result = cli(w, "set-scope", SCOPE, f"--config={w.config_path}")
        assert result.returncode == 0, result
        return "The daemon has taken it" in result.stdout

    wait_for("the daemon to take it", taken)  # in time, too: on a machine that is too busy for that, once more
    w.wait_for_state("handed-off")
    assert w.config_path.read_text().replace(f"IdScope={SCOPE}\n", "") == before


def test_set_scope_names_a_mistake_that_is_in_the_way(new_world):
    w = new_world(**NO_EDGE)
    with w.config_path.open("a") as file:
        file.write("[Retry]\nMaxSec=never\n")
    number = len(w.config_path.read_text().splitlines())
    result = cli(w, "set-scope", "0ne00NEW", f"--config={w.config_path}")
    assert result.returncode == 1 and "The ID scope is 0ne00NEW" in result.stdout, result
    assert f"{w.config_path}:{number}: MaxSec=never is not allowed" in result.stderr and "Correct" in result.stderr


@pytest.mark.namespaces
def test_config_says_where_from(new_world):
    w = new_world()
    prefix = own_etc(w)
    etc = w.dir / "etc/dps-provisiond"
    (etc / "provisiond.conf.d").mkdir(parents=True)
    (etc / "provisiond.conf").write_text("[Provisioning]\nIdScope=0ne00A\n[Network]\nProxy=http://u:secret@p:1\n")
    (etc / "provisiond.conf.d/10-x.conf").write_text("[Provisioning]\n\nIdScope=0ne00B\n")
    result = cli(w, "config", prefix=prefix)
    assert result.returncode == 0 and result.stderr == "", result
    assert ("# /etc/dps-provisiond/provisiond.conf.d/10-x.conf:3\n# overrides /etc/dps-provisiond/provisiond.conf:2\n"
            "IdScope=0ne00B\n") in result.stdout
    assert "secret" not in result.stdout and "# /etc/dps-provisiond/provisiond.conf:4\nProxy=http://...@p:1\n" in result.stdout
    assert "#GlobalEndpoint=https://global.azure-devices-provisioning.net\n" in result.stdout
    # it is a configuration again, and of the same meaning
    (w.dir / "again.conf").write_text(result.stdout)
    again = cli(w, "config", f"--config={w.dir}/again.conf")
    assert [x for x in again.stdout.split("\n") if "=" in x] == [x for x in result.stdout.split("\n") if "=" in x]
    (etc / "provisiond.conf.d/20-y.conf").write_text("[Retry]\nMaxSec=never\n")
    result = cli(w, "config", prefix=prefix)
    assert result.returncode == 1 and "/20-y.conf:2: MaxSec=never is not allowed" in result.stderr, result


@pytest.mark.namespaces
def test_reset_removes_the_scope_from_every_file(new_world):
    w = new_world(**NO_EDGE)
    prefix = own_etc(w)
    etc = w.dir / "etc/dps-provisiond"
    (etc / "provisiond.conf.d").mkdir(parents=True)
    (etc / "provisiond.conf").write_text("# mine\n[Provisioning]\nIdScope=0ne00A\nRegistrationId=gw-1\n")
    cli(w, "set-scope", "0ne00B", prefix=prefix)
    w.start_daemon()
    result = cli(w, "factory-reset", "--yes", prefix=prefix)
    assert result.returncode == 0, result
    assert (etc / "provisiond.conf").read_text() == "# mine\n[Provisioning]\nRegistrationId=gw-1\n"
    assert os.listdir(etc / "provisiond.conf.d") == []


@pytest.mark.namespaces
def test_reset_leaves_a_scope_that_a_package_brought(new_world):
    w = new_world(**NO_EDGE)
    w.start_daemon()
    (w.dir / "credentials").mkdir()
    (w.dir / "credentials/dps.id_scope").write_text("0ne00CRED")
    w.environment["CREDENTIALS_DIRECTORY"] = str(w.dir / "credentials")
    result = cli(w, "factory-reset", "--yes", prefix=own_etc(w))
    assert result.returncode == 1 and "'credential dps.id_scope'" in result.stderr, result
    assert "Nothing was done" in result.stderr and "--keep-scope" in result.stderr
    assert cli(w, "factory-reset", "--yes", "--keep-scope", prefix=own_etc(w)).returncode == 0


@pytest.mark.root
def test_reset_leaves_a_scope_that_only_the_daemon_is_given(new_world):
    """No file has it, and with the daemon's next start it would be back.

    Takes 5 s of real time: the command waits that long for the scope to go.
    """
    w = new_world(Provisioning={"IdScope": None}, **NO_EDGE)
    (w.dir / "credentials").mkdir()
    (w.dir / "credentials/dps.id_scope").write_text(SCOPE)
    w.start_daemon(environment={"CREDENTIALS_DIRECTORY": str(w.dir / "credentials")})
    w.wait("the scope", lambda p: p["IdScope"] == SCOPE)
    reset = ("factory-reset", "--yes", f"--config={w.config_path}")
    result = cli(w, *reset)
    assert result.returncode == 1 and "dps.id_scope" in result.stderr and "Nothing was done" in result.stderr, result
    assert "This will go" not in result.stdout
    result = cli(w, *reset, "--keep-scope")
    assert result.returncode == 0 and "IoT Edge" not in result.stdout, result
