"""The network has the paper's parts."""

import pytest
import torch
from torch import nn

from scribbleseg.train.unet import UNet


def test_the_paper_s_network_keeps_212_pixels_and_has_its_filters():
    network = UNet(base=4, padded=False).build(channels=1, labels=4)
    with torch.inference_mode():
        assert network.eval()(torch.zeros(1, 1, 212, 212)).shape == (1, 4, 212, 212)
    full = UNet().build(1, 4)
    assert [block[0].out_channels for block in full.down] == [64, 128, 256, 512, 1024]
    assert all(up[0].out_channels == 4 and up[0].kernel_size == (4, 4) and up[0].stride == (2, 2) for up in full.up)
    convolutions = [m for m in full.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert len(convolutions) == sum(isinstance(m, nn.BatchNorm2d) for m in full.modules()) == 18 + 4 + 1


def test_the_compact_network_keeps_the_size_and_takes_several_channels():
    network = UNet(base=4, padded=True).build(channels=3, labels=2)
    assert network(torch.zeros(2, 3, 48, 32)).shape == (2, 2, 48, 32)


@pytest.mark.parametrize(("padded", "side"), [(True, 90), (False, 96)])
def test_sides_that_do_not_fit_the_poolings_are_refused(padded, side):
    with pytest.raises(ValueError, match="preprocess.size"):
        UNet(base=4, padded=padded).build(1, 2)(torch.zeros(1, 1, side, side))


def test_dropout_is_in_the_five_innermost_blocks_only():
    network = UNet(base=4, padded=True, dropout=0.5).build(1, 2)
    places = {name.rsplit(".", 1)[0] for name, m in network.named_modules() if isinstance(m, nn.Dropout)}
    assert places == {"down.2", "down.3", "down.4", "merge.3", "merge.2"}
    assert not any(isinstance(m, nn.Dropout) for m in UNet(base=4).build(1, 2).modules())


@pytest.mark.parametrize(("padded", "side"), [(True, 48), (False, 52)])
def test_a_pass_from_what_is_fixed_is_the_plain_pass_with_the_same_masks(padded, side):
    torch.manual_seed(0)
    network = UNet(base=4, padded=padded, dropout=0.5).build(2, 3)
    image = torch.randn(2, 2, side, side)
    with torch.inference_mode():
        for _ in range(30):  # running statistics that fit the image
            network.train()(image)
        network.eval()
        assert torch.allclose(network.after_dropout(network.before_dropout(image)), network(image), atol=1e-5)
        for module in network.modules():
            if isinstance(module, nn.Dropout):
                module.train()
        fixed = network.before_dropout(image)
        passes = []
        for seed in range(2):
            torch.manual_seed(seed)
            plain = network(image)
            torch.manual_seed(seed)
            passes.append(network.after_dropout(fixed))
            assert torch.allclose(passes[-1], plain, atol=1e-5)
    assert not torch.allclose(*passes, atol=1e-3)


def test_sides_are_checked_before_dropout_too():
    with pytest.raises(ValueError, match="preprocess.size"):
        UNet(base=4, padded=True, dropout=0.5).build(1, 2).before_dropout(torch.zeros(1, 1, 90, 96))
