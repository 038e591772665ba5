"""Plans: what is refused, what fits, what it costs, and every model for TPUs and GPUs.

Seen to fail: micro-batches that are unrolled for a TPU, a ranking upside down, a plan that always
fits, an axis that divides nothing but the arithmetic, bfloat16's peak for float32 on a GPU, the
longest part as what bounds, cuDNN's attention without its products, kernels that nobody counts.
"""

import json
from dataclasses import dataclass, replace

import jax
import numpy as np
import optax
import pytest
from model_table import TABLE
from unsupervised_table import UNSUPERVISED

import jdl
from jdl.cli import call_verb
from jdl.inspect.cost import cost
from jdl.layers.platform import compiled_for
from jdl.models.gpt import GPT
from jdl.models.mlp import MLP
from jdl.models.transformer import TransformerConfig
from jdl.parallel import build_mesh as run_mesh
from jdl.plan import chips, devices
from jdl.plan.estimate import DISPATCH, LAUNCH
from jdl.plan.gpus import installed_plugin
from jdl.plan.run_plan import plan
from jdl.plan.step import REFUSAL
from jdl.plan.trials import changes, search, smallest_change, with_micro_batches
from jdl.types import Loader

needs_libtpu = pytest.mark.skipif(
    not devices.has_libtpu(),
    reason="libtpu, the compiler for TPUs, is not installed: pip install 'jdl[plan]', or set "
    "TPU_LIBRARY_PATH",
)
needs_cuda = pytest.mark.skipif(
    installed_plugin() is None,
    reason="JAX's plugin for NVIDIA's GPUs, which has their compiler, is not installed: "
    "pip install 'jdl[gpu]'",
)
MESH = "data=2,fsdp=2"


@pytest.fixture
def simulated(monkeypatch):
    """GPUs are simulated devices, as where their compiler is not installed."""
    monkeypatch.setattr(devices, "installed_plugin", lambda: None)


@dataclass(frozen=True)
class Config(jdl.Config):
    name: str = "small"
    batch: int = 64


def make(c):
    train, _ = jdl.data.digits()
    learner = jdl.descent(jdl.objectives.classify(MLP(10, hidden=(128,))), optax.adam(1e-3))
    return jdl.Run(c, jdl.ema(learner, 0.9), train.shuffled(c.batch, c.seed))


def run(**fields):
    return make(Config(**fields))


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("v5e:3x5", "2x4, 4x4"),
        ("v5e", "16x16"),
        ("v5p:4x4", "2x2x4"),
        ("v9:2x2", "v5e:16x16"),
        ("h100:16", "1, 2, 4, 8"),
        ("cpu:0", "cpu:1 to cpu:512"),
        ("", "cpu:8"),
    ],
)
def test_topologies_that_there_are_not_are_refused_with_those_that_there_are(text, advice):
    with pytest.raises(jdl.Error, match=advice):
        plan(run(), text)


def test_meshes_that_do_not_fit_the_topology_are_refused_before_anything_is_compiled():
    with pytest.raises(jdl.Error, match="data=4,fsdp=2 or data=2,fsdp=4 would do"):
        plan(run(), "v5e:2x4", "data=2,fsdp=2")
    with pytest.raises(jdl.Error, match="JAX_NUM_CPU_DEVICES=8"):
        plan(run(), "cpu:8")
    with pytest.raises(jdl.Error, match="--elastic 0"):
        plan(run(elastic=2), "cpu:4")
    with pytest.raises(jdl.Error, match="--mesh is written like"):
        plan(run(), "cpu:4", "rows=4")
    with pytest.raises(jdl.Error, match="--quick is for TPUs"):
        plan(run(), "cpu:4", quick=True)


def test_without_libtpu_a_tpu_is_refused_with_what_to_install(monkeypatch):
    monkeypatch.setattr(devices, "has_libtpu", lambda: False)
    with pytest.raises(jdl.Error, match=r"jdl\[plan\].*cpu:4"):
        plan(run(), "v5e:2x2")


