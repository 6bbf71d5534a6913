"""podman for tests: images and containers in a folder of their own, and Python's image without a
registry.
"""

import os
import shutil
import subprocess
from pathlib import Path

from conftest import run

# Debian's release with that Python, and what makes it look like Python's own image.
RELEASES = {"3.13": "trixie"}
LIKE_THE_IMAGE = """
ln -s /usr/bin/python3 /usr/local/bin/python
rm /usr/lib/python3*/EXTERNALLY-MANAGED
rm -rf /var/cache/apt/* /var/lib/apt/lists/*
"""
# What a machine's own certificate authority is told by.
AUTHORITIES = ("SSL_CERT_FILE", "PIP_CERT")
HOW_TO_GET = "apt-get install --no-install-recommends podman crun runc debootstrap"


class Missing(Exception):
    """This machine can build or run no image; the message says why."""


def first_that_works(candidates: list[list[str]], *command: str) -> list[str]:
    """Return the options with which a command works. Raises Missing, with what was said."""
    said = []
    for options in candidates:
        words = [command[0], *options, *command[1:]]
        tried = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if tried.returncode == 0:
            return options
        said.append(tried.stdout.strip())
    raise Missing(f"`{' '.join(command)}` does not work here: {' / '.join(said)}")


class Podman:
    """podman whose images and containers are in a folder. Raises Missing where it cannot run."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("podman") is None:
            raise Missing(f"there is no podman: {HOW_TO_GET}")
        self.folder = folder
        where = [f"--root={folder}/images", f"--runroot={folder}/run"]
        # Two file systems for the layers: that of a container's own disk allows the slow one only.
        drivers = [[f"--storage-driver={driver}"] for driver in ("overlay", "vfs")]
        found = first_that_works([[*where, *driver] for driver in drivers], "podman", "info")
        self.command = ["podman", *found, "--cgroup-manager=cgroupfs", "--events-backend=file"]

    def __call__(self, *words: str | Path) -> str:
        """Run a command of podman; return what it says."""
        return run(*self.command, *words, cwd=self.folder).stdout

    def how_to_run(self, image: str) -> list[str]:
        """Return the command, without the image, by which a container runs. Raises Missing."""
        # Docker's limits are more than a container may set that runs podman.
        limits = [f"--ulimit={kind}=4096:4096" for kind in ("nofile", "nproc")]
        always = ["--rm", "--network=host", *limits]
        runtimes = [["--runtime=crun", "run", "--cgroups=disabled"], ["--runtime=runc", "run"]]
        candidates = [[*self.command[1:], *runtime, *always] for runtime in runtimes]
        return ["podman", *first_that_works(candidates, "podman", image, "true")]

    def get_python(self, version: str) -> None:
        """Get the image `python:VERSION-slim`, or make one that is like it. Raises Missing."""
        name = f"python:{version}-slim"
        pull = subprocess.run([*self.command, "pull", "--quiet", name], capture_output=True)
        if pull.returncode == 0:
            return
        if not (os.geteuid() == 0 and version in RELEASES and shutil.which("debootstrap")):
            why = pull.stderr.decode().strip()
            raise Missing(f"{why}; and to make such an image takes root and debootstrap")
        root = self.folder / "root"
        packages = "--include=ca-certificates,python3,python3-pip"
        run(
            *("debootstrap", "--variant=minbase", packages, RELEASES[version], root),
            cwd=self.folder,
        )
        run("chroot", root, "sh", "-ec", LIKE_THE_IMAGE, cwd=self.folder)
        archive = self.folder / "root.tar"
        run("tar", "--create", f"--file={archive}", f"--directory={root}", ".", cwd=self.folder)
        self("import", "--quiet", archive, name)
        archive.unlink()
        shutil.rmtree(root)

    def build(self, context: Path, name: str) -> None:
        """Build an image as the Dockerfile of a folder says."""
        trust = []
        for variable in AUTHORITIES:
            if file := os.environ.get(variable):
                trust += [f"--env={variable}={file}", f"--volume={file}:{file}:ro"]
        how = ["--isolation=chroot", "--pull=never", *dict.fromkeys(trust)]
        self("build", *how, f"--tag={name}", context)
