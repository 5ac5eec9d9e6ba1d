"""Exercise 13: the walk that every autograd makes: from the output back, each value when its gradient is complete."""

import random

from .checking import Edit, Exercise, Mistake, checker


def count_uses(graph, output):
    """{name: how often it is used}, for `output` and all that it is made from. graph {name: [(input, derivative)]}."""
    uses, to_visit = {output: 0}, [output]
    while to_visit:
        for parent, _ in graph[to_visit.pop()]:
            if parent not in uses:
                uses[parent] = 0
                to_visit.append(parent)
            uses[parent] += 1
    return uses


def gradients(graph, output):
    """{name: derivative of `output` by it}, for `output` and all that it is made from. graph as for `count_uses`."""
    uses, ready = count_uses(graph, output), [output]
    grads = {name: float(name == output) for name in uses}
    while ready:
        name = ready.pop()
        for parent, local in graph[name]:
            grads[parent] += local * grads[name]
            uses[parent] -= 1
            if uses[parent] == 0:
                ready.append(parent)
    return grads


# d = f(a, c), c = f(b), b = a + a or the like, a = f(x): from d, a is met before b, and not to be passed on yet
LOOP = {
    "d": [("a", 2.0), ("c", 0.5)],
    "b": [("a", 3.0), ("a", -1.5)],
    "z": [("a", 7.0), ("x", 5.0)],
    "a": [("x", 4.0)],
    "c": [("b", 5.0)],
    "x": [],
}


def cases():
    """A small graph with a loop in it, a larger one in no order, a square, and an output that is made from nothing."""
    square = {"y": [("x", 3.0), ("x", 3.0)], "x": []}
    asked = [(LOOP, "d"), (_random_graph(), "v11"), (square, "y"), (LOOP, "x")]
    return [{"graph": graph, "output": output} for graph, output in asked]


def _random_graph():
    """Twelve values, most of them made from earlier ones, in the order of a shuffled pack."""
    rng = random.Random(13)
    graph = {}
    for n in range(12):
        inputs = [rng.randrange(n) for _ in range(rng.choice((1, 2, 2, 3)))] if n > 1 else []
        graph[f"v{n}"] = [(f"v{i}", rng.choice((-2.0, -1.0, 0.5, 1.5, 3.0))) for i in inputs]
    names = list(graph)
    rng.shuffle(names)
    return {name: graph[name] for name in names}


def _inputs(graph, output):
    return {name: len(graph[name]) for name in count_uses(graph, output)}


COUNT_MISTAKES = (
    Mistake("these are the numbers of its own inputs. A use is to be an input of another value.", _inputs),
)


def plain_count(graph, output):
    """`count_uses`, for the edits."""
    uses, to_visit = {output: 0}, [output]
    while to_visit:
        name = to_visit.pop()
        for parent, _ in graph[name]:
            if parent not in uses:
                uses[parent] = 0
                to_visit.append(parent)
            uses[parent] += 1
    return uses


COUNT_EDITS = (
    Edit(
        "the whole graph is counted. What `output` is not made from does not matter: begin at `output`.",
        {"{output: 0}, [output]": "dict.fromkeys(graph, 0), list(graph)"},
    ),
    Edit(
        "the count begins again whenever a value is met: set it to 0 the first time only.",
        {"if parent not in uses:": "if True:"},
    ),
    Edit(
        "a value that is met again is gone through again: that counts ways to it, not uses.",
        {"    to_visit.append(parent)": "to_visit.append(parent)"},
    ),
    Edit("every count is one too large: it begins at 0.", {"uses[parent] = 0": "uses[parent] = 1"}),
    Edit("nothing uses the output: its count is 0.", {"{output: 0}": "{output: 1}"}),
    Edit("the output belongs into the result, with the count 0.", {"return uses": "uses.pop(output)\n    return uses"}),
    Edit(
        "a value that is used twice by one other, as in a + a, counts twice.",
        {"in graph[name]": "in dict(graph[name]).items()"},
    ),
    Edit(
        "only the output's own inputs are counted: go on with the inputs of these.", {"to_visit.append(parent)": "pass"}
    ),
    Edit("each use counts 1; the derivative is not asked for here.", {"uses[parent] += 1": "uses[parent] += _"}),
)


def plain_gradients(graph, output):
    """`gradients`, for the edits."""
    uses = count_uses(graph, output)
    grads = dict.fromkeys(uses, 0.0)
    grads[output] = 1.0
    ready = [output]
    while ready:
        name = ready.pop()
        for parent, local in graph[name]:
            grads[parent] += local * grads[name]
            uses[parent] -= 1
            if uses[parent] == 0:
                ready.append(parent)
    return grads


def _met_once(graph, output, at=0):
    """Each value is passed on in the order in which the values are met, once."""
    grads, to_visit = {output: 1.0}, [output]
    met = {output}
    while to_visit:
        name = to_visit.pop(at)
        for parent, local in graph[name]:
            grads[parent] = grads.get(parent, 0.0) + local * grads[name]
            if parent not in met:
                met.add(parent)
                to_visit.append(parent)
    return grads


def _in_the_order_of_the_dict(graph, output):
    grads = {name: float(name == output) for name in count_uses(graph, output)}
    for name in graph:
        for parent, local in graph[name] if name in grads else ():
            grads[parent] += local * grads[name]
    return grads