@pytest.mark.slow
def test_a_plan_has_the_memory_and_the_operations_of_the_step_that_is_trained(tmp_path):
    """On simulated devices the compile is the training's own, and what it counts is known."""
    found, measured = plan(run(), "cpu:4", MESH), cost(run(), run_mesh(MESH))
    assert found.memory.params == measured.params
    assert found.memory.opt_state == measured.opt_state
    assert 0.5 < found.memory.temporaries / measured.temporary < 1.5
    assert found.operations == 4 * measured.operations
    assert (found.items, found.item) == (run().train.batch_size, "examples")
    assert found.time is None
    assert "all-gather over 2" in str(found)
    found.draw(tmp_path / "memory.png")
    assert (tmp_path / "memory.png").stat().st_size > 10_000


def test_without_its_compiler_a_gpu_is_simulated_and_the_plan_says_so(simulated):
    found = plan(run(), "h100:2", "data=2", watts=500)
    assert found.time.arithmetic == found.operations / 2 / 495e12  # in TF32
    assert chips.CHIPS["h100"].peak_in("bfloat16") == (990e12, "bfloat16")
    assert chips.CHIPS["v5e"].peak_in("float32") == (197e12, "bfloat16")
    assert found.time.memory == found.traffic / 3_350e9
    assert found.time.interconnect == found.wire / 450e9
    assert (found.time.seconds, found.time.bound) == (DISPATCH, "dispatch")
    assert replace(found.time, memory=1.0, arithmetic=2.0).seconds == 3
    assert replace(found.time, interconnect=4.0, memory=1.0).seconds == 4
    assert replace(found.time, arithmetic=3.0, memory=2.9, interconnect=4.0).bound == "arithmetic"
    assert replace(found.time, memory=2.9, interconnect=4.0).bound == "interconnect"
    assert "compiler for this GPU is not installed" in str(found)
    assert "500 W" in str(found)
    values = json.loads(json.dumps(found.to_json()))
    assert values["time"]["bound"] == found.time.bound
    assert values["run_seconds"] == found.steps * DISPATCH
    assert values["kwh"] == found.steps * DISPATCH * 2 * 500 / 3.6e6
    assert values["memory"]["total"] == found.memory.total


def test_an_axis_that_divides_nothing_divides_no_arithmetic(simulated):
    found = plan(run(), "h100:4", "data=2,model=2")
    assert found.time.arithmetic == found.operations / 2 / 495e12
    assert "4 chips do the arithmetic of 2" in str(found)


def with_memory(monkeypatch, nbytes):
    monkeypatch.setitem(chips.CHIPS, "h100", replace(chips.CHIPS["h100"], memory=nbytes))


@pytest.mark.slow
def test_what_does_not_fit_is_changed_until_it_does(simulated, monkeypatch):
    whole, cut = plan(run(), "h100:2", "data=2"), plan(run(), "h100:2", "fsdp=2")
    assert cut.memory.total < whole.memory.total
    with_memory(monkeypatch, (whole.memory.total + cut.memory.total) / 2)
    assert not plan(run(), "h100:2", "data=2").fits
    assert smallest_change(run(), "h100:2", "data=2").mesh == "fsdp=2"
    assert [one.mesh for one in search(run(), "h100:2")] == ["fsdp=2", "data=2"]
    with_memory(monkeypatch, 1)
    assert "DOES NOT FIT" in str(plan(run(), "h100:2", "data=2"))


def test_changes_are_tried_from_the_cheapest_on():
    texts = [(c.mesh, c.text) for c in changes(run(), "h100:4", "", make)]
    assert texts[:2] == [("data=2,fsdp=2", ""), ("fsdp=4", "")]
    kinds = [text.split("=")[0].split()[0] for _, text in texts[2:]]
    assert kinds == sorted(kinds, reverse=True)
    assert {"micro_batches", "--batch"} <= set(kinds)


