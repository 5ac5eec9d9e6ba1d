"""The optimizers against PyTorch's and against their formulas; their settings and their state."""

import numpy as np
import pytest

from lora_np.autograd.devices import to_numpy
from lora_np.nn import Parameter
from lora_np.training import SGD, AdamW

SHAPES = [(4, 3), (5,), (2, 3, 2)]
TOLERANCE = {np.float64: 1e-12, np.float32: 1e-6}
SETTINGS = [
    pytest.param(SGD, {"lr": 0.1}, id="sgd"),
    pytest.param(SGD, {"lr": 0.1, "weight_decay": 0.2}, id="sgd-decay"),
    pytest.param(SGD, {"lr": 0.03, "momentum": 0.9}, id="sgd-momentum"),
    pytest.param(SGD, {"lr": 0.03, "momentum": 0.9, "weight_decay": 0.2}, id="sgd-momentum-decay"),
    pytest.param(AdamW, {}, id="adamw-defaults"),
    pytest.param(AdamW, {"lr": 0.05, "weight_decay": 0.0}, id="adamw-no-decay"),
    pytest.param(AdamW, {"lr": 0.05, "weight_decay": 0.3, "betas": (0.8, 0.95), "eps": 1e-3}, id="adamw-all"),
    pytest.param(AdamW, {"lr": 0.05, "betas": (0.0, 0.0)}, id="adamw-no-memory"),
]
OPTIMIZERS = [pytest.param(SGD, {"momentum": 0.9}, id="sgd"), pytest.param(AdamW, {}, id="adamw")]


def starts(rng, dtype=np.float64):
    return [rng.standard_normal(shape).astype(dtype) for shape in SHAPES]


def gradients(rng, steps, dtype=np.float64):
    """One list of gradients per step; their sizes differ widely, as they do in training."""
    return [[(10.0 ** rng.uniform(-3, 1) * g).astype(dtype) for g in starts(rng)] for _ in range(steps)]


def parameters(arrays, xp=np):
    return [Parameter(xp.array(array)) for array in arrays]


def steps(optimizer, params, grads, xp=np):
    for step in grads:
        for p, g in zip(params, step, strict=True):
            p.grad = xp.array(g)
        optimizer.step()


def assert_close(params, expected, tolerance):
    for p, array in zip(params, expected, strict=True):
        np.testing.assert_allclose(to_numpy(p.data), array, rtol=tolerance, atol=tolerance)


def sgd_by_hand(w, grads, lr, momentum=0.0, weight_decay=0.0):
    v = np.zeros_like(w)
    for g in grads:
        v = momentum * v + g + weight_decay * w
        w = w - lr * v
    return w


