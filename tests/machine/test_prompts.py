"""Prompts in Automatic1111's syntax: how they are read, and what they do to pictures."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import ZipFile

import pytest

from app import catalogue
from app.core.prompt_tags import Network, without_networks
from app.core.spec import GenerationSpec
from tasks.machine.drivers import make_driver
from tasks.machine.drivers.contract import CannotDraw, DriverSettings, ModelFiles, Order, Picture
from tasks.machine.drivers.prompts.chunks import Chunk, chunked
from tasks.machine.drivers.prompts.clip import emphasised
from tasks.machine.drivers.prompts.conditioning import Conditioning, Prompts, conditioned
from tasks.machine.drivers.prompts.reading import pieces, plain
from tasks.machine.drivers.prompts.timing import at_each_step
from tests.shape_checker import check

if TYPE_CHECKING:
    from tests.support.zoo_files import Zoo

CIRCLE = "a red circle on a blue background"
CLIP_FAMILIES = ("sd15", "sdxl")
TOKENS = 77

# numpy's complaints about how torch hands over its tensors: between these two, and the pictures are right.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    import torch  # noqa: PLC0415  # seconds, which the other tests need not wait for

    torch.set_num_threads(1)


def read(text: str) -> list[tuple[str | None, float]]:
    return [(piece.text, round(piece.weight, 3)) for piece in pieces(text)]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a cat", [("a cat", 1)]),
        ("", [("", 1)]),
        ("a (red) cat", [("a ", 1), ("red", 1.1), (" cat", 1)]),
        ("((red))", [("red", 1.21)]),
        ("[red]", [("red", 0.909)]),
        ("[[red]]", [("red", 0.826)]),
        ("(red:1.3)", [("red", 1.3)]),
        ("(red: 1.3 )", [("red", 1.3)]),
        ("(red:.5)", [("red", 0.5)]),
        ("(red:0)", [("red", 0)]),
        ("(red:-1)", [("red", -1)]),
        ("(a (big:2) cat:0.5)", [("a ", 0.5), ("big", 1), (" cat", 0.5)]),
        ("([red]:2)", [("red", 1.818)]),
        (r"\(red\)", [("(red)", 1)]),
        (r"\[red\] \\", [("[red] \\", 1)]),
        (r"(a \(b\):1.2)", [("a (b)", 1.2)]),
        ("a) cat]", [("a) cat]", 1)]),
        ("a (cat", [("a ", 1), ("cat", 1.1)]),
        ("a [cat", [("a ", 1), ("cat", 0.909)]),
        ("time: 12:30", [("time: 12:30", 1)]),
        ("(red:1.2.3)", [("red:1.2.3", 1.1)]),
        ("a BREAK b", [("a ", 1), (None, 1), ("b", 1)]),
        ("(a BREAK b:2)", [("a ", 2), (None, 1), ("b", 2)]),
        ("BREAKING Bad", [("BREAKING Bad", 1)]),
        ("(a)(b)", [("ab", 1.1)]),
    ],
)
def test_weights_are_read_as_automatic1111_reads_them(prompt: str, expected: list[tuple[str | None, float]]) -> None:
    assert read(prompt) == expected


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("[red:green:0.5] cat", ["red cat", "red cat", "green cat", "green cat"]),
        ("[red:green:3] cat", ["red cat", "red cat", "red cat", "green cat"]),
        ("[red:1]", ["", "red", "red", "red"]),
        ("[red::2]", ["red", "red", "", ""]),
        ("[red|green]", ["red", "green", "red", "green"]),
        ("[a|b|c]", ["a", "b", "c", "a"]),
        ("[a|]b", ["ab", "b", "ab", "b"]),
        ("[[a|b]:c:2]", ["a", "b", "c", "c"]),
        ("[(a:1.2):(b:1.3):0.25]", ["(a:1.2)", "(b:1.3)", "(b:1.3)", "(b:1.3)"]),
        ("[red]", ["[red]"] * 4),
        ("[red:green]", ["[red:green]"] * 4),
        ("(red:0.5)", ["(red:0.5)"] * 4),
        (r"\[a|b\]", [r"\[a|b\]"] * 4),
        ("[a|b", ["[a|b"] * 4),
        ("a|b]", ["a|b]"] * 4),
        ("[a (b:c:0.5]", ["[a (b:c:0.5]"] * 4),
        ("[a:b:c:0.5]", ["[a:b:c:0.5]"] * 4),
    ],
)
def test_prompts_change_at_their_steps(prompt: str, expected: list[str]) -> None:
    assert at_each_step(prompt, 4) == expected


@pytest.mark.parametrize("sign", ["(", "[", "[a|", "(:", "[[a:b:1]", ":1)", "\\", "]", "BREAK ", "<lora:"])
def test_a_prompt_of_nothing_but_signs_is_read_at_once(sign: str) -> None:
    prompt = sign * (10_000 // len(sign))

    assert pieces(prompt)
    assert len(at_each_step(prompt, 3)) == 3
    assert without_networks(prompt)
    assert plain(prompt)


def test_networks_are_taken_out_of_a_prompt() -> None:
    prompt, networks = without_networks("a cat<lora:fur:0.7> <lyco:b:te=0:unet=0.3>, <LORA:c><lora:d:0.5:0.8><p:e>")

    assert prompt == "a cat , <p:e>"
    assert networks == [
        Network("lora", "fur", 0.7, 0.7),
        Network("lyco", "b", 0.3, 0.0),
        Network("lora", "c", 1.0, 1.0),
        Network("lora", "d", 0.8, 0.5),
    ]


@pytest.mark.parametrize(
    ("prompt", "words", "is_less"),
    [
        ("a (red:1.3) cat", "a red cat", True),
        ("((red:1.2) cat:1.3)", "red cat", True),
        ("a (35mm, f:2) [photo]", "a 35mm, f [photo]", True),
        ("a photo (35mm) [sic]", "a photo (35mm) [sic]", False),
        ("a BREAK b", "a b", True),
        (r"\(red\)", "(red)", False),
    ],
)
def test_models_that_know_no_weights_get_the_words(prompt: str, words: str, is_less: bool) -> None:
    assert plain(prompt) == (words, is_less)


COMMA = 9


def cut(*tokens: int) -> list[tuple[int, ...]]:
    return [chunk.tokens for chunk in chunked([(tokens, 1.0)], 75, COMMA)]


def test_a_prompt_fills_chunks_of_75_tokens() -> None:
    assert [len(chunk) for chunk in cut(*[1] * 200)] == [75, 75, 50]
    assert [len(chunk) for chunk in cut(*[1] * 75)] == [75]
    assert cut() == [()]


@pytest.mark.parametrize(("behind", "first"), [(1, 74), (19, 56), (20, 75), (40, 75)])
def test_what_follows_a_comma_shortly_before_the_end_moves_on_whole(behind: int, first: int) -> None:
    tokens = [1] * (74 - behind) + [COMMA] + [2] * (behind + 5)

    chunks = cut(*tokens)

    assert len(chunks[0]) == first
    assert [token for chunk in chunks for token in chunk] == tokens


def test_a_comma_behind_a_full_chunk_begins_the_next_one() -> None:
    assert [len(chunk) for chunk in cut(*[1] * 70, COMMA, *[1] * 4, COMMA, 1)] == [75, 2]


def test_a_break_ends_a_chunk_and_weights_stay_with_their_tokens() -> None:
    found = chunked([((1, 2), 1.0), (None, 1.0), ((3,), 0.5), (None, 1.0)], 75, COMMA)

    assert found == [Chunk((1, 2), (1.0, 1.0)), Chunk((3,), (0.5,))]


class Bench:
    """A pipeline of the zoo, and what is compared with it."""

    def __init__(self, folder: Path) -> None:
        import torch  # noqa: PLC0415  # as above
        from diffusers import DiffusionPipeline  # noqa: PLC0415  # as above

        own: Any = DiffusionPipeline
        self.pipeline = own.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        self.pipeline.set_progress_bar_config(disable=True)

    def read(self, prompt: str, negative: str = "", **more: Any) -> Conditioning:
        """Encode."""
        return conditioned(self.pipeline, Prompts([prompt], [negative], **({"steps": 4} | more)))

    def states(self, prompt: str, **more: Any) -> Any:
        """Return what the pipeline is told of a prompt."""
        return self.read(prompt, **more).arguments["prompt_embeds"]

    def natively(self, prompt: str, negative: str | None) -> dict[str, Any]:
        """Encode as diffusers does."""
        found = self.pipeline.encode_prompt(
            prompt=prompt,
            negative_prompt=negative,
            device="cpu",
            num_images_per_prompt=1,
            do_classifier_free_guidance=True,
        )
        names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
        return dict(zip(names, found, strict=False))

    def drawn(self, prompt: str, **more: Any) -> Any:
        """Draw four steps with the changes that the prompt has."""
        import torch  # noqa: PLC0415  # as above

        conditioning = self.read(prompt, **more)
        return self.pipeline(
            **conditioning.arguments,
            num_inference_steps=4,
            generator=torch.Generator().manual_seed(1),
            output_type="np",
            callback_on_step_end=lambda pipe, index, *_: conditioning.after(pipe, index),
        ).images[0]


@pytest.fixture(scope="module", params=CLIP_FAMILIES)
def bench(request: pytest.FixtureRequest, zoo: "Zoo") -> Bench:
    """Have each family whose prompts are encoded here."""
    return Bench(zoo.folder(request.param))


def distance(one: Any, other: Any) -> float:
    return float(abs(one - other).max())


@pytest.mark.parametrize("negative", ["", "a green square"])
@pytest.mark.parametrize("prompt", [CIRCLE, "", "red, blue; unheard-of words: 12 äöü 🎨!", "a red circle " * 18])
def test_a_plain_prompt_is_encoded_bit_for_bit_as_diffusers_does(bench: Bench, prompt: str, negative: str) -> None:
    own = bench.read(prompt, negative).arguments

    # XL takes None, and not the empty text, for nothing.
    native = bench.natively(prompt, negative or None)

    assert {name for name, tensor in own.items() if not (tensor == native[name]).all()} == set()
    assert set(own) == {name for name, tensor in native.items() if tensor is not None}


def test_a_weight_changes_its_word_most(bench: Bench) -> None:
    usual, strong = (bench.states(f"a (red:{weight}) circle") for weight in (1.0, 1.5))

    moved = (strong - usual).abs().mean(dim=-1)[0]
    assert (usual == bench.states("a red circle")).all()
    assert int(moved.argmax()) == 2  # begin, a, red


def test_weights_go_the_way_they_say(bench: Bench) -> None:
    usual = bench.states("a red circle")[0, 2].norm()

    less, more = (bench.states(f"a {red} circle")[0, 2].norm() for red in ("[red]", "(red)"))

    assert less < usual < more


def test_weights_keep_the_mean() -> None:
    import torch  # noqa: PLC0415  # as above

    state = torch.randn(1, TOKENS, 32, generator=torch.Generator().manual_seed(0)) + 0.5

    weighted = emphasised(state, [1.0, 3.0, 0.2])

    assert abs(float(weighted.mean() / state.mean()) - 1) < 1e-5
    factors = (weighted / state)[0, :, 0]
    assert [round(float(factor / factors[0]), 3) for factor in factors[:5]] == [1, 1, 3, 0.2, 1]


def test_a_mean_of_nothing_is_not_kept() -> None:
    import torch  # noqa: PLC0415  # as above

    signs = torch.tensor([1.0, -1.0]).repeat(16)
    state = signs * torch.ones(1, TOKENS, 32)  # a layer's norm without a bias leaves such means

    weighted = emphasised(state + 1e-7, [2.0])

    assert abs(float(weighted.abs().mean()) - (1 + 1 / TOKENS)) < 1e-3
    assert bool(emphasised(torch.zeros(1, TOKENS, 32), [2.0]).isfinite().all())


def test_long_prompts_are_read_to_their_end(bench: Bench) -> None:
    long = ", ".join(["a red circle"] * 30)
    count = bench.states(long).shape[1] // TOKENS

    assert count == 2
    assert not (bench.states(f"{long}, cat")[:, TOKENS:] == bench.states(f"{long}, dog")[:, TOKENS:]).all()


def test_positive_and_negative_prompt_are_of_one_length(bench: Bench) -> None:
    long = "a red circle, " * 30

    shapes = [
        {tensor.shape[1] for name, tensor in read.arguments.items() if "pooled" not in name}
        for read in (bench.read(long, "dog"), bench.read("dog", long))
    ]

    assert shapes == [{2 * TOKENS}] * 2


def test_a_break_begins_another_chunk(bench: Bench) -> None:
    both = bench.states("a red circle BREAK a blue square")

    assert both.shape[1] == 2 * TOKENS
    assert (both[:, :TOKENS] == bench.states("a red circle")).all()
    assert (both[:, TOKENS:] == bench.states("a blue square")).all()


def test_clip_skip_reads_an_earlier_layer(bench: Bench) -> None:
    is_xl = hasattr(bench.pipeline, "text_encoder_2")

    by_skip = [bench.states(CIRCLE, clip_skip=skip) for skip in (None, 1, 2, 3)]

    assert (by_skip[0] == by_skip[1]).all()
    # XL is always read at the layer before the last.
    assert bool((by_skip[1] == by_skip[2]).all()) == is_xl
    assert not (by_skip[2] == by_skip[3]).all()
    with pytest.raises(CannotDraw, match="of 3 layers"):
        bench.states(CIRCLE, clip_skip=4)


def test_embeddings_of_several_vectors_are_read_bit_for_bit_as_diffusers_does(bench: Bench) -> None:
    import torch  # noqa: PLC0415  # as above

    pipeline, usual = bench.pipeline, bench.states("a sunset circle")
    readers = {
        f"text_encoder{nth}": (getattr(pipeline, f"tokenizer{nth}"), getattr(pipeline, f"text_encoder{nth}"))
        for nth in ("", "_2")
        if hasattr(pipeline, f"tokenizer{nth}")
    }
    vectors = {name: {"sunset": torch.randn(3, reader[1].config.hidden_size)} for name, reader in readers.items()}

    read = bench.states("a sunset circle", vectors=vectors)
    weighted = bench.states("a (SUNSET:1.2) circle", vectors=vectors)
    inside_of_a_word = bench.states("a sunsets circle", vectors=vectors)
    long = bench.states("a red circle, " * 24 + "sunset", vectors=vectors)

    for name, (tokenizer, encoder) in readers.items():
        pipeline.load_textual_inversion(vectors[name], token="sunset", tokenizer=tokenizer, text_encoder=encoder)
    try:
        native = bench.natively("a sunset circle", None)["prompt_embeds"]
    finally:
        for tokenizer, encoder in readers.values():
            pipeline.unload_textual_inversion(tokenizer=tokenizer, text_encoder=encoder)
    assert (read == native).all()
    assert not (read == usual).all()
    assert not (weighted == read).all()
    assert (inside_of_a_word == bench.states("a sunsets circle")).all()
    assert long.shape[1] == 2 * TOKENS
    assert (bench.states("a sunset circle") == usual).all()


def test_a_prompt_changes_on_the_way(bench: Bench) -> None:
    red, green = bench.drawn("a red circle"), bench.drawn("a green circle")

    half = bench.drawn("a [red:green:0.5] circle")
    turns = bench.drawn("a [red|green] circle")

    assert distance(bench.drawn("a [red:green:4] circle"), red) == 0
    assert distance(bench.drawn("a [red:green:0] circle"), green) == 0
    assert min(distance(half, red), distance(half, green), distance(turns, half)) > 0


def test_a_prompt_that_changes_its_length_is_drawn(bench: Bench) -> None:
    assert distance(bench.drawn("a [red:" + "blue, " * 60 + ":2] circle"), bench.drawn("a red circle")) > 0


def test_a_batch_reads_each_prompt_as_if_it_were_alone(bench: Bench) -> None:
    prompts = Prompts(["a (red:1.4) circle", "a dog"], ["", "cat"], 4)

    both = conditioned(bench.pipeline, prompts).arguments

    alone = [bench.read(*pair).arguments for pair in zip(prompts.positive, prompts.negative, strict=True)]
    assert all((both[name][k] == alone[k][name][0]).all() for name in both for k in range(2))


def test_without_guidance_no_negative_prompt_is_read(bench: Bench) -> None:
    assert not any("negative" in name for name in bench.read(CIRCLE, is_guided=False).arguments)


def test_and_is_refused_with_what_to_do(bench: Bench) -> None:
    with pytest.raises(CannotDraw, match="write one prompt"):
        bench.read("a cat AND a dog")

    assert bench.read("a BAND and a dog", "a AND b")


Draw = Callable[..., Picture]


@pytest.fixture(scope="module")
def draw() -> Draw:
    """Draw with one driver."""
    driver = make_driver("diffusers", DriverSettings(device="cpu"))

    def drawn(folder: Path, **more: Any) -> Picture:
        given: dict[str, Any] = {
            "model_id": folder.name,
            "prompt": CIRCLE,
            "seed": 1,
            "steps": 3,
            "width": 64,
            "height": 64,
        }
        spec = GenerationSpec(**(given | more))
        return list(driver.draw(Order(spec, ModelFiles(folder.name, folder, "proof")), lambda _: None))[-1]

    return drawn


def pixels(picture: Picture) -> bytes:
    return picture.image.tobytes()


@pytest.mark.parametrize("family", ["sd3", "flux", "sana"])
def test_other_families_draw_the_words_and_say_what_was_left_out(family: str, draw: Draw, zoo: "Zoo") -> None:
    usual, weighted = (draw(zoo.folder(family), prompt=f"a {red} circle") for red in ("red", "(red:1.5)"))

    assert pixels(usual) == pixels(weighted)
    assert usual.notes == ()
    assert "weights" in weighted.notes[0]


@pytest.mark.parametrize("more", [{"prompt": "a [red:green:0.5] circle"}, {"clip_skip": 2}])
def test_other_families_refuse_what_they_cannot(more: dict[str, Any], draw: Draw, zoo: "Zoo") -> None:
    with pytest.raises(CannotDraw):
        draw(zoo.folder("sd3"), **more)


def test_networks_are_refused_by_name(draw: Draw, zoo: "Zoo") -> None:
    with pytest.raises(CannotDraw, match="<lora:fur>"):
        draw(zoo.folder("sd15"), prompt="a cat <lora:fur:0.8>")


@pytest.mark.parametrize("family", ["sd15", "sdxl", "sd3", "flux", "sana"])
def test_a_variation_lies_between_two_seeds(family: str, draw: Draw, zoo: "Zoo") -> None:
    folder = zoo.folder(family)
    first, second = (draw(folder, seed=seed) for seed in (1, 70))

    found = [draw(folder, seed=1, subseed=70, subseed_strength=strength) for strength in (0, 0.5, 1)]

    assert pixels(found[0]) == pixels(first)
    assert pixels(found[2]) == pixels(second)
    assert pixels(found[1]) not in {pixels(first), pixels(second)}
    assert pixels(draw(folder, seed=1)) == pixels(first)


def test_the_pictures_of_a_variation_count_up_both_seeds(draw: Draw, zoo: "Zoo") -> None:
    second = draw(zoo.folder("sd15"), seed=1, subseed=70, subseed_strength=0.3, n=2)

    assert second.seed == 2
    assert pixels(second) == pixels(draw(zoo.folder("sd15"), seed=2, subseed=71, subseed_strength=0.3))


def test_a_variation_has_as_much_noise_as_any_picture() -> None:
    import torch  # noqa: PLC0415  # as above

    from tasks.machine.drivers.noise import _between  # noqa: PLC0415  # as above

    one, other = (torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))

    between = [_between(one, other, strength) for strength in (0.1, 0.5, 0.9)]

    assert all(abs(float(noise.std()) - 1) < 0.02 for noise in between)
    assert distance(between[0], one) < distance(between[1], one) < distance(between[2], one)


@pytest.fixture(scope="module")
def demo(draw: Draw) -> Draw:
    """Draw with the demo model, which has learnt what it draws."""
    path = catalogue.artifacts() / next(entry.name for entry in catalogue.built_in() if entry.id == "demo-shapes")

    def drawn(**more: Any) -> Picture:
        return draw(
            path, **({"scheduler": "DDIM", "steps": 12, "guidance_scale": 3.0, "width": 128, "height": 128} | more)
        )

    return drawn


def test_the_demo_model_draws_plain_prompts_as_a_bare_pipeline_does(demo: Draw, tmp_path: Path) -> None:
    import torch  # noqa: PLC0415  # as above

    path = catalogue.artifacts() / next(entry.name for entry in catalogue.built_in() if entry.id == "demo-shapes")
    with ZipFile(path) as dduf:
        dduf.extractall(tmp_path)
    bare = Bench(tmp_path).pipeline

    expected = bare(
        CIRCLE,
        num_inference_steps=12,
        guidance_scale=3.0,
        width=128,
        height=128,
        generator=torch.Generator().manual_seed(1),
    ).images[0]

    assert pixels(demo()) == expected.tobytes()


@pytest.mark.parametrize(
    ("prompt", "colour"),
    [
        ("a [red:green:0.25] circle on a white background", "green"),
        ("a [red:green:12] circle on a white background", "red"),
        ("a (red:1.4) circle on a [white] background", "red"),
        (r"a large (green) \(circle\) on a white background", "green"),
    ],
)
def test_the_demo_model_follows_prompts_with_weights_and_changes(demo: Draw, prompt: str, colour: str) -> None:
    wanted = f"a {colour} circle on a white background"

    seen = [check(demo(prompt=prompt, seed=seed).image, wanted) for seed in (1, 2, 3)]

    assert [(each.colour, each.background) for each in seen].count((colour, "white")) >= 2