def _against_the_dict(graph, output):
    return _in_the_order_of_the_dict(dict(reversed(graph.items())), output)


TOO_EARLY = "a value is passed on before its gradient is complete: wait until all its uses have given their part."
NO_ORDER = "the dict is in no order. A value's turn comes when all its uses have given their part."
GRADIENT_MISTAKES = (
    Mistake(TOO_EARLY, _met_once),
    Mistake(TOO_EARLY, lambda graph, output: _met_once(graph, output, -1)),
    Mistake(NO_ORDER, _in_the_order_of_the_dict),
    Mistake(NO_ORDER, _against_the_dict),
)

GRADIENT_EDITS = (
    Edit(
        "the second part of a gradient takes the place of the first: what is used twice gets the sum, +=.",
        {"grads[parent] +=": "grads[parent] ="},
    ),
    Edit(
        "a value is passed on at every use, with what has come so far: wait for the last one.",
        {"if uses[parent] == 0:": "if True:"},
    ),
    Edit(
        "a value is passed on at all uses but the last: its turn is when the count is 0.",
        {"if uses[parent] == 0:": "if uses[parent] > 0:"},
    ),
    Edit("the derivative is missing: its input gets derivative · gradient.", {"local * grads[name]": "grads[name]"}),
    Edit(
        "the gradient that arrives is missing: its input gets derivative · gradient.", {"local * grads[name]": "local"}
    ),
    Edit("along a way the derivatives are multiplied, not added.", {"local * grads[name]": "local + grads[name]"}),
    Edit(
        "the derivative is multiplied by the gradient; nothing is divided.",
        {"local * grads[name]": "grads[name] / local"},
    ),
    Edit(
        "the gradient that arrives is that of the value, not that of its input.",
        {"local * grads[name]": "local * grads[parent]"},
    ),
    Edit("the gradients have the wrong sign.", {"grads[parent] +=": "grads[parent] -="}),
    Edit("the output's own gradient is 1, and everything comes from it.", {"    grads[output] = 1.0\n": ""}),
    Edit("all gradients begin at 0, but for the output's.", {"dict.fromkeys(uses, 0.0)": "dict.fromkeys(uses, 1.0)"}),
    Edit(
        "what `output` is not made from is not in the result.",
        {"dict.fromkeys(uses, 0.0)": "dict.fromkeys(graph, 0.0)"},
    ),
    Edit(
        "nothing but the output is passed on: take the count down at each use, by 1. At 0 it is that value's turn.",
        {"uses[parent] -= 1": "pass"},
    ),
    Edit(
        "a value that is used twice by one other, as in a + a, gets both parts.",
        {"in graph[name]": "in dict(graph[name]).items()"},
    ),
    Edit(
        "only the values that are made from nothing are there; the ones between belong into the result, too.",
        {"return grads": "return {name: grads[name] for name in grads if not graph[name]}"},
    ),
    Edit(
        "the output belongs into the result, with the gradient 1.",
        {"return grads": "del grads[output]\n    return grads"},
    ),
)


LONGEST, LAYERS = 20_000, 40


class _Counted(dict):
    """A graph that notes how often it is looked into, and refuses to be looked into without end."""

    looks = 0

    def __getitem__(self, name):
        self.looks += 1
        if self.looks > 50 * len(self):
            raise _WithoutEndError
        return super().__getitem__(name)


class _WithoutEndError(Exception):
    """A function looks into a graph far more often than there are values in it."""


def each_value_once(function):
    """None, or a sentence if the function walks every way: of 40 squarings there are 2⁴⁰ from the output to x."""
    graph = _Counted({f"v{n}": [(f"v{n - 1}", 0.5)] * 2 if n else [] for n in range(LAYERS)})
    try:
        function(graph, f"v{LAYERS - 1}")
    except _WithoutEndError:
        return (
            "it is right, but it walks every way from the output to a value, and the ways double with each value "
            "that is used twice. Each value is gone through once."
        )
    return None


def long_chain(function):
    """None: a function that calls itself for each value stops here with a RecursionError."""
    function({f"v{n}": [(f"v{n - 1}", 1.0)] if n else [] for n in range(LONGEST)}, f"v{LONGEST - 1}")


COUNT_HINTS = (
    "keep a list of values that are still to be gone through. It begins as [output].",
    "take a name out of the list; for each of its inputs, add 1 to the count. An input that is new goes into the list.",
)
GRADIENT_HINTS = (
    "a value may be passed on when all its uses have given their part. count_uses says how many there are.",
    "grads[input] += derivative * grads[name], then uses[input] -= 1. At 0 it is the input's turn.",
)
RULES = (each_value_once, long_chain)

check = checker(
    Exercise(
        count_uses,
        cases,
        ("the counts",),
        COUNT_MISTAKES,
        RULES,
        plain_count,
        COUNT_EDITS,
        hints=COUNT_HINTS,
    ),
    Exercise(
        gradients,
        cases,
        ("the gradients",),
        GRADIENT_MISTAKES,
        RULES,
        plain_gradients,
        GRADIENT_EDITS,
        hints=GRADIENT_HINTS,
    ),
)
