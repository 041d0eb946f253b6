"""The motion of a camera from optical flow and depth, and what it gains from knowing how sure both are.

    python recipes/egomotion.py --scenes 20

Each generated scene has two pictures, a depth with a known noise, and the exact poses of the camera. Flow is that of
OpenCV (`pip install 'sfumato[geometry]'`); a point that does not come back to where it began has an uncertain flow. In
the place of both, a run of `sfumato fit --task flow` and one of `--task depth` give their own variances: see
`sfumato egomotion --help`.
"""

import argparse
import statistics

import torch

from sfumato.data import Scenes
from sfumato.errors import DataError
from sfumato.geometry import Trajectory, camera_motion, check_poses, relative_pose_errors, write_tum
from sfumato.geometry.pose import inverse
from sfumato.serving.camera_path import dis_flow_of

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--scenes", type=int, default=20, help="number of scenes")
parser.add_argument("--size", type=int, nargs=2, default=(192, 256), help="height and width, pixels")
options = parser.parse_args()

scenes = Scenes(options.scenes, size=tuple(options.size), seed=0, views=True)
errors = {"unweighted": [], "weighted": []}
motions = []
for sample in (scenes[index] for index in range(len(scenes))):
    flow, covariance = dis_flow_of(sample["image"][None], sample["next"][None])
    variance = (sample["depth_sigma"] * sample["depth"]).square()
    weights = {"unweighted": {}, "weighted": {"flow_covariance": covariance, "depth_variance": variance}}
    known = {"valid": sample["depth_valid"]}
    before, after = (check_poses(sample[f"world_from_{name}"]) for name in ("camera", "next"))
    truth = Trajectory(torch.arange(2), torch.stack([torch.eye(4).double(), inverse(before) @ after]))
    for name, given in weights.items():
        try:
            motion = camera_motion(flow, sample["depth"], sample["intrinsics"], **known, **given)
        except DataError as error:
            print(f"{sample['name']}, {name}: {error}")
            continue
        errors[name].append(relative_pose_errors(Trajectory.of_motions([motion]), truth, 1))
        if name == "weighted":
            motions.append(motion)

for name, found in errors.items():
    meters = statistics.median(each.meters.item() for each in found)
    degrees = statistics.median(each.degrees.item() for each in found)
    print(f"{name}: {meters:.4f} m, {degrees:.3f} degrees (median of {len(found)} motions)")
write_tum("motions.txt", Trajectory.of_motions(motions))
print("the motions one after another are in motions.txt")
