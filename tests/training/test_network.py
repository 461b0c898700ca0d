"""The network protocol, by every member of it: whatever a recipe can name can be built, trained, sampled and stored."""

import json
from copy import deepcopy
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from scribbleseg.recipe import Recipe
from scribbleseg.relabel.predict import check_dropout, predict, sample
from scribbleseg.settings import from_plain, to_plain
from scribbleseg.training import loop
from scribbleseg.training.crf_rnn import CRFRNN
from scribbleseg.training.loop import Training
from scribbleseg.training.monai_network import MONAINetwork, levels
from scribbleseg.training.network import Network, NetworkModule, Stochastic, has_dropout, set_batch_statistics, trial
from scribbleseg.training.optimisers import Adam
from scribbleseg.training.plain_unet import PlainUNet
from scribbleseg.training.unet import UNet
from scribbleseg.types import DataError
from scribbleseg.weights import load_weights, save_weights

FEATURES = (4, 4, 8, 8, 8, 4)
KERNELS = {"w1": 1.0, "w2": 1.0, "sigma_alpha": 5.0, "sigma_beta": 0.2, "sigma_gamma": 1.0, "iterations": 2}


def basic_unet(**arguments):
    return MONAINetwork(name="BasicUNet", arguments={"features": list(FEATURES), **arguments})


PLAIN = {
    "unet": UNet(base=2, padded=True),
    "unpadded unet": UNet(base=2, padded=False),
    "plain unet": PlainUNet(base=2),
    "deep plain unet": PlainUNet(base=2, slope=0.01, deep_supervision=2),
    "monai": basic_unet(),
    "crf-rnn of unet": CRFRNN(**KERNELS, unaries=UNet(base=2, padded=True)),
    "crf-rnn of plain unet": CRFRNN(**KERNELS, unaries=PlainUNet(base=2)),
    "crf-rnn of deep plain unet": CRFRNN(**KERNELS, unaries=PlainUNet(base=2, deep_supervision=3)),
    "crf-rnn of monai": CRFRNN(**KERNELS, unaries=basic_unet()),
}


def with_dropout(spec, probability=0.1):
    match spec:
        case CRFRNN():
            return replace(spec, unaries=with_dropout(spec.unaries, probability))
        case MONAINetwork():
            return replace(spec, arguments={**spec.arguments, "dropout": probability})
        case _:
            return replace(spec, dropout=probability)


DROPPING = {f"{name} with dropout": with_dropout(spec) for name, spec in PLAIN.items()}
MEMBERS = PLAIN | DROPPING

every_member = pytest.mark.parametrize("name", MEMBERS)
every_plain_member = pytest.mark.parametrize("name", PLAIN)
every_dropping_member = pytest.mark.parametrize("name", DROPPING)


def side_of(name):
    return 36 if "unpadded" in name else 32


def images_for(name):
    side = side_of(name)
    return torch.randn(3, 1, side, side, generator=torch.Generator().manual_seed(0))


@cache
def warmed(name):
    torch.manual_seed(0)
    network = MEMBERS[name].build(1, 3)
    with torch.no_grad():
        for _ in range(25):
            inner(network)(images_for(name))
    return network.eval()


def warm(name):
    """A network of three labels whose running statistics fit the images, so that its logits are of the order of 1."""
    return deepcopy(warmed(name))


def inner(network):
    """The network whose logits a pass gives: that inside, where a layer comes after it."""
    return getattr(network, "unaries", network)


@every_member
def test_members_follow_the_protocol(name):
    spec = MEMBERS[name]
    assert isinstance(spec, Network)
    network = spec.build(1, 2)
    assert isinstance(network, NetworkModule)
    assert isinstance(network.for_passes(), Stochastic)


@every_member
def test_logits_have_the_slices_sides(name):
    side = side_of(name)
    for channels, width in ((1, side), (3, side + 16)):
        network = MEMBERS[name].build(channels, 4)
        assert network.channels == channels
        outputs = network(torch.randn(2, channels, side, width))
        for logits in outputs if isinstance(outputs, tuple) else (outputs,):
            assert logits.shape == (2, 4, side, width)


@every_member
def test_sides_are_accepted_or_refused_before_anything_is_built(name):
    spec, side = MEMBERS[name], side_of(name)
    spec.check_sides(side)
    spec.check_sides(side, side + 16)
    # MONAI's BasicUNet takes odd sides, but none of which its poolings leave a single pixel.
    bad = 16 if "monai" in name else side - 8
    for sides in ((bad,), (bad, bad)):
        with pytest.raises(ValueError, match=rf"got \({bad},.*preprocess\.size"):
            spec.check_sides(*sides)


