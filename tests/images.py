"""Images to compare, and what scikit-image says of them."""

import numpy as np
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

SHAPES = [(11, 11, 1), (12, 17, 3), (28, 28, 1)]
SMALL = SHAPES[0]


def true_psnr(a, b):
    with np.errstate(divide="ignore"):
        return peak_signal_noise_ratio(np.asarray(a, float), np.asarray(b, float), data_range=1)


def true_ssim(a, b):
    # In double precision: from single, scikit-image itself is off by up to 7e-5.
    return structural_similarity(
        np.asarray(a, float),
        np.asarray(b, float),
        win_size=11,
        gaussian_weights=False,
        data_range=1,
        channel_axis=-1,
    )


def true_cosine(a, b):
    a, b = np.ravel(a).astype(float), np.ravel(b).astype(float)
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    return abs(a @ b) / lengths if lengths else 0.0


TRUE = (true_psnr, lambda a, b: abs(true_ssim(a, b)), true_cosine)
