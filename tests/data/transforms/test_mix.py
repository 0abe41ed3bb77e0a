import pytest
import torch

from anynet_dist.data.transforms.mix import Mixing

IMAGES = torch.arange(4 * 3 * 8 * 8, dtype=torch.float32).view(4, 3, 8, 8)
LABELS = torch.tensor([0, 1, 2, 1])


def test_without_an_alpha_nothing_changes() -> None:
    images, labels = Mixing(3, 0.0, 0.0, seed=0)(IMAGES, LABELS, 0)
    assert images is IMAGES
    assert labels is LABELS


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.2, 0.0), (0.0, 1.0), (0.2, 1.0)])
def test_targets_are_the_shares_of_the_images(mixup: float, cutmix: float) -> None:
    mixing = Mixing(3, mixup, cutmix, seed=0)
    for number in range(20):
        images, targets = mixing(IMAGES, LABELS, number)
        assert images.shape == IMAGES.shape
        assert torch.allclose(targets.sum(1), torch.ones(4))
        if not cutmix:  # every pixel is the blend that the labels say
            share = targets[0, 0]
            assert torch.allclose(images, share * IMAGES + (1 - share) * IMAGES.roll(1, 0), rtol=1e-4)


def test_blending_depends_on_seed_and_batch_number_alone() -> None:
    torch.manual_seed(1)
    first = Mixing(3, 0.2, 1.0, seed=5)(IMAGES, LABELS, 7)
    torch.manual_seed(2)
    random_state = torch.get_rng_state()
    again = Mixing(3, 0.2, 1.0, seed=5)(IMAGES, LABELS, 7)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert torch.equal(torch.get_rng_state(), random_state)
    others = [Mixing(3, 0.2, 1.0, seed=5)(IMAGES, LABELS, number)[1] for number in range(8, 12)]
    assert any(not torch.equal(first[1], other) for other in others)