def test_a_network_that_does_not_give_back_the_slices_sides_is_refused():
    spec = MONAINetwork(name="UNet", arguments={"channels": [4, 8], "strides": [2]})
    spec.check_sides(32)
    with pytest.raises(
        ValueError, match=r"logits of the slices' size \(33,\).*got shape \(2, 2, 34, 34\).*preprocess\.size"
    ):
        spec.check_sides(33)


@every_member
def test_dropout_is_where_the_spec_says(name):
    spec = MEMBERS[name]
    assert spec.has_dropout == (name in DROPPING) == has_dropout(spec.build(1, 2))


@every_dropping_member
def test_passes_differ_by_their_seed_and_by_nothing_else(name):
    passes = warm(name).for_passes()
    with torch.inference_mode():
        fixed = passes.before_dropout(images_for(name))

        def one_pass(seed):
            torch.manual_seed(seed)
            return passes.after_dropout(fixed)

        assert torch.equal(one_pass(0), one_pass(0))
        assert not torch.allclose(one_pass(0), one_pass(1), atol=1e-3)


@every_dropping_member
def test_the_mean_of_passes_is_near_the_logits_without_dropout(name):
    network = warm(name)
    passes = network.for_passes()
    torch.manual_seed(0)
    with torch.inference_mode():
        logits = inner(network)(images_for(name))
        fixed = passes.before_dropout(images_for(name))
        drawn = torch.stack([passes.after_dropout(fixed) for _ in range(40)])
    off = (drawn - logits).square().mean().sqrt()
    assert (drawn.mean(0) - logits).square().mean().sqrt() < 0.5 * off
    assert off < logits.std()


@every_plain_member
def test_without_dropout_passes_are_the_plain_logits(name):
    network = warm(name)
    passes = network.for_passes()
    with torch.inference_mode():
        logits = inner(network)(images_for(name))
        for _ in range(2):
            found = passes.after_dropout(passes.before_dropout(images_for(name)))
            torch.testing.assert_close(found, logits, atol=1e-5, rtol=1e-5)


@every_plain_member
def test_without_dropout_the_output_of_a_pass_is_the_networks(name):
    network = warm(name)
    passes = network.for_passes()
    with torch.inference_mode():
        fixed = passes.before_dropout(images_for(name))
        found = passes.output(passes.after_dropout(fixed), fixed)
        torch.testing.assert_close(found.softmax(1), network(images_for(name)).softmax(1), atol=1e-4, rtol=1e-4)


@every_member
def test_batch_statistics_are_kept_and_set_free_again_and_nothing_else_is(name):
    network = warm(name).train()
    normalising = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    others = {module: module.training for module in network.modules() if not isinstance(module, _BatchNorm)}
    for moving in (False, True):
        set_batch_statistics(network, moving=moving)
        assert {module.training for module in normalising} <= {moving}
        assert all(module.training == before for module, before in others.items())


@every_dropping_member
def test_passes_leave_the_network_as_it_was(name):
    network = warm(name).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    passes = network.for_passes()
    with torch.inference_mode():
        passes.after_dropout(passes.before_dropout(images_for(name)))
    assert [module.training for module in network.modules()] == modes
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


@every_dropping_member
def test_every_member_with_dropout_can_be_sampled(name, fabric):
    network, images = warm(name), images_for(name).numpy()
    check_dropout(network)
    samples = sample(fabric, network, images, passes=8, seed=0)
    side = side_of(name)
    assert samples.mean.shape == (3, 3, side, side)
    assert samples.variance.max() > 1e-4
    likely = predict(fabric, network, images)
    assert np.abs(samples.probabilities - likely).mean() < 0.1
    assert np.array_equal(samples.mean, sample(fabric, network, images, passes=8, seed=0).mean)


@every_plain_member
def test_no_member_without_dropout_can_be_sampled(name, fabric):
    with pytest.raises(DataError, match=r"expected a network with dropout, got one without.*network\.dropout"):
        sample(fabric, warm(name), images_for(name).numpy(), passes=2, seed=0)


