"""The methods that the train service has, and who may call each.

Who reads needs a caller's token. Who spends the machine's time or deletes work needs an admin's, where the operator has
a file of such; else a caller's.
"""

from collections.abc import Mapping

from trapline.service.authentication import TELLING, Access

TRAIN_SERVICE = "trapline.v1.TrainService"
ACCESS: Mapping[str, Access] = {
    **TELLING,
    f"/{TRAIN_SERVICE}/CreateTrainJob": Access.ADMIN,
    f"/{TRAIN_SERVICE}/GetTrainJob": Access.CALLER,
    f"/{TRAIN_SERVICE}/ListTrainJobs": Access.CALLER,
    f"/{TRAIN_SERVICE}/CancelTrainJob": Access.ADMIN,
    f"/{TRAIN_SERVICE}/DeleteTrainJob": Access.ADMIN,
    f"/{TRAIN_SERVICE}/WatchTrainJob": Access.CALLER,
    f"/{TRAIN_SERVICE}/ListTrainJobArtifacts": Access.CALLER,
    f"/{TRAIN_SERVICE}/ReadTrainJobArtifact": Access.CALLER,
}
