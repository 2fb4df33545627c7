"""Suite "handoff": config.toml on file systems that refuse, fill up or fail, and what is kept of the old file."""
import errno
import os
import shutil
import signal
import subprocess
import tomllib

import pytest
from handoff import (members, EDGED, OPERATORS, Caller, applied_path, backups, info_path, info_text, ours, prepared, queued,
                     record_path, snapshot, stopped_path, temporary_files, write_config_toml)
from harness import BUILD, wait_for


FAR_ENOUGH = {"units": {EDGED: {"start": "fail"}}}  # the files are written; there is no key here for a hub to accept


def new_namespace(world, script):
    """A prefix that runs the helper in a mount namespace of its own, after some shell commands with $ROOT."""
    return ["env", f"ROOT={world.root}", "unshare", "--mount", "sh", "-ec", f'{script}\nexec "$@"', "sh"]


def failing(call, error, when="1+"):
    """A prefix that makes a system call of the helper fail."""
    return ["strace", "--quiet=all", "-o", "/dev/null", "-e", f"trace={call}", "-e",
            f"inject={call}:error={error}:when={when}"]


def attempt(world, caller, kind, *words, **changes):
    """Apply that has to fail so, without a file of IoT Edge touched, a unit stopped or a temporary file left."""
    before = world.config_toml.read_bytes() if world.config_toml.is_file() else None
    jobs = len(queued(world))
    found, sentence = caller.apply_refused(**changes)
    assert found == kind and all(word in sentence for word in words), (found, sentence)
    assert len(queued(world)) == jobs and not stopped_path(world).exists() and not info_path(world).exists()
    if before is not None:
        assert world.config_toml.read_bytes() == before
    return sentence


def works(world, caller):
    """The same call once what was wrong is gone; nothing of the attempts is left."""
    world.standin_faults(**FAR_ENOUGH)
    kind, _ = caller.apply_refused()
    assert kind == "restart-failed" and "gw-1" in world.config_toml.read_text()
    assert not temporary_files(world)


# --- what is kept ---

@pytest.mark.root
def test_owner_mode_and_attributes_stay(new_world):
    w = prepared(new_world, OPERATORS)
    w.config_toml.chmod(0o640)
    os.chown(w.config_toml, 1234, 4321)
    acl = bytes.fromhex("02000000" "01000600ffffffff" "02000400d2040000" "04000400ffffffff" "10000400ffffffff"
                        "20000000ffffffff")
    attributes = {"user.note": b"by hand\0\xff", "user.empty": b"", "security.test": b"label",
                  "system.posix_acl_access": acl}
    for name, value in attributes.items():
        os.setxattr(w.config_toml, name, value)
    before = w.config_toml.stat()
    with Caller(w) as caller:
        works(w, caller)
    for path in (w.config_toml, backups(w)[0]):
        after = path.stat()
        assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, 1234, 4321)
        assert {name: os.getxattr(path, name) for name in os.listxattr(path)} == attributes
    assert w.config_toml.stat().st_ino != before.st_ino
    assert backups(w)[0].read_text() == OPERATORS


def test_backups_are_few_and_the_first_one_stays(new_world):
    w = prepared(new_world, OPERATORS)
    w.standin_faults(**FAR_ENOUGH)
    with Caller(w) as caller:
        texts = [OPERATORS]
        for number in range(1, 9):
            for _ in range(2):  # the second one changes nothing, so nothing is kept again
                caller.apply_refused(registrationId=f"gw-{number}")
            assert backups(w)[-1].read_text() == texts[-1]
            texts.append(w.config_toml.read_text())
    assert [path.name.rpartition("-")[2] for path in backups(w)] == ["1", "5", "6", "7", "8"]
    assert [path.read_text() for path in backups(w)] == [texts[0], *texts[4:8]]
    assert len(set(texts)) == len(texts)


def test_operators_files_stay(new_world):
    """Also those whose names look temporary."""
    w = prepared(new_world, OPERATORS)
    files = [w.config_toml.with_name(".config.toml.backup"), info_path(w).with_name(".device_info.before"),
             applied_path(w).with_name(".00-super.toml.Xf3a9Q")]
    for path in files:
        path.write_text("by hand")
    with Caller(w) as caller:
        assert caller.ask("Check", "us", 4, "gw-1")["result"] == "ready"
    assert [path.read_text() for path in files] == ["by hand"] * 3


