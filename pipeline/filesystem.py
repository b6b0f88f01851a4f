"""What a cube's folder asks of its file system: a disk of this machine, and everything on it when it matters."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from pipeline.errors import StoreError

MOUNTS = Path("/proc/self/mountinfo")  # Linux only; elsewhere nothing is refused

# Their locks or renames do not hold between machines, or end in a program of its own that may not keep order.
NETWORKS = frozenset(
    {
        *("9p", "afpfs", "afs", "beegfs", "ceph", "cifs", "coda", "drvfs", "fuse", "gfs2", "glusterfs", "gpfs"),
        *("lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "prl_fs", "pvfs2", "smb3", "smbfs", "vboxsf"),
        *("virtiofs", "vmhgfs"),
    }
)


def check_local(path: Path) -> None:
    """Nothing where the folder's file system is a disk of this machine.

    Raises:
        StoreError: it is a network or FUSE mount.
    """
    kind = network_kind(MOUNTS.read_text(encoding="utf-8"), path) if MOUNTS.exists() else ""
    if kind:
        msg = (
            f"a cube's folder lies on a disk of this machine, but {path} lies on {kind}, which does not keep two "
            "machines from writing at once: choose a workspace on a local disk, or an S3-compatible server for the "
            'cube ([store] url = "s3://bucket/prefix")'
        )
        raise StoreError(msg)


def network_kind(mountinfo: str, path: Path) -> str:
    """Type of the network or FUSE file system that holds ``path``, or none where it is local.

    Args:
        mountinfo: text of ``/proc/self/mountinfo``, see proc_pid_mountinfo(5).
        path: need not exist yet.

    >>> network_kind("36 1 0:32 / /mnt/nas rw - nfs4 nas:/vol rw", Path("/mnt/nas/cube"))
    'nfs4'
    """
    place = path.resolve()
    kind = ""
    depth = 0
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        mount = Path(_unescaped(before.split(" ")[4]))
        if place.is_relative_to(mount) and len(mount.parts) >= depth:  # a later mount hides an earlier one
            kind, depth = after.split(" ")[0], len(mount.parts)
    return kind if kind in NETWORKS or kind.startswith("fuse.") else ""


def _unescaped(field: str) -> str:
    r"""Mountinfo writes blank, tab, newline and backslash in octal.

    >>> _unescaped(r"/mnt/my\040disk")
    '/mnt/my disk'
    """
    for code in ("\\040", "\\011", "\\012", "\\134"):
        field = field.replace(code, chr(int(code[1:], 8)))
    return field


def sync_filesystem(path: Path) -> None:
    """Everything written to the file system of ``path`` reaches the disk (syncfs on Linux, sync elsewhere)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if not hasattr(libc, "syncfs"):
            os.sync()
        elif libc.syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(descriptor)
