"""How long a model's images take: measured at warm-up, followed while it serves."""

_WEIGHT = 0.2  # of the newest observation in a moving average
# One stalled batch (a page-in, a reload's warm-up beside it) or one giant photo must not close the queue for long.
_LARGEST_RATIO = 20.0


class Pace:
    """Expects how long images will wait for the device.

    A batch of n images takes about a + b·n seconds. Warm-up measures both ends of that line; each batch that is
    served then says how much slower or faster than the line the machine is now. Where decoding is slower than the
    model (large photos, a GPU), decoding sets the pace.
    """

    def __init__(self, *, one_seconds: float, full_seconds: float, max_batch: int, decode_threads: int = 1) -> None:
        self._one = max(one_seconds, 1e-6)
        self._step = max(0.0, full_seconds - self._one) / max(1, max_batch - 1)
        self._max_batch = max_batch
        self._decode_threads = decode_threads
        self._slowdown = 1.0
        self._decode = 0.0

    def observe_batch(self, image_count: int, seconds: float) -> None:
        """Takes note that a batch of `image_count` images ran for `seconds`."""
        ratio = min(seconds / self._line(image_count), _LARGEST_RATIO)
        self._slowdown += _WEIGHT * (ratio - self._slowdown)

    def observe_decode(self, seconds: float) -> None:
        """Takes note that decoding one image took `seconds` of one thread."""
        if not self._decode:
            self._decode = seconds
        self._decode += _WEIGHT * (min(seconds, _LARGEST_RATIO * self._decode) - self._decode)

    def batch_seconds(self, image_count: int) -> float:
        """How long a batch of `image_count` images is expected to run, in seconds; 0 for none."""
        return self._line(image_count) * self._slowdown if image_count else 0.0

    def wait_seconds(self, *, waiting: float, running: int, elapsed_seconds: float) -> float:
        """How long one more image is expected to wait for its batch to start.

        Args:
            waiting: Images ahead of it that no batch has taken yet.
            running: Images in the batch that runs now.
            elapsed_seconds: How long that batch has been running.
        """
        rest = max(0.0, self.batch_seconds(running) - elapsed_seconds)
        device = rest + (waiting // self._max_batch) * self.batch_seconds(self._max_batch)
        return max(device, waiting * self._decode / self._decode_threads)

    def _line(self, image_count: int) -> float:
        return self._one + self._step * (image_count - 1)
