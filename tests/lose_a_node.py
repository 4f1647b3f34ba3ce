"""Lose one of two nodes in the middle of a map and of a flow; both must come to their end.

A program of its own: a process has one Ray, and the tests' is a single node.
"""

import logging
import os
import sys
import time
from collections import Counter
from functools import partial

os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import runner_work as work
from ray.cluster_utils import Cluster

from curate.runner import Lost, RayRunner, Stage

QUICK = {  # a dead node is noticed in seconds, not in half a minute
    "health_check_initial_delay_ms": 500,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 500,
    "health_check_failure_threshold": 2,
}


def main() -> int:
    """0 where nothing was lost or done twice."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "_system_config": QUICK})
    second = cluster.add_node(num_cpus=2)
    runner = RayRunner(cluster.address)
    if map_without(cluster, second, runner) != Counter(range(24)):
        return 1
    say("map complete")
    second = cluster.add_node(num_cpus=2)
    while runner.cpus < 3:
        time.sleep(0.1)
    if flow_without(cluster, second, runner) != Counter(range(16)):
        return 2
    say("flow complete")
    runner.close()
    cluster.shutdown()
    return 0


def map_without(cluster: Cluster, node: object, runner: RayRunner) -> Counter:
    """How often each item was done, by a map during which a node is lost."""
    found = Counter()
    for number in runner.map(partial(work.slow, 0.3), range(24), "slow"):
        found[number] += 1
        if found.total() == 5:
            cluster.remove_node(node, allow_graceful=False)
    return found


def flow_without(cluster: Cluster, node: object, runner: RayRunner) -> Counter:
    """How often each item came to its end, by a flow of two stages during which a node is lost."""
    line = [Stage(f"s{n}", work.opener(work.slow, 0.3)) for n in range(2)]
    ends = Counter()
    for stage, item, result in runner.flow(line, range(16)):
        if isinstance(result, Lost):
            say(f"lost {item}: {result}")
        elif stage == 1:
            ends[item] += 1
            if ends.total() == 3:
                cluster.remove_node(node, allow_graceful=False)
    return ends


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    logging.basicConfig()
    sys.exit(main())
