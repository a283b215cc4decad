from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from sensors import sensor

from fmlib.data.batches import Preloaded, ahead, batch_indices, collate, preload
from fmlib.data.statistics import band_statistics
from fmlib.masking import draw_masks


class Made:
    """Ten samples of two sensors; sample 3 lacks s1, samples 4 and 5 have fractions, sample 6 exceeds 8 bit."""

    name, split, classes = "made", "train", ("dry", "flood")

    def __init__(self, count=10):
        self.modalities = {"s1": sensor("s1", 2), "s2": sensor("s2", 3)}
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        sample = {
            "s1": rng.normal(-12, 5, (2, 16, 16)).astype(np.float32),
            "s2": rng.integers(0, 256, (3, 8, 8)).astype(np.float32),
            "id": f"made/{index}",
            "place": index // 2,
        }
        if index == 3:
            del sample["s1"]
        if index == 6:
            sample["s2"] += 5000
        if index != 9:
            sample["label"] = np.full((16, 16), index % 2, np.uint8)
        return sample


def same(batch, other):
    assert batch.keys() == other.keys()
    assert batch["id"] == other["id"]
    for name in batch.keys() - {"id", "present"}:
        torch.testing.assert_close(batch[name], other[name], rtol=0, atol=0)
    for name in batch["present"]:
        assert torch.equal(batch["present"][name], other["present"][name])


# -- collate ----------------------------------------------------------------------------------------------------


def test_collate_stacks_and_reports_what_is_missing():
    data = Made()
    batch = collate([data[2], data[3]], ["s1", "s2"])
    assert batch["s1"].shape == (2, 2, 16, 16)
    assert batch["s1"].dtype == batch["s2"].dtype == torch.float32
    assert batch["present"]["s1"].tolist() == [True, False]
    assert batch["present"]["s2"].tolist() == [True, True]
    assert not batch["s1"][1].any()
    assert batch["label"].shape == (2, 16, 16)
    assert batch["id"] == ["made/2", "made/3"]


def test_collate_leaves_out_what_no_sample_or_not_every_sample_has():
    data = Made()
    assert "s1" not in collate([data[3]], ["s1", "s2"])
    assert collate([data[3]], ["s1", "s2"])["present"]["s1"].tolist() == [False]
    assert "label" not in collate([data[8], data[9]], ["s1", "s2"])


def test_collate_serves_a_loader():
    loader = torch.utils.data.DataLoader(Made(), batch_size=5, collate_fn=partial(collate, names=["s1", "s2"]))
    assert [len(batch["id"]) for batch in loader] == [5, 5]


def test_collate_names_images_that_do_not_fit():
    data = Made()
    small = data[1] | {"s2": data[1]["s2"][:, :4]}
    with pytest.raises(ValueError, match=r"images of 's2' differ in shape.*made/0.*made/1"):
        collate([data[0], small], ["s1", "s2"])


# -- preload ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def held() -> Preloaded:
    return preload(Made(), progress=False)


def test_preload_gives_the_same_samples(held):
    data = Made()
    assert (len(held), held.name, held.split, held.classes) == (10, "made", "train", ("dry", "flood"))
    for index in range(10):
        sample, original = held[index], data[index]
        assert sample.keys() == original.keys()
        for key in original.keys() - {"id", "place"}:
            assert sample[key].dtype == original[key].dtype
            np.testing.assert_array_equal(sample[key], original[key])
        assert (sample["id"], sample["place"]) == (original["id"], original["place"])


def test_a_preloaded_batch_is_what_collate_makes(held):
    data = Made()
    for indices in ([0, 5, 3], [8, 9], [6]):
        same(held.batch(np.array(indices)), collate([data[i] for i in indices], ["s1", "s2"]))


def test_a_batch_whose_samples_all_lack_a_sensor_has_zeros(held):
    batch = held.batch([3])
    assert batch["s1"].shape == (1, 2, 16, 16)
    assert not batch["s1"].any()
    assert batch["present"]["s1"].tolist() == [False]


def test_whole_numbers_are_held_in_the_smallest_type_that_keeps_them(held):
    assert held.arrays["s1"].dtype == np.float32
    assert held.arrays["s2"].dtype == np.uint16  # sample 6 widened what began as 8 bit
    assert preload(Made(5), progress=False).arrays["s2"].dtype == np.uint8
    arrays = held.arrays.values()
    assert held.nbytes == sum(array.size * array.itemsize for array in arrays)


def test_threads_read_the_same_in_the_same_order(held):
    threaded = preload(Made(), workers=2, progress=False)
    same(threaded.batch(range(10)), held.batch(range(10)))


def test_preload_takes_the_first_samples():
    assert [sample["id"] for sample in preload(Made(), samples=2, progress=False)] == ["made/0", "made/1"]
    assert len(preload(Made(), samples=99, progress=False)) == 10


