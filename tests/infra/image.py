"""The container image's layers without a container engine: infra/Dockerfile, step by step, in a root of its own.

    python -m tests.infra.image [--keep DIR]                                          (make image-check; needs root)
    TORCH_INDEX=https://pypi.org/simple make image-check              # another value of an ARG, as --build-arg gives it

debootstrap makes the Debian that the image is of, chroot runs each RUN in it as the user it says, and then the image
dubs a clip. What is not shown: that an engine takes the file, CUDA, and the real base image, which is Debian as well.
Takes minutes and some six gigabytes.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from tests.architecture.source import ROOT
from tests.talking import small_clip, small_dub

DOCKERFILE = ROOT / "infra" / "Dockerfile"
SUITE, MIRROR = "bookworm", "http://deb.debian.org/debian"
out = Console()
HOSTS_OWN = ("/etc/resolv.conf", "/etc/hosts", "/etc/pip.conf")
"""How this machine reaches the network."""
TRUSTED, TRUSTED_INSIDE = Path("/etc/ssl/certs/ca-certificates.crt"), "/etc/ssl/hosts.crt"
"""Whom it trusts; inside under another name, as Debian's own are installed over theirs."""


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """Keyword and rest of each instruction; lines that go on are joined, comments left out."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in re.sub(r"\s*\\\n\s*", " ", "\n".join(lines)).splitlines():
        if line.strip():
            keyword, _, rest = line.strip().partition(" ")
            yield keyword, rest.strip()


@dataclass
class Image:
    """A root that instructions are carried out in."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    folder: str = "/"
    user: str = "0"
    arguments: dict[str, str] = field(default_factory=dict)

    def carry_out(self, keyword: str, rest: str) -> None:
        out.print(f"[dim]{keyword} {rest[:110]}[/]", highlight=False)
        if keyword == "ARG":
            name, _, value = rest.partition("=")
            self.arguments[name] = os.environ.get(name, value)
        elif keyword == "ENV":
            self.environment |= dict(pair.split("=", 1) for pair in shlex.split(rest))
        elif keyword == "WORKDIR":
            self.folder = rest
            (self.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif keyword == "COPY":
            *sources, target = shlex.split(rest)
            for source in sources:
                self._copy(ROOT / source, self.root / self.folder.lstrip("/") / target, many=target.endswith("/"))
        elif keyword == "USER":
            self.user = rest
        elif keyword == "RUN":
            self.run(["sh", "-c", rest])
        elif keyword not in {"FROM", "HEALTHCHECK", "CMD"}:
            raise SystemExit(f"{keyword} must be one of the instructions this program knows")

    def _copy(self, source: Path, target: Path, *, many: bool) -> None:
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
        else:
            target = target / source.name if many else target
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)

    def run(self, command: list[str]) -> str:
        """Inside, with /proc and shared memory of its own; what it prints. Ends the program where it fails."""
        root = shlex.quote(str(self.root))
        mounts = [f"mount -t proc proc {root}/proc", f"mount -t tmpfs tmpfs {root}/dev/shm"]
        mounts += [f"mount --bind {folder} {root}{folder}" for folder in local_indexes() if Path(folder).is_dir()]
        script = " && ".join([*mounts, 'exec "$@"'])
        chroot = ["chroot", f"--userspec={self.user}:{self.user}", str(self.root)]
        inside = [*chroot, "sh", "-c", f'cd {self.folder} && exec "$@"']
        known = {"HOME": "/tmp", "PATH": os.environ["PATH"]} | self.environment | self.arguments
        known |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        known["PIP_CERT"] = TRUSTED_INSIDE
        outside = ["unshare", "--mount", "--pid", "--fork", "sh", "-c", script, "sh", *inside, "sh", *command]
        done = subprocess.run(outside, env=known, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode:
            raise SystemExit(f"{shlex.join(command)[:200]} ended with {done.returncode}:\n{done.stdout[-4000:]}")
        return done.stdout


def base(root: Path) -> None:
    """The Debian the image begins with, and this machine's ways into the network."""
    command = ["debootstrap", "--variant=minbase", SUITE, str(root), MIRROR]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    trusted = root / TRUSTED_INSIDE.lstrip("/")
    trusted.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(TRUSTED, trusted)
    for name in (*HOSTS_OWN, *local_indexes()):
        source, target = Path(name), root / name.lstrip("/")
        if source.is_dir():
            target.mkdir(parents=True)  # mounted while something runs
        elif source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)


def local_indexes() -> list[str]:
    """Folders from which this machine's pip installs."""
    told = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    return sorted(set(re.findall(r"(?:file://)?(/[\w./-]+)", told.replace("/simple", ""))) - set(HOSTS_OWN))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--keep", type=Path, help="leave the root there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="talklip-image-") as made:
        root = args.keep or Path(made) / "root"
        base(root)
        image = Image(root)
        for keyword, rest in instructions(DOCKERFILE.read_text()):
            image.carry_out(keyword, rest)
        check(image)
    return 0


def check(image: Image) -> None:
    """The image dubs, alone and on Ray, as the user it runs as; and that user cannot change the code."""
    tried = image.root / "tmp" / "try"
    tried.mkdir()
    tried.chmod(0o777)
    small_clip(tried / "v.mp4", seed=5)
    small_dub(tried / "a.wav")
    (tried / "m.jsonl").write_text('{"id": "t", "video": "v.mp4", "language": "fr", "audio": "a.wav"}')
    for command in (
        "id",
        "ray --version",
        "talklip dub one -v /tmp/try/v.mp4 -a /tmp/try/a.wav -o /tmp/try/one.mp4",
        "python jobs/dub.py /tmp/try/m.jsonl --output /tmp/try/out",
        "sh -c 'test ! -w talklip_ray && test ! -w /opt/venv'",
    ):
        said = image.run(shlex.split(command)).strip()
        out.print(f"[bold]{command}[/]\n{said}", highlight=False, soft_wrap=True)
    if not (tried / "out" / "t" / "fr.mp4").exists():
        raise SystemExit("the run must leave out/t/fr.mp4")


if __name__ == "__main__":
    sys.exit(main())
