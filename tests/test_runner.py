"""One suite over both runners: complete results, the work's own errors, bounded windows, losses."""

import os
import subprocess
import sys
import threading
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import runner_work as work

from curate.errors import ConfigError
from curate.runner import LocalRunner, Lost, Needs, RayRunner, Stage, fold


@pytest.fixture(params=["local", pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.slow])])
def runner(request):
    if request.param == "local":
        return LocalRunner()
    request.getfixturevalue("ray_cluster")
    return RayRunner()


@pytest.fixture
def ray_runner(ray_cluster):
    return RayRunner()


def test_every_item_gives_one_result(runner):
    found = Counter(runner.map(work.square, range(50), "squares"))
    assert found == Counter(number * number for number in range(50))


def test_no_items_give_no_results(runner):
    assert list(runner.map(work.square, [], "squares")) == []
    assert list(runner.flow([Stage("a", work.opener(work.square))], [])) == []


def test_fold_holds_all_in_one(runner):
    assert fold(runner.map(work.square, range(20), "squares"), lambda a, b: a + b) == 2470
    assert fold(runner.map(work.square, [], "squares"), lambda a, b: a + b) is None


def test_an_exception_of_the_work_arrives_as_it_is(runner):
    with pytest.raises(LookupError, match="number 3 is bad"):
        list(runner.map(partial(work.fail_at, 3), range(10), "fails"))
    stage = Stage("fails", work.opener(work.fail_at, 3))
    with pytest.raises(LookupError, match="number 3 is bad"):
        list(runner.flow([stage], range(10)))


def test_only_a_window_of_the_items_is_taken(runner):
    """100,000 shards are not 100,000 tasks in flight."""
    taken = 0

    def items():
        nonlocal taken
        for taken in range(1, 101):  # noqa: UP028 - the test reads how far it is
            yield taken

    ahead = []
    for seen, _ in enumerate(runner.map(work.square, items(), "window"), start=1):
        ahead.append(taken - seen)
    assert seen == 100
    assert max(ahead) <= 4 * 2 + 1


@pytest.mark.parametrize(("stages", "count"), [(1, 1), (4, 3)])
def test_every_item_passes_every_stage_once_and_in_order(runner, stages, count):
    """Four stages on two CPUs: none may starve another one of its workers."""
    line = [Stage(f"s{n}", work.opener(work.square)) for n in range(stages)]
    found = list(runner.flow(line, range(count)))
    assert all(result == item * item for _, item, result in found)
    for item in range(count):
        assert [stage for stage, other, _ in found if other == item] == list(range(stages))


@pytest.mark.parametrize(
    "needs", [pytest.param(Needs(workers=3), marks=pytest.mark.slow), Needs(workers=3, cpus=0.75)]
)
def test_more_workers_than_fit_still_finish(runner, needs, monkeypatch):
    """Two CPUs, and two stages that ask for more than four: each works when the other rests."""
    monkeypatch.setattr("curate.runner.PATIENCE_S", 1.0)
    line = [Stage(f"s{n}", work.opener(work.square), needs) for n in range(2)]
    found = list(runner.flow(line, range(8)))
    assert len(found) == 16


def test_an_exception_while_work_is_opened_arrives_as_it_is(runner):
    """A model that is not there is no loss of every shard."""
    with pytest.raises(LookupError, match="no model"):
        list(runner.flow([Stage("a", work.cannot_open)], range(3)))


def test_a_worker_opens_once(runner, tmp_path):
    stage = Stage("a", work.counted_opener(str(tmp_path), work.square), Needs(workers=1))
    assert len(list(runner.flow([stage], range(12)))) == 12
    assert work.tally(tmp_path, "opened") == 1


def test_a_later_stage_does_not_wait_for_all_of_an_earlier_one(runner, tmp_path):
    line = [Stage(f"s{n}", work.opener(work.trace, str(tmp_path), n)) for n in range(2)]
    list(runner.flow(line, range(30)))

    def times(stage):
        files = [path for path in tmp_path.iterdir() if path.name.startswith(f"stage{stage}-")]
        return [tuple(map(int, path.read_text().split())) for path in files]

    assert min(began for began, _ in times(1)) < max(ended for _, ended in times(0))


def test_what_waits_between_two_stages_is_bounded(runner):
    """A slow model must not let the disk fill up with downloads."""
    line = [
        Stage("fast", work.opener(work.square), Needs(workers=1)),
        Stage("slow", work.opener(work.slow, 0.02), Needs(workers=1)),
    ]
    done, most = Counter(), 0
    for stage, _, _ in runner.flow(line, range(40)):
        done[stage] += 1
        most = max(most, done[0] - done[1])
    assert done == {0: 40, 1: 40}
    assert most <= 8


# --- losses