def made_by_label(spec, name):
    """Whether a weight is of a last layer, or in any way made label by label, in this network."""
    if isinstance(spec, CRFRNN):
        return name.startswith("rnn.") or made_by_label(spec.unaries, name.removeprefix("unaries."))
    last = {UNet: ("up.", "head."), PlainUNet: ("head.", "heads."), MONAINetwork: ("network.final_conv.",)}[type(spec)]
    return name.startswith(last)


@every_plain_member
def test_a_network_starts_from_one_of_other_labels_in_all_but_what_is_made_by_label(name):
    spec = MEMBERS[name]
    torch.manual_seed(0)
    old, new = spec.build(1, 2), spec.build(1, 4)
    with torch.no_grad():
        for weights in old.parameters():
            weights.normal_()
    fresh = {key: value.clone() for key, value in new.state_dict().items()}
    spec.start_from(new, old.state_dict())
    kept = taken = 0
    for key, value in new.state_dict().items():
        before = old.state_dict()[key]
        if made_by_label(spec, key):
            assert torch.equal(value, fresh[key]), key
            kept += 1
        elif value.shape == before.shape:
            assert torch.equal(value, before), key
            taken += 1
        else:  # of a U-Net: inputs are the labels, then the skip connection
            assert "merge." in key
            assert torch.equal(value[:, :4], fresh[key][:, :4])
            assert torch.equal(value[:, 4:], before[:, 2:])
    assert kept > 0
    assert taken > 20


@every_plain_member
def test_it_also_starts_anew_by_label_from_one_of_as_many_labels(name):
    spec = MEMBERS[name]
    torch.manual_seed(0)
    old, new = spec.build(1, 3), spec.build(1, 3)
    head = next(key for key, value in new.state_dict().items() if made_by_label(spec, key) and value.ndim == 4)
    fresh = new.state_dict()[head].clone()
    spec.start_from(new, old.state_dict())
    assert torch.equal(new.state_dict()[head], fresh)
    assert not torch.equal(new.state_dict()[head], old.state_dict()[head])


def wider(spec):
    match spec:
        case CRFRNN():
            return replace(spec, unaries=wider(spec.unaries))
        case MONAINetwork():
            return basic_unet(features=[2 * n for n in FEATURES])
        case _:
            return replace(spec, base=2 * spec.base)


@every_plain_member
def test_weights_of_a_wider_network_are_refused(name):
    spec = MEMBERS[name]
    with pytest.raises(ValueError, match="expected weights of"):
        spec.start_from(spec.build(1, 3), wider(spec).build(1, 2).state_dict())


OTHERS = ("unet", "plain unet", "monai", "crf-rnn of unet")  # padding has no weights


@pytest.mark.parametrize(
    ("name", "other"),
    [
        (name, other)
        for name in PLAIN
        for other in OTHERS
        if name.removeprefix("unpadded ").removeprefix("deep ") != other
    ],
)
def test_weights_of_another_network_are_refused(name, other):
    spec = MEMBERS[name]
    with pytest.raises(ValueError, match="expected weights of"):
        spec.start_from(spec.build(1, 3), MEMBERS[other].build(1, 2).state_dict())


@pytest.mark.parametrize("name", ["deep plain unet", "crf-rnn of deep plain unet"])
def test_coarser_levels_have_outputs_while_the_network_trains_and_then_alone(name):
    network = MEMBERS[name].build(1, 3)
    levels = inner(network).spec.deep_supervision
    logits, *coarse = network(images_for(name))
    assert len(coarse) == levels
    for level, output in enumerate(coarse, start=1):  # enlarged: bilinear, so that second differences mostly vanish
        bends = output.diff(n=2, dim=3).abs()[:, :, :, 8:-8] > 1e-5
        assert bends.float().mean() < 2.4 / 2**level
    assert (logits.diff(n=2, dim=3).abs() > 1e-5).float().mean() > 0.9
    network.eval()
    assert isinstance(network(images_for(name)), torch.Tensor)


@every_member
def test_looking_at_a_network_leaves_the_random_state_as_it_was(name):
    spec = MEMBERS[name]
    before = torch.get_rng_state()
    spec.check_sides(side_of(name))
    assert spec.has_dropout == has_dropout(trial(spec.build))
    spec.start_from(trial(spec.build, labels=3), trial(spec.build).state_dict())
    assert torch.equal(torch.get_rng_state(), before)


@every_member
def test_recipes_with_it_survive_json(name):
    recipe = Recipe(network=MEMBERS[name])
    assert from_plain(Recipe, json.loads(json.dumps(to_plain(recipe)))) == recipe