@pytest.mark.parametrize("number", [1, 2])
def test_rename_that_fails(new_world, number):
    """It comes after the stop, so what was stopped runs again; the backup is not made again."""
    w = prepared(new_world, OPERATORS)
    info_path(w).write_text("")
    with Caller(w) as caller:
        caller.start_helper(*failing("renameat2", "EIO", number))
        before, running = snapshot(w, "etc/aziot", "var/lib/aziot"), caller.unit("aziot-tpmd.socket")
        assert caller.apply_refused()[0] == "storage"
        after = snapshot(w, "etc/aziot", "var/lib/aziot")
        assert {path: after[path] for path in before} == before and len(after) == len(before) + 1
        assert [path.read_text() for path in backups(w)] == [OPERATORS] and running == caller.unit("aziot-tpmd.socket")
        assert not stopped_path(w).exists() and not temporary_files(w)
        caller.stop_helper()
        works(w, caller)
        assert [path.read_text() for path in backups(w)] == [OPERATORS]


@pytest.mark.parametrize("error", ["EINVAL", "ENOSYS"])
@pytest.mark.parametrize("info", ["old", None])
def test_names_that_can_not_be_exchanged(new_world, error, info):
    """A file system that can't, or a kernel or sandbox without renameat2(); there may be no file to exchange."""
    w = prepared(new_world, OPERATORS)
    if info:
        info_path(w).write_text(info)
    w.standin_faults(apply="told to fail")
    with Caller(w) as caller:
        caller.start_helper(*failing("renameat2", error))
        before = snapshot(w, "etc/aziot", "var/lib/aziot")
        assert caller.apply_refused()[0] == "apply-failed"
        after = snapshot(w, "etc/aziot", "var/lib/aziot")
        assert {path: after.get(path) for path in before} == before and info_path(w).exists() == bool(info)
        works(w, caller)


def test_edited_by_somebody_else_meanwhile(new_world):
    """The helper asks identityd, which takes its time; an operator saves the file in between."""
    w = prepared(new_world, OPERATORS, HandOff={"ReplaceProvisioning": "yes"})
    applied_path(w).write_text(ours(w, "gw-0").replace("id_scope", "scope_id"))
    info_path(w).write_text(info_text("localhost:1", "gw-0"))
    with Caller(w) as caller:
        w.standin_faults(identityd="hold")
        caller.job("StartUnit", "aziot-identityd.service")
        under_way = caller.begin_apply()
        wait_for("the question", lambda: w.standin_events("connected"))
        w.config_toml.write_text(OPERATORS + "\n# one more line\n")
        w.standin_faults()
        kind, sentence = caller.failure(under_way)
        assert kind == "storage" and "Somebody else has changed" in sentence
        assert w.config_toml.read_text().endswith("# one more line\n")
        works(w, caller)
    assert "# one more line" in w.config_toml.read_text()


# --- what a new one begins with ---

BASE = """# Ours.
hostname = "gw-17"

[tpm]
auth_key_index = 0x100

[agent]
name = "edgeAgent"
type = "docker"
config.image = "example/agent:1.5"
"""


def write_base(world, text):
    path = world.root / "etc/dps-provisiond/iotedge-base.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_base(new_world):
    w = prepared(new_world)
    write_base(w, BASE)
    with Caller(w) as caller:
        works(w, caller)
    text = w.config_toml.read_text()
    assert text.startswith(BASE) and tomllib.loads(text)["provisioning"]["attestation"]["registration_id"] == "gw-1"
    assert w.config_toml.stat().st_mode & 0o777 == 0o600 and not backups(w)


@pytest.mark.parametrize("text, handle, words", [
    (BASE + "name = 1\n", 0x81000100, ("iotedge-base.toml:11: not TOML",)),
    ('parent_hostname = "up"\n', 0x81000100, ("iotedge-base.toml' sets parent_hostname",)),
    (BASE, 0x81000200, ("iotedge-base.toml' has IoT Edge's key at auth_key_index 0x100", "0x81000200")),
    (None, 0x81000200, ("config.toml' has IoT Edge's key at auth_key_index 0x100", "in '/etc/dps-provisiond/iotedge-base.toml'")),
])
def test_base_that_can_not_be_used(new_world, text, handle, words):
    """Known before the service is asked, like everything else."""
    w = prepared(new_world, Tpm={"HubKeyHandle": f"{handle:#x}"})
    if text:
        write_base(w, text)
    with Caller(w) as caller:
        for method, arguments in (("Check", ("us", 4, "gw-1")), ("Apply", ("a{sv}b", members(), False))):
            kind, sentence = caller.refused(method, *arguments)
            assert kind == "config-conflict" and all(word in sentence for word in words), sentence
        assert not queued(w) and not w.config_toml.exists()


def test_base_with_another_key_index(new_world):
    w = prepared(new_world, Tpm={"HubKeyHandle": "0x81000200"})
    write_base(w, BASE.replace("0x100", "0x2_00"))
    with Caller(w) as caller:
        assert caller.ask("Check", "us", 4, "gw-1")["result"] == "ready"
        write_base(w, 'auto_reprovisioning_mode = "AlwaysOnStartup"\n' + BASE.replace("0x100", "512"))
        answer = caller.ask("Check", "us", 4, "gw-1")
        assert answer["identity"] == "register" and answer["warnings"][0][0] == "reprovisions-itself"


