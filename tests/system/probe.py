#!/usr/bin/python3
"""Tries what a sandbox is there to deny: probe.py NAME… prints a JSON object with the outcome of each.

"allowed" means that the kernel was ready to do it; anything else is the reason why not. What would change the machine
under the container is asked for with arguments that the kernel refuses only after it has looked at the rights.
"""
import ctypes
import errno
import json
import mmap
import os
import pathlib
import socket
import stat
import struct
import subprocess
import sys
import tempfile

libc = ctypes.CDLL(None, use_errno=True)
PROBES = {}


class Denied(Exception):
    pass


def probe(function):
    PROBES[function.__name__] = function
    return function


def call(function, *arguments, fine=()):
    """A libc function that returns -1 on failure; errors in fine come after the check of rights."""
    if function(*arguments) == -1 and ctypes.get_errno() not in fine:
        raise OSError(ctypes.get_errno(), function.__name__)


def write(path):
    with open(path, "x", encoding="utf-8"):
        pass
    os.unlink(path)


# --- files ---

@probe
def write_etc():
    write("/etc/dps-probe")


@probe
def write_usr():
    write("/usr/lib/dps-probe")


@probe
def write_others_state():
    write("/var/lib/dps-probe")


@probe
def write_iot_edges_files():
    write("/etc/aziot/dps-probe")
    write("/var/lib/aziot/identityd/dps-probe")


@probe
def write_own_state():
    write(os.environ["STATE_DIRECTORY"] + "/dps-probe")


@probe
def look_into_home():
    if "dps-probe-marker" not in os.listdir("/root"):
        raise Denied("empty")


@probe
def see_others_temporary_files():
    if not os.path.exists("/tmp/dps-probe-marker"):
        raise Denied("not there")


@probe
def make_set_user_id_program():
    with tempfile.NamedTemporaryFile() as file:
        os.chmod(file.name, stat.S_ISUID | 0o700)


@probe
def become_root_by_set_user_id():
    seen = subprocess.run(["/usr/lib/dps-probe-id", "-u"], capture_output=True, text=True, check=False).stdout.strip()
    if seen != "0":
        raise Denied("has no effect")


@probe
def leave_file_readable_for_all():
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory) / "file"
        path.write_text("")
        if not path.stat().st_mode & 0o077:
            raise Denied("mode 0600")


@probe
def see_who_owns_a_file():
    if os.stat("/usr/lib/dps-probe-owned").st_uid == 65534:
        raise Denied("nobody")


# --- devices ---

@probe
def open_another_device():
    os.close(os.open("/dev/dps-probe", os.O_RDONLY))


@probe
def open_the_random_device():
    os.close(os.open("/dev/urandom", os.O_RDONLY))


# --- the kernel ---

@probe
def load_a_module():
    call(libc.syscall, 175, b"junk", 4, b"", fine=(errno.ENOEXEC, errno.EINVAL, errno.ENOSYS))  # init_module


@probe
def set_the_clock():
    timex = struct.pack("=I4xqqqi4xqqq", 0x4000, 0, 0, 0, 0, 0, 0, 0).ljust(208, b"\0")  # ADJ_TICK, to 0
    call(libc.adjtimex, timex, fine=(errno.EINVAL,))


@probe
def read_the_kernels_log():
    call(libc.klogctl, 10, None, 0)


@probe
def change_a_kernel_tunable():
    os.close(os.open("/proc/sys/kernel/domainname", os.O_WRONLY))


@probe
def set_the_host_name():
    name = socket.gethostname().encode()
    call(libc.sethostname, name, len(name))


@probe
def make_a_control_group():
    os.mkdir("/sys/fs/cgroup/dps-probe")
    os.rmdir("/sys/fs/cgroup/dps-probe")


@probe
def mount_a_file_system():
    call(libc.mount, b"tmpfs", b"/mnt", b"tmpfs", 0, None)
    call(libc.umount, b"/mnt")


@probe
def make_a_namespace():
    call(libc.unshare, 0x04000000)  # CLONE_NEWUTS


@probe
def reboot():
    call(libc.syscall, 169, 0, 0, 0, None, fine=(errno.EINVAL,))


# --- other processes ---

@probe
def trace_a_process():
    call(libc.ptrace, 0x4206, 1, None, None)  # PTRACE_SEIZE


@probe
def see_other_processes():
    with open("/proc/1/environ", "rb"):
        pass


@probe
def become_another_user():
    call(libc.setresuid, 5, 5, -1)


# --- itself ---

@probe
def write_and_execute_memory():
    mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC).close()


@probe
def change_its_personality():
    call(libc.personality, 0x0008)


@probe
def run_32_bit_code():
    if subprocess.run(["/usr/lib/dps-probe-32"], check=False).returncode != 0:
        raise Denied("killed")


@probe
def take_realtime_priority():
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))


@probe
def change_its_priority():
    os.setpriority(os.PRIO_PROCESS, 0, 1)


# --- the network ---

@probe
def connect_to_the_network():
    socket.create_connection(("127.0.0.1", int(os.environ["PROBE_PORT"])), timeout=5).close()


@probe
def open_a_raw_socket():
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()


@probe
def listen_for_kernel_events():
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15).close()


def outcome(name):
    """In a child: it may lose rights on the way, or be killed."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            PROBES[name]()
            text = "allowed"
        except OSError as error:
            text = errno.errorcode.get(error.errno, str(error))
        except Denied as reason:
            text = str(reason)
        except BaseException as error:
            text = f"broken: {error!r}"
        os.write(writer, text.encode())
        os._exit(0)
    os.close(writer)
    text = os.read(reader, 4096).decode()
    os.close(reader)
    _, status = os.waitpid(child, 0)
    return text or f"killed by signal {os.WTERMSIG(status)}"


print(json.dumps({name: outcome(name) for name in sys.argv[1:] or PROBES}))
