"""Values of the phantom's label volume; `configs/labels.yaml` names and codes them."""

from enum import IntEnum


class Label(IntEnum):
    """What a voxel is."""

    BACKGROUND = 0
    FAT = 1
    MUSCLE = 2
    LUNGS = 3
    HEART = 4
    LIVER = 5
    SPLEEN = 6
    KIDNEYS = 7
    AORTA = 8
    SPINE = 9
    RIBS = 10
    SKULL = 11
    BRAIN = 12
    LESION = 13
    SOFT_TISSUE = 14
    TABLE = 15
