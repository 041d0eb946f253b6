"""Networks from the literature. Any other ``nn.Module`` can be used as well."""

from sfumato.models.efficient_unet import EfficientUNet
from sfumato.models.fc_densenet import FCDenseNet, fc_densenet56, fc_densenet67, fc_densenet103
from sfumato.models.feature_unet import FeatureUNet
from sfumato.models.gc_net import GCNet
from sfumato.models.joint_unet import JointUNet
from sfumato.models.light_flow import LightFlow
from sfumato.models.light_stereo import LightStereo
from sfumato.models.motion_net import MotionNet
from sfumato.models.pose_net import EfficientPoseNet, PoseNet
from sfumato.models.unet import UNet

__all__ = [
    "EfficientPoseNet", "EfficientUNet", "FCDenseNet", "FeatureUNet", "GCNet", "JointUNet", "LightFlow", "LightStereo",
    "MotionNet", "PoseNet", "UNet",
    "fc_densenet56", "fc_densenet67", "fc_densenet103",
]  # fmt: skip
