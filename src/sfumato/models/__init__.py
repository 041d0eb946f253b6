"""Networks from the literature. Any other ``nn.Module`` can be used as well."""

from sfumato.models.fc_densenet import FCDenseNet, fc_densenet56, fc_densenet67, fc_densenet103
from sfumato.models.joint_unet import JointUNet
from sfumato.models.unet import UNet

__all__ = ["FCDenseNet", "JointUNet", "UNet", "fc_densenet56", "fc_densenet67", "fc_densenet103"]
