import torch
from PIL import Image

from cnnmod.training.data import open_data
from cnnmod.training.recipes import recipe
from pictures import classes


def test_crop_flip_shifts_and_mirrors_images(tmp_path):
    """Each result is the image, shifted by at most one eighth and possibly mirrored."""
    side = torch.arange(16 * 16, dtype=torch.uint8).view(16, 16, 1).expand(16, 16, 3).numpy()
    for split in ("train", "test"):
        classes(tmp_path, split, ["cat", "dog"], count=15)
        for path in tmp_path.glob(f"{split}/*/*.png"):
            Image.fromarray(side).save(path)
    data = open_data(tmp_path, recipe("cifar10_fast", ["image_size=16", "mean=[0,0,0]", "std=[1,1,1]"]))
    (batch,) = data.train.batches([torch.arange(30)], draw=1)
    padded = torch.nn.functional.pad(torch.from_numpy(side[:, :, 0].copy()), (2, 2, 2, 2))
    possible = {
        (shift_y, shift_x, mirrored): (crop.flip(1) if mirrored else crop)
        for shift_y in range(5)
        for shift_x in range(5)
        for mirrored in (False, True)
        for crop in [padded[shift_y : shift_y + 16, shift_x : shift_x + 16]]
    }
    seen = set()
    for image in (batch.images[:, 0] * 255).round().byte():
        found = [key for key, expected in possible.items() if torch.equal(image, expected)]
        assert len(found) == 1
        seen |= set(found)
    assert len(seen) > 10
    assert {mirrored for _, _, mirrored in seen} == {False, True}
