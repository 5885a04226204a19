"""Hides packages that a GPU machine may lack: with this folder on PYTHONPATH no Python, nor its children, has them."""

import sys
from importlib.machinery import PathFinder

HIDDEN = frozenset(
    "_gdcm cucim fused_ssim gdcm hdf5plugin hypothesis imagededup imagehash jpeg_ls kornia libjpeg lightly medmnist "
    "monai nibabel openjpeg playwright pyarrow pydicom pylibjpeg pytorch_grad_cam pytorch_msssim wandb".split()
)


class BareFinder(PathFinder):
    """All that is installed but HIDDEN."""

    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        return None if fullname.partition(".")[0] in HIDDEN else super().find_spec(fullname, path, target)

    @classmethod
    def find_distributions(cls, *context):
        """Without their plugins for pytest too."""
        return (found for found in super().find_distributions(*context) if found.name.lower() not in HIDDEN)


sys.meta_path[sys.meta_path.index(PathFinder)] = BareFinder
