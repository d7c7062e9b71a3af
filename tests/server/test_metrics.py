import asyncio
import re
import urllib.request

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from server.metrics import Metrics

UNITS = {"calls", "images", "seconds", "bytes", "failures", "predictions", "ratio", "reloads", "–"}


def value(server, name: str, **labels: str) -> float | None:
    return server.metrics.registry.get_sample_value(name, labels)


def series(server, name: str) -> set[tuple[str, ...]]:
    """Label values of the metric's series, in the order of their names."""
    found = [sample for family in server.metrics.registry.collect() for sample in family.samples if sample.name == name]
    return {tuple(sample.labels[key] for key in sorted(sample.labels)) for sample in found}


async def test_the_page_has_the_declared_metrics_and_no_other(kit, models):
    """Each is there with its help, by its declared name, kind and labels; so docs/metrics.md lacks none of them."""
    async with kit.running(models, metrics="127.0.0.1:0") as (server, stubs):
        await stubs.classify.Classify(kit.request(kit.picture()))
        with pytest.raises(grpc.aio.AioRpcError):
            await stubs.classify.Classify(kit.request(b"junk"))
        url = f"http://{server.metrics_listen}/metrics"
        page = (await asyncio.to_thread(urllib.request.urlopen, url)).read().decode()
        declared = {each.name: each for each in server.metrics.declared}
    families = [
        family
        for family in text_string_to_metric_families(page)
        if not family.name.startswith("process_") and not family.name.endswith("_created")
    ]
    assert len(families) == len(declared) >= 17
    for family in families:
        name = f"{family.name}_total" if family.type == "counter" else family.name
        assert (family.type, family.documentation) == (declared[name].kind, declared[name].meaning)
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(declared[name].labels), sample.name


def test_each_metric_has_a_unit():
    """Names are ours and end with a known unit, in Prometheus's base units."""
    for each in Metrics().declared:
        assert re.fullmatch(r"trapline(_[a-z]+)+", each.name)
        assert each.unit in UNITS, each.name
        assert each.meaning.endswith(".")


async def test_answers_are_counted_by_best_label_and_score(kit, models):
    """Each label of the model has its count from the start, at 0; the scores' histogram tells how sure it was."""
    async with kit.running(models) as (server, stubs):
        assert series(server, "trapline_predictions_total") == {(label, "colours", "1") for label in kit.LABELS}
        for colour in ((255, 0, 0), (255, 0, 0), (0, 0, 255), (128, 128, 128)):
            await stubs.classify.Classify(kit.request(kit.picture(colour)))
        with pytest.raises(grpc.aio.AioRpcError):
            await stubs.classify.Classify(kit.request(b"junk"))
        of = {"model": "colours", "version": "1"}
        counts = [value(server, "trapline_predictions_total", **of, label=label) for label in ("green", "blue")]
        # A grey picture is as much red as green or blue: 1/3 each, and the first of them is the best.
        assert (value(server, "trapline_predictions_total", **of, label="red"), *counts) == (3, 0, 1)
        assert value(server, "trapline_top_score_ratio_bucket", **of, le="0.5") == 1
        assert value(server, "trapline_top_score_ratio_bucket", **of, le="0.3") == 0
        assert value(server, "trapline_top_score_ratio_count", **of) == 4


async def test_images_of_no_class_are_counted(kit, models):
    """Those with an unknown score above 1; the series ends with its version."""
    kit.publish(models, "colours", 2, kit.doubting_bytes())
    async with kit.running(models) as (server, stubs):
        for colour in ((20, 0, 0), (0, 30, 0), (255, 0, 0)):
            await stubs.classify.Classify(kit.request(kit.picture(colour)))
        assert value(server, "trapline_unknown_images_total", model="colours", version="2") == 2
        kit.publish(models, "colours", 3, kit.model_bytes())
        await server.models.reload("colours")
        await kit.until(lambda: series(server, "trapline_unknown_images_total") == {("colours", "3")})


