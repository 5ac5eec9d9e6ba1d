"""Templates that would run for ever, fill the memory or upset the compiler: each ends soon, in a sentence."""

import time

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from lora_np import ByteTokenizer

pytestmark = pytest.mark.filterwarnings("error")

BIG = "{% set ns = namespace(x='aaaaaaaaaa') %}{% for i in range(5) %}{% set ns.x = ns.x * 8 %}{% endfor %}"
GROW = "{%% set ns = namespace(x=['aa']) %%}{%% for i in range(99) %%}%s{%% endfor %%}{{ ns.x%s }}"
LITERAL = "{% for i in range(99999) %}" + "x" * 100_000 + "{% endfor %}"
MESSAGES = [{"role": "user", "content": "Hi"}]

WRONG = {
    "break": "{% break %}",
    "continue": "{% if x %}{% continue %}{% endif %}",
    "break-in-macro": "{% for i in [1] %}{% macro m() %}{% break %}{% endmacro %}{{ m() }}{% endfor %}",
    "parentheses": "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "brackets": "{{ " + "[" * 300 + "1" + "]" * 300 + " }}",
    "nots": "{{ " + "not " * 5000 + "1 }}",
    "ifs": "{% if 1 %}" * 200 + "{% endif %}" * 200,
    "loops": "{% for a in [1] %}" * 40 + "x" + "{% endfor %}" * 40,
    "digits": "{{ " + "9" * 5000 + " }}",
    "long": "{{ 'a' }}" * 200_000,
}
ENDLESS = {
    "nested": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "macro": "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "macro-for-ever": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "recursive": "{% for x in [1, 2] recursive %}{% if loop.depth < 60 %}{{ loop([1, 2]) }}{% endif %}{% endfor %}",
    "wide": "{% for x in [1] recursive %}{% if loop.depth < 9 %}{{ loop(range(9999)) }}{% endif %}{% endfor %}",
    "block": "{% block a %}{{ self.a() }}{% endblock %}",
    "in": BIG + "{% for i in range(99999) %}{% if 'ab' in ns.x %}{% endif %}{% endfor %}",
    "compare": BIG + "{% for i in range(99999) %}{% if ns.x < ns.x ~ 'a' %}{% endif %}{% endfor %}",
    "count": BIG + "{% for i in range(99999) %}{% set z = ns.x.count('ab') %}{% endfor %}",
    "slices": BIG + "{% for i in range(99999) %}{% set z = ns.x[::-1] %}{% endfor %}",
    "literal": LITERAL,
    "literal-in-macro": "{% macro m() %}" + LITERAL + "{% endmacro %}{{ m() }}",
    "literal-in-set": "{% set y %}" + LITERAL + "{% endset %}",
    "literal-in-filter": "{% filter upper %}" + LITERAL + "{% endfilter %}",
}
LARGE = {
    "calls": "{% macro m() %}{{ caller() * 2 }}{% endmacro %}"
    + "{% call m() %}" * 15
    + "x" * 99
    + "{% endcall %}" * 15,
    "times": "{{ 'a' * 10 ** 9 }}",
    "times-reversed": "{{ 1000000000 * 'a' }}",
    "times-in-if": "{% if 'a' * 10 ** 10 %}x{% endif %}",
    "times-list": "{{ [1] * 10 ** 9 }}",
    "times-markup": "{{ ('a' | safe) * 10 ** 9 }}",
    "power": "{{ 10 ** (10 ** 9) }}",
    "squares": GROW % ("{% set ns.x = (3 if i == 0 else ns.x * ns.x) %}", ""),
    "percent": "{{ '%1000000000d' % 1 }}",
    "percent-star": "{{ '%*d' % (1000000000, 1) }}",
    "percent-name": "{{ '%(a)1000000000d' % {'a': 1} }}",
    "percent-filter": "{{ '%1000000000s' | format(1) }}",
    "percent-map": "{{ ['%1000000000d'] | map('format', 1) | list }}",
    "format": "{{ '{:1000000000}'.format(1) }}",
    "format-value": "{{ '{:{}}'.format(1, 1000000000) }}",
    "format-map": "{{ '{a:1000000000}'.format_map({'a': 1}) }}",
    "ljust": "{{ 'a'.ljust(10 ** 9) }}",
    "ljust-attr": "{{ ('a' | attr('ljust'))(1000000000) }}",
    "ljust-bytes": "{{ 'a'.encode().ljust(1000000000) }}",
    "zfill": "{{ 'a'.zfill(1000000000) }}",
    "tabs": "{{ '\t'.expandtabs(1000000000) }}",
    "center": "{{ 'a' | center(1000000000) }}",
    "indent": "{{ 'a\nb' | indent(1000000000) }}",
    "tojson": "{{ [1] | tojson(indent=1000000000) }}",
    "batch": "{{ [1] | batch(1000000000, 'x') | list }}",
    "slice": "{{ [1] | slice(1000000000) | list }}",
    "round": "{{ 1 | round(1000000000, 'ceil') }}",
    "bytes": "{{ (1).to_bytes(1000000000, 'big') }}",
    "lipsum": "{{ lipsum(1000000) }}",
    "date": "{{ strftime_now('%1000000000Y') }}",
    "concatenation": GROW % ("{% set ns.x = ns.x ~ ns.x %}", ""),
    "sum": GROW % ("{% set ns.x = ns.x + ns.x %}", ""),
    "set-block": GROW % ("{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}", ""),
    "lists": GROW % ("{% set ns.x = [ns.x, ns.x] %}", ""),
    "dicts": GROW % ("{% set ns.x = {'a': ns.x, 'b': ns.x} %}", " | tojson"),
    "tuples": GROW % ("{% set ns.x = (ns.x, ns.x) %}", " | string"),
    "namespaces": GROW % ("{% set ns.x = namespace(a=ns.x, b=ns.x) %}", ""),
    "dict-calls": GROW % ("{% set ns.x = dict(a=ns.x, b=ns.x) %}", ""),
    "replace": BIG + "{{ ns.x.replace('a', ns.x) }}",
    "replace-nothing": BIG + "{{ ns.x.replace('', ns.x) }}",
    "replace-filter": BIG + "{{ ns.x | replace(old='a', new=ns.x) }}",
    "join": BIG + "{{ ns.x.join(ns.x) }}",
    "join-generator": BIG + "{{ ns.x.join(range(9999) | map('string')) }}",
    "join-filter": BIG + "{{ range(9999) | map('string') | join(ns.x) }}",
    "translate": BIG + "{{ ns.x.translate({97: ns.x}) }}",
    "lists-added": "{{ ([[1, 2, 3]] * 9999) | sum(start=[]) }}",
}


