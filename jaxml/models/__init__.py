"""Networks that the experiments need. The methods take any function and import none of them."""

from jaxml.models import llama as llama
from jaxml.models.classifier import classification_loss as classification_loss
from jaxml.models.classifier import population_statistics as population_statistics
from jaxml.models.classifier import unit_images as unit_images
from jaxml.models.resnet import ResNet18 as ResNet18
from jaxml.models.unet import UNet as UNet
from jaxml.models.unet import load_voxelmorph as load_voxelmorph
from jaxml.models.vit import ViT as ViT
