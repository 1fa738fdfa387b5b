"""Every sampler with every schedule: each brings known pictures out of noise, and no two are the same."""

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from app.core.samplers import NAMES, SAMPLERS, split
from app.core.spec import GenerationSpec
from tasks.machine.drivers import make_driver, samplers
from tasks.machine.drivers.contract import CannotDraw, DriverSettings, ModelFiles, Order

if TYPE_CHECKING:
    from tests.support.zoo_files import Zoo

KNOWN = 0.7
"""The only thing that the models of these tests have ever seen; a sampler that is right ends there."""

FEW, MANY = 12, 40
"""From 32 steps on, beta schedules have several steps of one time."""

EACH_ONCE = tuple({split(name)[0]: name for name in reversed(NAMES)}.values())
"""Every sampler, with the first of its schedules."""

LONG = tuple(name for name in NAMES if name in EACH_ONCE or "Beta" in name)
"""What is tried with many steps too."""

SCHEDULED = tuple(name for name in NAMES if name.startswith("DPM++ 2M ") and split(name)[0] == "DPM++ 2M")
"""Every schedule, with one sampler that has them all."""

NEAR = 0.15

# numpy's complaints about how torch hands over its tensors: between these two, and the numbers are right.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")

Model = Callable[[Any, Any, Any], Any]
"""Predicts noise from what it is shown, how much of it is picture, and how much is noise."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    import torch  # noqa: PLC0415  # seconds, which the other tests need not wait for

    torch.set_num_threads(1)


def stable_diffusion(**more: Any) -> Any:
    from diffusers import PNDMScheduler  # noqa: PLC0415  # as above

    options = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "skip_prk_steps": True}
    own: Any = PNDMScheduler
    return own.from_config({**options, "set_alpha_to_one": False, "steps_offset": 1, **more})


def flow(**more: Any) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler  # noqa: PLC0415  # as above

    own: Any = FlowMatchEulerDiscreteScheduler
    return own.from_config({"shift": 3.0, **more})


def knowing(shown: Any, of_picture: Any, of_noise: Any) -> Any:
    """Predict as a model that has learnt KNOWN perfectly."""
    return (shown - of_picture * KNOWN) / of_noise


def moving(shown: Any, of_picture: Any, of_noise: Any) -> Any:
    """Predict as a model that has learnt KNOWN perfectly and says velocities, as Stable Diffusion 2 does."""
    return of_picture * knowing(shown, of_picture, of_noise) - of_noise * KNOWN


def bending(shown: Any, of_picture: Any, of_noise: Any) -> Any:
    """Predict as a model whose answer depends on where it is looked at."""
    return knowing(shown, of_picture, of_noise) + 0.3 * (3 * shown).sin() * of_noise


def run(base: Any, name: str, *, steps: int = FEW, model: Model = knowing, seed: int = 1) -> Any:
    """Draw as the pipelines do, with a model of one line."""
    import torch  # noqa: PLC0415  # as above

    scheduler = samplers.make(base, name, steps=steps, seeds=[seed])
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(seed)
    more = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
    is_flow = not hasattr(scheduler, "alphas_cumprod") or scheduler.config.get("use_flow_sigmas")
    picture = torch.randn(1, 4, 8, 8, generator=generator) * getattr(scheduler, "init_noise_sigma", 1.0)
    for time in scheduler.timesteps:
        shown = scheduler.scale_model_input(picture, time) if hasattr(scheduler, "scale_model_input") else picture
        if is_flow:
            predicted = (shown - KNOWN) / (time / 1000)
        else:
            levels = scheduler.alphas_cumprod.double()
            before, part = int(time), float(time) - int(time)
            level = levels[before] * (1 - part) + levels[min(before + 1, 999)] * part
            predicted = model(shown, level.sqrt().float(), (1 - level).sqrt().float())
        picture = scheduler.step(predicted, time, picture, **more, return_dict=False)[0]
    return picture


@pytest.mark.parametrize(("name", "steps"), [*((name, FEW) for name in NAMES), *((name, MANY) for name in LONG)])
def test_every_sampler_brings_out_what_a_perfect_model_knows(name: str, steps: int) -> None:
    assert (run(stable_diffusion(), name, steps=steps) - KNOWN).abs().max() < NEAR


@pytest.mark.parametrize("name", EACH_ONCE)
def test_every_sampler_understands_velocities(name: str) -> None:
    base = stable_diffusion(prediction_type="v_prediction")

    assert (run(base, name, model=moving) - KNOWN).abs().max() < NEAR


def test_every_name_is_another_way_and_each_is_the_same_again() -> None:
    found = {name: run(stable_diffusion(), name, steps=6, model=bending) for name in NAMES}

    seen = {picture.numpy().tobytes(): name for name, picture in found.items()}
    assert set(NAMES) - set(seen.values()) == set()
    again = {name: run(stable_diffusion(), name, steps=6, model=bending) for name in ("DPM++ SDE", "Euler a")}
    assert all((picture == found[name]).all() for name, picture in again.items())


@pytest.mark.parametrize("name", ["Euler", "DPM++ 2M", "DPM++ 2M Karras", "Euler SGM Uniform", "UniPC", "DDIM", "LMS"])
def test_what_a_models_own_sampler_was_set_to_does_not_leak(name: str) -> None:
    spoilt = {"use_karras_sigmas": True, "use_lu_lambdas": True, "algorithm_type": "sde-dpmsolver++", "solver_order": 3}

    there = run(stable_diffusion(**spoilt), name, model=bending)

    assert (there == run(stable_diffusion(), name, model=bending)).all()


def test_models_made_for_their_last_time_step_keep_it() -> None:
    there, usual = (samplers.make(stable_diffusion(**more), "Euler") for more in ({"timestep_spacing": "trailing"}, {}))

    assert (there.config.timestep_spacing, usual.config.timestep_spacing) == ("trailing", "linspace")
    assert samplers.make(stable_diffusion(), "DDIM").config.timestep_spacing == "leading"


def test_steps_align_otherwise_for_xl() -> None:
    schedulers = [samplers.make(stable_diffusion(), "Euler Align Your Steps", is_xl=is_xl) for is_xl in (False, True)]
    for scheduler in schedulers:
        scheduler.set_timesteps(11)

    assert [round(float(scheduler.sigmas[3]), 3) for scheduler in schedulers] == [2.697, 2.181]


def test_a_seed_of_a_batch_has_its_own_noise_with_a_stochastic_solver() -> None:
    import torch  # noqa: PLC0415  # as above

    def one_step(seeds: list[int]) -> Any:
        scheduler = samplers.make(stable_diffusion(), "DPM++ SDE", steps=4, seeds=seeds)
        scheduler.set_timesteps(4)
        zeroes = torch.zeros(len(seeds), 1, 4, 4)
        for time in scheduler.timesteps[:3]:
            zeroes = scheduler.step(zeroes, time, zeroes, return_dict=False)[0]
        return zeroes

    both = one_step([5, 6])

    assert (both[0] == one_step([5])[0]).all()
    assert (both[1] == one_step([6])[0]).all()
    assert not (both[0] == both[1]).all()


@pytest.mark.parametrize("steps", [FEW, MANY])
@pytest.mark.parametrize("name", samplers.flow_names())
def test_flow_matching_models_are_drawn_with_what_knows_their_noise(name: str, steps: int) -> None:
    assert (run(flow(), name, steps=steps) - KNOWN).abs().max() < NEAR


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(samplers.flow_names())))
def test_flow_matching_models_refuse_the_others_and_say_what_they_can(name: str) -> None:
    with pytest.raises(CannotDraw, match=r"it can with Euler, Euler Karras, .*UniPC") as refused:
        samplers.make(flow(), name)

    assert refused.value.permanent


@pytest.mark.parametrize("name", ["LCM", "TCD"])
def test_distilled_samplers_refuse_more_steps_than_they_have(name: str) -> None:
    with pytest.raises(CannotDraw, match="at most 50 steps, not 51"):
        samplers.make(stable_diffusion(), name, steps=51)


def test_every_sampler_of_the_core_has_a_row() -> None:
    assert set(samplers.SAMPLERS) == set(SAMPLERS)


@pytest.mark.parametrize("family", ["sd3", "flux", "sana"])
def test_pipelines_of_flow_matching_draw_with_each_of_theirs(family: str, zoo: "Zoo") -> None:
    driver = make_driver("diffusers", DriverSettings(device="cpu"))
    model = ModelFiles(family, zoo.folder(family), "proof")
    order: dict[str, Any] = {
        "model_id": family,
        "prompt": "a red circle",
        "seed": 1,
        "steps": 4,
        "width": 64,
        "height": 64,
    }

    drawn = {
        name: next(iter(driver.draw(Order(GenerationSpec(**order, scheduler=name), model), lambda _: None))).image
        for name in samplers.flow_names()
    }

    assert len({image.tobytes() for image in drawn.values()}) == len(drawn)
    with pytest.raises(CannotDraw, match="flow-matching"):
        list(driver.draw(Order(GenerationSpec(**order, scheduler="Heun"), model), lambda _: None))


@pytest.mark.parametrize("name", [name for name in sorted({*EACH_ONCE, *SCHEDULED}) if name not in {"LCM", "TCD"}])
def test_every_sampler_draws_with_a_pipeline(name: str, zoo: "Zoo", drawing: Callable[..., Any]) -> None:
    picture = drawing(zoo.folder("sd15"), scheduler=name, steps=3).image

    assert len(set(picture.convert("L").tobytes())) > 10


@pytest.fixture(scope="module")
def drawing() -> Callable[..., Any]:
    """Draw with one driver, so that the model is loaded once."""
    driver = make_driver("diffusers", DriverSettings(device="cpu"))

    def drawn(folder: Any, **more: Any) -> Any:
        spec = GenerationSpec(
            **{"model_id": folder.name, "prompt": "a red circle", "seed": 1, "width": 64, "height": 64, **more}
        )
        return next(iter(driver.draw(Order(spec, ModelFiles(folder.name, folder, "proof")), lambda _: None)))

    return drawn
