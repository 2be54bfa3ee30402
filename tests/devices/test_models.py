"""The driver's names of GPUs and rltune's."""

from __future__ import annotations

import pytest

from rltune.devices.models import MODELS, model_of
from rltune.nouns.mig_profiles import TYPES

MIB = 1 << 20


@pytest.mark.parametrize(
    ("name", "memory_mib", "model"),
    [
        ("NVIDIA A100-SXM4-80GB", 81920, "A100-80GB"),
        ("NVIDIA A100 80GB PCIe", 81920, "A100-80GB"),
        ("NVIDIA A100-PCIE-40GB", 40960, "A100-40GB"),
        ("A100-SXM4-40GB", 40536, "A100-40GB"),
        ("NVIDIA H100 80GB HBM3", 81559, "H100-80GB"),
        ("NVIDIA H100 PCIe", 81559, "H100-80GB"),
        ("NVIDIA H100 PCIe", None, "H100-80GB"),
        ("NVIDIA H200", 143771, "H200-141GB"),
        ("NVIDIA H200 NVL", 143771, "H200-141GB"),
        ("NVIDIA A30", 24576, "A30"),
        ("NVIDIA B200", 183359, "B200"),
        ("NVIDIA B300 SXM6 AC", 275040, "B300"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", 97887, "RTX-PRO-6000"),
        ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", 97887, "RTX-PRO-6000"),
        ("simulated B200", 1, "B200"),
        ("NVIDIA H100 NVL", 95830, None),
        ("NVIDIA H100", 97871, None),
        ("NVIDIA GH200 480GB", 97871, None),
        ("NVIDIA GB200", 189471, None),
        ("NVIDIA H20", 97871, None),
        ("NVIDIA A100-SXM-64GB", 65536, None),
        ("NVIDIA A100-7-40C", 40960, None),
        ("NVIDIA RTX PRO 5000 Blackwell", 48935, None),
        ("NVIDIA L4", 23034, None),
    ],
)
def test_names_of_drivers_find_their_table(name: str, memory_mib: int | None, model: str | None) -> None:
    """A GPU planned with another type's table would be given placements that its driver refuses."""
    assert model_of(name, None if memory_mib is None else memory_mib * MIB) == model


def test_every_table_can_be_reached() -> None:
    """A type whose name is misspelt here could never be used on hardware."""
    assert {model.name for model in MODELS} == set(TYPES)
