"""What the server counts, in Prometheus' own format."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """A registry of its own for each server."""

    def __init__(self) -> None:
        disable_created_metrics()
        self._registry = registry = CollectorRegistry()
        self.requests = Counter("himix_requests", "Requests, by HTTP status.", ["model", "status"], registry=registry)
        self.cancelled = Counter("himix_cancelled", "Answers whose client left.", ["model"], registry=registry)
        self.seconds = Histogram(
            "himix_request_seconds", "From request to answer.", ["model"], buckets=SECONDS, registry=registry
        )
        self.first_token = Histogram(
            "himix_first_token_seconds", "From request to first text.", ["model"], buckets=SECONDS, registry=registry
        )
        self.prompt_tokens = Counter("himix_prompt_tokens", "Text tokens read.", ["model"], registry=registry)
        self.cached_tokens = Counter(
            "himix_cached_tokens", "Those of them that a session still knew.", ["model"], registry=registry
        )
        self.new_tokens = Counter("himix_generated_tokens", "Tokens answered.", ["model"], registry=registry)
        self.waiting = Gauge("himix_waiting", "Requests that wait for a session.", ["model"], registry=registry)
        self.running = Gauge("himix_running", "Requests that are being answered.", ["model"], registry=registry)
        self.images = Counter(
            "himix_images", "Images, by where their keys and values were found.", ["found"], registry=registry
        )
        self.image_bytes = Gauge(
            "himix_image_bytes", "Keys and values that are kept, by where.", ["where"], registry=registry
        )

    def text(self) -> bytes:
        """All of it."""
        return generate_latest(self._registry)