def rendered(template, messages=MESSAGES):
    tokenizer = ByteTokenizer()
    tokenizer.chat_template = template
    return tokenizer.apply_chat_template(messages, tokenize=False)


@pytest.mark.parametrize("name", WRONG)
def test_what_the_compiler_refuses_is_said(name):
    with pytest.raises(ValueError, match=r"^the chat template (has|cannot render)"):
        rendered(WRONG[name])


@pytest.mark.parametrize("name", [*ENDLESS, *LARGE])
def test_what_takes_too_much_is_stopped(name):
    start = time.perf_counter()
    with pytest.raises(ValueError, match=r"^the chat template cannot render these messages: .") as error:
        rendered({**ENDLESS, **LARGE}[name])
    assert time.perf_counter() - start < 20  # seconds; without bounds it would not come back at all
    assert "MemoryError" not in repr(error.value.__cause__)


ORDINARY = """
{%- set ns = namespace(n=0, seen=[]) -%}
{%- macro shown(m, deep=2) -%}{{ m.role | upper }}:{{ m.content | trim }}
{%- if deep %}{{ shown(m, deep - 1) }}{% endif %}
{%- endmacro -%}
{% for m in messages %}{% set ns.n = ns.n + 1 %}{% set ns.seen = ns.seen + [m.role] %}
{{ loop.index }}/{{ loop.length }} {{ shown(m) }} {{ loop.last }} {{ loop.previtem is defined }}
{{ loop.nextitem is defined }}
{% set block %}{{ m.content ~ 1 ~ none }}{% endset %}{{ block | replace('H', 'J') | indent(2) }}
{%- filter upper %}{{ '%s-%03d' % (m.role, ns.n) }}{{ '{}:{:>5}'.format(m.role, ns.n) }}{% endfilter %}
{% endfor %}
{{ ns.seen | join(', ') }} {{ messages[::-1] | map(attribute='role') | list }} {{ messages | tojson(indent=2) }}
{{ 'a' * 3 }} {{ [1, 2] * 2 }} {{ 2 ** 10 }} {{ range(5) | sum }} {{ 'x'.ljust(5) }}|
{{ {'a': (1, 2)} | items | list }}
{% for a, b in [(1, 2), (3, 4)] recursive %}{{ a }}{{ b }}
{%- if loop.depth < 2 %}{{ loop([(5, 6)]) }}{% endif %}{% endfor %}
{{ ('user' in ns.seen) == (1 < 2 <= 2) }} {{ messages | selectattr('role', 'equalto', 'user') | list | length }}
{{ 3.14159 | round(2) }} {{ undefined_name }} {{ none }} {{ 'a,b'.split(',') }}
{{ 'ab' | list | sort(reverse=true) | first }}
"""


def test_what_is_ordinary_is_as_in_jinja():
    messages = [{"role": role, "content": f" Hi {i}\nHo "} for i, role in enumerate(["user", "assistant"] * 20)]
    plain = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(
        ORDINARY.replace("tojson(indent=2)", "string")
    )
    assert rendered(ORDINARY.replace("tojson(indent=2)", "string"), messages) == plain.render(messages=messages)


def test_a_long_conversation_is_no_endless_one():
    """The bounds grow with what the template is given: 5,000 messages, each looked at a hundred times."""
    messages = [{"role": "user", "content": "word " * 20}] * 5000
    template = "{% for m in messages %}{% for i in range(100) %}{% endfor %}{{ m.content | trim ~ '\n' }}{% endfor %}"
    assert rendered(template, messages) == (messages[0]["content"].strip() + "\n") * 5000
