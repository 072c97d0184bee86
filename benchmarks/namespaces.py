"""Two machines on one Linux host: network namespaces with an address and a name each, and a cable that can be cut.

What runs in them shares the disks of the host. Needs root, `ip` and `unshare`.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil

ADDRESSES = ("10.0.0.1", "10.0.0.2")


def ip(*words: str) -> str:
    """What the program says; a `CalledProcessError` where it fails."""
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


def why_none() -> str | None:
    """Why no namespaces can be made here; `None` where they can."""
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        return "no program ip or unshare (apt-get install iproute2)"
    try:
        ip("netns", "add", name := f"bertcls-{os.getpid()}-try")
        ip("netns", "exec", name, "unshare", "--uts", "true")
        ip("netns", "del", name)
    except subprocess.CalledProcessError as error:
        return f"network namespaces are not allowed here ({error.stderr.strip()[:80]})"
    return None


class Machines:
    """Two of them, `node0` and `node1`, joined by a veth pair that both call eth0, within a `with`.

    Their TCP gives up after two minutes without an answer, in place of a quarter of an hour.
    """

    def __enter__(self) -> "Machines":
        self.names = [f"bertcls-{os.getpid()}-{number}" for number in (0, 1)]
        self.started: list[subprocess.Popen] = []
        hosts = "".join(f"{address} node{number}\n" for number, address in enumerate(ADDRESSES))
        for name in self.names:
            ip("netns", "add", name)
            ip("netns", "exec", name, "sysctl", "-q", "-w", "net.ipv4.tcp_retries2=8")
            folder = Path("/etc/netns", name)
            folder.mkdir(parents=True)
            (folder / "hosts").write_text(f"127.0.0.1 localhost\n{hosts}")
        pair = [f"b{os.getpid()}-{number}" for number in (0, 1)]
        ip("link", "add", pair[0], "type", "veth", "peer", "name", pair[1])
        for name, end, address in zip(self.names, pair, ADDRESSES):
            ip("link", "set", end, "netns", name, "name", "eth0")
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", "eth0", "up")
        return self

    def __exit__(self, *error) -> None:
        for process in self.started:
            kill(process)
        for name in self.names:
            for left in ip("netns", "pids", name).split():  # by a launcher that was killed
                psutil.Process(int(left)).kill()
            ip("netns", "del", name)
            shutil.rmtree(Path("/etc/netns", name))

    def start(self, machine: int, command: list[str], **options) -> subprocess.Popen:
        """A command on one of them, with the programs of this Python on its path."""
        name = ["sh", "-c", f'hostname node{machine} && exec "$@"', "sh"]
        words = ["ip", "netns", "exec", self.names[machine], "unshare", "--uts", *name, *map(str, command)]
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        environment |= {"TQDM_DISABLE": "1", "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"} | options.pop("env", {})
        self.started.append(subprocess.Popen(words, env=environment, **options))
        return self.started[-1]

    def cut(self, state: str = "down") -> None:
        """The cable, at the second machine; `up` mends it."""
        ip("-n", self.names[1], "link", "set", "eth0", state)


def worker_of(launcher: subprocess.Popen) -> psutil.Process | None:
    """The process that a launcher started, without those that this one started; `None` where there is none now."""
    for child in psutil.Process(launcher.pid).children():
        try:
            if "RANK" in child.environ():
                return child
        except psutil.Error:  # it ends
            continue
    return None


def kill(process: subprocess.Popen) -> None:
    """A process and those that it started, at once and without a warning."""
    if process.poll() is None:
        for one in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
            one.kill()
    process.wait()
