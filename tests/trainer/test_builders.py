import pytest

from trainer.builders import BUILDERS, builder_record, check_image_px
from trainer.errors import UsageError


def test_records_equal_the_installed_torchvision():
    """Names, sizes and filters are those that torchvision's default weights record."""
    import torchvision

    names = torchvision.models.list_models(module=torchvision.models)
    assert sorted(names) == sorted(BUILDERS)
    for name in names:
        transforms = torchvision.models.get_model_weights(name).DEFAULT.transforms()
        record = BUILDERS[name]
        assert [record.image_px] == transforms.crop_size
        assert ("bicubic" if record.bicubic else "bilinear") == transforms.interpolation.value


def test_unknown_builder_names_the_nearest():
    """A misspelt backbone is answered with what was probably meant."""
    with pytest.raises(UsageError, match=r"no classification builder 'resnet-18'; did you mean resnet18"):
        builder_record("resnet-18")


def test_patches_must_divide_the_side():
    """A vision transformer's size is refused with one that works."""
    with pytest.raises(UsageError, match=r"vit_b_16 needs a multiple of 16, not 100; try 96"):
        check_image_px("vit_b_16", 100)
    check_image_px("vit_b_16", 64)
