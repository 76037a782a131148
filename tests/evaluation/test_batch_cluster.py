"""`himix batch --scheduler`: two workers of dask in processes of their own, one of which may die."""

import json
import os
import shutil
import signal

import pytest
from distributed import LocalCluster

from himix_edge.data.llava import load_llava
from himix_edge.errors import InputError
from himix_edge.evaluation.batch import BatchSettings, Opening, answer_batch, read_questions
from himix_edge.export.pipeline import PROBE
from himix_edge.runtimes import open_bundle
from himix_edge.staging import staging
from tests.commands import himix

PROMPTS = ("what is it?", "is it red?")
SETTINGS = BatchSettings(6, 0.0)


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=":0") as started:
        yield started


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """Questions about six pictures, one that does not fit, and one about none."""
    folder = tmp_path_factory.mktemp("asked")
    images = list(dict.fromkeys(sample.image for sample in load_llava(PROBE).samples))[:6]
    for number, image in enumerate(images):
        shutil.copy(image, folder / f"{number}.png")
    lines = [{"prompt": prompt, "image": f"{number}.png"} for prompt in PROMPTS for number in range(len(images))]
    lines += [{"prompt": "word " * 500, "image": "0.png"}, {"prompt": "hello", "id": "alone"}]
    (folder / "q.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder / "q.jsonl"


def run(asked, bundle, out, scheduler, track=lambda made, total: made):
    with staging(out, resumable=True) as place:
        return answer_batch(read_questions(asked), SETTINGS, Opening(bundle), place, out, 1, track, scheduler)


@pytest.fixture(scope="module")
def here(asked, tiny_bundle, tmp_path_factory):
    """What this process answers."""
    return run(asked, tiny_bundle, tmp_path_factory.mktemp("here") / "a.jsonl", None)


def same(found, expected):
    """Equal up to what two runs of a sum may differ by."""
    for one, other in zip(found, expected, strict=True):
        assert {**one, "probability": 0} == {**other, "probability": 0}
        assert one.get("probability", 0) == pytest.approx(other.get("probability", 0), rel=1e-4)
    return True


def test_workers_answer_as_this_machine_does(cluster, asked, tiny_bundle, here, tmp_path):
    """Pictures travel with the questions: the workers look into no folder of them."""
    away, out = tmp_path / "q.jsonl", tmp_path / "a.jsonl"
    shutil.copytree(asked.parent, tmp_path, dirs_exist_ok=True)
    counts = []

    def emptied(made, total):
        counts.append(total)
        for number, item in enumerate(made):
            if number == 3:
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt):
        run(away, tiny_bundle, out, cluster.scheduler_address, emptied)
    kept = len((tmp_path / ".a.jsonl.himix/new/answers.jsonl").read_bytes().splitlines())
    assert kept >= 3
    done = himix("batch", away, "--bundle", tiny_bundle, "--out", out, "--scheduler", cluster.scheduler_address,
                 "--max-new-tokens", 6, "--temperature", 0)  # fmt: skip
    assert done.returncode == 2  # one question does not fit
    assert "1 of 14 questions have no answer" in done.stderr
    assert "Traceback" not in done.stderr
    assert same([json.loads(line) for line in out.read_text().splitlines()], here)


def test_a_worker_that_dies_loses_nothing(cluster, asked, tiny_bundle, here, tmp_path):
    from distributed import Client

    with Client(cluster.scheduler_address) as client:
        alive = client.run(os.getpid)

    def kills(made, total):
        for number, item in enumerate(made):
            if number == 0:
                os.kill(next(iter(alive.values())), signal.SIGKILL)
            yield item

    assert same(run(asked, tiny_bundle, tmp_path / "a.jsonl", cluster.scheduler_address, kills), here)


def test_another_bundle_on_a_worker_is_refused(cluster, asked, tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(Opening, "identity", "another", raising=True)
    with pytest.raises(InputError, match="another bundle on a worker's machine"):
        run(asked, tiny_bundle, tmp_path / "a.jsonl", cluster.scheduler_address)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense://x"])
def test_an_address_where_nobody_answers(asked, tiny_bundle, tmp_path, monkeypatch, address):
    monkeypatch.setattr("himix_edge.evaluation.cluster.CONNECTS_WITHIN", 0.2)
    with pytest.raises(InputError, match="no dask scheduler answers there; start one with: dask scheduler") as refused:
        run(asked, tiny_bundle, tmp_path / "a.jsonl", address)
    assert "\n" not in str(refused.value)


def test_options_that_do_not_go_together_are_one_line(asked, tiny_bundle, tmp_path):
    for more in ([], ["--bundle", tiny_bundle, "--workers", 2]):
        done = himix("batch", asked, "--out", tmp_path / "a.jsonl", "--scheduler", "tcp://127.0.0.1:9", *more)
        assert done.returncode == 2
        assert "--scheduler has workers of its own, which open a --bundle" in done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr


def test_without_workers_it_says_how_to_start_some(asked, tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr("himix_edge.evaluation.cluster.WORKERS_WITHIN", 0.1)
    monkeypatch.setattr("himix_edge.evaluation.cluster.LOOKS", 0.1)
    empty = LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address=":0")
    with empty, pytest.raises(InputError, match="has no workers; start some"):
        run(asked, tiny_bundle, tmp_path / "a.jsonl", empty.scheduler_address)


def test_the_session_is_what_answers(asked, tiny_bundle, here):
    question = read_questions(asked)[0]
    assert here[0]["answer"] == open_bundle(tiny_bundle).answer(question.prompt, question.images, 6)
