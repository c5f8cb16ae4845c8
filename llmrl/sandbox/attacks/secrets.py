"""Attacks on secrets: files, environments and memory of other processes."""

from __future__ import annotations

import ctypes
import glob
import os
import struct
import time

from llmrl.sandbox.attacks.attack import attack
from llmrl.sandbox.attacks.hostile import attempt, breached, call, processes, read, show, targets, trying


@attack(real=True)
def own_environment():
    """Read the trainer's environment variables in one's own environment."""
    show(dict(os.environ))


@attack(real=True)
def environments():
    """Read the environment of the trainer and of every process that can be seen."""
    for pid in processes():
        with trying():
            show(read(f"/proc/{pid}/environ"))


@attack(real=True)
def command_lines():
    """Read the command lines of other processes."""
    for pid in processes():
        if pid != os.getpid():
            with trying():
                show(read(f"/proc/{pid}/cmdline"))


@attack(real=True)
def memory_through_proc():
    """Read the memory of other processes through /proc."""
    for pid in processes():
        with trying(), open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
            for line in maps:
                start, end = (int(text, 16) for text in line.split()[0].split("-"))
                if pid != os.getpid() and ("heap" in line or "stack" in line):
                    memory.seek(start)
                    content = memory.read(min(end - start, 1 << 24))
                    place = content.find(targets.mark.encode())
                    show(content[place : place + 60] if place >= 0 else "")


@attack(real=True)
def memory_through_system_calls():
    """Read the memory of other processes with process_vm_readv."""
    buffer = ctypes.create_string_buffer(64)
    local = struct.pack("2Q", ctypes.addressof(buffer), 64)
    for pid in processes():
        with trying():
            place = int(read(f"/proc/{pid}/stat").rpartition(b")")[2].split()[45])  # where its arguments begin
            if pid != os.getpid() and call("process_vm_readv", pid, local, 1, struct.pack("2Q", place, 64), 1, 0) > 0:
                breached(buffer.raw)


@attack()
def memory_of_the_supervisor():
    """Read or write the supervisor's memory and open files."""
    supervisor = os.getppid()
    for name in ("mem", "maps", "environ", "auxv", "fd", "fdinfo", "cwd", "root", "exe", "io", "stack", "syscall"):
        path = f"/proc/{supervisor}/{name}"
        if attempt(os.listdir if name.startswith("fd") else os.readlink, path) or attempt(os.open, path, os.O_RDWR):
            breached(path)
        with trying():
            if read(path):
                breached(path)
    buffer = ctypes.create_string_buffer(64)
    place = struct.pack("2Q", ctypes.addressof(buffer), 64)  # a forked process has the same addresses
    for name in ("process_vm_readv", "process_vm_writev"):
        if call(name, supervisor, place, 1, place, 1, 0) > 0:
            breached(name)


@attack(real=True)
def files_by_path():
    """Read a file of the trainer's by its path, relative ones too."""
    secret = targets.secret
    for path in (secret, "../" * 40 + secret, f"/proc/self/root{secret}", f"//{secret}"):
        with trying():
            show(read(path))


@attack(real=True)
def files_through_links():
    """Read a file of the trainer's through symbolic and hard links in one's own folder."""
    for make in (os.symlink, os.link):
        with trying():
            make(targets.secret, make.__name__)
            show(read(make.__name__))
    with trying():
        os.symlink(os.path.dirname(targets.secret), "folder")
        show(read(f"folder/{os.path.basename(targets.secret)}"))


@attack(real=True)
def files_through_other_processes():
    """Read a file of the trainer's through the root, the working directory and the open files of other processes."""
    for pid in processes():
        for name in ("root", "cwd"):
            with trying():
                show(read(f"/proc/{pid}/{name}/{targets.secret}"))
        with trying():
            for descriptor in os.listdir(f"/proc/{pid}/fd"):
                if pid != os.getpid() and "secret" in os.readlink(f"/proc/{pid}/fd/{descriptor}"):
                    show(read(f"/proc/{pid}/fd/{descriptor}"))


@attack()
def open_descriptors():
    """Find open files that leaked in: anything but stdin, stdout and stderr."""
    for descriptor in range(3, 5000):
        with trying():
            os.fstat(descriptor)
            breached(f"{descriptor}")
            show(os.pread(descriptor, 100, 0))
            show(read(f"/proc/self/fd/{descriptor}/../{os.path.basename(targets.secret)}"))


