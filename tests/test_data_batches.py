"""A step's batch, whole and in parts."""

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from pipeline.data.batches import Part, SampleBatches


class Numbers(Dataset):
    def __getitem__(self, index):
        return {"image": torch.full((1, 2, 2), float(index)), "classes": torch.tensor(index)}


def test_the_parts_of_a_batch_are_the_batch():
    batches = SampleBatches(Numbers(), batch_size=6)
    assert batches[Part(2)]["classes"].tolist() == [12, 13, 14, 15, 16, 17]
    for count in (1, 2, 3, 6):
        parts = [batches[Part(2, index, count)]["image"] for index in range(count)]
        assert torch.equal(torch.cat(parts), batches[Part(2)]["image"])


def test_a_loader_gives_one_batch_per_part():
    parts = [Part(step, 1, 2) for step in range(3)]
    loader = DataLoader(SampleBatches(Numbers(), batch_size=4), sampler=parts, batch_size=None)
    assert [batch["classes"].tolist() for batch in loader] == [[2, 3], [6, 7], [10, 11]]


def test_the_device_gets_the_samples_as_they_are():
    batches = SampleBatches(Numbers(), batch_size=2)
    batch = batches[Part(0)]
    assert batches.on_device(batch, Part(0), generator=torch.Generator()) is batch


def test_parts_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="a batch of 6 cannot be cut into 4 equal parts"):
        SampleBatches(Numbers(), batch_size=6)[Part(0, 0, 4)]
    for step, index, count in ((-1, 0, 1), (0, 2, 2), (0, -1, 2), (0, 0, 0)):
        with pytest.raises(ValueError, match=f"no part {index} of {count} of the batch of step {step}"):
            Part(step, index, count)
