"""The builder of a jail without bubblewrap: enters new namespaces and a new root, then runs the warden there.

The command line is `python -s -S -B enter.py FD CONFIG`: FD is the control socket, CONFIG is the JSON that the warden
reads, and its entry `mounts` lists the paths that the new root shows:
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
    """Enter the namespaces and the new root, and run the warden there; never returns."""
    control, config = int(sys.argv[1]), json.loads(sys.argv[2])
    _new_user_namespace()
    kernel.unshare(FLAGS | kernel.NEW_CGROUP)
    inside = os.fork()
    if inside:  # the first child, not this process, is process 1 of the new namespace
        os.close(control)
        _, status = os.waitpid(inside, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    kernel.set_hostname("sandbox")
    proc = _new_root(config["mounts"])
    if os.getuid() == 0:  # the new user namespace then has a second, unprivileged user
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    kernel.die_with_parent()  # after the change of user, which resets this setting
    warden.main(control, config, proc)


def _new_user_namespace() -> None:
    """Enter a user namespace: root maps itself and an unprivileged user; any other user maps itself as nobody."""
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
    """Return whether this user namespace contains the user and the group that programs run as."""
    for name in ("uid_map", "gid_map"):
        with open(f"/proc/self/{name}") as file:
            ranges = [[int(field) for field in line.split()] for line in file]
        if not any(first <= NOBODY < first + count for first, _, count in ranges):
            return False
    return True


def _new_root(mounts: dict) -> int:
    """Build the new root and move into it; returns an open /proc that shows this process."""
    proc = os.open("/proc", FOLDER)
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    devices = [f"/dev/{name}" for name in mounts["devices"]]
    # these paths are opened first, because the new root hides everything below ROOT
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
    except OSError:  # a container that hides parts of its /proc allows no new one: the warden keeps the old one
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
