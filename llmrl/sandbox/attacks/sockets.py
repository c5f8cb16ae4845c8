"""Attacks through the network and through other programs' sockets."""

from __future__ import annotations

import array
import contextlib
import ctypes
import mmap
import os
import signal
import socket
import struct
import subprocess
import sys

from llmrl.sandbox.attacks.attack import attack
from llmrl.sandbox.attacks.hostile import X86, breached, call, targets, trying


@attack(real=True)
def tcp():
    """Connect to a server on this machine."""
    for address in ("127.0.0.1", "::1", "localhost"):
        with trying():
            socket.create_connection((address, targets.tcp), timeout=1).sendall(b"tcp")
            breached(address)


@attack(real=True)
def udp():
    """Send a packet to a server on this machine."""
    with trying(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"udp", ("127.0.0.1", targets.udp))


@attack(real=True)
def unix_socket():
    """Connect to another program's socket in the file system."""
    with trying(), socket.socket(socket.AF_UNIX) as client:
        client.connect(targets.unix)
        client.sendall(b"unix")


@attack(real=True)
def abstract_socket():
    """Connect to another program's socket that has a name but no file."""
    with trying(), socket.socket(socket.AF_UNIX) as client:
        client.connect(f"\0{targets.abstract}")
        client.sendall(b"abstract")


@attack(real=True)
def datagrams_without_a_socket_call():
    """Send to others' sockets from one end of a pair, which needs neither socket() nor connect()."""
    with trying():
        end, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for name in (targets.unix_datagrams, f"\0{targets.abstract_datagrams}"):
            with trying():
                end.sendto(b"datagram", name)


@attack()
def every_kind_of_socket():
    """Open a socket of any family: netlink, raw, packet, vsock, Bluetooth, cryptography."""
    for family in range(46):
        for kind in (1, 2, 3, 5):
            for protocol in (0, 1, 15):
                if call("socket", family, kind, protocol) >= 0:
                    breached(f"family {family}, kind {kind}")
            pair = array.array("i", [0, 0])
            opened = ctypes.CDLL(None).socketpair(family, kind, 0, ctypes.c_void_p(pair.buffer_info()[0]))
            if opened == 0 and (family, kind) not in ((1, 1), (1, 5)):
                breached(f"pair of family {family}, kind {kind}")


@attack(real=True)
def server():
    """Listen where others can connect."""
    with trying(), socket.create_server(("0.0.0.0", 0)) as listening:
        breached(listening.getsockname())


@attack()
def names():
    """Ask a name server, which can carry anything out."""
    with trying():
        breached(socket.getaddrinfo("example.com", 80))


@attack(real=True)
def sockets_by_other_programs():
    """Have the shell or other tools connect."""
    for line in (f"echo x > /dev/tcp/127.0.0.1/{targets.tcp}", f"curl -m 1 http://127.0.0.1:{targets.tcp}/"):
        with trying():
            subprocess.run(["/bin/bash", "-c", line], timeout=3)


@attack(real=True)
def sockets_by_other_system_calls():
    """Make system calls under the numbers of other architectures, which a careless filter lets through."""
    for number in (41, 0x40000000 + 41):  # x86-64, and its 32-bit pointers
        with trying():
            if X86 and os.fork() == 0:
                if (opened := ctypes.CDLL(None).syscall(ctypes.c_long(number), 2, 1, 0)) >= 0:
                    breached(f"{number}: {opened}")
                os._exit(0)
    # mov eax, 359 (socket); mov ebx, 2; mov ecx, 1; xor edx, edx; int 0x80; ret
    code = bytes.fromhex("b867010000bb02000000b90100000031d2cd80c3")
    page = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=7)
    page.write(code)
    with trying():
        if X86 and os.fork() == 0:
            opened = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
            if opened >= 0:
                breached(f"int 0x80: {opened}")
            os._exit(0)


@attack()
def ring_of_requests():
    """Have the kernel open sockets by io_uring, past filters."""
    if call("io_uring_setup", 8, ctypes.create_string_buffer(256)) >= 0:
        breached()


@attack(real=True)
def signals_from_a_descriptor():
    """Have a pipe send SIGKILL to another process when it becomes readable."""
    import fcntl

    reading, writing = os.pipe()
    with trying():
        fcntl.fcntl(reading, fcntl.F_SETOWN, targets.victim)
        fcntl.fcntl(reading, 10, signal.SIGKILL)  # F_SETSIG
        fcntl.fcntl(reading, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
        os.write(writing, b"x")


@attack()
def large_buffers():
    """Make a socket buffer more than allowed."""
    one, _ = socket.socketpair()
    for option in (7, 8, 32, 33):  # SO_SNDBUF, SO_RCVBUF, and both by force
        value = ctypes.byref(ctypes.c_int(1 << 26))
        if call("setsockopt", one.fileno(), 1, option, value, 4) >= 0:
            breached(f"option {option}")


@attack()
def descriptors_in_flight():
    """Hide open files inside sockets that are inside each other, more than may be open."""
    sent = 0
    with contextlib.suppress(OSError):
        while sent < 5000:
            one, other = socket.socketpair()
            rights = array.array("i", [one.fileno(), other.fileno()])
            one.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
            sent += 2
            one.close()
            other.close()
    if sent > 4000:
        breached(f"{sent}")


@attack()
def credentials():
    """Claim to be another process towards who is on the other end."""
    one, other = socket.socketpair()
    for pid, uid in ((os.getppid(), os.getuid()), (os.getpid(), os.getuid() + 1), (targets.trainer, os.getuid())):
        with trying():
            one.sendmsg([b"x"], [(socket.SOL_SOCKET, 2, struct.pack("3i", pid, uid, uid))])
            print(other.recv(1), file=sys.stderr)
            breached(f"{pid} {uid}")
