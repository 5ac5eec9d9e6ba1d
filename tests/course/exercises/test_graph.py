import sys

import pytest
from exercise_helpers import assert_told

from lora_course.exercises.graph import cases, check, count_uses, gradients


@pytest.mark.parametrize("case", cases(), ids=str)
def test_the_gradient_is_the_sum_over_all_ways(case):
    """Every way from the output to a value, one by one: the definition."""
    graph, output = case.values()

    def by_ways(target, name=output):
        if name == target:
            return 1.0
        return sum(local * by_ways(target, parent) for parent, local in graph[name])

    found = gradients(graph, output)
    assert found == pytest.approx({name: by_ways(name) for name in found})


def test_uses_are_counted_from_the_output_only():
    assert count_uses(cases()[0]["graph"], "d") == {"d": 0, "a": 3, "c": 1, "b": 1, "x": 1}


def by_recursion(graph, output):
    """Right, but each way is walked by itself."""
    grads = {}

    def visit(name, arriving):
        grads[name] = grads.get(name, 0.0) + arriving
        for parent, local in graph[name]:
            visit(parent, local * arriving)

    visit(output, 1.0)
    return grads


def by_the_order_of_a_recursion(graph, output):
    """Right, and each value once; it calls itself for each."""
    order, met = [], set()

    def gradients(name):
        if name not in met:
            met.add(name)
            for parent, _ in graph[name]:
                gradients(parent)
            order.append(name)

    gradients(output)
    grads = {name: float(name == output) for name in order}
    for name in reversed(order):
        for parent, local in graph[name]:
            grads[parent] += local * grads[name]
    return grads


def test_a_walk_of_every_way_is_refused(capsys):
    assert_told(check, by_recursion, "walks every way", "gradients", capsys)


def test_a_walk_that_calls_itself_is_told_to_use_a_loop(capsys):
    by_the_order_of_a_recursion.__name__ = "gradients"
    limit = sys.getrecursionlimit()
    with pytest.raises(RecursionError):
        check(by_the_order_of_a_recursion)
    assert sys.getrecursionlimit() == limit
    assert "use a loop" in capsys.readouterr().out


def test_a_graph_that_is_changed_is_told(capsys):
    def changing(graph, output):
        found = gradients(graph, output)
        graph.clear()
        return found

    assert_told(check, changing, "changed its argument `graph`", "gradients", capsys)
