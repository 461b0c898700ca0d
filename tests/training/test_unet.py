"""The network has the paper's parts."""

import pytest
import torch
from torch import nn

from scribbleseg.training.plain_unet import PlainUNet
from scribbleseg.training.unet import Dropout, UNet


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
        before = {name: value.clone() for name, value in network.state_dict().items()}
        folded = network.for_passes()
        assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
        assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
        for module in network.eval().modules():
            if isinstance(module, nn.Dropout):
                module.train()
        passes = []
        for seed in range(2):
            logits = []
            for one_pass in (
                lambda: network(image),
                lambda: network.after_dropout(network.before_dropout(image)),
                lambda: folded(image),
                lambda: folded.after_dropout(folded.before_dropout(image)),
            ):
                torch.manual_seed(seed)
                logits.append(one_pass())
            assert all(torch.allclose(other, logits[0], atol=1e-5) for other in logits[1:])
            passes.append(logits[0])
    assert not torch.allclose(*passes, atol=1e-2)


def test_what_is_fixed_survives_the_passes():
    network = UNet(base=4, padded=True, dropout=0.5).build(1, 2).for_passes()
    with torch.inference_mode():
        fixed = network.before_dropout(torch.randn(2, 1, 32, 32))
        before = [tensor.clone() for tensor in (fixed.features, *fixed.halves)]
        network.after_dropout(fixed)
    assert all(torch.equal(a, b) for a, b in zip(before, (fixed.features, *fixed.halves), strict=True))


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.7])
def test_dropout_zeroes_its_share_of_every_part_of_a_random_word_and_keeps_the_expectation(probability):
    torch.manual_seed(0)
    n = 400_000
    out = Dropout(probability)(torch.ones(n))
    assert out.unique().tolist() == [0, pytest.approx(1 / (1 - probability), rel=1e-4)]
    dropped = (out == 0).float()
    for part in dropped.view(-1, 4).T:
        assert part.mean().item() == pytest.approx(probability, abs=5 * (0.25 / (n / 4)) ** 0.5)
    pairs = torch.corrcoef(dropped.view(-1, 4).T) - torch.eye(4)
    assert pairs.abs().max() < 5 / (n / 4) ** 0.5
    assert out.mean().item() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(("probability", "dropped"), [(1e-9, 0.0), (1 - 1e-9, 1.0)])
def test_dropout_with_a_probability_at_either_end_is_finite(probability, dropped):
    torch.manual_seed(0)
    out = Dropout(probability)(torch.ones(10_000))
    assert out.isfinite().all()
    assert (out == 0).float().mean().item() == pytest.approx(dropped, abs=1e-3)


def test_dropout_takes_any_memory_layout_passes_gradients_and_is_off_in_evaluation():
    dropout = Dropout(0.5)
    x = torch.randn(3, 5, 7, 2).contiguous(memory_format=torch.channels_last)
    for values in (x, x[..., :1], x[:1].expand(3, -1, -1, -1), torch.randn(0, 3)):
        values = values.clone().requires_grad_() if values is x else values.requires_grad_()
        torch.manual_seed(0)
        out = dropout(values)
        assert ((out == 0) | (out == 2 * values)).all()
        out.sum().backward()
        assert torch.equal(values.grad, (out != 0) * 2.0)
    shared = dropout(torch.ones(1).expand(1000))
    assert 300 < (shared == 0).sum() < 700, "values that share memory do not share their mask"
    assert dropout.eval()(x) is x


def test_sides_are_checked_before_dropout_too():
    with pytest.raises(ValueError, match="preprocess.size"):
        UNet(base=4, padded=True, dropout=0.5).build(1, 2).before_dropout(torch.zeros(1, 1, 90, 96))


def test_a_network_starts_from_one_of_other_labels_in_all_but_what_is_made_by_label():
    torch.manual_seed(0)
    spec = UNet(base=4, padded=True)
    old, new = spec.build(3, 2), spec.build(3, 4)
    fresh = {name: value.clone() for name, value in new.state_dict().items()}
    spec.start_from(new, old.state_dict())
    image = torch.randn(1, 3, 32, 32)
    assert torch.equal(new.down[0](image), old.down[0](image))
    for name, value in new.state_dict().items():
        before = old.state_dict()[name]
        if name.startswith(("up.", "head.")):
            assert torch.equal(value, fresh[name])
        elif name.startswith("merge.") and name.endswith(".0.weight"):
            assert torch.equal(value[:, :4], fresh[name][:, :4])  # from the way up: four labels
            assert torch.equal(value[:, 4:], before[:, 2:])  # from the skip connection
        else:
            assert torch.equal(value, before)


@pytest.mark.parametrize("other", [UNet(base=8, padded=True), PlainUNet(base=4)], ids=["base", "network"])
def test_weights_of_another_network_are_refused_also_where_many_names_and_shapes_agree(other):
    spec = UNet(base=4, padded=True)
    with pytest.raises(ValueError, match="expected weights of"):
        spec.start_from(spec.build(3, 4), other.build(3, 2).state_dict())


def test_weights_for_other_channels_are_refused_rather_than_spread():
    spec = UNet(base=4, padded=True)
    with pytest.raises(ValueError, match=r"got others at down\.0\.0\.weight"):
        spec.start_from(spec.build(3, 2), spec.build(1, 2).state_dict())
