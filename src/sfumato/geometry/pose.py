"""Rigid motions as (4, 4) matrices: checks, the tangent space of SE(3), rotations and quaternions.

``b_from_a`` maps points of frame a to frame b. A *twist* ξ = (translation, rotation) has 6 numbers, in meters and
radians. ``exp(ξ) @ pose`` moves a pose by a twist in the axes of its left frame.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sfumato.errors import DataError, MissingDependencyError

ORTHONORMAL = 1e-2  # how far R Rᵀ may be from the identity; files of four decimals and float32 stay below
_SMALL = 1e-8


def check_poses(poses: Tensor, name: str = "the pose") -> Tensor:
    """Poses as float64, with rotations made exactly orthonormal.

    Args:
        poses: (…, 4, 4), or (…, 3, 4) without the last row.
        name: What the message calls them. Default "the pose".

    Returns:
        (…, 4, 4) float64.

    Raises:
        DataError: If they are not finite, mirror (left-handed axes), scale or shear, or have a wrong last row.

    >>> check_poses(torch.eye(4)).dtype
    torch.float64
    """
    if poses.ndim < 2 or poses.shape[-1] != 4 or poses.shape[-2] not in (3, 4):
        raise DataError(f"{name} has the shape {tuple(poses.shape)}, expected (…, 4, 4) or (…, 3, 4)")
    poses = poses.detach().cpu().double()
    if not poses.isfinite().all():
        raise DataError(f"{name} holds NaN or infinity: leave out frames whose pose is unknown")
    last = torch.tensor([0.0, 0, 0, 1], dtype=torch.float64)
    if poses.shape[-2] == 4 and not torch.allclose(poses[..., 3, :], last.expand_as(poses[..., 3, :]), atol=1e-6):
        raise DataError(f"{name} does not end with the row 0 0 0 1: is it transposed?")
    rotation = poses[..., :3, :3]
    off = (rotation @ rotation.mT - torch.eye(3, dtype=torch.float64)).abs().amax().item()
    if off > ORTHONORMAL:
        raise DataError(f"{name} holds a matrix that is no rotation: R Rᵀ differs from the identity by {off:.2g}")
    if (torch.linalg.det(rotation) < 0).any():
        raise DataError(f"{name} mirrors (determinant −1): its axes are left-handed, so flip one axis of both frames")
    u, _, vt = torch.linalg.svd(rotation)
    return rigid(u @ vt, poses[..., :3, 3])


def rigid(rotation: Tensor, translation: Tensor) -> Tensor:
    """The motion (…, 4, 4) of a rotation (…, 3, 3) and a translation (…, 3)."""
    result = rotation.new_zeros(*rotation.shape[:-2], 4, 4)
    result[..., :3, :3], result[..., :3, 3], result[..., 3, 3] = rotation, translation, 1
    return result


def inverse(poses: Tensor) -> Tensor:
    """The inverse of rigid motions (…, 4, 4)."""
    back = poses[..., :3, :3].mT
    return rigid(back, -(back @ poses[..., :3, 3:])[..., 0])


def skew(vector: Tensor) -> Tensor:
    """The matrices (…, 3, 3) whose product with a vector is the cross product with ``vector`` (…, 3)."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))


def exp(twist: Tensor) -> Tensor:
    """The motion (…, 4, 4) of a twist (…, 6): meters, then radians.

    >>> exp(torch.tensor([1.0, 2, 3, 0, 0, 0]))[:3, 3]
    tensor([1., 2., 3.])
    """
    generator = twist.new_zeros(*twist.shape[:-1], 4, 4)
    generator[..., :3, :3], generator[..., :3, 3] = skew(twist[..., 3:]), twist[..., :3]
    return torch.linalg.matrix_exp(generator)


def log(poses: Tensor) -> Tensor:
    """The twist (…, 6) of a motion (…, 4, 4), with a rotation of at most π. The inverse of :func:`exp`."""
    turn = rotation_vector(poses[..., :3, :3])
    angle = turn.norm(dim=-1)[..., None, None]
    half = angle / 2
    cotangent = torch.where(angle < 1e-4, 1 / 12 + angle**2 / 720, (1 - half / half.tan()) / angle.square())
    hat = skew(turn)
    matrix = torch.eye(3, dtype=poses.dtype) - hat / 2 + cotangent * hat @ hat
    return torch.cat([(matrix @ poses[..., :3, 3:])[..., 0], turn], -1)


def adjoint(poses: Tensor) -> Tensor:
    """The matrices (…, 6, 6) that carry twists over: ``pose @ exp(ξ) = exp(adjoint(pose) @ ξ) @ pose``."""
    rotation, translation = poses[..., :3, :3], poses[..., :3, 3]
    top = torch.cat([rotation, skew(translation) @ rotation], -1)
    return torch.cat([top, torch.cat([torch.zeros_like(rotation), rotation], -1)], -2)


def angles(rotations: Tensor) -> Tensor:
    """The angle (…) of each rotation (…, 3, 3), radians in [0, π], exact also near 0 and near π."""
    return 2 * torch.atan2(*_half(quaternions(rotations)))


def rotation_vector(rotations: Tensor) -> Tensor:
    """Axis times angle (…, 3) of rotations (…, 3, 3), radians."""
    q = quaternions(rotations)
    sine, cosine = _half(q)
    factor = torch.where(sine > _SMALL, 2 * torch.atan2(sine, cosine) / sine.clamp_min(_SMALL), 2.0)
    return q[..., :3] * factor[..., None]