# --- what refuses ---

@pytest.mark.namespaces
@pytest.mark.smoke
def test_full_file_system(new_world):
    w = prepared(new_world, OPERATORS)
    with Caller(w) as caller:
        caller.start_helper(*new_namespace(w, """
            cp -a "$ROOT/etc/aziot" "$ROOT/copy"
            mount -t tmpfs -o size=64k,mode=755 tmpfs "$ROOT/etc/aziot"
            cp -a "$ROOT/copy/." "$ROOT/etc/aziot"
            dd if=/dev/zero of="$ROOT/etc/aziot/filler" bs=4096 2>/dev/null || true"""))
        attempt(w, caller, "storage", "/etc/aziot/config.toml", "No space left", "ENOSPC")
        inside = f"/proc/{w.helper_pids('dps-handoffd')[-1]}/root{w.root}/etc/aziot"
        assert os.listdir(inside) and open(f"{inside}/config.toml", encoding="utf-8").read() == OPERATORS
        assert not [name for name in os.listdir(inside) if name.startswith((".", "config.toml."))]
        os.unlink(f"{inside}/filler")
        assert caller.apply_refused()[0] != "storage"
        assert "gw-1" in open(f"{inside}/config.toml", encoding="utf-8").read()


@pytest.mark.namespaces
@pytest.mark.parametrize("blocks", range(1, 7))
def test_disk_of_the_record_is_nearly_full(new_world, blocks):
    """A full disk is known before a unit is stopped, also when it has room for the first of the helper's files."""
    w = prepared(new_world, OPERATORS)
    w.standin_faults(**FAR_ENOUGH)
    with Caller(w) as caller:
        state = record_path(w).parent
        state.mkdir(exist_ok=True)
        caller.start_helper(*new_namespace(w, f"""
            mount -t tmpfs -o size=64k,mode=700 tmpfs "{state}"
            dd if=/dev/zero of="{state}/filler" bs=4096 count={16 - blocks} 2>/dev/null"""))
        caller.ask("Allow")
        found, sentence = caller.refused("Apply", "a{sv}b", members(), False)
        if found == "storage":
            assert "ENOSPC" in sentence and not queued(w)
        else:
            assert found == "restart-failed" and blocks > 1


@pytest.mark.namespaces
def test_read_only_file_system(new_world):
    w = prepared(new_world, OPERATORS)
    script = 'mount --bind "$ROOT/etc" "$ROOT/etc" && mount -o remount,bind,ro "$ROOT/etc"'
    with Caller(w) as caller:
        caller.start_helper(*new_namespace(w, script))
        attempt(w, caller, "storage", "/etc/aziot'", "Read-only file system")
        wait_for("the helper's end", lambda: not caller.has_owner())  # the next one may see another mount
        caller.start_helper(*new_namespace(w, script))
        assert caller.refused("Check", "us", 4, "gw-1")[0] == "storage"  # known before anything else is done
        wait_for("the helper's end", lambda: not caller.has_owner())
        works(w, caller)


@pytest.mark.parametrize("flag, word", [("i", "immutable"), ("a", "append-only")])
@pytest.mark.parametrize("what", ["file", "directory"])
def test_immutable(new_world, what, flag, word):
    w = prepared(new_world, OPERATORS)
    path = w.config_toml if what == "file" else w.config_toml.parent
    if subprocess.run(["chattr", f"+{flag}", path], capture_output=True, check=False).returncode != 0:
        pytest.skip("the file system has no such flag")
    try:
        with Caller(w) as caller:
            attempt(w, caller, "storage", f"'{path}'", word, f"chattr -{flag} {path}")
            assert caller.refused("Check", "us", 4, "gw-1")[0] == "storage"
    finally:
        subprocess.run(["chattr", f"-{flag}", path], check=True)
    with Caller(w) as caller:
        works(w, caller)


@pytest.mark.parametrize("make, word", [
    (lambda path: path.mkdir(), "is a directory"),
    (os.mkfifo, "is a special file"),
    (lambda path: path.symlink_to("real.toml"), "is a symbolic link"),
    (lambda path: path.symlink_to("nowhere"), "is a symbolic link"),
])
def test_what_is_not_a_file(new_world, make, word):
    w = prepared(new_world, OPERATORS)
    w.config_toml.rename(w.config_toml.with_name("real.toml"))
    make(w.config_toml)
    before = snapshot(w, "etc/aziot")
    with Caller(w) as caller:
        assert word in attempt(w, caller, "config-conflict", f"'{w.config_toml}'")
        assert caller.refused("Check", "us", 4, "gw-1")[0] == "config-conflict"
        assert snapshot(w, "etc/aziot") == before
        shutil.rmtree(w.config_toml) if w.config_toml.is_dir() and not w.config_toml.is_symlink() else \
            w.config_toml.unlink()
        works(w, caller)


