"""Pictures of the inversion experiment."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import pytest
from experiments import load

from fl.simulation import models

gradcam, reconstruction_grid = load("inversion", "gradcam", "reconstruction_grid")


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).uniform(size=(26, 16, 16, 1)).astype(np.float32)


# --- Grad-CAM --------------------------------------------------------------------------------


class Mean(models.Classifier):
    """Two feature maps, their means the representation: Grad-CAM by hand."""

    @nn.compact
    def representation(self, images):
        return self.tap(nn.relu(nn.Conv(2, (1, 1))(images))).mean((1, 2))


def test_gradcam_by_hand():
    image = jnp.array([[0.0, 0.2], [0.6, 1.0]])[None, :, :, None]
    kernel = jnp.zeros((2, 10)).at[:, 3].set(jnp.array([2.0, -1.0])).at[:, 4].set(-1.0)
    params = {
        "Conv_0": {
            "kernel": jnp.array([1.0, -1.0]).reshape(1, 1, 1, 2),
            "bias": jnp.array([0, 0.5]),
        },
        "classifier": {"kernel": kernel, "bias": jnp.zeros(10)},
    }
    # Features x and max(0.5 - x, 0); their mean gradients are 2/4 and -1/4 for class 3.
    first = np.array([[0.0, 0.2], [0.6, 1.0]])
    second = np.array([[0.5, 0.3], [0.0, 0.0]])
    expected = np.maximum(first / 2 - second / 4, 0) / 0.5
    images = jnp.concatenate([image, image])
    maps = gradcam.gradcam(Mean(), {"params": params}, images, jnp.array([3, 4]))
    np.testing.assert_allclose(maps[0], expected, atol=1e-6)
    np.testing.assert_array_equal(maps[1], 0)  # all speaks against class 4


def test_gradcam_of_cnn1_looks_before_the_last_max_pool(images):
    model, labels = models.CNN1(), np.array([1, 5, 9])
    params = model.init(jax.random.key(0), images[:3])
    assert set(params) == {"params"}, "the tap adds nothing to the parameters"
    layers = params["params"]

    def convolution(x, number):
        layer = layers[f"Conv_{number}"]
        x = jax.lax.conv_general_dilated(
            x, layer["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return nn.relu(x + layer["bias"].reshape(1, 1, 1, -1))

    def dense(x, name):
        return x @ layers[name]["kernel"] + layers[name]["bias"].reshape(1, -1)

    def pool(x):
        return nn.max_pool(x, (3, 3), (2, 2), "SAME")

    features = convolution(convolution(pool(convolution(convolution(images[:3], 0), 1)), 2), 3)
    assert features.shape == (3, 8, 8, 64)

    def score(features):
        logits = dense(nn.relu(dense(pool(features).reshape(3, -1), "Dense_0")), "classifier")
        return logits[jnp.arange(3), labels].sum()

    weights = jax.grad(score)(features).mean((1, 2), keepdims=True)
    small = np.maximum((weights * features).sum(-1), 0)
    expected = np.asarray(jax.image.resize(small, (3, 16, 16), "bilinear"))
    expected = expected / expected.max((1, 2), keepdims=True)
    maps = gradcam.gradcam(model, params, jnp.asarray(images[:3]), labels)
    np.testing.assert_allclose(maps, expected, atol=1e-4)


def test_gradcam_of_cnn2(images):
    model = models.CNN2()
    params = model.init(jax.random.key(0), images[:2])
    assert set(params) == {"params"}
    logits, state = model.apply(params, images[:2], mutable="intermediates")
    (features,) = state["intermediates"]["features"]
    assert features.shape == (2, 16, 16, 64)
    np.testing.assert_array_equal(logits, model.apply(params, images[:2]))
    maps = gradcam.gradcam(model, params, images[:2], np.array([0, 1]))
    assert maps.shape == (2, 16, 16)
    np.testing.assert_allclose(maps.max((1, 2)), 1)
    assert maps.min() >= 0


def test_gradcam_needs_convolutions(images):
    model = models.LeNet()
    params = model.init(jax.random.key(0), images)
    with pytest.raises(ValueError, match="LeNet has none"):
        gradcam.gradcam(model, params, images, np.zeros(len(images), int))


# --- grids -----------------------------------------------------------------------------------


def kinds(paths):
    for path in paths:
        start = path.read_bytes()[:8]
        assert start.startswith(b"%PDF" if path.suffix == ".pdf" else b"\x89PNG"), path
    return [path.name for path in paths]


def test_reconstructions_in_files_the_same_each_time(images, tmp_path):
    found = {"fedavg": images, "secadam": 1 - images}
    labels = [f"Digit {label}" for label in range(8)]
    arguments = (images[:8], {name: x[:8] for name, x in found.items()}, labels)
    paths = reconstruction_grid.reconstruction_grid(*arguments, tmp_path / "new" / "grid.1")
    assert kinds(paths) == ["grid.1.pdf", "grid.1.png"]
    first = [path.read_bytes() for path in paths]
    assert b"/Type3" not in first[0]
    reconstruction_grid.reconstruction_grid(*arguments, tmp_path / "new" / "grid.1")
    assert [path.read_bytes() for path in paths] == first
    height, width, _ = matplotlib.image.imread(paths[1]).shape
    assert width == pytest.approx(7.1 * 300, abs=40), "as wide as a page"
    assert height < width


def test_more_images_go_to_further_files(images, tmp_path):
    colour = images.repeat(3, axis=-1)
    lost = colour.copy()
    lost[3] = np.nan
    labels = ["Ankle boot"] * 26
    paths = reconstruction_grid.reconstruction_grid(
        colour, {"secadam": lost}, labels, tmp_path / "grid"
    )
    assert kinds(paths) == ["grid.pdf", "grid.png", "grid-2.pdf", "grid-2.png"]


def panel(images, count, title, **rows):
    return reconstruction_grid.Panel(title, images[:count], {n: x[:count] for n, x in rows.items()})


def test_panels_stand_beside_one_another_until_the_page_is_full(images, tmp_path):
    rows = {"FedAvg, exact": images, "Chance": 1 - images}
    panels = [panel(images, count, f"{count} clients", **rows) for count in (1, 2, 6, 6)]
    sizes = []
    for number, shown in enumerate((panels, [*panels, panels[-1]])):
        stem = tmp_path / "new" / f"page-{number}"
        paths = reconstruction_grid.panel_page(shown, ["Words below."], stem)
        assert kinds(paths) == [f"page-{number}.pdf", f"page-{number}.png"]
        page = matplotlib.image.imread(paths[1])
        assert (page[:, -3:, :3] == 1).all(), "nothing is cut off"
        sizes.append(page.shape)
    assert sizes[0][1] == sizes[1][1] == pytest.approx(7.1 * 300, abs=2)
    assert sizes[1][0] > 1.8 * sizes[0][0], "a second line of panels"
    first = paths[0].read_bytes()
    reconstruction_grid.panel_page(shown, ["Words below."], stem)
    assert paths[0].read_bytes() == first
    words = [text.get_text() for text in reconstruction_grid._panels(panels, []).texts]
    assert words.count("100.0 dB") == 4, "the mean of each panel's first row"
    assert {"1 clients", "True image", "FedAvg\nexact"} <= set(words)


def test_the_mean_is_over_what_was_found(images):
    found = images[:2] + np.float32(0.1)
    found[0] = np.nan
    assert reconstruction_grid._mean_psnr(images[:2], found) == pytest.approx(20, abs=1e-4)


def test_heat_maps_in_files(images, tmp_path):
    maps = {"adam": images[:25, ..., 0], "secadam": 1 - images[:25, ..., 0]}
    labels = ["Coat"] * 25
    paths = gradcam.gradcam_grid(images[:25], maps, labels, tmp_path / "cam")
    assert kinds(paths) == ["cam.pdf", "cam.png"]


@pytest.mark.parametrize(
    ("count", "labels", "others", "words"),
    [(0, 0, 0, "no images"), (3, 2, 3, "2 labels for 3 images"), (3, 3, 2, "FedAvg")],
)
def test_what_does_not_belong_together(images, tmp_path, count, labels, others, words):
    names = ["Coat"] * labels
    with pytest.raises(ValueError, match=words):
        reconstruction_grid.reconstruction_grid(
            images[:count], {"fedavg": images[:others]}, names, tmp_path / "a"
        )
    maps = {"fedavg": images[:others, ..., 0]}
    with pytest.raises(ValueError, match=words):
        gradcam.gradcam_grid(images[:count], maps, names, tmp_path / "a")


def test_a_panel_needs_a_reconstruction_for_each_image(images, tmp_path):
    odd = reconstruction_grid.Panel("odd", images[:2], {"FedAvg": images[:1]})
    with pytest.raises(ValueError, match="FedAvg"):
        reconstruction_grid.panel_page([odd], [], tmp_path / "a")
