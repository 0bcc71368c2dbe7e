"""Networks that the experiments need. The methods take any function and import none of them."""

from jaxml.models.unet import UNet as UNet
from jaxml.models.unet import load_voxelmorph as load_voxelmorph
