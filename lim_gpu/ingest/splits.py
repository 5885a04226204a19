"""The elements that tell stacks of one series apart."""

from __future__ import annotations

from typing import NamedTuple


class Split(NamedTuple):
    """An element, and where an enhanced object says the same of a frame: in which functional groups, by which name.

    stacks: whether each of its values makes a stack. A trigger time is that of a slice: odd and even slices of one
    stack may have their own.
    look: whether it changes how a slice looks, so that a stack should have one value.
    """

    name: str
    groups: tuple[str, ...]
    frame_name: str
    stacks: bool = True
    look: bool = False


CONTENT = ("FrameContentSequence",)
FRAME_TYPES = (
    "CTImageFrameTypeSequence",
    "MRImageFrameTypeSequence",
    "PETFrameTypeSequence",
    "XRay3DFrameTypeSequence",
)
# In the order they are tried (PS3.3 C.7.6.16.2, C.8.13.5, C.8.15.3 for the groups).
SPLITS = (
    Split("AcquisitionNumber", CONTENT, "FrameAcquisitionNumber"),
    Split("TemporalPositionIdentifier", CONTENT, "TemporalPositionIndex"),
    Split("StackID", CONTENT, "StackID"),
    Split("EchoNumbers", ("MREchoSequence",), "EffectiveEchoTime", look=True),
    Split("TriggerTime", ("CardiacSynchronizationSequence",), "NominalCardiacTriggerDelayTime", stacks=False),
    Split("DiffusionBValue", ("MRDiffusionSequence",), "DiffusionBValue", look=True),
    Split("ConvolutionKernel", ("CTReconstructionSequence",), "ConvolutionKernel", look=True),
    Split("ImageType", FRAME_TYPES, "FrameType"),
)