def _half(q: Tensor) -> tuple[Tensor, Tensor]:
    """Sine and cosine of half the angle."""
    return q[..., :3].norm(dim=-1), q[..., 3]


def quaternions(rotations: Tensor) -> Tensor:
    """Unit quaternions (…, 4) as x, y, z, w with w ≥ 0, of rotations (…, 3, 3).

    >>> quaternions(torch.eye(3))
    tensor([0., 0., 0., 1.])
    """
    r = rotations
    # The four rows of 4 q qᵀ, one for each component. The longest one is never close to 0.
    d0, d1, d2 = r.diagonal(dim1=-2, dim2=-1).unbind(-1)
    xy, xz, yz = r[..., 1, 0] + r[..., 0, 1], r[..., 0, 2] + r[..., 2, 0], r[..., 2, 1] + r[..., 1, 2]
    xw, yw, zw = r[..., 2, 1] - r[..., 1, 2], r[..., 0, 2] - r[..., 2, 0], r[..., 1, 0] - r[..., 0, 1]
    rows = [
        torch.stack([1 + d0 - d1 - d2, xy, xz, xw], -1),
        torch.stack([xy, 1 - d0 + d1 - d2, yz, yw], -1),
        torch.stack([xz, yz, 1 - d0 - d1 + d2, zw], -1),
        torch.stack([xw, yw, zw, 1 + d0 + d1 + d2], -1),
    ]
    table = torch.stack(rows, -2)
    longest = table.diagonal(dim1=-2, dim2=-1).argmax(-1)
    row = table.gather(-2, longest[..., None, None].expand(*longest.shape, 1, 4))[..., 0, :]
    row = row * torch.where(row[..., 3:] < 0, -1.0, 1.0)
    return row / row.norm(dim=-1, keepdim=True)


def rotations(q: Tensor) -> Tensor:
    """The rotations (…, 3, 3) of quaternions (…, 4) as x, y, z, w, of any length but 0."""
    q = q / q.norm(dim=-1, keepdim=True)
    vector, w = q[..., :3], q[..., 3, None, None]
    hat = skew(vector)
    return torch.eye(3, dtype=q.dtype, device=q.device) + 2 * (w * hat + hat @ hat)


def pose_vectors(poses: Tensor) -> Tensor:
    """Poses (…, 4, 4) as 6 numbers (…, 6): the position in meters, and axis times angle of the rotation in radians."""
    return torch.cat([poses[..., :3, 3], rotation_vector(poses[..., :3, :3])], -1)


def poses_of(vectors: Tensor) -> Tensor:
    """The poses (…, 4, 4) of :func:`pose_vectors` (…, 6).

    >>> poses_of(torch.tensor([1.0, 2, 3, 0, 0, 0]))[:3, 3]
    tensor([1., 2., 3.])
    """
    return rigid(torch.linalg.matrix_exp(skew(vectors[..., 3:])), vectors[..., :3])


def difference(poses: Tensor, others: Tensor) -> Tensor:
    """The tangent vector (…, 6) from poses to others (…, 4, 4): ``p′ − p``, and ``log(R′ Rᵀ)``, in the world's axes.

    Its lengths are the errors that are usually stated: meters between positions, and the angle between rotations.

    Pitfall: It is not the twist of :func:`log`, whose translation moves the origin of the world. :func:`twists_of`
    carries covariances over.
    """
    turn = rotation_vector(others[..., :3, :3] @ poses[..., :3, :3].mT)
    return torch.cat([others[..., :3, 3] - poses[..., :3, 3], turn], -1)


def displaced(poses: Tensor, by: Tensor) -> Tensor:
    """The poses (…, 4, 4) at tangent vectors (…, 6). The inverse of :func:`difference`."""
    turn = torch.linalg.matrix_exp(skew(by[..., 3:]))
    return rigid(turn @ poses[..., :3, :3], poses[..., :3, 3] + by[..., :3])


def twists_of(poses: Tensor) -> Tensor:
    """The matrices (…, 6, 6) that make twists of small tangent vectors: ``exp(J δ) @ pose ≈ displaced(pose, δ)``."""
    result = torch.eye(6, dtype=poses.dtype, device=poses.device).repeat(*poses.shape[:-2], 1, 1)
    result[..., :3, 3:] = skew(poses[..., :3, 3])
    return result


def chordal_mean(sums: Tensor) -> Tensor:
    """The rotations (…, 3, 3) that are closest to sums, or means, of rotation matrices: ``argmin Σ |R − R_i|²``.

    Raises:
        MissingDependencyError: Without roma.

    Source: Hartley et al. (2013), "Rotation averaging", §5.
    Pitfall: It is not unique where rotations cancel, as those by 0 and π around one axis.

    >>> turns = torch.linalg.matrix_exp(skew(torch.tensor([[0.0, 0.0, 0.2], [0.0, 0.0, 0.4]])))
    >>> rotation_vector(chordal_mean(turns.mean(0)))
    tensor([0.0000, 0.0000, 0.3000])
    """
    try:
        from roma import special_procrustes
    except ImportError as error:
        raise MissingDependencyError("the mean of rotations needs roma: pip install 'sfumato[geometry]'") from error
    found = special_procrustes(sums.double())
    assert isinstance(found, Tensor)
    return found.to(sums.dtype)
