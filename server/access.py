"""The methods that the server has, and who may call each."""

from collections.abc import Mapping

from trapline.service.authentication import TELLING, Access

CLASSIFY_SERVICE = "trapline.v1.ClassifyService"
MODEL_SERVICE = "trapline.v1.ModelService"

ACCESS: Mapping[str, Access] = {
    **TELLING,
    f"/{CLASSIFY_SERVICE}/Classify": Access.CALLER,
    f"/{CLASSIFY_SERVICE}/BatchClassify": Access.CALLER,
    f"/{CLASSIFY_SERVICE}/StreamClassify": Access.CALLER,
    f"/{MODEL_SERVICE}/GetModel": Access.CALLER,
    f"/{MODEL_SERVICE}/ListModels": Access.CALLER,
    f"/{MODEL_SERVICE}/ReloadModel": Access.ADMIN,
}
#: No classifying on `--admin`.
ADMIN_SERVICES = (MODEL_SERVICE,)
