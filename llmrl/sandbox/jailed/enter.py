"""Enter new namespaces and a root of our own, then be the warden: what bubblewrap does, where it is not installed.

Started as `python -s -S -B enter.py FD CONFIG`: FD is the control socket, CONFIG the JSON that the warden reads, whose
`mounts` say what the new root shows:
{"read_only": [paths], "links": [[target, path]], "devices": [names], "home": path, "home_mb": size}.
"""

from __future__ import annotations

import json
import os
import sys

import kernel
import supervisor
import warden

NOBODY = 65534
ROOT = "/tmp"  # the new root is mounted over this folder, in a mount namespace that nobody else sees
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
FLAGS = kernel.NEW_MOUNTS | kernel.NEW_PIDS | kernel.NEW_NETWORK | kernel.NEW_IPC | kernel.NEW_HOSTNAME


def main() -> None:
    """Enter the namespaces and the new root, and be the warden there. Never returns."""
    control, config = int(sys.argv[1]), json.loads(sys.argv[2])
    _new_user_namespace()
    kernel.unshare(FLAGS | kernel.NEW_CGROUP)
    inside = os.fork()
    if inside:  # the namespace of processes begins with the first child
        os.close(control)
        _, status = os.waitpid(inside, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    kernel.set_hostname("sandbox")
    proc = _new_root(config["mounts"])
    if os.getuid() == 0:  # with another user to become
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    kernel.die_with_parent()  # a change of user would have undone it
    warden.main(control, config, proc)


def _new_user_namespace() -> None:
    """As root: root, and an unprivileged user to become. Otherwise: the user itself, under the name of nobody."""
    uid, gid = os.getuid(), os.getgid()
    if uid or not _knows_nobody():
        kernel.unshare(kernel.NEW_USERS)
        supervisor.write_maps("/proc/self", NOBODY, uid, gid)
        return
    # Two users can be mapped only from outside the new namespace, by a process that still has its privileges.
    ready, go = os.pipe(), os.pipe()
    target = os.getpid()
    helper = os.fork()
    if helper == 0:
        os.read(ready[0], 1)
        for name in ("uid_map", "gid_map"):
            with open(f"/proc/{target}/{name}", "w") as file:
                file.write(f"0 0 1\n{NOBODY} {NOBODY} 1\n")
        os.write(go[1], b"1")
        os._exit(0)
    kernel.unshare(kernel.NEW_USERS)
    os.write(ready[1], b"1")
    os.close(go[1])
    mapped = os.read(go[0], 1)
    os.waitpid(helper, 0)
    for end in (*ready, go[0]):
        os.close(end)
    if not mapped:
        raise OSError("the user namespace's maps could not be written")


def _knows_nobody() -> bool:
    """Whether the user namespace that we are in has the user and group that programs are to run as."""
    for name in ("uid_map", "gid_map"):
        with open(f"/proc/self/{name}") as file:
            ranges = [[int(field) for field in line.split()] for line in file]
        if not any(first <= NOBODY < first + count for first, _, count in ranges):
            return False
    return True


def _new_root(mounts: dict) -> int:
    """Returns an open /proc that shows this process."""
    proc = os.open("/proc", FOLDER)
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    devices = [f"/dev/{name}" for name in mounts["devices"]]
    # opened before the new root hides whatever of it lies below ROOT
    sources = {path: os.open(path, os.O_PATH) for path in [*mounts["read_only"], *devices]}
    kernel.mount("tmpfs", ROOT, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=755,size=4m")
    for path, source in sources.items():
        place = ROOT + path
        if os.path.isdir(f"/proc/self/fd/{source}"):
            os.makedirs(place, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(place), exist_ok=True)
            open(place, "w").close()
        kernel.mount(f"/proc/self/fd/{source}", place, flags=kernel.MS_BIND | kernel.MS_REC)
        if path not in devices:
            kernel.make_read_only(place)
        os.close(source)
    for target, path in mounts["links"]:
        os.symlink(target, ROOT + path)
    os.makedirs(f"{ROOT}/proc")
    try:
        kernel.mount("proc", f"{ROOT}/proc", "proc", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
        os.close(proc)
        proc = os.open(f"{ROOT}/proc", FOLDER)
    except OSError:  # a container that hides parts of its own /proc allows no other; the jail keeps it to itself
        pass
    home = ROOT + mounts["home"]
    os.makedirs(home)
    kernel.mount("tmpfs", home, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, f"mode=777,size={mounts['home_mb']}m")
    os.chdir(ROOT)
    kernel.pivot_root(".", ".")
    kernel.unmount(".")
    os.chdir("/")
    kernel.make_read_only("/", recursive=False)
    return proc


if __name__ == "__main__":
    main()