# --- what fails ---

@pytest.mark.parametrize("call", ["fsync", "rename,renameat,renameat2", "fchmod", "fchown", "write"])
def test_input_output_errors(new_world, record_property, call):
    """Each call of its kind fails once in a separate run, until there are no more of them.

    Takes up to 20 s, most of it processor time: each run is traced.
    """
    w = prepared(new_world, OPERATORS)
    w.standin_faults(**FAR_ENOUGH)
    failures = 0
    with Caller(w) as caller:
        for n in range(1, 40):
            shutil.rmtree(record_path(w).parent, ignore_errors=True)
            info_path(w).unlink(missing_ok=True)
            for path in backups(w):
                path.unlink()
            write_config_toml(w, OPERATORS)
            caller.start_helper(*failing(call, "EIO", n))
            kind, sentence = caller.apply_refused()
            text = w.config_toml.read_text()
            assert text == OPERATORS or tomllib.loads(text)["provisioning"]["attestation"]["registration_id"] == "gw-1"
            assert not temporary_files(w)
            if kind == "restart-failed" and call != "write":
                break
            if kind == "restart-failed":  # it was a line of the log that could not be written
                continue
            assert kind == "storage" and f"{w.root}/" in sentence and os.strerror(errno.EIO) in sentence, sentence
            failures += 1
        else:
            assert call == "write", "there is no end"
    record_property("failing calls", failures)
    assert failures >= 2


# --- device_info, in a directory of another user ---

TRAPS = {
    "link": lambda path, victim: path.symlink_to(victim),
    "dangling": lambda path, victim: path.symlink_to("/nonexistent/x"),
    "fifo": lambda path, victim: os.mkfifo(path),
    "directory": lambda path, victim: path.mkdir(),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_device_info_that_is_a_trap(new_world, trap):
    w = prepared(new_world, OPERATORS)
    victim = w.dir / "victim"
    victim.write_text("untouched")
    TRAPS[trap](info_path(w), victim)
    before = snapshot(w, "etc", "var/lib/aziot")
    with Caller(w) as caller:
        for method, arguments in (("Check", ("us", 4, "gw-1")), ("Apply", ("a{sv}b", members(), False))):
            kind, sentence = caller.refused(method, *arguments)
            assert kind == "storage" and "device_info' is a" in sentence and "remove it" in sentence
    assert snapshot(w, "etc", "var/lib/aziot") == before and victim.read_text() == "untouched"
    assert not queued(w) and not stopped_path(w).exists()


@pytest.mark.parametrize("how, word", [("link", "symbolic link"), ("parent", "written to by others"),
                                       ("owner", "written to by others")])
@pytest.mark.root
def test_swapped_directory(new_world, how, word):
    w = prepared(new_world, OPERATORS)
    directory = info_path(w).parent
    elsewhere = w.dir / "elsewhere"
    if how == "link":
        directory.rename(elsewhere)
        directory.symlink_to(elsewhere)
    elif how == "parent":
        directory.parent.chmod(0o777)
    else:
        os.chown(directory.parent, 1234, 1234)
    before = snapshot(w, "etc")
    with Caller(w) as caller:
        for method, arguments in (("Check", ("us", 4, "gw-1")), ("Apply", ("a{sv}b", members(), False))):
            kind, sentence = caller.refused(method, *arguments)
            assert kind == "storage" and word in sentence, sentence
    assert snapshot(w, "etc") == before and not queued(w) and not stopped_path(w).exists()
    assert not info_path(w).exists() and not (elsewhere / "device_info").exists()


def test_directory_swapped_while_it_is_written(new_world):
    """Once the directory is open, its name may be anybody's: what is written goes where it was."""
    w = prepared(new_world, OPERATORS)
    directory, elsewhere = info_path(w).parent, w.dir / "elsewhere"
    (w.dir / "trap").mkdir()
    w.standin_faults(**FAR_ENOUGH)
    with Caller(w) as caller:
        helper = caller.start_helper(BUILD / "tests/tools/crash-at", f"--log={w.dir}/calls", "--pause=open .device_info.*", "0")
        under_way = caller.begin_apply()
        wait_for("the write", lambda: "device_info" in (w.dir / "calls").read_text())
        directory.rename(elsewhere)
        directory.symlink_to(w.dir / "trap")
        helper.process.send_signal(signal.SIGUSR1)
        caller.failure(under_way)
    assert (elsewhere / "device_info").read_text() == info_text("localhost:1", "gw-1")
    assert not list((w.dir / "trap").iterdir())
