"""The images of a job that have no result yet: under way, or waiting to be sent again."""

import math
from dataclasses import dataclass

from .answers import Source
from .stream import Stream

#: Breaks of a stream that make an image under way a suspect, and those that make it guilty.
SUSPECT_BREAKS = 2
GUILTY_BREAKS = 4


@dataclass(eq=False)
class Image:
    """One image without a result; times in seconds of the monotonic clock.

    Attributes:
        index: Its position among the job's images.
        source: Where its bytes are.
        size_bytes: How many it has, once read.
        stream: What it is under way on; None while it is not.
        due_time: It may be sent again from then on.
        overdue_time: Its answer is missing from then on, while it is under way.
        first_refusal_time: When it was first refused for now.
        refusal_count: How often it was refused for now.
        overdue_count: How often its answer was missing.
        break_count: How often a stream broke with it under way.
    """

    index: int
    source: Source
    size_bytes: int = 0
    stream: Stream | None = None
    due_time: float = 0.0
    overdue_time: float = math.inf
    first_refusal_time: float | None = None
    refusal_count: int = 0
    overdue_count: int = 0
    break_count: int = 0


class Outstanding:
    """Both sorts of images, by index: `under_way` and `again`.

    Attributes:
        byte_count: Bytes of the images under way, together.
    """

    def __init__(self) -> None:
        self.under_way: dict[int, Image] = {}
        self.again: dict[int, Image] = {}
        self.byte_count = 0
        self._may_have_suspects = False

    def __len__(self) -> int:
        return len(self.under_way) + len(self.again)

    def in_order(self) -> list[Image]:
        """All of them, by index."""
        return [image for _, image in sorted((self.under_way | self.again).items())]

    def oldest_index(self, default: int) -> int:
        """The lowest index; `default` where there is no image."""
        return min(min(self.under_way, default=default), min(self.again, default=default))

    def on(self, stream: Stream) -> list[Image]:
        """The images under way on a stream."""
        return [image for image in self.under_way.values() if image.stream is stream]

    def send(self, image: Image, stream: Stream) -> None:
        """Takes note that an image goes out on a stream."""
        image.stream, image.overdue_time = stream, math.inf
        self.under_way[image.index] = image
        self.byte_count += image.size_bytes
        stream.image_count += 1

    def take(self, image: Image) -> None:
        """Takes an image out that is under way."""
        assert image.stream is not None, "it is under way"
        del self.under_way[image.index]
        self.byte_count -= image.size_bytes
        image.stream.image_count -= 1
        image.stream = None

    def send_again(self, image: Image) -> None:
        """Lets an image that is under way wait to be sent again."""
        self.take(image)
        self.again[image.index] = image

    def note_break(self, image: Image) -> bool:
        """Takes note that a stream broke with `image` under way; whether that is now proof of its guilt."""
        image.break_count += 1
        self._may_have_suspects |= image.break_count >= SUSPECT_BREAKS
        return image.break_count >= GUILTY_BREAKS

    def has_suspects(self) -> bool:
        """Whether one of them may be what breaks the streams."""
        if self._may_have_suspects:
            images = (*self.under_way.values(), *self.again.values())
            self._may_have_suspects = any(image.break_count >= SUSPECT_BREAKS for image in images)
        return self._may_have_suspects

    def take_due(self, now: float) -> Image | None:
        """The first image that is due to be sent again, taken out; None where none is."""
        due = [index for index, image in self.again.items() if image.due_time <= now]
        return self.again.pop(min(due)) if due else None