async def test_a_replaced_versions_series_are_dropped(kit, models):
    """After its last answer; so reloads pile up none, and what the new version goes on with keeps its counts."""
    async with kit.running(models, holds=True) as (server, stubs):
        session = server.models.slot("colours").serving.session
        session.held.clear()
        late = asyncio.ensure_future(stubs.classify.Classify(kit.request(kit.picture())))
        await asyncio.to_thread(session.began.wait)
        kit.publish(models, "colours", 2, kit.model_bytes(labels=("red", "green", "violet")))
        await server.models.reload("colours")
        assert {version for *_, version in series(server, "trapline_predictions_total")} == {"1", "2"}
        session.held.set()
        assert (await late).model_version == "1"
        wanted = {(label, "colours", "2") for label in ("red", "green", "violet")}
        await kit.until(lambda: series(server, "trapline_predictions_total") == wanted)
        await stubs.classify.Classify(kit.request(kit.picture()))
        for _ in range(3):  # the same version anew goes on counting
            await server.models.reload("colours")
        await kit.until(lambda: len(series(server, "trapline_top_score_ratio_count")) == 1)
        assert value(server, "trapline_predictions_total", model="colours", version="2", label="red") == 1
        kit.publish(models, "colours", 2, kit.model_bytes(labels=("red", "green", "blue")))
        await server.models.reload("colours")
        await kit.until(
            lambda: {label for label, *_ in series(server, "trapline_predictions_total")} == {"red", "green", "blue"}
        )
        assert series(server, "trapline_model_info") == {("colours", "2")}


async def test_work_for_callers_that_are_gone_is_counted(kit, models):
    """An image whose caller leaves, or is late, while its batch runs was run for nobody; one that waits is not run."""
    async with kit.running(models, holds=True, max_batch=1) as (server, stubs):
        session = server.models.slot("colours").serving.session
        request = kit.request(kit.picture())
        for cause, timeout in (("cancelled", None), ("deadline", 0.2)):
            session.held.clear()
            session.began.clear()
            gone = stubs.classify.Classify(request, timeout=timeout)
            await asyncio.to_thread(session.began.wait)
            if cause == "cancelled":
                gone.cancel()
            await gone.code()
            await kit.until(lambda: server.models.slot("colours").serving.batcher.image_count == 0)
            session.held.set()
            await stubs.classify.Classify(request)
            assert value(server, "trapline_wasted_images_total", model="colours", cause=cause) == 1
        assert series(server, "trapline_dropped_images_total") == set()
        assert value(server, "trapline_batch_images_sum", model="colours") == 4


async def test_readiness_is_a_gauge(kit, models):
    """1 as long as health says SERVING; and the limit of the queue is told beside it."""
    async with kit.running(models, max_queue_ms=250) as (server, _):
        assert value(server, "trapline_ready") == 1
        assert value(server, "trapline_queue_limit_seconds") == 0.25
        server._gate.close()
        server.health.tell()
        assert value(server, "trapline_ready") == 0
    async with kit.running(models / "colours" / "1", allow_empty=True) as (server, _):
        assert value(server, "trapline_ready") == 0


async def test_a_newest_version_that_cannot_be_served_shows_until_it_is_mended(kit, models):
    """A gauge, beside the count of failures; both are there at 0 from the start, so that an increase is seen."""
    async with kit.running(models) as (server, _):
        for name in ("trapline_model_error", "trapline_model_load_failures_total", "trapline_batch_failures_total"):
            assert value(server, name, model="colours") == 0
        kit.publish(models, "colours", 2, b"junk")
        await server.models.refresh()
        assert value(server, "trapline_model_error", model="colours") == 1
        assert value(server, "trapline_model_load_failures_total", model="colours") == 1
        kit.publish(models, "colours", 3, kit.model_bytes())
        kit.publish(models, "other", 1, kit.model_bytes())
        await server.models.refresh()
        assert value(server, "trapline_model_error", model="colours") == 0
        assert value(server, "trapline_model_error", model="other") == 0