def test_micro_batches_stay_a_loop_for_a_tpu():
    """On a CPU they are unrolled; a plan for a TPU must not be."""
    learner, batch = with_micro_batches(run().learner, 8), run().train[0]
    state = learner.init(jax.random.key(0), batch)
    loops = []
    for platform in ("cpu", "tpu"):
        with compiled_for(platform):
            loops.append("stablehlo.while" in jax.jit(learner.step).lower(state, batch).as_text())
    assert loops == [False, True]


def test_refusals_of_the_compiler_are_read():
    text = "Ran out of memory in memory space hbm. Used 20.31G of 15.75G hbm. Exceeded"
    assert REFUSAL.search(text).groups() == ("20.31", "G", "15.75", "G")
    text = "HLO temporaries (141.25G) exceeds available HBM (15.75G)."
    assert REFUSAL.search(text).groups() == ("141.25", "G", "15.75", "G")


def test_the_command_writes_what_it_says(tmp_path, capsys, monkeypatch, root):
    monkeypatch.chdir(tmp_path)
    script = str(root / "experiments" / "digits_mlp.py")
    files = ["--json", "plan.json", "--keep", "programs"]
    call_verb("plan", [script, "--topology", "cpu:2", "--mesh", "fsdp=2", *files])
    printed = capsys.readouterr().out
    assert "nothing was run" in printed
    assert (tmp_path / "plan" / "digits_mlp-cpu-2.png").is_file()
    assert json.loads((tmp_path / "plan.json").read_text())[0]["mesh"] == "fsdp=2"
    (kept,) = (tmp_path / "programs").iterdir()
    assert "ENTRY" in kept.read_text()
    with pytest.raises(jdl.Error, match="needs the script"):
        call_verb("plan", ["--topology", "cpu:2"])


