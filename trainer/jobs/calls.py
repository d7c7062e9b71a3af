"""What a call of the train service tells in the log and in traces: the job that it is about."""

from dataclasses import dataclass

from trapline.service import calls


@dataclass(kw_only=True, slots=True)
class Call(calls.Call):
    """One call.

    Attributes:
        job: Id of the job that it names or makes; well formed.
    """

    job: str = ""

    def words(self) -> tuple[str, tuple[object, ...]]:
        """The job, where there is one."""
        return (" job=%s", (self.job,)) if self.job else ("", ())

    def attributes(self) -> dict[str, object]:
        """The same for a span."""
        return {"trapline.job": self.job} if self.job else {}


def note_job(job_id: str) -> None:
    """Takes note of the job that the call under way is about."""
    call = calls.current()
    if isinstance(call, Call):
        call.job = job_id
