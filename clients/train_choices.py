"""What can be asked of a train job, checked here before it is sent: the options of a run, and a recipe."""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from trapline.command_line import GivenAlone
from trapline.errors import RequestInvalid
from trapline.run_choices import RunChoices


class JobChoices(RunChoices):
    """The options of a run, and the recipe that holds where none is given."""

    recipe: str = Field("", description="Recipe of the trainer, e.g. flowers: what it says holds where no option does.")

    @model_validator(mode="after")
    def _together(self) -> Self:
        # What options that are not given here will be is the recipe's to say, and the service knows it.
        return self if self.recipe else super()._together()  # type: ignore[operator]  # pydantic leaves the method


class _Given(GivenAlone, JobChoices):
    """The same as arguments alone: nothing is read from the environment."""


def checked(options: Mapping[str, object], *, recipe: str = "") -> dict[str, object]:
    """`options` (of a run, by name) as the values that they stand for; none is added.

    Raises:
        RequestInvalid: There is no such option, or a value that it does not take; `violations` names each.
    """
    try:
        choices = _Given.model_validate({**options, "recipe": recipe})
    except ValidationError as error:
        violations: dict[str, str] = {}
        for problem in error.errors(include_url=False):
            name = str(problem["loc"][0]) if problem["loc"] else ""
            violations[name] = " or ".join(filter(None, [violations.get(name), _told(dict(problem))]))
        sentences = [f"{name}: {told}" if name else told for name, told in violations.items()]
        raise RequestInvalid("; ".join(sentences), violations=violations) from error
    return {name: getattr(choices, name) for name in options}


def _told(problem: dict[str, Any]) -> str:
    if problem["type"] == "extra_forbidden":
        return "is no option of a run"
    return str(problem["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")
