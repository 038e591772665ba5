"""`jdl size`: numbers and operations by layer, counted by hand; bytes as they are really kept.

Seen to fail: with the operations of a whole batch, with scopes that Flax names twice, with int8 of
some matrices alone, without the bits of the mask, and with adapters that are pruned.
"""

from dataclasses import replace

import jax
import numpy as np
import optax
import pytest

import jdl
from jdl.inspect.evaluate import evaluate
from jdl.inspect.restore import TrainedRun
from jdl.inspect.size import REST, layer_of_scope, size
from jdl.models.cnn import CNN
from jdl.models.mlp import MLP
from jdl.objectives import quantize_variables

LAYERS = {"stack/block_0/attention/query", "stack/block_0/feed_forward/in", "tokens", "Conv_0"}


@pytest.fixture(scope="module")
def trained():
    """A CNN with BatchNorm, half of whose weights are pruned."""
    train, test = jdl.data.digits()
    model = CNN(10, ((4, 1), (6, 1)), dense=(16,), batch_norm=True)
    learner = jdl.prune(jdl.descent(jdl.objectives.classify(model), optax.sgd(0.1)), 0.5)
    splits = train.shuffled(32, 0), test.batches(100)
    run = jdl.Run(jdl.Config(name="size"), learner, *splits, best="max accuracy")
    return TrainedRun(run, jax.jit(learner.init)(jax.random.key(0), splits[0][0]))


@pytest.fixture(scope="module")
def measured(trained):
    return size(trained, evaluate=True)


@pytest.mark.slow
def test_each_layer_has_its_numbers_zeros_and_operations(trained, measured):
    layers = {layer.name: layer for layer in measured.layers}
    params = trained.variables["params"]
    assert sum(layer.numbers for layer in measured.layers) == sum(
        leaf.size for leaf in jax.tree.leaves(trained.variables)
    )
    assert layers["Conv_0"].numbers == 9 * 4
    assert layers["Conv_0"].operations == 2 * 8 * 8 * 9 * 4  # a digit has 8 x 8 pixels
    assert layers["Conv_1"].operations == 2 * 4 * 4 * 9 * 4 * 6
    assert layers["head/Dense_0"].operations == 2 * (2 * 2 * 6) * 16
    assert layers["head/Dense_0"].nbytes == 4 * (24 * 16 + 16)
    kernels = [params["Conv_0"], params["Conv_1"], *params["head"].values()]
    zeros = sum(int((np.asarray(layer["kernel"]) == 0).sum()) for layer in kernels)
    numbers = sum(layer["kernel"].size for layer in kernels)
    assert zeros == int(0.5 * numbers)
    found = sum(layers[name].zeros for name in layers if "BatchNorm" not in name)
    assert found == zeros + 26  # the biases of dense layers are 0 at the start


def test_the_forms_take_what_they_take_and_are_evaluated(trained, measured):
    forms = {form.name: form for form in measured.forms}
    variables = trained.variables
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(variables))
    assert forms["as it is"].nbytes == whole
    small = quantize_variables(variables, "^params/.*kernel")
    assert forms["int8"].nbytes == sum(leaf.nbytes for leaf in jax.tree.leaves(small))
    small = quantize_variables(variables, "Conv_1/kernel|Dense_./kernel", 4)
    assert forms["int4"].nbytes == sum(leaf.nbytes for leaf in jax.tree.leaves(small))
    kernels = 36 + 216 + 24 * 16 + 160
    kept = kernels - int(0.9 * kernels)
    assert forms["90% pruned"].nbytes == whole - 4 * (kernels - kept) + kernels // 8
    assert measured.metric == "valid accuracy"
    assert forms["as it is"].metric == evaluate(trained)["valid"]["accuracy"]
    assert len({form.metric for form in measured.forms}) > 2


@pytest.mark.parametrize(
    ("scope", "layer"),
    [
        ("/CNN/Conv_0/", "Conv_0"),
        (
            "/GPT/stack/block_0/block_0._add/attention/attention._heads/query/query",
            "stack/block_0/attention/query",
        ),
        (
            "/GPT/stack/block_0/block_0._add/attention//vmap(BTNH,BSNH->BNTS)",
            "stack/block_0/attention",
        ),
        ("/GPT/tokens.logits", "tokens"),
        ("/", REST),
    ],
)
def test_an_operation_belongs_to_the_module_around_it(scope, layer):
    assert layer_of_scope(scope, LAYERS) == layer


def test_the_table_and_the_figure(measured, tmp_path):
    rows = [line.split() for line in str(measured).splitlines()]
    assert ["Conv_0", "36", "0.1"] in [row[:3] for row in rows]
    assert [row[-1] for row in rows if row[:1] == ["int8"]] == [
        f"{form.metric:.4f}" for form in measured.forms if form.name == "int8"
    ]
    measured.draw(tmp_path / "figures" / "size.png")
    assert (tmp_path / "figures" / "size.png").stat().st_size > 10_000


def test_of_adapters_alone_no_matrix_is_rounded_or_pruned():
    """All that is trained is LoRA's; the weights below are counted, and kept as they are."""
    train, _ = jdl.data.digits()
    objective = jdl.lora(jdl.objectives.classify(MLP(10, (8,))), "Dense", rank=2)
    learner, data = jdl.descent(objective, optax.sgd(0.1)), train.shuffled(32, 0)
    run = jdl.Run(jdl.Config(name="size"), learner, data)
    found = size(TrainedRun(run, jax.jit(learner.init)(jax.random.key(0), data[0])))
    assert [form.name for form in found.forms] == ["as it is", "bfloat16"]
    base, adapters = (64 * 8 + 8) + (8 * 10 + 10), 2 * (64 + 8) + 2 * (8 + 10)
    assert sum(layer.numbers for layer in found.layers) == base + adapters + 1  # and the scale
    whole = 4 * (base + adapters + 1)
    assert [form.nbytes for form in found.forms] == [whole, whole - 2 * adapters]


def test_a_run_without_data_to_evaluate_on_is_refused(trained):
    alone = replace(trained, run=replace(trained.run, valid=None, test=None))
    with pytest.raises(jdl.Error, match="neither a validation nor a test set"):
        size(alone, evaluate=True)