def test_out_of_memory_once_is_tried_again(runner, tmp_path):
    stage = Stage("a", work.opener(work.greedy, str(tmp_path), 3, 1), Needs(workers=1))
    found = {item: result for _, item, result in runner.flow([stage], range(6))}
    assert found == {number: number for number in range(6)}
    assert work.tally(tmp_path, "greedy") == 2


@pytest.mark.parametrize("memory_gb", [None, pytest.param(0.5, marks=pytest.mark.slow)])
def test_out_of_memory_again_is_a_loss_of_that_item_alone(runner, tmp_path, memory_gb):
    needs = Needs(workers=2, memory_gb=memory_gb)
    line = [
        Stage("a", work.opener(work.greedy, str(tmp_path), 3, 99), needs),
        Stage("b", work.opener(work.square), needs),
    ]
    found = list(runner.flow(line, range(6)))
    lost = [(stage, item, result) for stage, item, result in found if isinstance(result, Lost)]
    assert [(stage, item, result.kind) for stage, item, result in lost] == [(0, 3, "out_of_memory")]
    assert "no more" in lost[0][2].message
    assert sorted(item for stage, item, _ in found if stage == 1) == [0, 1, 2, 4, 5]
    assert work.tally(tmp_path, "greedy") == 2


def test_memory_of_which_nobody_has_twice_as_much_is_no_endless_wait(runner, tmp_path):
    """The second try asks for more memory, but never for more than a machine has."""
    needs = Needs(workers=2, memory_gb=_half_of_this_machine_gb() * 0.9)
    stage = Stage("a", work.opener(work.greedy, str(tmp_path), 1, 1), needs)
    found = {item: result for _, item, result in runner.flow([stage], range(4))}
    assert found == {number: number for number in range(4)}


def _half_of_this_machine_gb():
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 / 2


@pytest.mark.ray
@pytest.mark.parametrize("needs", [Needs(gpus=99), Needs(cpus=99), Needs(memory_gb=10**6)])
def test_what_no_machine_has_is_an_error_and_no_endless_wait(ray_runner, needs):
    stage = Stage("clip+other", work.opener(work.square), needs)
    with pytest.raises(ConfigError, match=r"clip\+other: a worker asks for .*`run\.clip\."):
        list(ray_runner.flow([stage], range(3)))


@pytest.mark.ray
def test_a_killed_task_is_repeated(ray_runner, tmp_path):
    found = Counter(ray_runner.map(partial(work.die_once, str(tmp_path), 3), range(8), "dies"))
    assert found == Counter(range(8))
    assert work.tally(tmp_path, "died") == 2


@pytest.mark.ray
def test_a_killed_worker_is_replaced(ray_runner, tmp_path):
    line = [
        Stage("a", work.opener(work.die_once, str(tmp_path), 3)),
        Stage("b", work.opener(work.square)),
    ]
    found = list(ray_runner.flow(line, range(8)))
    assert Counter(item for stage, item, _ in found if stage == 1) == Counter(range(8))
    assert not any(isinstance(result, Lost) for _, _, result in found)
    assert work.tally(tmp_path, "died") == 2


@pytest.mark.ray
@pytest.mark.slow
def test_an_item_that_always_kills_its_worker_is_lost_alone(ray_runner):
    stage = Stage("a", work.opener(work.die_always, 2), Needs(workers=2))
    found = {item: result for _, item, result in ray_runner.flow([stage], range(5))}
    assert found.pop(2).kind == "worker_died"
    assert found == {number: number for number in (0, 1, 3, 4)}


@pytest.mark.ray
def test_a_flow_that_fails_leaves_no_worker_behind(ray_runner):
    stage = Stage("fails", work.opener(work.fail_at, 2))
    for _ in range(2):  # if workers stayed, the next round would find no CPU
        with pytest.raises(LookupError):
            list(ray_runner.flow([stage], range(6)))
    assert len(list(ray_runner.flow([Stage("a", work.opener(work.square))], range(4)))) == 4


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_survives_the_loss_of_a_node():
    script = Path(__file__).with_name("lose_a_node.py")
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    # Ray writes there as well.
    assert {"map complete", "flow complete"} <= set(done.stdout.splitlines())


def test_decisions_run_side_by_side_in_this_process():
    together = threading.Barrier(2, timeout=20)

    def meet(item: int) -> int:
        together.wait()  # broken where tasks run one after the other
        return item

    assert list(LocalRunner(threads=2).map(meet, range(6), "meet")) == list(range(6))


def test_a_failure_in_one_thread_starts_nothing_more():
    started = []

    def work(item: int) -> int:
        started.append(item)
        if item == 3:
            raise ValueError("the fourth")
        return item

    with pytest.raises(ValueError, match="the fourth"):
        list(LocalRunner(threads=2).map(work, range(1000), "work"))
    assert len(started) < 10
