"""Attacks that try to leave the sandbox: by writing outside, by privileges, by namespaces and by system calls."""

from __future__ import annotations

import ctypes
import glob
import os
import shutil
import stat
import struct
import subprocess
import sys

from llmrl.sandbox.attacks.attack import attack
from llmrl.sandbox.attacks.hostile import NUMBERS, attempt, breached, call, libc, show, targets, trying


@attack(real=True)
def write_outside():
    """Change, add to, rename and delete files of the trainer's."""
    for path in (targets.canary, f"/proc/self/root{targets.canary}", "../" * 40 + targets.canary):
        for flags in (os.O_WRONLY, os.O_RDWR | os.O_TRUNC, os.O_APPEND | os.O_WRONLY):
            with trying():
                os.write(os.open(path, flags), b"harmed")
    for change in (
        lambda: os.chmod(targets.canary, 0),
        lambda: os.utime(targets.canary, (0, 0)),
        lambda: os.rename(targets.canary, f"{targets.canary}.moved"),
        lambda: os.unlink(targets.canary),
        lambda: os.mkdir(f"{targets.folder}/made"),
        lambda: os.symlink("/", f"{targets.folder}/link"),
    ):
        with trying():
            change()


@attack()
def write_anywhere():
    """Make a file in any folder but one's own."""
    places = [targets.folder, targets.working_directory, targets.home, targets.runners, *targets.packages, *sys.path]
    places += ["/", "/tmp", "/var/tmp", "/dev", "/dev/shm", "/dev/mqueue", "/run", "/proc", "/sys", "/etc", "/usr"]
    places.append(os.path.dirname(os.getcwd()))
    own = os.path.realpath(".")
    for folder in places:
        if os.path.realpath(folder or ".") != own:
            with trying():
                os.close(os.open(f"{folder}/llmrl-attack", os.O_CREAT | os.O_WRONLY))
                breached(folder)
                os.unlink(f"{folder}/llmrl-attack")
            with trying():
                os.mkdir(f"{folder}/llmrl-attack-folder")
                breached(folder)
                os.rmdir(f"{folder}/llmrl-attack-folder")


@attack()
def change_what_others_run():
    """Change the sandbox's own code, the interpreter and its packages."""
    paths = [*glob.glob(f"{targets.runners}/*.py"), os.__file__, sys.executable, *glob.glob("/usr/bin/*")[:20]]
    for path in (*paths, os.path.realpath("/proc/self/exe")):
        for change in (
            lambda p: os.open(p, os.O_WRONLY),
            lambda p: os.chmod(p, 0o777),
            lambda p: os.rename(p, p + "x"),
        ):
            if attempt(change, path):
                breached(path)


def _planter() -> None:
    """Put modules where a later program's imports may find them; other users may find only a harmless one."""
    for folder in (".", "..", targets.runners, *targets.packages):
        own = folder.startswith(".")
        for name in ("json", "fractions", "script", "numpy") if own else ("llmrl_attack",):
            with trying(), open(f"{folder}/{name}.py", "w") as file:
                file.write("print('BREACHED planted', __file__, flush=True)\n")


@attack(before=_planter)
def planted_modules():
    """Have a later program import what an earlier one put there."""
    for name in ("json", "fractions", "script", "numpy", "llmrl_attack"):
        for loaded in [one for one in sys.modules if one.partition(".")[0] == name]:
            del sys.modules[loaded]
        with trying():
            __import__(name)


@attack()
def settings_of_the_system():
    """Write to the kernel's settings and triggers."""
    paths = ["/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname"]
    paths += [
        "/proc/sys/vm/drop_caches",
        "/proc/sys/kernel/modprobe",
        "/proc/sys/kernel/ns_last_pid",
        "/proc/sys/fs/binfmt_misc/register",
    ]
    paths += ["/sys/kernel/uevent_helper", "/sys/power/state", "/sys/fs/cgroup/cgroup.procs", "/proc/self/setgroups"]
    paths += ["/proc/self/uid_map", "/proc/self/timerslack_ns", "/proc/self/attr/current", "/proc/pressure/memory"]
    for path in paths:
        if attempt(os.open, path, os.O_WRONLY):
            breached(path)


@attack()
def become_root():
    """Take another user's number, or a capability."""
    for change in (
        lambda: os.setuid(0 if os.getuid() else 1),
        lambda: os.setresuid(0, 0, 0),
        lambda: os.setgid(0 if os.getgid() else 1),
        lambda: os.setgroups([0]),
        lambda: os.seteuid(0 if os.getuid() else 1),
    ):
        if attempt(change):
            breached(f"{os.getresuid()}")
    header, everything = struct.pack("Ii", 0x20080522, 0), struct.pack("6I", *(0xFFFFFFFF,) * 6)
    if libc.capset(header, everything) == 0:
        breached("capabilities")
    held = ctypes.create_string_buffer(24)
    if libc.capget(header, held) == 0 and any(held.raw):
        breached(f"holds {held.raw.hex()}")
    if libc.prctl(39, *(ctypes.c_ulong(0),) * 4) != 1:
        breached("programs that give privileges would give them")


