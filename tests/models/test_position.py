"""Position embeddings against loops over cells."""

import math

import pytest
import torch
from torch.nn import functional as F

from latentslots.models.position import PositionEmbedding, cartesian_grid, sinusoidal_grid

SIZES = [(4, 4), (3, 5), (1, 2)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_cartesian_is_y_x_1_minus_y_1_minus_x_at_cell_centers(height: int, width: int) -> None:
    rows = []
    for row in range(height):
        for column in range(width):
            y, x = (row + 0.5) / height, (column + 0.5) / width
            rows.append([y, x, 1 - y, 1 - x])
    torch.testing.assert_close(cartesian_grid(height, width), torch.tensor(rows))


def test_cartesian_is_a_linear_map_of_the_grid() -> None:
    embedding = PositionEmbedding(6, "cartesian")
    weight, bias = embedding.projection.weight, embedding.projection.bias
    expected = cartesian_grid(3, 5) @ weight.T + bias
    torch.testing.assert_close(embedding(3, 5), expected)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_sinusoidal_is_waves_of_the_column_then_of_the_row(height: int, width: int) -> None:
    dim = 12
    expected = torch.zeros(height * width, dim)
    for row in range(height):
        for column in range(width):
            for half, position in enumerate((column, row)):
                for i in range(dim // 4):
                    wavelength = 2 * math.pi * 10000 ** (i / (dim / 4))
                    angle = 2 * math.pi * position / wavelength
                    channel = half * dim // 2 + i
                    expected[row * width + column, channel] = math.sin(angle)
                    expected[row * width + column, channel + dim // 4] = math.cos(angle)
    torch.testing.assert_close(sinusoidal_grid(height, width, dim), expected)


def test_sinusoidal_keeps_a_cells_code_when_the_grid_grows() -> None:
    small = sinusoidal_grid(3, 4, 8).unflatten(0, (3, 4))
    large = sinusoidal_grid(6, 9, 8).unflatten(0, (6, 9))
    torch.testing.assert_close(large[:3, :4], small)


def test_sinusoidal_has_one_learned_gain() -> None:
    embedding = PositionEmbedding(8, "sinusoidal")
    torch.testing.assert_close(embedding(3, 4), sinusoidal_grid(3, 4, 8))
    torch.nn.init.constant_(embedding.gain, -2.5)
    torch.testing.assert_close(embedding(3, 4), -2.5 * sinusoidal_grid(3, 4, 8))
    assert [name for name, _ in embedding.named_parameters()] == ["gain"]


def test_learned_is_a_table_row_by_row() -> None:
    embedding = PositionEmbedding(5, "learned", learned_size=4)
    assert torch.equal(embedding(4, 4)[7], embedding.table[0, 1, 3])


@pytest.mark.parametrize(("height", "width"), [(8, 8), (6, 4), (2, 3)])
def test_learned_is_interpolated_to_other_sizes(height: int, width: int) -> None:
    embedding = PositionEmbedding(5, "learned", learned_size=4)
    for channel in range(5):
        plane = embedding.table[0, :, :, channel]
        expected = F.interpolate(plane[None, None], size=(height, width), mode="bicubic")
        torch.testing.assert_close(embedding(height, width)[:, channel], expected.flatten())


def test_learned_ramps_stay_ramps() -> None:
    """An interpolation that swaps rows and columns would transpose this table."""
    embedding = PositionEmbedding(2, "learned", learned_size=8)
    with torch.no_grad():
        embedding.table.copy_(cartesian_grid(8, 8)[:, :2].view(1, 8, 8, 2))
    inner = embedding(16, 24).view(16, 24, 2)[4:-4, 6:-6]
    expected = cartesian_grid(16, 24)[:, :2].view(16, 24, 2)[4:-4, 6:-6]
    # PyTorch's bicubic kernel bends straight lines slightly; a cell is 1/24 wide.
    torch.testing.assert_close(inner, expected, atol=0.01, rtol=0)


@pytest.mark.parametrize("kind", ["cartesian", "sinusoidal", "learned"])
def test_every_cell_has_its_own_vector(kind: str) -> None:
    embedding = PositionEmbedding(16, kind, learned_size=4)
    for height, width in ((4, 4), (5, 7)):
        vectors = embedding(height, width)
        assert vectors.shape == (height * width, 16)
        assert torch.pdist(vectors).min() > 1e-3


@pytest.mark.parametrize("kind", ["cartesian", "sinusoidal", "learned"])
def test_has_the_dtype_of_its_weights(kind: str) -> None:
    embedding = PositionEmbedding(16, kind, learned_size=4).to(torch.bfloat16)
    assert embedding(4, 6).dtype == torch.bfloat16


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("kind", ["none", "polar"])
def test_an_unknown_kind_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match=f"'cartesian', 'sinusoidal', 'learned'.*got '{kind}'"):
        PositionEmbedding(16, kind)


def test_sinusoidal_refuses_an_odd_width() -> None:
    with pytest.raises(ValueError, match="a multiple of 4 channels, got 6"):
        PositionEmbedding(6, "sinusoidal")