@every_member
def test_weights_survive_the_disk(name, tmp_path):
    network = warm(name)
    save_weights(network, tmp_path / "network.pt")
    other = load_weights(MEMBERS[name].build(1, 3), tmp_path / "network.pt").eval()
    with torch.inference_mode():
        assert torch.equal(other(images_for(name)), network(images_for(name)))


@every_member
def test_an_m_step_lowers_the_loss(name, make_slices, train, monkeypatch):
    monkeypatch.setattr(loop, "LOG_EVERY", 2)
    side = side_of(name)
    labels = np.zeros((2, side, side), np.uint8)
    labels[:, 6:20, 10:26] = 1
    noise = np.random.default_rng(0).normal(0, 0.2, labels.shape)
    slices = make_slices((labels + noise).astype(np.float32)[:, None], labels)
    torch.manual_seed(0)
    training = Training(iterations=14, batch=2, optimiser=Adam(learning_rate=0.03))
    records = []
    train(MEMBERS[name].build(1, 2), training, slices, records.append)
    assert records[-1]["loss"] < 0.9 * records[0]["loss"]


@every_member
def test_turns_train_every_part_of_it(name):
    network = MEMBERS[name].build(1, 2)
    trained = {id(weights) for part, _, _ in network.turns for weights in part.parameters()}
    assert trained == {id(weights) for weights in network.parameters()}


# MONAI's


def test_an_unknown_name_is_refused_by_what_was_expected():
    for name in ("NoSuchNet", "torch"):
        with pytest.raises(ValueError, match=rf"expected the name of a network in monai\.networks\.nets, got '{name}'"):
            MONAINetwork(name=name).build(1, 2)


@pytest.mark.parametrize("arguments", [{"filters": 3}, {"features": [4, 4]}, {"act": "none such"}])
def test_unknown_and_wrong_arguments_are_refused_by_the_name_of_the_class(arguments):
    with pytest.raises(ValueError, match=f"expected arguments that MONAI's BasicUNet takes.*{next(iter(arguments))}"):
        basic_unet(**arguments).build(1, 2)


def test_arguments_that_are_missing_are_named():
    with pytest.raises(ValueError, match=r"MONAI's UNet takes, got \{\}: .*'channels' and 'strides'"):
        MONAINetwork(name="UNet").build(1, 2)


def test_a_wrong_network_is_found_before_anything_is_trained():
    for question in ("has_dropout", "check_sides"):
        with pytest.raises(ValueError, match="NoSuchNet"):
            getattr(MONAINetwork(name="NoSuchNet"), question)(32)


def test_the_first_of_several_outputs_is_taken_for_the_logits():
    arguments = {"features": list(FEATURES), "deep_supervision": True}
    network = MONAINetwork(name="BasicUNetPlusPlus", arguments=arguments).build(1, 3)
    image = images_for("monai")
    with torch.inference_mode():
        outputs = network.eval().network(image)
        assert len(outputs) > 1
        assert torch.equal(network(image), outputs[0])


def test_outputs_that_a_network_stacks_while_it_trains_are_several_outputs_too():
    arguments = {
        "kernel_size": [3, 3, 3, 3],
        "strides": [1, 2, 2, 2],
        "upsample_kernel_size": [2, 2, 2],
        "filters": [2, 2, 2, 2],
        "deep_supervision": True,
        "deep_supr_num": 2,
    }
    spec = MONAINetwork(name="DynUNet", arguments=arguments)
    spec.check_sides(32)
    network = spec.build(1, 3).train()
    assert network.network(images_for("monai")).ndim == 5
    assert network(images_for("monai")).shape == network.eval()(images_for("monai")).shape == (3, 3, 32, 32)


def test_dropout_layers_of_probability_0_are_no_dropout():
    network = basic_unet(dropout=0.0).build(1, 2)
    assert any(isinstance(module, nn.Dropout) for module in network.modules())
    assert not has_dropout(network)
    with pytest.raises(DataError, match="expected a network with dropout"):
        check_dropout(network)


# Networks of blocks