@attack()
def programs_that_give_privileges():
    """Start programs that run as root whoever starts them, or that have capabilities."""
    lines = [
        "su -c 'echo BREACHED'",
        "sudo -n echo BREACHED",
        "mkdir m; mount -t tmpfs x m && echo BREACHED && umount m",
    ]
    lines += ["newuidmap $$ 0 0 1 && echo BREACHED", "newgrp root -c 'echo BREACHED'", "pkexec echo BREACHED"]
    lines += ["chroot / echo BREACHED", "unshare -Ur echo BREACHED", "setpriv --clear-groups echo BREACHED"]
    lines += ["bwrap --dev-bind / / echo BREACHED", "setpriv --reuid 0 echo BREACHED", "nsenter -t 1 -a echo BREACHED"]
    for line in lines:
        with trying():
            quiet = {"capture_output": True, "stdin": subprocess.DEVNULL, "timeout": 2}
            show(subprocess.run(["/bin/sh", "-c", line], **quiet).stdout)


@attack()
def own_program_that_gives_privileges():
    """Make a program that gives privileges oneself."""
    shutil.copy("/bin/sh", "sh")
    with trying():
        os.chown("sh", 0, 0)
    with trying():
        os.chmod("sh", 0o6755)
    with trying():
        os.setxattr("sh", "security.capability", struct.pack("<5I", 0x2000001, 0xFFFFFFFF, 0, 0xFFFFFFFF, 0))
        breached("capabilities of a file")
    found = subprocess.run(["./sh", "-pc", "cat /proc/self/status; id -u; exit 0"], capture_output=True, timeout=2)
    lines = found.stdout.decode().splitlines()
    gained = [line for line in lines if line.startswith(("CapEff", "CapPrm")) and int(line.split()[1], 16)]
    if gained or (os.stat("sh").st_uid == 0 and os.getuid()):
        breached(gained)


@attack()
def namespaces():
    """Make namespaces of one's own, where one would be root again."""
    for flag in (0x80, 0x20000, *(1 << bit for bit in range(25, 31))):
        if call("unshare", flag) >= 0:
            breached(f"unshare {flag:#x}")
        if flag > 0x80 and (made := call("clone", flag | 17, 0, 0, 0, 0)) >= 0:
            breached(f"clone {flag:#x}") if made else os._exit(0)
        if (made := call("clone3", struct.pack("11Q", flag, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0), 88)) >= 0:
            breached(f"clone3 {flag:#x}") if made else os._exit(0)


@attack()
def namespaces_of_others():
    """Enter the namespaces of the supervisor or of whoever can be seen."""
    for pid in ("1", "self", f"{targets.trainer}", f"{targets.victim}"):
        for name in ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time"):
            with trying():
                if call("setns", os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY), 0) >= 0:
                    breached(f"{pid} {name}")


@attack()
def mounts():
    """Mount, unmount, move or change the root, the old way and the new."""
    os.mkdir("m")
    tries = {
        "mount": lambda: call("mount", b"x", b"m", b"tmpfs", 0, None),
        "bind": lambda: call("mount", b"/", b"m", None, 4096, None),
        "remount": lambda: call("mount", None, b"/", None, 32 | 4096, None),
        "writable": lambda: call("mount_setattr", -100, b"/", 0, struct.pack("4Q", 0, 1, 0, 0), 32),
        "umount": lambda: call("umount2", b"/proc", 2),
        "umount own": lambda: call("umount2", b".", 2),
        "pivot_root": lambda: call("pivot_root", b".", b"."),
        "chroot": lambda: call("chroot", b"."),
        "fsopen": lambda: call("fsopen", b"tmpfs", 0),
        "open_tree": lambda: call("open_tree", -100, b"/", 1),
    }
    for name, change in tries.items():
        if change() >= 0:
            breached(name)


@attack()
def made_devices():
    """Make a device, which would open whatever it names."""
    for kind, major, minor in ((stat.S_IFBLK, 254, 0), (stat.S_IFBLK, 8, 0), (stat.S_IFCHR, 1, 1)):
        if call("mknodat", -100, b"device", kind | 0o666, os.makedev(major, minor)) >= 0:
            breached(f"{major}:{minor}")


@attack()
def system_calls():
    """Make every system call that programs have no use for and kernels have had holes in."""
    allowed = ("clone", "clone3", "mount", "prlimit64", "rt_sigqueueinfo", "tgkill")  # other attacks make these calls
    for name in NUMBERS:
        if name not in allowed and call(name, 0, 0, 0, 0, 0, 0) not in (-1, -38):  # EPERM, ENOSYS
            breached(name)


@attack()
def ways_out_of_the_root():
    """Walk upwards past the root, from every folder that is open."""
    folder = os.open("/", os.O_RDONLY)
    for _ in range(50):
        above = os.open("..", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = above
    shown = [*targets.visible, "/box", "/proc", "/dev", "/tmp"]
    if hidden := [name for name in os.listdir(folder) if not any(path.startswith(f"/{name}") for path in shown)]:
        breached(hidden)