def test_preload_prints_one_line_where_there_is_no_terminal(capsys):
    preload(Made(4))
    captured = capsys.readouterr()
    assert captured.out.startswith("read 4 samples of made/train: 0 MiB in")
    assert captured.out.count("\n") == 1
    assert captured.err == ""


def test_preload_refuses_what_does_not_fit():
    with pytest.raises(MemoryError, match=r"made/train takes .* GiB or more .* raise max_bytes"):
        preload(Made(), max_bytes=10_000, progress=False)
    with pytest.raises(ValueError, match="nothing to preload"):
        preload(Made(0), progress=False)


def test_preload_names_images_that_do_not_fit():
    class Odd(Made):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            return sample | {"s2": sample["s2"][:, : 8 - index]}

    with pytest.raises(ValueError, match=r"made/1: 's2' has shape \(3, 7, 8\), earlier samples \(3, 8, 8\)"):
        preload(Odd(), progress=False)


def test_statistics_skip_samples_without_the_sensor():
    data = Made()
    pixels = np.concatenate([data[i]["s1"].reshape(2, -1) for i in range(10) if i != 3], axis=1).astype(np.float64)
    mean, std = band_statistics(data, "s1")
    np.testing.assert_allclose(mean, pixels.mean(1))
    np.testing.assert_allclose(std, pixels.std(1))


# -- order of samples ---------------------------------------------------------------------------------------------


def test_batch_indices_depend_on_seed_and_epoch_alone():
    first = batch_indices(23, 5, epoch=2, seed=1)
    assert [len(indices) for indices in first] == [5, 5, 5, 5]
    assert len(set(np.concatenate(first))) == 20
    np.testing.assert_array_equal(first, batch_indices(23, 5, epoch=2, seed=1))
    assert not np.array_equal(first, batch_indices(23, 5, epoch=1, seed=1))
    assert not np.array_equal(first, batch_indices(23, 5, epoch=2, seed=2))
    assert not np.array_equal(batch_indices(23, 5, 1, 2), batch_indices(23, 5, 2, 1))


def test_a_single_short_batch_is_kept():
    (only,) = batch_indices(3, 8, epoch=0, seed=0)
    assert sorted(only) == [0, 1, 2]
    with pytest.raises(ValueError, match="must be 1 or more"):
        batch_indices(0, 8, epoch=0, seed=0)


def test_batches_are_made_ahead_in_order_and_errors_come_through():
    made = []

    def make(step):
        if step == 7:
            raise ValueError("sample 7 is broken")
        made.append(step)
        return step * step

    feed = ahead(make, range(3, 9))
    step, batch, waited = next(feed)
    assert (step, batch) == (3, 9)
    assert waited >= 0
    assert [next(feed)[:2] for _ in range(3)] == [(4, 16), (5, 25), (6, 36)]
    with pytest.raises(ValueError, match="sample 7"):
        next(feed)
    assert [row[0] for row in ahead(lambda step: step, range(1))] == [0]


class Stream:
    """Stands for a stream of a GPU, and for its events; writes down what is asked of it."""

    def __init__(self, name, done):
        self.name, self.done = name, done

    def record_event(self):
        self.done.append(f"{self.name} marks")
        return self

    def wait_event(self, event):
        self.done.append(f"{self.name} waits for {event.name}")

    def synchronize(self):
        self.done.append(f"host waits for {self.name}")


@pytest.fixture
def streams(monkeypatch):
    """What happens on streams where there is no GPU: the words of `Stream`, and (rows, stream) of what is kept."""
    done = []
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream("feed", done))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext(done.append(f"on {stream.name}")))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream("step", done))
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda x, stream: done.append((len(x), stream.name)))
    return done


def test_what_another_stream_made_is_waited_for_and_kept(streams):
    """On CUDA a batch may be used after its event, and its memory is not given away before the user is done."""
    masks = draw_masks({"s1": (2, 2)}, 5, generator=torch.Generator().manual_seed(0))

    def make(step):
        there = {name: mask.to("meta") for name, mask in masks.items()}
        return {"s1": torch.zeros(3, device="meta")}, there, ["id"], torch.zeros(7)

    [(step, batch, _)] = ahead(make, range(1), "cuda:0")
    assert (step, batch[2]) == (0, ["id"])
    kept = [(3, "step")] + [(5, "step")] * 4  # ids_keep, ids_remove, ids_restore, mask; not what lies on the CPU
    assert streams == ["on feed", "feed marks", "step waits for feed", *kept, "step marks"]


def test_the_host_does_not_run_away_from_the_card(streams):
    feed = ahead(lambda step: step, range(9), "cuda:0")
    waits = [next(feed) and streams.count("host waits for step") for _ in range(9)]
    assert waits == [0, 0, 0, 1, 2, 3, 4, 5, 6]  # AHEAD steps may be under way before another one starts