def test_levels_are_those_of_nnunet():
    """Those that nnU-Net plans for the prostates of the Medical Segmentation Decathlon, and for cubes."""
    kernels, strides = levels((3.6, 0.62, 0.62), (20, 320, 256))
    assert strides == [[1, 1, 1], [1, 2, 2], [1, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2], [1, 2, 2]]
    assert kernels == [[1, 3, 3], [1, 3, 3], *[[3, 3, 3]] * 5]
    kernels, strides = levels((1.0, 1.0, 1.0), (128, 128, 128))
    assert strides == [[1, 1, 1], *[[2, 2, 2]] * 5]
    assert kernels == [[3, 3, 3]] * 6
    assert levels((8.0, 1.0, 1.0), (8, 16, 16)) == ([[1, 3, 3], [1, 3, 3], [3, 3, 3]], [[1, 1, 1], *[[1, 2, 2]] * 2])
    assert levels((1.0, 1.0), (24, 10))[1] == [[1, 1], [2, 2], [2, 1]], "odd sides are not halved"


@pytest.mark.parametrize(
    ("spacing_mm", "sides"),
    [
        ((0.2, 1.0, 1.0), (20, 48, 48)),
        ((1.0, 2.0, 2.0), (8, 16, 16)),
        ((1.0, 1.0, 1.0), (50, 50, 50)),
        ((1.0, 1.0), (50, 50)),
    ],
)
def test_shapes_that_can_hardly_be_halved_have_levels_enough(spacing_mm, sides):
    """DynUNet takes three or more."""
    kernels, strides = levels(spacing_mm, sides)
    assert len(kernels) == len(strides) == 3
    spec = MONAINetwork(name="DynUNet", arguments={"filters": [4, 8, 8, 8]}, dimensions=len(sides))
    spec.fitted(spacing_mm, sides).check_sides(*sides)


def test_kernels_and_strides_are_fitted_where_nobody_gives_them():
    plain = MONAINetwork(name="DynUNet", arguments={"filters": [4, 8, 8], "dropout": 0.2}, dimensions=3)
    spec = plain.fitted((2.5, 1.0, 1.0), (8, 32, 32))
    assert spec.arguments["strides"] == [[1, 1, 1], [1, 2, 2], [2, 2, 2]], "no more levels than filters"
    assert spec.arguments["kernel_size"] == [[1, 3, 3], [3, 3, 3], [3, 3, 3]]
    assert spec.fitted((1.0, 1.0, 1.0), (64, 64, 64)) == spec, "once"
    assert spec.has_dropout
    spec.check_sides(8, 32, 32)
    network = spec.build(2, 3)
    for sides in ((8, 32, 32), (16, 48, 32)):
        assert network(torch.randn(1, 2, *sides)).shape == (1, 3, *sides)
    with pytest.raises(ValueError, match=r"got \(7, 32, 32\).*; change depth, patch or network.arguments"):
        spec.check_sides(7, 32, 32)
    spec.check_sides(512, 2048, 2048)  # nothing is computed
    for filters in (5, [], "x", [0, 1, 2]):
        odd = replace(plain, arguments={"filters": filters})
        with pytest.raises(ValueError, match="arguments that MONAI's DynUNet takes"):
            odd.fitted((1.0, 1.0, 1.0), (16, 16, 16)).check_sides(16, 16, 16)
    assert basic_unet().fitted((1.0, 1.0), (32, 32)) == basic_unet()
    fitted = MONAINetwork(name="DynUNet").fitted((1.0, 1.0), (32, 32))
    fitted.check_sides(32)
    assert from_plain(MONAINetwork, json.loads(json.dumps(to_plain(spec)))) == spec


def test_a_crf_rnn_takes_no_network_of_blocks():
    spec = CRFRNN(**KERNELS, unaries=replace(basic_unet(), dimensions=3))
    with pytest.raises(ValueError, match="2-D network inside crf_rnn, got 3-D"):
        spec.check_sides(32)


def test_an_m_step_of_blocks_lowers_the_loss(make_slices, boxes, fabric, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    torch.manual_seed(0)
    spec = MONAINetwork(name="DynUNet", arguments={"filters": [4, 8, 8]}, dimensions=3).fitted((1.0,) * 3, (4, 16, 16))
    source = loop.Source(make_slices(*boxes), 0, patch=16, depth=4)
    training, records = Training(iterations=20, batch=2, optimiser=Adam(learning_rate=0.01)), []
    batches, course = loop.Batches(source, None, (0, 0)), loop.Course(tmp_path / "m_step.ckpt", records.append)
    loop.m_step(spec.build(1, 2), training, batches=batches, fabric=fabric, course=course)
    losses = [record["loss"] for record in records]
    assert np.mean(losses[-4:]) < 0.7 * np.mean(losses[:4])
