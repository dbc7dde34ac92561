"""The mask codec against the published decoder's numbers, its file, and damaged files."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from paligemma.models.mask_codec import MaskCodec

VECTORS = Path(__file__).parents[3] / "shared" / "vectors"
needs_vectors = pytest.mark.skipif(
    not (VECTORS / "vqvae_cases.npz").is_file(), reason=f"the codec's vectors are not at {VECTORS}"
)


@pytest.fixture(scope="module")
def published():
    with np.load(VECTORS / "vqvae_cases.npz") as cases:
        arrays = {name: torch.from_numpy(cases[name]) for name in cases.files}
    return MaskCodec.load(VECTORS / "vqvae_params.npz"), arrays


@needs_vectors
def test_decodes_as_published(published):
    codec, cases = published
    torch.testing.assert_close(codec.decode(cases["codes"]), cases["decoded"], rtol=0, atol=1e-4)


@needs_vectors
def test_encodes_as_published(published):
    codec, cases = published
    assert codec.encode(cases["masks"]).tolist() == cases["encoded"].tolist()


@needs_vectors
def test_saves_under_the_published_names(published, tmp_path):
    published[0].save(tmp_path / "codec.npz")
    with np.load(tmp_path / "codec.npz") as mine, np.load(VECTORS / "vqvae_params.npz") as theirs:
        assert set(mine.files) == set(theirs.files)
        assert all(np.array_equal(mine[key], theirs[key]) for key in theirs.files)


# --- The file -------------------------------------------------------------------------------------


def arrays(**changes) -> dict[str, np.ndarray]:
    """The tiny codec as its file holds it; None takes an array out."""
    state = {key: value.detach().numpy() for key, value in tiny.codec().state_dict().items()}
    state["_vq_vae._embedding"] = state.pop("codebook")
    return {key: value for key, value in (state | changes).items() if value is not None}


def test_round_trip_with_widths_from_the_file(tmp_path):
    codec = tiny.codec(encoder=(3, 4, 5, 6), decoder=(10, 9, 8, 7))
    codec.save(tmp_path / "codec.npz")
    again = MaskCodec.load(tmp_path / "codec.npz")
    assert not again.training and not any(p.requires_grad for p in again.parameters())
    assert [tuple(p.shape) for p in again.parameters()] == [
        tuple(p.shape) for p in codec.parameters()
    ]
    codes = torch.randint(128, (3, 16))
    masks = torch.rand(3, 64, 64).round()
    assert torch.equal(again.decode(codes), codec.decode(codes))
    assert torch.equal(again.encode(masks), codec.encode(masks))


def test_missing_file(tmp_path):
    with pytest.raises(ValueError, match=r"There is no mask codec at .*nowhere\.npz"):
        MaskCodec.load(tmp_path / "nowhere.npz")


def truncated(path):
    tiny.codec().save(path)
    path.write_bytes(path.read_bytes()[:-2000])


DAMAGED = {
    "empty": lambda path: path.write_bytes(b""),
    "noise": lambda path: path.write_bytes(bytes(range(256)) * 9),
    "cut short": truncated,
    "a folder": lambda path: path.mkdir(),
    "one bare array": lambda path: np.save(path.open("wb"), np.zeros(3)),
    "text inside": lambda path: np.savez(path, **arrays(**{"encoder.0.bias": np.array(["x"])})),
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_file(tmp_path, damage):
    damage(tmp_path / "codec.npz")
    with pytest.raises(ValueError, match="not a readable mask codec"):
        MaskCodec.load(tmp_path / "codec.npz")


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.mkdir, (self.path,)


@pytest.mark.parametrize("where", ["in an array", "as the file"])
def test_a_pickle_is_refused_and_not_run(tmp_path, where):
    path, trap = tmp_path / "codec.npz", Evil(tmp_path / "sprung")
    if where == "as the file":
        path.write_bytes(pickle.dumps(trap))
    else:
        np.savez(path, **arrays(**{"encoder.0.bias": np.array([trap], object)}))
    with pytest.raises(ValueError, match="not a readable mask codec"):
        MaskCodec.load(path)
    assert not trap.path.exists()


OTHER = {
    "another archive": {key: None for key in arrays()} | {"weights": np.zeros((2, 2))},
    "a missing array": {"decoder.12.bias": None},
    "no codebook": {"_vq_vae._embedding": None},
    "an array too many": {"decoder.14.bias": np.zeros(1)},
    "a turned array": {"decoder.0.weight": np.zeros((8, 7, 1, 1))},
    "a codebook of another width": {"_vq_vae._embedding": np.zeros((128, 9))},
    "a flat codebook": {"_vq_vae._embedding": np.zeros(128)},
    "a deep codebook": {"_vq_vae._embedding": np.zeros((128, 2, 4))},
    "a number for a weight": {"encoder.2.weight": np.float32(1)},
    "a flat weight": {"decoder.4.weight": np.zeros(7)},
}


@pytest.mark.parametrize("changes", OTHER.values(), ids=OTHER.keys())
@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_another_archive(tmp_path, changes):
    np.savez(tmp_path / "codec.npz", **arrays(**changes))
    with pytest.raises(ValueError, match="not a PaliGemma mask codec"):
        MaskCodec.load(tmp_path / "codec.npz")


# --- Arguments ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "codes, complaint",
    [
        (torch.zeros(16, dtype=torch.long), r"\[n, 16\], not \[16\]"),
        (torch.zeros(2, 15, dtype=torch.long), r"\[n, 16\], not \[2, 15\]"),
        (torch.full((1, 16), 128), "0…127"),
        (torch.full((1, 16), -1), "0…127"),
    ],
)
def test_codes_that_cannot_be_decoded(codes, complaint):
    with pytest.raises(ValueError, match=complaint):
        tiny.codec().decode(codes)


@pytest.mark.parametrize("shape", [(64, 64), (1, 64, 63), (1, 1, 64, 64)])
def test_masks_that_cannot_be_encoded(shape):
    with pytest.raises(ValueError, match=r"\[n, 64, 64\], not"):
        tiny.codec().encode(torch.zeros(shape))


def test_no_masks_at_all():
    codec = tiny.codec()
    assert codec.encode(torch.zeros(0, 64, 64)).shape == (0, 16)
    assert codec.decode(torch.zeros(0, 16)).shape == (0, 64, 64)


def test_masks_of_any_number_type_are_the_same():
    codec, masks = tiny.codec(), torch.rand(2, 64, 64).round()
    codes = codec.encode(masks)
    assert torch.equal(codec.encode(masks.bool()), codes)
    assert torch.equal(codec.encode(masks.numpy().astype(np.uint8)), codes)