def test_options_that_cannot_be_are_refused_before_anything_is_compiled(
    tmp_path, monkeypatch, root
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(jdl.plan.run_plan, "compile_step", None)
    (tmp_path / "file").touch()
    command = [str(root / "experiments" / "digits_mlp.py"), "--topology", "cpu:1"]
    for flags, advice in [
        (["--search", "--mesh", "data=1"], "drop --mesh"),
        (["--json", "."], "is a folder"),
        (["--picture", "memory.xyz"], "ends in .png"),
        (["--keep", "file"], "is a file"),
        (["--watts", "-5"], "positive"),
        (["--watts", "nan", "--search"], "positive"),
    ]:
        with pytest.raises(jdl.Error, match=advice):
            call_verb("plan", [*command, *flags])


@needs_libtpu
def test_a_plan_for_a_tpu_has_the_state_and_the_operations_of_any_other():
    found = plan(run(), "v5e:2x2", MESH)
    assert found.fits
    assert found.memory.params == plan(run(), "cpu:4", MESH).memory.params
    assert found.operations == plan(run(), "cpu:4", MESH).operations


@needs_libtpu
@pytest.mark.parametrize(("window", "columns"), [(None, ["x"]), (256, ["x", "segment"])])
def test_attention_over_long_sequences_takes_no_memory_of_their_square(window, columns):
    """Splash attention, on each device's rows and heads. Seen to fail: without the kernel."""
    steps = 2048
    sizes = TransformerConfig(width=256, depth=1, heads=2, max_length=steps, window=window)
    objective = jdl.objectives.next_token(GPT(64, sizes))
    tokens = np.zeros((8, steps + 1), np.int32)
    data = jdl.data.arrays(**dict.fromkeys(columns, tokens)).shuffled(8, 0)
    made = jdl.Run(Config(), jdl.descent(objective, optax.adam(1e-3)), data)
    found = plan(made, "v5e:2x2", "data=2,model=2")
    weights = 4 * 4 * 1 * steps**2  # bytes of 4 rows and a head, in float32
    assert 0 < found.memory.temporaries < weights


@needs_libtpu
def test_fsdp_on_a_tpu_sends_the_bytes_of_its_matrices():
    """Kernels are gathered in bfloat16; the large ones' gradients reduce-scattered in float32.

    Of the small one's gradient the compiler makes an all-reduce.
    """
    objective = jdl.objectives.classify(MLP(10, hidden=(256, 128)))
    made = replace(run(), learner=jdl.descent(objective, optax.adam(1e-3)))
    found = {one.kind: one.nbytes for one in plan(made, "v5e:2x2", "fsdp=4").collectives}
    assert found["all-gather"] == 2 * (64 * 256 + 256 * 128 + 128 * 10)
    assert found["reduce-scatter"] == 4 * (64 * 256 + 256 * 128)


@needs_libtpu
def test_a_quick_plan_has_the_collectives_of_a_thorough_one_and_moves_more():
    quick, thorough = (plan(run(), "v5e:2x2", "data=4", quick=fast) for fast in (True, False))
    assert quick.memory.params == thorough.memory.params
    assert quick.wire == thorough.wire
    assert quick.traffic > thorough.traffic
    assert "--quick" in str(quick)


class OneBatch(Loader):
    """A loader of one batch, for ever."""

    def __init__(self, batch):
        self.columns = batch

    def __len__(self):
        return 1

    @property
    def spec(self):
        return jax.eval_shape(lambda: self.columns)

    def read(self, start=0):
        while True:
            yield {name: np.asarray(column) for name, column in self.columns.items()}

    def batch(self, raw, i):
        return raw


@needs_cuda
def test_a_gpus_compiler_fuses_what_simulated_devices_hold(monkeypatch):
    """And its own collectives and kernels are counted."""
    found = plan(run(), "h100:4", MESH)
    kinds = {one.kind for one in found.collectives}
    assert {"all-gather", "reduce-scatter"} <= kinds
    assert found.time.dispatch == found.kernels * LAUNCH
    assert found.kernels > 20
    assert "not installed" not in str(found)
    monkeypatch.setattr(devices, "installed_plugin", lambda: None)
    stand_in = plan(run(), "h100:4", MESH)
    assert stand_in.memory.params == found.memory.params
    assert stand_in.operations == found.operations


@needs_cuda
def test_cudnns_attention_counts_its_products_as_the_plain_one_does(monkeypatch):
    """The gradient computes the weights again: 7 products where the plain one has 6."""
    blocks, batch, steps = TransformerConfig(width=32, depth=1, heads=4, max_length=64), 8, 64
    learner = jdl.descent(jdl.objectives.next_token(GPT(258, blocks)), optax.adam(1e-3))
    rows = jdl.data.arrays(x=np.zeros((batch, steps + 1), np.int32)).shuffled(batch, 0)
    made = jdl.Run(jdl.Config(name="gpt", precision="bfloat16"), learner, rows)
    found = plan(made, "h100:1")
    monkeypatch.setattr(devices, "installed_plugin", lambda: None)
    assert found.operations - plan(made, "h100:1").operations == 2 * batch * steps**2 * 32
    assert "fmha" in found.text


@pytest.mark.slow
@pytest.mark.parametrize(
    "topology",
    [pytest.param("v5e:2x2", marks=needs_libtpu), pytest.param("h100:4", marks=needs_cuda)],
)
@pytest.mark.parametrize("row", TABLE + UNSUPERVISED, ids=lambda row: row.name)
def test_every_model_compiles_for_tpus_and_gpus(row, topology):
    learner = row.wrap(jdl.descent(row.objective(row.model), optax.adam(1e-3)))
    made = jdl.Run(jdl.Config(name=row.name), learner, OneBatch(row.batch()))
    found = plan(made, topology, MESH)
    assert found.fits
    assert found.memory.params > 0
    assert found.time.seconds > 0
    assert found.operations >= 0