@attack()
def files_by_handle():
    """Open files by their number in the file system, past all paths."""
    for place in (os.open("/", os.O_RDONLY), os.open(".", os.O_RDONLY)):
        for inode in (1, 2, 3, 11, 12, 128, 256):
            handle = struct.pack("Iiii", 8, 1, inode, 0)
            if (opened := call("open_by_handle_at", place, handle, os.O_RDONLY)) >= 0:
                breached(f"inode {inode}: {os.listdir(opened) if inode == 2 else ''}")


@attack(real=True)
def folders_of_the_user():
    """List the folders that hold what users keep, and read what systems keep secret."""
    private = {targets.folder, targets.working_directory, targets.home}
    for path in {*private, "/root", "/home", "/mnt", "/var", "/opt", "/srv", "/run"} - {"/"}:
        with trying():
            found = [f"{path}/{name}" for name in os.listdir(path)]
            shown = [f"{path}/" for path in targets.visible]
            if hidden := [one for one in found if not any(path.startswith(f"{one}/") for path in shown)]:
                breached(hidden[:5])
    for path in ("/etc/passwd", "/etc/shadow", "/etc/hostname", "/etc/machine-id", "/etc/hosts", "/etc/fstab"):
        with trying():
            breached(f"{path}: {read(path)[:40]}")


@attack()
def devices():
    """Open disks, memory, terminals, accelerators and the kernel's log."""
    # devices that act when they are opened, such as a watchdog, are left out
    names = "mem kmem kmsg kvm fuse tty ptmx console vda sda nvme0n1 loop0 loop-control dm-0 nvidia0 nvidiactl"
    names += " dri/card0 net/tun input/event0 uinput hwrng userfaultfd zero full pts mqueue vsock pts/0 tty1"
    for name in names.split():
        if attempt(os.open, f"/dev/{name}", os.O_RDONLY):
            breached(name)


@attack()
def what_the_kernel_knows():
    """Read the kernel's log, memory and symbols, and the machine's settings."""
    paths = (
        "/proc/kmsg /proc/kcore /proc/kallsyms /proc/sysvipc/shm /proc/keys /proc/config.gz /proc/cmdline /sys/class"
    )
    for path in (*paths.split(), "/sys/kernel/notes", "/sys/fs/cgroup/cgroup.procs", "/boot"):
        with trying():
            if os.listdir(path) if os.path.isdir(path) else read(path):
                breached(path)
    if call("syslog", 3, ctypes.create_string_buffer(4096), 4096) > 0:
        breached("the kernel's log")


def _keeper() -> None:
    """Keep the secret in this program's memory, environment, arguments and folder for a while."""
    os.environ["KEPT"] = kept = read("/dev/stdin").decode()
    with open("kept", "w") as file:
        file.write(kept)
    os.chmod("kept", 0o666)
    time.sleep(1.5)


@attack(beside=_keeper)
def neighbours():
    """Read files, environment and memory of another program that runs at the same time."""
    time.sleep(0.5)
    for pid in range(1, 200):
        if pid != os.getpid():
            for name in ("environ", "cmdline", "cwd/kept", "root/box/kept", "fd/0", "fd/1"):
                with trying():
                    show(read(f"/proc/{pid}/{name}"))
    for folder in ("/box", "/tmp", "/var/tmp", "/dev/shm", "/run", os.path.dirname(os.getcwd()), "."):
        for path in (*glob.glob(f"{folder}/kept"), *glob.glob(f"{folder}/*/kept")):
            show(read(path))


def _leaver() -> None:
    """Leave the secret wherever a later program may look."""
    left = read("/dev/stdin").decode()
    for folder in (".", "..", "/tmp", "/var/tmp", "/dev/shm", "/run", "/box", os.path.expanduser("~")):
        with trying(), open(f"{folder}/left", "w") as file:
            file.write(left)
    told = int.from_bytes(left.encode()[:7], "big")
    os.utime(".", ns=(told, told))
    with trying():
        os.chmod(".", 0o712)
    os.environ["LEFT"] = left


@attack(before=_leaver)
def earlier_programs():
    """Find the traces that an earlier program left: files, times, permissions."""
    show(dict(os.environ))
    for folder in (".", "..", "/tmp", "/var/tmp", "/dev/shm", "/run", "/box"):
        with trying():
            show(read(f"{folder}/left"))
    place = os.stat(".")
    if os.listdir(".") or place.st_mode & 0o777 == 0o712 or abs(place.st_mtime - time.time()) > 3600:
        breached(f"{os.listdir('.')} {place}")
