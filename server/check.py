"""`server check`: loads each model as `run` would, and says of each version what it is or what is wrong with it."""

from trapline.errors import ModelInvalid, TraplineError
from trapline.v1.metadata_pb2 import Preprocessing

from .app import loader
from .config import CheckConfig
from .device import choose_device
from .precision import problems
from .repository import Repository
from .session import Session


def check_models(config: CheckConfig) -> int:
    """Prints one line a model, the newest version that can be served; 0 where every newest version can be, else 1.

    Raises:
        UsageError: The folder is missing.
        TraplineError: It has no models, or CUDA is wanted and does not work.
    """
    repository = Repository(config.models)
    load = loader(config, repository, device=choose_device(config.device))
    model_ids = repository.model_ids()
    if not model_ids:
        raise TraplineError(f"--models: {config.models} has no models; publish one with `trainer publish`")
    good = True
    for model_id in model_ids:
        found = repository.look(model_id)
        versions = found.versions
        if not versions:
            why = found.problem or "the folder has no version folder (1, 2, 3 ...)"
            print(f"{model_id}: broken: {why}", flush=True)
        broken = []
        for version in versions:
            try:
                session = load(model_id, version)
            except ModelInvalid as error:
                broken.append(f"version {version} cannot be served: {error}")
                continue
            if problem := problems(session):
                broken.append(problem)
            print("; but ".join([f"{model_id} version {version}: ok {_described(session)}", *broken]), flush=True)
            break
        else:
            if versions:
                print(f"{model_id}: broken: " + "; ".join(broken), flush=True)
            good = False
        good = good and not broken
    return 0 if good else 1


def _described(session: Session) -> str:
    rules = session.metadata.preprocessing
    fit = Preprocessing.Fit.Name(rules.fit).removeprefix("FIT_").lower()
    return (
        f"precision={session.precision} labels={len(session.metadata.labels)} input={rules.width_px}x{rules.height_px} "
        f"fit={fit} providers={','.join(session.providers)} digest={session.digest[:12]}"
    )
