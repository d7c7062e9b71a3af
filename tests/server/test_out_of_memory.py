import grpc
import pytest
from PIL import ImageFile

from trapline.errors import from_rpc_error, reason_name


async def test_too_little_memory_to_decode_is_a_fault_of_the_server(kit, models, monkeypatch, caplog):
    """A codec without memory is no broken image: INTERNAL with an id, nothing of Pillow's; then it is answered."""

    def short(_image):
        raise ImageFile._get_oserror(-9, encoder=False)

    async with kit.running(models) as (_, stubs):
        monkeypatch.setattr(ImageFile.ImageFile, "load", short)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stubs.classify.Classify(kit.request(kit.picture()))
        error = from_rpc_error(failed.value)
        assert (reason_name(error), error.code) == ("INTERNAL", grpc.StatusCode.INTERNAL)
        assert "memory" not in str(error.message)
        assert error.metadata["errorId"] in caplog.text
        monkeypatch.undo()
        assert (await stubs.classify.Classify(kit.request(kit.picture()))).predictions