def adamw_by_hand(w, grads, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
    """Every moment from its definition, a weighted mean over all gradients so far, not from the one before."""
    for t in range(1, len(grads) + 1):
        ages = np.arange(t - 1, -1, -1)
        moments = []
        for beta, power in zip(betas, (1, 2), strict=True):
            weights = beta**ages / sum(beta**ages)
            moments.append(sum(a * g**power for a, g in zip(weights, grads[:t], strict=True)))
        w = w - lr * weight_decay * w - lr * moments[0] / (np.sqrt(moments[1]) + eps)
    return w


BY_HAND = {SGD: sgd_by_hand, AdamW: adamw_by_hand}


@pytest.mark.parity
@pytest.mark.parametrize("dtype", TOLERANCE, ids=["float64", "float32"])
@pytest.mark.parametrize(("kind", "settings"), SETTINGS)
def test_twenty_steps_as_in_torch(rng, kind, settings, dtype):
    import torch

    begin, grads = starts(rng, dtype), gradients(rng, 20, dtype)
    ours, theirs = parameters(begin), [torch.nn.Parameter(torch.tensor(w)) for w in begin]
    steps(kind(ours, **settings), ours, grads)
    oracle = getattr(torch.optim, kind.__name__)(theirs, **settings)
    for step in grads:
        for p, g in zip(theirs, step, strict=True):
            p.grad = torch.tensor(g)
        oracle.step()
    assert all(p.dtype == dtype for p in ours)
    assert_close(ours, [p.detach().numpy() for p in theirs], TOLERANCE[dtype])


@pytest.mark.parametrize(("kind", "settings"), SETTINGS)
def test_twenty_steps_as_in_the_formula(rng, xp, kind, settings):
    begin, grads = starts(rng), gradients(rng, 20)
    params = parameters(begin, xp)
    steps(kind(params, **settings), params, grads, xp)
    settings = {"lr": 1e-3, **settings}
    expected = [BY_HAND[kind](w, list(g), **settings) for w, g in zip(begin, zip(*grads, strict=True), strict=True)]
    assert all(isinstance(p.data, xp.ndarray) for p in params)
    assert_close(params, expected, 1e-12)
    assert all((to_numpy(p.data) != w).all() for p, w in zip(params, begin, strict=True))


@pytest.mark.parametrize(("kind", "settings"), SETTINGS)
def test_a_step_writes_into_the_weight_and_has_no_hand_in_the_gradient(xp, kind, settings):
    """Neither is the gradient changed, nor is it kept: its owner may go on to add to it."""
    (p,) = parameters([np.ones((2, 3))], xp)
    array, grad = p.data, xp.full((2, 3), 0.5)
    p.grad = grad
    optimizer = kind([p], **settings)
    optimizer.step()
    assert p.data is array
    assert float(abs(array - 1).min()) > 1e-6
    assert p.grad is grad
    assert float(abs(grad - 0.5).max()) == 0
    state = {name: np.array(to_numpy(value)) for name, value in optimizer.numbered_state().items()}
    grad += 100
    for name, value in optimizer.numbered_state().items():
        np.testing.assert_array_equal(to_numpy(value), state[name])


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_the_first_adamw_step_is_as_long_as_the_learning_rate(rng, scale):
    """Without bias correction it would be (1 - β₁)/√(1 - β₂) ≈ 3.16 times that."""
    g = scale * rng.choice([-1.0, 1.0], (4, 3))
    (p,) = parameters([np.zeros((4, 3))])
    steps(AdamW([p], lr=0.01), [p], [[g]])
    np.testing.assert_allclose(p.data, -0.01 * np.sign(g), rtol=1e-3)


def test_adamw_decay_is_decoupled_from_the_gradients_scale(rng):
    """A zero gradient leaves pure decay, and the decay is the same beside gradients of any size."""
    begin, lr, decay = rng.standard_normal((4, 3)), 0.1, 0.5
    (still,) = parameters([begin])
    steps(AdamW([still], lr=lr, weight_decay=decay), [still], [[np.zeros((4, 3))]] * 3)
    np.testing.assert_allclose(still.data, begin * (1 - lr * decay) ** 3, rtol=1e-14)

    for scale in (1.0, 1e6):
        with_decay, without = parameters([begin, begin])
        steps(AdamW([with_decay], lr=lr, weight_decay=decay), [with_decay], [[np.full((4, 3), scale)]])
        steps(AdamW([without], lr=lr, weight_decay=0.0), [without], [[np.full((4, 3), scale)]])
        np.testing.assert_allclose(without.data - with_decay.data, lr * decay * begin, rtol=1e-12)


@pytest.mark.parametrize(("kind", "settings"), OPTIMIZERS)
def test_parameters_without_gradient_are_passed_over(rng, kind, settings):
    params = parameters(starts(rng))
    before = params[1].data.tobytes()
    optimizer = kind(params, lr=0.1, weight_decay=0.5, **settings)
    for g in gradients(rng, 3):
        params[0].grad, params[2].grad = g[0], g[2]
        optimizer.step()
    assert params[1].data.tobytes() == before
    assert set(optimizer.state_dict()["state"]) == {0, 2}
    assert len(optimizer.state) == 2


def test_a_gradient_that_comes_later_counts_its_own_steps(rng):
    """Bias correction goes by the parameter's own number of steps."""
    early, late = parameters([np.zeros(3), np.zeros(3)])
    optimizer = AdamW([early, late], lr=0.01)
    for step in range(5):
        early.grad = np.ones(3)
        late.grad = np.ones(3) if step == 4 else None
        optimizer.step()
    np.testing.assert_allclose(late.data, -0.01, rtol=1e-6)


@pytest.mark.parametrize("kind", [SGD, AdamW])
def test_groups_have_settings_of_their_own(rng, kind):
    begin, grads = starts(rng), gradients(rng, 4)
    params = parameters(begin)
    own = [{"lr": 0.02}, {"weight_decay": 0.3}, {}]
    optimizer = kind([{"params": [p], **s} for p, s in zip(params, own, strict=True)], lr=0.1, weight_decay=0.01)
    steps(optimizer, params, grads)
    for i, settings in enumerate(own):
        settings = {"lr": 0.1, "weight_decay": 0.01, **settings}
        expected = BY_HAND[kind](begin[i], [step[i] for step in grads], **settings)
        np.testing.assert_allclose(params[i].data, expected, rtol=1e-12)


def test_a_groups_learning_rate_can_be_changed_between_steps():
    (p,) = parameters([np.zeros(3)])
    optimizer = SGD([p], lr=1.0)
    for lr in (1.0, 0.5, 0.0):
        optimizer.param_groups[0]["lr"] = lr
        steps(optimizer, [p], [[np.ones(3)]])
    np.testing.assert_array_equal(p.data, -1.5)


@pytest.mark.parametrize("kind", [SGD, AdamW])
def test_parameters_may_be_a_generator_and_zero_grad_forgets(kind):
    params = parameters([np.ones(3), np.ones(2)])
    optimizer = kind(p for p in params)
    assert [id(p) for p in optimizer.parameters()] == [id(p) for p in params]
    for p in params:
        p.grad = np.ones(p.shape)
    optimizer.zero_grad()
    assert [p.grad for p in params] == [None, None]


@pytest.mark.parametrize(("kind", "settings"), OPTIMIZERS)
@pytest.mark.parametrize("reloaded", [False, True], ids=["at-once", "saved-and-loaded"])
def test_a_single_number_is_trained_too(kind, settings, reloaded):
    """A 0-d parameter, the weight of a first example, moves as the one number of a vector does."""
    scalar, vector = Parameter(np.array(1.0)), Parameter(np.array([1.0]))
    for p in (scalar, vector):
        optimizer = kind([p], lr=0.1, **settings)
        steps(optimizer, [p], [[np.full(p.shape, 0.5)]])
        if reloaded:
            state, optimizer = optimizer.state_dict(), kind([p], lr=0.1, **settings)
            optimizer.load_state_dict(state)
        steps(optimizer, [p], [[np.full(p.shape, -0.25)], [np.full(p.shape, 1.0)]])
    assert scalar.shape == ()
    np.testing.assert_allclose(scalar.data, vector.data[0], rtol=1e-12)


WEIGHT = Parameter(np.ones(3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda: SGD([]), "no parameters.*frozen", id="empty"),
        pytest.param(lambda: AdamW(p for p in ()), "no parameters", id="empty-generator"),
        pytest.param(lambda: SGD([WEIGHT], lr=-0.1), "-0.1", id="negative-lr"),
        pytest.param(lambda: AdamW([{"params": [WEIGHT], "lr": -0.1}]), "-0.1", id="negative-lr-in-group"),
        pytest.param(lambda: AdamW([{"params": [WEIGHT], "momentum": 0.9}]), "AdamW.*momentum", id="unknown-setting"),
        pytest.param(lambda: SGD([{"params": [WEIGHT], "betas": (0, 0)}]), "SGD.*betas", id="unknown-setting-sgd"),
        pytest.param(lambda: SGD([WEIGHT, WEIGHT]), "twice", id="twice"),
        pytest.param(lambda: SGD([{"params": [WEIGHT]}, {"params": [WEIGHT]}]), "twice", id="twice-over-groups"),
        pytest.param(lambda: AdamW([WEIGHT], betas=(0.9, 1.0)), "betas.*1.0", id="beta-one"),
        pytest.param(lambda: AdamW([WEIGHT], betas=(-0.1, 0.9)), "betas.*-0.1", id="beta-negative"),
        pytest.param(lambda: AdamW([{"params": [WEIGHT], "betas": (0.9, 1.0)}]), "betas.*1.0", id="beta-in-group"),
        pytest.param(lambda: AdamW([WEIGHT], betas=(0.9,)), r"betas should be two numbers.*\(0.9,\)", id="one-beta"),
        pytest.param(lambda: AdamW([WEIGHT], eps=float("nan")), "eps must not be negative, got nan", id="eps"),
        pytest.param(lambda: AdamW([WEIGHT], weight_decay=-1), "weight_decay must not be negative", id="decay"),
        pytest.param(lambda: SGD([WEIGHT], momentum=-0.9), "momentum must not be negative", id="momentum"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_keyword_that_does_not_exist_is_refused():
    with pytest.raises(TypeError, match="SGD has no argument 'momentun'; did you mean 'momentum'"):
        SGD([WEIGHT], momentun=0.9)


@pytest.mark.parametrize("kind", [SGD, AdamW])
def test_a_parameter_in_place_of_a_list_is_refused(kind):
    """It could be read as a list of its numbers, and training would silently change nothing."""
    with pytest.raises((TypeError, ValueError), match=r"list|iterable"):
        kind(Parameter(np.ones(3)))


@pytest.mark.parametrize(("kind", "settings"), OPTIMIZERS)
def test_saved_state_continues_identically(rng, xp, kind, settings):
    """The state goes through NumPy arrays, as it does through a file."""
    begin, grads = starts(rng, np.float32), gradients(rng, 7, np.float32)
    params = parameters(begin, xp)
    optimizer = kind(params, lr=0.1, weight_decay=0.1, **settings)
    steps(optimizer, params, grads[:4], xp)

    state = optimizer.state_dict()
    arrays = {i: {n: np.array(to_numpy(v)) for n, v in values.items()} for i, values in state["state"].items()}
    saved = {**state, "state": arrays}
    copies = parameters([p.data for p in params], xp)
    other = kind(copies, lr=0.1, weight_decay=0.1, **settings)
    other.load_state_dict(saved)
    steps(optimizer, params, grads[4:], xp)
    steps(other, copies, grads[4:], xp)
    for p, copy in zip(params, copies, strict=True):
        np.testing.assert_array_equal(to_numpy(copy.data), to_numpy(p.data))

    forgetful = parameters(begin, xp)
    steps(kind(forgetful, lr=0.1, weight_decay=0.1, **settings), forgetful, grads[:4], xp)
    steps(kind(forgetful, lr=0.1, weight_decay=0.1, **settings), forgetful, grads[4:], xp)
    assert not np.allclose(to_numpy(forgetful[0].data), to_numpy(params[0].data)), "the state made no difference"


def test_a_step_count_survives_as_an_array(rng):
    """Safetensors hold arrays only, so `step` comes back as one."""
    (p,) = parameters([np.zeros(3)])
    optimizer = AdamW([p])
    state = {"step": np.asarray(7), "m": np.zeros(3), "v": np.ones(3)}
    optimizer.load_state_dict({**optimizer.state_dict(), "state": {0: state}})
    p.grad = np.ones(3)
    optimizer.step()
    step = optimizer.state_dict()["state"][0]["step"]
    assert (step, type(step)) == (8, int)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        pytest.param({"0.m": np.zeros((2, 2))}, r"0\.m.*\(2, 2\).*\(3,\)", id="shape"),
        pytest.param({"1.m": np.zeros(3)}, r"'1\.m' belongs to no", id="number"),
        pytest.param({"-1.m": np.zeros(3)}, r"'-1\.m' belongs to no", id="negative-number"),
        pytest.param({"m": np.zeros(3)}, "'m' belongs to no", id="no-number"),
        pytest.param({"0.velocity": np.zeros(3)}, "velocity", id="of-another-optimizer"),
        pytest.param({"0.step": 3, "0.m": np.zeros(3)}, r"\bv\b", id="incomplete"),
    ],
)
def test_state_that_does_not_fit_is_refused_and_nothing_changes(state, message):
    (p,) = parameters([np.zeros(3)])
    optimizer = AdamW([p])
    steps(optimizer, [p], [[np.ones(3)]])
    before = {name: np.array(value) for name, value in optimizer.numbered_state().items()}
    with pytest.raises(ValueError, match=message):
        optimizer.checked_state(state)
    if all(key.partition(".")[0].isdigit() for key in state):
        with pytest.raises(ValueError, match=message):
            optimizer.load_state_dict({**optimizer.state_dict(), "state": nested(state)})
    assert optimizer.numbered_state().keys() == before.keys()
    for name, value in optimizer.numbered_state().items():
        np.testing.assert_array_equal(value, before[name])


def nested(state):
    """{number: {name: value}} of {"number.name": value}."""
    found = {}
    for key, value in state.items():
        number, _, name = key.partition(".")
        found.setdefault(int(number), {})[name] = value
    return found


@pytest.mark.parity
@pytest.mark.parametrize(("kind", "settings"), OPTIMIZERS)
def test_a_state_holds_and_restores_what_torchs_does(rng, kind, settings):
    """Groups with rates of their own, one of which a schedule has changed; then ten steps with other settings given."""
    import torch

    def run(optim, leaf, array):
        def made(**given):
            params = [leaf(array(w)) for w in begin]
            return optim(
                [{"params": params[:2], "lr": 0.3}, {"params": params[2:]}], lr=0.1, **settings, **given
            ), params

        def take(optimizer, params, steps):
            for step in steps:
                for p, g in zip(params, step, strict=True):
                    p.grad = array(g)
                optimizer.step()

        first, params = made(weight_decay=0.2)
        take(first, params, grads[:3])
        first.param_groups[0]["lr"] = 0.05
        second, others = made()
        for p, q in zip(params, others, strict=True):
            q.data[...] = p.data
        second.load_state_dict(first.state_dict())
        take(second, others, grads[3:])
        return [first.state_dict(), second.state_dict()], [p.detach().numpy() for p in (*params, *others)]

    begin, grads = starts(rng), gradients(rng, 10)
    ours, weights = run(kind, Parameter, np.array)
    theirs, expected = run(getattr(torch.optim, kind.__name__), torch.nn.Parameter, torch.tensor)
    for own, other in zip(ours, theirs, strict=True):
        assert own.keys() == other.keys()
        assert own["state"].keys() == other["state"].keys()
        for group, oracle in zip(own["param_groups"], other["param_groups"], strict=True):
            assert group.items() <= oracle.items()
    for found, array in zip(weights, expected, strict=True):
        np.testing.assert_allclose(found, array, rtol=1e-10, atol=1e-12)


def test_a_state_that_was_loaded_is_a_copy(rng):
    """In torch two optimizers then write into the same arrays."""
    first, second = (AdamW(parameters(starts(rng)), lr=0.1) for _ in range(2))
    steps(first, first.parameters(), gradients(rng, 1))
    second.load_state_dict(first.state_dict())
    before = first.state_dict()["state"][0]["m"].copy()
    steps(second, second.parameters(), gradients(rng, 1))
    np.testing.assert_array_equal(first.state_dict()["state"][0]["m"], before)


def test_a_state_of_other_groups_or_another_form_is_refused():
    params = parameters([np.zeros(3), np.zeros(2)])
    optimizer, other = AdamW(params), AdamW([{"params": params[:1]}, {"params": params[1:]}])
    with pytest.raises(ValueError, match=r"of groups of \[1, 1\] parameters, and this optimizer has groups of \[2\]"):
        optimizer.load_state_dict(other.state_dict())
    with pytest.raises(ValueError, match=r"state_dict should be what state_dict\(\) gives.*it has '0.m'"):
        optimizer.load_state_dict({"0.m": np.zeros(3)})
    with pytest.raises(TypeError, match="state_dict should be what state_dict"):
        optimizer.load_state_dict(None)
    whole = optimizer.state_dict()
    for changes in (
        {"state": []},
        {"state": {0: 1}},
        {"param_groups": 3},
        {"param_groups": [{}]},
        {"param_groups": [3]},
    ):
        with pytest.raises(ValueError, match="state_dict should be what state_dict"):
            optimizer.load_state_dict({**whole, **changes})
    with pytest.raises(ValueError, match=r"optimizer state '0.v' should be an array, got \[0, 0, 0\]"):
        optimizer.load_state_dict({**whole, "state": {0: {"step": 1, "v": [0, 0, 0]}}})
    state = optimizer.state_dict()
    for changes, message in (
        ({"lr": -1}, "learning rate"),
        ({"momentum": 0.9}, "unknown settings for AdamW: momentum"),
    ):
        with pytest.raises(ValueError, match=message):
            optimizer.load_state_dict({**state, "param_groups": [{**state["param_groups"][0], **changes}]})
    assert optimizer.state_dict() == state


def one_leaf():
    return Parameter(np.zeros(3, np.float32))


@pytest.mark.parametrize("kind", [SGD, AdamW])
class TestAsTorchIsTold:
    def test_what_changes_no_number_is_taken(self, kind):
        assert (
            kind([one_leaf()], lr=0.1, foreach=True, fused=True).param_groups[0].keys()
            == kind([one_leaf()], lr=0.1).param_groups[0].keys()
        )
        kind([one_leaf()], maximize=False)

    def test_what_would_is_refused(self, kind):
        with pytest.raises(ValueError, match=f"{kind.__name__} is plain here, without maximize: got maximize=True"):
            kind([one_leaf()], maximize=True)
        with pytest.raises(TypeError, match=f"{kind.__name__} has no argument 'learning_rate'"):
            kind([one_leaf()], learning_rate=0.1)

    def test_a_group_more(self, kind):
        first, second = one_leaf(), one_leaf()
        optimizer = kind([first], lr=0.1)
        optimizer.add_param_group({"params": [second], "lr": 0.2})
        assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.2]
        assert optimizer.defaults["lr"] == 0.1
        with pytest.raises(ValueError, match="a parameter was given to the optimizer twice"):
            optimizer.add_param_group({"params": [first]})
        with pytest.raises(ValueError, match="unknown settings"):
            optimizer.add_param_group({"params": [one_leaf()], "rate": 1})
        assert len(optimizer.param_groups) == 2

    def test_gradients_are_forgotten_or_zero(self, kind):
        p = one_leaf()
        optimizer, p.grad = kind([p]), np.ones(3, np.float32)
        optimizer.zero_grad(set_to_none=False)
        assert p.grad.tolist() == [0, 0, 0]
        optimizer.zero_grad()
        assert p.grad is None

    def test_its_text_is_short(self, kind):
        text = repr(kind([{"params": [one_leaf(), one_leaf()], "lr": 0.5}, {"params": [one_leaf()]}], lr=0.1))
        lines = text.splitlines()
        assert lines[0] == f"{kind.__name__} ("
        assert lines[1] == "Parameter Group 0: 2 tensors, 6 numbers"
        assert "    lr: 0.5" in lines
        assert "    lr: 0.1" in lines
        assert lines[-1] == ")"


def test_a_setting_of_a_group_that_is_nearly_right():
    group = {"params": [Parameter(np.ones(2, np.float32))], "weigth_decay": 0.1}
    with pytest.raises(ValueError, match="unknown settings for AdamW: weigth_decay; did you mean 'weight_decay'"):
        AdamW([group])
